"""``sqlite:///path``: stores in one file, for the processes of one machine.

All that touches the file runs in one thread of the engine, so that nothing blocks the event loop. While there is a
watch it is asked ten times a second whether another process has written; without one nothing wakes up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from asyncmgr._common.clock import read_wall
from asyncmgr._common.safe_text import safe_str
from asyncmgr.errors import TransportError
from asyncmgr.transports._availability import CALL_WITHIN, Availability, Calls
from asyncmgr.transports._followed import Followed
from asyncmgr.transports._given import VALUE_LIMIT, Data, check_name, check_prefix, check_store, to_bytes
from asyncmgr.transports._sqlite.database import Database
from asyncmgr.transports._sqlite.file import Options, read_options
from asyncmgr.transports._stores import Store, StoreEngine
from asyncmgr.transports._streams import Entry, Watch

T = TypeVar("T")

POLL = 0.1
"""Seconds between two looks at the file while there is a watch."""

LOOK_AGAIN = 2.0
"""Seconds after which a watch compares even where the file seems unchanged."""

RECOUNT = 2.0
"""Seconds between two counts of the keys of a file that others write. They show what was removed by SQL, behind the
back of all stores: that moves no revision."""


@asynccontextmanager
async def open_sqlite(url: str, settings: Any = None) -> AsyncIterator[SqliteEngine]:
    """The opener of the scheme ``sqlite``."""
    engine = SqliteEngine(read_options(url))
    try:
        await engine.open(wait=getattr(settings, "connect", None) == "wait")
        yield engine
    finally:
        await engine.aclose()


class SqliteEngine(StoreEngine):
    """One file; `open` it first. Where it cannot be used, it is tried again for ever."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._database = Database(options)
        self._path = options.path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asyncmgr SQLite")
        self._process = os.getpid()
        self.calls = Calls()
        self.availability = Availability(str(options.path), self._look, self._note)
        self.watches = Watches(self, self._database)

    async def open(self, *, wait: bool = False) -> None:
        """Open the file, or make it; raises `TransportError` where that fails, unless it may come later (`wait`)."""
        try:
            await self._look()
        except TransportError as exc:
            if not wait:
                raise
            self.availability.lose(exc)

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> SqliteStore:
        check_store(name, ttl)
        ttl = None if ttl is None else float(ttl)
        await self.do(self._database.make_store, name, ttl)
        return SqliteStore(self, self._database, name, ttl)

    async def now(self) -> int:
        return await self.do(lambda: max(read_wall(), 0))

    async def aclose(self) -> None:
        self._note_closed()
        if self.calls.closed:
            return
        self.calls.close()
        await self.watches.close()
        await self.calls.ended()
        await self.availability.close()
        if os.getpid() == self._process:
            closing = self._thread.submit(self._database.close)
            self._thread.shutdown(wait=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(CALL_WITHIN):
                    await asyncio.wrap_future(closing)

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` does in the thread, in time; raises `TransportError`, after which it is unknown."""
        self.check()
        try:
            return await self._do(work, *args)
        except TransportError:
            if not self._database.is_open:
                self.availability.doubt()
            raise

    def check(self) -> None:
        """Raise `TransportClosed` or `TransportError` where no call is possible."""
        self.calls.check()
        if os.getpid() != self._process:
            raise TransportError(
                f"the store {self._path} was opened by another process, before a fork; open one in this process"
            )
        self.check_loop()
        self.availability.check()

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        async with self.calls.within(CALL_WITHIN, f"the store {self._path} did not serve"):
            return await asyncio.wrap_future(self._thread.submit(work, *args))

    async def _look(self) -> None:
        await self._do(self._database.version)

    def _note(self, connected: bool) -> None:
        if not connected:
            self.watches.fail(TransportError("the file cannot be used"))
        self._set_connected(connected)


class SqliteStore(Store):
    """The keys of one name. Where the file has lost them, the store is made again at the next use, empty."""

    def __init__(self, engine: SqliteEngine, database: Database, name: str, ttl: float | None) -> None:
        self._engine, self._database = engine, database
        self._name, self._ttl = name, ttl

    async def get(self, key: str) -> Entry | None:
        return await self._engine.do(self._database.get, self._name, check_name(key, "key"))

    async def put(self, key: str, value: Data) -> int:
        return await self._write(key, value, None)

    async def create(self, key: str, value: Data) -> int:
        return await self._write(key, value, 0)

    async def update(self, key: str, value: Data, revision: int) -> int:
        # 0 would mean that there is no key, and no key has a negative revision.
        return await self._write(key, value, revision or -1)

    async def delete(self, key: str, revision: int | None = None) -> None:
        check_name(key, "key")
        await self._change(key, None, revision if revision is None else revision or -1)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        followed = Followed(self._name, check_prefix(prefix), self._ttl)
        entries, last = await self._engine.do(self._database.snapshot, self._name, self._ttl, followed.start)
        followed.begin(entries, last)
        followed.watch.note_heard()
        self._engine.watches.add(followed)
        try:
            yield followed.watch
        finally:
            followed.watch.end()
            self._engine.watches.remove(followed)

    async def keys(self, prefix: str = "") -> list[str]:
        start = check_prefix(prefix)
        return [*(await self._engine.do(self._database.state, self._name, start)).listed]

    async def _write(self, key: str, value: Data, expected: int | None) -> int:
        return await self._change(key, to_bytes(value, check_name(key, "key"), VALUE_LIMIT), expected)

    async def _change(self, key: str, raw: bytes | None, expected: int | None) -> int:
        try:
            return await self._engine.do(self._database.write, self._name, self._ttl, key, raw, expected)
        finally:
            self._engine.watches.hasten()


class Watches:
    """Reads for all watches of one engine, in a task that lives while there is one."""

    def __init__(self, engine: SqliteEngine, database: Database) -> None:
        self._engine, self._database = engine, database
        self._followed: list[Followed] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, followed: Followed) -> None:
        """Keep this watch up to date; its snapshot is delivered."""
        self._followed.append(followed)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="asyncmgr SQLite watches")

    def remove(self, followed: Followed) -> None:
        """Keep it up to date no more."""
        if followed in self._followed:
            self._followed.remove(followed)
        if not self._followed and self._task:
            self._task.cancel()
            self._task = None

    def hasten(self) -> None:
        """Look at once, since this process has written."""
        self._wake.set()

    def fail(self, error: Exception) -> None:
        """End all watches, since changes may be missed."""
        followed, self._followed = self._followed, []
        for each in followed:
            each.watch.end(TransportError(f"changes may be missed ({safe_str(error)}); watch again"))
        if self._task and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None

    async def close(self) -> None:
        """End all watches without an error."""
        task = self._task
        for followed in tuple(self._followed):
            followed.watch.end()
            self.remove(followed)
        if task:
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception as exc:
            self.fail(exc)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        known: tuple[int, int] | None = None
        counted: tuple[int, int] | None = None
        look_again = count_again = 0.0
        while True:
            woken = self._wake.is_set()
            self._wake.clear()
            version = await self._engine.do(self._database.version)
            if woken or version != known or loop.time() >= look_again:
                known, look_again = version, loop.time() + LOOK_AGAIN
                for followed in tuple(self._followed):
                    await self._compare(followed)
            if version != counted and loop.time() >= count_again:
                counted, count_again = version, loop.time() + RECOUNT
                for followed in tuple(self._followed):
                    await self._recount(followed)
            for followed in self._followed:
                followed.watch.note_heard()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._wake.wait()

    async def _recount(self, followed: Followed) -> None:
        """Compare all keys where their number, or the sum of their revisions, is not as it was told."""
        found = await self._engine.do(self._database.summary, followed.store, followed.start)
        if found != followed.summary:
            await self._compare(followed, whole=True)

    async def _compare(self, followed: Followed, *, whole: bool = False) -> None:
        """Tell what has changed. `whole`: look at each key even where the store is still at its last revision."""
        name, seen = followed.store, None if whole else followed.seen
        state = await self._engine.do(self._database.state, name, followed.start, seen)
        if state.last < followed.seen:
            followed.watch.end(TransportError(f"store {name} was emptied or restored; watch again"))
            return self._followed.remove(followed) if followed in self._followed else None
        if state.last == seen:
            return None
        if keys := followed.changed(state.listed):
            for entry in await self._engine.do(self._database.entries, name, keys):
                followed.tell(entry)
        followed.tell_vanished(state.listed, state.last)
        followed.seen = state.last
        return None
