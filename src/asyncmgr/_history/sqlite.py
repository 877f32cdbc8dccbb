"""Writes fates and the journal to one SQLite file. All functions belong to the thread that writes.

The file is a log: rows are added, and dropped when they are too old. Only the last row of a task that is being skipped
right now is written anew, since its slots are counted in one row.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncmgr._common.clock import SECOND
from asyncmgr._common.safe_text import error_text, safe_repr
from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import OF_KEY, Raw
from asyncmgr.errors import InvalidSettings

VERSION = 1
"""The version of the tables, in the file's `user_version`."""

SUCCESSES_KEPT = 7 * 86_400 * SECOND
REST_KEPT = 90 * 86_400 * SECOND
MOST_BYTES = 512 * 1024 * 1024
"""Size of the file above which the oldest successes are dropped, however young they are."""

BUSY = 50
"""Successes a second above which each task gets one row for five minutes, and not one for each run."""

BUCKET = 300 * SECOND
_GROWING = 50_000
"""The number of spans whose row is known, so that it can be written anew."""

_SLICE = 20_000
"""Rows that are dropped at once."""

_TABLES = """
CREATE TABLE IF NOT EXISTS lives(
    id INTEGER PRIMARY KEY, service TEXT, host TEXT, incarnation TEXT,
    started INTEGER, alive INTEGER, stopped INTEGER);
CREATE TABLE IF NOT EXISTS tasks(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, schedule TEXT);
CREATE TABLE IF NOT EXISTS fates(
    ended INTEGER PRIMARY KEY, task INTEGER NOT NULL, slot INTEGER NOT NULL, key INTEGER NOT NULL,
    life INTEGER NOT NULL, notable INTEGER, started INTEGER, took INTEGER, run INTEGER,
    last INTEGER, slots INTEGER, text TEXT);
CREATE INDEX IF NOT EXISTS notable_fates ON fates(task, slot) WHERE notable = 1;
CREATE TABLE IF NOT EXISTS busy(
    task INTEGER, at INTEGER, runs INTEGER, first INTEGER, last INTEGER, took INTEGER, longest INTEGER,
    PRIMARY KEY(task, at)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal(
    at INTEGER PRIMARY KEY, kind TEXT NOT NULL, task TEXT, until INTEGER, who TEXT, via TEXT, note TEXT, data TEXT);
"""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a service, from its start to its end. Moments are microseconds since 1970."""

    started: int
    alive: int
    """The last moment at which it was seen alive."""
    stopped: int | None
    """When it stopped; `None` = it did not, but was killed, or the machine went down."""


def path_of(url: str) -> Path:
    """Read the path from ``sqlite:///path``.

    Raises
    ------
    InvalidSettings
        The URL is of another form.
    """
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite" or not rest.startswith("/") or rest == "/":
        raise InvalidSettings(
            f"history={safe_repr(url)} is not accepted; write it like sqlite:///var/lib/app/history.db, an absolute "
            "path after sqlite://"
        )
    return Path(rest)


class HistoryFile:
    """The file of one service, open for writing."""

    def __init__(self, path: Path, *, service: str, host: str, incarnation: str, now: int) -> None:
        """Open the file, or make it; begin another life in it.

        Raises
        ------
        InvalidSettings
            The file cannot be opened, or is no history that this version can write.
        """
        self.path = path
        self.rows = 0
        """The number of rows written to `fates`."""
        self._task_ids: dict[int, int] = {}
        self._span_keys: dict[int, int] = {}
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
            try:
                self._prepare()
                self.former: Life | None = self._former(service, host)
                self._life = self._begin(service, host, incarnation, now)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as exc:
            raise InvalidSettings(
                f"the history file {path} cannot be used: {error_text(exc)}; name a file in a directory that this "
                "process may write to, or move the file away"
            ) from exc

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a commit survives the process, not a power cut
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(
                f"it is of version {version}, and this program writes version {VERSION}"
            )
        self._db.executescript(_TABLES)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _former(self, service: str, host: str) -> Life | None:
        row = self._db.execute(
            "SELECT started, alive, stopped FROM lives WHERE service = ? AND host = ? ORDER BY id DESC LIMIT 1",
            (service, host),
        ).fetchone()
        return None if row is None else Life(*row)

    def _begin(self, service: str, host: str, incarnation: str, now: int) -> int:
        cursor = self._db.execute(
            "INSERT INTO lives(service, host, incarnation, started, alive) VALUES (?, ?, ?, ?, ?)",
            (service, host, incarnation, now, now),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def last_slots(self, since: int) -> dict[str, int]:
        """Find the newest slot of each task: of fast tasks since this moment, of all others at any time."""
        found = self._db.execute(
            "SELECT name, (SELECT coalesce(last, slot) FROM fates WHERE task = tasks.id AND notable = 1 "
            "ORDER BY slot DESC LIMIT 1) FROM tasks "  # by the index: a file may have millions of rows
            "UNION ALL SELECT name, max(slot) FROM fates JOIN tasks ON tasks.id = task WHERE ended >= ? GROUP BY task "
            "UNION ALL SELECT name, max(last) FROM busy JOIN tasks ON tasks.id = task WHERE last >= ? GROUP BY task",
            (since, since),
        )
        slots: dict[str, int] = {}
        for name, slot in found:
            if slot is not None:
                slots[name] = max(slot, slots.get(name, slot))
        return slots

    # Writing

    def write(
        self,
        runs: Iterable[tuple[Raw, str, bool]],
        spans: Iterable[tuple[int, Raw, str]],
        entries: Iterable[Entry],
        *,
        name_of: Callable[[int], str],
        now: int,
        elapsed: float,
    ) -> None:
        """Write all of these in one commit, and that the service is alive.

        `runs` are records with their text and whether the task is slow; `spans` have a number of their own, by which a
        span that has grown replaces its row. `elapsed` are the seconds since the last commit.
        """
        found = list(runs)
        successes = sum(1 for raw, _, _ in found if raw.fate == 0)
        is_busy = successes > BUSY * max(elapsed, 1.0)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            busy: dict[int, list[Raw]] = {}
            for raw, text, is_slow in found:
                if is_busy and raw.fate == 0 and not is_slow:
                    busy.setdefault(raw.task, []).append(raw)
                else:
                    self._write_run(raw, text, is_slow, name_of)
            for task, together in busy.items():
                self._write_busy(self._task(task, name_of), together)
            for number, raw, text in spans:
                self._write_span(number, raw, text, name_of)
            for entry in entries:
                self._write_entry(entry)
            self._db.execute("UPDATE lives SET alive = ? WHERE id = ?", (now, self._life))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._task_ids.clear()
            raise

    def _write_run(self, raw: Raw, text: str, is_slow: bool, name_of: Callable[[int], str]) -> None:
        row = {
            "task": self._task(raw.task, name_of),
            "slot": raw.slot,
            "key": raw.key & OF_KEY,
            "life": self._life,
            "notable": 1 if is_slow or raw.fate else None,
            "started": round(raw.started * SECOND) - raw.slot,
            "took": round(raw.duration * SECOND),
            "run": raw.number or None,
            "text": text or None,
        }
        self._insert(raw.ended, row)

    def _write_span(self, number: int, raw: Raw, text: str, name_of: Callable[[int], str]) -> None:
        key = self._span_keys.get(number)
        if key is not None:
            changed = self._db.execute(
                "UPDATE fates SET last = ?, slots = ? WHERE ended = ? AND task = ? AND slot = ?",
                (raw.last, raw.slots, key, self._task(raw.task, name_of), raw.slot),
            )
            if changed.rowcount:
                return
        row = {
            "task": self._task(raw.task, name_of),
            "slot": raw.slot,
            "key": raw.key & OF_KEY,
            "life": self._life,
            "notable": 1,
            "last": raw.last,
            "slots": raw.slots,
            "text": text or None,
        }
        self._span_keys[number] = self._insert(raw.last, row)
        while len(self._span_keys) > _GROWING:
            del self._span_keys[next(iter(self._span_keys))]  # the oldest: it has grown no more for long

    def _insert(self, ended: int, row: dict[str, Any]) -> int:
        """Insert a row; where its moment is taken, a microsecond later."""
        columns = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        values = tuple(row.values())
        statement = f"INSERT OR IGNORE INTO fates(ended, {columns}) VALUES (?, {marks})"
        while not self._db.execute(statement, (ended, *values)).rowcount:
            ended += 1
        self.rows += 1
        return ended

    def _write_busy(self, task: int, runs: list[Raw]) -> None:
        for at in sorted({raw.slot // BUCKET for raw in runs}):
            together = [raw for raw in runs if raw.slot // BUCKET == at]
            took = [round(raw.duration * SECOND) for raw in together]
            first, last = min(raw.slot for raw in together), max(raw.slot for raw in together)
            self._db.execute(
                "INSERT INTO busy VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "runs = runs + excluded.runs, first = min(first, excluded.first), last = max(last, excluded.last), "
                "took = took + excluded.took, longest = max(longest, excluded.longest)",
                (task, at * BUCKET, len(together), first, last, sum(took), max(took)),
            )

    def _write_entry(self, entry: Entry) -> None:
        at = entry.at
        data = json.dumps(entry.data, default=str) if entry.data else None
        row = (entry.kind, entry.task, entry.until, entry.who, entry.where, entry.note, data)
        statement = "INSERT OR IGNORE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        while not self._db.execute(statement, (at, *row)).rowcount:
            at += 1

    def _task(self, number: int, name_of: Callable[[int], str]) -> int:
        found = self._task_ids.get(number)
        if found is None:
            name = name_of(number)
            self._db.execute("INSERT OR IGNORE INTO tasks(name) VALUES (?)", (name,))
            row = self._db.execute("SELECT id FROM tasks WHERE name = ?", (name,)).fetchone()
            found = self._task_ids[number] = row[0]
        return found

    # Keeping it small

    def drop_old(self, now: int, most_bytes: int = MOST_BYTES) -> bool:
        """Drop a slice of what is too old, or too much; return whether there is more to drop."""
        more = self._drop("notable IS NULL AND ended < ?", now - SUCCESSES_KEPT)
        more |= self._drop("(key & 255) = 0 AND ended < ?", now - SUCCESSES_KEPT)
        more |= self._drop("ended < ?", now - REST_KEPT)
        if self._size() > most_bytes:
            more |= self._drop("(key & 255) = 0 AND ended < ?", now)
        self._db.execute("DELETE FROM busy WHERE at < ?", (now - SUCCESSES_KEPT,))
        self._db.execute("DELETE FROM journal WHERE at < ?", (now - REST_KEPT,))
        return more

    def _drop(self, condition: str, before: int) -> bool:
        chosen = f"SELECT ended FROM fates WHERE {condition} ORDER BY ended LIMIT {_SLICE}"
        return self._db.execute(f"DELETE FROM fates WHERE ended IN ({chosen})", (before,)).rowcount == _SLICE

    def _size(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def stop(self, now: int) -> None:
        """Write that the service has stopped, and close the file."""
        with closing(self._db):
            self._db.execute("UPDATE lives SET alive = ?, stopped = ? WHERE id = ?", (now, now, self._life))
