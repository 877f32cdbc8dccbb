"""Lays options from settings or from a handle over the options that a task has. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from asyncmgr._tasks.options import SETTABLE, PeriodicTask, lay_over, read_option
from asyncmgr.errors import InvalidPeriodicTaskArg


def override_options(options: PeriodicTask, override: object) -> PeriodicTask:
    """Compute the options in force: those of the declaration, with those of the settings laid over them.

    A spacing replaces a cron expression or a negative spacing; `enabled` wins over both; options that the settings do
    not set stay.

    Parameters
    ----------
    options
        The options as declared.
    override
        An object with an attribute for each of `SETTABLE`; `None` = not set. Lengths are seconds.

    Raises
    ------
    InvalidPeriodicTaskArg
        A value is not accepted, or does not fit the other options in force.
    """
    said = {option.name: getattr(override, option.name) for option in SETTABLE}
    return lay_over(
        options, {name: read_option(name, value) for name, value in said.items() if value is not None}
    )


def reschedule_options(
    options: PeriodicTask,
    *,
    spacing: float | timedelta | None = None,
    cron: str | None = None,
    tz: str | ZoneInfo | None = None,
) -> PeriodicTask:
    """Compute the options in force after `TaskHandle.reschedule`: the schedule changes, and all others stay.

    Without `tz` a cron expression keeps its zone, and a task that is not enabled stays off.

    Raises
    ------
    InvalidPeriodicTaskArg
        Neither or too many of the options are given, or a value is not accepted.
    """
    given: dict[str, Any] = {"spacing": spacing, "cron": cron, "tz": tz}
    said = {name: value for name, value in given.items() if value is not None}
    if not said or (spacing is not None and cron is not None):
        raise InvalidPeriodicTaskArg(
            "reschedule() takes either spacing= or cron=, and tz= beside or instead of cron="
        )
    return lay_over(options, {name: read_option(name, value) for name, value in said.items()})
