"""Lays what settings, or a handle, say of a task over the options that it has. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from asyncmgr._tasks.options import SETTABLE, PeriodicTask, lay_over, read_option
from asyncmgr.errors import InvalidPeriodicTaskArg


def override_options(options: PeriodicTask, override: object) -> PeriodicTask:
    """The options in force: those of the declaration with what the settings say laid over them.

    A spacing replaces a cron or a negative spacing; `enabled` wins over both; what is not said stays.

    Parameters
    ----------
    options
        As declared.
    override
        Has an attribute for each of `SETTABLE`; `None` = nothing is said. Lengths are seconds.

    Raises
    ------
    InvalidPeriodicTaskArg
        A value cannot be meant, or not beside what else is in force.
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
    """The options in force after `TaskHandle.reschedule`: another schedule, and all the rest as it was.

    The zone of a cron expression stays where none is given, and a task that is not enabled stays off.

    Raises
    ------
    InvalidPeriodicTaskArg
        Nothing or too much is given, or a value cannot be meant.
    """
    given: dict[str, Any] = {"spacing": spacing, "cron": cron, "tz": tz}
    said = {name: value for name, value in given.items() if value is not None}
    if not said or (spacing is not None and cron is not None):
        raise InvalidPeriodicTaskArg(
            "reschedule() takes either spacing= or cron=, and tz= beside or instead of cron="
        )
    return lay_over(options, {name: read_option(name, value) for name, value in said.items()})
