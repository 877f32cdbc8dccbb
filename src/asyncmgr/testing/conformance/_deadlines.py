"""Checks of an engine that has stopped answering while its connections are open."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from asyncmgr.errors import TransportError
from asyncmgr.testing.conformance._checks import (
    STORE_OPERATIONS,
    TTL,
    Checks,
    E,
    Operation,
    connected,
    running,
    snapshot,
    soon,
)

DEADLINE = 15.0
"""Seconds within which a call ends, and a watch notices the silence."""

LATE = 3.0
"""Seconds more, for a busy machine."""

PROMPT = 3.0
"""Seconds within which a cancelled call ends."""


class DeadlineChecks(Checks[E]):
    """The engine takes what is sent, and answers nothing."""

    operations: ClassVar[dict[str, Operation]] = STORE_OPERATIONS
    """The calls that wait for an answer."""

    async def test_frozen_calls_have_a_deadline(self) -> None:
        """Each call raises TransportError or TimeoutError in time, also where many wait; afterwards all works."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=None)
            async with self.freeze():
                calls = {
                    name: asyncio.ensure_future(self._outcome(operation(one, store, self.fresh())))
                    for name, operation in self.operations.items()
                }
                await asyncio.wait(calls.values(), timeout=DEADLINE + LATE)
                waiting = [name for name, call in calls.items() if not call.done()]
                for call in calls.values():
                    call.cancel()
                await asyncio.wait(calls.values())
            assert not waiting, f"these have no deadline: {waiting}"
            wrong = {name: found for name, call in calls.items() if not _failed(found := call.result())}
            assert not wrong
            await self._works(one)

    async def test_frozen_call_is_cancelled_promptly(self) -> None:
        """A cancelled call ends at once, and does not wait for the engine."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=None)
            async with self.freeze():
                for operation in self.operations.values():
                    call = asyncio.ensure_future(self._outcome(operation(one, store, self.fresh())))
                    await asyncio.wait([call], timeout=0.1)
                    call.cancel()
                    async with asyncio.timeout(PROMPT):
                        await asyncio.wait([call])
            await self._works(one)

    async def test_frozen_watch_raises(self) -> None:
        """A watch notices the silence of its engine."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            async with store.watch() as watch:
                await snapshot(watch)
                async with self.freeze(), running(anext(watch)) as reader:
                    await asyncio.wait([reader], timeout=DEADLINE + LATE)
                    assert reader.done(), "the watch noticed nothing"
                    assert isinstance(reader.exception(), TransportError)
            await self._works(one)

    async def test_frozen_engine_is_closed(self) -> None:
        """Closing does not wait for an engine that does not answer."""
        async with self.connect() as one:
            store = await one.store(self.fresh(), ttl=TTL)
            async with store.watch() as watch:
                await snapshot(watch)
                async with self.freeze():
                    async with asyncio.timeout(DEADLINE + LATE):
                        await one.aclose()
            assert not one.connected

    async def _outcome(self, awaitable: object) -> object:
        try:
            return await awaitable  # type: ignore[misc]
        except Exception as exc:
            return exc

    async def _works(self, engine: E) -> None:
        """Check that the engine serves again, with the connection that it has or a new one."""
        async with asyncio.timeout(DEADLINE + LATE):
            while True:
                await connected(engine)
                try:
                    store = await engine.store(self.fresh(), ttl=TTL)
                    await store.put("key", b"")
                    break
                except TransportError:  # it has not noticed yet that the connection of before is of no use
                    await asyncio.sleep(0.05)
        await soon(store.keys())


def _failed(result: object) -> bool:
    return isinstance(result, TransportError | TimeoutError)
