"""What an open page gets, in batches, and how its stream ends (15)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

import asyncmgr
from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._monitoring import readers
from asyncmgr._monitoring.neighbours import Neighbours
from asyncmgr._monitoring.page import document
from asyncmgr._monitoring.readers import MOST_BATCHES, EventStream, Reader
from asyncmgr._monitoring.stream import Feed
from asyncmgr._service.service import insight_of
from asyncmgr.transports import open_transport

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
TOKEN = "0123456789abcdef-secret"
BEARER = {"X-Asyncmgr": "1", "Authorization": f"Bearer {TOKEN}"}


class Volumes(Manager):
    stays = False
    error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        if self.error:
            raise self.error
        if self.stays:
            await asyncio.sleep(1000)

    @periodic_task(cron="0 3 * * *")
    async def nightly(self, context: RunContext) -> None: ...


def service_of(*managers: Manager, host: str = "eu-1", transport: Any = None, **settings: Any) -> Service:
    return Service(
        *managers, host=host, name="compute", transport=transport, settings=Settings(seed=1, **settings)
    )


class Watcher:
    """An open page, in short: what it was told, in order."""

    def __init__(self, feed: Feed, span: int = 3600, last: str = "") -> None:
        self.told: list[dict[str, Any]] = []
        self.id = ""
        self._task = asyncio.create_task(self._read(feed.follow(span, last, verbs=True)))

    async def _read(self, events: AsyncIterator[bytes]) -> None:
        async for event in events:
            for field in event.decode().strip().split("\n"):
                name, _, value = field.partition(": ")
                if name == "id":
                    self.id = value
                else:
                    self.told.append(json.loads(value))

    def of(self, kind: str, host: str = "eu-1") -> list[dict[str, Any]]:
        return [one for one in self.told if one["k"] == kind and one.get("host", host) == host]

    def task(self, name: str, host: str = "eu-1") -> dict[str, Any]:
        told = [facts for one in self.of("tasks", host) for facts in one["tasks"] if facts["task"] == name]
        return dict(told[-1])

    def marks(self, name: str, host: str = "eu-1") -> list[Any]:
        return [mark for one in self.of("marks", host) for mark in one["rows"].get(name, [])]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


@asynccontextmanager
async def watched(service: Service, *, span: int = 3600, last: str = "") -> AsyncIterator[Watcher]:
    neighbours = Neighbours(service)
    watcher = Watcher(Feed(service, insight_of(service), neighbours), span, last)
    await asyncio.sleep(0.1)
    yield watcher
    await watcher.close()


async def test_first_a_page_gets_everything() -> None:
    """The service, its tasks, what befell it and the past hour; then `complete`, with the place that it has got to."""
    service = service_of(Volumes())
    async with service:
        await asyncio.sleep(35)
        async with watched(service) as page:
            assert [one["k"] for one in page.told] == ["hello", "tasks", "journal", "marks", "complete"]
            hello = page.told[0]
            assert (hello["service"], hello["host"], hello["verbs"]) == ("compute", "eu-1", True)
            assert hello["fates"][0] == ["succeeded", None, "ok", "succeeded", "succeeded in"]
            assert page.task("Volumes.sync")["counts"] == [3, 0, 0]
            assert len(page.marks("Volumes.sync")) == 3
            assert page.id


async def test_then_what_changes_within_250_ms() -> None:
    """A run that begins, its end, a pause: each at once, and nothing where nothing happens."""
    volumes = Volumes()
    service = service_of(volumes)
    async with service, watched(service) as page:
        volumes.stays = True
        await asyncio.sleep(9)
        count = len(page.of("tasks"))
        await asyncio.sleep(1.3)
        assert page.task("Volumes.sync")["running"]["trigger"] == "schedule"
        assert len(page.of("tasks")) == count + 1
        service.task("Volumes.sync").cancel()
        service.task("Volumes.sync").pause(note="moves")
        await asyncio.sleep(0.3)
        facts = page.task("Volumes.sync")
        assert "running" not in facts
        assert facts["paused"]["note"] == "moves"
        assert len(page.marks("Volumes.sync")) == 1
        assert [entry["kind"] for one in page.of("journal") for entry in one["entries"]][-2:] == [
            "cancel",
            "pause",
        ]


async def test_skipped_slots_grow() -> None:
    """While a run is in the way; after the second one it needs somebody."""
    volumes = Volumes()
    volumes.stays = True
    service = service_of(volumes)
    async with service, watched(service) as page:
        await asyncio.sleep(32)
        assert page.task("Volumes.sync")["need"]["kind"] == "skips"
        assert [mark[3] if len(mark) > 3 else 1 for mark in page.marks("Volumes.sync")] == [1, 2]
        service.task("Volumes.sync").cancel()


async def test_states_that_begin_by_themselves() -> None:
    """Nothing happens when a run begins to hang, between two slots; a look every 5 s finds it."""

    class Slow(Manager):
        @periodic_task(spacing=120)
        async def sync(self, context: RunContext) -> None:
            await asyncio.Event().wait()

    service = service_of(Slow())
    async with service, watched(service) as page:
        await asyncio.sleep(50)
        await service.task("Slow.sync").trigger(wait=False)
        await asyncio.sleep(355)
        assert page.task("Slow.sync")["state"] == "running"
        await asyncio.sleep(15)
        assert page.task("Slow.sync")["state"] == "hung"
        service.task("Slow.sync").cancel()


async def test_signs_of_life() -> None:
    """Every 2 s, with the lag of the event loop: none in virtual time."""
    service = service_of(Volumes())
    async with service, watched(service) as page:
        await asyncio.sleep(8.2)
        ticks = page.of("tick")
        assert len(ticks) == 4
        assert all(tick["lag"] == 0 for tick in ticks)


async def test_tasks_that_come_and_go() -> None:
    """Added ones appear, removed ones go."""
    volumes = Volumes()
    service = service_of(volumes)

    async def extra(context: RunContext) -> None: ...

    async with service, watched(service) as page:
        handle = volumes.add_periodic_task(extra, spacing=60)
        await asyncio.sleep(5.5)
        assert page.task("Volumes.extra")["state"] == "new"
        handle.remove()
        await asyncio.sleep(5.5)
        assert page.of("gone")[-1]["tasks"] == ["Volumes.extra"]


async def test_a_page_that_comes_again_gets_what_it_lacks() -> None:
    """Where its stream was ended; a page of another life of the service gets everything."""
    service = service_of(Volumes())
    feed = Feed(service, insight_of(service), Neighbours(service))
    async with service:
        first = Watcher(feed)
        await asyncio.sleep(35)
        await first.close()
        await asyncio.sleep(20)
        again, other = Watcher(feed, last=first.id), Watcher(feed, last="12345678-0-0")
        await asyncio.sleep(0.1)
        assert (again.told[0]["goes_on"], other.told[0]["goes_on"]) == (True, False)
        assert [len(one.marks("Volumes.sync")) for one in (first, again, other)] == [3, 2, 5]
        await again.close()
        await other.close()


async def test_nothing_runs_while_nobody_looks() -> None:
    """The feed begins with the first page and ends with the last."""
    service = service_of(Volumes())
    async with service:
        async with watched(service):
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert {"asyncmgr page", "asyncmgr page hosts"} <= names
        await asyncio.sleep(0.1)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("asyncmgr page")]


def test_a_slow_reader_is_dropped() -> None:
    """What waits for it is bounded, by number and by bytes."""
    for batch, count in ((b"x", MOST_BATCHES + 1), (b"x" * 1_000_000, 5)):
        reader = Reader()
        for _ in range(count):
            assert not reader.is_dropped
            reader.put(batch)
        assert reader.is_dropped
        reader.put(batch)


async def test_a_dropped_reader_comes_to_its_end() -> None:
    """So that its connection is closed, and the page begins anew."""
    reader = Reader()
    for _ in range(MOST_BATCHES + 1):
        reader.put(b"x")
    assert [one async for one in reader.batches()] == []


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"data: {}\n\n"


async def test_a_client_that_does_not_read_is_let_go() -> None:
    """After 20 s in which it took in nothing."""
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    began = asyncio.get_running_loop().time()
    await EventStream(endless(), {"Cache-Control": "no-store"})({}, receive, send)
    assert asyncio.get_running_loop().time() - began == pytest.approx(readers.SLOWEST)
    assert (b"cache-control", b"no-store") in sent[0]["headers"]


async def test_a_client_that_leaves_ends_its_stream() -> None:
    """At once, and what made the events is closed."""
    closed = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            yield b"data: {}\n\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def receive() -> Any:
        await asyncio.sleep(3)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    await EventStream(events(), {})({}, receive, send)
    assert closed.is_set()


# Other hosts


async def test_other_hosts_over_rpc() -> None:
    """Their tasks, marks and journal; a verb for them; and that one does not answer any more."""
    async with open_transport("memory://") as transport:
        here = service_of(Volumes(), transport=transport)
        there = service_of(Volumes(), host="eu-2", transport=transport, rpc_control=True)
        async with here:
            await there.start()
            await asyncio.sleep(35)
            app = asyncmgr.web(here, token=TOKEN)
            async with browser(app) as ask:
                feed = Feed(here, insight_of(here), Neighbours(here))
                page = Watcher(feed)
                await asyncio.sleep(1)
                assert page.of("host", "eu-2")[-1]["state"] == "running"
                assert page.task("Volumes.sync", "eu-2")["counts"] == [3, 0, 0]
                assert len(page.marks("Volumes.sync", "eu-2")) == 3
                body = {"task": "Volumes.sync", "host": "eu-2", "for": 60, "note": "moves"}
                answer = await ask.post("/api/pause", json=body, headers=BEARER)
                assert (answer.status_code, answer.json()["host"]) == (200, "eu-2")
                await asyncio.sleep(6)
                paused = page.task("Volumes.sync", "eu-2")["paused"]
                assert paused["by"].startswith("said to be a browser or program at 127.0.0.1 via eu-1")
                assert here.task("Volumes.sync").status.paused is None
                second = Watcher(feed)
                await asyncio.sleep(1)
                assert len(second.marks("Volumes.sync", "eu-2")) >= 3
                detail = await ask.get("/detail", params={"task": "Volumes.sync", "host": "eu-2"})
                assert "paused it" in detail.json()["text"]
                assert [one["kind"] for one in detail.json()["actions"]] == ["pause"]
                await there.stop()
                await asyncio.sleep(6)
                assert page.of("host", "eu-2")[-1].get("gone") or not page.of("host", "eu-2")[-1]["ok"]
                await page.close()
                await second.close()


async def test_a_host_that_keeps_its_verbs_to_itself() -> None:
    """Is asked, and its refusal is the answer; there are no other verbs for it."""
    async with open_transport("memory://") as transport:
        here = service_of(Volumes(), transport=transport)
        there = service_of(Volumes(), host="eu-2", transport=transport)
        async with here, there, browser(asyncmgr.web(here, token=TOKEN)) as ask:
            body = {"task": "Volumes.sync", "host": "eu-2"}
            refused = await ask.post("/api/trigger", json=body, headers=BEARER)
            assert refused.status_code == 409
            assert "rpc_control" in refused.json()["text"]
            assert (await ask.post("/api/hello", json=body, headers=BEARER)).status_code == 400
            nobody = await ask.post("/api/trigger", json={**body, "host": "eu-9"}, headers=BEARER)
            assert nobody.status_code == 409


# The application


def browser(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8080")


def test_the_document_is_small_and_alone() -> None:
    """It names nothing outside, its policy lets only its own two parts run, and it is short on the wire."""
    html, packed, policy = document()
    text = html.decode()
    assert len(packed) < 60_000
    assert "://" not in text
    assert " style=" not in text
    assert not [word for word in ("innerHTML", "insertAdjacentHTML", "eval(", "outerHTML") if word in text]
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


async def test_the_page_and_its_stream() -> None:
    """Packed where that is asked for; the stream ends with the service's own streams."""
    service = service_of(Volumes())
    app = asyncmgr.web(service, token=TOKEN)
    async with service, browser(app) as ask:
        page = await ask.get("/")
        assert page.headers["content-encoding"] == "gzip"
        assert page.content == document().html
        plain = await ask.get("/", headers={"Accept-Encoding": "identity"})
        assert plain.content == document().html
        asyncio.get_running_loop().call_later(3, app.streams.close)
        stream = await ask.get("/events", params={"span": "900"})
        assert stream.headers["content-type"] == "text/event-stream"
        hello = json.loads(stream.text.split("\n")[0].removeprefix("data: "))
        assert (hello["span"], hello["verbs"]) == (900, False)


async def test_details_of_a_task() -> None:
    """A sentence, the newest slots, where the run waits; one slot is explained in a sentence."""
    volumes = Volumes()
    service = service_of(volumes)
    async with service, browser(asyncmgr.web(service)) as ask:
        await asyncio.sleep(15)
        volumes.stays = True
        await asyncio.sleep(10)
        detail = (await ask.get("/detail", params={"task": "Volumes.sync"})).json()
        assert detail["waits"][0]["function"] == "Volumes.sync"
        assert detail["waits"][0]["code"].startswith("await ")
        assert ["so far", ["2 runs, 0 slots skipped, 0 missed"]] in detail["facts"]
        assert detail["options"]["timeout"] is None
        assert len(detail["slots"]) == 1
        at = {"task": "Volumes.sync", "at": "2026-01-01T00:00:10+00:00"}
        assert "succeeded" in (await ask.get("/detail", params=at)).json()["text"]
        unknown = await ask.get("/detail", params={"task": "<b>"})
        assert (unknown.status_code, unknown.json()["ok"]) == (400, False)
        service.task("Volumes.sync").cancel()


async def test_what_the_file_of_an_earlier_life_has(tmp_path: Any) -> None:
    """A page that shows a day shows what was before the restart too."""
    url = f"sqlite:///{tmp_path}/history.db"
    async with service_of(Volumes(), history=url):
        await asyncio.sleep(35)
    service = service_of(Volumes(), history=url)
    async with service, watched(service, span=86_400) as page:
        await asyncio.sleep(0.2)
        assert len(page.marks("Volumes.sync")) >= 1
        assert sum(mark[3] if len(mark) > 3 else 1 for mark in page.marks("Volumes.sync")) == 3


async def test_the_newest_of_a_long_past() -> None:
    """A limit is one of the newest records, also in the middle of the past, and reads no more than it has to."""
    service = service_of(Volumes())
    async with service:
        await asyncio.sleep(3605)
        whole = service.history(limit=1000)
        assert len(whole) == 360
        assert service.history(limit=5) == whole[:5]
        middle = datetime.fromtimestamp(whole[100].slot / 1e6, UTC)
        assert service.history(until=middle, limit=7) == whole[100:107]
        ledger = insight_of(service).history.ledger
        assert len(list(ledger.records(limit=5))) == 5


async def test_the_journal_is_read_over_rpc() -> None:
    """With what befell the service, since a moment; of one task with what was done to it alone."""
    async with open_transport("memory://") as transport:
        here, there = (service_of(Volumes(), host=host, transport=transport) for host in ("eu-1", "eu-2"))
        async with here, there:
            there.task("Volumes.sync").pause(note="moves")
            there.task("Volumes.nightly").disable()
            ask = Neighbours(here).ask
            entries = (await ask("eu-2", "journal"))["entries"]
            assert [entry["kind"] for entry in entries] == ["started", "pause", "disable"]
            of_one = (await ask("eu-2", "journal", task="Volumes.sync", limit=1))["entries"]
            assert [(entry["kind"], entry["note"]) for entry in of_one] == [("pause", "moves")]
            later = (await ask("eu-2", "journal", since="2026-01-01T01:00:00+00:00"))["entries"]
            assert later == []
            assert (await ask("eu-2", "hello"))["tasks"] == 2
