"""Decides when hosts may be judged by their age: once the reader has read all that has arrived."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from asyncmgr._common.timer import Timer

LATE = 0.5
"""Seconds: a timer that is later than this shows that the loop was blocked, or the process stood still."""

CATCH_UP = 1.0
"""Seconds that a reader gets to read what arrived while it stood still."""

QUIET_TURNS = 5
"""Turns of the loop: if none of them brings a change, the reader has read all that has arrived."""


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
        self._timer = Timer(self._wait_until_read, loop=self._loop)
        self._planned = math.inf
        self._turn: asyncio.Handle | None = None
        self._read = 0
        self._not_before = -math.inf

    def plan(self, when: float) -> None:
        """Judge at `when`, unless an earlier time is planned already."""
        if self._turn is not None or when == math.inf:
            return
        when = max(when, self._not_before)
        self._timer.set_by(when)
        self._planned = self._timer.when

    def note_read(self, age: float) -> None:
        """Note that a change was read, `age` seconds after it was written: an old one shows that more of them wait."""
        self._read += 1
        if age > CATCH_UP:
            self._not_before = self._loop.time() + CATCH_UP

    def stop(self) -> None:
        self._timer.drop()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _wait_until_read(self) -> None:
        now = self._loop.time()
        if now - self._planned > LATE:
            self._not_before = now + CATCH_UP
        if now < self._not_before:
            self.plan(self._not_before)
        else:
            self._take_turn(QUIET_TURNS, self._read, now + CATCH_UP)

    def _take_turn(self, left: int, read: int, until: float) -> None:
        if read != self._read:
            left, read = QUIET_TURNS, self._read
        if left and self._loop.time() < until:  # changes that never end do not put it off for ever
            self._turn = self._loop.call_soon(self._take_turn, left - 1, read, until)
            return
        self._turn = None
        self.plan(self._judge(self._loop.time()))
