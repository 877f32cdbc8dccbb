"""Reads from the history file of a real service what its runs took."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path

from asyncmgr._common.clock import SECOND
from asyncmgr._common.safe_text import error_text
from asyncmgr._history.past import Past
from asyncmgr._history.sqlite import path_of
from asyncmgr.errors import AsyncmgrError
from asyncmgr.testing.rehearsal._lengths import Length

_FATES = ("succeeded", "nothing", "failed", "timed_out")
"""What a run is replayed as. A cancelled one says nothing of how long it takes."""

_MOST_OF_A_BUCKET = 20
"""Runs that stand for the five minutes of a task so busy that its runs were added up."""


class Replay:
    """What a history file knows of the runs of a service.

    Raises
    ------
    AsyncmgrError
        The file is not there, or is no history.
    """

    def __init__(self, place: str) -> None:
        """`place` is a path, or a URL as in the setting `history`."""
        self.path: Path = (path_of(place) if "://" in place else Path(place)).absolute()
        if not self.path.is_file():
            raise AsyncmgrError(
                f"there is no history file {self.path}; give the path that the setting 'history' of the service names"
            )
        self._past = Past(self.path)
        self.began: int | None = self._ask_began()

    def _ask_began(self) -> int | None:
        """Find when the tasks of the newest life with runs began: wall time, microseconds; `None` = not known."""
        try:
            return self._past.last_start()
        except sqlite3.Error as exc:
            raise AsyncmgrError(
                f"{self.path} is no history that this version can read: {error_text(exc)}"
            ) from exc

    def runs(self, names: Collection[str]) -> dict[str, list[tuple[int, Length]]]:
        """Read the runs of these tasks: slots and lengths, sorted by slot. A task without runs is left out."""
        wanted = frozenset(names)
        found: dict[str, list[tuple[int, Length]]] = {}
        for name, slot, fate, seconds, text in self._past.runs():
            if name in wanted and fate in _FATES:
                found.setdefault(name, []).append((slot, Length(seconds, fate, text)))
        for name, slot, count, took in self._past.buckets():
            if name in wanted:
                length = Length(round(took / count / SECOND, 6))
                found.setdefault(name, []).extend([(slot, length)] * min(count, _MOST_OF_A_BUCKET))
        return {name: sorted(runs) for name, runs in found.items()}
