"""Reads fates and the journal from the file of a service, as records. It waits for nothing but the disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from asyncmgr._common.clock import SECOND
from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import FATES, RUNS, TRIGGER_SHIFT, TRIGGERS, Record, attempts_of

_COLUMNS = "name, slot, key, started, took, run, last, slots, text"
_TOGETHER = "FROM fates JOIN tasks ON tasks.id = task"


class Past:
    """What the file of a service has. It is opened anew for each question, for reading only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _ask(self, question: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=1)) as db:
            return db.execute(question, values).fetchall()

    def newest(self, task: str | None, since: int, until: int, limit: int) -> list[Record]:
        """List up to `limit` records of a task, or of all, whose fate was known between two moments; newest first."""
        if task is None:
            rows = self._ask(
                f"SELECT {_COLUMNS} {_TOGETHER} WHERE ended BETWEEN ? AND ? ORDER BY ended DESC LIMIT ?",
                since,
                until,
                limit,
            )
        else:
            rows = self._ask(
                f"SELECT {_COLUMNS} {_TOGETHER} WHERE ended BETWEEN ? AND ? AND name = ? ORDER BY ended DESC LIMIT ?",
                since,
                until,
                task,
                limit,
            )
        return list(_records(rows))

    def around(self, task: str, first: int, last: int) -> list[Record]:
        """List the records of a task that have a slot between two moments; found by the index or by a short scan."""
        notable = self._ask(
            f"SELECT {_COLUMNS} {_TOGETHER} WHERE name = ? AND notable = 1 AND slot <= ? "
            "AND coalesce(last, slot) >= ? ORDER BY slot DESC LIMIT 100",
            task,
            last,
            first,
        )
        fast = self._ask(
            f"SELECT {_COLUMNS} {_TOGETHER} WHERE ended >= ? AND ended < ? AND name = ? AND slot BETWEEN ? AND ? "
            "AND notable IS NULL LIMIT 100",
            first - 2 * SECOND,
            last + 3600 * SECOND,
            task,
            first,
            last,
        )
        return list(_records(notable + fast))

    def busy(self, task: str, moment: int) -> tuple[int, int, int] | None:
        """Find the five minutes of a busy task that a moment lies in: where they begin, runs, microseconds taken."""
        rows = self._ask(
            "SELECT at, runs, took FROM busy JOIN tasks ON tasks.id = task "
            "WHERE name = ? AND at <= ? ORDER BY at DESC LIMIT 1",
            task,
            moment,
        )
        return rows[0] if rows and rows[0][0] + 300 * SECOND > moment else None

    def runs(self, most: int = 200_000) -> Iterator[tuple[str, int, str, float, str]]:
        """Yield the newest runs, `most` of slow tasks and failures and as many others: task, slot, fate, seconds, text.

        Two reads of the file for all tasks, which may have millions of runs; a fast task leaves room for the nightly
        one.
        """
        for which in ("notable = 1", "notable IS NULL"):
            rows = self._ask(
                f"SELECT name, slot, key, took, text {_TOGETHER} WHERE {which} AND took IS NOT NULL "
                "ORDER BY ended DESC LIMIT ?",
                most,
            )
            for name, slot, key, took, text in rows:
                yield name, slot, FATES[key & 0xFF][0], took / SECOND, text or ""

    def buckets(self) -> list[tuple[str, int, int, int]]:
        """List five minutes in which runs of busy tasks were added up: task, first slot, runs, microseconds taken."""
        return self._ask(
            "SELECT name, first, runs, took FROM busy JOIN tasks ON tasks.id = task WHERE runs > 0 ORDER BY at, name"
        )

    def last_start(self) -> int | None:
        """Find when the tasks began in the newest life that has runs; `None` = no run is known."""
        newest = self._ask(
            "SELECT max(slot) FROM (SELECT max(slot) AS slot FROM fates WHERE took IS NOT NULL "
            "UNION ALL SELECT max(last) FROM busy)"
        )[0][0]
        if newest is None:
            return None
        found: int | None = self._ask(
            "SELECT max(at) FROM journal WHERE kind = 'started' AND at <= ?", newest
        )[0][0]
        return self.begins() if found is None else found

    def entries(self, first: int, last: int, task: str | None) -> list[Entry]:
        """List the entries of the journal from one moment to another that concern the task or the whole service."""
        rows = self._ask(
            "SELECT at, kind, task, until, who, via, note, data FROM journal "
            "WHERE at <= ? AND coalesce(until, at) >= ? AND (task IS NULL OR task = ?) ORDER BY at DESC LIMIT 1000",
            last,
            first,
            task,
        )
        found = [
            Entry(at, kind, name, until, who or "", via or "", note or "", json.loads(data) if data else {})
            for at, kind, name, until, who, via, note, data in rows
        ]
        return found[::-1]

    def begins(self) -> int | None:
        """Find the moment of the oldest fate; `None` = there is none."""
        found: int | None = self._ask("SELECT min(ended) FROM fates")[0][0]
        return found


def _records(rows: list[Any]) -> Iterator[Record]:
    for name, slot, key, started, took, run, last, slots, text in rows:
        fate, reason = FATES[key & 0xFF]
        is_run = key & 0xFF < RUNS
        yield Record(
            name,
            slot,
            slot if last is None else last,
            slots or 1,
            fate,
            reason,
            TRIGGERS[key >> TRIGGER_SHIFT & 7],
            run,
            slot + started if is_run else None,
            took / SECOND if is_run else None,
            text or "",
            attempts_of(key),
        )
