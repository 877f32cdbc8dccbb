"""Collects the tasks of a manager's class when the class is defined, and refuses faulty declarations there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, TypeAlias

from asyncmgr._common.functions import kind_of
from asyncmgr._common.log import log
from asyncmgr._tasks.declare import check_function, declared, refuse_hidden_tasks
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr.errors import InvalidHook, InvalidPeriodicTaskArg

Tasks: TypeAlias = tuple[tuple[str, PeriodicTask], ...]
"""Pairs of an attribute's name and the options declared on it."""

HOOKS = frozenset(["init_host", "pre_start_hook", "post_start_hook", "cleanup_host", "reload"])

RESERVED = frozenset(
    [
        "name",
        "host",
        "settings",
        "service",
        "periodic_tasks",
        "task_status",
        "add_periodic_task",
        "init_host",
        "pre_start_hook",
        "post_start_hook",
        "cleanup_host",
        "reload",
        "RPC_API_VERSION",
        "RPC_API_NAMESPACE",
    ]
)
"""Names that belong to `Manager` and may not be used for a task."""


def gather(cls: type) -> Tasks:
    """Return the tasks of a class in definition order, inherited ones first; an override keeps the original's place.

    Raises
    ------
    InvalidPeriodicTaskArg
        An override cannot be a task, a name is reserved, or two tasks have one name.
    """
    refuse_hidden_tasks(cls)
    tasks = tuple(_found(cls))
    _refuse_doubles(cls, tasks)
    return tasks


def _found(cls: type) -> Iterator[tuple[str, PeriodicTask]]:
    for attribute in _attributes(cls):
        values = [vars(base)[attribute] for base in cls.__mro__ if attribute in vars(base)]
        _refuse_hidden(cls, attribute, values)
        # `name = None` in a class deletes the task, for its subclasses too.
        kept = takewhile(lambda value: value is not None, values)
        record = next((record for value in kept if (record := declared(value))), None)
        if record is None:
            continue
        if declared(values[0]) is None:
            takes = "self, context" if record.each is None else "self, context, key"
            check_function(values[0], takes=takes, name=f"{cls.__qualname__}.{attribute}")
        refuse_reserved(f"{cls.__name__}.{attribute}", attribute, record.name)
        yield attribute, record


def _attributes(cls: type) -> dict[str, None]:
    """Return the names in a class and its bases that may be tasks, in order: those of each base first."""
    names: dict[str, None] = {}
    for base in cls.__bases__:
        names |= _attributes(base)
    own = (name for name, value in vars(cls).items() if declared(_unwrap(value)) is not None)
    return names | dict.fromkeys(own)


def _unwrap(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _refuse_hidden(cls: type, attribute: str, values: list[Any]) -> None:
    if isinstance(values[0], staticmethod | classmethod):
        raise InvalidPeriodicTaskArg(
            f"{cls.__name__}.{attribute} is a {type(values[0]).__name__}; "
            f"write 'async def {attribute}(self, context)'"
        )


def refuse_reserved(task: str, *names: str | None) -> None:
    """Raise `InvalidPeriodicTaskArg` where one of the names belongs to `Manager`."""
    for name in names:
        if name in RESERVED:
            raise InvalidPeriodicTaskArg(f"{task}: {name!r} belongs to Manager; give the task another name")


def _refuse_doubles(cls: type, tasks: Tasks) -> None:
    seen: dict[str, str] = {}
    for attribute, record in tasks:
        name = record.name or attribute
        if name in seen:
            raise InvalidPeriodicTaskArg(
                f"{cls.__name__} has two tasks named {name!r}: {seen[name]} and {attribute}; give one another name="
            )
        seen[name] = attribute


def check_hooks(cls: type) -> None:
    """Refuse hooks that cannot be awaited, where the class is written.

    Raises
    ------
    InvalidHook
        A hook is no coroutine function; the text names it and says what to write.
    """
    for name in HOOKS & vars(cls).keys():
        hook = inspect.unwrap(_unwrap(vars(cls)[name]))
        if inspect.isfunction(hook) and not inspect.iscoroutinefunction(hook):
            raise InvalidHook(
                f"{cls.__qualname__}.{name} is {kind_of(hook)}; hooks are awaited: write 'async def {name}(self)'"
            )


def log_switched_off(cls: type, tasks: Tasks) -> None:
    """Log the tasks that this class switches off. Those of its bases were logged when the bases were defined."""
    logged = [task for base in cls.__bases__ for task in getattr(base, "_asyncmgr_tasks", ())]
    for attribute, record in tasks:
        if (attribute, record) not in logged:
            tell_if_off(cls.__name__, record.name or attribute, record)


def tell_if_off(manager: str, task: str, record: PeriodicTask) -> None:
    """Log that a task is switched off, and why."""
    if record.switched_off is not None:
        log.info("task.disabled", manager=manager, task=task, reason=record.switched_off)
