"""The connections to a PostgreSQL server: a few for calls, opened when needed, and others on request."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from asyncmgr.errors import TransportError
from asyncmgr.transports._availability import CALL_WITHIN, Availability, Calls
from asyncmgr.transports._postgres.failures import breaks, is_answer, translated
from asyncmgr.transports._postgres.options import Options
from asyncmgr.transports._postgres.sql import NOW

T = TypeVar("T")

CONNECT_WITHIN = 4.0
"""Seconds that a connection may take to come about; less than a call, so that the call knows why it failed."""

PROBE_WITHIN = 2.0
"""Seconds in which an idle connection has to answer, where it is doubtful whether the server does."""

CROWDED_FOR = 5.0
"""Seconds for which an engine goes on with fewer connections after the server had no room for another one."""

GOODBYE_WITHIN = 1.0
"""Seconds in which the server may learn that a connection, and what runs there, is no longer wanted."""

_TOO_MANY = "53300"

Row = Any
"""A row of an answer, by position and by name."""


class Session:
    """One connection. After a call without an answer it must be discarded, since what it awaits is unknown."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._prepared: dict[str, Any] = {}
        self.pooled = False
        """Whether a pooler stands between: its server may be another one for each transaction."""

    @property
    def alive(self) -> bool:
        return not self._connection.is_closed()

    async def prepare(self) -> None:
        """Find out about a pooler, and have each statement see what was committed before it."""
        await self._connection.execute("BEGIN")
        pid = await self._connection.fetchval("SELECT pg_backend_pid()")
        await self._connection.execute("COMMIT")
        self.pooled = pid != self._connection.get_server_pid()
        if not self.pooled:
            await self._connection.execute(
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"
            )

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """The rows of one statement."""
        if not self.pooled:
            if (statement := self._prepared.get(sql)) is None:
                # Its name says what it does. So not even behind a pooler that was not noticed can another statement
                # be executed in its place.
                name = "asyncmgr_" + hashlib.sha256(sql.encode()).hexdigest()[:32]
                statement = self._prepared[sql] = await self._connection.prepare(sql, name=name)
            return list(await statement.fetch(*args))
        # Preparing and executing are two requests: outside of a transaction a pooler may send them to two servers, and
        # the second would then execute what another client has prepared there.
        await self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        rows = list(await self._connection.fetch(sql, *args))
        await self._connection.execute("COMMIT")
        return rows

    async def listen(self, channel: str, heard: Callable[[str, str], object]) -> None:
        """Call `heard` with channel and payload of each notification. Behind a pooler none would come."""
        if not self.pooled:
            await self._connection.add_listener(channel, lambda _, __, channel, text: heard(channel, text))

    def when_lost(self, lost: Callable[[], object]) -> None:
        """Call `lost` once the connection has ended, by whomever."""
        self._connection.add_termination_listener(lambda _: lost())

    async def close(self) -> None:
        """Let the server know, as far as it listens; cancel there what still runs."""
        with suppress(Exception):
            # Its own timeout would not cover the wait until a statement is cancelled there.
            async with asyncio.timeout(GOODBYE_WITHIN):
                await self._connection.close()
        self._connection.terminate()

    def terminate(self) -> None:
        """End the connection at once."""
        self._connection.terminate()


class Link:
    """All connections of one engine.

    Parameters
    ----------
    changed
        Called with False when the server was lost, with True when it is back.
    """

    def __init__(self, options: Options, changed: Callable[[bool], object]) -> None:
        self.options = options
        self.calls = Calls()
        self.availability = Availability(options.server, self._reopen, changed)
        self._idle: list[Session] = []
        self._used = 0
        self._returned = asyncio.Event()
        """Set when a call has given its connection back, or lost it."""
        self._crowded_until = 0.0
        self._attempts: set[asyncio.Task[Session]] = set()
        """Attempts to connect that go on although their caller has given up."""
        self._endings: set[asyncio.Task[None]] = set()
        self._alive: set[Session] = set()

    async def open(self) -> None:
        """Connect once; raises `TransportError`."""
        self._idle.append(await self.connect())

    async def call(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Return what `work` does with a connection, in time; raises `TransportError`, after which it is unknown."""
        self.calls.check()
        self.availability.check()
        try:
            async with self.calls.within(CALL_WITHIN, f"PostgreSQL at {self.options.server} gave no answer"):
                session = await self._take()
                try:
                    result = await work(session)
                except BaseException as exc:
                    self._give_back(session, keep=is_answer(exc) and not session.pooled)
                    raise
                self._give_back(session)
                return result
        except TransportError as exc:
            if breaks(exc.__cause__):
                self.availability.doubt()
            raise
        except Exception as exc:
            if breaks(exc):
                self.availability.doubt()
            raise translated(exc, self.options) from exc

    async def connect(self) -> Session:
        """Open a connection, which the caller has to discard; raises `TransportError` or `InvalidSettings`."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                session = Session(
                    await asyncpg.connect(
                        self.options.dsn,
                        statement_cache_size=0,
                        timeout=CONNECT_WITHIN,
                        server_settings={"application_name": "asyncmgr"},
                    )
                )
                self._alive.add(session)
                session.when_lost(lambda: self._note_end(session))
                try:
                    await session.prepare()
                except BaseException:
                    self.discard(session)
                    raise
        except Exception as exc:
            raise translated(exc, self.options) from exc
        return session

    def discard(self, session: Session) -> None:
        """Forget a connection; it is ended in the background."""
        if session in self._alive:
            self._alive.discard(session)
            self.spawn(session.close(), "asyncmgr PostgreSQL connection that ends")

    def spawn(self, work: Any, name: str) -> None:
        """Do `work` in the background, until the engine is closed."""
        task = asyncio.create_task(work, name=name)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def now(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    async def close(self) -> None:
        """End all calls and connections. Idempotent."""
        self.calls.close()
        await self.calls.ended()
        await self.availability.close()
        while attempts := tuple(self._attempts):
            for attempt in attempts:
                attempt.cancel()
            await asyncio.wait(attempts)
        idle, self._idle = self._idle, []
        for session in idle:
            self.discard(session)
        while endings := tuple(self._endings):
            await asyncio.gather(*endings, return_exceptions=True)
            # Where all are done, `gather` gives their callbacks no turn of the loop.
            self._endings.difference_update(endings)
        for session in tuple(self._alive):
            session.terminate()
        # Aborting takes a turn of the loop, and two with TLS.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _take(self) -> Session:
        while True:
            while self._idle:
                session = self._idle.pop()
                if session.alive:
                    self._used += 1
                    return session
            if self._has_room() and (another := await self._one_more()):
                return another
            if not self._idle:
                self._returned.clear()
                await self._returned.wait()

    def _has_room(self) -> bool:
        """Whether to open one more connection; where the server had no room for it, not for a while."""
        return not self._used or (self._used < self.options.connections and self.now() >= self._crowded_until)

    async def _one_more(self) -> Session | None:
        """Another connection; None = the server has no room for it, but there are others to wait for."""
        self._used += 1
        attempt = asyncio.create_task(self.connect(), name="asyncmgr PostgreSQL connection")
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            # By the deadline of a call, which may be shorter than a busy server takes to accept a connection: then no
            # call would ever get one. The attempt goes on, and a later call finds what it has opened.
            self._attempts.add(attempt)
            attempt.add_done_callback(self._take_late)
            raise
        except BaseException as exc:
            self._used -= 1
            self._returned.set()
            if (self._used or self._idle) and getattr(exc.__cause__, "sqlstate", "") == _TOO_MANY:
                self._crowded_until = self.now() + CROWDED_FOR
                return None
            if isinstance(exc, TransportError):
                self.availability.lose(exc)
            raise

    def _take_late(self, attempt: asyncio.Task[Session]) -> None:
        """Keep the connection of an attempt whose caller has given up."""
        self._attempts.discard(attempt)
        if attempt.cancelled() or attempt.exception() is not None:
            self._used -= 1
            self._returned.set()
        else:
            self._give_back(attempt.result())

    def _give_back(self, session: Session, *, keep: bool = True) -> None:
        self._used -= 1
        self._returned.set()
        if keep and session.alive and len(self._idle) < self.options.connections and not self.calls.closed:
            self._idle.append(session)
        else:
            self.discard(session)

    async def _reopen(self) -> None:
        """Have a connection that works, one of before if possible."""
        session = await self._one_that_works() or await self.connect()
        if len(self._idle) + self._used < self.options.connections:
            self._idle.append(session)
            self._returned.set()
        else:
            self.discard(session)

    async def _one_that_works(self) -> Session | None:
        """An idle connection that answers; where it does not, all of them are given up."""
        while self._idle:
            session = self._idle.pop()
            try:
                async with asyncio.timeout(PROBE_WITHIN):
                    await session.fetch(NOW)
            except Exception:
                self.discard(session)
                for other in self._idle:
                    self.discard(other)
                self._idle.clear()
            except BaseException:
                self.discard(session)
                raise
            else:
                return session
        return None

    def _note_end(self, session: Session) -> None:
        """The server, or the network, has ended a connection that nobody gave up."""
        if session not in self._alive:
            return
        self._alive.discard(session)
        if session in self._idle:
            self._idle.remove(session)
            if not self.calls.closed:
                self.availability.doubt()
