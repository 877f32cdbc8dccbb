"""Lays what the settings say of a task over its declaration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from asyncmgr._tasks.options import READERS, PeriodicTask, make_schedule, read_spacing, why_off
from asyncmgr._tasks.schedules import Cron


class Override(Protocol):
    """What settings may say of one task; `None` = nothing. Lengths are seconds."""

    spacing: float | None
    cron: str | None
    tz: str | None
    enabled: bool | None
    timeout: float | None
    jitter: float | None
    tolerance: float | None


def override_options(options: PeriodicTask, override: Override) -> PeriodicTask:
    """The options in force: those of the declaration with what the settings say laid over them.

    A spacing replaces a cron or a negative spacing; `enabled` wins over both.

    Raises
    ------
    InvalidPeriodicTaskArg
        A value cannot be meant.
    """
    changes: dict[str, Any] = {
        keyword: READERS[keyword](keyword, value)
        for keyword in ("timeout", "jitter", "tolerance")
        if (value := getattr(override, keyword)) is not None
    }
    if override.spacing is not None:
        spacing = read_spacing("spacing", override.spacing)
        changes |= {
            "schedule": make_schedule(spacing, None, None),
            "switched_off": why_off(spacing, enabled=True),
        }
    elif override.cron is not None:
        changes |= {"schedule": make_schedule(None, override.cron, override.tz), "switched_off": None}
    elif override.tz is not None and isinstance(options.schedule, Cron):
        changes["schedule"] = make_schedule(None, options.schedule.expression, override.tz)
    if override.enabled is not None:
        changes["switched_off"] = why_off(None, enabled=override.enabled)
    return replace(options, **changes)
