"""Says in sentences what of a rehearsal needs somebody, the worst first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from asyncmgr._common.clock import SECOND
from asyncmgr._history.words import Dial, length
from asyncmgr._tasks.agenda import MOST_AT_ONCE
from asyncmgr._tasks.schedules import load_zone
from asyncmgr.testing.rehearsal._clocks import Affected, ClockChange, Effect
from asyncmgr.testing.rehearsal._figures import Figures, TaskFigures
from asyncmgr.testing.rehearsal._stage import KEYS_UNKNOWN

BUSY = 0.8
"""The share of the time for which a task runs that is worth a word."""

LATE = 1.0
"""Seconds from which on a late start is worth a word."""

NAMED = 4
"""Tasks that one sentence names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know."""

    needs_you: bool
    """Whether it is a loss; else it is worth knowing only."""
    text: str
    """One to three sentences."""
    task: str | None = None
    """The full name; `None` = it concerns several."""

    def as_json(self) -> dict[str, Any]:
        return {"needs_you": self.needs_you, "task": self.task, "text": self.text}


def findings_of(figures: Figures) -> list[Finding]:
    """List all findings: losses before what is worth knowing."""
    found = [finding for look in _LOOKS for finding in look(figures)]
    return sorted(found, key=lambda finding: not finding.needs_you)


def report(figures: Figures) -> dict[str, Any]:
    """Return everything for programs: the figures, and the findings before them."""
    return {"findings": [finding.as_json() for finding in findings_of(figures)], **figures.as_json()}


def zone_of(figures: Figures) -> tzinfo:
    """Return the zone in which moments are shown."""
    return load_zone(figures.rehearsal.timezone)


def clock_of(figures: Figures) -> Callable[[int], str]:
    """Return what shows a moment (wall time, microseconds): without the day, where the rehearsal has only one."""
    dial = Dial(figures.rehearsal.first, zone_of(figures))
    return dial.show_second


# What is looked at


def _overlaps(figures: Figures) -> Iterator[Finding]:
    for task in figures.tasks:
        skipped = task.skipped.get("overlap", 0)
        if not skipped:
            continue
        usual = "" if task.usual is None else f": a run takes {_lengths(task)}"
        spacing = task.options.schedule.spacing
        every = f", and a slot comes every {length(spacing)}" if usual and spacing else ""
        yield Finding(
            True,
            f"{task.name}: {_of(skipped, task.slots)} skipped, since a run was still going{usual}{every}. "
            f"{_cure(task, spacing)}",
            task.name,
        )


def _lengths(task: TaskFigures) -> str:
    usual, longest = task.usual or 0.0, task.longest or 0.0
    return length(usual) if longest <= 1.1 * usual else f"{length(usual)}, at most {length(longest)}"


def _cure(task: TaskFigures, spacing: float | None) -> str:
    if task.options.overlap == "allow":
        return f"No more than {MOST_AT_ONCE} go on at once; a longer spacing loses none."
    if spacing and task.longest is not None and task.longest > spacing:
        return f"A spacing above {length(task.longest)} loses none; overlap='allow' runs several at once."
    if task.options.overlap == "queue":
        return "Only one slot waits for the run in the way; a longer spacing loses none."
    return "A longer spacing loses none; overlap='queue' starts one right after the run in the way."


def _failures(figures: Figures) -> Iterator[Finding]:
    for task in figures.tasks:
        late = task.outcomes.get("timed_out", 0)
        if late:
            timeout = length((task.options.timeout or 0) / SECOND)
            yield Finding(
                True, f"{task.name}: {_of(late, task.runs, 'run')} timed out, after {timeout}.", task.name
            )
        failed = task.outcomes.get("failed", 0)
        if failed:
            error, count = next(iter(task.errors.items()), ("", 0))
            most = (
                f", {count:,} of them with {error}"
                if error and count < failed
                else f": {error}"
                if error
                else ""
            )
            yield Finding(True, f"{task.name}: {_of(failed, task.runs, 'run')} failed{most}.", task.name)
        elif task.errors:
            yield Finding(True, f"{task.name}: {next(iter(task.errors))}.", task.name)


def _losses(figures: Figures) -> Iterator[Finding]:
    for task in figures.tasks:
        for reason, count in task.skipped.items():
            if reason not in ("overlap", "draining"):
                because = _BECAUSE.get(reason, reason)
                yield Finding(True, f"{task.name}: {_of(count, task.slots)} skipped, {because}.", task.name)
        for reason, count in task.missed.items():
            because = _BECAUSE.get(reason, f"reason {reason}")
            yield Finding(True, f"{task.name}: {_of(count, task.slots)} missed, {because}.", task.name)


_BECAUSE = {
    "backoff": "since the task runs more seldom after failures in a row (backoff)",
    "paused": "since the task was paused after failures in a row (pause_after)",
    "late": "since they would have started later than misfire_grace allows",
    "blocked": "since the event loop was blocked",
}


def _lateness(figures: Figures) -> Iterator[Finding]:
    late = [
        (task, task.latest)
        for task in figures.tasks
        if task.latest is not None and task.latest.seconds >= LATE + task.options.jitter / SECOND
    ]
    if not late:
        return
    task, latest = max(late, key=lambda one: one[1].seconds)
    why = "it was queued behind a run of its own" if latest.trigger == "queue" else _why_late(figures)
    others = f" {len(late) - 1:,} other tasks start late too." if len(late) > 1 else ""
    yield Finding(
        latest.trigger != "queue",
        f"{task.name} starts up to {length(latest.seconds)} late (the slot of {clock_of(figures)(latest.slot)}): "
        f"{why}.{others}",
        task.name,
    )


def _why_late(figures: Figures) -> str:
    most = figures.rehearsal.max_runs
    if most is not None and figures.most_in_progress >= most:
        return f"all {most} places of max_runs were taken"
    return "something held it up"


def _busy(figures: Figures) -> Iterator[Finding]:
    for task in figures.tasks:
        if task.utilisation >= BUSY and "overlap" not in task.skipped and not task.is_keyed:
            yield Finding(
                False,
                f"{task.name} runs for {task.utilisation:.0%} of the time; a little longer, and it loses slots.",
                task.name,
            )


def _together(figures: Figures) -> Iterator[Finding]:
    if not figures.worst:
        return
    worst = figures.worst[0]
    seconds = (
        "That is the only second" if figures.collisions == 1 else f"There are {figures.collisions:,} seconds"
    )
    yield Finding(
        False,
        f"At {clock_of(figures)(worst.at * SECOND)} {len(worst.tasks)} tasks are due in the same second: "
        f"{_named(worst.tasks)}. {seconds} with {figures.together} or more. jitter= or phase='auto' spreads "
        "those with a spacing; a cron task gets another minute, or jitter=.",
    )


def _clock_changes(figures: Figures) -> Iterator[Finding]:
    for change in figures.changes:
        back = "" if change.is_forward else "back "
        begins = (
            f"{change.day}, {change.zone}: the clocks go {back}from {change.from_time} to {change.to_time}."
        )
        effects = [
            _effect(effect, [task for task in change.tasks if task.effect == effect], change)
            for effect in _EFFECTS
        ]
        said = [effect for effect in effects if effect] or ["No cron task has a slot in that hour."]
        yield Finding(False, " ".join([begins, *said]))


_EFFECTS: tuple[Effect, ...] = ("moved", "once", "left out", "twice")


def _effect(effect: Effect, tasks: list[Affected], change: ClockChange) -> str:
    if not tasks:
        return ""
    what = {
        "moved": f"At {change.to_time} instead run",
        "once": "The first time only run",
        "left out": "Without a slot for what is left out are",
        "twice": "Both times run",
    }[effect]
    return f"{what} {_named([f'{task.task} ({_times(task)})' for task in tasks])}."


def _times(task: Affected) -> str:
    more = f" and {task.count - len(task.times)} more" if task.count > len(task.times) else ""
    return f"{', '.join(task.times)}{more}"


def _silent(figures: Figures) -> Iterator[Finding]:
    silent = [task for task in figures.tasks if task.off is None and not task.slots and not task.is_keyed]
    if silent:
        has = "has" if len(silent) == 1 else "have"
        names = _named([task.name for task in silent])
        yield Finding(False, f"{names} {has} no slot in this time.")
    keyed = [task.name for task in figures.tasks if task.off == KEYS_UNKNOWN]
    if keyed:
        yield Finding(
            False,
            f"{_named(keyed)}: not rehearsed, since the manager was not asked for the keys. --run-bodies asks it.",
        )


def _unknown(figures: Figures) -> Iterator[Finding]:
    unknown = [task.name for task in figures.tasks if task.length == "none" and task.off is None]
    if unknown:
        who = "no task" if len(unknown) == sum(task.off is None for task in figures.tasks) else None
        whose = (
            f"How long runs take is known of {who}"
            if who
            else f"How long runs take is not known of {_named(unknown)}"
        )
        yield Finding(
            False,
            f"{whose}: they took no time here. --took 'TASK=2s±1s' says it, --replay HISTORY reads it.",
        )
    hooks = figures.rehearsal.hooks
    if hooks:
        yield Finding(
            False, f"Not called: {_named(hooks)}. What they would add is not here; --run-bodies calls them."
        )


_LOOKS = (
    _overlaps,
    _failures,
    _losses,
    _lateness,
    _busy,
    _clock_changes,
    _together,
    _silent,
    _unknown,
)


# Words


def _of(count: int, total: int, thing: str = "slot") -> str:
    things = thing if total == 1 else f"{thing}s"
    return f"{count:,} of {total:,} {things}"


def _named(names: tuple[str, ...] | list[str]) -> str:
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED:,} more"
