"""Shows a task to people and programs, at a given moment. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from asyncmgr._cli.tasks import Task, tasks_of
from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._common.durations import format_duration
from asyncmgr._common.functions import name_of
from asyncmgr._service.service import Service
from asyncmgr._tasks.policy import RETRY_FIELDS, Retry
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL, LOCAL, Cron, EveryPass

_UNITS = ((86400, 3600), (3600, 60))
"""Pairs of seconds: from the first number on, a length is rounded to the second number."""

OVER = "over: no slot is left"
"""Shown in place of a first slot."""

HEADERS = ("task", "schedule", "first slot, local", "in")
"""The headers of `rows`."""


@dataclass(frozen=True)
class TaskView:
    """One task as a service would run it if it started at `moment`."""

    task: Task
    moment: Moment

    @property
    def name(self) -> str:
        """The full name."""
        return self.task.full_name

    @property
    def off(self) -> str | None:
        """Why the task does not run here; `None` = it runs."""
        return self.task.off

    @property
    def marked_name(self) -> str:
        """The full name, with a star if the settings change what the code declares."""
        return f"{self.name} *" if self.task.is_overridden else self.name

    @property
    def cron(self) -> Cron | None:
        schedule = self.task.options.schedule
        return schedule if isinstance(schedule, Cron) else None

    @property
    def schedule(self) -> str:
        """The schedule in words."""
        options = self.task.options
        words = _words(options.schedule)
        if options.jitter:
            words = f"{words}, jitter {seconds_in_words(options.jitter)}"
        return words if options.scope == "process" else f"{words}, one a {options.scope}"

    @property
    def tolerance(self) -> int:
        """Microseconds by which the task may start early."""
        return self.task.window(self.moment)

    @property
    def first_slot(self) -> datetime | None:
        """`None` = there is none: all one-off slots are past."""
        return next(self.slots(), None)

    def slots(self) -> Iterator[datetime]:
        """The slots to come, aware, in UTC; ends at the calendar's last year."""
        return self.task.slots(self.moment)

    @property
    def zone(self) -> tzinfo | None:
        """The time zone of its slots; `None` = local time."""
        return None if self.cron is None or self.cron.tz == LOCAL else self.cron.zone

    def as_json(self) -> dict[str, Any]:
        """Everything about the task, for programs: lengths in seconds, times in UTC."""
        options = self.task.options
        first = None if self.off is not None else self.first_slot
        return {
            "task": self.name,
            "manager": self.name.rpartition(".")[0],
            "name": self.task.name,
            "on": self.off is None,
            "off_reason": self.off,
            "schedule": self.schedule,
            "spacing": options.schedule.spacing,
            "cron": self.cron.expression if self.cron else None,
            "tz": self.cron.tz if self.cron else None,
            "jitter": options.jitter / SECOND,
            "tolerance": self.tolerance / SECOND,
            "timeout": None if options.timeout is None else options.timeout / SECOND,
            "overlap": options.overlap,
            "scope": options.scope,
            "each": options.each if isinstance(options.each, str | None) else name_of(options.each),
            "concurrency": options.concurrency,
            "persist": options.persist,
            "retry": None if options.retry is None else _retry_as_json(options.retry),
            "backoff": options.backoff,
            "pause_after": options.pause_after,
            "freshness": None if options.freshness is None else options.freshness / SECOND,
            "critical": options.critical,
            "overridden": self.task.is_overridden,
            "first_slot": None if first is None else first.isoformat(),
            "in": None if first is None else self.seconds_to(first),
        }

    def seconds_to(self, slot: datetime) -> float:
        return (slot - to_datetime(self.moment.wall)).total_seconds()


def _retry_as_json(retry: Retry) -> dict[str, Any]:
    errors = retry.on if isinstance(retry.on, tuple) else (retry.on,)
    return {
        **{name: getattr(retry, name) for name in RETRY_FIELDS},
        "on": [one.__qualname__ for one in errors],
    }


def view_tasks(service: Service, moment: Moment) -> list[TaskView]:
    """List all tasks as they would run if the service started at `moment`."""
    return [TaskView(task, moment) for task in tasks_of(service)]


def seconds_in_words(microseconds: int | None) -> str:
    """Write a length of time, such as ``1m30s``."""
    return "none" if microseconds is None else format_duration(microseconds / SECOND)


def relative(seconds: float) -> str:
    """Write how far away a moment is, in the two largest units: ``1d13h``."""
    if seconds < 0.001:
        return "now"
    if seconds < 10:
        return format_duration(float(f"{seconds:.2g}"))
    rest = round(seconds)
    smallest = next((small for large, small in _UNITS if rest >= large), 1)
    return format_duration(rest // smallest * smallest)


def local(moment: datetime) -> str:
    """Write local time to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def rows(views: Iterable[TaskView]) -> Iterator[tuple[str, ...]]:
    """Make rows of name, schedule, first slot and how far away it is; a task that is off has the reason instead."""
    for view in views:
        if view.off is not None:
            yield view.name, view.schedule, f"off: {view.off}", ""
        elif (first := view.first_slot) is None:
            yield view.name, view.schedule, OVER, ""
        else:
            yield view.name, view.schedule, local(first), relative(view.seconds_to(first))


def paragraphs(views: Iterable[TaskView], *, in_full: bool = False) -> list[str]:
    """Write the contents of `rows` as paragraphs, for narrow terminals."""
    return [_paragraph(view, in_full=in_full) for view in views]


def _paragraph(view: TaskView, *, in_full: bool) -> str:
    lines = [f"{view.marked_name if in_full else view.name}: {view.schedule}"]
    if view.off is not None:
        lines.append(f"  off: {view.off}")
    elif (first := view.first_slot) is None:
        lines.append(f"  {OVER}")
    else:
        away = relative(view.seconds_to(first))
        lines.append(f"  first slot {local(first)} local, {away if away == 'now' else f'in {away}'}")
    if in_full:
        timeout = seconds_in_words(view.task.options.timeout)
        scope = "" if view.task.options.scope == "process" else f", scope {view.task.options.scope}"
        lines.append(
            f"  tolerance {seconds_in_words(view.tolerance)}, timeout {timeout}, "
            f"overlap {view.task.options.overlap}{scope}"
        )
    return "\n".join(lines)


def off_rows(views: Iterable[TaskView]) -> list[int]:
    """List the numbers of the rows of tasks that are off."""
    return [number for number, view in enumerate(views) if view.off is not None]


def _words(schedule: Any) -> str:
    if isinstance(schedule, Cron):
        return f"{schedule.expression} {schedule.tz}"
    if isinstance(schedule, EveryPass):
        return f"every pass ({format_duration(DEFAULT_INTERVAL)})"
    return str(schedule)
