"""What memory:// promises beyond the contract of transports."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from asyncmgr.errors import NoResponders, TransportError
from asyncmgr.testing import VirtualTime, run_virtual
from asyncmgr.transports import SNAPSHOT_DONE, Entry, Transport, open_transport
from asyncmgr.transports import _memory as memory
from asyncmgr.transports._memory import Fabric, MemoryTransport
from asyncmgr.transports._shelf import Shelf


@pytest.fixture(autouse=True)
def _no_fabric_left() -> Any:
    """Each test ends with every named fabric forgotten."""
    yield
    assert not any(fabrics for loop, fabrics in memory._shared.items() if not loop.is_closed())


async def put_and_get(transport: Transport) -> bytes | None:
    """The value of a key from before, which is then written."""
    store = await transport.store("s", ttl=60)
    before = await store.get("key")
    await store.put("key", b"x")
    return before.value if before else None


async def test_unnamed_is_private() -> None:
    """Two transports opened as memory:// do not meet."""
    async with open_transport("memory://") as one, open_transport("memory://") as other:
        async with one.subscribe("subject"):
            with pytest.raises(NoResponders):
                await other.request("subject", b"", timeout=1)
        assert await put_and_get(one) is None
        assert await put_and_get(other) is None


async def test_named_is_shared_by_name() -> None:
    """The same name is the same fabric, another name another."""
    async with AsyncExitStack() as stack:
        one, other, third = [
            await stack.enter_async_context(open_transport(f"memory://{name}")) for name in ("a", "a", "b")
        ]
        assert await put_and_get(one) is None
        assert await put_and_get(other) == b"x"
        assert await put_and_get(third) is None


async def test_state_lives_as_long_as_somebody_has_it_open() -> None:
    """The first may leave; after the last one the name begins anew."""
    async with open_transport("memory://a") as other:
        async with open_transport("memory://a") as one:
            await put_and_get(one)
        assert await put_and_get(other) == b"x"
    async with open_transport("memory://a") as later:
        assert await put_and_get(later) is None


def test_event_loops_one_after_another() -> None:
    """Each event loop has its own fabrics, whatever an earlier one left open."""
    left_open: list[object] = []

    async def leave_open() -> bytes | None:
        left_open.append(manager := open_transport("memory://a"))
        return await put_and_get(await manager.__aenter__())

    assert asyncio.run(leave_open()) is None
    assert run_virtual(leave_open()) is None
    assert asyncio.run(leave_open()) is None


def test_a_dead_loop_is_forgotten() -> None:
    """What was left open in a loop that is closed goes away at the next opening."""
    left_open: list[object] = []

    async def leave_open() -> weakref.ref[asyncio.AbstractEventLoop]:
        left_open.append(manager := open_transport("memory://a"))
        await manager.__aenter__()
        return weakref.ref(asyncio.get_running_loop())

    async def open_again() -> None:
        async with open_transport("memory://b"):
            pass

    loop = asyncio.run(leave_open())
    assert loop() is not None
    asyncio.run(open_again())
    left_open.clear()
    gc.collect()
    assert loop() is None


async def test_publishing_runs_no_subscriber() -> None:
    """A reader runs when the loop comes to it, not inside publish; the publisher passes the loop first."""
    seen: list[str] = []
    async with open_transport("memory://") as transport, transport.subscribe("subject") as messages:

        async def read() -> None:
            seen.append((await anext(messages)).data.decode())

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        other = asyncio.create_task(_note(seen, "loop was passed"))
        await transport.publish("subject", b"read")
        seen.append("published")
        await asyncio.gather(reader, other)
    assert seen == ["loop was passed", "published", "read"]


async def _note(seen: list[str], text: str) -> None:
    seen.append(text)


async def test_group_members_take_turns() -> None:
    """Among members that are equally fast the work is equal."""
    async with open_transport("memory://") as one, AsyncExitStack() as stack:
        members = [await stack.enter_async_context(one.subscribe("s", group="g")) for _ in range(3)]
        for number in range(9):
            await one.publish("s", str(number).encode())
        got = [[int((await anext(member)).data) for _ in range(3)] for member in members]
        assert got == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


async def test_expiry_is_exact(virtual_time: VirtualTime) -> None:
    """A key is there just before its TTL is over and not when it is."""
    async with open_transport("memory://") as transport:
        store = await transport.store("s", ttl=60)
        await store.put("key", b"")
        await virtual_time.advance(59.999)
        entry = await store.get("key")
        assert entry is not None
        assert entry.age == pytest.approx(59.999)
        await virtual_time.advance(0.001)
        assert await store.get("key") is None


async def test_the_wall_is_set_back(virtual_time: VirtualTime) -> None:
    """Clock and revisions of a fabric go on to grow, and keys age as ever, also over a loss of all keys."""
    async with open_transport("memory://") as transport:
        assert isinstance(transport, MemoryTransport)
        store = await transport.store("s", ttl=60)
        before = await transport.now()
        revision = await store.put("key", b"")
        assert revision == before
        with time_machine.travel(virtual_time.now() - timedelta(hours=1), tick=False):
            await virtual_time.advance(1)
            assert await transport.now() == before + 1_000_000
            transport.wipe()
            assert await store.put("key", b"") == before + 1_000_000
            await virtual_time.advance(60)
            assert await store.get("key") is None


async def test_a_wipe_ends_watches_and_rests() -> None:
    """Watchers and who lets a key rest learn of the loss of all keys."""
    async with open_transport("memory://a") as one:
        assert isinstance(one, MemoryTransport)
        store = await one.store("s", ttl=None)
        await store.put("key", b"")
        woken: list[str] = []
        assert store.rest("key", lambda: woken.append("key"))
        async with (await one.store("t", ttl=60)).watch() as watch:
            one.wipe()
            assert await anext(watch) is SNAPSHOT_DONE
            with pytest.raises(TransportError, match="lost its data"):
                await anext(watch)
        assert woken == ["key"]
        assert await store.get("key") is None


async def test_another_ttl_is_refused_in_words() -> None:
    """The error says how long the keys of the store live, and how long they were asked to."""
    async with open_transport("memory://") as one:
        await one.store("kept", ttl=None)
        await one.store("s", ttl=60)
        with pytest.raises(TransportError, match=r"kept keeps keys until they are deleted, not for 60 s"):
            await one.store("kept", ttl=60)
        with pytest.raises(TransportError, match=r"s keeps keys for 60 s, not until they are deleted"):
            await one.store("s", ttl=None)


async def test_expired_keys_take_no_memory(virtual_time: VirtualTime) -> None:
    """Keys that nobody reads any more are dropped as others are written."""
    shelf = Shelf("s", ttl=60)
    for number in range(1000):
        shelf.write(f"key-{number}", b"")
        await virtual_time.advance(1)
    assert len(shelf._records) <= 60


@pytest.mark.usefixtures("virtual_time")
async def test_nothing_is_kept_of_what_ended() -> None:
    """Routes, inboxes, watches and subscriptions are gone after requests of every outcome, readers and groups."""
    fabric = Fabric()
    transport = MemoryTransport(fabric)
    store = await transport.store("s", ttl=60)
    async with transport.subscribe("s"), transport.subscribe("s", group="g"), store.watch():
        with pytest.raises(TimeoutError):
            await transport.request("s", b"", timeout=1)
        with pytest.raises(NoResponders):
            await transport.request("t", b"", timeout=1)
        await _cancelled(transport.request("s", b"", timeout=1))
    assert not fabric._routes
    assert not fabric.shelves["s"].watches
    assert not transport._subscriptions
    assert not transport._watches
    await transport.aclose()


async def _cancelled(call: Coroutine[Any, Any, object]) -> None:
    task = asyncio.create_task(call)
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outage_is_of_one_transport() -> None:
    """A simulated outage cuts off one transport; messages go on between the others."""
    async with AsyncExitStack() as stack:
        one, other, cut = [await stack.enter_async_context(open_transport("memory://a")) for _ in range(3)]
        assert isinstance(cut, MemoryTransport)
        heard = await stack.enter_async_context(other.subscribe("s", group="g"))
        missed = await stack.enter_async_context(cut.subscribe("s", group="g"))
        with cut.outage():
            for number in range(4):
                await one.publish("s", str(number).encode())
            with pytest.raises(TransportError, match="not connected"):
                await cut.publish("s", b"")
        assert [(await anext(heard)).data for _ in range(4)] == [b"0", b"1", b"2", b"3"]
        await one.publish("s", b"4")
        await one.publish("s", b"5")
        assert {(await anext(heard)).data, (await anext(missed)).data} == {b"4", b"5"}


async def test_lost_twice_is_told_once() -> None:
    """Listeners hear of changes only, not of a loss while the connection is lost."""
    told: list[bool] = []
    async with open_transport("memory://") as transport:
        assert isinstance(transport, MemoryTransport)
        transport.add_state_listener(told.append)
        with transport.outage(), transport.outage():
            assert told == [False]
    assert told == [False, True]


async def test_what_rests_does_not_age(virtual_time: VirtualTime) -> None:
    """A key that its writer lets rest is fresh, and never expires, until somebody watches it (51)."""
    async with open_transport("memory://") as transport:
        store = await transport.store("s", ttl=60)
        await store.put("a.key", b"x")
        await store.put("b", b"")
        woken: list[float] = []
        assert store.rest("a.key", lambda: woken.append(virtual_time.elapsed))
        await virtual_time.advance(3600)
        entry = await store.get("a.key")
        assert (entry and entry.age, await store.get("b"), woken) == (0, None, [])
        async with store.watch("a") as watch:
            first = await anext(watch)
            assert isinstance(first, Entry)
            assert (first.value, first.age, woken) == (b"x", 0, [3600])
            assert not store.rest("a.key", lambda: None)
        await virtual_time.advance(60)
        assert await store.get("a.key") is None
        assert not store.rest("a.key", lambda: None)


@pytest.mark.usefixtures("virtual_time")
async def test_a_rest_ends_with_a_write_and_with_its_transport() -> None:
    """Whoever writes or deletes it wakes the one that rests; one that leaves takes only its own rest along."""
    async with open_transport("memory://s") as ours, AsyncExitStack() as others:
        theirs = await others.enter_async_context(open_transport("memory://s"))
        store, other = await ours.store("s", ttl=60), await theirs.store("s", ttl=60)
        await store.put("key", b"")
        woken: list[str] = []
        assert store.rest("key", lambda: woken.append("ours"))
        await other.put("key", b"theirs")
        assert woken == ["ours"]
        assert other.rest("key", lambda: woken.append("theirs"))
        assert store.rest("key", lambda: woken.append("ours again"))
        await others.aclose()
        await asyncio.sleep(100)
        assert await store.get("key") is not None
        await store.delete("key")
        assert woken == ["ours", "ours again"]


@pytest.mark.usefixtures("virtual_time")
async def test_a_lost_connection_ends_its_rests() -> None:
    """What a transport that is cut off let rest ages, as it could not be written again."""
    fabric = Fabric()
    transport, reader = MemoryTransport(fabric), MemoryTransport(fabric)
    store = await transport.store("s", ttl=60)
    await store.put("key", b"")
    assert store.rest("key", lambda: None)
    with transport.outage():
        await asyncio.sleep(30)
        entry = await (await reader.store("s", ttl=60)).get("key")
        assert entry is not None
        assert entry.age == 30
    await transport.aclose()
    await reader.aclose()


async def test_loss_of_a_subject() -> None:
    """A test can take a subject away, as engines do: others are told nobody is there, until it is given back."""
    told: list[list[str]] = []
    async with open_transport("memory://a") as one, open_transport("memory://a") as other:
        assert isinstance(one, MemoryTransport)
        one.add_trouble_listener(lambda: told.append(list(one.problems())))
        async with one.subscribe("lost") as messages, one.subscribe("kept"):
            with one.loss("lost"):
                assert one.connected
                with pytest.raises(NoResponders):
                    await other.request("lost", b"", timeout=1)
                with pytest.raises(TransportError, match="taken away"):
                    async with one.subscribe("lost"):
                        pass
                with one.outage():
                    pass
                with pytest.raises(NoResponders):
                    await other.request("lost", b"", timeout=1)
            await other.publish("lost", b"again")
            assert (await anext(messages)).data == b"again"
    assert told == [["lost"], []]


async def test_watch_is_heard_until_the_loss() -> None:
    """No change is missing at any time, but after a loss of the connection (42)."""
    loop = asyncio.get_running_loop()
    async with open_transport("memory://") as one:
        assert isinstance(one, MemoryTransport)
        async with (await one.store("s", ttl=60)).watch() as watch:
            before = loop.time()
            assert watch.heard_at >= before
            with one.outage():
                lost = watch.heard_at
                await asyncio.sleep(0.001)
                assert watch.heard_at == lost
