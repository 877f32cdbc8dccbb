"""Decides what is due, nearly due or refused, and when to look again. Pure: given the moment, no clock, no await."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._common.heap import NO_TICKET, LazyHeap
from asyncmgr._tasks.failures import Episode
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL, Cron, Every, EveryPass, Schedule

D = TypeVar("D", bound="Due")

MOST_AT_ONCE = 10
"""How many runs of one task may be in progress under ``overlap="allow"``."""

RETRY = int(DEFAULT_INTERVAL) * SECOND
"""When to ask a schedule again that raised."""

_EVERY_PASS_OF_A_SERVICE = Every(int(DEFAULT_INTERVAL) * SECOND)


class Entry:
    """One periodic task of one manager instance: its options in force, its place on the grid, its counters."""

    __slots__ = (
        "_first_pass_is_start",
        "body",
        "declared",
        "delay",
        "episode",
        "failures",
        "full_name",
        "grid",
        "initial_delay",
        "last_run",
        "last_slot",
        "log_level",
        "missed",
        "options",
        "owner",
        "queued",
        "running",
        "runs",
        "skipped",
        "skipping",
        "slot",
        "spread",
        "start",
        "ticket",
        "tolerance",
        "waits",
        "window",
    )

    def __init__(
        self,
        owner: object,
        body: str | Callable[[Any], Any],
        full_name: str,
        options: PeriodicTask,
        *,
        tolerance: int,
        initial_delay: int | None = None,
    ) -> None:
        self.owner: object = owner
        self.body: str | Callable[[Any], Any] = body
        """What to call, or the name of the owner's method, which is looked up at each run."""
        self.full_name: str = full_name
        self.delay: int = 0
        """Jitter of the next slot; it moves the start and never the slot."""
        self.declared: PeriodicTask = options
        """What the code says; settings may lay something over it."""
        self.options: PeriodicTask = options
        """The options in force, an object that is shared by many tasks: `adopt` puts others in its place."""
        self.initial_delay: int | None = options.initial_delay if initial_delay is None else initial_delay
        """Microseconds from the start to the first slot; `None` = the schedule's."""
        self.tolerance: int = tolerance
        """The nearly-due window of tasks that say nothing of it, microseconds."""
        self.log_level: str | None = None
        """The level at which a successful run is logged; `None` = not at all."""

        self.spread: int | None = None
        """A stable 32-bit number for the host and task, where the task is to begin at that share of its spacing."""

        self.grid: Schedule = options.schedule
        self.window: int = 0
        self.slot: int = 0
        """The next planned slot, on the grid's own scale."""
        self.start: int | None = None
        """Where the grid begins: the reference of `reschedule` until there was a slot."""
        self.last_slot: int | None = None
        self.last_run: int | None = None
        """Wall time, microseconds."""
        self.ticket: int = NO_TICKET
        """The agenda's mark of this entry's one valid place in the heap."""
        self._first_pass_is_start = options.run_immediately

        self.running: int = 0
        """Runs handed out and not yet ended."""
        self.queued: bool = False
        self.waits: bool = False
        """Whether its last run had to wait for anything."""
        self.runs: int = 0
        self.failures: int = 0
        """In a row."""
        self.episode: Episode | None = None
        """Of these failures; `None` while there is none."""
        self.skipped: int = 0
        self.missed: int = 0
        self.skipping: int = 0
        """Slots in a row that were skipped because of a run in the way."""

    @property
    def name(self) -> str:
        """The second half of the full name."""
        return self.full_name.rpartition(".")[2]

    def adopt(self, options: PeriodicTask) -> None:
        """Put options in force, but for the schedule, which `plan` and `reschedule` do."""
        self.options = options
        if not options.jitter:
            self.delay = 0

    def call(self, context: Any) -> Any:
        """Call the body; a method is looked up now, so an overridden or patched one is what runs."""
        body = self.body
        return getattr(self.owner, body)(context) if isinstance(body, str) else body(context)

    def plan(self, moment: Moment, *, by_service: bool = False) -> None:
        """Make `moment` this task's start: what was planned earlier is forgotten, `last_run` is not."""
        self.grid = self.options.schedule
        if by_service and isinstance(self.grid, EveryPass):
            self.grid = _EVERY_PASS_OF_A_SERVICE
        self.start = self.reference(moment)
        self.last_slot = None
        self.delay = 0
        self._set_window()
        self.slot = self._first_slot(self.start)
        if by_service:
            self._first_pass_is_start = False

    def _first_slot(self, start: int) -> int:
        if self.initial_delay is not None:
            return start + self.initial_delay
        if self.options.run_immediately or self.options.schedule != self.grid:
            return start
        if self.spread is not None and isinstance(self.grid, Every):
            return start + (self.grid.step * self.spread >> 32)
        return self.grid.first(start)

    def _set_window(self) -> None:
        if self.grid.on_wall:
            self.window = 0
            return
        tolerance = self.options.tolerance
        tolerance = self.tolerance if tolerance is None else tolerance
        self.window = min(tolerance, self.grid.gap(self.slot) // 2)

    def note_first_pass(self, moment: Moment) -> None:
        """The first pass is the start of a task that runs immediately."""
        if self._first_pass_is_start:
            self._first_pass_is_start = False
            self.start = self.slot = self.reference(moment)

    def reference(self, moment: Moment) -> int:
        """The moment on the scale of this task's slots."""
        return moment.wall if self.grid.on_wall else moment.now

    def is_due(self, moment: Moment) -> bool:
        """Due or nearly due, at the edge of the window included."""
        return self.slot - self.reference(moment) <= self.window

    def remaining(self, moment: Moment) -> int:
        """Microseconds to the next slot, negative if it is past."""
        return self.slot - self.reference(moment)

    def begin(self, reference: int) -> tuple[int, int]:
        """Take the slot that a start at this moment is for: (the slot, how many older ones it stands for).

        Computes first and commits last, so that a schedule that raises leaves this entry as it was.
        """
        # What the jitter held back is not lateness: it must not make the grid skip a slot.
        slot, missed, following = self.grid.turn(self.slot, reference - self.delay, self.window)
        self.last_slot, self.slot = slot, following
        if missed:
            self.missed += missed
        return slot, missed

    def reschedule(self, options: PeriodicTask, moment: Moment, *, by_service: bool) -> None:
        """Go over to new options: the next slot is the last one plus the new spacing, or now if that is past."""
        had_slot = self.last_slot is not None
        anchor = self.last_slot if self.last_slot is not None else self.start
        if self.grid.on_wall and anchor is not None:
            anchor += moment.now - moment.wall
        self.adopt(options)
        self.plan(moment, by_service=by_service)
        self._first_pass_is_start = False
        if self.grid.on_wall:
            self.slot = self.grid.first(moment.wall)
        elif anchor is not None:
            self.start, self.last_slot = anchor, anchor if had_slot else None
            self.slot = max(moment.now, self.grid.first(anchor))

    def set_back(self, moment: Moment) -> None:
        """The wall went back by more than a minute: plan wall-clock slots from the new time."""
        if not self.grid.on_wall:
            return
        try:
            self.slot = self.grid.first(moment.wall)
        except Exception:
            self.slot = moment.wall + RETRY  # asked again then, and reported if it raises again

    def slot_datetime(self, slot: int, moment: Moment) -> datetime:
        """A slot as wall time."""
        return to_datetime(slot if self.grid.on_wall else moment.wall + slot - moment.now)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A periodic task that is switched on, as its manager sees it."""

    name: str
    full_name: str
    spacing: float | None
    """Seconds; 0.0 = every pass, `None` for cron."""
    schedule: str
    """As written: the cron expression, or the spacing in words."""
    last_run: datetime | None
    """When it was last started; aware, UTC."""
    next_due: datetime | None
    """Wall time now plus what remains; aware, UTC."""
    tz: str | None = None
    """The time zone of a cron expression; `None` for a spacing."""


def status_of(entry: Entry, moment: Moment) -> TaskStatus:
    """The entry in wall time."""
    schedule = entry.options.schedule
    remaining = max(0, entry.remaining(moment))
    return TaskStatus(
        entry.name,
        entry.full_name,
        schedule.spacing,
        schedule.expression if isinstance(schedule, Cron) else str(schedule),
        None if entry.last_run is None else to_datetime(entry.last_run),
        to_datetime(moment.wall + remaining),
        schedule.tz if isinstance(schedule, Cron) else None,
    )


class Due:
    """One slot that the agenda hands out."""

    __slots__ = ("entry", "missed", "planned")

    def __init__(self, entry: Entry, planned: int, missed: int) -> None:
        self.entry: Entry = entry
        self.planned: int = planned
        """The slot, on the scale of the entry's grid."""
        self.missed: int = missed
        """How many older slots it stands for too."""


@dataclass(slots=True)
class Batch(Generic[D]):
    """What one look at the agenda found."""

    due: list[D] = field(default_factory=list)
    """To start, in the order of their slots."""
    queued: list[D] = field(default_factory=list)
    """To start when the task's run in progress ends."""
    refused: list[D] = field(default_factory=list)
    """Slots that met a run of their own task, and are over."""
    failed: list[tuple[Entry, Exception]] = field(default_factory=list)
    """Tasks whose schedule raised; asked again after `RETRY`."""


class Lane(LazyHeap[Entry]):
    """The entries of one window on one scale, by planned start."""

    __slots__ = ("on_wall", "window")

    def __init__(self, *, on_wall: bool, window: int) -> None:
        super().__init__()
        self.on_wall: bool = on_wall
        self.window: int = window


class Agenda(Generic[D]):
    """All tasks of a service by planned start.

    Tasks that share a window share a heap, so that one comparison with its head tells whether any of them is due:
    the time of a look does not depend on how many tasks there are.
    """

    def __init__(self, due: Callable[[Entry, int, int], D], random_source: random.Random) -> None:
        self._due = due
        self._lanes: dict[tuple[bool, int], Lane] = {}
        self._random = random_source

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def entries(self) -> Iterator[Entry]:
        """Every entry that has a place here."""
        for lane in self._lanes.values():
            yield from lane

    def add(self, entry: Entry) -> None:
        """Take in a planned entry."""
        start = entry.slot + self._draw(entry) if entry.options.jitter else entry.slot
        self._lane(entry).push(start, entry)

    def remove(self, entry: Entry) -> None:
        """Let go of an entry, before it is changed; a run of it in progress is not touched. It may be absent."""
        if entry.ticket == NO_TICKET:
            return
        lane = self._lane(entry)
        lane.remove(entry)
        if not lane:
            del self._lanes[lane.on_wall, lane.window]

    def take(self, moment: Moment) -> Batch[D]:
        """Hand out every slot that is due or nearly due, and plan the next slot of each."""
        batch: Batch[D] = Batch()
        for lane in tuple(self._lanes.values()):
            reference = moment.wall if lane.on_wall else moment.now
            limit = reference + lane.window
            while (head := lane.head()) is not None and head[0] <= limit:
                self._take_head(lane, head[2], reference, moment.wall, batch)
        if len(self._lanes) > 1:
            batch.due.sort(key=lambda due: due.planned - due.entry.reference(moment))
        return batch

    def _take_head(self, lane: Lane, entry: Entry, reference: int, wall: int, batch: Batch[D]) -> None:
        try:
            planned, missed = entry.begin(reference)
            start = self._jittered(entry, reference) if entry.options.jitter else entry.slot
        except Exception as exc:
            batch.failed.append((entry, exc))
            entry.slot, entry.delay = reference + RETRY, 0
            lane.replace_head(entry.slot)
            return
        lane.replace_head(start)
        due = self._due(entry, planned, missed)
        if entry.running:
            self._judge_overlap(due, wall, batch)
        else:
            entry.running = 1
            entry.last_run = wall
            batch.due.append(due)

    def _judge_overlap(self, due: D, wall: int, batch: Batch[D]) -> None:
        entry = due.entry
        overlap = entry.options.overlap
        if overlap == "allow" and entry.running < MOST_AT_ONCE:
            entry.running += 1
            entry.last_run = wall
            batch.due.append(due)
        elif overlap == "queue" and not entry.queued:
            entry.queued = True
            batch.queued.append(due)
        else:
            entry.skipped += 1
            batch.refused.append(due)

    def next_wake(self, moment: Moment) -> int | None:
        """The scheduling time of the nearest planned start, or `None` if there is nothing to wait for."""
        nearest = None
        for lane in self._lanes.values():
            head = lane.head()
            if head is None:
                continue
            start = head[0] - moment.wall + moment.now if lane.on_wall else head[0]
            nearest = start if nearest is None else min(nearest, start)
        return nearest

    def set_back(self, moment: Moment) -> None:
        """Plan all wall-clock slots anew: the wall went back by more than a minute."""
        for entry in tuple(self.entries()):
            if entry.grid.on_wall:
                self.remove(entry)
                entry.set_back(moment)
                self.add(entry)

    def _lane(self, entry: Entry) -> Lane:
        key = (entry.grid.on_wall, entry.window)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(on_wall=entry.grid.on_wall, window=entry.window)
        return lane

    def _jittered(self, entry: Entry, reference: int) -> int:
        """Draw the delay of the entry's next slot; where it then starts.

        A slot that is held back may be overtaken by the window of the next one, which then starts right after it.
        """
        start = max(entry.slot + self._draw(entry), reference + entry.window + 1)
        entry.delay = start - entry.slot
        return start

    def _draw(self, entry: Entry) -> int:
        jitter = entry.options.jitter
        entry.delay = self._random.randint(0, min(jitter, entry.grid.gap(entry.slot) // 2))
        return entry.delay


def nearest(entries: Iterable[Entry], moment: Moment) -> int | None:
    """Microseconds to the nearest slot of the entries, tasks of every pass left out once they have started."""
    waits = [
        entry.remaining(moment)
        for entry in entries
        if not (isinstance(entry.grid, EveryPass) and entry.slot <= moment.now)
    ]
    return min(waits, default=None)
