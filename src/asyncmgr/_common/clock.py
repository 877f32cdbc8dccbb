"""The time that schedules. The only module that reads the wall clock; everything below gets moments handed in.

Instants are integers in microseconds, so that the edge of a window is exact.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Protocol, runtime_checkable

SECOND = 1_000_000
"""Microseconds in a second."""

JUMP = 1 * SECOND
"""A wall clock that moved by more than this against the loop's clock was stepped (contract 3)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(seconds: float | timedelta) -> int:
    """Microseconds, rounded to the nearest: 0.29 s is 290,000 and not 289,999."""
    if isinstance(seconds, timedelta):
        return seconds // timedelta(microseconds=1)
    return round(seconds * SECOND)


def to_datetime(wall: int) -> datetime:
    """The aware UTC datetime of a wall-clock instant in microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=wall)


def read_wall() -> int:
    """The wall clock, microseconds since 1970; rounded, since fakes shift it by floats."""
    return (time.time_ns() + 500) // 1000


class Moment(NamedTuple):
    """One reading of a clock.

    `now` is scheduling time, which never goes back; its zero means nothing. `wall` is microseconds since 1970.
    """

    now: int
    wall: int


class Clock(Protocol):
    """What a scheduler reads its time from."""

    def read(self) -> Moment:
        """The present moment; `now` is never less than at the previous reading."""
        ...  # pragma: no cover


class WallClock:
    """Scheduling time outside a service: it advances as the wall does and stands still while the wall goes back.

    So a frozen or shifted `datetime.now()` drives a pass exactly, and a clock set back an hour repeats nothing.
    """

    __slots__ = ("_now", "_wall")

    def __init__(self) -> None:
        self._now = 0
        self._wall = read_wall()

    def read(self) -> Moment:
        wall = read_wall()
        self._now += max(0, wall - self._wall)
        self._wall = wall
        return Moment(self._now, wall)


@runtime_checkable
class MovesWall(Protocol):
    """An event loop that moves the wall clock itself, as virtual time does: between two looks nothing can step it."""

    @property
    def moves_wall(self) -> bool:
        """Whether it does so now; not while something else shows another wall, as a test's own `travel`."""
        ...  # pragma: no cover

    def add_wall_listener(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have `listener` called in the loop at each change of `moves_wall`; returns what removes it."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Step:
    """A jump of the wall clock against the loop's clock."""

    kind: Literal["forward", "back", "stopped"]
    """`forward`: set forward, or the machine was suspended. `back`: set back. `stopped`: it stands still."""
    seconds: float
    """By how much, always positive; for `stopped` how long it has stood still so far."""


class LoopClock:
    """Scheduling time under a service: the loop's own time plus what the wall has jumped ahead of it (contract 3).

    `time.monotonic` stands still while a machine sleeps (Linux) and never follows a clock that is set; a jump forward
    is added so that what became due meanwhile runs, once. A wall that was set back, or stood still, has to make up for
    that first: a jump that only undoes it adds nothing, else the time that it undoes would be counted twice. The
    price is known: if the wall was set back by an hour for good, the first hour of later suspends is not made up for.

    A jump is found when `notice_steps` is called, which the runner does at each wake-up, at least every `check`
    microseconds, and when `follow` says so. Changes of up to `JUMP` between two looks are the slewing of a clock, and
    count neither way: small corrections of years never add up to time that a suspend would lack.
    """

    CHECK = 9 * SECOND
    """Microseconds between two looks at the wall: jumps are noticed within 10 s."""

    SELDOM = 24 * 3600 * SECOND
    """The same where the loop itself moves the wall, and tells when it no longer does."""

    __slots__ = ("_behind", "_loop", "_loop_seen", "_mover", "_skipped", "_stopped", "_wall_seen")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Asked once: there is a look each time that the runner wakes.
        self._mover = loop if isinstance(loop, MovesWall) else None
        self._skipped = 0
        self._behind = 0
        """How far the wall has fallen behind since it was furthest ahead of the loop; never negative."""
        self._stopped = False
        self._loop_seen = to_us(loop.time())
        self._wall_seen = read_wall()

    def read(self) -> Moment:
        return Moment(to_us(self._loop.time()) + self._skipped, read_wall())

    @property
    def check(self) -> int:
        """Microseconds within which the wall is to be looked at again: an idle day in virtual time costs one look."""
        return self.SELDOM if self._mover is not None and self._mover.moves_wall else self.CHECK

    def follow(self, look: Callable[[], object]) -> Callable[[], None]:
        """Have `look` called when the wall may have been stepped between two looks; returns what ends that."""
        return _nothing if self._mover is None else self._mover.add_wall_listener(look)

    def loop_time(self, now: int) -> float:
        """The time of the loop, in its seconds, at which scheduling time will be `now`."""
        return (now - self._skipped) / SECOND

    def notice_steps(self) -> Step | None:
        """Compare the wall with the loop since the last look; takes a forward jump into scheduling time."""
        loop, wall = to_us(self._loop.time()), read_wall()
        elapsed, moved = loop - self._loop_seen, wall - self._wall_seen
        if abs(moved - elapsed) <= JUMP:
            # A wall that has not moved stays the reference, so that it is seen to stand still however often it is read.
            if moved:
                self._loop_seen, self._wall_seen, self._stopped = loop, wall, False
            return None
        if moved == 0:
            return self._stands_still(elapsed)
        self._loop_seen, self._wall_seen, self._stopped = loop, wall, False
        jump = moved - elapsed
        self._take(jump)
        return Step("forward" if jump > 0 else "back", abs(jump) / SECOND)

    def _take(self, jump: int) -> None:
        ahead = jump - self._behind
        self._skipped += max(0, ahead)
        self._behind = max(0, -ahead)

    def _stands_still(self, elapsed: int) -> Step | None:
        # The reference stays where the wall stopped only until this is reported; it then follows the loop, so that
        # a later jump is measured against the stopped wall and not against a wall that should have moved.
        self._loop_seen += elapsed
        self._take(-elapsed)
        if self._stopped:
            return None
        self._stopped = True
        return Step("stopped", elapsed / SECOND)


def _nothing() -> None:
    """Stand where there is nothing to undo."""
