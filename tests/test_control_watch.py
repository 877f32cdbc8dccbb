"""The verbs of programs that look on all day: what has changed, the past in parts, where a run waits (11, 15)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncmgr import Manager, RpcClient, RunContext, Service, Settings, periodic_task
from asyncmgr._history.slots import CODES
from asyncmgr._service import control_watch
from asyncmgr._service.control_watch import Axis, Mark, pack, worse
from asyncmgr._tasks.actions import Actor

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
WHO = Actor("a test", "socket")
SUCCEEDED, FAILED = CODES["succeeded", None], CODES["failed", None]
PAUSED, OVERLAP = CODES["skipped", "paused"], CODES["skipped", "overlap"]


class Volumes(Manager):
    stays = False
    error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        if self.error:
            raise self.error
        if self.stays:
            await asyncio.Event().wait()

    @periodic_task(spacing=3600, freshness=7200, timeout=90)
    async def nightly(self, context: RunContext) -> None:
        await asyncio.sleep(2)


@pytest.fixture
def volumes() -> Volumes:
    return Volumes()


@pytest.fixture
def service(volumes: Volumes) -> Service:
    return Service(volumes, name="compute", host="eu-1", settings=Settings(seed=1, rpc_control=True))


async def ask(service: Service, verb: str, **arguments: Any) -> dict[str, Any]:
    return await service.control.perform(verb, arguments, WHO)


def names(answer: dict[str, Any]) -> set[str]:
    return {told["task"] for told in answer["tasks"]}


async def test_who_begins_is_told_where_to_go_on(service: Service) -> None:
    """The first answer has a place and no tasks; the next one has what came since, and nothing where nothing did."""
    async with service:
        first = await ask(service, "changes")
        assert first["anew"] is True
        assert (first["count"], first["state"], first["health"]) == (2, "running", "")
        await asyncio.sleep(0.5)
        quiet = await ask(service, "changes", since=first["place"])
        assert (quiet["anew"], quiet["tasks"], quiet["marks"], quiet["entries"]) == (False, [], {}, [])
        await asyncio.sleep(11)
        later = await ask(service, "changes", since=quiet["place"])
        assert names(later) == {"Volumes.sync"}
        ((begin, end, fate),) = later["marks"]["Volumes.sync"]
        assert (fate, later["now"] - 12_000 < begin <= end <= later["now"]) == (SUCCEEDED, True)


async def test_runs_that_begin_are_told(service: Service, volumes: Volumes) -> None:
    """Also while they go on, since their progress and their place change; and which slots they are in the way of."""
    async with service:
        volumes.stays = True
        place = (await ask(service, "changes"))["place"]
        await asyncio.sleep(35)
        answer = await ask(service, "changes", since=place)
        assert names(answer) == {"Volumes.sync"}
        assert answer["tasks"][0]["running"]["where"].startswith("Volumes.sync at test_control_watch.py:")
        count, last, text = answer["in_the_way"]["Volumes.sync"]
        assert (count, last // 1000 <= answer["now"], "Volumes.sync at" in text) == (2, True, True)
        looked = await ask(service, "changes", since=answer["place"], look=True)
        assert [mark[2] for mark in looked["marks"].get("Volumes.sync", [])] in ([], [OVERLAP])
        service.task("Volumes.sync").cancel()


async def test_who_did_what_is_told(service: Service) -> None:
    """A pause is an entry of the journal, and a change of its task."""
    async with service:
        place = (await ask(service, "changes"))["place"]
        service.task("Volumes.nightly").pause(note="moves")
        answer = await ask(service, "changes", since=place)
        assert names(answer) == {"Volumes.nightly"}
        assert [(one["kind"], one["note"]) for one in answer["entries"]] == [("pause", "moves")]


async def test_states_that_begin_by_themselves_need_a_look(service: Service, volumes: Volumes) -> None:
    """Nothing happens when a promise is broken: only an answer with `look` tells of the task."""

    class Slow(Manager):
        @periodic_task(cron="0 12 * * *", freshness=600)
        async def daily(self, context: RunContext) -> None: ...

    service = Service(Slow(), name="slow", host="eu-1", settings=Settings(seed=1))
    async with service:
        await asyncio.sleep(599)
        place = (await ask(service, "changes"))["place"]
        await asyncio.sleep(5)
        assert (await ask(service, "changes", since=place))["tasks"] == []
        (told,) = (await ask(service, "changes", since=place, look=True))["tasks"]
        assert (told["task"], told["state"]) == ("Slow.daily", "stale")


@pytest.mark.parametrize("place", ["", "nonsense", "00000000-1-2-3-4", "x-1-2-3-4-5", "a-\u0661-2-3-4"])
async def test_a_place_that_is_not_known_begins_anew(service: Service, place: str) -> None:
    """As one of another life of the service; nobody gets half a picture."""
    async with service:
        if place:
            assert (await ask(service, "changes", since=place))["anew"] is True
        life = (await ask(service, "changes"))["place"].partition("-")[0]
        assert (await ask(service, "changes", since=f"{life}-{10**15}-0-0"))["anew"] is True


@pytest.fixture
def few_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_watch, "MOST_NEWS", 5)


@pytest.mark.usefixtures("few_news")
async def test_who_missed_too_much_begins_anew(service: Service) -> None:
    """So that no answer grows without end."""
    async with service:
        place = (await ask(service, "changes"))["place"]
        await asyncio.sleep(31)
        assert (await ask(service, "changes", since=place))["anew"] is False
        await asyncio.sleep(31)
        assert (await ask(service, "changes", since=place))["anew"] is True


async def test_the_past_in_parts(service: Service, volumes: Volumes) -> None:
    """Each part has the worst fate in it; skipped slots of a pause fill theirs."""
    async with service:
        await asyncio.sleep(61)
        volumes.error = ValueError("no disk")
        await asyncio.sleep(55)
        service.task("Volumes.sync").pause()
        await asyncio.sleep(64)
        service.task("Volumes.sync").resume()  # until then only its status tells of the pause
        answer = await ask(service, "fates", span=180, bins=6)
        assert (answer["bins"], answer["end"] - answer["begin"], answer["next"]) == (6, 180_000, None)
        row = answer["rows"]["Volumes.sync"]
        assert row == [0, 2, SUCCEEDED, 2, 2, FAILED, 4, 2, PAUSED]
        assert "Volumes.nightly" not in answer["rows"]


async def test_the_parts_have_limits(service: Service) -> None:
    """More parts than a screen has columns are refused, and say how many there may be."""
    async with service:
        answer = await service.control.answer({"verb": "fates", "bins": 241}, WHO)
        assert answer["text"] == "bins=241 is not accepted; write 1 to 240"


async def test_where_a_run_waits_and_what_is_usual(service: Service) -> None:
    """The lines of the run in progress; nothing where there is none. Its length and limit are in the status."""
    async with service:
        assert (await ask(service, "waits", task="nightly"))["waits"] == []
        await service.task("Volumes.nightly").trigger()
        await service.task("Volumes.nightly").trigger(wait=False)
        await asyncio.sleep(1)
        (line,) = [
            one for one in (await ask(service, "waits", task="nightly"))["waits"] if "test_" in one["place"]
        ]
        assert line["function"] == "Volumes.nightly"
        (told,) = (await ask(service, "status", task="nightly"))["tasks"]
        assert (told["usual"], told["timeout"]) == (pytest.approx(2.0, rel=0.2), 90.0)


async def test_the_same_over_calls(service: Service) -> None:
    """For hosts that are elsewhere."""
    async with service:
        client = RpcClient(service.transport, "compute", namespace="asyncmgr", version="1.2")
        place = (await client.call("changes"))["place"]
        await asyncio.sleep(11)
        assert names(await client.call("changes", since=place, look=True)) == {"Volumes.sync"}
        assert (await client.call("fates", span=60, bins=3))["rows"]["Volumes.sync"][-1] == SUCCEEDED
        assert (await client.call("waits", task="sync"))["waits"] == []


def test_a_row() -> None:
    """Marks outside of the axis are not on it; the worse of two fates stays, whichever came first."""
    axis = Axis(1000, 2000, 10)
    row = axis.row()
    for mark in (Mark(1100, 1390, SUCCEEDED), Mark(1300, 1300, FAILED), Mark(1350, 1399, SUCCEEDED)):
        axis.put(row, mark)
    axis.put(row, Mark(0, 999, FAILED))
    axis.put(row, Mark(2001, 3000, FAILED))
    axis.put(row, Mark(1950, 9000, CODES["skipped", "not_owner"]))
    assert pack(row) == [1, 2, SUCCEEDED, 3, 1, FAILED]
    assert worse(FAILED + 1, SUCCEEDED + 1) == worse(SUCCEEDED + 1, FAILED + 1) == FAILED + 1


async def test_a_place_that_nobody_was_given_begins_anew(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One behind the end of a log hid how many records of the other were asked for, and all came in one answer."""
    monkeypatch.setattr(control_watch, "MOST_NEWS", 5)
    async with service:
        life, *_ = (await ask(service, "changes"))["place"].split("-")
        await asyncio.sleep(200)
        for place in (f"{10**18}-0", f"0-{10**18}"):
            assert (await ask(service, "changes", since=f"{life}-{place}-0-0"))["anew"] is True


async def test_tasks_that_are_not_there_cost_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service:
        await asyncio.sleep(30)
        monkeypatch.setattr(control_watch, "backlog", lambda *_: pytest.fail("the past was read"))
        answer = await ask(service, "fates", after=2**52)
        assert (answer["rows"], answer["next"]) == ({}, None)
