"""Ends the runs that a stop meets: lets them end, cancels those that are left, reports those that go on even then."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass

from asyncmgr.runner import Runner, wait_for_runs
from asyncmgr.runs import Run

CANCEL_GRACE = 5.0
"""Seconds that cancelled runs and calls get to end before they are reported as leaked."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop did with the runs that it met. Full names of tasks in alphabetical order, one for each run."""

    drained: tuple[str, ...] = ()
    """Ended by themselves in time."""
    cancelled: tuple[str, ...] = ()
    """Ended when they were cancelled."""
    leaked: tuple[str, ...] = ()
    """Go on although they were cancelled."""
    duration: float = 0.0
    """Seconds from the first request to the end."""


class Drain:
    """The end of all runs of one service: `begin`, `wait`, `cancel`, `report`, in this order."""

    def __init__(self) -> None:
        self._until = math.inf
        self._limit: asyncio.Timeout | None = None
        self._met: frozenset[Run] = frozenset()
        self._left: frozenset[Run] = frozenset()
        self._leaked: frozenset[Run] = frozenset()

    def limit(self, seconds: float) -> None:
        """Let runs go on for so many seconds from now, or for as long as they had before if that is less."""
        until = asyncio.get_running_loop().time() + max(0.0, seconds)
        if until < self._until:
            self._until = until
            if self._limit is not None:
                self._limit.reschedule(until)

    def begin(self, runner: Runner) -> None:
        """Have no new run start."""
        runner.close()
        self._met = runner.waiting

    async def wait(self, runner: Runner) -> None:
        """Let those in progress end by themselves."""
        try:
            async with asyncio.timeout_at(self._until) as self._limit:
                await wait_for_runs(runner.waiting, None)
        except TimeoutError:
            pass
        finally:
            self._limit = None

    async def cancel(self, runner: Runner) -> None:
        """Cancel those that are left, and look for a while how they end."""
        self._left = runner.waiting
        runner.cancel(self._left)
        try:
            await wait_for_runs(self._left, CANCEL_GRACE)
        finally:
            self._leaked = runner.give_up()

    def report(self, duration: float) -> StopReport:
        """Say what became of them."""
        return StopReport(
            _names(self._met - self._left),
            _names(self._left - self._leaked),
            _names(self._leaked),
            duration,
        )


def _names(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(sorted(run.entry.full_name for run in runs))
