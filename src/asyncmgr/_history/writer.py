"""`Writer`: the one thread that writes the history of a service, every five seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from asyncmgr._common.clock import read_wall
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text
from asyncmgr._history.logs import CHUNKS, RECORDS_A_CHUNK, Log
from asyncmgr._history.slots import RUNS, SPAN_KIND, Raw, decode

if TYPE_CHECKING:
    from asyncmgr._history.journal import Journal
    from asyncmgr._history.ledger import Ledger
    from asyncmgr._history.sqlite import HistoryFile

COMMIT = 5.0
"""Seconds between two commits: what a killed process loses at most."""

_DROP = 600.0
"""Seconds between two looks for rows that are too old."""


class Writer:
    """Writes what the ledger and the journal have that the file has not."""

    def __init__(
        self, file: HistoryFile, ledger: Ledger, journal: Journal, *, read: Callable[[], int] = read_wall
    ) -> None:
        self._file = file
        self._ledger = ledger
        self._journal = journal
        self._read = read
        self._written = {ledger.rest: 0, ledger.fast: 0}
        self._entries = 0
        self._spans: list[tuple[int, Raw, str]] = []
        self._failures = 0
        self._committed = time.monotonic()
        self._drop_at = 0.0
        self._wanted = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._ledger.on_turn = self._hasten
        self._thread = threading.Thread(target=self._work, name="asyncmgr history", daemon=True)
        self._thread.start()

    def _hasten(self) -> None:
        """Write at once where a log might drop records before they are written."""
        for one, written in self._written.items():
            if one.end - written > CHUNKS // 2 * RECORDS_A_CHUNK:
                self._wanted.set()

    def _work(self) -> None:
        while not self._is_stopping:
            self._wanted.wait(COMMIT)
            self._wanted.clear()
            self.write()

    def stop(self) -> None:
        """End the thread, write the rest and close the file. This waits for the disk."""
        self._is_stopping = True
        self._wanted.set()
        self._ledger.on_turn = _nothing
        if self._thread is not None:
            self._thread.join()
        self.write()
        try:
            self._file.stop(self._read())
        except Exception as exc:
            log.error("history.failed", path=str(self._file.path), error=error_text(exc))

    def write(self) -> bool:
        """Write what is new in one commit; log where this begins to fail, and where it works again."""
        try:
            self._write()
        except Exception as exc:
            self._failures += 1
            if self._failures == 1:
                log.error("history.failed", path=str(self._file.path), error=error_text(exc))
            return False
        if self._failures:
            log.info("history.resumed", path=str(self._file.path), after_failures=self._failures)
            self._failures = 0
        return True

    def _write(self) -> None:
        now = time.monotonic()
        ends = {one: one.end for one in self._written}
        count = self._journal.count
        entries = self._journal.newest(count - self._entries)
        self._spans += self._ledger.take_dirty()  # kept where the commit fails
        self._file.write(
            self._new_runs(ends),
            self._spans,
            entries,
            name_of=self._ledger.name_of,
            now=self._read(),
            elapsed=now - self._committed,
        )
        self._spans.clear()
        self._written, self._entries, self._committed = ends, count, now
        if now >= self._drop_at:
            self._drop_at = now + (COMMIT if self._file.drop_old(self._read()) else _DROP)

    def _new_runs(self, ends: dict[Log, int]) -> Iterator[tuple[Raw, str, bool]]:
        for one, end in ends.items():
            is_slow = one is self._ledger.rest
            for raw in new_records(one, self._written[one], end):
                yield raw, self._ledger.text_of(raw.text), is_slow


def new_records(log_: Log, begin: int, end: int) -> Iterator[Raw]:
    """Yield the runs among the records from number `begin` to before `end`; a chunk is decoded from its mark on."""
    for first, piece in log_.pieces():
        if first + RECORDS_A_CHUNK <= begin or first >= end:
            continue
        for number, raw in decode(piece):
            if begin <= first + number < end and raw.fate < RUNS and not raw.key & SPAN_KIND:
                yield raw


def _nothing() -> None:
    """Do nothing."""
