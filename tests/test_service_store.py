"""A service whose capabilities are kept by another engine than its transport, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest

from asyncmgr import (
    Hosts,
    InvalidSettings,
    RpcClient,
    RunContext,
    SchedulerDependentManager,
    Service,
    ServiceStateError,
    Settings,
    TransportClosed,
    open_transport,
    periodic_task,
    rpc,
)
from asyncmgr.events import RunFinished, SlotSkipped, SlotsMissed
from asyncmgr.transports import Store, StoreEngine, open_store
from asyncmgr.transports._memory import MemoryTransport
from tests.lives import logged, logs

__all__ = ["logs"]

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


class Agent(SchedulerDependentManager):
    """Works to a schedule, and reports something new in each run."""

    service_name = "compute"

    @periodic_task(spacing=1, tolerance=0)
    async def measure(self, context: RunContext) -> None:
        self.update_service_capabilities({"slot": context.slot.timestamp()})

    @rpc
    async def echo(self, value: int) -> int:
        return value


class Keeper(StoreEngine):
    """An engine that keeps stores and carries no messages."""

    def __init__(self, under: MemoryTransport) -> None:
        super().__init__()
        self.under = under
        under.add_state_listener(self._set_connected)

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> Store:
        return await self.under.store(name, ttl=ttl, watched=watched)

    async def now(self) -> int:
        return await self.under.now()

    async def aclose(self) -> None:
        self._note_closed()
        await self.under.aclose()


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    """An engine whose keys are those of ``memory://keys``."""
    async with open_transport("memory://keys") as under:
        assert isinstance(under, MemoryTransport)
        yield Keeper(under)


def make(**options: Any) -> Service:
    settings = Settings(seed=1, **options.pop("settings", {}))
    return Service(Agent(), host="n1", settings=settings, **{"transport": "memory://calls", **options})


async def seen(place: str | StoreEngine) -> list[str]:
    """The hosts that are announced there."""
    async with Hosts(place, service="compute") as hosts:
        return [state.host for state in hosts.snapshot()]


@asynccontextmanager
async def both_open() -> AsyncIterator[None]:
    """Keep both fabrics, so that what a service left in them can be seen."""
    async with open_transport("memory://calls"), open_store("memory://keys"):
        yield


@pytest.mark.parametrize("given", [{"store": "memory://keys"}, {"settings": {"store": "memory://keys"}}])
async def test_capabilities_are_kept_by_the_store(given: dict[str, Any]) -> None:
    """Given by argument or setting, it has the announcement, and the transport has the calls; both are closed."""
    async with both_open(), make(**given) as service:
        assert service.store is not service.transport
        assert await seen("memory://keys") == ["n1"]
        assert await seen("memory://calls") == []
        assert await RpcClient(service.transport, "compute", timeout=1).call("echo", value=5) == 5
        store, transport = service.store, service.transport
        await service.stop()
        assert await seen("memory://keys") == []
        for engine in (store, transport):
            with pytest.raises(TransportClosed):
                await engine.now()


@pytest.mark.parametrize("given", [{}, {"store": "memory://calls"}])
async def test_the_transport_is_the_store_where_there_is_no_other(given: dict[str, Any]) -> None:
    """Without a store, or with the transport's own URL, there is one connection."""
    async with make(**given) as service:
        assert service.store is service.transport
        assert await seen("memory://calls") == ["n1"]


async def test_an_open_engine_is_used_and_not_closed(keeper: Keeper) -> None:
    """An engine without messages serves capabilities and their readers; it belongs to whoever opened it."""
    async with make(store=keeper) as service:
        assert service.store is keeper
        assert await seen(service.store) == ["n1"]
    assert keeper.connected
    assert await seen(keeper) == []


async def test_there_is_no_store_without_a_connection() -> None:
    """Before the start and after the stop there is none, and the error says so."""
    service = make(store="memory://keys")
    with pytest.raises(ServiceStateError, match="compute has no store while it is new"):
        _ = service.store
    async with service:
        pass
    with pytest.raises(ServiceStateError, match="compute has no store while it is stopped"):
        _ = service.store


async def test_a_store_that_cannot_be_opened_undoes_the_start() -> None:
    """The error says what is wrong, and the transport is closed again."""
    service = make(store="nosuch://me:hunter2@h")
    with pytest.raises(InvalidSettings, match="no store for nosuch://") as caught:
        await service.start()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ServiceStateError):
        _ = service.transport


async def test_a_store_that_is_down_stops_nothing(keeper: Keeper, logs: list[Any]) -> None:
    """Tasks and calls go on while it is away, one line tells of it, and then the latest state is announced."""
    async with make(store=keeper) as service:
        events: list[object] = []
        service.add_listener(events.append, RunFinished, SlotsMissed, SlotSkipped)
        client = RpcClient(service.transport, "compute", timeout=1)
        with keeper.under.outage():
            for number in range(100):
                await asyncio.sleep(1)
                assert await client.call("echo", value=number) == number
        assert all(isinstance(event, RunFinished) for event in events)
        assert [getattr(event, "task", "") for event in events].count("Agent.measure") == 100
        assert len(logged(logs, "announcement.failed")) == 1
        await asyncio.sleep(5)
        assert len(logged(logs, "announcement.resumed")) == 1
        assert await seen(keeper) == ["n1"]


async def test_a_start_without_the_store(keeper: Keeper, logs: list[Any]) -> None:
    """An engine that is not connected yet delays nothing; the host is announced once it is there."""
    async with AsyncExitStack() as stack:
        with keeper.under.outage():
            assert not keeper.connected
            service = await stack.enter_async_context(make(store=keeper))
            await asyncio.sleep(3)
            assert len(logged(logs, "announcement.failed")) == 1
        await asyncio.sleep(3)
        assert service.store.connected
        assert await seen(keeper) == ["n1"]


async def test_a_lost_transport_leaves_the_announcement(keeper: Keeper) -> None:
    """Where only messages are lost, the store goes on to say that the host lives."""
    async with open_transport("memory://calls") as transport:
        assert isinstance(transport, MemoryTransport)
        async with make(transport=transport, store=keeper), Hosts(keeper, service="compute") as hosts:
            with ExitStack() as stack:
                stack.enter_context(transport.outage())
                await asyncio.sleep(100)
                (state,) = hosts.snapshot()
                assert state.state == "fresh"


async def test_lost_calls_withdraw_the_host_from_the_store(keeper: Keeper) -> None:
    """A subject of calls that is taken away from the transport is known where capabilities are kept."""
    async with open_transport("memory://calls") as transport:
        assert isinstance(transport, MemoryTransport)
        async with make(transport=transport, store=keeper):
            with transport.loss("asyncmgr.rpc.compute.any"):
                await asyncio.sleep(1)
                assert await seen(keeper) == []
            await asyncio.sleep(1)
            assert await seen(keeper) == ["n1"]
