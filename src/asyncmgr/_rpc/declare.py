"""Declares methods that other hosts may call, with `@rpc`, and finds them in the class of a manager."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import takewhile
from typing import Any, TypeVar

from asyncmgr._common.functions import RPC_MARK, kind_of, signature_of
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.declare import declared
from asyncmgr.errors import InvalidRpcMethod

Function = TypeVar("Function", bound=Callable[..., Any])

_FOR_SELF = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


def rpc(function: Function, /) -> Function:
    """Let other hosts call this coroutine method of a manager. Methods without `@rpc` cannot be called.

    Arguments and result are JSON, validated by the type hints (as pydantic does); a parameter without a hint takes any
    JSON. A call names its arguments, so the names of the parameters are part of the interface. An override can be
    called too, with or without `@rpc`; setting the name to `None` removes the method.

    Raises
    ------
    InvalidRpcMethod
        At once, at the decorator: the function is not `async def`, takes positional-only or ``*args`` parameters, is a
        periodic task, or its name begins with an underscore.
    """
    if not inspect.isfunction(function):
        raise InvalidRpcMethod(
            f"@rpc got {safe_repr(function)}, {kind_of(function)}; write it bare, above 'async def method(self, ...)'"
        )
    check_method(function, function.__qualname__)
    setattr(function, RPC_MARK, True)
    return function


def check_method(function: Any, name: str) -> None:
    """Refuse a function that other hosts cannot call. `name` stands for it in error texts."""
    if not inspect.iscoroutinefunction(function):
        raise InvalidRpcMethod(f"{name} is {kind_of(function)}; @rpc needs 'async def'")
    if function.__name__.startswith("_"):
        raise InvalidRpcMethod(f"{name} has the name of a private method; @rpc makes it public, so rename it")
    if declared(function) is not None:
        raise InvalidRpcMethod(f"{name} is a periodic task; call it from a method of its own that has @rpc")
    parameters = list(signature_of(function).parameters.values())
    if not parameters or parameters[0].kind not in _FOR_SELF:
        raise InvalidRpcMethod(f"{name} does not take 'self'; @rpc is for methods of a manager")
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise InvalidRpcMethod(
                f"{name} takes {_as_written(parameter)}, which has no name on the wire; "
                "make it a named parameter"
            )


def callable_methods(cls: type) -> list[str]:
    """List the methods of a class that other hosts may call, inherited ones first."""
    marked = {
        name: None
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if _is_marked(value)
    }
    # `= None` removes a method, for subclasses too.
    return [name for name in marked if any(map(_is_marked, takewhile(_is_there, _values(cls, name))))]


def check_methods(cls: type, reserved: frozenset[str]) -> None:
    """Refuse a class with an `@rpc` method that other hosts cannot call, or one whose name is in `reserved`.

    Raises
    ------
    InvalidRpcMethod
        The text names the method and the cure.
    """
    for name in callable_methods(cls):
        where, values = f"{cls.__qualname__}.{name}", _values(cls, name)
        if name in reserved:
            raise InvalidRpcMethod(f"{where}: {name!r} belongs to Manager; give the method another name")
        if any(declared(value) is not None for value in values):
            raise InvalidRpcMethod(f"{where} has @rpc and @periodic_task; give each a method of its own")
        check_method(values[0], where)


def _values(cls: type, name: str) -> list[Any]:
    """Find what the name stands for in the class and in its bases, the nearest class first."""
    return [vars(base)[name] for base in cls.__mro__ if name in vars(base)]


def _is_there(value: object) -> bool:
    return value is not None


def _is_marked(value: object) -> bool:
    return inspect.isfunction(value) and RPC_MARK in vars(value)


def _as_written(parameter: inspect.Parameter) -> str:
    return f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name
