"""The ASGI application: probes, health, metrics, verbs and their guard (15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

import asyncmgr
from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._monitoring.guard import Guard
from asyncmgr._monitoring.streams import Streams
from asyncmgr._monitoring.web import LONGEST_BODY

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
TOKEN = "0123456789abcdef-secret"
OURS = {"X-Asyncmgr": "1"}
BEARER = {**OURS, "Authorization": f"Bearer {TOKEN}"}


class Volumes(Manager):
    error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        if self.error:
            raise self.error


def service_of(*managers: Manager, **settings: Any) -> Service:
    return Service(*managers, host="nyx", name="compute", settings=Settings(seed=1, **settings))


def browser(app: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8080", **options
    )


async def test_probes_follow_the_service() -> None:
    """200 or 503, never from a cache; a service that has not started lives and is not ready."""
    service = service_of(Volumes())
    async with browser(asyncmgr.web(service)) as ask:

        async def codes() -> tuple[int, int, int]:
            found = [await ask.get(path) for path in ("/livez", "/readyz", "/health")]
            assert all(answer.headers["cache-control"] == "no-store" for answer in found)
            assert all(answer.json()["reason"] for answer in found)
            return found[0].status_code, found[1].status_code, found[2].status_code

        assert await codes() == (200, 503, 503)
        async with service:
            assert await codes() == (200, 200, 200)
        assert await codes() == (200, 503, 503)


async def test_readiness_ends_with_the_drain() -> None:
    """A load balancer takes the process out while runs end; liveness lets them."""

    class Slow(Manager):
        @periodic_task(spacing=10, run_immediately=True)
        async def sync(self, context: RunContext) -> None:
            await asyncio.sleep(20)

    service = service_of(Slow())
    async with browser(asyncmgr.web(service)) as ask:
        await service.start()
        await asyncio.sleep(5)
        stopping = asyncio.create_task(service.stop())
        await asyncio.sleep(1)
        assert (await ask.get("/readyz")).json() == {"ok": False, "reason": "the service is stopping"}
        assert (await ask.get("/livez")).status_code == 200
        await stopping


async def test_a_failing_task_ends_no_process() -> None:
    """`/health` says what needs somebody; probes stay."""
    volumes = Volumes()
    volumes.error = ValueError("no disk")
    service = service_of(volumes)
    async with browser(asyncmgr.web(service)) as ask, service:
        await asyncio.sleep(15)
        health = await ask.get("/health")
        probes = [(await ask.get(path)).status_code for path in ("/livez", "/readyz")]
    assert (health.status_code, probes) == (503, [200, 200])
    assert health.json()["reason"] == "Volumes.sync failed: ValueError: no disk"


async def test_metrics_in_the_format_that_is_asked_for() -> None:
    """Prometheus asks for OpenMetrics first."""
    service = service_of(Volumes())
    async with browser(asyncmgr.web(service)) as ask, service:
        plain = await ask.get("/metrics")
        rich = await ask.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,*/*"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert {"asyncmgr_tasks"} <= {family.name for family in text_string_to_metric_families(plain.text)}
    assert rich.headers["content-type"].startswith("application/openmetrics-text")
    assert rich.text.endswith("# EOF\n")


async def test_mounted_in_an_application() -> None:
    """Links and cookie stay below the path; the application looks at the Host itself."""
    service = service_of(Volumes())
    app = Starlette(routes=[Mount("/jobs", asyncmgr.web(service, token=TOKEN))])
    async with browser(app) as ask, service:
        assert (await ask.get("/jobs/livez", headers={"Host": "shop.example"})).status_code == 200
        page = await ask.get("/jobs/")
        assert page.text.startswith("<!doctype html>")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        answer = await ask.get("/jobs/", params={"token": TOKEN})
        assert answer.status_code == 303
        assert answer.headers["location"] == "./"
        assert "path=" not in answer.headers["set-cookie"].lower()  # a browser takes that of the address


async def test_reading_needs_no_token() -> None:
    """Only verbs that read, and only by GET; the answers are those of the control socket."""
    service = service_of(Volumes())
    async with browser(asyncmgr.web(service)) as ask, service:
        status = (await ask.get("/api/status", params={"after": "0"})).json()
        assert status["tasks"][0]["task"] == "Volumes.sync"
        assert (await ask.get("/api/explain", params={"task": "Volumes.sync"})).status_code == 200
        assert (await ask.get("/api/pause", params={"task": "Volumes.sync"})).status_code == 405
        unknown = await ask.get("/api/status", params={"task": "nope"})
        assert (unknown.status_code, unknown.json()["error"]) == (400, "InvalidRequest")
        assert service.task("Volumes.sync").status.paused is None


async def test_a_verb_needs_token_and_header() -> None:
    """Without a token nobody may use verbs; with one, each part of the proof is needed."""
    service = service_of(Volumes())
    body = {"task": "Volumes.sync", "note": "provider moves"}
    async with service:
        async with browser(asyncmgr.web(service)) as ask:
            assert "the verbs are closed" in (await ask.post("/api/pause", json=body, headers=BEARER)).text
        async with browser(asyncmgr.web(service, token=TOKEN)) as ask:
            for headers in (
                {},
                OURS,
                {"Authorization": f"Bearer {TOKEN}"},
                {**OURS, "Authorization": "Bearer x"},
            ):
                refused = await ask.post("/api/pause", json=body, headers=headers)
                assert refused.status_code == 403
                assert TOKEN not in refused.text
            assert service.task("Volumes.sync").status.paused is None
            done = await ask.post("/api/pause", json=body, headers=BEARER)
            assert (done.status_code, done.json()["task"]["state"]) == (200, "paused")
            paused = service.task("Volumes.sync").status.paused
            assert paused is not None
            assert (paused.by, paused.note) == ("a browser or program at 127.0.0.1", "provider moves")


async def test_the_link_gives_a_cookie_that_is_strict() -> None:
    """And a page elsewhere cannot use it: it cannot send our header, nor read the cookie."""
    service = service_of(Volumes())
    async with service, browser(asyncmgr.web(service, token=TOKEN)) as ask:
        assert (await ask.get("/", params={"token": "wrong"})).status_code == 403
        link = await ask.get("/", params={"token": TOKEN})
        cookie = link.headers["set-cookie"].lower()
        assert "samesite=strict" in cookie
        assert "httponly" in cookie
        assert TOKEN not in cookie
        body = {"task": "Volumes.sync"}
        assert (await ask.post("/api/trigger", json=body)).status_code == 403
        assert (await ask.post("/api/trigger", json=body, headers=OURS)).status_code == 200


async def test_a_refused_verb_and_a_body_that_makes_no_sense() -> None:
    """Each has its own status, and the words of the error."""
    service = service_of(Volumes())
    async with service, browser(asyncmgr.web(service, token=TOKEN)) as ask:

        async def post(content: bytes, verb: str = "pause") -> httpx.Response:
            return await ask.post(f"/api/{verb}", content=content, headers=BEARER)

        assert (await post(b"[]")).status_code == 400
        assert (await post(b"{")).status_code == 400
        assert (await post(b" " * (LONGEST_BODY + 1))).status_code == 400
        assert (await post(b'{"task": "Volumes.sync"}', "nope")).status_code == 400
        service.task("Volumes.sync").disable()
        assert (await post(b'{"task": "Volumes.sync"}', "trigger")).status_code == 409


async def test_an_unknown_host_gets_nothing() -> None:
    """So that no page elsewhere reads this by a name that it makes point here."""
    service = service_of(Volumes())
    app = asyncmgr.web(service, hosts=["Jobs.Example"])
    async with service, browser(app) as ask:
        answers = {
            host: (await ask.get("/metrics", headers={"Host": host})).status_code
            for host in ("evil.example", "jobs.example:80", "localhost:8080", "10.2.3.4:80", "[::1]:80", "")
        }
    assert answers == {
        "evil.example": 403,
        "jobs.example:80": 200,
        "localhost:8080": 200,
        "10.2.3.4:80": 200,
        "[::1]:80": 200,
        "": 403,
    }


def test_any_host() -> None:
    """`*` opens it to all names."""
    assert Guard(None, ["*"], salt="a").refuse_host("evil.example") is None


def test_cookies_of_two_services_have_two_names() -> None:
    """A browser sends the cookies of all ports of a machine to each of them."""
    assert Guard(TOKEN, None, salt="a").cookie != Guard(TOKEN, None, salt="b").cookie


async def test_the_token_of_the_settings() -> None:
    """It is a secret there."""
    settings = {"monitoring": {"http_token": TOKEN}}
    service = service_of(Volumes(), **settings)
    assert TOKEN not in repr(service.settings)
    async with service, browser(asyncmgr.web(service)) as ask:
        answer = await ask.post("/api/trigger", json={"task": "Volumes.sync"}, headers=BEARER)
        assert answer.status_code == 200


async def ticks() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(10)


async def test_streams_end_when_they_are_closed() -> None:
    """Else a server would wait for them at its stop."""
    streams = Streams()
    asyncio.get_running_loop().call_later(25, streams.close)
    assert [one async for one in streams.until_closed(ticks())] == [0, 1, 2]
    assert asyncio.get_running_loop().time() % 3600 == pytest.approx(25, abs=1)


async def test_streams_end_after_their_longest_time() -> None:
    """Where another server knows nothing of them. A browser opens an event stream anew."""
    assert [one async for one in Streams(35).until_closed(ticks())] == [0, 1, 2, 3]


async def test_a_stream_that_ends_by_itself() -> None:
    """And one that raises."""

    async def few() -> AsyncIterator[int]:
        yield 1
        raise ValueError("over")

    found: list[int] = []

    async def take() -> None:
        async for one in Streams().until_closed(few()):
            found.append(one)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ValueError, match="over"):
        await take()
    assert found == [1]
