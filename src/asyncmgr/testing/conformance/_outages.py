"""Checks of a lost and regained connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from asyncmgr.errors import NoResponders, RevisionConflict, TransportClosed, TransportError
from asyncmgr.testing.conformance._checks import (
    EACH_MESSAGE_OPERATION,
    EACH_STORE_OPERATION,
    PATIENCE,
    TTL,
    Checks,
    E,
    Operation,
    as_coroutine,
    connected,
    ends,
    running,
    snapshot,
    soon,
    take,
)
from asyncmgr.transports._base import Transport


class StoreOutageChecks(Checks[E]):
    """The connection is lost and comes back."""

    async def test_state_is_told(self) -> None:
        """Listeners are called at the loss and at the return, once each; not at closing, nor after their removal."""
        told: list[bool] = []
        other: list[bool] = []
        async with self.connect() as one:
            assert one.connected
            one.add_state_listener(told.append)
            remove = one.add_state_listener(other.append)
            async with self.outage(one):
                assert not one.connected
                assert told == [False]
                remove()
                remove()
            assert one.connected
        assert (told, other) == ([False, True], [False])
        assert not one.connected

    async def test_listener_raises(self) -> None:
        """A listener that raises harms neither the engine nor the next listener."""
        told: list[bool] = []

        def broken(connected: bool) -> None:
            raise ValueError(connected)

        async with self.connect() as one:
            one.add_state_listener(broken)
            one.add_state_listener(told.append)
            async with self.outage(one):
                pass
            assert told == [False, True]

    @EACH_STORE_OPERATION
    async def test_store_without_connection(self, operation: Operation) -> None:
        """Calls fail at once with TransportError, which is not TransportClosed, and work again afterwards."""
        await _check_without_connection(self, operation)

    async def test_store_outlives_an_outage(self) -> None:
        """A store that was opened before an outage works after it, at growing revisions."""
        async with self.connect() as one:
            store = await one.store(self.fresh(), ttl=None)
            revision = await store.put("key", b"before")
            async with self.outage(one):
                pass
            assert await soon(store.put("key", b"after")) > revision

    async def test_watch_is_interrupted(self) -> None:
        """A watch reports once that it may have missed changes, and ends; a new watch works."""
        async with self.connect() as one:
            store = await one.store(self.fresh(), ttl=TTL)
            async with store.watch() as watch:
                assert await snapshot(watch) == []
                async with self.outage(one):
                    with pytest.raises(TransportError):
                        await soon(anext(watch))
                    await ends(watch)
            async with store.watch() as watch:
                await snapshot(watch)

    async def test_store_close_without_connection(self) -> None:
        """An engine can be closed while the connection is lost, and stays closed."""
        async with self.connect() as one:
            store = await one.store(self.fresh(), ttl=TTL)
            async with self.outage(one):
                await soon(one.aclose())
            assert not one.connected
            with pytest.raises(TransportClosed):
                await store.put("key", b"")


class MessageOutageChecks(Checks[Transport]):
    """Messages while the connection is lost, and afterwards."""

    @EACH_MESSAGE_OPERATION
    async def test_message_without_connection(self, operation: Operation) -> None:
        """Calls fail at once with TransportError, which is not TransportClosed, and work again afterwards."""
        await _check_without_connection(self, operation)

    async def test_subscription_goes_on(self) -> None:
        """A subscription gets messages again after an outage, without a call of its owner."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            async with self.outage(other):
                reader = asyncio.ensure_future(as_coroutine(anext(messages)))
            await connected(one)
            await one.publish(subject, b"after")
            assert (await soon(reader)).data == b"after"

    async def test_request_under_way(self) -> None:
        """A request whose answer is lost with the connection ends within its timeout."""
        subject = self.fresh()
        async with (
            self.peers() as (one, other),
            other.subscribe(subject) as requests,
            running(one.request(subject, b"", timeout=PATIENCE / 10)) as call,
        ):
            await take(requests, 1)
            async with self.outage(one):
                with pytest.raises((TransportError, TimeoutError)):
                    await soon(call)

    async def test_reply_waits_for_the_connection(self) -> None:
        """An answer that may wait reaches its caller after the outage; one that may not wait fails at once."""
        subject = self.fresh()
        async with self.connect() as one, one.subscribe(subject) as answers:
            async with self.outage(one):
                with pytest.raises(TransportError):
                    await one.reply(subject, b"at once")
                reply = asyncio.ensure_future(one.reply(subject, b"later", within=PATIENCE))
                await asyncio.sleep(0)
            await soon(reply)
            assert [message.data for message in await take(answers, 1)] == [b"later"]

    async def test_close_while_a_reply_waits(self) -> None:
        """Closing ends the wait of a reply."""
        async with (
            self.connect() as one,
            self.outage(one),
            running(one.reply(self.fresh(), b"", within=1000 * PATIENCE)) as reply,
        ):
            await soon(one.aclose())
            with pytest.raises(TransportClosed):
                await soon(reply)

    async def test_message_close_without_connection(self) -> None:
        """A transport can be closed while the connection is lost, and stays closed."""
        async with self.connect() as one, one.subscribe(self.fresh()) as messages:
            async with self.outage(one):
                await soon(one.aclose())
                await ends(messages)
            assert not one.connected
            with pytest.raises(TransportClosed):
                await one.publish(self.fresh(), b"")


async def _check_without_connection(checks: Checks[Any], operation: Operation) -> None:
    async with checks.connect() as one:
        store = await one.store(checks.fresh(), ttl=TTL)
        async with checks.outage(one):
            with pytest.raises(TransportError) as caught:
                await soon(operation(one, store, checks.fresh()))
            assert type(caught.value) is TransportError
        with suppress(NoResponders, RevisionConflict):  # with a fresh name, requests and updates raise these
            await soon(operation(one, store, checks.fresh()))
