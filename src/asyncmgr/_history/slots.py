"""Fates and records: what became of a slot, or of many slots in a row. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

FATES: Final = (
    ("succeeded", None),
    ("nothing", None),
    ("failed", None),
    ("timed_out", None),
    ("cancelled", None),
    ("skipped", "overlap"),
    ("skipped", "paused"),
    ("skipped", "disabled"),
    ("skipped", "not_owner"),
    ("skipped", "lease_lost"),
    ("skipped", "backoff"),
    ("skipped", "draining"),
    ("skipped", "removed"),
    ("missed", "suspended"),
    ("missed", "clock"),
    ("missed", "blocked"),
    ("missed", "stopped"),
    ("missed", "down"),
    ("missed", "late"),
    ("missed", "lease_lost"),
)
"""Every fate with its reason. Its place here is its number in the ledger and in files, so new ones go to the end."""

CODES: Final = {fate: code for code, fate in enumerate(FATES)}
RUNS: Final = 5
"""Fates below this number are outcomes of runs; the others are slots that got no run."""

TRIGGERS: Final = ("schedule", "catch_up", "queue", "manual", "pass", "retry")

# The key of a record: the number of its fate (8 bits), of its trigger (3), whether its slot is by the wall clock (1),
# what kind of record it is (2), how many attempts its run made beside the first one (8, from the 16th bit on), and from
# the 24th bit on the number of its task.
TRIGGER_SHIFT: Final = 8
ON_WALL: Final = 1 << 11
SPAN_KIND: Final = 1 << 12
MARK_KIND: Final = 2 << 12
KINDS: Final = 3 << 12
ATTEMPTS_SHIFT: Final = 16
TASK_SHIFT: Final = 24
OF_KEY: Final = (1 << TASK_SHIFT) - 1
"""The part of a key that is the same in every process: all but the number of the task."""
TEXT_SHIFT: Final = 32

RUN: Final = struct.Struct("@qddqq")
"""A run: slot (microseconds of scheduling time, or of wall time where `ON_WALL`), start (loop time, seconds), duration
(seconds), number of the run and from the 32nd bit on that of its text, key."""

SPAN: Final = struct.Struct("@qqqqq")
"""Slots without a run: first and last (wall time, microseconds), count, number of the text from
the 32nd bit on, key."""

MARK: Final = struct.Struct("@qddqq")
"""How to convert the runs that follow: what to add to scheduling time (microseconds) and to loop time (seconds)."""

SIZE: Final = 40
"""Bytes of one record of each kind."""

assert RUN.size == SPAN.size == MARK.size == SIZE


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one slot, or of many that follow one another on the grid of one task.

    Moments are microseconds of wall time since 1970.
    """

    task: str
    """The full name, ``manager.task``."""
    slot: int
    """The slot; of many the first one."""
    last: int
    """The last slot; of a single one the same as `slot`."""
    count: int
    fate: str
    """``succeeded``, ``nothing``, ``failed``, ``timed_out``, ``cancelled``, ``skipped`` or ``missed``."""
    reason: str | None = None
    """Why it was skipped or missed; `None` for a run."""
    trigger: str = "schedule"
    run: int | None = None
    """The number of the run within the life of the service; `None` = there was none."""
    started: int | None = None
    duration: float | None = None
    """Seconds."""
    text: str = ""
    """The error of a run, what it had to say, the run in the way, or the host that ran the slot instead."""
    attempts: int = 1
    """The number of attempts that the run made."""
    key: Hashable | None = None
    """The key, where it is about one key of a task with `each=`."""

    @property
    def lateness(self) -> float | None:
        """Seconds from the slot to the start; `None` = there was no run."""
        return None if self.started is None else (self.started - self.slot) / 1e6

    @property
    def ended(self) -> int:
        """When the fate was known, at the earliest."""
        if self.started is None or self.duration is None:
            return self.last
        return self.started + round(self.duration * 1e6)

    @property
    def is_run(self) -> bool:
        return self.started is not None

    def covers(self, moment: int, tolerance: int = 0) -> bool:
        """Whether the moment is one of these slots, or lies between them."""
        return self.slot - tolerance <= moment <= self.last + tolerance

    def starting_at(self, first: int, count: int) -> Record:
        """Copy the later part of the span."""
        return replace(self, slot=first, count=count)


def code_of(fate: str, reason: str | None = None) -> int:
    """Find the number of a fate.

    Raises
    ------
    KeyError
        There is no such fate.
    """
    return CODES[fate, reason]


class Raw(NamedTuple):
    """A record as numbers, by the wall clock."""

    key: int
    slot: int
    last: int
    slots: int
    """Their number."""
    started: float
    """Seconds since 1970."""
    duration: float
    number: int
    """Of the run; 0 = there was none."""
    text: int

    @property
    def task(self) -> int:
        return self.key >> TASK_SHIFT

    @property
    def fate(self) -> int:
        return self.key & 0xFF

    @property
    def ended(self) -> int:
        """Microseconds since 1970."""
        return round((self.started + self.duration) * 1e6) if self.fate < RUNS else self.last


def decode(piece: bytes, task: int | None = None) -> Iterator[tuple[int, Raw]]:
    """Read the records of a chunk of a log, each with its place in the chunk; only those of one task, if one is given.

    The chunk has to be whole from its beginning on, since there is the mark that converts its times.
    """
    shift, began = 0, 0.0
    for place, (slot, started, duration, number, key) in enumerate(RUN.iter_unpack(piece)):
        kind = key & KINDS
        if kind == MARK_KIND:
            shift, began = slot, started
        elif task is not None and key >> TASK_SHIFT != task:
            continue  # before anything is built: a log has 65,536 records
        elif kind == SPAN_KIND:
            first, last, count, text, _ = SPAN.unpack_from(piece, place * SIZE)
            yield place, Raw(key, first, last, count, 0.0, 0.0, 0, text >> TEXT_SHIFT)
        else:
            at = slot if key & ON_WALL else slot + shift
            start = started + began
            yield place, Raw(key, at, at, 1, start, duration, number & 0xFFFFFFFF, number >> TEXT_SHIFT)


def newest_end(piece: bytes) -> float:
    """Find the end of the newest run of a chunk, microseconds since 1970; without a run it is infinite."""
    rows = list(RUN.iter_unpack(piece))
    began = next((row[1] for row in reversed(rows) if row[4] & KINDS == MARK_KIND), 0.0)
    run = next((row for row in reversed(rows) if not row[4] & KINDS), None)
    return math.inf if run is None else (run[1] + run[2] + began) * 1e6


def to_record(raw: Raw, task: str, text: str) -> Record:
    """Make the record that users get."""
    fate, reason = FATES[raw.fate]
    is_run = raw.fate < RUNS
    return Record(
        task,
        raw.slot,
        raw.last,
        raw.slots,
        fate,
        reason,
        TRIGGERS[raw.key >> TRIGGER_SHIFT & 7],
        raw.number if is_run and raw.number else None,
        round(raw.started * 1e6) if is_run else None,
        raw.duration if is_run else None,
        text,
        attempts_of(raw.key),
    )


def attempts_of(key: int) -> int:
    """Read the number of attempts of a run from the key of its record."""
    return 1 + (key >> ATTEMPTS_SHIFT & 0xFF)
