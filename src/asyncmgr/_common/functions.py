"""The marks that decorators leave on functions, and words for what is no function."""

from __future__ import annotations

import functools
import inspect

TASK_MARK = "__periodic_task__"


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


RPC_MARK = "__rpc__"
