"""What becomes of services when the engine between them goes away: as little as can be."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from asyncmgr import (
    Hosts,
    NoResponders,
    RpcClient,
    RpcTimeout,
    RunContext,
    SchedulerDependentManager,
    Service,
    Settings,
    TransportError,
    open_transport,
    periodic_task,
    rpc,
)
from asyncmgr.events import Event, RunFinished, SlotSkipped, SlotsMissed
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports._memory import MemoryTransport
from asyncmgr.transports._nats import connection as nats_client
from asyncmgr.transports._retries import RESUME_WITHIN
from asyncmgr.transports._shelf import Shelf
from tests.nats_servers import PATIENCE, eventually

SPACING = 0.5
TTL = 6.0


class Agent(SchedulerDependentManager):
    """Works to a schedule, reports something new in each run, and answers calls."""

    service_name = "outages"

    @periodic_task(spacing=SPACING, tolerance=0)
    async def measure(self, context: RunContext) -> None:
        self.update_service_capabilities({"slot": context.slot.timestamp()})

    @rpc
    async def echo(self, value: Any) -> Any:
        return value

    @rpc
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Site:
    """A service on one host, and what happened to it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.events: list[Event] = []
        service.add_listener(self.events.append)

    @property
    def slots(self) -> list[float]:
        runs = (event for event in self.events if isinstance(event, RunFinished))
        return [run.slot.timestamp() for run in runs if run.task == "Agent.measure"]

    def assert_on_time(self) -> None:
        """Every slot had its run, and there was nothing to report."""
        assert not [event for event in self.events if isinstance(event, SlotsMissed | SlotSkipped)]
        steps = [after - before for before, after in zip(self.slots, self.slots[1:], strict=False)]
        assert steps == pytest.approx([SPACING] * len(steps), abs=0.001)

    async def runs(self, count: int) -> None:
        """Wait for so many runs more."""
        wanted = len(self.slots) + count
        await eventually(lambda: len(self.slots) >= wanted)


class World:
    """Three hosts on one NATS server, somebody who watches them, and somebody who calls them."""

    def __init__(self, server: NatsServer, sites: list[Site], hosts: Hosts, client: RpcClient) -> None:
        self.server = server
        self.sites = sites
        self.hosts = hosts
        self.client = client

    @property
    def fresh(self) -> set[str]:
        """Hosts that announced themselves lately: after an outage a view shows those that it knew before."""
        return {state.host for state in self.hosts.snapshot() if state.age < TTL / 2}

    @property
    def connected(self) -> set[bool]:
        return {site.service.transport.connected for site in self.sites}

    async def all_there(self) -> None:
        """Wait until every host is connected, is seen and answers."""
        names = {site.service.host for site in self.sites}
        await eventually(lambda: self.connected == {True} and self.fresh == names)
        for name in names:
            assert await self.client.at(host=name).call("echo", value=name) == name


@asynccontextmanager
async def three_hosts(server: NatsServer) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        sites = []
        for name in ("n1", "n2", "n3"):
            service = Service(
                Agent(), host=name, transport=server.url, settings=Settings(seed=1, capability_ttl=TTL)
            )
            sites.append(Site(service))
            await stack.enter_async_context(service)
        transport = await stack.enter_async_context(open_transport(server.url))
        hosts = await stack.enter_async_context(Hosts(transport, service="outages"))
        world = World(server, sites, hosts, RpcClient(transport, "outages", timeout=2))
        await world.all_there()
        yield world


def told(logs: list[Any]) -> Counter[str]:
    """How often each event was logged for people, but for a service's own start and stop."""
    events = Counter(log["event"] for log in logs if log["log_level"] != "debug")
    return Counter({event: count for event, count in events.items() if not event.startswith("service.")})


@pytest.mark.parametrize("empty", [False, True], ids=["with its store", "empty"])
async def test_server_is_killed_and_comes_back(nats_server: NatsServer, *, empty: bool) -> None:
    """Schedules go on, calls fail with their error, and soon after all is as before; told once per change."""
    with structlog.testing.capture_logs() as logs:
        async with three_hosts(nats_server) as world:
            in_flight = asyncio.create_task(world.client.call("sleep", seconds=10))
            await world.sites[0].runs(1)
            await asyncio.to_thread(nats_server.kill)
            await eventually(lambda: world.connected == {False})
            with pytest.raises(TransportError, match="not connected"):
                await world.client.call("echo", value=1)
            began = time.monotonic()
            with pytest.raises((RpcTimeout, TransportError)):
                await in_flight
            assert time.monotonic() - began < 2 + 1
            await world.sites[0].runs(4)
            await asyncio.to_thread(nats_server.restart, empty=empty)
            await world.all_there()
            for site in world.sites:
                site.assert_on_time()
                assert site.service.health.ok
    events = told(logs)
    assert events["transport.disconnected"] == events["transport.reconnected"] == 4
    assert events["announcement.failed"] == events["announcement.resumed"] <= 3
    assert events["hosts.interrupted"] == events["hosts.resumed"] <= 1
    assert events.total() <= 2 * (4 + 3 + 1) + events["call.timed_out"] <= 2 * (4 + 3 + 1) + 1


async def test_server_that_is_stopped_and_goes_on(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks connected and says nothing: calls fail by their deadline, then the loss is noticed by pings."""
    monkeypatch.setattr(nats_client, "PING_INTERVAL", 0.5)
    async with three_hosts(nats_server) as world:
        nats_server.pause()
        try:
            began = time.monotonic()
            with pytest.raises((RpcTimeout, TransportError)):
                await world.client.at(timeout=1).call("echo", value=1)
            assert time.monotonic() - began < 1 + 1
            await eventually(lambda: world.connected == {False})
            await world.sites[0].runs(2)
        finally:
            nats_server.resume()
        await world.all_there()
        for site in world.sites:
            site.assert_on_time()


AGENT = """
from asyncmgr import SchedulerDependentManager

class Agent(SchedulerDependentManager):
    service_name = "outages"

    async def init_host(self):
        self.update_service_capabilities({"pid": __import__("os").getpid()})
"""


async def test_a_host_that_is_killed_goes_stale_then_gone(nats_server: NatsServer, tmp_path: Path) -> None:
    """In the time that it announced; the others do not notice."""
    ttl = 3.0
    target = tmp_path / "agent.py"
    target.write_text(AGENT)
    async with three_hosts(nats_server) as world:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asyncmgr", "run", f"{target}:Agent", "--host", "n9"),
            *("--transport", nats_server.url),
            env={"ASYNCMGR_CAPABILITY_TTL": str(ttl)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await eventually(lambda: "n9" in world.fresh)
            changes = aiter(world.hosts.changes())
            process.kill()
            killed_at = time.monotonic()
            seen: dict[str, float] = {}
            async with asyncio.timeout(PATIENCE):
                while "left" not in seen:
                    change = await anext(changes)
                    if change.host.host == "n9":
                        seen[change.kind] = time.monotonic() - killed_at
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        # It was refreshed at most a third of the TTL (and a tenth of that) before it died.
        assert ttl / 2 - ttl * 0.37 < seen["stale"] < ttl / 2 + 1
        assert ttl - ttl * 0.37 < seen["left"] < ttl + 1
        assert world.fresh == {"n1", "n2", "n3"}
        with pytest.raises(NoResponders):
            await world.client.at(host="n9").call("echo", value=1)
        for site in world.sites:
            site.assert_on_time()


# An hour of it, in virtual time


@asynccontextmanager
async def memory(name: str) -> AsyncIterator[MemoryTransport]:
    async with open_transport(f"memory://{name}") as transport:
        assert isinstance(transport, MemoryTransport)
        yield transport


@pytest.mark.virtual_time
async def test_an_hour_of_outage_costs_no_memory() -> None:
    """With a change twice a second that cannot be sent, and calls that cannot be made."""
    async with memory("hour") as transport, Service(Agent(), transport=transport) as service:
        site = Site(service)
        client = RpcClient(transport, "outages")

        async def call_now_and_then() -> None:
            while True:
                await asyncio.sleep(1)
                with pytest.raises(TransportError):
                    await client.call("echo", value=1)

        async with Hosts(transport):
            calling = asyncio.create_task(call_now_and_then())
            with transport.outage():
                await asyncio.sleep(600)
                before, tasks = _objects(site), len(asyncio.all_tasks())
                await asyncio.sleep(3000)
                after = _objects(site)
                assert len(asyncio.all_tasks()) == tasks
            calling.cancel()
        assert after - before < 100, f"{after - before} objects more after 3,000 s"
        site.assert_on_time()


def _objects(site: Site) -> int:
    """How many objects there are, without those that this test keeps."""
    site.events[:] = site.events[-1:]
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.virtual_time
async def test_a_reply_waits_for_the_connection() -> None:
    """An answer that is ready during an outage reaches its caller after it, within the caller's deadline (45)."""
    async with (
        memory("replies") as transport,
        memory("replies") as other,
        Service(Agent(), host="n1", transport=transport),
    ):
        call = asyncio.create_task(RpcClient(other, "outages", timeout=30).call("sleep", seconds=5))
        await asyncio.sleep(1)
        with transport.outage():
            await asyncio.sleep(10)
            assert not call.done()
        assert await call is None


class Quiet(SchedulerDependentManager):
    """Is there, and reports nothing."""

    service_name = "outages"


@pytest.mark.virtual_time
async def test_hosts_come_back_without_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred hosts that lost the connection together announce themselves once each, spread over some time."""
    written: list[float] = []
    write = Shelf.write

    def noted(shelf: Shelf, key: str, value: bytes) -> int:
        written.append(asyncio.get_running_loop().time())
        return write(shelf, key, value)

    monkeypatch.setattr(Shelf, "write", noted)
    async with AsyncExitStack() as hosts:
        links = [await hosts.enter_async_context(memory("storm")) for _ in range(100)]
        for number, link in enumerate(links):
            await hosts.enter_async_context(
                Service(Quiet(), host=f"n{number}", transport=link, settings=Settings(seed=number))
            )
        with ExitStack() as outages:
            for link in links:
                outages.enter_context(link.outage())
            await asyncio.sleep(600)
            written.clear()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(RESUME_WITHIN)
        assert len(written) == 100
        per_tenth = Counter(int((at - began) * 10) for at in written)
        assert len(per_tenth) == RESUME_WITHIN * 10
        assert max(per_tenth.values()) < 20
