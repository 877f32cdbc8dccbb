"""The clocks of one simulated machine, and the states of a process on it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from asyncmgr.testing.simulation._timeline import SECOND


@dataclass(slots=True)
class Clocks:
    """The clocks of one machine. They run at one rate; the wall can be set, and monotonic time stands in a suspend."""

    rate: float = 1.0
    """Seconds of this machine that pass in one real second."""
    uptime: float = 0.0
    """Seconds on its boot-time clock at real time zero."""
    wall: int = 0
    """Microseconds since 1970 on its wall clock at real time zero, plus all steps since."""
    slept: float = 0.0
    """Seconds for which it was suspended: what monotonic time lacks against boot time."""
    asleep_since: float | None = None
    """Boot time at which the present suspend began; `None` = it is not suspended."""

    def boot_time(self, now: int) -> float:
        """Seconds since the machine was started, suspends included."""
        return self.uptime + now * self.rate / SECOND

    def monotonic(self, now: int) -> float:
        """Seconds since the machine was started, without suspends."""
        # As `boot_time`, whose call would cost as much: this is asked at every step.
        boot = self.uptime + now * self.rate / SECOND if self.asleep_since is None else self.asleep_since
        return boot - self.slept

    def wall_time(self, now: int) -> int:
        """Microseconds since 1970, as this machine believes."""
        return self.wall + int(now * self.rate)

    def read(self, now: int) -> tuple[float, float, float]:
        """Return monotonic, boot-time and wall clock, in seconds."""
        passed = now * self.rate
        boot = self.uptime + passed / SECOND
        monotonic = boot if self.asleep_since is None else self.asleep_since
        return monotonic - self.slept, boot, (self.wall + int(passed)) / SECOND

    def moment_of(self, monotonic: float) -> int:
        """Return the first real moment at which `monotonic` has passed, provided that no suspend comes in between."""
        uptime, slept, rate = self.uptime, self.slept, self.rate
        moment = int((monotonic + slept - uptime) / rate * SECOND)
        while uptime + moment * rate / SECOND - slept < monotonic:
            moment += 1
        return moment

    def suspend(self, now: int) -> None:
        self.asleep_since = self.boot_time(now)

    def resume(self, now: int) -> None:
        if self.asleep_since is not None:
            self.slept += self.boot_time(now) - self.asleep_since
            self.asleep_since = None


class State(enum.Enum):
    """What a process does with its turns."""

    UP = enum.auto()
    """It takes them."""
    PAUSED = enum.auto()
    """It takes them once it goes on."""
    DEAD = enum.auto()
    """It drops them."""
