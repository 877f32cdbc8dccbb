"""`HostClock`: reads the clocks of this host, or those that the running loop shows in their place.

In virtual time no real clock may be read, or no run of a simulation would repeat: there the loop's time and the wall
that it moves are all. A loop that plays several hosts shows each its own clocks (`ShowsClocks`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from asyncmgr._common.clock import SECOND, MovesWall, ShowsClocks, read_wall
from asyncmgr._leases.rules import Readings, Rules


class HostClock:
    """The clocks of this host. An event loop must be running."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._read = _reader(asyncio.get_running_loop())

    def read(self) -> Readings:
        """Read all clocks now."""
        return self._read()

    def since(self, then: Readings) -> float:
        """Return the seconds that have passed since a reading: the most that any clock says."""
        return self._rules.elapsed(then, self._read())

    def observed(self) -> float:
        """Return the time by which the silence of others is measured, seconds."""
        return self._rules.observed_at(self._read())


def _reader(loop: asyncio.AbstractEventLoop) -> Callable[[], Readings]:
    if isinstance(loop, ShowsClocks):
        shown = loop.clock_readings
        return lambda: Readings(*shown())
    if isinstance(loop, MovesWall):
        return lambda: Readings(loop.time(), 0.0, read_wall() / SECOND)
    return lambda: Readings(loop.time(), _boot(), read_wall() / SECOND)


if hasattr(time, "CLOCK_BOOTTIME"):

    def _boot() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
else:

    def _boot() -> float:
        """MacOS and Windows: the monotonic clock of the one counts no sleep and that of the other does; take it."""
        return time.monotonic()
