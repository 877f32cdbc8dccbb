"""`Calls`: makes every call of the store engine, each with a deadline, so that none can hold up the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Coroutine
from typing import Any, TypeVar

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.log import log
from asyncmgr._leases.records import CLAIMS, SESSIONS, SESSIONS_TTL, SLOTS, Record
from asyncmgr._leases.rules import Rules
from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.transports import Entry, Store, StoreEngine
from asyncmgr.transports._operations import Operation

T = TypeVar("T")

MOST_AT_ONCE = 16
"""The number of calls in progress at once: a host that takes over a thousand names does not flood the store. An engine
may serve them two at a time, and then a renewal, which is made at once, still waits for as few calls only."""


class Doubt(Exception):
    """A call failed, or gave no answer in time: whether it took effect is not known."""


class Stores:
    """The three stores, opened at first use. They may be missing for long, since the engine may be down."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._open: dict[str, Store] = {}

    async def sessions(self) -> Store:
        return await self._get(SESSIONS, SESSIONS_TTL, watched=True)

    async def claims(self) -> Store:
        return await self._get(CLAIMS, None, watched=True)

    async def slots(self) -> Store:
        return await self._get(SLOTS, None, watched=False)

    async def _get(self, name: str, ttl: float | None, *, watched: bool) -> Store:
        if name not in self._open:
            engine = self._calls.engine
            opening = engine.store(name, ttl=ttl, watched=watched)
            self._open[name] = await self._calls.make(opening, "open", urgent=True)
        return self._open[name]


class Calls:
    """Makes calls of one engine.

    Each call runs in a Task of its own, so that one that never ends, not even when it is cancelled, is left behind.
    """

    def __init__(self, engine: StoreEngine, rules: Rules, ttl: float) -> None:
        self.engine = engine
        self.count = 0
        """The number of calls made so far."""
        self._deadline = rules.call_deadline(ttl)
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._going: dict[asyncio.Task[Any], None] = {}
        self._surprised = False

    async def make(self, call: Coroutine[Any, Any, T], operation: Operation, *, urgent: bool = False) -> T:
        """Await one call; an `urgent` one waits for no other.

        Raises
        ------
        RevisionConflict
            The condition of a write does not hold. Nothing was written.
        Doubt
            The call failed otherwise, or took too long. Its effect is not known.
        """
        try:
            async with contextlib.nullcontext() if urgent else self._room:
                self.count += 1
                task = asyncio.ensure_future(self.engine.operations.count(operation, call))
                self._going[task] = None
                task.add_done_callback(self._end)
                try:
                    await asyncio.wait({task}, timeout=self._deadline)
                finally:
                    if not task.done():
                        task.cancel()
        finally:
            if inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
                call.close()  # cancelled before its turn: else Python warns that nobody awaited it
        return self._result(task)

    def _result(self, task: asyncio.Task[T]) -> T:
        if not task.done():
            raise Doubt(f"no answer within {self._deadline:g} s")
        try:
            return task.result()
        except RevisionConflict:
            raise
        except (TransportError, TimeoutError) as exc:
            raise Doubt(str(exc) or type(exc).__name__) from exc
        except (Exception, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and is_cancelled():
                raise
            self._note_surprise(exc)
            raise Doubt(f"{type(exc).__name__}: {exc}") from exc

    def _note_surprise(self, error: BaseException) -> None:
        """Log the first error that an engine should not have let out."""
        if not self._surprised:
            self._surprised = True
            log.error("store.misbehaved", engine=type(self.engine).__name__, exc_info=error)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._going.pop(task, None)
        if not task.cancelled():
            task.exception()  # it is known, or nobody waits for it any more

    async def get(self, store: Store, key: str, *, urgent: bool = False) -> Entry | None:
        """Read a key; what comes may be old."""
        return await self.make(store.get(key), "get", urgent=urgent)

    async def now(self) -> int:
        """Read the engine's clock, microseconds."""
        return await self.make(self.engine.now(), "now")

    async def write(
        self, store: Store, key: str, record: Record, condition: int | None, *, urgent: bool = False
    ) -> int:
        """Write a record where the key has the revision `condition`; 0 = where it does not exist, `None` = always."""
        value = record.encode()
        if condition is None:
            return await self.make(store.put(key, value), "put", urgent=urgent)
        if condition == 0:
            return await self.make(store.create(key, value), "create", urgent=urgent)
        return await self.make(store.update(key, value, condition), "update", urgent=urgent)

    async def close(self, patience: float = 0.5) -> None:
        """Cancel the calls that go on, and wait for them a little."""
        going = tuple(self._going)
        for task in going:
            task.cancel()
        if going:
            await asyncio.wait(going, timeout=patience)
