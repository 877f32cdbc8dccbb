"""Declares what other hosts may call, `@rpc`, and finds the method that serves a call by namespace and version."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Generic, TypeVar

from asyncmgr._tasks.declare import declared, kind_of
from asyncmgr.errors import InvalidRpcMethod, NoSuchMethod, RpcError, UnsupportedVersion

Function = TypeVar("Function", bound=Callable[..., Any])
M = TypeVar("M")

_MARK = "__rpc__"
_FOR_SELF = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)


def rpc(function: Function, /) -> Function:
    """Let other hosts call this coroutine method of a manager; no other method of it can be.

    Arguments and result are JSON, validated by the type hints (as pydantic does); what has no hint may be any JSON. A
    call names its arguments, so a parameter is part of the interface by its name. An override is callable too, with or
    without `@rpc`; setting the name to `None` takes it away.

    Raises
    ------
    InvalidRpcMethod
        At once, where it is written: it is not `async def`, takes positional-only or ``*args`` parameters, is a
        periodic task, or its name begins with an underscore.
    """
    if not inspect.isfunction(function):
        raise InvalidRpcMethod(
            f"@rpc got {function!r}, {kind_of(function)}; write it bare, above 'async def method(self, ...)'"
        )
    check_method(function, function.__qualname__)
    setattr(function, _MARK, True)
    return function


def check_method(function: Any, name: str) -> None:
    """Refuse what cannot be called from afar; `name` is how errors call it."""
    if not inspect.iscoroutinefunction(function):
        raise InvalidRpcMethod(f"{name} is {kind_of(function)}; @rpc needs 'async def'")
    if function.__name__.startswith("_"):
        raise InvalidRpcMethod(f"{name} has the name of a private method; @rpc makes it public, so rename it")
    if declared(function) is not None:
        raise InvalidRpcMethod(f"{name} is a periodic task; call it from a method of its own that has @rpc")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in _FOR_SELF:
        raise InvalidRpcMethod(f"{name} does not take 'self'; @rpc is for methods of a manager")
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise InvalidRpcMethod(
                f"{name} takes {str(parameter).partition(':')[0]}, which has no name on the wire; "
                "make it a named parameter"
            )


def callable_methods(cls: type) -> list[str]:
    """The names of the methods of a class that may be called from afar, inherited ones first."""
    marked = {
        name: None
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if _is_marked(value)
    }
    # `= None` takes a method away, for the classes further down too.
    return [name for name in marked if any(map(_is_marked, takewhile(_is_there, _values(cls, name))))]


def check_methods(cls: type, reserved: frozenset[str]) -> None:
    """Refuse a class of which a method cannot be called from afar though it should be, or has a name in `reserved`.

    Raises
    ------
    InvalidRpcMethod
        It names the method and the cure.
    """
    for name in callable_methods(cls):
        where, values = f"{cls.__qualname__}.{name}", _values(cls, name)
        if name in reserved:
            raise InvalidRpcMethod(f"{where}: {name!r} belongs to Manager; give the method another name")
        if any(declared(value) is not None for value in values):
            raise InvalidRpcMethod(f"{where} has @rpc and @periodic_task; give each a method of its own")
        check_method(values[0], where)


def _values(cls: type, name: str) -> list[Any]:
    """What the name stands for in the class and its bases, the nearest first."""
    return [vars(base)[name] for base in cls.__mro__ if name in vars(base)]


def _is_there(value: object) -> bool:
    return value is not None


def _is_marked(value: object) -> bool:
    return inspect.isfunction(value) and _MARK in vars(value)


# Versions


def parse_version(version: str) -> tuple[int, int]:
    """Major and minor of ``"1.10"``.

    Raises
    ------
    ValueError
        It is not two whole numbers with a dot between them.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"{version!r} is no version; write two whole numbers, such as '1.0'")
    return int(match[1]), int(match[2])


def is_compatible(requested: str, offered: str) -> bool:
    """Whether what offers one version serves calls of another: same major, and no younger minor.

    Raises
    ------
    ValueError
        One of them is no version.
    """
    (wanted_major, wanted_minor), (major, minor) = parse_version(requested), parse_version(offered)
    return wanted_major == major and wanted_minor <= minor


# Endpoints


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[M]):
    """One interface of a service: the methods of one manager, under its namespace and version."""

    manager: str
    namespace: str | None
    version: str
    methods: Mapping[str, M]


def choose(endpoints: Sequence[Endpoint[M]], method: str, version: str, namespace: str | None) -> Endpoint[M]:
    """The first endpoint that serves this call. The rule is that of oslo.messaging's dispatcher.

    Raises
    ------
    UnsupportedVersion
        The version is none, no endpoint has the namespace, or the method is there in other versions only.
    NoSuchMethod
        The version is there, and the method in no version.
    """
    named = [endpoint for endpoint in endpoints if endpoint.namespace == namespace]
    having = [endpoint for endpoint in named if method in endpoint.methods]
    for endpoint in having:
        if _fits(version, endpoint.version):
            return endpoint
    fitting = [endpoint for endpoint in named if _fits(version, endpoint.version)]
    if fitting and not having:
        methods = ", ".join(sorted({name for endpoint in fitting for name in endpoint.methods})) or "none"
        raise NoSuchMethod(
            f"{_called(namespace)} has no method {method!r} in version {version}; it has {methods}"
        )
    offered = tuple(endpoint.version for endpoint in having or named)
    raise UnsupportedVersion(_misfit(method, version, namespace, offered), offered)


def _fits(requested: str, offered: str) -> bool:
    try:
        return is_compatible(requested, offered)
    except ValueError:
        return False


def _misfit(method: str, version: str, namespace: str | None, offered: Sequence[str]) -> str:
    if not offered:
        return f"{_called(namespace)} is not served"
    return f"{_called(namespace)} serves {method!r} in {', '.join(offered)}, and not in version {version!r}"


def _called(namespace: str | None) -> str:
    return "the interface without a namespace" if namespace is None else f"the interface {namespace!r}"


# The call that is being served


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as it says itself: nothing proves it."""

    service: str | None
    """`None` for a program that is no service."""
    host: str


@dataclass(frozen=True, slots=True)
class Call:
    """The call that is being served, for the method that serves it."""

    id: str
    method: str
    namespace: str | None
    version: str
    """As requested."""
    caller: Caller | None
    deadline: float
    """In loop time; infinite for a cast."""

    @property
    def remaining(self) -> float:
        """Seconds until nobody waits for the answer any more; calls that the method makes get no longer either."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


served: ContextVar[Call | None] = ContextVar("asyncmgr call", default=None)
"""The call that the present code serves."""

speaking_as: ContextVar[Caller] = ContextVar("asyncmgr caller")
"""Whose code this is, for the calls that it makes."""


def current_call() -> Call:
    """The call that is being served: its caller, deadline and version.

    Raises
    ------
    RpcError
        This is not code that serves a call.
    """
    call = served.get()
    if call is None:
        raise RpcError("no call is being served here; current_call() is for methods with @rpc")
    return call


def remaining_time() -> float:
    """Seconds that the call being served has left; infinite where there is none."""
    call = served.get()
    return math.inf if call is None else call.remaining
