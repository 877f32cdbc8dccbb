"""Holds the current call and its caller, for the code of a method that serves a call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from asyncmgr.errors import RpcError


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call. The caller says this itself; nothing proves it."""

    service: str | None
    """`None` for a program that is not a service."""
    host: str


@dataclass(frozen=True, slots=True)
class Call:
    """The call that the current method serves."""

    id: str
    method: str
    namespace: str | None
    version: str
    """The version that the caller asked for."""
    caller: Caller | None
    deadline: float
    """In loop time; infinite for a cast."""
    through: tuple[str, ...] = ()
    """The services that wait for this call, each in a call of its own; the first caller comes first."""
    trace: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The trace that the caller is part of, as ``traceparent`` and ``tracestate``; empty = it said none."""

    @property
    def remaining(self) -> float:
        """Seconds until nobody waits for the answer any more. Calls that the method makes get at most this long."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


served: ContextVar[Call | None] = ContextVar("asyncmgr call", default=None)
"""The call that the current code serves."""


speaking_as: ContextVar[Caller] = ContextVar("asyncmgr caller")
"""The service and host that the current code belongs to; calls name it as their caller."""


def current_call() -> Call:
    """Return the call that is being served, with its caller, deadline and version.

    Raises
    ------
    RpcError
        The current code does not serve a call.
    """
    call = served.get()
    if call is None:
        raise RpcError("no call is being served here; current_call() is for methods with @rpc")
    return call


def callers_here() -> tuple[str, ...]:
    """List the services that will wait for a call made here: those of the call being served, and this one."""
    call, speaker = served.get(), speaking_as.get(None)
    if call is None or speaker is None or speaker.service is None:
        return ()
    return (*call.through, speaker.service)


def remaining_time() -> float:
    """Seconds that the call being served has left; infinite if no call is being served."""
    call = served.get()
    return math.inf if call is None else call.remaining
