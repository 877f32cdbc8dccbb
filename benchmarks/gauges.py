"""The instruments inside a measured process: CPU, wake-ups, memory, and the speed of the machine meanwhile."""

from __future__ import annotations

import asyncio
import os
import resource
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

REFERENCE = 100_000
"""Nanoseconds: CPU times are given at the speed at which a slice of the calibration loop takes this long."""

SLICE_EVERY = 0.1
"""Seconds between two slices in a window."""

SAMPLE_EVERY = 0.005
"""Seconds between two looks at a counter that rises in steps."""


class Calibration:
    """A fixed loop of plain Python, timed in slices: it tells how fast the machine is at this moment."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._slices: list[int] = []
        self.spent = 0
        """CPU of the slices themselves, nanoseconds."""

    def slice(self) -> None:
        """Time the loop once. It runs once before, so that neither a cold cache nor a sleeping core is timed."""
        began = time.process_time_ns()
        _spin()
        warm = time.process_time_ns()
        _spin()
        ended = time.process_time_ns()
        self._slices.append(ended - warm)
        self.spent += ended - began

    @property
    def speed(self) -> float:
        """The machine's speed in multiples of the reference.

        By the mean of the slices: a core that was fast for half of the window has done half of the work fast.
        """
        return REFERENCE / fmean(self._slices)


class _Wheel:
    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = 0

    def turn(self, by: int) -> None:
        self.place = (self.place + by) & 255


def _spin() -> None:
    """What schedulers are made of: method calls, attributes, small integers."""
    wheel = _Wheel()
    for number in range(1000):
        wheel.turn(number & 7)


class WatchedSelector(selectors.DefaultSelector):
    """The event loop's own selector, which sees each wake-up of the process.

    Slices of the calibration loop ride on wake-ups that happen anyway: a timer of their own would add wake-ups, which
    are the dearest thing that is measured here.
    """

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.wakeups = 0
        """Waits that ended: a call with a timeout of 0 is a turn of the loop, not a wait."""
        self.next_slice = float("inf")
        self._calibration = calibration

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout)
        if timeout is None or timeout > 0:
            self.wakeups += 1
        if time.monotonic() >= self.next_slice:
            self.next_slice += SLICE_EVERY
            self._calibration.slice()
        return events


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in a stretch of time."""

    began: float
    """Loop time."""
    ended: float
    cpu: float
    """Seconds as measured, without the calibration's own."""
    speed: float
    wakeups: int
    switches: int
    """Voluntary context switches."""
    starved: float
    """Seconds for which it could have run and another process had the core."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def scaled_cpu(self) -> float:
        """Seconds of CPU at the reference speed."""
        return self.cpu * self.speed


class Mark(NamedTuple):
    """The mean of many looks at the clock and at a counter: one point on the line through a counter's steps."""

    at: float
    """Loop time."""
    level: float


class Gauges:
    """All instruments of one process. Its loop is made here, because one of them sits inside the loop."""

    def __init__(self) -> None:
        self.calibration = Calibration()
        self._selector = WatchedSelector(self.calibration)

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(self._selector)

    def make_uvloop(self) -> asyncio.AbstractEventLoop:
        """A loop that counts no wake-ups and is calibrated only at the two ends of a window."""
        import uvloop

        return uvloop.new_event_loop()

    async def observe(self, seconds: float) -> Window:
        """Let the process do what it does, and tell what it took."""
        loop = asyncio.get_running_loop()
        self.calibration.restart()
        self.calibration.slice()
        before, began, own = self._read(), loop.time(), self.calibration.spent
        self._selector.next_slice = time.monotonic() + SLICE_EVERY
        await asyncio.sleep(seconds)
        self._selector.next_slice = float("inf")
        after, ended, own = self._read(), loop.time(), self.calibration.spent - own
        self.calibration.slice()
        return Window(
            began=began,
            ended=ended,
            cpu=(after.cpu - before.cpu - own) / 1e9,
            speed=self.calibration.speed,
            wakeups=after.wakeups - before.wakeups,
            switches=after.switches - before.switches,
            starved=(after.starved - before.starved) / 1e9,
        )

    def _read(self) -> _Reading:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return _Reading(time.process_time_ns(), self._selector.wakeups, usage.ru_nvcsw, _starved())


class _Reading(NamedTuple):
    cpu: int
    wakeups: int
    switches: int
    starved: int


def _starved() -> int:
    """Nanoseconds that this process has waited for a core; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0


class Stopwatch:
    """CPU of a stretch of code in microseconds at the reference speed, with a slice before and after it.

    A long stretch calls `slice` now and then in between; that is left out of it.
    """

    def __enter__(self) -> Stopwatch:
        self._calibration = Calibration()
        self.slice = self._calibration.slice
        self.slice()
        self._began = time.process_time_ns() - self._calibration.spent
        return self

    def __exit__(self, *exc: object) -> None:
        raw = time.process_time_ns() - self._began - self._calibration.spent
        self.slice()
        self.us = raw / 1000 * self._calibration.speed


async def mark(count: Callable[[], int], seconds: float) -> Mark:
    """Where a counter stands, if it rose evenly: a batch of runs raises it in a step, wherever in it we look."""
    loop = asyncio.get_running_loop()
    samples = []
    end = loop.time() + seconds
    while (now := loop.time()) < end:
        samples.append((now, count()))
        await asyncio.sleep(SAMPLE_EVERY)
    return Mark(*map(fmean, zip(*samples, strict=True)))


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
