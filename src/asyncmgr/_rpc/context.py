"""Who speaks, and what a method may know of the call that it serves."""

from __future__ import annotations

import asyncio
import math
from contextvars import ContextVar
from dataclasses import dataclass

from asyncmgr.errors import RpcError


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
    through: tuple[str, ...] = ()
    """The services that wait for this call, each in a call of its own, the first caller's first."""

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


def way_here() -> tuple[str, ...]:
    """The services that wait for what the present code calls: those of the call being served, and this one."""
    call, speaker = served.get(), speaking_as.get(None)
    if call is None or speaker is None or speaker.service is None:
        return ()
    return (*call.through, speaker.service)


def remaining_time() -> float:
    """Seconds that the call being served has left; infinite where there is none."""
    call = served.get()
    return math.inf if call is None else call.remaining
