"""What can be known of a function, or of what was given in place of one: words, name, signature, marks."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

TASK_MARK = "__periodic_task__"

RPC_MARK = "__rpc__"


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
    # Since Python 3.14 a partial object is a descriptor, which passes for a routine.
    if inspect.isroutine(function) and not isinstance(function, functools.partial):
        return "a bound method" if inspect.ismethod(function) else "a plain function"
    return f"a {type(function).__name__} object" if callable(function) else "no function"


def name_of(function: object, default: str = "task") -> str:
    """The name of a function; of a `functools.partial` the name of what it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else default


def signature_of(function: Any) -> inspect.Signature:
    """The signature of a function. Its annotations are not evaluated: they may name what only checkers import."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def annotations_of(owner: Any) -> dict[str, Any]:
    """The annotations of a function or class itself; what only checkers import stays a forward reference."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(owner)


MOST_LOOKED_THROUGH = 100
"""How many objects `contents_of` looks into."""


def contents_of(value: object) -> Iterator[object]:
    """All that what a decorator returned may hold: closures, default values, attributes, the parts of a partial."""
    waiting, seen = [value], {id(value)}
    for _ in range(MOST_LOOKED_THROUGH):
        if not waiting:
            return
        for one in _held_by(waiting.pop()):
            if id(one) not in seen:
                yield one
                seen.add(id(one))
                waiting.append(one)


def _held_by(value: object) -> list[object]:
    if inspect.isfunction(value):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*_cells(value.__closure__ or ()), *defaults, *vars(value).values()]
    if isinstance(value, functools.partial | functools.partialmethod):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if inspect.isclass(value) or not callable(value):
        return []
    attributes = getattr(value, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else []


def _cells(closure: tuple[types.CellType, ...]) -> Iterator[object]:
    for cell in closure:
        with contextlib.suppress(ValueError):  # nothing is in it yet
            yield cell.cell_contents


def is_async(function: object) -> bool:
    """Whether calling this only makes a coroutine or an async generator, which somebody has to await.

    Looks through `functools.partial` and at the ``__call__`` of other objects. A plain function that returns a
    coroutine is not recognised.
    """
    while isinstance(function, functools.partial):
        function = function.func
    # On the type, where Python looks when it calls an object; a class itself makes instances.
    called = None if inspect.isclass(function) else inspect.getattr_static(type(function), "__call__", None)
    return _is_async(function) or _is_async(called)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


RPC_MARK = "__rpc__"
