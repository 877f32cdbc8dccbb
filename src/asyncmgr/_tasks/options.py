"""The options of a periodic task: how each is read and checked, and the record that they make."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from asyncmgr._common.clock import SECOND, to_us
from asyncmgr._tasks.schedules import Cron, Every, EveryPass, Schedule
from asyncmgr.errors import InvalidPeriodicTaskArg

Overlap = Literal["skip", "queue", "allow"]
"""What happens to a slot whose task still runs: `skip` refuses it, `queue` keeps one for later, `allow` starts it."""


Phase = Literal["auto"] | None
"""Where in its spacing a task begins: `auto` = at a stable share of it for each host and task; `None` = at its end."""


SHORTEST = timedelta(milliseconds=1)


LONGEST = timedelta(days=36525)
"""The range of a spacing, 1 ms to 100 years."""


# Made once: of very many tasks each is checked against them.
_LENGTHS = (int, float, timedelta)


_LONGEST = LONGEST.total_seconds()


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """What one `@periodic_task` says. Inert: it reads no clock, no file and no environment variable."""

    schedule: Schedule
    switched_off: str | None = None
    """Why it never runs, in words for a log line; `None` = it runs."""
    run_immediately: bool = False
    initial_delay: int | None = None
    """Microseconds from the start to the first slot; `None` = one spacing."""
    jitter: int = 0
    """Microseconds."""
    tolerance: int | None = None
    """Microseconds; `None` = the service's."""
    timeout: int | None = None
    """Microseconds."""
    overlap: Overlap = "skip"
    phase: Phase = None
    external_process_ok: bool = False
    name: str | None = None
    """`None` = the method's."""


def read_options(options: Mapping[str, Any]) -> PeriodicTask:
    for keyword in options:
        if keyword not in READERS:
            raise InvalidPeriodicTaskArg(f"@periodic_task has no argument {keyword!r}; accepted: {ACCEPTED}")
    given = {keyword: READERS[keyword](keyword, value) for keyword, value in options.items()}
    return _combine(**given)


def _combine(
    *,
    spacing: int | None = None,
    cron: str | None = None,
    tz: str | None = None,
    enabled: bool = True,
    **rest: Any,
) -> PeriodicTask:
    if cron is not None and spacing is not None:
        raise InvalidPeriodicTaskArg("cron= and spacing= exclude each other; give one of them")
    if cron is None and tz is not None:
        raise InvalidPeriodicTaskArg("tz= is the zone of a cron expression; give cron= too, or leave it out")
    if rest.get("initial_delay") is not None:
        refuse_two_starts(run_immediately=rest.get("run_immediately", False))
    if cron is not None and rest.get("tolerance"):
        raise InvalidPeriodicTaskArg("tolerance= has no meaning with cron=: a cron task is never early")
    schedule = make_schedule(spacing, cron, tz)
    return PeriodicTask(schedule, switched_off=why_off(spacing, enabled=enabled), **rest)


def refuse_two_starts(*, run_immediately: bool) -> None:
    if run_immediately:
        raise InvalidPeriodicTaskArg(
            "initial_delay= and run_immediately= exclude each other; give one of them"
        )


def make_schedule(spacing: int | None, cron: str | None, tz: str | None) -> Schedule:
    """The schedule of a checked `spacing` (microseconds) or `cron`."""
    if cron is not None:
        try:
            return Cron(cron, tz or "UTC")
        except ValueError as exc:
            raise InvalidPeriodicTaskArg(f"cron=: {exc}") from exc
    return _every(spacing) if spacing is not None and spacing > 0 else EveryPass()


@functools.lru_cache
def _every(step: int) -> Every:
    """One object for all tasks of one spacing."""
    return Every(step)


def why_off(spacing: int | None, *, enabled: bool) -> str | None:
    """Why a task with these never runs; the negative spacing is named first, as the ancestor did."""
    if spacing is not None and spacing < 0:
        return "its spacing is negative"
    return None if enabled else "it is not enabled"


def read_spacing(keyword: str, value: object) -> int:
    """A spacing in microseconds: 0, negative, or 1 ms to 100 years."""
    span = read_span(keyword, value)
    if 0 < span < to_us(SHORTEST):
        raise _refuse(keyword, value, "1 ms to 100 years, 0 for every pass, negative for off")
    return span


def read_span(keyword: str, value: object) -> int:
    """A number of seconds or a `timedelta`, at most 100 years, as microseconds."""
    if isinstance(value, bool) or not isinstance(value, _LENGTHS):
        raise _refuse(keyword, value, "seconds as int or float, or a timedelta")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not abs(seconds) <= _LONGEST:  # NaN is neither more nor less
        raise _refuse(keyword, value, "a finite number of seconds, at most 100 years")
    span = to_us(value)
    if span == 0 != seconds:
        # 0 means something else than the shortest time before or after it.
        return 1 if seconds > 0 else -1
    return span


def read_length(keyword: str, value: object) -> int:
    """A length of time of 0 or more, as microseconds."""
    span = read_span(keyword, value)
    if span < 0:
        raise _refuse(keyword, value, "0 or more seconds")
    return span


def read_optional_length(keyword: str, value: object) -> int | None:
    return None if value is None else read_length(keyword, value)


def read_timeout(keyword: str, value: object) -> int | None:
    """A timeout in microseconds, at least 1 ms, or `None`."""
    length = read_optional_length(keyword, value)
    if length is not None and length < SECOND // 1000:
        raise _refuse(keyword, value, "at least 1 ms, or None for no timeout")
    return length


def _read_bool(keyword: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(keyword, value, "True or False")
    return value


def _read_text(keyword: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(keyword, value, "a text that is not empty")
    return value


def _read_overlap(keyword: str, value: object) -> str:
    if value not in get_args(Overlap):
        raise _refuse(keyword, value, "'skip', 'queue' or 'allow'")
    return str(value)


def _read_phase(keyword: str, value: object) -> str | None:
    if value not in ("auto", None):
        raise _refuse(keyword, value, "'auto' or None")
    return None if value is None else str(value)


def read_name(keyword: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or not value.replace("-", "_").replace("_", "a").isalnum():
        raise _refuse(keyword, value, "letters, digits, '_' and '-'")
    return value


def _refuse(keyword: str, value: object, accepted: str) -> InvalidPeriodicTaskArg:
    return InvalidPeriodicTaskArg(f"{keyword}={value!r} is not accepted; {keyword} is {accepted}")


READERS: dict[str, Callable[[str, object], Any]] = {
    "spacing": read_spacing,
    "cron": _read_text,
    "tz": _read_text,
    "run_immediately": _read_bool,
    "initial_delay": read_optional_length,
    "jitter": read_length,
    "tolerance": read_optional_length,
    "timeout": read_timeout,
    "overlap": _read_overlap,
    "phase": _read_phase,
    "enabled": _read_bool,
    "external_process_ok": _read_bool,
    "name": read_name,
}


ACCEPTED = ", ".join(READERS)
