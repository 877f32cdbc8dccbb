"""The options of a periodic task, in one table: how each is read, what it accepts, and whether settings may set it.

`@periodic_task`, `add_periodic_task`, the settings of tasks, their merge, and rescheduling all read `OPTIONS`. One
function, `lay_over`, lays the options of a stronger place over those of a weaker one: options that the stronger place
does not set stay. The code is the weakest place; settings and handles are stronger.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations
from typing import Any, Literal, NamedTuple, NoReturn, get_args
from zoneinfo import ZoneInfo

from asyncmgr._common.clock import to_us
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.policy import Retry, retry_from
from asyncmgr._tasks.schedules import Cron, Every, EveryPass, Once, Schedule, load_zone
from asyncmgr.errors import InvalidPeriodicTaskArg

Overlap = Literal["skip", "queue", "allow"]
"""What a slot gets during a run of its task: `skip` refuses it, `queue` keeps one for later, `allow` starts it."""

Phase = Literal["auto"] | None
"""The first slot of a task: `auto` = a stable share of its spacing after the start; `None` = one spacing after it."""

SHORTEST = timedelta(milliseconds=1)

LONGEST = timedelta(days=36525)
"""The range of a spacing, 1 ms to 100 years."""

Scope = Literal["process", "host", "cluster"]
"""Where a task has at most one holder: nowhere, so that every process runs it; on each machine; in the cluster."""

CatchUp = Literal["one", "none"]
"""What slots get that passed while nobody ran the task: one run for all of them, or none."""

Interrupted = Literal["skip", "rerun"]
"""What a slot gets whose holder died before its run had ended: nothing, or another run by the next holder."""

# Computed once, since each of very many tasks is checked against them.
_LENGTHS = (int, float, timedelta)
_LONGEST = LONGEST.total_seconds()
_SHORTEST = to_us(SHORTEST)


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """The options of one periodic task, declared or in force. A mere value: it reads no clock, file or variable."""

    schedule: Schedule
    switched_off: str | None = None
    """Why the task never runs, in words for a log line; `None` = it runs."""
    run_immediately: bool = False
    initial_delay: int | None = None
    """Microseconds from the start to the first slot; `None` = one spacing."""
    jitter: int = 0
    """Microseconds."""
    tolerance: int | None = None
    """Microseconds; `None` = as in the service's settings."""
    timeout: int | None = None
    """Microseconds; `None` = no timeout."""
    overlap: Overlap = "skip"
    phase: Phase = None
    external_process_ok: bool = False
    name: str | None = None
    """The second half of the full name; `None` = the method's name."""
    misfire_grace: int | None = None
    """Microseconds by which a run may start later than its slot; `None` = any time later."""
    tz: str | None = None
    """The zone that was given, kept for a later cron expression; `None` = as in the service's settings."""
    scope: Scope = "process"
    persist: bool = False
    """Whether the last slot and its outcome outlive the process."""
    catch_up: CatchUp = "one"
    catch_up_window: int | None = None
    """Microseconds: slots that are older get no catch-up run; `None` = however old they are."""
    interrupted: Interrupted = "skip"
    each: str | Callable[[], Any] | None = None
    """The manager's attribute that has the keys, or a function that returns them; `None` = the task has no keys."""
    concurrency: int | None = None
    """The number of runs of the task's keys in progress at once; `None` = any number."""
    retry: Retry | None = None
    """How often a run is tried again within its slot; `None` = never."""
    backoff: bool = False
    """Whether a task that fails runs more seldom."""
    pause_after: int | None = None
    """The number of failures in a row after which the task is paused; `None` = never."""
    freshness: int | None = None
    """Microseconds: the promise that the last success is no older; `None` = it promises nothing."""
    critical: bool = False
    """Whether the service is not ready while the promise is broken."""
    enabled: bool = True
    """The option `enabled` as given, independent of a negative spacing."""

    def with_zone(self, zone: str) -> PeriodicTask:
        """Return these options, with `zone` as the zone of a cron expression that has none."""
        schedule = self.schedule
        if self.tz is not None or not isinstance(schedule, Cron) or schedule.tz == zone:
            return self
        return replace(self, schedule=_cron(schedule.expression, zone))


# Readers ----------------------------------------------------------------------------------------------------------


class _NotAcceptedError(ValueError):
    """An option does not accept a value; the text says what it accepts."""


def _read_spacing(value: object) -> int:
    """Read a spacing as microseconds: 0, negative, or 1 ms to 100 years."""
    span = _read_span(value)
    if 0 < span < _SHORTEST:
        raise _NotAcceptedError("1 ms to 100 years, 0 for every pass, negative for off")
    return span


def _read_span(value: object) -> int:
    """Read a number of seconds or a `timedelta`, at most 100 years, as microseconds."""
    if isinstance(value, bool) or not isinstance(value, _LENGTHS):
        raise _NotAcceptedError("seconds as int or float, or a timedelta")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not abs(seconds) <= _LONGEST:  # written so that NaN is refused too
        raise _NotAcceptedError("a finite number of seconds, at most 100 years")
    span = to_us(value)
    if span == 0 != seconds:
        # A tiny value must not become 0, which has a meaning of its own.
        return 1 if seconds > 0 else -1
    return span


def _read_length(value: object) -> int:
    """Read a length of time of 0 or more as microseconds."""
    span = _read_span(value)
    if span < 0:
        raise _NotAcceptedError("0 or more seconds")
    return span


def _read_optional_length(value: object) -> int | None:
    return None if value is None else _read_length(value)


def _read_timeout(value: object) -> int | None:
    return _read_limit(value, "at least 1 ms, or None for no timeout")


def _read_grace(value: object) -> int | None:
    return _read_limit(value, "at least 1 ms, or None for any")


def _read_limit(value: object, accepted: str) -> int | None:
    """Read a length of time of at least 1 ms as microseconds, or `None`."""
    length = _read_optional_length(value)
    if length is not None and length < _SHORTEST:
        raise _NotAcceptedError(accepted)
    return length


def _read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _NotAcceptedError("True or False")
    return value


def _read_retry(value: object) -> Retry | None:
    try:
        return retry_from(value)
    except InvalidPeriodicTaskArg as exc:
        raise ValueError(str(exc)) from None


def _read_freshness(value: object) -> int | None:
    return _read_limit(value, "at least 1 ms, or None for no promise")


def _read_cron(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _NotAcceptedError("a text that is not empty")
    return _cron(value, "UTC").expression


def _read_zone(value: object) -> str:
    """Read the name of a time zone that this machine knows, or ``"local"``."""
    if isinstance(value, ZoneInfo) and value.key is not None:
        value = value.key
    elif isinstance(value, timezone) and value == UTC:
        value = "UTC"
    if not isinstance(value, str) or not value.strip():
        raise _NotAcceptedError("a name such as 'Europe/Berlin', a ZoneInfo that has a name, or 'local'")
    load_zone(value)
    return value


def _read_moments(value: object) -> Once:
    several = [value] if isinstance(value, datetime) else _listed(value)
    if not several or not all(isinstance(one, datetime) and one.utcoffset() is not None for one in several):
        raise _NotAcceptedError(
            "an aware datetime such as datetime(2027, 1, 1, tzinfo=UTC), or several of them"
        )
    return Once(tuple(sorted({_wall_of(one) for one in several})))


def _listed(value: object) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return []
    return list(value)


def _wall_of(moment: datetime) -> int:
    return to_us(moment - datetime(1970, 1, 1, tzinfo=UTC))


def _one_of(words: object, accepted: str) -> Callable[[object], str]:
    """Make the reader of an option that is one of a few words."""
    known = get_args(words)

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise _NotAcceptedError(accepted)
        return value

    return read


def _read_phase(value: object) -> str | None:
    if value not in ("auto", None):
        raise _NotAcceptedError("'auto' or None")
    return None if value is None else str(value)


def _read_each(value: object) -> str | Callable[[], Any]:
    if isinstance(value, str) and value.isidentifier():
        return value
    if callable(value) and not isinstance(value, str | type):
        return value
    raise _NotAcceptedError(
        "the name of an attribute or method of the manager, or a function without parameters"
    )


def _read_count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _NotAcceptedError("a whole number, at least 1, or None for no limit")
    return value


def _read_name(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or not value.replace("-", "_").replace("_", "a").isalnum():
        raise _NotAcceptedError("letters, digits, '_' and '-'")
    return value


# The table ---------------------------------------------------------------------------------------------------------

_SECONDS = "seconds, or e.g. '30s', '5m', '1h30m'"
_SWITCH = "true or false"


class Option(NamedTuple):
    """One option: a row of the table."""

    name: str
    read: Callable[[object], Any]
    """Converts a given value to the value in `PeriodicTask`; raises `ValueError` where it is not accepted."""
    written: str | None = None
    """For people: the values that settings may set; `None` = only the code may set this option."""
    replaces: tuple[str, ...] = ()
    """Options that this one makes void in weaker places. In one place they and this one exclude each other."""


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            "spacing",
            _read_spacing,
            f"{_SECONDS}; 1 ms to 100 years, 0 for every pass, negative for off",
            replaces=("cron", "tz", "at"),
        ),
        Option(
            "cron",
            _read_cron,
            "5 or 6 fields such as '30 2 * * *', or a name such as '@daily'",
            replaces=("spacing", "at"),
        ),
        Option("tz", _read_zone, "a time zone such as 'Europe/Berlin', or 'local'; of a cron expression"),
        Option("at", _read_moments, replaces=("spacing", "cron", "tz")),
        Option("run_immediately", _read_bool, _SWITCH),
        Option("initial_delay", _read_optional_length, f"{_SECONDS}; at least 0"),
        Option("jitter", _read_length, f"{_SECONDS}; at least 0"),
        Option("tolerance", _read_optional_length, f"{_SECONDS}; 0 for exact"),
        Option("timeout", _read_timeout, f"{_SECONDS}; at least 1 ms"),
        Option("misfire_grace", _read_grace, f"{_SECONDS}; at least 1 ms"),
        Option("overlap", _one_of(Overlap, "'skip', 'queue' or 'allow'"), "skip, queue, allow"),
        Option("phase", _read_phase, "auto"),
        Option("scope", _one_of(Scope, "'process', 'host' or 'cluster'"), "process, host, cluster"),
        Option("persist", _read_bool, _SWITCH),
        Option("catch_up", _one_of(CatchUp, "'one' or 'none'"), "one, none"),
        Option(
            "catch_up_window",
            lambda value: _read_limit(value, "at least 1 ms, or None for however old"),
            f"{_SECONDS}; at least 1 ms",
        ),
        Option("interrupted", _one_of(Interrupted, "'skip' or 'rerun'"), "skip, rerun"),
        Option("each", _read_each),
        Option("concurrency", _read_count, "a whole number, at least 1"),
        Option(
            "retry",
            _read_retry,
            "a number of attempts, or a table of attempts, delay, backoff, max_delay and jitter",
        ),
        Option("backoff", _read_bool, _SWITCH),
        Option("pause_after", _read_count, "a whole number, at least 1"),
        Option("freshness", _read_freshness, f"{_SECONDS}; at least 1 ms"),
        Option("critical", _read_bool, _SWITCH),
        Option("enabled", _read_bool, _SWITCH),
        Option("external_process_ok", _read_bool),
        Option("name", _read_name),
    )
}
"""All options by name, in the order in which errors list them."""

ACCEPTED = ", ".join(OPTIONS)

SETTABLE = tuple(option for option in OPTIONS.values() if option.written is not None)
"""The options that settings may set."""

REPLACED_BY: dict[str, tuple[str, ...]] = {
    name: tuple(other.name for other in OPTIONS.values() if name in other.replaces) for name in OPTIONS
}
"""By option: the others that make it void."""

_EXCLUSIVE = tuple(
    (other, one)
    for one, other in combinations(OPTIONS, 2)
    if other in OPTIONS[one].replaces or one in OPTIONS[other].replaces
)

_SCHEDULED_BY = frozenset(name for pair in _EXCLUSIVE for name in pair)


def read_option(name: str, value: object) -> Any:
    """Convert the value that the code gives to an option.

    Raises
    ------
    InvalidPeriodicTaskArg
        The value is not accepted; the text names the option, the value and what is accepted.
    """
    try:
        return OPTIONS[name].read(value)
    except _NotAcceptedError as exc:
        raise InvalidPeriodicTaskArg(f"{name}={safe_repr(value)} is not accepted; {name} is {exc}") from None
    except ValueError as exc:
        raise InvalidPeriodicTaskArg(f"{name}=: {exc}") from exc


def check_setting(name: str, value: object, written: object) -> None:
    """Check a value that settings give to an option; `written` is the value as it stands in the settings, for errors.

    Raises
    ------
    ValueError
        The value is not accepted; the text says why.
    """
    try:
        OPTIONS[name].read(value)
    except _NotAcceptedError:
        raise ValueError(f"{safe_repr(written, 80)} is not accepted") from None


def read_options(options: Mapping[str, Any]) -> PeriodicTask:
    """Make the record of these keywords of `@periodic_task`."""
    for keyword in options:
        if keyword not in OPTIONS:
            raise InvalidPeriodicTaskArg(f"@periodic_task has no argument {keyword!r}; accepted: {ACCEPTED}")
    said = {keyword: read_option(keyword, value) for keyword, value in options.items()}
    # Not by `replace`, which takes twice as long: there may be very many tasks.
    return PeriodicTask(**_changes(_NOTHING_SAID, said, enabled_wins=False))


# Laying options over others --------------------------------------------------------------------------------------


def conflict(said: Mapping[str, Any]) -> tuple[str, str] | None:
    """Find two options that exclude each other and are both given in one place; `None` = there is no such pair."""
    names = _SCHEDULED_BY.intersection(said)
    if len(names) > 1:
        found = next((pair for pair in _EXCLUSIVE if names.issuperset(pair)), None)
        if found is not None:
            return found
    if said.get("run_immediately") and said.get("initial_delay") is not None:
        return "initial_delay", "run_immediately"
    return None


def lay_over(base: PeriodicTask, said: Mapping[str, Any]) -> PeriodicTask:
    """Compute the options in force where `said` (values already read) is stronger than `base`; others of `base` stay.

    A schedule replaces the one before. `enabled` wins over a negative spacing, and only `enabled` switches on a task
    that is not enabled.

    Raises
    ------
    InvalidPeriodicTaskArg
        Two options in `said` exclude each other, or one has no meaning for the schedule that is then in force.
    """
    changes = _changes(base, said, enabled_wins=True)
    retry = changes.get("retry")
    if retry is not None and base.retry is not None and retry.on is Exception:
        changes["retry"] = replace(retry, on=base.retry.on)  # which settings cannot name
    return replace(base, **changes)


def _changes(base: PeriodicTask, said: Mapping[str, Any], *, enabled_wins: bool) -> dict[str, Any]:
    """Compute the fields of the record that change."""
    _refuse_conflicts(said)
    schedule = _schedule(base, said)
    changes = {name: value for name, value in said.items() if name not in _SCHEDULES}
    changes["schedule"] = schedule
    if "tz" in said and not isinstance(schedule, Cron):
        raise InvalidPeriodicTaskArg(_TZ_ALONE)
    if said.get("tolerance") and schedule.on_wall:
        _refuse_tolerance(schedule)
    each = said.get("each", base.each)
    if each is not None:
        _refuse_beside_each(base, said, schedule)
    elif said.get("concurrency") is not None:
        raise InvalidPeriodicTaskArg("concurrency= counts the runs of a task with each=; give each= too")
    _drop_the_other_start(base, said, changes)
    if "enabled" in said and enabled_wins:
        changes["switched_off"] = None if said["enabled"] else _NOT_ENABLED
    elif not _SWITCHES.isdisjoint(said):
        changes["switched_off"] = _why_off(said.get("spacing", 0), enabled=said.get("enabled", base.enabled))
    return changes


_NOTHING_SAID = PeriodicTask(EveryPass())
_SCHEDULES = frozenset(["spacing", "cron", "at"])
_SWITCHES = _SCHEDULES | {"enabled"}
_TZ_ALONE = "tz= is the zone of a cron expression; give cron= too, or leave it out"
_NOT_ENABLED = "it is not enabled"

BY_SETTINGS = "it is switched off by "
"""What the reason begins with where the settings switch a task off; their place follows."""
NEGATIVE = "its spacing is negative"
"""Why a task with a negative spacing is off: it has no schedule that it could run by."""


def _refuse_conflicts(said: Mapping[str, Any]) -> None:
    pair = conflict(said)
    if pair == ("tz", "spacing"):
        raise InvalidPeriodicTaskArg(_TZ_ALONE)
    if pair is not None:
        raise InvalidPeriodicTaskArg(f"{pair[0]}= and {pair[1]}= exclude each other; give one of them")


def _refuse_tolerance(schedule: Schedule) -> NoReturn:
    kind = "cron" if isinstance(schedule, Cron) else "at"
    raise InvalidPeriodicTaskArg(f"tolerance= has no meaning with {kind}=: {_A_TASK[kind]} is never early")


def _refuse_beside_each(base: PeriodicTask, said: Mapping[str, Any], schedule: Schedule) -> None:
    """Refuse what has no meaning for a task with keys: each key has a phase, a part of the spacing."""
    switched_off = said.get("spacing", 0) < 0 or said.get("enabled", base.enabled) is False
    if not isinstance(schedule, Every) and not switched_off:
        raise InvalidPeriodicTaskArg(
            "each= needs spacing=, which is shared out among the keys; give spacing="
        )
    for name in ("jitter", "initial_delay"):
        if said.get(name, getattr(base, name)):
            raise InvalidPeriodicTaskArg(
                f"{name}= has no meaning with each=: each key has a place of its own in the spacing; leave it out"
            )
    for name, is_set in (("persist", True), ("interrupted", "rerun")):
        if said.get(name, getattr(base, name)) == is_set:
            raise InvalidPeriodicTaskArg(
                f"{name}={is_set!r} has no meaning with each=: the slots of keys are not written down; leave it out"
            )


_A_TASK = {"cron": "a cron task", "at": "a one-off task"}


def _schedule(base: PeriodicTask, said: Mapping[str, Any]) -> Schedule:
    if "spacing" in said:
        return _every(said["spacing"]) if said["spacing"] > 0 else _NOTHING_SAID.schedule
    if "at" in said:
        moments: Once = said["at"]
        return moments
    before = base.schedule
    tz = said.get("tz", base.tz)
    if "cron" in said:
        return _cron(said["cron"], tz or "UTC")
    if "tz" in said and isinstance(before, Cron):
        return _cron(before.expression, tz)
    return before


@functools.lru_cache
def _every(step: int) -> Every:
    """Make the schedule of a spacing; all tasks of this spacing share it."""
    return Every(step)


@functools.lru_cache
def _cron(expression: str, tz: str) -> Cron:
    """Make the schedule of an expression and a zone; all tasks of these share it."""
    return Cron(expression, tz)


def _drop_the_other_start(base: PeriodicTask, said: Mapping[str, Any], changes: dict[str, Any]) -> None:
    """Drop `initial_delay` or `run_immediately` of the weaker place, since both set the first slot."""
    if base.run_immediately and said.get("initial_delay") is not None:
        changes["run_immediately"] = False
    if base.initial_delay is not None and said.get("run_immediately"):
        changes["initial_delay"] = None


def _why_off(spacing: int, *, enabled: bool) -> str | None:
    """Say why the task never runs; a negative spacing comes before `enabled`, as in the ancestor."""
    if spacing < 0:
        return NEGATIVE
    return None if enabled else _NOT_ENABLED
