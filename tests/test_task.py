"""`@periodic_task`: every spelling, every refusal with its message, and that a declaration does nothing."""

from __future__ import annotations

import functools
import inspect
import math
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, get_overloads
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr import AsyncmgrError, InvalidPeriodicTaskArg, Manager, Outcome, Settings, periodic_task
from asyncmgr._common.clock import to_datetime
from asyncmgr._common.functions import name_of, signature_of
from asyncmgr._settings.model import TaskSettings
from asyncmgr._tasks.declare import declared, refuse_hidden_tasks
from asyncmgr._tasks.options import LONGEST, OPTIONS, SETTABLE, PeriodicTask
from asyncmgr._tasks.overrides import override_options, reschedule_options
from asyncmgr._tasks.schedules import Cron, Every, EveryPass, Once

YEAR = 365.25 * 86_400
ACCEPTED = (
    "spacing, cron, tz, at, run_immediately, initial_delay, jitter, tolerance, timeout, misfire_grace, "
    "overlap, phase, scope, persist, catch_up, catch_up_window, interrupted, each, concurrency, retry, backoff, "
    "pause_after, freshness, critical, enabled, external_process_ok, name"
)

untyped: Any = periodic_task
"""For what a type checker would not let through."""


def a_function() -> Callable[..., Any]:
    async def sweep(self: Any, context: object) -> None:
        """Sweep the disks."""

    return sweep


def record_of(**options: Any) -> PeriodicTask:
    record = declared(untyped(**options)(a_function()))
    assert record is not None
    return record


def refusal(**options: Any) -> str:
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        untyped(**options)
    return str(caught.value)


# Spellings


@pytest.mark.parametrize(
    "decorate",
    [periodic_task, periodic_task(), periodic_task(spacing=0)],
    ids=["bare", "with brackets", "with a keyword"],
)
def test_every_spelling_returns_the_very_function_with_a_record(decorate: Callable[..., Any]) -> None:
    """Written bare, with `()` or with keywords, the decorator gives the function back and attaches the same record."""
    function = a_function()
    assert decorate(function) is function
    assert declared(function) == PeriodicTask(EveryPass())


def test_a_decorator_object_serves_any_number_of_functions() -> None:
    """The second function gets the same options as the first."""
    decorate = periodic_task(spacing=10, run_immediately=True)
    first, second = decorate(a_function()), decorate(a_function())
    assert declared(first) == declared(second) == PeriodicTask(Every(10_000_000), run_immediately=True)


def test_equal_options_share_one_record() -> None:
    """However many tasks there are; but what is equal and of another type is read anew."""
    first, second = a_function(), a_function()
    periodic_task(spacing=1, overlap="queue")(first)
    periodic_task(spacing=1, overlap="queue")(second)
    assert declared(first) is declared(second)
    with pytest.raises(InvalidPeriodicTaskArg, match="spacing=True is not accepted"):
        untyped(spacing=True, overlap="queue")


def test_a_value_that_cannot_be_a_key_is_refused_like_any_other() -> None:
    """A list is told apart from a wrong call."""
    with pytest.raises(InvalidPeriodicTaskArg, match=r"spacing=\[1\] is not accepted; spacing is seconds"):
        untyped(spacing=[1])


def test_name_docstring_and_module_stay() -> None:
    """A decorated method is documented as it was written."""
    function = periodic_task(spacing=1)(a_function())
    assert (function.__name__, function.__doc__, function.__module__) == (
        "sweep",
        "Sweep the disks.",
        __name__,
    )


async def test_a_decorated_method_is_directly_awaitable() -> None:
    """A direct call runs the body and is no run of the task."""

    class Disks(Manager):
        @periodic_task(spacing=1)
        async def sweep(self, context: str) -> str:
            return f"swept {context}"

    disks = Disks()
    assert await disks.sweep("now") == "swept now"
    assert disks.task_status()[0].last_run is None


def test_an_undecorated_function_has_no_record() -> None:
    """Only the decorator makes a task."""
    assert declared(a_function()) is None
    assert declared(None) is None


# Positional and unknown arguments


@pytest.mark.parametrize("argument", [10, "30s", None, 1.5, {"spacing": 10}], ids=repr)
def test_a_positional_value_is_refused(argument: object) -> None:
    """The message names the value, how to write it and what is accepted."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        untyped(argument)
    assert str(caught.value) == (
        f"@periodic_task takes no positional argument, and got {argument!r}; "
        f"write @periodic_task(spacing=...). Accepted: {ACCEPTED}"
    )


def test_a_function_beside_options_is_refused() -> None:
    """`periodic_task(f, spacing=5)` drops neither the function nor the options in silence."""
    with pytest.raises(
        InvalidPeriodicTaskArg, match=r"takes no positional argument, and got <function .*sweep"
    ):
        untyped(a_function(), spacing=5)


def test_two_functions_at_once_are_refused() -> None:
    """`periodic_task(f, g)` does not decorate the first alone."""
    with pytest.raises(InvalidPeriodicTaskArg, match="takes no positional argument"):
        untyped(a_function(), a_function())


@pytest.mark.parametrize(
    "keyword", ["ticks_between_runs", "spacin", "periodic_spacing", "function", "functions"]
)
def test_an_unknown_keyword_is_refused_where_it_is_written(keyword: str) -> None:
    """The message names the keyword and the accepted ones, before any function is decorated."""
    assert refusal(**{keyword: 3}) == f"@periodic_task has no argument {keyword!r}; accepted: {ACCEPTED}"


def test_a_refusal_is_an_asyncmgr_error_and_a_type_error() -> None:
    """Either kind catches it."""
    assert issubclass(InvalidPeriodicTaskArg, AsyncmgrError)
    assert issubclass(InvalidPeriodicTaskArg, TypeError)


# Functions


def plain(self: Any, context: object) -> None: ...


def generator(self: Any, context: object) -> Iterator[int]:
    yield 1


async def asynchronous_generator(self: Any, context: object) -> AsyncIterator[int]:
    yield 1


async def coroutine(self: Any, context: object) -> None: ...


async def needs_another(first: object, self: Any, context: object) -> None: ...


class Handler:
    """An object that can be called is no function."""

    async def __call__(self, manager: Any, context: object) -> None: ...


@pytest.mark.parametrize(
    "spelling", [untyped, untyped(), untyped(spacing=5)], ids=["bare", "brackets", "keyword"]
)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            plain,
            "plain is a plain function; @periodic_task needs 'async def'; "
            "for work that blocks, await asyncio.to_thread(plain, ...) in one",
        ),
        (lambda self, context: None, "<lambda> is a plain function; @periodic_task needs 'async def'"),
        (generator, "generator is a generator; @periodic_task needs 'async def'"),
        (
            asynchronous_generator,
            "asynchronous_generator is an async generator; @periodic_task needs 'async def'",
        ),
        (staticmethod(coroutine), "coroutine is a staticmethod; @periodic_task needs 'async def'"),
        (classmethod(coroutine), "coroutine is a classmethod; @periodic_task needs 'async def'"),
        (Handler, "Handler is a class; @periodic_task needs 'async def'"),
        (Handler(), "is a Handler object; @periodic_task needs 'async def'"),
        (functools.partial(needs_another, 1), "is a partial object; @periodic_task needs 'async def'"),
        (len, "len is a plain function; @periodic_task needs 'async def'"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_only_an_async_def_function_can_be_a_task(
    spelling: Callable[..., Any], function: object, message: str
) -> None:
    """Anything else is refused at decoration, in every spelling, with what it is and what to write."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        spelling(function)
    assert message in str(caught.value)


def test_a_bound_method_cannot_be_decorated() -> None:
    """It would not be bound to the manager; `add_periodic_task` takes it."""

    class Other:
        async def sweep(self, manager: object, context: object) -> None: ...

    with pytest.raises(InvalidPeriodicTaskArg, match=r"is a bound method; .* add_periodic_task\(\)"):
        untyped(Other().sweep)


def test_what_is_no_function_is_refused_by_the_decorator_object() -> None:
    """`@periodic_task()` over a value says that it is none."""
    with pytest.raises(InvalidPeriodicTaskArg, match="5 is no function; @periodic_task needs 'async def'"):
        untyped()(5)


async def no_parameter() -> None: ...


async def only_self(self: Any) -> None: ...


async def one_too_many(self: Any, context: object, path: str) -> None: ...


async def keyword_only(self: Any, context: object, *, path: str) -> None: ...


async def context_by_keyword(self: Any, *, context: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "fact"),
    [
        (no_parameter, "too many positional arguments"),
        (only_self, "too many positional arguments"),
        (one_too_many, "missing a required argument: 'path'"),
        (keyword_only, "missing a required"),
        (context_by_keyword, "too many positional arguments"),
    ],
)
def test_a_task_takes_self_and_context_and_requires_nothing_else(function: Any, fact: str) -> None:
    """Other parameters are refused with the signature, the reason and the signature to write."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        untyped(spacing=5)(function)
    text = str(caught.value)
    assert text.startswith(
        f"{function.__name__}{inspect.signature(function)} cannot be called with (self, context)"
    )
    assert fact in text
    assert text.endswith(f"write 'async def {function.__name__}(self, context)'")


async def with_default(self: Any, context: object, path: str = "/") -> None: ...


async def with_optional_context(self: Any, context: object = None) -> None: ...


async def with_keyword_default(self: Any, context: object, *, path: str = "/") -> None: ...


async def variadic(*args: object, **kwargs: object) -> None: ...


async def positional_only(self: Any, context: object, /) -> None: ...


async def other_names(manager: Any, ctx: object) -> None: ...


@pytest.mark.parametrize(
    "function",
    [with_default, with_optional_context, with_keyword_default, variadic, positional_only, other_names],
)
def test_what_can_be_called_with_a_context_is_accepted(function: Any) -> None:
    """Defaults, variadic, positional-only parameters and other names are the user's choice."""
    assert untyped(function) is function


# Stacked decorators


def traced(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        args[0].trace.append("in")
        return await function(*args, **kwargs)

    return wrapper


def hidden(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Stacked(Manager):
    """Tasks below and above another decorator."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[str] = []

    @periodic_task(run_immediately=True)
    @traced
    async def inside(self, context: object) -> None:
        self.trace.append("inside")

    @traced
    @periodic_task(run_immediately=True)
    async def outside(self, context: object) -> None:
        self.trace.append("outside")


async def test_decorators_that_use_wraps_stack_in_either_order() -> None:
    """What they wrap around the task runs with it, and the task keeps its name."""
    manager = Stacked()
    await manager.periodic_tasks(None, raise_on_error=True)
    assert manager.trace == ["in", "inside", "in", "outside"]
    assert [status.name for status in manager.task_status()] == ["inside", "outside"]


def test_a_wrapper_that_is_no_async_def_is_refused() -> None:
    """Only the wrapper is called, so only the wrapper counts."""
    with pytest.raises(
        InvalidPeriodicTaskArg, match="sweep is a plain function; @periodic_task needs 'async def'"
    ):
        periodic_task(hidden(a_function()))


# Spacing


@pytest.mark.parametrize(
    ("spacing", "schedule"),
    [
        (0, EveryPass()),
        (0.0, EveryPass()),
        (-0.0, EveryPass()),
        (timedelta(), EveryPass()),
        (1, Every(1_000_000)),
        (30, Every(30_000_000)),
        (0.29, Every(290_000)),
        (0.001, Every(1_000)),
        (timedelta(milliseconds=1), Every(1_000)),
        (timedelta(minutes=5, microseconds=7), Every(300_000_007)),
        (100 * YEAR, Every(3_155_760_000_000_000)),
        (LONGEST, Every(3_155_760_000_000_000)),
    ],
)
def test_spacing_is_seconds_or_a_timedelta_exact_to_the_microsecond(spacing: Any, schedule: object) -> None:
    """0 is every pass; 1 ms to 100 years is a grid."""
    record = record_of(spacing=spacing)
    assert (record.schedule, record.switched_off) == (schedule, None)


def test_without_spacing_a_task_is_due_on_every_pass() -> None:
    """No argument and `spacing=0` are one declaration."""
    assert record_of() == record_of(spacing=0)


@pytest.mark.parametrize("spacing", [-1, -0.5, -1e-9, -60.0, timedelta(seconds=-1), -100 * YEAR])
def test_a_negative_spacing_switches_off(spacing: Any) -> None:
    """However small it is."""
    assert record_of(spacing=spacing).switched_off == "its spacing is negative"


@pytest.mark.parametrize("keyword", ["spacing", "initial_delay", "jitter", "tolerance", "timeout"])
@pytest.mark.parametrize("value", [True, False, "10", "30s", [], Decimal(1), 1j, object], ids=repr)
def test_a_length_of_time_is_a_number_or_a_timedelta(keyword: str, value: object) -> None:
    """Other types are refused with keyword, value and what is accepted."""
    assert refusal(**{keyword: value}) == (
        f"{keyword}={value!r} is not accepted; {keyword} is seconds as int or float, or a timedelta"
    )


@pytest.mark.parametrize("keyword", ["spacing", "initial_delay", "jitter", "tolerance", "timeout"])
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**400), 100 * YEAR + 1, timedelta.max, timedelta.min],
    ids=[
        "nan",
        "inf",
        "-inf",
        "1e300",
        "10**400",
        "-10**400",
        "over 100 years",
        "timedelta.max",
        "timedelta.min",
    ],
)
def test_a_length_of_time_is_finite_and_at_most_100_years(keyword: str, value: Any) -> None:
    """NaN, infinity and what no calendar holds are refused, not carried to the first pass."""
    assert refusal(**{keyword: value}) == (
        f"{keyword}={value!r} is not accepted; {keyword} is a finite number of seconds, at most 100 years"
    )


@pytest.mark.parametrize("spacing", [1e-9, 0.0009, 1e-3 - 1e-6, timedelta(microseconds=1), 5e-324])
def test_a_spacing_under_a_millisecond_is_refused(spacing: Any) -> None:
    """It is not rounded to "every pass" either."""
    assert refusal(spacing=spacing) == (
        f"spacing={spacing!r} is not accepted; spacing is 1 ms to 100 years, 0 for every pass, negative for off"
    )


@pytest.mark.parametrize(
    "keyword", ["spacing", "jitter", "cron", "tz", "overlap", "enabled", "run_immediately"]
)
def test_none_is_refused(keyword: str) -> None:
    """`None` is no way to say "default", except where the default is `None`."""
    assert refusal(**{keyword: None}).startswith(f"{keyword}=None is not accepted; {keyword} is ")


@pytest.mark.parametrize("keyword", ["initial_delay", "tolerance", "timeout", "name"])
def test_none_is_the_default_of_optional_arguments(keyword: str) -> None:
    """Saying it changes nothing."""
    assert record_of(**{keyword: None}) == record_of()


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.timedeltas())
def test_a_spacing_is_read_or_refused(spacing: Any) -> None:
    """No number makes the reader fail in another way."""
    try:
        record = record_of(spacing=spacing)
    except InvalidPeriodicTaskArg:
        return
    if isinstance(record.schedule, Every):
        assert 1_000 <= record.schedule.step <= 3_155_760_000_000_000


# The other arguments


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("initial_delay", 0, 0),
        ("initial_delay", 2.5, 2_500_000),
        ("initial_delay", timedelta(hours=1), 3_600_000_000),
        ("jitter", 0.29, 290_000),
        ("tolerance", 0, 0),
        ("tolerance", 0.2, 200_000),
        ("timeout", 0.001, 1_000),
        ("timeout", timedelta(seconds=3), 3_000_000),
    ],
)
def test_lengths_are_kept_in_microseconds(keyword: str, value: object, expected: int) -> None:
    """Rounded to the nearest: 0.29 s is 290,000 and not 289,999."""
    assert getattr(record_of(**{keyword: value}), keyword) == expected


@pytest.mark.parametrize("keyword", ["initial_delay", "jitter", "tolerance", "timeout"])
@pytest.mark.parametrize("value", [-1, -1e-9, timedelta(microseconds=-1)], ids=repr)
def test_a_length_is_not_negative(keyword: str, value: object) -> None:
    """Only a spacing has a meaning below 0."""
    assert (
        refusal(**{keyword: value}) == f"{keyword}={value!r} is not accepted; {keyword} is 0 or more seconds"
    )


@pytest.mark.parametrize("value", [0, 0.0001, timedelta()], ids=repr)
def test_a_timeout_lasts_a_millisecond_at_least(value: object) -> None:
    """0 is no timeout that any run could keep, and not the way to say "none"."""
    assert refusal(timeout=value) == (
        f"timeout={value!r} is not accepted; timeout is at least 1 ms, or None for no timeout"
    )


@pytest.mark.parametrize("keyword", ["enabled", "run_immediately", "external_process_ok"])
@pytest.mark.parametrize("value", [0, 1, "no", "true", [], None], ids=repr)
def test_a_switch_is_a_real_bool(keyword: str, value: object) -> None:
    """Truthiness is no answer: "no" would enable and `None` disable."""
    assert refusal(**{keyword: value}) == f"{keyword}={value!r} is not accepted; {keyword} is True or False"


def test_enabled_false_switches_off() -> None:
    """The record says why, for the log line."""
    assert record_of(enabled=False).switched_off == "it is not enabled"
    assert record_of(enabled=True).switched_off is None


def test_a_negative_spacing_is_named_before_enabled() -> None:
    """As the ancestor did."""
    assert record_of(enabled=False, spacing=-1).switched_off == "its spacing is negative"


@pytest.mark.parametrize("overlap", ["skip", "queue", "allow"])
def test_overlap_is_one_of_three_words(overlap: str) -> None:
    """They are kept as written."""
    assert record_of(overlap=overlap).overlap == overlap


@pytest.mark.parametrize("overlap", ["Skip", "drop", "", True, 1, [], None], ids=repr)
def test_another_overlap_is_refused(overlap: object) -> None:
    """The message lists the three."""
    assert refusal(overlap=overlap) == (
        f"overlap={overlap!r} is not accepted; overlap is 'skip', 'queue' or 'allow'"
    )


@pytest.mark.parametrize("name", ["sync", "sync_2", "sync-volumes", "größe"])
def test_a_name_is_letters_digits_and_dashes(name: str) -> None:
    """It becomes the second half of the full name."""
    assert record_of(name=name).name == name


@pytest.mark.parametrize("name", ["", " ", "a.b", "a b", "a/b", 5, True, b"x"], ids=repr)
def test_another_name_is_refused(name: object) -> None:
    """A dot would split the full name elsewhere."""
    assert refusal(name=name) == f"name={name!r} is not accepted; name is letters, digits, '_' and '-'"


# Cron


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({"cron": "30 2 * * *"}, Cron("30 2 * * *", "UTC")),
        ({"cron": "0 30 2 * * *"}, Cron("0 30 2 * * *", "UTC")),
        ({"cron": "@daily", "tz": "Europe/Berlin"}, Cron("@daily", "Europe/Berlin")),
    ],
)
def test_cron_replaces_spacing(options: dict[str, str], schedule: Cron) -> None:
    """5 or 6 fields or a name; the time zone is UTC unless `tz` says otherwise."""
    assert record_of(**options).schedule == schedule


@pytest.mark.parametrize("spacing", [0, 30, -1])
def test_cron_and_spacing_exclude_each_other(spacing: int) -> None:
    """Even a spacing of 0 is one too many."""
    assert (
        refusal(cron="@daily", spacing=spacing) == "cron= and spacing= exclude each other; give one of them"
    )


def test_a_zone_belongs_to_a_cron_expression() -> None:
    """Elsewhere it would be ignored."""
    assert refusal(tz="Europe/Berlin", spacing=30) == (
        "tz= is the zone of a cron expression; give cron= too, or leave it out"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cron": "61 * * * *"},
            "cron=: '61 * * * *' is not a cron expression: Bad minute '61'; "
            "minute is 0-59, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        ({"cron": "* * *"}, "cron=: '* * *' has 3 fields; cron has 5, or 6 with seconds in front"),
        (
            {"cron": "@never"},
            "cron=: '@never' is not a cron expression: it has 1 field and is none of the names @yearly, @annually, "
            "@monthly, @weekly, @daily, @midnight, @hourly; cron has 5, or 6 with seconds in front",
        ),
        ({"cron": ""}, "cron='' is not accepted; cron is a text that is not empty"),
        ({"cron": 5}, "cron=5 is not accepted; cron is a text that is not empty"),
        (
            {"cron": "@daily", "tz": "Mars/Olympus"},
            "tz=: 'Mars/Olympus' is not a time zone of this machine; write e.g. 'Europe/Berlin'",
        ),
        (
            {"cron": "@daily", "tz": ""},
            "tz='' is not accepted; tz is a name such as 'Europe/Berlin', a ZoneInfo that has a name, or 'local'",
        ),
    ],
)
def test_a_cron_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    """At the declaration, with the expression or zone and what is wrong with it."""
    assert refusal(**options) == message


def test_a_cron_task_is_never_early_so_a_tolerance_is_refused() -> None:
    """0 says the same as the rule and is let through."""
    assert refusal(cron="@daily", tolerance=5) == (
        "tolerance= has no meaning with cron=: a cron task is never early"
    )
    assert record_of(cron="@daily", tolerance=0).tolerance == 0


def test_initial_delay_and_run_immediately_exclude_each_other() -> None:
    """Each says when the first slot is."""
    assert refusal(initial_delay=5, run_immediately=True) == (
        "initial_delay= and run_immediately= exclude each other; give one of them"
    )
    assert record_of(initial_delay=5, run_immediately=False).initial_delay == 5_000_000


# Settings over a declaration


@pytest.mark.parametrize(
    ("declaration", "override", "schedule", "switched_off"),
    [
        ({"spacing": 30}, {"spacing": "5m"}, Every(300_000_000), None),
        ({"cron": "@daily"}, {"spacing": 5}, Every(5_000_000), None),
        ({"spacing": -1}, {"spacing": 5}, Every(5_000_000), None),
        ({"enabled": False}, {"spacing": 5}, Every(5_000_000), "it is not enabled"),
        ({"enabled": False, "spacing": -1}, {"spacing": 5}, Every(5_000_000), "it is not enabled"),
        ({"enabled": False}, {"cron": "@daily"}, Cron("@daily"), "it is not enabled"),
        ({"spacing": -1}, {"cron": "@daily"}, Cron("@daily"), None),
        ({"spacing": -1}, {"enabled": True}, EveryPass(), None),
        ({"spacing": 30}, {"spacing": -1}, EveryPass(), "its spacing is negative"),
        ({"spacing": 30}, {"spacing": 0}, EveryPass(), None),
        ({"spacing": 30}, {"cron": "@daily"}, Cron("@daily"), None),
        ({"spacing": 30}, {"cron": "@daily", "tz": "Asia/Tokyo"}, Cron("@daily", "Asia/Tokyo"), None),
        ({"spacing": 30}, {"enabled": False}, Every(30_000_000), "it is not enabled"),
        ({"spacing": 30, "enabled": False}, {"enabled": True}, Every(30_000_000), None),
        ({"spacing": 30}, {"spacing": -1, "enabled": True}, EveryPass(), None),
        ({"spacing": 30}, {"spacing": 5, "enabled": False}, Every(5_000_000), "it is not enabled"),
        ({"cron": "@daily"}, {"enabled": False}, Cron("@daily"), "it is not enabled"),
        ({"spacing": 30}, {}, Every(30_000_000), None),
    ],
)
def test_settings_lie_over_the_declaration(
    declaration: dict[str, Any], override: dict[str, Any], schedule: object, switched_off: str | None
) -> None:
    """A spacing replaces a cron or a negative spacing; `enabled` wins over both, and stays where it is not said."""
    record = override_options(record_of(**declaration), TaskSettings(**override))
    assert (record.schedule, record.switched_off) == (schedule, switched_off)


@pytest.mark.parametrize(("keyword", "value"), [("timeout", 5), ("jitter", 2), ("tolerance", 0)])
def test_settings_override_lengths(keyword: str, value: Any) -> None:
    """The rest of the declaration stays."""
    before = record_of(spacing=30, timeout=1, jitter=1, tolerance=1, overlap="queue")
    after = override_options(before, TaskSettings(**{keyword: value}))
    assert getattr(after, keyword) == value * 1_000_000
    assert after.overlap == "queue"


# What is not said stays


OFF = "it is not enabled"
NIGHTLY = {"cron": "30 2 * * *", "tz": "America/New_York"}


@pytest.mark.parametrize(
    ("declaration", "override", "schedule"),
    [
        (NIGHTLY, {"cron": "30 3 * * *"}, Cron("30 3 * * *", "America/New_York")),
        (NIGHTLY, {"tz": "Asia/Tokyo"}, Cron("30 2 * * *", "Asia/Tokyo")),
        (NIGHTLY, {"cron": "@daily", "tz": "local"}, Cron("@daily", "local")),
        (NIGHTLY, {"timeout": 5}, Cron("30 2 * * *", "America/New_York")),
        ({"at": datetime(2027, 1, 1, tzinfo=UTC)}, {"cron": "@daily"}, Cron("@daily")),
        ({"at": datetime(2027, 1, 1, tzinfo=UTC)}, {"spacing": 5}, Every(5_000_000)),
    ],
)
def test_settings_keep_what_they_do_not_say_of_a_schedule(
    declaration: dict[str, Any], override: dict[str, Any], schedule: object
) -> None:
    """A cron keeps the declared zone, and a zone alone moves the declared cron."""
    assert override_options(record_of(**declaration), TaskSettings(**override)).schedule == schedule


@pytest.mark.parametrize(
    ("keyword", "value", "field"),
    [
        ("timeout", 5, 5_000_000),
        ("misfire_grace", 5, 5_000_000),
        ("jitter", 2, 2_000_000),
        ("tolerance", 0, 0),
        ("initial_delay", 7, 7_000_000),
        ("run_immediately", True, True),
        ("overlap", "queue", "queue"),
        ("phase", "auto", "auto"),
    ],
)
def test_each_setting_changes_its_own_option_and_no_other(keyword: str, value: Any, field: Any) -> None:
    """What it does not say is as declared."""
    before = record_of(spacing=30, timeout=1, jitter=1, tolerance=1, misfire_grace=1, enabled=False, name="x")
    after = override_options(before, TaskSettings(**{keyword: value}))
    assert after == replace(before, **{keyword: field})
    assert after != before


def test_every_option_that_settings_may_say_is_a_field_of_theirs() -> None:
    """The model has the rows of the table, with their words, and of its own only the log level."""
    fields = TaskSettings.model_fields
    assert [name for name in fields if name != "log_level"] == [option.name for option in SETTABLE]
    assert {name: field.description for name, field in fields.items() if name in OPTIONS} == {
        option.name: option.written for option in SETTABLE
    }
    assert {"name", "external_process_ok", "at"}.isdisjoint(fields)


def test_the_decorator_and_the_record_have_every_option() -> None:
    """What checkers see, and what the manager reads, are the rows of the table too."""
    overloads = [inspect.signature(one).parameters for one in get_overloads(periodic_task)]
    assert list(overloads[1]) == list(OPTIONS)
    kept = {field.name for field in fields(PeriodicTask)} - {"schedule", "switched_off"}
    assert kept == OPTIONS.keys() - {"spacing", "cron", "at"}


@pytest.mark.parametrize(
    ("declaration", "override", "changed"),
    [
        (
            {"run_immediately": True},
            {"initial_delay": 5},
            {"run_immediately": False, "initial_delay": 5_000_000},
        ),
        ({"initial_delay": 5}, {"run_immediately": True}, {"run_immediately": True, "initial_delay": None}),
        ({"initial_delay": 5}, {"run_immediately": False}, {}),
    ],
)
def test_the_stronger_place_says_when_the_first_slot_is(
    declaration: dict[str, Any], override: dict[str, Any], changed: dict[str, Any]
) -> None:
    """`initial_delay` and `run_immediately` would contradict each other in one place."""
    before = record_of(**declaration)
    assert override_options(before, TaskSettings(**override)) == replace(before, **changed)


@pytest.mark.parametrize(
    ("declaration", "override", "message"),
    [
        ({"spacing": 30}, {"tz": "Europe/Berlin"}, "tz= is the zone of a cron expression; give cron= too"),
        (
            {"cron": "@daily"},
            {"tolerance": 5},
            "tolerance= has no meaning with cron=: a cron task is never early",
        ),
        (
            {"at": datetime(2027, 1, 1, tzinfo=UTC)},
            {"tolerance": 5},
            "tolerance= has no meaning with at=: a one-off task is never early",
        ),
    ],
)
def test_what_means_nothing_to_the_schedule_in_force_is_refused(
    declaration: dict[str, Any], override: dict[str, Any], message: str
) -> None:
    """The rules hold for the combination, not for each place by itself."""
    with pytest.raises(InvalidPeriodicTaskArg, match=re.escape(message)):
        override_options(record_of(**declaration), TaskSettings(**override))


def test_a_tolerance_of_the_declaration_does_not_hinder_a_cron_of_the_settings() -> None:
    """It has no effect there, and is back where the spacing is."""
    record = override_options(record_of(spacing=30, tolerance=5), TaskSettings(cron="@daily"))
    assert (record.schedule, record.tolerance) == (Cron("@daily"), 5_000_000)


# Rescheduling


@pytest.mark.parametrize(
    ("declaration", "given", "schedule", "switched_off"),
    [
        (NIGHTLY, {"cron": "30 3 * * *"}, Cron("30 3 * * *", "America/New_York"), None),
        (NIGHTLY, {"tz": "Asia/Tokyo"}, Cron("30 2 * * *", "Asia/Tokyo"), None),
        (NIGHTLY, {"tz": ZoneInfo("Asia/Tokyo")}, Cron("30 2 * * *", "Asia/Tokyo"), None),
        (NIGHTLY, {"cron": "@daily", "tz": "Asia/Tokyo"}, Cron("@daily", "Asia/Tokyo"), None),
        (NIGHTLY, {"spacing": 5}, Every(5_000_000), None),
        ({"spacing": 5}, {"cron": "@daily"}, Cron("@daily"), None),
        ({"spacing": 5}, {"spacing": timedelta(minutes=1)}, Every(60_000_000), None),
        ({"spacing": 5}, {"spacing": 0}, EveryPass(), None),
        ({"spacing": 5}, {"spacing": -1}, EveryPass(), "its spacing is negative"),
        ({"spacing": -1}, {"spacing": 5}, Every(5_000_000), None),
        ({"spacing": 5, "enabled": False}, {"spacing": 7}, Every(7_000_000), OFF),
        ({"spacing": 5, "enabled": False}, {"cron": "@daily"}, Cron("@daily"), OFF),
        ({**NIGHTLY, "enabled": False}, {"tz": "UTC"}, Cron("30 2 * * *", "UTC"), OFF),
        ({"spacing": -1, "enabled": False}, {"spacing": 7}, Every(7_000_000), OFF),
    ],
)
def test_rescheduling_keeps_what_it_is_not_told(
    declaration: dict[str, Any], given: dict[str, Any], schedule: object, switched_off: str | None
) -> None:
    """The zone stays, the other options stay, and a task that is not enabled stays off."""
    before = record_of(**declaration, timeout=5, jitter=1)
    after = reschedule_options(before, **given)
    assert (after.schedule, after.switched_off) == (schedule, switched_off)
    assert replace(after, schedule=before.schedule, switched_off=None, tz=before.tz) == replace(
        before, switched_off=None
    )


def test_a_zone_outlives_a_spacing() -> None:
    """From cron to spacing and back, the zone is the one that was said."""
    spaced = reschedule_options(record_of(**NIGHTLY), spacing=5)
    assert reschedule_options(spaced, cron="@daily").schedule == Cron("@daily", "America/New_York")


def test_rescheduling_does_not_undo_what_settings_switched_off() -> None:
    """Nor does it switch off what they switched on."""
    off = override_options(record_of(spacing=5), TaskSettings(enabled=False))
    assert reschedule_options(off, spacing=7).switched_off == OFF
    on = override_options(record_of(spacing=5, enabled=False), TaskSettings(enabled=True))
    assert reschedule_options(on, spacing=7).switched_off is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "reschedule() takes either spacing= or cron=, and tz= beside or instead of cron="),
        ({"spacing": 5, "cron": "@daily"}, "reschedule() takes either spacing= or cron="),
        ({"spacing": True}, "spacing=True is not accepted"),
        ({"cron": "61 * * * *"}, "cron=: '61 * * * *' is not a cron expression"),
        ({"cron": "@daily", "tz": "Mars"}, "tz=: 'Mars' is not a time zone of this machine"),
        ({"tz": "UTC"}, "tz= is the zone of a cron expression"),
        ({"spacing": 5, "tz": "UTC"}, "tz= is the zone of a cron expression"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    """With what is wrong and what to write."""
    with pytest.raises(InvalidPeriodicTaskArg, match=re.escape(message)):
        reschedule_options(record_of(spacing=10), **given)


# Time zones


@pytest.mark.parametrize(
    ("tz", "name"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
        (ZoneInfo.no_cache("Europe/Berlin"), "Europe/Berlin"),
        (ZoneInfo("UTC"), "UTC"),
        (UTC, "UTC"),
        ("local", "local"),
    ],
    ids=repr,
)
def test_a_zone_is_a_name_an_object_or_the_local_one(tz: object, name: str) -> None:
    """It is kept by its name."""
    record = record_of(cron="@daily", tz=tz)
    assert (record.schedule, record.tz) == (Cron("@daily", name), name)


class Nameless(ZoneInfo):
    """As `ZoneInfo.from_file` makes one."""

    key = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "tz", [timezone(timedelta(hours=1)), Nameless("Europe/Berlin"), 1, True, b"UTC", ["UTC"]], ids=repr
)
def test_another_zone_is_refused(tz: object) -> None:
    """The message says what is accepted."""
    assert refusal(cron="@daily", tz=tz) == (
        f"tz={tz!r} is not accepted; tz is a name such as 'Europe/Berlin', a ZoneInfo that has a name, or 'local'"
    )


def test_the_zone_of_the_service_is_for_tasks_that_say_none() -> None:
    """Also where what they say is the same as the default."""
    assert record_of(cron="@daily").with_zone("Asia/Tokyo").schedule == Cron("@daily", "Asia/Tokyo")
    for said in (record_of(cron="@daily", tz="UTC"), record_of(**NIGHTLY), record_of(spacing=5)):
        assert said.with_zone("Asia/Tokyo") is said
    plain = record_of(cron="@daily")
    assert plain.with_zone("UTC") is plain


def test_the_zone_of_the_service_goes_when_another_is_said() -> None:
    """It is no declaration: settings and rescheduling find that none was said."""
    record = record_of(cron="@daily").with_zone("Asia/Tokyo")
    assert record.with_zone("UTC") == record_of(cron="@daily")
    assert override_options(record, TaskSettings(tz="Europe/Berlin")).schedule == Cron(
        "@daily", "Europe/Berlin"
    )
    again = reschedule_options(record, cron="@hourly").with_zone("Asia/Tokyo")
    assert again.schedule == Cron("@hourly", "Asia/Tokyo")


# One-off slots


NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "slots"),
    [
        (NEW_YEAR, [NEW_YEAR]),
        ([NEW_YEAR], [NEW_YEAR]),
        ((NEW_YEAR, NEW_YEAR - timedelta(days=1)), [NEW_YEAR - timedelta(days=1), NEW_YEAR]),
        ({NEW_YEAR, NEW_YEAR.astimezone(ZoneInfo("Asia/Tokyo"))}, [NEW_YEAR]),
        (iter([NEW_YEAR]), [NEW_YEAR]),
        (datetime(2027, 1, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), [NEW_YEAR]),
    ],
    ids=["one", "list", "tuple", "set", "iterator", "another zone"],
)
def test_at_is_one_moment_or_several(at: object, slots: list[datetime]) -> None:
    """In any order and any zone; the same moment is one slot."""
    schedule = record_of(at=at).schedule
    assert isinstance(schedule, Once)
    assert [to_datetime(slot) for slot in schedule.slots] == slots


@pytest.mark.parametrize(
    "at",
    [
        datetime(2027, 1, 1),
        [NEW_YEAR, datetime(2027, 1, 1)],
        date(2027, 1, 1),
        "2027-01-01T00:00:00Z",
        b"2027",
        [],
        {},
        1798761600,
        None,
    ],
    ids=repr,
)
def test_a_moment_is_aware(at: object) -> None:
    """A local time by itself is no moment, and a text is no datetime."""
    assert refusal(at=at) == (
        f"at={at!r} is not accepted; at is an aware datetime such as datetime(2027, 1, 1, tzinfo=UTC), or several of "
        "them"
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"spacing": 5}, "at= and spacing= exclude each other; give one of them"),
        ({"cron": "@daily"}, "at= and cron= exclude each other; give one of them"),
        ({"tz": "UTC"}, "at= and tz= exclude each other; give one of them"),
        ({"tolerance": 1}, "tolerance= has no meaning with at=: a one-off task is never early"),
    ],
)
def test_at_excludes_other_schedules(other: dict[str, Any], message: str) -> None:
    """One task has one of them."""
    assert refusal(at=NEW_YEAR, **other) == message


# Misfires


@pytest.mark.parametrize(
    ("value", "kept"), [(0.001, 1_000), (timedelta(minutes=1), 60_000_000), (None, None)]
)
def test_a_misfire_grace_is_a_length_of_time(value: Any, kept: int | None) -> None:
    """In microseconds; `None`, the default, is any lateness."""
    assert record_of(misfire_grace=value).misfire_grace == kept


@pytest.mark.parametrize("value", [0, 0.0001], ids=repr)
def test_a_misfire_grace_lasts_a_millisecond_at_least(value: object) -> None:
    """No start is on its slot to the microsecond, so that 0 would refuse them all."""
    assert refusal(misfire_grace=value) == (
        f"misfire_grace={value!r} is not accepted; misfire_grace is at least 1 ms, or None for any"
    )


# Hidden tasks


def unwrapped(function: Any) -> Any:
    async def wrapper(self: Any, context: object) -> None:
        await function(self, context)

    return wrapper


def by_default_value(function: Any) -> Any:
    async def wrapper(self: Any, context: object, *, _function: Any = function) -> None: ...

    return wrapper


class ByAttribute:
    """A decorator that is a class."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


HIDING = [
    unwrapped,
    by_default_value,
    ByAttribute,
    functools.partial(functools.partial, functools.partial),
    property,
    lambda function: functools.partialmethod(function, path="/"),
    lambda function: unwrapped(unwrapped(function)),
    lambda function: traced(unwrapped(function)),
    lambda function: staticmethod(unwrapped(function)),
]


@pytest.mark.parametrize(
    "decorate",
    HIDING,
    ids=[
        "closure",
        "default",
        "attribute",
        "partial",
        "property",
        "partialmethod",
        "twice",
        "wraps above",
        "static",
    ],
)
def test_a_task_that_a_decorator_hides_is_refused(decorate: Callable[[Any], Any]) -> None:
    """Without `functools.wraps` the decorator's function stands in the class, and nothing on it says that it is one."""

    class Disks:
        @decorate
        @periodic_task
        async def sweep(self, context: object, path: str = "/") -> None: ...

    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        refuse_hidden_tasks(Disks)
    text = str(caught.value)
    assert text.startswith(
        f"{Disks.__qualname__}.sweep is a periodic task that a decorator above @periodic_task hides"
    )
    assert "put @functools.wraps(function) on what that decorator returns" in text


def test_only_what_hides_a_task_is_refused() -> None:
    """A decorated task, one that is used from elsewhere, wrappers that use `wraps`, and what is no function."""
    task = periodic_task(a_function())

    class Disks:
        numbers: ClassVar[Any] = [1, 2]
        borrowed = task
        cell: Any = None

        @traced
        @periodic_task
        async def outside(self, context: object) -> None: ...

        @periodic_task
        @unwrapped
        async def inside(self, context: object) -> None: ...

        async def calls(self, context: object) -> None:
            await task(self, context)

        @unwrapped
        async def plain(self, context: object) -> None: ...

    Disks.cell = unwrapped(vars(Disks)["outside"])
    refuse_hidden_tasks(Disks)


def test_a_task_that_a_mixin_hides_is_refused_where_it_is_used() -> None:
    """A mixin is no manager, and is looked at with the manager that has it."""

    class Mixin:
        @unwrapped
        @periodic_task
        async def sweep(self, context: object) -> None: ...

    class Disks(Mixin):
        pass

    with pytest.raises(InvalidPeriodicTaskArg, match=r"Mixin\.sweep is a periodic task that"):
        refuse_hidden_tasks(Disks)


# Names and signatures


def test_a_partial_has_the_name_of_what_it_calls() -> None:
    """However deep it is; what has no name has the one given."""
    once = functools.partial(coroutine, context=1)
    assert name_of(once) == name_of(functools.partial(once)) == name_of(coroutine) == "coroutine"
    assert name_of(Handler(), "handler") == "handler"


def test_annotations_are_not_evaluated_where_a_signature_is_read() -> None:
    """They may name what is imported for checkers only."""
    code = "async def sweep(self, context: Absent, *, path: Absent = '/') -> Absent: ..."
    if sys.version_info < (3, 14):
        code = f"from __future__ import annotations\n{code}"  # else they are evaluated where they are written
    names: dict[str, Any] = {}
    exec(compile(code, "<absent>", "exec", dont_inherit=True), names)
    assert untyped(names["sweep"]) is names["sweep"]
    assert list(signature_of(names["sweep"]).parameters) == ["self", "context", "path"]


# Inert


def test_a_declaration_reads_no_clock_no_environment_and_no_file() -> None:
    """Neither at import nor at class creation: the audit hook and the traps of this program stay silent."""
    program = """
import asyncmgr, cronsim, os, sys, time, datetime, socket

armed = False
def trap(*args, **kwargs):
    raise AssertionError("a declaration looked at the world")
def audit(event, args):
    if armed and event.split(".")[0] in ("open", "os", "socket", "subprocess", "import"):
        raise AssertionError(f"a declaration looked at the world: {event} {args}")
sys.addaudithook(audit)
for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"):
    setattr(time, name, trap)
environ = os.environ
class Environ(dict):
    get = __getitem__ = __contains__ = __iter__ = trap
os.environ = Environ()
armed = True

class Volumes(asyncmgr.Manager):
    @asyncmgr.periodic_task
    async def heartbeat(self, context): ...
    @asyncmgr.periodic_task(spacing=30, run_immediately=True, jitter=1, timeout=5, external_process_ok=True)
    async def sync(self, context): ...
    @asyncmgr.periodic_task(cron="30 2 * * *")
    async def sweep(self, context): ...
    @asyncmgr.periodic_task(enabled=True)
    async def off(self, context): ...

armed = False
os.environ = environ
print(len(Volumes._asyncmgr_tasks))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_a_record_cannot_be_changed() -> None:
    """Nobody alters the schedule of all instances by hand."""
    with pytest.raises(AttributeError):
        record_of().jitter = 5  # type: ignore[misc]


def test_outcomes_are_the_words_of_the_contract() -> None:
    """They are text, for logs and metrics."""
    words = ["succeeded", "nothing", "failed", "timed_out", "cancelled"]
    assert [str(outcome) for outcome in Outcome] == words


async def test_settings_are_not_needed_to_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong variable of the environment stops the first pass, not the class or the instance."""
    monkeypatch.setenv("ASYNCMGR_TOLERANCE", "much")

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None: ...

    disks = Disks()
    with pytest.raises(AsyncmgrError, match="ASYNCMGR_TOLERANCE"):
        await disks.periodic_tasks(None)
    assert await Disks(settings=Settings(tolerance=0.2)).periodic_tasks(None) == 60.0


def test_a_task_is_declared_once() -> None:
    """Decorating a declared function again would change its class's other subclasses too."""

    @periodic_task(spacing=10)
    async def sync(self: object, context: object) -> None: ...

    with pytest.raises(
        InvalidPeriodicTaskArg, match=r"sync is a periodic task already; .* override it there"
    ):
        periodic_task(spacing=3)(sync)
