"""`TaskStatus`: what is known of one task at one moment. Pure: it gets the moment and the facts as arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._tasks.keys import KeyCounts, KeyedTask
from asyncmgr._tasks.managed import Holding, ManagedTask
from asyncmgr._tasks.progress import Progress
from asyncmgr._tasks.runs import Again, Run, Trigger
from asyncmgr._tasks.schedules import Cron
from asyncmgr._tasks.whereabouts import where_it_waits
from asyncmgr.events import Outcome

HUNG_AFTER = 60.0
"""Seconds. No run that is younger hangs, unless it has outlived its timeout."""

HUNG_RUNS = 10
"""A run hangs where it is this many times as old as a run usually gets, and `HUNG_SPACINGS` spacings too."""

HUNG_SPACINGS = 3

HUNG_FLOOR = 600.0
"""Seconds. A run that is older may hang before three spacings are over, which of a nightly task are three days."""

HUNG_EARLY_SPACINGS = 2
"""So many spacings are enough for it, and so is `HUNG_RUNS` times the longest run that succeeded."""

FAILING_KEYS = 0.1
"""The share of a task's keys that has to fail before the whole task is called failing."""

OVER_TIMEOUT = 10.0
"""Seconds after its timeout from which on a run hangs, whatever is usual."""


class TaskState(StrEnum):
    """The one word for how a task stands: of several that fit, the first one in this list."""

    HUNG = "hung"
    """A run is in progress for much longer than usual, or has outlived its timeout."""
    DISABLED = "disabled"
    """It is switched off, or left to another process."""
    PAUSED = "paused"
    """Somebody paused it."""
    HELD = "held"
    """It runs more seldom, after failures in a row."""
    FAILING = "failing"
    """The last run failed or timed out, or the schedule raised; of a task with keys, that of a tenth of its keys."""
    STALE = "stale"
    """Its last success is older than it promises."""
    RUNNING = "running"
    """A run is in progress, and all is well."""
    NEW = "new"
    """No run has ended."""
    OK = "ok"
    """The last run succeeded, had nothing to do, or was cancelled."""


@dataclass(frozen=True, slots=True)
class RunningStatus:
    """The run in progress; of several the oldest."""

    run_id: str
    since: datetime
    trigger: Trigger
    attempt: int = 1
    """Which attempt it is, the first one being 1."""
    where: str | None = None
    """The line of the user's code where it waits, ``Search.push at search.py:77``; `None` = that cannot be seen."""
    progress: Progress | None = None
    """What it told by `context.progress`."""


@dataclass(frozen=True, slots=True)
class LastStatus:
    """The last run that ended."""

    fate: Outcome
    slot: datetime
    lateness: float
    """Seconds from the slot to the start; negative where the run started nearly due."""
    duration: float
    """Seconds."""
    error: str | None = None
    """What it failed with, as type and text."""


@dataclass(frozen=True, slots=True)
class PausedStatus:
    """A pause."""

    by: str
    """Who paused it, for people: ``code``, ``ops (uid 1000)``, ``said to be ops``, ``policy``."""
    since: datetime
    until: datetime | None = None
    """When it ends by itself; `None` = somebody has to resume the task."""
    note: str | None = None


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
    """The next slot, by the present wall clock; `None` = nothing is going to start the task by itself."""
    tz: str | None = None
    """The time zone of a cron expression; `None` for a spacing."""
    outcome: Outcome | None = None
    """The outcome of the last run that ended; `None` = no run has ended."""
    error: str | None = None
    """The last failure as type and text, of a task with keys that of one key; `None` = there are no failures in a
    row."""
    duration: float | None = None
    """Duration of the last run that ended, seconds."""
    failures: int = 0
    """The number of failures in a row."""
    runs: int = 0
    skipped: int = 0
    missed: int = 0
    running_since: datetime | None = None
    """The start of the oldest run in progress; `None` = no run is in progress."""
    paused: PausedStatus | None = None
    """The pause; `None` = it is not paused."""
    state: TaskState = TaskState.NEW
    off: str | None = None
    """Why it is switched off; `None` = it is switched on."""
    running: RunningStatus | None = None
    """The run in progress; of several the oldest. `None` = there is none."""
    last: LastStatus | None = None
    """The last run that ended; `None` = none has."""
    last_success: datetime | None = None
    """The end of the last run that succeeded or had nothing to do."""
    failing_since: datetime | None = None
    """The slot of the first of the failures in a row."""
    owner: str | None = None
    """Who runs the task, where only one process may; `None` = it is every process's own, or nobody is known."""
    owner_since: datetime | None = None
    """Since when it holds the task; `None` = that is not known."""
    fencing_token: int | None = None
    """The fencing token of that holder; `None` = it has none."""
    keys: KeyCounts | None = None
    """The keys of a task with `each=`; `None` = the task has none. `runs`, `last_run` and others are those of all keys
    together."""
    fresh: bool | None = None
    """Whether the last success is as young as the task promises; `None` = it promises nothing, or is switched off."""
    freshness: float | None = None
    """The promise: a success that is no older than so many seconds."""
    critical: bool = False
    """Whether the service is not ready while the promise is broken."""
    held_spacing: float | None = None
    """Seconds between two runs while failures in a row hold it back; `None` = they do not."""
    usual: float | None = None
    """Seconds that a run usually takes, about the median; `None` = no run that waited for something has ended."""
    timeout: float | None = None
    """Seconds after which a run is cancelled; `None` = never."""


def status_of(
    task: ManagedTask,
    moment: Moment,
    *,
    is_armed: bool,
    run: Run | None = None,
    age: float = 0.0,
    paused: PausedStatus | None = None,
    off: str | None = None,
    holding: Holding | None = None,
    keys: KeyCounts | None = None,
) -> TaskStatus:
    """Make the status of a task.

    Parameters
    ----------
    is_armed
        Whether the next slot of the plan is going to start the task.
    run
        The oldest run in progress, which is `age` seconds old.
    """
    plan, standing = task.plan, task.standing
    schedule = plan.options.schedule
    trouble = standing.trouble
    next_slot = task.next_slot() if is_armed else None
    remaining = None if next_slot is None else next_slot - plan.reference(moment)
    hold = task.hold
    freshness = plan.options.freshness
    error = (trouble.text or None) if trouble else _error_of_keys(task)
    since = None if run is None else to_datetime(moment.wall - round(age * SECOND))
    return TaskStatus(
        task.name,
        task.full_name,
        schedule.spacing,
        schedule.expression if isinstance(schedule, Cron) else str(schedule),
        _moment(standing.last_run),
        None if remaining is None else to_datetime(moment.wall + max(0, remaining)),
        schedule.tz if isinstance(schedule, Cron) else None,
        outcome=standing.outcome,
        error=error,
        duration=None if standing.outcome is None else round(standing.duration, 6),
        failures=trouble.failures if trouble else 0,
        runs=standing.runs,
        skipped=standing.skipped,
        missed=standing.missed,
        running_since=since,
        paused=paused,
        state=state_of_task(task, moment, run=run, age=age, is_paused=paused is not None, off=off),
        off=off,
        running=None if run is None or since is None else _running(run, since),
        last=None if standing.outcome is None else _last(task, standing.outcome, error),
        last_success=_moment(standing.last_success),
        failing_since=None if trouble is None or trouble.episode is None else trouble.episode.since,
        owner=None if holding is None else holding.owner,
        owner_since=None if holding is None else holding.since,
        fencing_token=None if holding is None else holding.token,
        keys=keys,
        fresh=is_fresh(task, moment, off=off),
        freshness=None if freshness is None else freshness / SECOND,
        critical=plan.options.critical,
        held_spacing=None if hold is None else hold.spacing / SECOND,
        usual=standing.usual or None,
        timeout=None if plan.options.timeout is None else plan.options.timeout / SECOND,
    )


def state_of_task(
    task: ManagedTask, moment: Moment, *, run: Run | None, age: float, is_paused: bool, off: str | None
) -> TaskState:
    """Choose the one word for how the task stands."""
    standing = task.standing
    if run is not None and hangs(run, moment, age):
        return TaskState.HUNG
    if off is not None:
        return TaskState.DISABLED
    if is_paused:
        return TaskState.PAUSED
    if task.hold is not None:
        return TaskState.HELD
    if (standing.trouble is not None and standing.trouble.failures) or _many_keys_fail(task):
        return TaskState.FAILING
    if is_fresh(task, moment, off=off) is False:
        return TaskState.STALE
    if run is not None:
        return TaskState.RUNNING
    return TaskState.NEW if standing.outcome is None else TaskState.OK


def _many_keys_fail(task: ManagedTask) -> bool:
    if not isinstance(task, KeyedTask):
        return False
    failing = task.count_failing()
    return failing > 0 and failing >= FAILING_KEYS * len(task.keys.ring)


def _error_of_keys(task: ManagedTask) -> str | None:
    """Say what one of the keys that fail failed with; `None` = none fails, or the task has no keys."""
    if not isinstance(task, KeyedTask):
        return None
    texts = (
        (key, one.standing.trouble.text)
        for key, one in task.active.items()
        if one.standing.trouble is not None and one.standing.trouble.failures
    )
    return next((f"key {key}: {text}" for key, text in texts), None)


def left_fresh(task: ManagedTask, moment: Moment) -> int | None:
    """Return the microseconds until the promise of `freshness` is broken, negative if it is; `None` = no promise.

    Before the first success it counts from the moment from which on the task is judged: its start, or when it was
    switched on again.
    """
    freshness = task.plan.options.freshness
    if freshness is None:
        return None
    since = [one for one in (task.standing.last_success, task.judged_from) if one is not None]
    return max(since) + freshness - moment.wall if since else None


def is_fresh(task: ManagedTask, moment: Moment, *, off: str | None) -> bool | None:
    """Whether the last success is as young as the task promises; `None` = no promise, or it is switched off."""
    left = None if off is not None else left_fresh(task, moment)
    return None if left is None else left >= 0


def hangs(run: Run, moment: Moment, age: float) -> bool:
    """Whether a run of this age, seconds, hangs. One that waits for its next attempt does not."""
    task = run.managed
    again: Again | None = getattr(run, "again", None)
    if again is not None and again.began is None:
        return False
    if age > max(HUNG_AFTER, HUNG_RUNS * (task.standing.usual or 0.0)) and age > _patience(task):
        return True
    timeout = task.plan.options.timeout
    attempt_age = age if again is None or again.began is None else age + run.started - again.began
    return timeout is not None and attempt_age > timeout / SECOND + OVER_TIMEOUT


def _patience(task: ManagedTask) -> float:
    """Seconds for which the spacing excuses a run that lasts, whatever is usual."""
    spacing, longest = _spacing(task), task.standing.longest
    early = HUNG_EARLY_SPACINGS * spacing
    if longest:
        early = min(early, HUNG_RUNS * longest)
    return min(HUNG_SPACINGS * spacing, max(HUNG_FLOOR, early))


def _spacing(task: ManagedTask) -> float:
    """Seconds between two slots; of a cron expression between the present ones. 0 = there is no next slot."""
    plan = task.plan
    if plan.slot is None:
        return 0.0
    try:
        return plan.grid.gap(plan.slot) / SECOND
    except Exception:  # a zone or an expression that raises is reported at its slot
        return 0.0


def _running(run: Run, since: datetime) -> RunningStatus:
    return RunningStatus(
        run.run_id, since, run.trigger, run.attempt, where=where_of(run), progress=run.reported
    )


def where_of(run: Run) -> str | None:
    """Say in which line of the user's code a run waits; `None` = that cannot be seen."""
    place = None if run.future is None else where_it_waits(_coroutine_of(run))
    return None if place is None else str(place)


def _coroutine_of(run: Run) -> object:
    get = getattr(run.future, "get_coro", None)
    return None if get is None else get()


def _last(task: ManagedTask, outcome: Outcome, error: str | None) -> LastStatus:
    standing = task.standing
    failed = outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    return LastStatus(
        outcome,
        to_datetime(standing.slot),
        standing.lateness,
        round(standing.duration, 6),
        error if failed else None,
    )


def _moment(wall: int | None) -> datetime | None:
    return None if wall is None else to_datetime(wall)
