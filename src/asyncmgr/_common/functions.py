"""Inspects functions, and objects given in place of functions: their kind in words, name, signature and marks."""

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
    """Describe the kind of the object in words for an error: ``a plain function``, ``a class``."""
    if isinstance(function, staticmethod | classmethod):
        return f"a {type(function).__name__}"
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.isgeneratorfunction(function):
        return "a generator"
    if inspect.isclass(function):
        return "a class"
    # Since Python 3.14 a partial object is a descriptor, and `isroutine` is true for it.
    if inspect.isroutine(function) and not isinstance(function, functools.partial):
        return "a bound method" if inspect.ismethod(function) else "a plain function"
    return f"a {type(function).__name__} object" if callable(function) else "no function"


def name_of(function: object, default: str = "task") -> str:
    """Return the function's name; for a `functools.partial` the name of the function that it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else default


def signature_of(function: Any) -> inspect.Signature:
    """Return the signature, annotations not evaluated: they may name types that only type checkers import."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def annotations_of(owner: Any) -> dict[str, Any]:
    """Return the function's or class's own annotations; types that only checkers import stay forward references."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(owner)


MOST_LOOKED_THROUGH = 100
"""The number of objects that `contents_of` looks into before it stops."""


def contents_of(value: object) -> Iterator[object]:
    """Yield the objects that a decorated function may hold: closures, defaults, attributes, parts of a partial."""
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
        with contextlib.suppress(ValueError):  # the cell is still empty
            yield cell.cell_contents


def is_async(function: object) -> bool:
    """Whether a call of this only makes a coroutine or an async generator, which the caller has to await.

    It looks through `functools.partial` and at the ``__call__`` of other objects. A plain function that returns a
    coroutine is not recognised.
    """
    while isinstance(function, functools.partial):
        function = function.func
    # Python looks `__call__` up on the type. A class is left out: its call makes an instance.
    called = None if inspect.isclass(function) else inspect.getattr_static(type(function), "__call__", None)
    return _is_async(function) or _is_async(called)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


RPC_MARK = "__rpc__"
