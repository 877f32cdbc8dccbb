"""Checks of closing and cancelling, in every state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncmgr.errors import NoResponders, RevisionConflict, TransportClosed
from asyncmgr.testing.conformance._checks import (
    EACH_OPERATION,
    PATIENCE,
    TTL,
    Checks,
    Operation,
    answering,
    as_coroutine,
    ends,
    running,
    snapshot,
    soon,
    take,
    texts,
)

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class ClosingChecks(Checks):
    """Closing and cancelling, at any moment."""

    @EACH_OPERATION
    async def test_after_close(self, operation: Operation) -> None:
        """Every call on a closed transport, or a store of it, raises TransportClosed."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            await one.aclose()
            with pytest.raises(TransportClosed):
                await soon(operation(one, store, self.fresh()))

    @EACH_OPERATION
    @pytest.mark.parametrize("cycles", [0, 1, 2, 5])
    async def test_close_during(self, operation: Operation, cycles: int) -> None:
        """A call under way when the transport is closed ends as it would anyway, or with TransportClosed."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            async with running(operation(one, store, self.fresh())) as call:
                for _ in range(cycles):
                    await asyncio.sleep(0)
                await soon(one.aclose())
                await soon(asyncio.wait([call]))
                assert isinstance(call.exception(), TransportClosed | NoResponders | RevisionConflict | None)

    @EACH_OPERATION
    @pytest.mark.parametrize("cycles", [0, 1, 2, 5])
    async def test_cancel_during(self, operation: Operation, cycles: int) -> None:
        """A call can be cancelled at any moment; the transport goes on working."""
        async with self.peers() as (one, other):
            store = await one.store(self.fresh(), ttl=TTL)
            async with running(operation(one, store, self.fresh())):
                for _ in range(cycles):
                    await asyncio.sleep(0)
            subject = self.fresh()
            async with answering(other, subject):
                assert await soon(one.request(subject, b"still", timeout=PATIENCE)) == b"still"
            revision = await soon(store.put("key", b"there"))
            await soon(store.update("key", b"there", revision))

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

    async def test_close_ends_iterations(self) -> None:
        """Readers of messages and changes that wait see the end, and nothing that is sent later."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            store = await other.store(self.fresh(), ttl=TTL)
            async with other.subscribe(subject) as messages, store.watch() as watch:
                assert await snapshot(watch) == []
                async with running(anext(messages)) as reader, running(anext(watch)) as watcher:
                    await other.aclose()
                    for task in (reader, watcher):
                        with pytest.raises(StopAsyncIteration):
                            await soon(task)
                await one.publish(subject, b"too late")
                await ends(messages)
                await ends(watch)

    async def test_close_is_idempotent(self) -> None:
        """Closing twice, also at the same time, is the same as closing once."""
        async with self.connect() as one:
            await soon(asyncio.gather(one.aclose(), one.aclose()))
            await soon(one.aclose())
            assert not one.connected

    async def test_close_hurts_nobody_else(self) -> None:
        """Other connections, and stored values, stay."""
        subject, name = self.fresh(), self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            store = await one.store(name, ttl=TTL)
            revision = await store.put("key", b"stays")
            await one.aclose()
            await other.publish(subject, b"goes on")
            assert await texts(messages, 1) == ["goes on"]
            entry = await (await other.store(name, ttl=TTL)).get("key")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"stays", revision)

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

    async def test_enter_and_leave_in_different_tasks(self) -> None:
        """Subscriptions and watches may be left by another task than the one that entered them."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            managers: list[AbstractAsyncContextManager[object]] = [one.subscribe(self.fresh()), store.watch()]
            for manager in managers:
                await asyncio.create_task(as_coroutine(manager.__aenter__()))
                await asyncio.create_task(as_coroutine(manager.__aexit__(None, None, None)))
