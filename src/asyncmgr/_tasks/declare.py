"""Declares periodic tasks: `@periodic_task` attaches one immutable record to a coroutine function."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar, overload
from zoneinfo import ZoneInfo

from asyncmgr._common.functions import TASK_MARK, contents_of, kind_of, name_of, signature_of
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.options import (
    ACCEPTED,
    CatchUp,
    Interrupted,
    Overlap,
    PeriodicTask,
    Phase,
    Scope,
    read_option,
    read_options,
)
from asyncmgr._tasks.policy import Retry
from asyncmgr.errors import InvalidPeriodicTaskArg

Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def periodic_task(function: Function, /) -> Function: ...
@overload
def periodic_task(
    *,
    spacing: float | timedelta = 0,
    cron: str = ...,
    tz: str | ZoneInfo = ...,
    at: datetime | Iterable[datetime] = ...,
    run_immediately: bool = False,
    initial_delay: float | timedelta | None = None,
    jitter: float | timedelta = 0,
    tolerance: float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    misfire_grace: float | timedelta | None = None,
    overlap: Overlap = "skip",
    phase: Phase = None,
    scope: Scope = "process",
    persist: bool = False,
    catch_up: CatchUp = "one",
    catch_up_window: float | timedelta | None = None,
    interrupted: Interrupted = "skip",
    each: str | Callable[[], Any] | None = None,
    concurrency: int | None = None,
    retry: Retry | int | None = None,
    backoff: bool = False,
    pause_after: int | None = None,
    freshness: float | timedelta | None = None,
    critical: bool = False,
    enabled: bool = True,
    external_process_ok: bool = False,
    name: str | None = None,
) -> Callable[[Function], Function]: ...
def periodic_task(*functions: Any, **options: Any) -> Any:
    """Make a coroutine method of a manager a periodic task. Write it bare, with `()` or with keywords.

    Parameters
    ----------
    spacing
        Seconds between two slots (planned starts), 1 ms to 100 years. 0, the default: the task runs on every pass, and
        under a service every 60 s. Negative: the task is switched off.
    cron
        Instead of `spacing`: a cron expression of 5 fields, or of 6 with seconds in front, or a name such as
        ``@daily``. Ranges may wrap (``FRI-MON``), ``?`` is ``*``; ``L`` is the last day of the month, ``LW`` its last
        working day, ``5L`` its last Friday, ``FRI#2`` its second. Where both day fields name days, a day has to fit
        one of them; a field that begins with ``*`` names none. ``30 2 * * *`` runs once a day, also on the days on
        which clocks change: at 03:00 where there is no 02:30, the first time where it comes twice. All rules:
        ``docs/reference/cron.md``.
    tz
        The time zone of `cron`: a name, a `ZoneInfo`, or ``"local"``. Default: the setting `timezone`, which is UTC.
    at
        Instead of `spacing`: one aware datetime or several. The task runs once at each of them, and never again.
    run_immediately
        The first slot is the start itself instead of one spacing later. With `cron` the task has one more run, at the
        start.
    initial_delay
        Seconds from the start to the first slot.
    jitter
        Seconds. Each start is delayed by a random time from 0 to min(jitter, spacing / 2); slots do not move.
    tolerance
        Seconds by which a run may start early, together with another one; at most half the spacing. 0: never early.
        Default: the setting `tolerance`, 0.2. A tolerance makes the process wake up less often.
    timeout
        Seconds after which a run is cancelled, once.
    misfire_grace
        Seconds, at least 0.001, by which a run may start later than its slot. A slot that would start later is missed,
        with the reason ``late``. Default: a run may start any time later.
    overlap
        What happens to a slot while a run of its task is in progress: ``"skip"``, ``"queue"`` or ``"allow"``.
    phase
        ``"auto"``: the first slot is not one spacing after the start, but a share of the spacing, always the same for
        this host and task. So many hosts or tasks of one spacing do not run together. Default: the setting `phase`.
    scope
        ``"process"``: every process runs the task. ``"host"``: one process of this machine, user and application does.
        ``"cluster"``: one process of all that share the setting `store` does. A pass, which belongs to no service, runs
        the task whatever its scope.
    persist
        `True`: the last slot outlives the process, so that slots of the time when the service was down get one run at
        the next start. Tasks with ``scope="cluster"`` have this in any case.
    catch_up
        What slots get that passed while nobody ran the task: ``"one"`` run for all of them, or ``"none"``.
    catch_up_window
        Seconds: slots that passed longer ago get no such run. Default: however long ago.
    interrupted
        What a slot gets whose process died during its run: ``"skip"``, nothing; ``"rerun"``, another run by the next
        holder, so that its work may be done twice.
    each
        The name of an attribute, method or coroutine method of the manager that has the task's keys: texts, whole
        numbers, or objects with such a ``key``. The task then runs once in each spacing for each key, and its method
        takes ``(self, context, key)``. Every key has a place of its own in the spacing, and overlap, timeout and
        failures of its own. The service asks for the keys at the start and in every spacing. With `run_immediately`
        the first slot of a key is its coming.
    concurrency
        With `each`: the number of runs of this task in progress at once. A run that waits for a place keeps its slot.
    retry
        How often a run that fails or times out is tried again within its slot: a `Retry`, or the number of attempts.
        `timeout` is that of each attempt. No attempt begins after the next slot. A pass makes one attempt.
    backoff
        `True`: from two failures in a row on the spacing doubles with each one, to an hour at most and never over half
        of `freshness`, until a run ends well. Slots in between are skipped, reason ``backoff``.
    pause_after
        The number of failures in a row after which the task is paused, until somebody resumes it.
    freshness
        Seconds: the promise that the last success is no older. While it is broken the task is ``stale``. Where the slot
        after a failure would come too late for it, the task runs again halfway to the moment at which it is broken.
    critical
        `True`: the service is not ready while the promise of `freshness` is broken.
    enabled
        `False` switches the task off.
    external_process_ok
        `True`: the task does not run in this process where the setting `run_external_periodic_tasks` is false.
    name
        The task's name. Default: the method's name.

    Raises
    ------
    InvalidPeriodicTaskArg
        The declaration is wrong; the error is raised when it is executed, and names the argument and what is accepted.
    """
    if len(functions) == 1 and not options and (callable(functions[0]) or inspect.isroutine(functions[0])):
        return _attach(functions[0], declare({}))
    if functions:
        raise InvalidPeriodicTaskArg(
            f"@periodic_task takes no positional argument, and got {safe_repr(functions[0])}; "
            f"write @periodic_task(spacing=...). Accepted: {ACCEPTED}"
        )
    record = declare(options)
    return lambda function: _attach(function, record)


def declared(value: object) -> PeriodicTask | None:
    """Return the record that `@periodic_task` attached to this function; `None` = it has none."""
    record = getattr(value, TASK_MARK, None)
    return record if isinstance(record, PeriodicTask) else None


def declare(options: Mapping[str, Any]) -> PeriodicTask:
    """Make the record of these keywords of `@periodic_task`; equal keywords share one record."""
    try:
        return _shared_record(**options)
    except InvalidPeriodicTaskArg:
        raise
    except TypeError:  # a value that is not hashable
        return read_options(options)


@functools.lru_cache(typed=True)
def _shared_record(**options: Any) -> PeriodicTask:
    # Cached by type too: 1 is a spacing, and True, which equals it, is not.
    return read_options(options)


class Addition(NamedTuple):
    """The options of a task that is added to an instance.

    Name and initial delay usually belong to one task only. They are kept apart from the record, so that very many tasks
    that differ only in them share one record.
    """

    record: PeriodicTask
    name: str | None
    initial_delay: int | None


def declare_addition(options: Mapping[str, Any]) -> Addition:
    """Read the keywords of `add_periodic_task`."""
    shared = dict(options)
    name = read_option("name", shared.pop("name", None))
    initial_delay = read_option("initial_delay", shared.pop("initial_delay", None))
    record = declare(shared)
    if initial_delay is not None and record.run_immediately:
        read_options(options)  # raises: these two exclude each other
    return Addition(record, name, initial_delay)


def check_function(function: object, *, takes: str, name: str | None = None) -> None:
    """Raise `InvalidPeriodicTaskArg` unless this is `async def` and can be called with the parameters `takes`."""
    count = takes.count(",") + 1
    if _plainly_fits(function, count):
        return
    name = name or getattr(function, "__qualname__", safe_repr(function))
    if not inspect.iscoroutinefunction(function):
        raise InvalidPeriodicTaskArg(
            f"{name} is {kind_of(function)}; @periodic_task needs 'async def'{_how_to_block(function)}"
        )
    signature = signature_of(function)
    try:
        signature.bind(*range(count))
    except TypeError as exc:
        raise InvalidPeriodicTaskArg(
            f"{name}{signature} cannot be called with ({takes}): {exc}; "
            f"write 'async def {name_of(function)}({takes})'"
        ) from None


def _how_to_block(function: object) -> str:
    """Say how to call a plain function from a task; empty for any other object."""
    if kind_of(function) != "a plain function":
        return ""
    return f"; for work that blocks, await asyncio.to_thread({name_of(function)}, ...) in one"


def _plainly_fits(function: object, count: int) -> bool:
    """Whether this is a plain `async def` that takes `count` arguments. False means that a closer look is needed.

    The closer look by `inspect.signature` costs as much as all the rest of a declaration.
    """
    if type(function) is not types.FunctionType or hasattr(function, "__wrapped__"):
        return False
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    is_coroutine = code.co_flags & inspect.CO_COROUTINE
    return bool(is_coroutine and required <= count <= code.co_argcount and not code.co_kwonlyargcount)


def refuse_hidden_tasks(cls: type) -> None:
    """Refuse a class in which a decorator without `functools.wraps` above `@periodic_task` hides a task.

    The decorator has put another object in the task's place. This object holds the function that the class body defined
    under that name, in its closure or its attributes.

    Raises
    ------
    InvalidPeriodicTaskArg
        A task is hidden; the text names it and the cure.
    """
    for base in cls.__mro__:
        for attribute, value in vars(base).items():
            if callable(value) or hasattr(type(value), "__get__"):
                _refuse_hidden_task(base, attribute, value)


def _refuse_hidden_task(cls: type, attribute: str, value: object) -> None:
    where = f"{cls.__qualname__}.{attribute}"
    if inspect.isclass(value) or declared(value) is not None or getattr(value, "__qualname__", "") == where:
        return
    if any(declared(one) and getattr(one, "__qualname__", "") == where for one in contents_of(value)):
        raise InvalidPeriodicTaskArg(
            f"{where} is a periodic task that a decorator above @periodic_task hides, {safe_repr(value)}; "
            "put @functools.wraps(function) on what that decorator returns, or @periodic_task above it"
        )


def _attach(function: Any, record: PeriodicTask) -> Any:
    check_function(function, takes="self, context" if record.each is None else "self, context, key")
    if not inspect.isfunction(function):
        # Python binds only a function to the manager.
        raise InvalidPeriodicTaskArg(
            f"{safe_repr(function)} is {kind_of(function)}; @periodic_task needs 'async def' in the class, or give "
            "this one to add_periodic_task()"
        )
    if TASK_MARK in vars(function):
        raise InvalidPeriodicTaskArg(
            f"{function.__qualname__} is a periodic task already; to give it another schedule in a subclass, "
            "override it there with @periodic_task"
        )
    setattr(function, TASK_MARK, record)
    return function
