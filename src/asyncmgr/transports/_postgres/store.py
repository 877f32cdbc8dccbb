"""One store in PostgreSQL's table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from asyncmgr.errors import RevisionConflict, TransportClosed, TransportError
from asyncmgr.transports._availability import CALL_WITHIN
from asyncmgr.transports._followed import Followed
from asyncmgr.transports._given import VALUE_LIMIT, Data, check_name, check_prefix, to_bytes
from asyncmgr.transports._postgres.follower import Follower, between, entry_of, split
from asyncmgr.transports._postgres.link import Link, Row
from asyncmgr.transports._postgres.schema import Table
from asyncmgr.transports._postgres.sql import channel_of
from asyncmgr.transports._stores import Store
from asyncmgr.transports._streams import Entry, Watch

T = TypeVar("T")

PURGE_EVERY = 60.0
"""Seconds between two looks for expired keys, which a write may begin."""

PURGED_AT_ONCE = 500
"""Keys that one statement removes."""

_REVISIONS_END = 2**63


class PostgresStore(Store):
    """The keys of one name. Where the server has lost them, the store is made again at the next use, empty."""

    def __init__(
        self,
        link: Link,
        table: Table,
        follower: Follower,
        name: str,
        ttl: float | None,
        *,
        watched: bool,
        check: Callable[[], None],
    ) -> None:
        self._link, self._table, self._follower = link, table, follower
        self._name, self._ttl = name, ttl
        self._watched = watched
        self._check = check
        self._sql = table.statements
        self._channel = channel_of(self._sql.schema, name)
        told = self._channel if watched else None
        self._put = self._sql.put(told)
        self._create = self._sql.create(told)
        self._update = self._sql.update(told)
        self._delete = self._sql.delete(told, conditional=False)
        self._delete_at = self._sql.delete(told, conditional=True)
        self._next_purge = link.now() + PURGE_EVERY

    async def get(self, key: str) -> Entry | None:
        rows = await self._fetch(self._sql.get, check_name(key, "key"))
        return entry_of(rows[0]) if rows else None

    async def put(self, key: str, value: Data) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        revision = await self._write(self._put, key, raw)
        if revision is None:
            raise TransportError(
                f"{self._name}: {key} was not written; see the triggers of {self._sql.table}"
            )
        return revision

    async def create(self, key: str, value: Data) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        revision = await self._write(self._create, key, raw)
        if revision is None:
            raise RevisionConflict(f"{self._name}: {key} is there already; read it, and update it")
        return revision

    async def update(self, key: str, value: Data, revision: int) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        return await self._write_at(self._update, revision, key, raw)

    async def delete(self, key: str, revision: int | None = None) -> None:
        check_name(key, "key")
        if revision is None:
            await self._write(self._delete, key)
        else:
            await self._write_at(self._delete_at, revision, key)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        followed = Followed(self._name, check_prefix(prefix), self._ttl)
        self._ready()
        feed = self._follower.add(followed, self._channel)
        try:
            async with self._link.calls.within(CALL_WITHIN, f"{self._name}: no watch began"):
                await feed.listening
                followed.begin(*await self._snapshot(followed.start))
            followed.watch.note_heard()
            yield followed.watch
        finally:
            followed.watch.end()
            self._follower.remove(feed)

    async def keys(self, prefix: str = "") -> list[str]:
        rows = await self._fetch(self._sql.listing, *between(check_prefix(prefix)))
        return [*split(rows)[1]]

    async def _snapshot(self, start: str) -> tuple[list[Entry], int]:
        for _ in range(2):
            rows = await self._fetch(self._sql.snapshot, *between(start))
            if last := split(rows)[0]:
                return [entry_of(row) for row in rows if row["key"]], last
            await self._make()
        raise self._gone()

    async def _write_at(self, sql: str, revision: int, key: str, *values: bytes) -> int:
        if not 0 < revision < _REVISIONS_END:
            self._ready()
            raise self._conflict(key, revision)
        written = await self._write(sql, key, *values, revision)
        if written is None:
            raise self._conflict(key, revision)
        return written

    async def _write(self, sql: str, key: str, *args: object) -> int | None:
        """Write, once more where there was no such store, so that nothing was written; None = it was refused."""
        for _ in range(2):
            row = (await self._fetch(sql, key, *args))[0]
            if row["there"] or row["revision"] is not None:
                self._purge_now_and_then()
                return row["revision"] and int(row["revision"])
            await self._make()
        raise self._gone()

    async def _fetch(self, sql: str, *args: object) -> list[Row]:
        self._ready()
        return await self._table.fetch(sql, self._name, *args)

    async def _make(self) -> None:
        await self._table.make_store(self._name, self._ttl)

    def _ready(self) -> None:
        self._check()
        self._link.calls.check()
        self._link.availability.check()

    def _conflict(self, key: str, revision: int) -> RevisionConflict:
        return RevisionConflict(f"{self._name}: {key} is not at revision {revision}; read it again")

    def _gone(self) -> TransportError:
        return TransportError(
            f"store {self._name} is gone from {self._sql.table}; is something else removing its rows?"
        )

    # Expired keys

    def _purge_now_and_then(self) -> None:
        if self._ttl is not None and self._link.now() >= self._next_purge:
            self._next_purge = self._link.now() + PURGE_EVERY
            self._link.spawn(self._purge(), "asyncmgr PostgreSQL purge")

    async def _purge(self) -> None:
        """Remove a batch of keys that have expired. Nothing depends on it, and a later one makes up for a failure."""
        try:
            await self._table.fetch(self._sql.purge, self._name, PURGED_AT_ONCE)
        except (TransportError, TransportClosed):
            return
