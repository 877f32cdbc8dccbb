"""`Journal`: who did what and what befell the service, in the order of time. Causes of fates are looked up here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from asyncmgr._common.clock import read_wall, to_datetime, to_us
from asyncmgr._tasks.actions import Action, Via

KEPT = 10_000
"""The number of entries that memory keeps."""

_STALLS = ("blocked", "stopped")
_RECENT = 8
"""The number of newest entries among which a stall that was told already is looked for."""


@dataclass(slots=True)
class Entry:
    """One entry. Moments are microseconds of wall time since 1970."""

    at: int
    kind: str
    """A verb of a handle (``pause``, ``resume`` ...), or ``started``, ``stopping``, ``stopped``, ``down``, ``clock``,
    ``suspended``, ``blocked``, ``lease_taken``, ``lease_lost``, ``lease_released`` and what other parts add."""
    task: str | None = None
    """The full name; `None` = it concerns the whole service."""
    until: int | None = None
    """The end, where it has one: of a sleep, a block, a pause that ends by itself."""
    who: str = ""
    where: str = ""
    note: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    """What this kind of entry has besides; JSON."""

    def overlaps(self, first: int, last: int) -> bool:
        """Whether it was in progress at any moment from `first` to `last`."""
        return self.at <= last and (self.at if self.until is None else self.until) >= first


class Journal:
    """The newest entries of one service. All methods belong to the thread of the event loop."""

    def __init__(self, read: Callable[[], int] = read_wall) -> None:
        """`read` returns the wall time."""
        self._read = read
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._count = 0

    def add(
        self,
        kind: str,
        task: str | None = None,
        *,
        at: int | None = None,
        until: int | None = None,
        who: str = "",
        where: str = "",
        note: str | None = None,
        **data: Any,
    ) -> Entry:
        """Add an entry. `at` and `until` are microseconds since 1970, `at` is now by default; `data` becomes JSON."""
        entry = Entry(self._read() if at is None else at, kind, task, until, who, where, note or "", data)
        self._entries.append(entry)
        self._count += 1
        return entry

    def stall(self, kind: str, at: int, until: int, **data: Any) -> None:
        """Add a time in which the event loop did not turn, once, whoever tells it first.

        A late look of the scheduler only knows its length. The watch of the loop knows its cause, and may tell it
        before that look or after it.
        """
        newest = reversed(self.newest(_RECENT))
        known = next((one for one in newest if one.kind in _STALLS and one.overlaps(at, until)), None)
        if known is None:
            self.add(kind, at=at, until=until, **data)
        elif "doing" in data:
            known.kind, known.at, known.until, known.data = kind, at, until, data

    def note(self, action: Action) -> None:
        """Add what somebody did to a task."""
        until = action.details.get("until")
        entry = self.add(
            action.verb,
            action.task,
            at=to_us(action.at.timestamp()),
            until=to_us(datetime.fromisoformat(until).timestamp()) if isinstance(until, str) else None,
            who=action.by,
            where=action.via,
            note=action.note,
        )
        entry.data.update(action.details)

    def actions(self) -> list[Action]:
        """List what people did to tasks, and what ended by itself; the oldest first."""
        return [
            Action(
                to_datetime(one.at),
                one.task,
                one.kind,
                one.who,
                cast("Via", one.where),
                one.note or None,
                one.data,
            )
            for one in self._entries
            if one.where and one.task is not None
        ]

    @property
    def count(self) -> int:
        """The number of entries that were ever added."""
        return self._count

    def newest(self, count: int) -> list[Entry]:
        """List up to `count` of the newest entries, the oldest first."""
        return list(self._entries)[-count:] if count > 0 else []

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def during(self, first: int, last: int, task: str | None = None) -> list[Entry]:
        """List the entries from `first` to `last` that concern the task or the whole service."""
        return [
            entry for entry in self._entries if entry.task in (None, task) and entry.overlaps(first, last)
        ]
