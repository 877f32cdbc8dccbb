"""``postgresql://user@host/database``: stores in one table of a PostgreSQL database.

The URL is that of libpq: several hosts, ``sslmode`` and the like, and the variables ``PG*`` and ``~/.pgpass`` apply.
Two parameters are ours: ``schema`` (default: the first of the role's search path) and ``connections`` (default: 2).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asyncmgr.errors import TransportError
from asyncmgr.transports._given import check_store
from asyncmgr.transports._postgres.follower import Follower
from asyncmgr.transports._postgres.link import Link
from asyncmgr.transports._postgres.options import Options, read_options
from asyncmgr.transports._postgres.schema import Table
from asyncmgr.transports._postgres.sql import CURRENT_SCHEMA, NOW, Statements
from asyncmgr.transports._postgres.store import PostgresStore
from asyncmgr.transports._stores import StoreEngine


@asynccontextmanager
async def open_postgres(url: str, settings: Any = None) -> AsyncIterator[PostgresEngine]:
    """The opener of the schemes ``postgresql`` and ``postgres``."""
    engine = PostgresEngine(read_options(url))
    try:
        await engine.open(wait=getattr(settings, "connect", None) == "wait")
        yield engine
    finally:
        await engine.aclose()


class PostgresEngine(StoreEngine):
    """A few connections to one PostgreSQL server; `open` it first. A lost server is sought again for ever."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self._link = Link(options, self._note)
        self._follower: Follower | None = None
        self._statements: Statements | None = None

    async def open(self, *, wait: bool = False) -> None:
        """Connect; raises `TransportError` where that fails, unless a server may come later (`wait`)."""
        try:
            await self._link.open()
        except TransportError as exc:
            if not wait:
                raise
            self._link.availability.lose(exc)

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> PostgresStore:
        check_store(name, ttl)
        ttl = None if ttl is None else float(ttl)
        self.check_loop()
        statements = await self._prepared()
        if self._follower is None:
            self._follower = Follower(self._link, statements)
        table = Table(self._link, statements)
        await table.make_store(name, ttl)
        return PostgresStore(
            self._link, table, self._follower, name, ttl, watched=watched, check=self.check_loop
        )

    async def now(self) -> int:
        self.check_loop()
        return int((await self._link.call(lambda session: session.fetch(NOW)))[0][0])

    async def aclose(self) -> None:
        self._note_closed()
        self._link.calls.close()
        if self._follower:
            await self._follower.close()
        await self._link.close()

    async def _prepared(self) -> Statements:
        if self._statements is None:
            schema = self._options.schema
            if schema is None:
                rows = await self._link.call(lambda session: session.fetch(CURRENT_SCHEMA))
                schema = rows[0][0]
            if schema is None:
                raise TransportError(
                    f"PostgreSQL at {self._options.server}: the role's search_path names no schema that is there; "
                    "give one in the store URL, as ?schema=name"
                )
            self._statements = Statements(schema)
        return self._statements

    def _note(self, connected: bool) -> None:
        if not connected and self._follower:
            self._follower.fail(TransportError("the connection was lost"))
        self._set_connected(connected)
