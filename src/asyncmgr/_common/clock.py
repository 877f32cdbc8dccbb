"""Reads the time that schedules follow. No other module reads the wall clock: they get moments as arguments.

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
"""Microseconds. A wall clock that moves further than this against the loop's clock was stepped (contract 3)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(seconds: float | timedelta) -> int:
    """Convert seconds to microseconds, rounded to the nearest: 0.29 s is 290,000 and not 289,999."""
    if isinstance(seconds, timedelta):
        return seconds // timedelta(microseconds=1)
    return round(seconds * SECOND)


def to_datetime(wall: int) -> datetime:
    """Convert a wall-clock instant in microseconds since 1970 to an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=wall)


def read_asleep() -> int:
    """Read how long the machine has slept since it was booted, microseconds; 0 where the system does not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0
    slept = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return slept // 1000


def read_wall() -> int:
    """Read the wall clock in microseconds since 1970; rounded, since fakes shift it by floats."""
    return (time.time_ns() + 500) // 1000


class Moment(NamedTuple):
    """One reading of a clock.

    `now` is scheduling time in microseconds; it never goes back, and its zero is arbitrary. `wall` is microseconds
    since 1970.
    """

    now: int
    wall: int


class Clock(Protocol):
    """The source of a scheduler's time."""

    def read(self) -> Moment:
        """Read the present moment; `now` is never less than at the previous reading."""
        ...  # pragma: no cover


class WallClock:
    """Scheduling time outside a service: it advances with the wall, and stands still while the wall goes back.

    A test that freezes or shifts `datetime.now()` therefore drives a pass exactly, and a clock that is set back by an
    hour repeats no run.
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
    """An event loop that moves the wall clock itself, as virtual time does; nothing else can step it meanwhile."""

    @property
    def moves_wall(self) -> bool:
        """Whether the loop moves the wall now. False while something else sets the wall, such as a test's `travel`."""
        ...  # pragma: no cover

    def add_wall_listener(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call `listener` in the loop at each change of `moves_wall`; return a function that removes the listener."""
        ...  # pragma: no cover


@runtime_checkable
class ShowsClocks(Protocol):
    """An event loop that has clocks of its own for the host whose code runs now, as a simulated cluster has.

    No real time passes there, and no other thread may take part: no run of a simulation would repeat.
    """

    def clock_readings(self) -> tuple[float, float, float]:
        """Return monotonic, boot-time and wall clock of this host, in seconds."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Step:
    """A jump of the wall clock against the loop's clock."""

    kind: Literal["forward", "back", "stopped"]
    """`forward`: the wall was set forward, or the machine slept. `back`: it was set back. `stopped`: it stands."""
    seconds: float
    """The size of the jump, always positive; for `stopped` how long the wall has stood still so far."""
    is_sleep: bool = False
    """Whether the machine slept meanwhile, for most of a jump forward."""


class LoopClock:
    """Scheduling time under a service: the loop's time plus the jumps that the wall made ahead of it (contract 3).

    `time.monotonic` stands still while a machine sleeps (Linux) and never follows a clock that is set. This clock adds
    a jump forward, so that a task which became due meanwhile runs, once. After the wall was set back or stood still, a
    jump forward that only undoes this adds nothing: else the same time would count twice. This has a price: if the
    wall was set back by an hour for good, the clock misses the first hour of later suspends.

    `notice_steps` finds the jumps. The lookout calls it at each wake-up, at least every `check` microseconds, and when
    the listener of `follow` is called. A change of up to `JUMP` between two looks is the slewing of a clock and does
    not count: small corrections over years never add up to time that a suspend would lack.
    """

    CHECK = 9 * SECOND
    """Microseconds between two looks at the wall: the service notices a jump within 10 s."""

    SELDOM = 24 * 3600 * SECOND
    """Microseconds between two looks where the loop moves the wall itself and reports when it stops doing so."""

    __slots__ = (
        "_asleep_seen",
        "_behind",
        "_loop",
        "_loop_seen",
        "_mover",
        "_skipped",
        "_stopped",
        "_wall_seen",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Checked once and not at each look: the runner looks whenever it wakes, and this check is slow.
        self._mover = loop if isinstance(loop, MovesWall) else None
        self._skipped = 0
        self._behind = 0
        """Microseconds that the wall has fallen behind since it was furthest ahead of the loop; never negative."""
        self._stopped = False
        self._loop_seen = to_us(loop.time())
        self._wall_seen = read_wall()
        self._asleep_seen = read_asleep()

    def read(self) -> Moment:
        return Moment(to_us(self._loop.time()) + self._skipped, read_wall())

    @property
    def check(self) -> int:
        """Microseconds until the next look at the wall is due. An idle day in virtual time costs one look."""
        return self.SELDOM if self._mover is not None and self._mover.moves_wall else self.CHECK

    def follow(self, look: Callable[[], object]) -> Callable[[], None]:
        """Call `look` when the wall may have been stepped between two looks; return a function that ends this."""
        return _nothing if self._mover is None else self._mover.add_wall_listener(look)

    def loop_time(self, now: int) -> float:
        """Convert scheduling time `now` (microseconds) to the loop's own time (seconds)."""
        return (now - self._skipped) / SECOND

    def notice_steps(self) -> Step | None:
        """Compare how far wall and loop moved since the last look; add a forward jump to scheduling time."""
        loop, wall = to_us(self._loop.time()), read_wall()
        elapsed, moved = loop - self._loop_seen, wall - self._wall_seen
        if abs(moved - elapsed) <= JUMP:
            # A wall that has not moved stays the reference. Else frequent looks would never see that it stands still.
            if moved:
                self._loop_seen, self._wall_seen, self._stopped = loop, wall, False
            return None
        if moved == 0:
            return self._stands_still(elapsed)
        self._loop_seen, self._wall_seen, self._stopped = loop, wall, False
        jump = moved - elapsed
        self._take(jump)
        if jump < 0:
            return Step("back", -jump / SECOND)
        asleep_before, self._asleep_seen = self._asleep_seen, read_asleep()
        return Step("forward", jump / SECOND, is_sleep=2 * (self._asleep_seen - asleep_before) >= jump)

    def _take(self, jump: int) -> None:
        ahead = jump - self._behind
        self._skipped += max(0, ahead)
        self._behind = max(0, -ahead)

    def _stands_still(self, elapsed: int) -> Step | None:
        # From now on the loop's reference moves along while the wall's stays. So a later jump is measured against the
        # stopped wall, and not against a wall that should have moved.
        self._loop_seen += elapsed
        self._take(-elapsed)
        if self._stopped:
            return None
        self._stopped = True
        return Step("stopped", elapsed / SECOND)


def _nothing() -> None:
    """Do nothing: `follow` returns this where it added no listener."""
