"""`ManagedTask`: one task of one manager instance, with its body, its plan and the standing of its runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from asyncmgr._common.clock import Moment, to_datetime
from asyncmgr._common.heap import NO_PLACE, LazyHeap, Place
from asyncmgr._tasks.failures import Episode
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.plan import Plan
from asyncmgr._tasks.schedules import Cron
from asyncmgr.events import Outcome


class Standing:
    """How the runs of one task have gone. Only the code that starts and ends runs writes it."""

    __slots__ = (
        "duration",
        "last_run",
        "missed",
        "outcome",
        "queued",
        "running",
        "runs",
        "skipped",
        "trouble",
    )

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
        self.trouble: Trouble | None = None
        """Present only during failures or skipped slots in a row: most tasks never need it."""


class Trouble:
    """The present failures in a row, and skipped slots in a row, of one task."""

    __slots__ = ("episode", "failures", "is_news", "refused", "text")

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


class ManagedTask:
    """One periodic task of one manager instance."""

    is_keyed: ClassVar[bool] = False
    """Whether the task runs for keys; then its plan is a `KeyPlan`."""
    key: Hashable | None = None
    """The key, where this is one key of a task with keys."""

    __slots__ = (
        "body",
        "declared",
        "full_name",
        "lane",
        "log_level",
        "manager",
        "place",
        "plan",
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


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """The keys of a task with `each=` at one moment."""

    known: int
    """The number of keys that this process has."""
    running: int
    """The number of runs in progress."""
    waiting: int
    """The number of runs that wait for a place, see `concurrency`."""
    failing: int
    """The number of keys whose last run failed or timed out."""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The state of one task at one moment. Times are aware, in UTC; durations are seconds."""

    name: str
    full_name: str
    spacing: float | None
    """Seconds between two slots; 0.0 = every pass, `None` for cron and for `at`."""
    schedule: str
    """The cron expression as written, or the spacing in words."""
    last_run: datetime | None
    """The start of the last run."""
    next_due: datetime | None
    """The next slot, by the present wall clock; `None` = the task is paused, or its schedule is over."""
    tz: str | None = None
    """The time zone of a cron expression; `None` for a spacing."""
    outcome: Outcome | None = None
    """The outcome of the last run that ended; `None` = no run has ended."""
    error: str | None = None
    """The last failure as type and text; `None` = there are no failures in a row."""
    duration: float | None = None
    """Duration of the last run that ended, seconds."""
    failures: int = 0
    """The number of failures in a row."""
    runs: int = 0
    skipped: int = 0
    missed: int = 0
    running_since: datetime | None = None
    """The start of the oldest run in progress; `None` = no run is in progress."""
    paused: bool = False
    owner: str | None = None
    """The process that holds the task, where only one may run it; `None` = each may, or no holder is known."""
    owner_since: datetime | None = None
    """Since when it holds the task; `None` = that is not known."""
    fencing_token: int | None = None
    """The fencing token of that holder; `None` = it has none."""
    keys: KeyCounts | None = None
    """The keys of a task with `each=`; `None` = the task has none. `runs`, `last_run` and others are those of all keys
    together."""


def status_of(
    task: ManagedTask,
    moment: Moment,
    *,
    running_for: float | None = None,
    paused: bool = False,
    holding: Holding | None = None,
    keys: KeyCounts | None = None,
) -> TaskStatus:
    """Make the status of a task. `running_for` is the age of its oldest run in progress, in seconds."""
    plan, standing = task.plan, task.standing
    schedule = plan.options.schedule
    remaining = None if paused else plan.remaining(moment)
    return TaskStatus(
        task.name,
        task.full_name,
        schedule.spacing,
        schedule.expression if isinstance(schedule, Cron) else str(schedule),
        None if standing.last_run is None else to_datetime(standing.last_run),
        None if remaining is None else to_datetime(moment.wall + max(0, remaining)),
        schedule.tz if isinstance(schedule, Cron) else None,
        outcome=standing.outcome,
        error=(standing.trouble.text or None) if standing.trouble else None,
        duration=None if standing.outcome is None else round(standing.duration, 6),
        failures=standing.trouble.failures if standing.trouble else 0,
        runs=standing.runs,
        skipped=standing.skipped,
        missed=standing.missed,
        running_since=None
        if running_for is None
        else to_datetime(moment.wall - round(running_for * 1_000_000)),
        paused=paused,
        owner=None if holding is None else holding.owner,
        owner_since=None if holding is None else holding.since,
        fencing_token=None if holding is None else holding.token,
        keys=keys,
    )
