"""One call from its request to its reply, on the host that serves it."""

from __future__ import annotations

import asyncio
import enum
import math
from typing import Any, Literal, TypeAlias

from asyncmgr._common.heap import NO_PLACE, Place
from asyncmgr._common.safe_text import printable
from asyncmgr._rpc.context import Call, Caller
from asyncmgr._rpc.messages import Request
from asyncmgr._rpc.validation import Method
from asyncmgr.errors import AsyncmgrError, RpcError, TaskFailed, TransportError

_SHOWN = 80
"""Characters of a caller's name that the log shows."""

Cause: TypeAlias = Literal["withdrawn", "stopping", "timed_out"]
"""Why a call is cancelled: its caller withdrew it, the service stops, or its deadline passed."""


class Needs(enum.Enum):
    """What a call needs before it may begin."""

    PLACE = enum.auto()
    """One of the service's places."""
    NESTED = enum.auto()
    """No place: another call of this service waits for this one, and already holds a place."""
    NOTHING = enum.auto()
    """Nothing: it calls the service's own interface, which answers on a busy host too."""


class ServedCall:
    """A call that was admitted.

    Parameters
    ----------
    arrived
        In loop time. The caller's timeout counts from this moment.
    """

    __slots__ = (
        "arguments",
        "begun",
        "cause",
        "facts",
        "failed",
        "future",
        "method",
        "needs",
        "place",
        "refused",
        "reply_to",
    )

    def __init__(
        self,
        request: Request,
        method: Method,
        arguments: dict[str, Any],
        *,
        arrived: float,
        needs: Needs,
        reply_to: str | None,
    ) -> None:
        timeout = math.inf if request.timeout is None else request.timeout
        self.failed = False
        """Whether the method raised, or the deadline passed."""
        self.refused = False
        """Whether the service's own interface said no to what the caller asks for."""
        self.facts: Call = Call(
            request.id,
            request.method,
            request.namespace,
            request.version,
            request.caller,
            deadline=arrived + timeout,
            through=request.through,
            trace=request.trace,
        )
        self.arguments: dict[str, Any] = arguments
        self.method: Method = method
        self.needs: Needs = needs
        self.reply_to: str | None = reply_to
        self.future: asyncio.Task[None] | None = None
        """`None` while the call waits for a place."""
        self.begun: bool = False
        """Whether the task has run its first step."""
        self.place: Place | None = NO_PLACE
        """That of its deadline."""
        self.cause: Cause | None = None

    @property
    def full_name(self) -> str:
        """The name of the method as ``manager.method``."""
        return self.method.name

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that log lines about this call carry."""
        return {
            "method": self.full_name,
            "id": printable(self.facts.id),
            "caller": in_words(self.facts.caller),
        }


def is_refusal(error: BaseException) -> bool:
    """Whether the error says no to the caller, as `AlreadyRunning` or an unknown task; not that something broke."""
    return isinstance(error, AsyncmgrError) and not isinstance(error, TransportError | RpcError | TaskFailed)


def in_words(caller: Caller | None) -> str | None:
    """Name a caller for people, as it named itself."""
    if caller is None:
        return None
    return printable(f"{(caller.service or '-')[:_SHOWN]}/{caller.host[:_SHOWN]}", 2 * _SHOWN + 1)
