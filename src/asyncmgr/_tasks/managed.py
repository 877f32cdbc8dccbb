"""`ManagedTask`: one task of one manager instance, with its body, its plan and the standing of its runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._common.heap import NO_PLACE, LazyHeap, Place
from asyncmgr._tasks.failures import Episode
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.plan import Plan
from asyncmgr._tasks.policy import Hold
from asyncmgr.events import Outcome

GOOD = frozenset({Outcome.SUCCEEDED, Outcome.NOTHING})
"""The outcomes that end failures in a row: a run with nothing to do is no failure."""


class Sight(Protocol):
    """The look at the agenda that handed out a run; a `Look`."""

    @property
    def moment(self) -> Moment: ...  # pragma: no cover
    @property
    def at(self) -> float: ...  # pragma: no cover


class Ended(Protocol):
    """The part of a `Run` that a standing reads when the run has ended."""

    @property
    def planned(self) -> int: ...  # pragma: no cover
    @property
    def on_wall(self) -> bool: ...  # pragma: no cover
    @property
    def look(self) -> Sight: ...  # pragma: no cover
    @property
    def started(self) -> float: ...  # pragma: no cover


class Planned(Protocol):
    """The part of a `Run` that says which slot it is for."""

    @property
    def planned(self) -> int: ...  # pragma: no cover
    @property
    def on_wall(self) -> bool: ...  # pragma: no cover
    @property
    def is_of_grid(self) -> bool: ...  # pragma: no cover


class Standing:
    """How the runs of one task have gone. Only the code that starts and ends runs writes it."""

    __slots__ = (
        "duration",
        "last_run",
        "longest",
        "look",
        "missed",
        "on_wall",
        "outcome",
        "planned",
        "queued",
        "running",
        "runs",
        "skipped",
        "started",
        "trouble",
        "usual",
    )

    # Of the last run that ended. Written by hand where a run ends that only succeeded, for speed: see `Runner._end`.
    look: Sight
    planned: int
    on_wall: bool
    started: float

    def __init__(self) -> None:
        self.running = 0
        """The number of runs that were handed out and have not ended."""
        self.queued = False
        """Whether one more run waits for the end of the run in progress."""
        self.runs = 0
        self.skipped = 0
        self.missed = 0
        self.last_run: int | None = None
        """The moment at which the last run was handed out: wall time, microseconds."""
        self.outcome: Outcome | None = None
        """The outcome of the last run that ended."""
        self.duration = 0.0
        """The duration of the last run that ended, seconds."""
        self.usual: float | None = None
        """How long a run usually takes, seconds: nearly the median of the runs that waited; `None` = none has."""
        self.longest = 0.0
        """The longest run that waited and succeeded, seconds; 0 = none has."""
        self.trouble: Trouble | None = None
        """Present only during failures or skipped slots in a row, and after a cancelled run: most never need it."""

    def end(self, run: Ended, outcome: Outcome, duration: float) -> None:
        """Note the end of a run."""
        if outcome not in GOOD and self.outcome in GOOD:
            self.in_trouble().last_success = self.ended_at
        self.outcome, self.duration = outcome, duration
        self.look, self.planned, self.on_wall, self.started = run.look, run.planned, run.on_wall, run.started

    def note_usual(self, duration: float, *, succeeded: bool) -> None:
        """Move `usual` a little towards this duration: half of the steps go up, so that it settles at the median."""
        if succeeded and duration > self.longest:
            self.longest = duration
        usual = self.usual
        self.usual = duration if not usual else usual * (1.1 if duration > usual else 1 / 1.1)

    def in_trouble(self) -> Trouble:
        """Return the trouble, made now where there was none."""
        if self.trouble is None:
            self.trouble = Trouble()
        return self.trouble

    # The last run that ended. Only where `outcome` is set.

    @property
    def slot(self) -> int:
        """Its slot: wall time, microseconds."""
        return self.look.moment.wall + self.planned - self._handed_out

    @property
    def lateness(self) -> float:
        """Seconds from its slot to its start."""
        return round((self._handed_out - self.planned) / SECOND + self.started - self.look.at, 6)

    @property
    def _handed_out(self) -> int:
        return self.look.moment.wall if self.on_wall else self.look.moment.now

    @property
    def ended_at(self) -> int:
        """Its end: wall time, microseconds."""
        return self.look.moment.wall + round((self.started - self.look.at + self.duration) * SECOND)

    @property
    def last_success(self) -> int | None:
        """The end of the last run that succeeded or had nothing to do: wall time, microseconds."""
        if self.outcome in GOOD:
            return self.ended_at
        return None if self.trouble is None else self.trouble.last_success


class Trouble:
    """The present failures in a row, and skipped slots in a row, of one task."""

    __slots__ = ("episode", "failures", "hold", "is_news", "last_success", "refused", "retrying", "text")

    def __init__(self) -> None:
        self.failures = 0
        """The number of failures in a row."""
        self.text = ""
        """The last failure as ``ValueError: text``; empty = there is none."""
        self.episode: Episode | None = None
        """The memory of these failures' kinds."""
        self.is_news = False
        """Whether the last failure was of a new kind."""
        self.refused = 0
        """The number of slots in a row that got no run because a run of the task was in progress."""
        self.last_success: int | None = None
        """The end of the last good run, wall time, microseconds, where the last run was none."""
        self.hold: Hold | None = None
        """The slots that get no run since the task fails; `None` = there are none."""
        self.retrying = 0
        """The number of runs in progress that make, or wait for, another attempt."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left to remember."""
        return not (self.failures or self.refused or self.retrying) and self.last_success is None


class ManagedTask:
    """One periodic task of one manager instance."""

    is_keyed: ClassVar[bool] = False
    """Whether the task runs for keys; then its plan is a `KeyPlan`."""
    each_key: Hashable | None = None
    """The key, where this is one key of a task with keys."""

    __slots__ = (
        "body",
        "declared",
        "full_name",
        "judged_from",
        "key",
        "lane",
        "log_level",
        "manager",
        "place",
        "plan",
        "record",
        "standing",
    )

    def __init__(
        self,
        manager: object,
        body: str | Callable[[Any], Any],
        full_name: str,
        options: PeriodicTask,
        *,
        tolerance: int,
        initial_delay: int | None = None,
        share: int | None = None,
        standing: Standing | None = None,
    ) -> None:
        """`standing` is the standing of a removed task of the same name, if a run of that goes on."""
        self.manager = manager
        self.body = body
        """The function to call, or the name of the manager's method, which is looked up at each run."""
        self.full_name = full_name
        self.declared = options
        """The options as the code declares them, without the settings."""
        self.log_level: str | None = None
        """The level at which a successful run is logged; `None` = not at all."""
        self.plan = Plan(options, tolerance=tolerance, initial_delay=initial_delay, share=share)
        self.standing = standing or Standing()
        self.place: Place | None = NO_PLACE
        """This task's one valid place in a heap of the agenda; `NO_PLACE` = the task is not planned."""
        self.key = 0
        """What the records of its runs begin with; 0 = no recorder has it."""
        self.record: Callable[[Any, float], None] | None = None
        """Records a run that succeeded, with its duration in seconds."""
        self.judged_from: int | None = None
        """The moment from which on the promise of `freshness` counts: wall time, microseconds."""
        self.lane: Lane | None = None
        """The agenda's heap that has this place; `None` = the task has no place."""

    @property
    def whole(self) -> ManagedTask:
        """The task itself; for one key, the task that the key belongs to."""
        return self

    @property
    def name(self) -> str:
        """The second half of the full name."""
        return self.full_name.rpartition(".")[2]

    @property
    def options(self) -> PeriodicTask:
        """The options in force."""
        return self.plan.options

    @property
    def is_at_work(self) -> bool:
        """Whether a run was handed out that has not ended."""
        return self.standing.running > 0

    @property
    def hold(self) -> Hold | None:
        """The slots that get no run since the task fails; `None` = it is not held back, or not on this plan."""
        hold = None if self.standing.trouble is None else self.standing.trouble.hold
        if hold is None or not self.plan.options.backoff:
            return None
        return hold if hold.grid is self.plan.grid and hold.start == self.plan.start else None

    def end_hold(self) -> None:
        """Hold the task back no longer: its next slot gets a run."""
        if self.standing.trouble is not None:
            self.standing.trouble.hold = None

    def is_held(self, slot: int) -> bool:
        """Whether this slot gets no run since the task fails."""
        hold = self.hold
        return hold is not None and hold.covers(slot)

    def next_slot(self) -> int | None:
        """Return the next slot that gets a run, on the scale of the plan; `None` = there is none."""
        slot, hold = self.plan.slot, self.hold
        if slot is None or hold is None or not hold.covers(slot):
            return slot
        try:
            return self.plan.grid.turn(slot, hold.until, 0)[2]
        except Exception:  # of the schedule, which is asked again at its slot, and reported then
            return slot

    def until_next(self, run: Planned, moment: Moment) -> int | None:
        """Return the microseconds to the slot after that of a run; 0 or less = it has come, `None` = none comes."""
        plan = self.plan
        if plan.slot is None or self.lane is None:
            return None
        later = plan.last_slot
        if later is not None and run.on_wall == plan.grid.on_wall and run.is_of_grid and later > run.planned:
            return 0
        return plan.slot - plan.reference(moment)

    def call(self, context: Any) -> Any:
        """Call the body. A method is looked up now, so that an overridden or patched one runs."""
        body = self.body
        return getattr(self.manager, body)(context) if isinstance(body, str) else body(context)


class Lane(LazyHeap[ManagedTask]):
    """The tasks that share one window and one scale, by planned start."""

    __slots__ = ("on_wall", "window")

    def __init__(self, *, on_wall: bool, window: int) -> None:
        super().__init__()
        self.on_wall = on_wall
        self.window = window


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds a task or a lease, as far as this process knows."""

    owner: str
    """The process, for people."""
    since: datetime | None = None
    token: int | None = None
    """The fencing token; `None` = there is none."""
