"""Keeps the watches of one engine up to date, by one connection that listens.

A notification has a key and its revision, and its value is read. Every two seconds it is asked whether a store has
changed at all, and where it has, all its keys are compared: so a watch sees changes without notifications too, behind a
pooler for one. The same question finds out whether the connection still works. Now and then the keys are counted, since
somebody may have removed rows by SQL.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from asyncmgr._common.safe_text import safe_str
from asyncmgr.errors import TransportError
from asyncmgr.transports._availability import CALL_WITHIN
from asyncmgr.transports._followed import Followed
from asyncmgr.transports._postgres.failures import translated
from asyncmgr.transports._postgres.link import Link, Row, Session
from asyncmgr.transports._postgres.sql import Statements
from asyncmgr.transports._streams import Entry

POLL = 2.0
"""Seconds between two looks at a store."""

RECOUNT = 5.0
"""Seconds between two counts of the keys, which show what was removed by SQL: that moves no revision of the store."""

_HINTS_MOST = 500
"""Keys that are read one by one; for more of them, all are compared."""


@dataclass(eq=False)
class Feed:
    """One watch, with the keys that it has to read."""

    followed: Followed
    channel: str
    listening: asyncio.Future[None]
    """Done once its notifications come; whoever waits reads the snapshot then."""
    hints: dict[str, int] = field(default_factory=dict)
    """The keys that have changed, each with the last revision that was told."""

    @property
    def begun(self) -> bool:
        return self.followed.seen > 0

    def take_hints(self) -> dict[str, int]:
        hints, self.hints = self.hints, {}
        return hints


class Follower:
    """Listens while there is a watch. Where it fails, all watches end with `TransportError`."""

    def __init__(self, link: Link, statements: Statements) -> None:
        self._link = link
        self._sql = statements
        self._feeds: list[Feed] = []
        self._channels: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, followed: Followed, channel: str) -> Feed:
        """Follow; wait for its `listening`, then have `followed` begin."""
        feed = Feed(followed, channel, asyncio.get_running_loop().create_future())
        self._feeds.append(feed)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="asyncmgr PostgreSQL watches")
        return feed

    def remove(self, feed: Feed) -> None:
        """Follow no more."""
        if feed in self._feeds:
            self._feeds.remove(feed)
        feed.listening.cancel()
        if not self._feeds and self._task:
            self._task.cancel()
            self._task = None

    def fail(self, error: Exception) -> None:
        """End all watches, since changes may be missed."""
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            _end(feed, f"changes may be missed ({safe_str(error)}); watch again")
        if self._task and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None

    async def close(self) -> None:
        """End all watches without an error."""
        task = self._task
        for feed in tuple(self._feeds):
            feed.followed.watch.end()
            self.remove(feed)
        if task:
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        session: Session | None = None
        try:
            session = await self._link.connect()
            session.when_lost(self._wake.set)
            self._channels = set()
            await self._follow(session)
        except Exception as exc:
            self._link.availability.doubt()
            self.fail(translated(exc, self._link.options))
        finally:
            if session:
                self._link.discard(session)

    async def _follow(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        next_poll, next_count = loop.time() + POLL, loop.time() + RECOUNT
        while True:
            async with asyncio.timeout(CALL_WITHIN):
                await self._listen(session)
                await self._read_hints(session)
                if (now := loop.time()) >= next_poll:
                    next_poll = now + POLL
                    await self._poll(session)
                if now >= next_count:
                    next_count = now + RECOUNT
                    await self._recount(session)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_poll):
                    await self._wake.wait()
            self._wake.clear()
            if not session.alive:
                raise ConnectionResetError("the server ended the connection")

    async def _listen(self, session: Session) -> None:
        for feed in tuple(self._feeds):
            if feed.channel not in self._channels:
                await session.listen(feed.channel, self._hear)
                self._channels.add(feed.channel)
            if not feed.listening.done():
                feed.listening.set_result(None)

    def _hear(self, channel: str, text: str) -> None:
        revision, _, key = text.partition(" ")
        for feed in self._feeds:
            if feed.channel == channel and key.startswith(feed.followed.start) and revision.isdecimal():
                feed.hints[key] = max(int(revision), feed.hints.get(key, 0))
                self._wake.set()

    async def _read_hints(self, session: Session) -> None:
        for feed in tuple(self._feeds):
            if not feed.begun or not feed.hints:
                continue
            hints = feed.take_hints()
            if len(hints) > _HINTS_MOST:
                await self._compare(session, feed)
                continue
            keys = [key for key, revision in hints.items() if revision > feed.followed.revision_of(key)]
            found = await self._read(session, feed, keys)
            for key in keys:
                if key not in found:
                    feed.followed.tell_absent(key, hints[key])

    async def _poll(self, session: Session) -> None:
        feeds = [feed for feed in self._feeds if feed.begun]
        stores = sorted({feed.followed.store for feed in feeds})
        last = {row[0]: int(row[1]) for row in await session.fetch(self._sql.last, stores)}
        for feed in feeds:
            now = last.get(feed.followed.store, 0)
            if now > feed.followed.seen:
                now = await self._compare(session, feed)
            if now < feed.followed.seen:
                self._feeds.remove(feed)
                _end(feed, f"store {feed.followed.store} was emptied or restored; watch again")
            feed.followed.watch.note_heard()

    async def _recount(self, session: Session) -> None:
        """Compare all keys where their number, or the sum of their revisions, is not as it was told."""
        for feed in [feed for feed in self._feeds if feed.begun]:
            followed = feed.followed
            (row,) = await session.fetch(self._sql.summary, followed.store, *between(followed.start))
            if (row["keys"], row["revisions"]) != followed.summary:
                await self._compare(session, feed)

    async def _compare(self, session: Session, feed: Feed) -> int:
        """Tell all that has changed; return the store's last revision at that moment."""
        followed = feed.followed
        rows = await session.fetch(self._sql.listing, followed.store, *between(followed.start))
        last, listed = split(rows)
        await self._read(session, feed, followed.changed(listed))
        followed.tell_vanished(listed, last)
        followed.seen = max(last, followed.seen) if last else followed.seen
        return last

    async def _read(self, session: Session, feed: Feed, keys: list[str]) -> set[str]:
        """Tell the entries of `keys`; return the keys that are there."""
        if not keys:
            return set()
        rows = await session.fetch(self._sql.values, feed.followed.store, keys)
        for entry in map(entry_of, rows):
            feed.followed.tell(entry)
        return {row["key"] for row in rows}


def between(start: str) -> tuple[str, str]:
    """The bounds of the keys that begin with `start`, which is empty or ends with a dot; keys are ASCII."""
    return (start, start[:-1] + "/") if start else ("!", "~")


def split(rows: list[Row]) -> tuple[int, dict[str, int]]:
    """The store's last revision out of a list of keys (0 = there is no such store), and the revision of each key."""
    listed = {row["key"]: int(row["revision"]) for row in rows}
    return listed.pop("", 0), listed


def entry_of(row: Row) -> Entry:
    return Entry(row["key"], bytes(row["value"]), int(row["revision"]), max(0.0, row["age"]))


def _end(feed: Feed, fact: str) -> None:
    error = TransportError(fact)
    feed.followed.watch.end(error)
    if not feed.listening.done():
        feed.listening.set_exception(error)
        feed.listening.exception()  # is known, also where nobody waits
