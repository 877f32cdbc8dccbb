"""`Journal`: who did what and what befell the service, in the order of time. Causes of fates are looked up here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from asyncmgr._common.clock import read_wall

KEPT = 10_000
"""The number of entries that memory keeps."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who uses a verb, and from where."""

    who: str
    """For people: ``ops (uid 1000)``, ``the application``, ``the timer``, ``the settings``, ``the policy``."""
    where: str = ""
    """``socket``, ``rpc``, ``page``; empty = the code of the application."""


APPLICATION = Actor("the application")

acting: ContextVar[Actor] = ContextVar("asyncmgr actor", default=APPLICATION)
"""Who uses the verb that is carried out now. A door that lets others in sets it: see `acting_as`."""


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Enter the verbs of this block into the journal as done by `actor`."""
    token = acting.set(actor)
    try:
        yield
    finally:
        acting.reset(token)


@dataclass(slots=True)
class Entry:
    """One entry. Moments are microseconds of wall time since 1970."""

    at: int
    kind: str
    """A verb (``pause``, ``resume`` ...), or ``started``, ``stopping``, ``stopped``, ``down``, ``clock``,
    ``suspended``, ``blocked``, ``lease_lost``, ``lease_taken`` and what other parts add."""
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
        who: str | None = None,
        where: str | None = None,
        note: str | None = None,
        **data: Any,
    ) -> Entry:
        """Add an entry; the moment is now unless `at` is given, the actor that of `acting_as`."""
        actor = acting.get()
        entry = Entry(
            self._read() if at is None else at,
            kind,
            task,
            until,
            actor.who if who is None else who,
            actor.where if where is None else where,
            note or "",
            data,
        )
        self._entries.append(entry)
        self._count += 1
        return entry

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
