"""Says when hosts may be judged by their age: once all that has arrived was read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

LATE = 0.1
"""Seconds by which a timer is late where the loop was blocked, or the process stood still."""

CATCH_UP = 1.0
"""Seconds for a reader that was late to read what has arrived meanwhile."""

QUIET_TURNS = 5
"""Turns of the loop without a change, after which all is read that had arrived."""


class Ageing:
    """A timer that lets what has arrived be read before it calls `judge`.

    Parameters
    ----------
    judge
        Is called with the loop's time; returns the loop time of the next call, at the earliest.
    """

    def __init__(self, judge: Callable[[float], float]) -> None:
        self._judge = judge
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None
        self._read = 0
        self._not_before = -math.inf

    def plan(self, when: float) -> None:
        """Judge at `when`, unless an earlier time is planned already."""
        if self._turn is not None or when == math.inf:
            return
        when = max(when, self._not_before)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._wait_until_read)

    def note_read(self, age: float) -> None:
        """A change was read, which had been written `age` seconds before: one that is old shows that more waits."""
        self._read += 1
        if age > CATCH_UP:
            self._not_before = self._loop.time() + CATCH_UP

    def stop(self) -> None:
        for handle in (self._timer, self._turn):
            if handle is not None:
                handle.cancel()
        self._timer = self._turn = None

    def _wait_until_read(self) -> None:
        assert self._timer is not None
        now, planned = self._loop.time(), self._timer.when()
        self._timer = None
        if now - planned > LATE:
            self._not_before = now + CATCH_UP
        if now < self._not_before:
            self.plan(self._not_before)
        else:
            self._take_turn(QUIET_TURNS, self._read)

    def _take_turn(self, left: int, read: int) -> None:
        if read != self._read:
            left, read = QUIET_TURNS, self._read
        if left:
            self._turn = self._loop.call_soon(self._take_turn, left - 1, read)
            return
        self._turn = None
        self.plan(self._judge(self._loop.time()))
