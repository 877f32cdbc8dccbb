"""Declares periodic tasks: `@periodic_task` attaches one immutable record to a coroutine function, nothing more."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args, overload

from asyncmgr._common.clock import SECOND, to_us
from asyncmgr._tasks.schedules import Cron, Every, EveryPass, Schedule
from asyncmgr.errors import InvalidPeriodicTaskArg

Function = TypeVar("Function", bound=Callable[..., Any])
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

_RECORD = "__periodic_task__"


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    """The body returned."""
    FAILED = "failed"
    """The body raised."""
    TIMED_OUT = "timed_out"
    """It ran longer than its `timeout`, whatever the body then did."""
    CANCELLED = "cancelled"
    """A cancellation ended it: a requested one, or a stray `CancelledError` of the body's own."""


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


@overload
def periodic_task(function: Function, /) -> Function: ...
@overload
def periodic_task(
    *,
    spacing: float | timedelta = 0,
    cron: str = ...,
    tz: str = "UTC",
    run_immediately: bool = False,
    initial_delay: float | timedelta | None = None,
    jitter: float | timedelta = 0,
    tolerance: float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    overlap: Overlap = "skip",
    phase: Phase = None,
    enabled: bool = True,
    external_process_ok: bool = False,
    name: str | None = None,
) -> Callable[[Function], Function]: ...
def periodic_task(*functions: Any, **options: Any) -> Any:
    """Make a coroutine method of a manager a periodic task. Written bare, with `()` or with keywords.

    Parameters
    ----------
    spacing
        Seconds between two planned starts, 1 ms to 100 years. 0, the default: on every pass (under a service every
        60 s). Negative: switched off.
    cron, tz
        Instead of `spacing`: a cron expression of 5 or 6 fields or a name such as ``@daily``, and its time zone.
    run_immediately
        The first slot is the start itself instead of one spacing later; with `cron` one run more, at the start.
    initial_delay
        Seconds from the start to the first slot.
    jitter
        Delays each start by a random 0..min(jitter, spacing / 2) seconds; moves no slot.
    tolerance
        Seconds that a start may come early, together with another; at most half the spacing. 0: never early.
        Default: the service's, 0.2. It buys fewer wake-ups of the process.
    timeout
        Seconds after which a run is cancelled, once.
    overlap
        What to do with a slot whose task still runs: ``"skip"``, ``"queue"`` or ``"allow"``.
    phase
        ``"auto"``: the first slot is not one spacing after the start but at a share of it that is always the same for
        this host and task, so that many hosts or tasks of one spacing do not run together. Default: the service's.
    enabled
        `False` switches the task off.
    external_process_ok
        Not run here where the setting `run_external_periodic_tasks` is false.
    name
        The task's name where the method's will not do.

    Raises
    ------
    InvalidPeriodicTaskArg
        At once, where the declaration is written, naming the argument and what is accepted.
    """
    if len(functions) == 1 and not options and (callable(functions[0]) or inspect.isroutine(functions[0])):
        return _attach(functions[0], declare({}))
    if functions:
        raise InvalidPeriodicTaskArg(
            f"@periodic_task takes no positional argument, and got {functions[0]!r}; "
            f"write @periodic_task(spacing=...). Accepted: {_ACCEPTED}"
        )
    record = declare(options)
    return lambda function: _attach(function, record)


def declared(value: object) -> PeriodicTask | None:
    """The record that `@periodic_task` attached to this function, if it did."""
    record = getattr(value, _RECORD, None)
    return record if isinstance(record, PeriodicTask) else None


def declare(options: Mapping[str, Any]) -> PeriodicTask:
    """The record that these keywords of `@periodic_task` make; equal ones share one."""
    try:
        return _shared_record(**options)
    except InvalidPeriodicTaskArg:
        raise
    except TypeError:  # a value that cannot be a key
        return _read_options(options)


@functools.lru_cache(typed=True)
def _shared_record(**options: Any) -> PeriodicTask:
    # By type too: 1 is a spacing and True is none.
    return _read_options(options)


class Addition(NamedTuple):
    """What is said of a task that is added to an instance.

    The name and the initial delay are most often its own: they are kept off the record, so that very many tasks that
    differ in nothing else share one.
    """

    record: PeriodicTask
    name: str | None
    initial_delay: int | None


def declare_addition(options: Mapping[str, Any]) -> Addition:
    """What these keywords of `add_periodic_task` say."""
    shared = dict(options)
    name = _read_name("name", shared.pop("name", None))
    initial_delay = read_optional_length("initial_delay", shared.pop("initial_delay", None))
    record = declare(shared)
    if initial_delay is not None:
        _refuse_two_starts(run_immediately=record.run_immediately)
    return Addition(record, name, initial_delay)


def check_function(function: object, *, takes: str, name: str | None = None) -> None:
    """Refuse what cannot be a task: anything but `async def` with the parameters `takes` and no other required one."""
    count = takes.count(",") + 1
    if _plainly_fits(function, count):
        return
    name = name or getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise InvalidPeriodicTaskArg(f"{name} is {kind_of(function)}; @periodic_task needs 'async def'")
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as exc:
        raise InvalidPeriodicTaskArg(
            f"{name}{inspect.signature(function)} cannot be called with ({takes}): {exc}; "
            f"write 'async def {getattr(function, '__name__', 'task')}({takes})'"
        ) from None


def _plainly_fits(function: object, count: int) -> bool:
    """Whether this is plain `async def` that takes so many arguments; what is not so plain is looked at closely.

    `inspect.signature` would cost as much as all the rest of a declaration.
    """
    if type(function) is not types.FunctionType or hasattr(function, "__wrapped__"):
        return False
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    is_coroutine = code.co_flags & inspect.CO_COROUTINE
    return bool(is_coroutine and required <= count <= code.co_argcount and not code.co_kwonlyargcount)


def _attach(function: Any, record: PeriodicTask) -> Any:
    check_function(function, takes="self, context")
    if not inspect.isfunction(function):
        # Only a function is bound to the manager when it is looked up on one.
        raise InvalidPeriodicTaskArg(
            f"{function!r} is {kind_of(function)}; @periodic_task needs 'async def' in the class, or give this one to "
            "add_periodic_task()"
        )
    if _RECORD in vars(function):
        raise InvalidPeriodicTaskArg(
            f"{function.__qualname__} is a periodic task already; to give it another schedule in a subclass, "
            "override it there with @periodic_task"
        )
    setattr(function, _RECORD, record)
    return function


def kind_of(function: object) -> str:
    """What this is, in words for an error."""
    if isinstance(function, staticmethod | classmethod):
        return f"a {type(function).__name__}"
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.isgeneratorfunction(function):
        return "a generator"
    if inspect.isclass(function):
        return "a class"
    if inspect.isroutine(function):
        return "a bound method" if inspect.ismethod(function) else "a plain function"
    return f"a {type(function).__name__} object" if callable(function) else "no function"


# Reading the keywords -------------------------------------------------------------------------------------------


def _read_options(options: Mapping[str, Any]) -> PeriodicTask:
    for keyword in options:
        if keyword not in _READERS:
            raise InvalidPeriodicTaskArg(f"@periodic_task has no argument {keyword!r}; accepted: {_ACCEPTED}")
    given = {keyword: _READERS[keyword](keyword, value) for keyword, value in options.items()}
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
        _refuse_two_starts(run_immediately=rest.get("run_immediately", False))
    if cron is not None and rest.get("tolerance"):
        raise InvalidPeriodicTaskArg("tolerance= has no meaning with cron=: a cron task is never early")
    schedule = make_schedule(spacing, cron, tz)
    return PeriodicTask(schedule, switched_off=why_off(spacing, enabled=enabled), **rest)


def _refuse_two_starts(*, run_immediately: bool) -> None:
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


def _read_name(keyword: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or not value.replace("-", "_").replace("_", "a").isalnum():
        raise _refuse(keyword, value, "letters, digits, '_' and '-'")
    return value


def _refuse(keyword: str, value: object, accepted: str) -> InvalidPeriodicTaskArg:
    return InvalidPeriodicTaskArg(f"{keyword}={value!r} is not accepted; {keyword} is {accepted}")


_READERS: dict[str, Callable[[str, object], Any]] = {
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
    "name": _read_name,
}
_ACCEPTED = ", ".join(_READERS)


# Overriding by settings -----------------------------------------------------------------------------------------


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
        keyword: _READERS[keyword](keyword, value)
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
