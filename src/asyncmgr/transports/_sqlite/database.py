"""One SQLite file with stores. Blocking: all of it runs in one thread, and knows nothing of an event loop.

Each write is one transaction, begun with the lock for writing (``BEGIN IMMEDIATE``), so whether it may happen is
decided on what all others have written. In WAL mode a killed process leaves whole transactions, and readers wait for
nobody. The clock is the machine's wall clock.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple, TypeVar

from asyncmgr._common.clock import SECOND, read_wall
from asyncmgr.errors import AsyncmgrError, RevisionConflict, TransportError
from asyncmgr.transports._followed import SUM_MODULO
from asyncmgr.transports._given import lasting
from asyncmgr.transports._sqlite.failures import translated
from asyncmgr.transports._sqlite.file import Options, check_place, identity
from asyncmgr.transports._streams import Entry

T = TypeVar("T")

BUSY_WITHIN = 4.0
"""Seconds that a write waits for those of other processes; less than a call may take."""

PURGE_EVERY = 60 * SECOND
"""Microseconds between two looks for expired keys, which a write may begin."""

PURGED_AT_ONCE = 200
"""Keys that one write removes."""

_BUSY_PAUSE = 0.01

_SCHEMA = """
CREATE TABLE IF NOT EXISTS asyncmgr_stores (
    store TEXT PRIMARY KEY, revision INTEGER NOT NULL, ttl REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asyncmgr_entries (
    store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    revision INTEGER NOT NULL, written INTEGER NOT NULL, expires INTEGER,
    PRIMARY KEY (store, key)
);
"""
_COLUMNS = "key, value, revision, written"
_ALIVE = "(expires IS NULL OR expires > ?)"
_BELOW = f"store = ? AND key >= ? AND key < ? AND {_ALIVE}"


class State(NamedTuple):
    """A store at one moment."""

    last: int
    """Its last revision; 0 = there is no such store."""
    listed: dict[str, int]
    """Its keys below a prefix, each with its revision."""


class Database:
    """The file of an engine. Opened at the first use, and again after an error or when another file is in its place."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._path = options.path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._next_purge: dict[str, int] = {}
        self.opened = 0
        """How often the file was opened."""

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` does with the file; errors are `TransportError`, and the file is opened anew then."""
        try:
            return work(self._ready())
        except AsyncmgrError:
            raise
        except Exception as exc:
            self.close()
            raise translated(exc, self._path) from exc

    def close(self) -> None:
        """Close the file; the last process to do so takes its -wal and -shm away."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def is_open(self) -> bool:
        """Whether the last use of the file went well. May be read in any thread."""
        return self._connection is not None

    # What stores do; each is one call of `run`

    def make_store(self, name: str, ttl: float | None) -> None:
        """Make the store where it is missing; raises `TransportError` where it has another TTL."""

        def work(connection: sqlite3.Connection) -> None:
            if (found := _store(connection, name)) is None:
                with _writing(connection):
                    found = _store(connection, name) or _made(connection, name, ttl)
            if found[1] != ttl:
                raise TransportError(
                    f"store {name} keeps keys {lasting(found[1])}, not {lasting(ttl)}; open it with one ttl, or "
                    f"remove its rows from asyncmgr_stores and asyncmgr_entries of {self._path} while nothing runs"
                )

        self.run(work)

    def get(self, name: str, key: str) -> Entry | None:
        sql = f"SELECT {_COLUMNS} FROM asyncmgr_entries WHERE store = ? AND key = ? AND {_ALIVE}"
        row = self.run(lambda connection: connection.execute(sql, (name, key, read_wall())).fetchone())
        return _entry(row, read_wall()) if row else None

    def write(self, name: str, ttl: float | None, key: str, value: bytes | None, expected: int | None) -> int:
        """Write `value`, or delete (None), where the revision is `expected`: 0 = there is no key, None = whatever.

        Returns the new revision; raises `RevisionConflict`.
        """

        def work(connection: sqlite3.Connection) -> int:
            with _writing(connection):
                last = (_store(connection, name) or _made(connection, name, ttl))[0]
                now = read_wall()
                found = _revision(connection, name, key, now)
                _require(name, key, found, expected)
                if value is None and not found:
                    return last
                revision = max(last + 1, now)
                expires = None if ttl is None else now + int(min(ttl * SECOND, 2**61))
                _put(connection, name, key, value, revision, now, expires)
                self._purge(connection, name, now)
            return revision

        return self.run(work)

    def state(self, name: str, start: str, seen: int | None = None) -> State:
        """The revisions of the keys that begin with `start`; none of them where the store is still at `seen`."""

        def work(connection: sqlite3.Connection) -> State:
            with _reading(connection):
                last = (_store(connection, name) or (0, None))[0]
                return State(last, {} if last == seen else _listed(connection, name, start))

        return self.run(work)

    def summary(self, name: str, start: str) -> tuple[int, int]:
        """The number of keys that begin with `start`, and the sum of their revisions by their rests of `SUM_MODULO`."""
        sql = (
            f"SELECT count(*), coalesce(sum(revision % {SUM_MODULO}), 0) FROM asyncmgr_entries WHERE {_BELOW}"
        )

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            keys, revisions = connection.execute(sql, (name, *_between(start), read_wall())).fetchone()
            return int(keys), int(revisions)

        return self.run(work)

    def entries(self, name: str, keys: list[str]) -> list[Entry]:
        """The entries of these keys, as far as they are there."""
        return [entry for key in keys if (entry := self.get(name, key)) is not None]

    def snapshot(self, name: str, ttl: float | None, start: str) -> tuple[list[Entry], int]:
        """The entries below `start`, and the store's last revision at that moment."""
        self.make_store(name, ttl)
        sql = f"SELECT {_COLUMNS} FROM asyncmgr_entries WHERE {_BELOW}"

        def work(connection: sqlite3.Connection) -> tuple[list[Entry], int]:
            with _reading(connection):
                last = (_store(connection, name) or (0, None))[0]
                rows = connection.execute(sql, (name, *_between(start), now := read_wall())).fetchall()
            return [_entry(row, now) for row in rows], last

        return self.run(work)

    def version(self) -> tuple[int, int]:
        """Two numbers that change when another process has written, or the file was opened anew. Costs microseconds."""
        version = self.run(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]))
        return self.opened, version

    # The file

    def _ready(self) -> sqlite3.Connection:
        if self._connection is not None and identity(self._path) != self._identity:
            self.close()  # what others write goes to another file by now
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        check_place(self._path)
        connection = sqlite3.connect(
            self._path, timeout=BUSY_WITHIN, isolation_level=None, check_same_thread=False
        )
        try:
            mode = _into_wal_mode(connection)
            if mode.lower() != "wal":
                raise TransportError(f"{self._path} cannot be kept in WAL mode ({mode}); give a local path")
            connection.execute(f"PRAGMA synchronous = {self.options.synchronous}")
            if not _has_tables(connection):
                with _writing(connection):
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        self._identity = identity(self._path)
        self.opened += 1
        return connection

    def _purge(self, connection: sqlite3.Connection, name: str, now: int) -> None:
        if now < self._next_purge.setdefault(name, now + PURGE_EVERY):
            return
        self._next_purge[name] = now + PURGE_EVERY
        connection.execute(
            "DELETE FROM asyncmgr_entries WHERE rowid IN "
            "(SELECT rowid FROM asyncmgr_entries WHERE store = ? AND expires <= ? LIMIT ?)",
            (name, now, PURGED_AT_ONCE),
        )


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    with _transaction(connection, "BEGIN IMMEDIATE"):
        yield


@contextmanager
def _reading(connection: sqlite3.Connection) -> Iterator[None]:
    with _transaction(connection, "BEGIN"):
        yield


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _into_wal_mode(connection: sqlite3.Connection) -> str:
    """Change a new file, and return its mode. SQLite waits for no other process here, which may be doing the same."""
    until = time.monotonic() + BUSY_WITHIN
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(_BUSY_PAUSE)


def _has_tables(connection: sqlite3.Connection) -> bool:
    sql = "SELECT count(*) FROM sqlite_master WHERE name IN ('asyncmgr_stores', 'asyncmgr_entries')"
    return bool(connection.execute(sql).fetchone()[0] == 2)


def _store(connection: sqlite3.Connection, name: str) -> tuple[int, float | None] | None:
    """Last revision and TTL of a store; None = it is missing."""
    with closing(
        connection.execute("SELECT revision, ttl FROM asyncmgr_stores WHERE store = ?", (name,))
    ) as rows:
        found: tuple[int, float | None] | None = rows.fetchone()
    return found


def _made(connection: sqlite3.Connection, name: str, ttl: float | None) -> tuple[int, float | None]:
    # Rows of a store that somebody has removed in part.
    sql = "SELECT max(revision) FROM asyncmgr_entries WHERE store = ?"
    revision = max(read_wall(), (connection.execute(sql, (name,)).fetchone()[0] or 0) + 1)
    connection.execute("INSERT INTO asyncmgr_stores VALUES (?, ?, ?)", (name, revision, ttl))
    return revision, ttl


def _revision(connection: sqlite3.Connection, name: str, key: str, now: int) -> int:
    sql = f"SELECT revision FROM asyncmgr_entries WHERE store = ? AND key = ? AND {_ALIVE}"
    found = connection.execute(sql, (name, key, now)).fetchone()
    return int(found[0]) if found else 0


def _require(name: str, key: str, found: int, expected: int | None) -> None:
    if expected is None or found == expected:
        return
    if not expected:
        raise RevisionConflict(f"{name}: {key} is there, at revision {found}; update it")
    state = f"at revision {found}" if found else "not there"
    raise RevisionConflict(f"{name}: {key} is {state}, not at {expected}; read it again")


def _put(
    connection: sqlite3.Connection,
    name: str,
    key: str,
    value: bytes | None,
    revision: int,
    now: int,
    expires: int | None,
) -> None:
    if value is None:
        connection.execute("DELETE FROM asyncmgr_entries WHERE store = ? AND key = ?", (name, key))
    else:
        connection.execute(
            "INSERT OR REPLACE INTO asyncmgr_entries VALUES (?, ?, ?, ?, ?, ?)",
            (name, key, value, revision, now, expires),
        )
    connection.execute("UPDATE asyncmgr_stores SET revision = ? WHERE store = ?", (revision, name))


def _listed(connection: sqlite3.Connection, name: str, start: str) -> dict[str, int]:
    sql = f"SELECT key, revision FROM asyncmgr_entries WHERE {_BELOW}"
    return dict(connection.execute(sql, (name, *_between(start), read_wall())).fetchall())


def _between(start: str) -> tuple[str, str]:
    """The bounds of the keys that begin with `start`, which is empty or ends with a dot; keys are ASCII."""
    return (start, start[:-1] + "/") if start else ("!", "~")


def _entry(row: tuple[str, bytes, int, int], now: int) -> Entry:
    key, value, revision, written = row
    return Entry(key, bytes(value), revision, max(0.0, (now - written) / SECOND))
