"""One run: the runner's record of it, the context that its body gets, and the judgement of its end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._common.heap import NO_PLACE, Place
from asyncmgr._tasks.agenda import Due
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.progress import Progress, read_progress
from asyncmgr.errors import Skip
from asyncmgr.events import MissReason, Outcome, RunFinished

Trigger = Literal["schedule", "catch_up", "queue", "manual", "pass", "retry"]
"""Why a run started: its slot was due; it stands for missed slots too; it was queued behind another run; a handle
triggered it; a pass found it due; the run before failed, and the next slot would break the promise of `freshness`."""

Result = tuple[Outcome, BaseException | None]
"""How a run ended, and the error that it ended with."""


@dataclass(frozen=True, slots=True)
class Site:
    """The service and host of a run: one object for all runs of a service."""

    host: str
    service: str
    incarnation: str
    """Eight hexadecimal digits, drawn at each start of a service; ``pass`` for passes."""
    progressed: Callable[[Run], None] | None = field(default=None, compare=False, repr=False)
    """Called when a run has told its progress; `None` = nobody listens."""


@dataclass(frozen=True, slots=True)
class SlotClaim:
    """The right to run one slot."""

    token: int | None = None
    """The fencing token: it grows with each change of the holder. `None` = there is none, as with ``scope="host"``."""
    number: int | None = None
    """The number of the slot, the same for every holder; it only grows. `None` = the run is outside of the grid."""
    stands_for: Literal["lease_lost", "down"] | None = None
    """Why the older slots got no run that this run stands for too; `None` = nothing of the kind is known."""


@dataclass(frozen=True, slots=True)
class CancelledBy:
    """The cause of a run that somebody cancelled by `TaskHandle.cancel`."""

    name: str
    """Who it was, for people."""


class Look:
    """The look at the agenda that handed out a slot: one object for all slots of a batch."""

    __slots__ = ("at", "began", "late_because", "moment", "shift", "site")

    def __init__(self, site: Site, moment: Moment, at: float, late_because: MissReason | None = None) -> None:
        # A plain class: a frozen one would take three times as long to build, at each look.
        self.site = site
        self.moment = moment
        self.at = at
        """The same moment in loop time, seconds."""
        self.shift = moment.wall - moment.now
        """What to add to scheduling time to get wall time, microseconds."""
        self.began = moment.wall / SECOND - at
        """What to add to loop time to get wall time, seconds."""
        self.late_because = late_because
        """Why slots before those of this look got no run; `None` = not known, as in passes."""

    def because(self, reason: MissReason) -> Look:
        """Copy this look with another reason why older slots got no run."""
        return Look(self.site, self.moment, self.at, reason)


class Again:
    """What the runner knows of a run that makes another attempt."""

    __slots__ = ("attempt", "began", "cause", "error", "seconds")

    def __init__(self, began: float) -> None:
        self.attempt = 1
        """The attempt in progress, or the last one while the run waits for the next."""
        self.began: float | None = began
        """The start of the attempt in progress, loop time; `None` = the run waits for the next one."""
        self.error: BaseException | None = None
        """What the last attempt ended with."""
        self.cause: Literal["timed_out"] | None = None
        """`timed_out`, where the last attempt was cancelled by its timeout."""
        self.seconds = 0.0
        """The delay before the next attempt."""


class RunContext(ABC):
    """The `context` that a run's body gets: the facts of this one run."""

    __slots__ = ()

    @property
    @abstractmethod
    def task(self) -> str:
        """The full name, ``manager.task``."""

    @property
    @abstractmethod
    def slot(self) -> datetime:
        """The planned moment that this run is for; aware, UTC."""

    @property
    @abstractmethod
    def lateness(self) -> float:
        """Seconds from the slot to the actual start; negative if the run started nearly due."""

    @property
    @abstractmethod
    def run_id(self) -> str:
        """Unique to this run."""

    @property
    @abstractmethod
    def trigger(self) -> Trigger:
        """Why the run started: ``schedule``, ``catch_up``, ``queue``, ``manual``, ``pass`` or ``retry``."""

    @property
    @abstractmethod
    def attempt(self) -> int:
        """Which attempt of the run this is, the first one being 1: see `Retry`."""

    @property
    @abstractmethod
    def fencing_token(self) -> int | None:
        """For a task of ``scope="cluster"``: a number below 2^53 that grows with each change of the holder.

        Give it to what the run changes, and let that refuse a number lower than the last one it saw: so a run that was
        frozen while another host took over changes nothing. `None` for all other tasks.
        """

    @property
    @abstractmethod
    def slot_number(self) -> int | None:
        """For a task of a scope: the number of the slot, the same for every holder; it only grows. Else `None`."""

    @property
    @abstractmethod
    def key(self) -> Hashable | None:
        """The key of a task with `each=` that this run is for; `None` for all other tasks."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The name under which the service instance is known."""

    @property
    @abstractmethod
    def service(self) -> str:
        """The service's name."""

    @abstractmethod
    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the run is: `done` of `total` parts, and what it does just now, in a few words.

        It is shown in the task's status until the run ends. It may be called as often as the run likes, and from a
        thread that works for the run: at most ten words a second reach anybody, the last one always.

        Raises
        ------
        InvalidProgress
            `done` or `total` is no number of 0 or more, or `message` is no text.
        """

    def __repr__(self) -> str:
        return f"<RunContext {self.task} slot={self.slot.isoformat()} run_id={self.run_id}>"


class Run(Due, RunContext):
    """One execution of a task, from its slot to its outcome, as the runner knows it."""

    __slots__ = (
        "again",
        "asked",
        "cause",
        "claim",
        "failed",
        "future",
        "has_begun",
        "has_ended",
        "look",
        "number",
        "on_wall",
        "place",
        "reported",
        "started",
        "waiter",
    )

    look: Look
    number: int
    started: float
    """The start, in loop time, seconds."""
    again: Again
    """What a run has beside that makes another attempt; not set for all others, so that they cost no more."""

    def __init__(self, managed: ManagedTask, planned: int, missed: int) -> None:
        # Not by super(): its call would cost as much as the rest.
        self.managed = managed
        self.planned = planned
        self.missed = missed
        self.on_wall = managed.plan.grid.on_wall
        """The scale of `planned`: the wall clock's, or scheduling time; the task may change its own meanwhile."""
        self.place: Place | None = NO_PLACE
        """The place of its timeout in the heap of deadlines; `NO_PLACE` = no deadline is set."""
        self.asked: Literal["queue", "manual", "pass", "catch_up", "retry"] | None = None
        """The trigger, where the run does not start at its slot; `None` = at its slot."""
        self.cause: Literal["timed_out", "cancelled", "lease_lost"] | CancelledBy | None = None
        """Why it was cancelled: by its own timeout, by the service that stops, since another host may run it now, or by
        somebody."""
        self.claim: SlotClaim | None = None
        """The right to run a task that only one process may run; `None` = the task is every process's own."""
        self.future: asyncio.Future[None] | None = None
        """The asyncio Task; `None` until the run first waits, and for a run that never waits."""
        self.has_ended = False
        """It is judged; what ends it a second time changes nothing."""
        self.has_begun = False
        """Whether its Task has made the first step."""
        self.failed = False
        """Whether it ended as `failed` or `timed_out`."""
        self.waiter: asyncio.Future[RunFinished] | None = None
        """Gets the record when the run has ended; `None` = no caller waits for it."""
        self.reported: Progress | None = None
        """What it last told of its progress."""

    @property
    def full_name(self) -> str:
        return self.managed.full_name

    @property
    def task(self) -> str:
        return self.managed.full_name

    @property
    def lateness(self) -> float:
        """Seconds from the slot to the actual start."""
        return round((self._handed_out - self.planned) / SECOND + self.started - self.look.at, 6)

    @property
    def _handed_out(self) -> int:
        """When it was handed out, on the scale of its slot."""
        return self.look.moment.wall if self.on_wall else self.look.moment.now

    @property
    def slot(self) -> datetime:
        return self.slot_at(self.planned)

    def slot_at(self, planned: int) -> datetime:
        """Convert a moment on the scale of `planned`."""
        return to_datetime(self.look.moment.wall + planned - self._handed_out)

    @property
    def fencing_token(self) -> int | None:
        return None if self.claim is None else self.claim.token

    @property
    def slot_number(self) -> int | None:
        return None if self.claim is None else self.claim.number

    @property
    def key(self) -> Hashable | None:
        return self.managed.each_key

    @property
    def label(self) -> str:
        """The task's full name, with the key where there is one; for error texts and the asyncio Task."""
        key = self.managed.each_key
        return self.managed.full_name if key is None else f"{self.managed.full_name}[{key}]"

    @property
    def host(self) -> str:
        return self.look.site.host

    @property
    def service(self) -> str:
        return self.look.site.service

    @property
    def run_id(self) -> str:
        return f"{self.look.site.incarnation}-{self.number}"

    @property
    def is_of_grid(self) -> bool:
        """Whether it is for a slot of the task's grid; False = somebody triggered it, or it is an early run."""
        return self.asked not in ("manual", "retry")

    @property
    def attempt(self) -> int:
        again: Again | None = getattr(self, "again", None)
        return 1 if again is None else again.attempt

    @property
    def trigger(self) -> Trigger:
        if self.asked is not None:
            return self.asked
        return "catch_up" if self.missed else "schedule"

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self.reported = read_progress(done, total, message)
        told = self.look.site.progressed
        if told is not None:
            told(self)

    @property
    def is_too_late(self) -> bool:
        """Whether its start is later than `misfire_grace` allows."""
        if self.managed.plan.options.misfire_grace is None or not self.is_of_grid:
            return False
        waited = round((self.started - self.look.at) * SECOND)
        return self.managed.plan.is_too_late(self.planned, self._handed_out + waited)


def judge(run: Run, error: BaseException | None) -> Result:
    """Judge how a run ended. One that its timeout or somebody cancelled ended by that, whatever its body then did."""
    if run.cause == "timed_out":
        return Outcome.TIMED_OUT, _late(run, error)
    if isinstance(run.cause, CancelledBy) and not isinstance(error, SystemExit | KeyboardInterrupt):
        return Outcome.CANCELLED, _cancelled(run.cause, error)
    if error is None:
        return Outcome.SUCCEEDED, None
    if isinstance(error, Skip):
        return Outcome.NOTHING, error
    return (Outcome.CANCELLED if isinstance(error, asyncio.CancelledError) else Outcome.FAILED), error


def _cancelled(cause: CancelledBy, error: BaseException | None) -> asyncio.CancelledError:
    cancelled = asyncio.CancelledError(f"cancelled by {cause.name}")
    cancelled.__cause__ = error
    return cancelled


def _late(run: Run, cause: BaseException | None) -> TimeoutError:
    timeout = (run.managed.options.timeout or 0) / SECOND
    late = TimeoutError(f"{run.label} ran longer than its timeout of {timeout:g} s")
    late.__cause__ = cause
    return late
