"""`Server`: the one store of a simulated cluster. It knows neither hosts nor delays; `store` is the way to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from asyncmgr.errors import RevisionConflict
from asyncmgr.testing.simulation._timeline import SECOND, Timeline
from asyncmgr.transports._streams import Deleted, Entry

EPOCH = 1_704_067_200 * SECOND
"""Real time zero: 2024-01-01 UTC, in microseconds since 1970."""

REMEMBERED = 30 * SECOND
"""Microseconds for which old values are kept for stale reads."""

Listener: TypeAlias = Callable[[str, "Record | None"], None]
"""Called with a key and its new record; `None` = it was deleted."""


class Record(NamedTuple):
    """A key's value, or its deletion."""

    value: bytes | None
    """`None` = the key was deleted at this revision."""
    revision: int
    written: int
    """The real moment of the write."""


class Write(NamedTuple):
    """A write that the server has carried out."""

    table: str
    key: str
    before: Record | None
    after: Record
    writer: object
    """Who asked for it."""


@dataclass
class Table:
    """The keys of one store."""

    name: str
    ttl: float | None
    records: dict[str, Record] = field(default_factory=dict)
    """The present records, deleted ones left out."""
    history: dict[str, list[Record]] = field(default_factory=dict)
    """The records of each key since `REMEMBERED` before its last write, deleted ones included."""
    last: int = 0
    feeds: list[Callable[[str, Record], None]] = field(default_factory=list)


class Server:
    """Tables of records with revisions. All methods act at once."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.tables: dict[str, Table] = {}
        self.clock_error = 0
        """Microseconds by which the store's clock is ahead of real time."""
        self.highest = 0
        """The greatest revision ever given."""
        self.lost_writes = 0
        """How often acknowledged writes were lost: wipes and restores."""
        self.lost_at: int | None = None
        """The real moment of the last loss."""
        self.calls: Counter[str] = Counter()
        """Calls that have arrived, by kind."""
        self.on_write: Callable[[Write], None] = lambda write: None
        self.on_loss: list[Callable[[], None]] = []
        """Called after a wipe or a restore: connections break."""

    def now(self) -> int:
        """Return the store's clock, microseconds since 1970."""
        return EPOCH + self._timeline.now + self.clock_error

    def table(self, name: str, ttl: float | None) -> Table:
        return self.tables.setdefault(name, Table(name, ttl))

    # Reading

    def read(self, table: Table, key: str, moment: int) -> Record | None:
        """Return the record of `key` as it was at that real moment; `None` = there was none."""
        record = table.records.get(key)
        if record is None or record.written > moment:
            record = _as_of(table.history.get(key, ()), moment)
        return None if record is None or self._is_gone(table, record) else record

    def read_all(self, table: Table, prefix: str, moment: int) -> list[tuple[str, Record]]:
        """Return all records of keys that begin with `prefix`, as they were at that real moment."""
        found = ((key, self.read(table, key, moment)) for key in table.history if key.startswith(prefix))
        return [(key, record) for key, record in found if record is not None]

    def entry(self, key: str, record: Record) -> Entry:
        assert record.value is not None
        return Entry(key, record.value, record.revision, (self._timeline.now - record.written) / SECOND)

    def _is_gone(self, table: Table, record: Record) -> bool:
        age = self._timeline.now - record.written
        return record.value is None or (table.ttl is not None and age >= table.ttl * SECOND)

    # Writing

    def put(self, table: Table, key: str, value: bytes, writer: object) -> int:
        return self._write(table, key, value, writer)

    def create(self, table: Table, key: str, value: bytes, writer: object) -> int:
        present = self.read(table, key, self._timeline.now)
        if present is not None:
            raise RevisionConflict(f"{table.name}: {key} is there, at revision {present.revision}; update it")
        return self._write(table, key, value, writer)

    def update(self, table: Table, key: str, value: bytes, revision: int, writer: object) -> int:
        self._require(table, key, revision)
        return self._write(table, key, value, writer)

    def delete(self, table: Table, key: str, revision: int | None, writer: object) -> None:
        if revision is not None:
            self._require(table, key, revision)
        if self.read(table, key, self._timeline.now) is not None:
            self._write(table, key, None, writer)

    def _require(self, table: Table, key: str, revision: int) -> None:
        present = self.read(table, key, self._timeline.now)
        if present is None or present.revision != revision:
            found = f"at revision {present.revision}" if present else "not there"
            raise RevisionConflict(f"{table.name}: {key} is {found}, not at {revision}; read it again")

    def _write(self, table: Table, key: str, value: bytes | None, writer: object) -> int:
        table.last = max(table.last + 1, self.now())
        self.highest = max(self.highest, table.last)
        before = table.records.pop(key, None)
        record = Record(value, table.last, self._timeline.now)
        if value is not None:
            table.records[key] = record
        self._remember(table, key, record)
        self.on_write(Write(table.name, key, before, record, writer))
        for feed in tuple(table.feeds):
            feed(key, record)
        return table.last

    def _remember(self, table: Table, key: str, record: Record) -> None:
        past = table.history.setdefault(key, [])
        horizon = self._timeline.now - REMEMBERED
        while len(past) > 1 and past[1].written < horizon:
            del past[0]
        past.append(record)

    # Faults

    def save(self) -> dict[str, Table]:
        """Copy everything, for a later `restore`."""
        return {
            name: replace(table, records=dict(table.records), history=_copy(table.history), feeds=[])
            for name, table in self.tables.items()
        }

    def restore(self, saved: dict[str, Table]) -> None:
        """Go back to a copy; writes since then are lost, and so is the memory of their revisions."""
        for name, table in self.tables.items():
            old = saved.get(name, Table(name, table.ttl))
            table.records, table.history, table.last = dict(old.records), _copy(old.history), old.last
        self._lose()

    def wipe(self) -> None:
        """Lose everything."""
        self.restore({})

    def set_back(self, seconds: float) -> None:
        """Set the store's clock back, but not to before the last write: then nothing is promised any more."""
        least = self.highest + 1 - EPOCH - self._timeline.now
        self.clock_error = max(least, self.clock_error - round(seconds * SECOND))

    def note_loss(self) -> None:
        """Note that acknowledged writes are lost."""
        self.lost_writes += 1
        self.lost_at = self._timeline.now

    def _lose(self) -> None:
        self.note_loss()
        for listener in tuple(self.on_loss):
            listener()


def _as_of(past: list[Record] | tuple[()], moment: int) -> Record | None:
    for record in reversed(past):
        if record.written <= moment:
            return record
    return None


def _copy(history: dict[str, list[Record]]) -> dict[str, list[Record]]:
    return {key: list(past) for key, past in history.items()}


def change(server: Server, key: str, record: Record) -> Entry | Deleted:
    """Return what a watch tells of this record."""
    return Deleted(key, record.revision) if record.value is None else server.entry(key, record)
