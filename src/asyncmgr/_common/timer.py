"""A timer of the loop that can be moved, and knows for when it is set."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable


class Timer:
    """Calls back once at a moment in loop time, until it is set again. Without a `loop` it takes the running one then.

    It keeps the moment itself: for one that has come already, or is less than half a millisecond away, uvloop gives a
    handle that has no `when`.
    """

    __slots__ = ("_callback", "_context", "_handle", "_loop", "when")

    def __init__(
        self,
        callback: Callable[[], object],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._callback = callback
        self._loop = loop
        self._context = context
        self._handle: asyncio.Handle | None = None
        self.when: float = math.inf
        """Loop time; infinite while it is not set."""

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, when: float) -> None:
        """Call back at `when` and at no other time."""
        # The new one first: a call that fails must not leave its owner without a timer.
        before, loop = self._handle, self._loop or asyncio.get_running_loop()
        self._handle = loop.call_at(when, self._ring, context=self._context)
        self.when = when
        if before is not None:
            before.cancel()

    def set_by(self, when: float) -> None:
        """Call back at `when`, unless it is set for an earlier moment."""
        if when < self.when:
            self.set(when)

    def drop(self) -> None:
        """Do not call back."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self.when = None, math.inf

    def _ring(self) -> None:
        self._handle, self.when = None, math.inf
        self._callback()
