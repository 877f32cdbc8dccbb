"""Checks of closing and cancelling, in every state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from asyncmgr.errors import NoResponders, RevisionConflict, TransportClosed
from asyncmgr.testing.conformance._checks import (
    EACH_MESSAGE_OPERATION,
    EACH_STORE_OPERATION,
    PATIENCE,
    TTL,
    Checks,
    E,
    Operation,
    answering,
    as_coroutine,
    ends,
    enter,
    running,
    snapshot,
    soon,
    take,
    texts,
)
from asyncmgr.transports._base import Transport

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

EACH_CYCLES = pytest.mark.parametrize("cycles", [0, 1, 2, 5])


class StoreClosingChecks(Checks[E]):
    """Closing and cancelling calls of stores, at any moment."""

    @EACH_STORE_OPERATION
    async def test_store_after_close(self, operation: Operation) -> None:
        """Every call on a closed engine, or a store of it, raises TransportClosed."""
        await _check_after_close(self, operation)

    @EACH_STORE_OPERATION
    @EACH_CYCLES
    async def test_store_close_during(self, operation: Operation, cycles: int) -> None:
        """A call under way when the engine is closed ends as it would anyway, or with TransportClosed."""
        await _check_close_during(self, operation, cycles)

    @EACH_STORE_OPERATION
    @EACH_CYCLES
    async def test_store_cancel_during(self, operation: Operation, cycles: int) -> None:
        """A call can be cancelled at any moment; the engine goes on working."""
        async with self.peers() as (one, _):
            await _cancel_during(self, one, operation, cycles)

    async def test_store_close_ends_iterations(self) -> None:
        """Readers of changes that wait see the end, and nothing that is written later."""
        name = self.fresh()
        async with self.peers() as (one, other):
            written = await one.store(name, ttl=TTL)
            async with (await other.store(name, ttl=TTL)).watch() as watch:
                assert await snapshot(watch) == []
                async with running(anext(watch)) as watcher:
                    await other.aclose()
                    with pytest.raises(StopAsyncIteration):
                        await soon(watcher)
                await written.put("key", b"too late")
                await ends(watch)

    async def test_close_is_idempotent(self) -> None:
        """Closing twice, also at the same time, is the same as closing once."""
        async with self.connect() as one:
            await soon(asyncio.gather(one.aclose(), one.aclose()))
            await soon(one.aclose())
            assert not one.connected

    async def test_store_close_hurts_nobody_else(self) -> None:
        """Other connections, and stored values, stay."""
        name = self.fresh()
        async with self.peers() as (one, other):
            store = await one.store(name, ttl=TTL)
            revision = await store.put("key", b"stays")
            await one.aclose()
            entry = await (await other.store(name, ttl=TTL)).get("key")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"stays", revision)

    async def test_watch_entered_and_left_in_different_tasks(self) -> None:
        """A watch may be left by another task than the one that entered it."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            await _enter_and_leave(store.watch())


class MessageClosingChecks(Checks[Transport]):
    """Closing and cancelling calls that carry messages."""

    @EACH_MESSAGE_OPERATION
    async def test_message_after_close(self, operation: Operation) -> None:
        """Every call on a closed transport raises TransportClosed."""
        await _check_after_close(self, operation)

    @EACH_MESSAGE_OPERATION
    @EACH_CYCLES
    async def test_message_close_during(self, operation: Operation, cycles: int) -> None:
        """A call under way when the transport is closed ends as it would anyway, or with TransportClosed."""
        await _check_close_during(self, operation, cycles)

    @EACH_MESSAGE_OPERATION
    @EACH_CYCLES
    async def test_message_cancel_during(self, operation: Operation, cycles: int) -> None:
        """A call can be cancelled at any moment; the transport goes on working."""
        async with self.peers() as (one, other):
            await _cancel_during(self, one, operation, cycles)
            subject = self.fresh()
            async with answering(other, subject):
                assert await soon(one.request(subject, b"still", timeout=PATIENCE)) == b"still"

    @EACH_STORE_OPERATION
    @EACH_CYCLES
    async def test_messages_go_on_after_a_cancelled_store_call(
        self, operation: Operation, cycles: int
    ) -> None:
        """A cancelled call of a store does no harm to messages either."""
        async with self.peers() as (one, other):
            await _cancel_during(self, one, operation, cycles)
            subject = self.fresh()
            async with answering(other, subject):
                assert await soon(one.request(subject, b"still", timeout=PATIENCE)) == b"still"

    async def test_close_during_request(self) -> None:
        """A request that waits for its answer raises TransportClosed at once."""
        subject = self.fresh()
        async with (
            self.peers() as (one, other),
            other.subscribe(subject) as requests,
            running(one.request(subject, b"", timeout=100 * PATIENCE)) as call,
        ):
            await take(requests, 1)
            await one.aclose()
            with pytest.raises(TransportClosed):
                await soon(call)

    async def test_message_close_ends_iterations(self) -> None:
        """Readers of messages that wait see the end, and nothing that is sent later."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            async with running(anext(messages)) as reader:
                await other.aclose()
                with pytest.raises(StopAsyncIteration):
                    await soon(reader)
            await one.publish(subject, b"too late")
            await ends(messages)

    async def test_message_close_hurts_nobody_else(self) -> None:
        """Subscriptions of other connections stay."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.aclose()
            await other.publish(subject, b"goes on")
            assert await texts(messages, 1) == ["goes on"]

    async def test_closed_subscriber_is_none(self) -> None:
        """A closed connection gets no messages of the group's share, and no request waits for it."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            async with one.subscribe(subject, group="g"), other.subscribe(subject, group="g") as stays:
                await one.aclose()
                for number in range(20):
                    await other.publish(subject, str(number).encode())
                assert await texts(stays, 20) == [str(number) for number in range(20)]
            with pytest.raises(NoResponders):
                await soon(other.request(subject, b"", timeout=PATIENCE))

    async def test_subscription_entered_and_left_in_different_tasks(self) -> None:
        """A subscription may be left by another task than the one that entered it."""
        async with self.peers() as (one, _):
            await _enter_and_leave(one.subscribe(self.fresh()))


async def _check_after_close(checks: Checks[Any], operation: Operation) -> None:
    async with checks.peers() as (one, _):
        store = await one.store(checks.fresh(), ttl=TTL)
        await one.aclose()
        with pytest.raises(TransportClosed):
            await soon(operation(one, store, checks.fresh()))


async def _check_close_during(checks: Checks[Any], operation: Operation, cycles: int) -> None:
    async with checks.peers() as (one, _):
        store = await one.store(checks.fresh(), ttl=TTL)
        async with running(operation(one, store, checks.fresh())) as call:
            for _ in range(cycles):
                await asyncio.sleep(0)
            await soon(one.aclose())
            await soon(asyncio.wait([call]))
            assert isinstance(call.exception(), TransportClosed | NoResponders | RevisionConflict | None)


async def _cancel_during(checks: Checks[Any], one: Any, operation: Operation, cycles: int) -> None:
    """Cancel a call after some turns of the loop; check that stores go on working."""
    store = await one.store(checks.fresh(), ttl=TTL)
    async with running(operation(one, store, checks.fresh())):
        for _ in range(cycles):
            await asyncio.sleep(0)
    revision = await soon(store.put("key", b"there"))
    await soon(store.update("key", b"there", revision))
    await soon(enter(store.watch()))


async def _enter_and_leave(manager: AbstractAsyncContextManager[object]) -> None:
    await asyncio.create_task(as_coroutine(manager.__aenter__()))
    await asyncio.create_task(as_coroutine(manager.__aexit__(None, None, None)))
