"""One periodic task of one manager instance: what to call, its plan, and the standing of its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncmgr._common.clock import Moment, to_datetime
from asyncmgr._common.heap import NO_PLACE, LazyHeap, Place
from asyncmgr._tasks.failures import Episode
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.plan import Plan
from asyncmgr._tasks.schedules import Cron
from asyncmgr.events import Outcome


class Standing:
    """How the runs of one task have gone. Written where runs start and end, and nowhere else."""

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
        """Runs handed out and not yet ended."""
        self.queued = False
        """One more waits for the run in progress to end."""
        self.runs = 0
        self.skipped = 0
        self.missed = 0
        self.last_run: int | None = None
        """When the last one was handed out: wall time, microseconds."""
        self.outcome: Outcome | None = None
        """Of the last run that ended."""
        self.duration = 0.0
        """Of the last run that ended, seconds."""
        self.trouble: Trouble | None = None
        """Kept only while something goes wrong: most tasks never need it."""


class Trouble:
    """What goes wrong with one task at present: failures in a row, or slots refused in a row."""

    __slots__ = ("episode", "failures", "is_news", "refused", "text")

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.text = ""
        """The last failure, as ``ValueError: text``."""
        self.episode: Episode | None = None
        """Of these failures: tells whether one is of a new kind."""
        self.is_news = False
        """The last failure was of a new kind."""
        self.refused = 0
        """Slots in a row that met a run of their own task."""


class ManagedTask:
    """One periodic task of one manager instance."""

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
        """`standing` is that of a removed task of the same name whose run goes on."""
        self.manager = manager
        self.body = body
        """What to call, or the name of the manager's method, which is looked up at each run."""
        self.full_name = full_name
        self.declared = options
        """What the code says; settings may lay something over it."""
        self.log_level: str | None = None
        """The level at which a successful run is logged; `None` = not at all."""
        self.plan = Plan(options, tolerance=tolerance, initial_delay=initial_delay, share=share)
        self.standing = standing or Standing()
        self.place: Place | None = NO_PLACE
        """The agenda's mark of this task's one valid place in a heap."""
        self.lane: Lane | None = None
        """The agenda's heap in which that place is."""

    @property
    def name(self) -> str:
        """The second half of the full name."""
        return self.full_name.rpartition(".")[2]

    @property
    def options(self) -> PeriodicTask:
        """The options in force."""
        return self.plan.options

    def call(self, context: Any) -> Any:
        """Call the body; a method is looked up now, so an overridden or patched one is what runs."""
        body = self.body
        return getattr(self.manager, body)(context) if isinstance(body, str) else body(context)


class Lane(LazyHeap[ManagedTask]):
    """The tasks of one window on one scale, by planned start."""

    __slots__ = ("on_wall", "window")

    def __init__(self, *, on_wall: bool, window: int) -> None:
        super().__init__()
        self.on_wall = on_wall
        self.window = window


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A periodic task that is switched on, as its manager sees it. Times are aware, in UTC; lengths are seconds."""

    name: str
    full_name: str
    spacing: float | None
    """0.0 = every pass, `None` for cron and for `at`."""
    schedule: str
    """As written: the cron expression, or the spacing in words."""
    last_run: datetime | None
    """When it was last started."""
    next_due: datetime | None
    """Wall time now plus what remains; `None` = it is paused, or it has no slot any more."""
    tz: str | None = None
    """The time zone of a cron expression; `None` for a spacing."""
    outcome: Outcome | None = None
    """How the last run that ended did; `None` = none has ended."""
    error: str | None = None
    """The last failure as type and text, while failures go on."""
    duration: float | None = None
    """Of the last run that ended."""
    failures: int = 0
    """In a row."""
    runs: int = 0
    skipped: int = 0
    missed: int = 0
    running_since: datetime | None = None
    """When the oldest run in progress started."""
    paused: bool = False


def status_of(
    task: ManagedTask, moment: Moment, *, running_for: float | None = None, paused: bool = False
) -> TaskStatus:
    """The task in wall time; `running_for` is the age of its oldest run in progress, seconds."""
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
    )
