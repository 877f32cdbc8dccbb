"""The table of the stores: found, or made where it is missing."""

from __future__ import annotations

from asyncpg import DuplicateTableError, InsufficientPrivilegeError, UndefinedTableError, UniqueViolationError

from asyncmgr.errors import TransportError
from asyncmgr.transports._postgres.link import Link, Row, Session
from asyncmgr.transports._postgres.sql import Statements, script


class Table:
    """The table in one schema of the database that a link reaches."""

    def __init__(self, link: Link, statements: Statements) -> None:
        self._link = link
        self.statements = statements

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """The rows of one statement; where the table is missing it is made, and the statement done then."""
        try:
            return await self._link.call(lambda session: session.fetch(sql, *args))
        except TransportError as exc:
            if not isinstance(exc.__cause__, UndefinedTableError):
                raise
        await self.make()
        return await self._link.call(lambda session: session.fetch(sql, *args))

    async def make(self) -> None:
        """Make the table where it is missing."""
        try:
            await self._link.call(self._make)
        except TransportError as exc:
            if isinstance(exc.__cause__, DuplicateTableError | UniqueViolationError):
                return  # somebody else made it meanwhile
            if not isinstance(exc.__cause__, InsufficientPrivilegeError):
                raise
            options = self._link.options
            sql = script(self.statements.schema, options.user)
            raise TransportError(
                f"the table {self.statements.table} is missing in {options.server}, and the role may not make it; "
                f"have an owner run this ('asyncmgr store sql URL' prints it):\n{sql}"
            ) from exc

    async def make_store(self, name: str, ttl: float | None) -> None:
        """Make the store where it is missing; raises `TransportError` where it has another TTL."""
        rows = await self.fetch(self.statements.find_store, name)
        if not rows:
            await self.fetch(self.statements.make_store, name, ttl)
            rows = await self.fetch(self.statements.find_store, name)
        found = rows[0]["ttl"] if rows else ttl
        if found != ttl:
            raise TransportError(
                f"store {name} has {_lasts(found)}, not {_lasts(ttl)}; use one everywhere, or remove its rows from "
                f"{self.statements.table} while nothing runs"
            )

    async def _make(self, session: Session) -> None:
        if not (await session.fetch(self.statements.find_table, self.statements.table))[0][0]:
            await session.fetch(self.statements.create_table)


def _lasts(ttl: float | None) -> str:
    return "no TTL" if ttl is None else f"a TTL of {ttl:g} s"
