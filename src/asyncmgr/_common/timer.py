"""A timer of the event loop that can be moved and that knows its moment."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable


class Timer:
    """Calls `callback` once at a moment in loop time; it can then be set again.

    Without a `loop` it uses the loop that runs when it is set. It keeps the moment itself, because uvloop's handle has
    no `when` for a moment that has passed or is less than half a millisecond away.
    """

    __slots__ = ("_callback", "_context", "_handle", "_loop", "rang_for", "when")

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
        """The moment in loop time, seconds; infinite while the timer is not set."""
        self.rang_for: float = math.inf
        """The moment for which it called back last; infinite before the first time."""

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, when: float) -> None:
        """Call back at `when` (loop time, seconds), and no more at an earlier setting."""
        # The new handle first: where `call_at` raises, the owner keeps its old one.
        before, loop = self._handle, self._loop or asyncio.get_running_loop()
        self._handle = loop.call_at(when, self._ring, context=self._context)
        self.when = when
        if before is not None:
            before.cancel()

    def set_by(self, when: float) -> None:
        """Call back at `when`, unless the timer is set for an earlier moment."""
        if when < self.when:
            self.set(when)

    def drop(self) -> None:
        """Unset the timer: it does not call back."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self.when = None, math.inf

    def _ring(self) -> None:
        self.rang_for = self.when
        self._handle, self.when = None, math.inf
        self._callback()
