"""Ends the work of a stopping service: lets runs and calls end, cancels the rest, and reports those that still go on.

A run or call is a piece of work; the runner and the server of calls are the two works that have pieces.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

CANCEL_GRACE = 5.0
"""Seconds from the cancellation of runs and calls to the report of those that still go on."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """How the runs and calls ended that were in progress when a stop began.

    Each field lists full names of tasks and methods in alphabetical order, one for each run and call.
    """

    drained: tuple[str, ...] = ()
    """These ended by themselves in time."""
    cancelled: tuple[str, ...] = ()
    """These ended when they were cancelled."""
    leaked: tuple[str, ...] = ()
    """These go on although they were cancelled."""
    duration: float = 0.0
    """Seconds from the first request to stop to the end of the stop."""
    failed: tuple[str, ...] = ()
    """These ended as `failed` or `timed_out`; each is in one of the three lists above too."""

    def counts(self) -> dict[str, int]:
        """Count the names in each list, by the list's name."""
        return {
            "drained": len(self.drained),
            "cancelled": len(self.cancelled),
            "leaked": len(self.leaked),
            "failed": len(self.failed),
        }


@dataclass(frozen=True, slots=True)
class Pending:
    """The runs and calls in progress in a service."""

    runs: tuple[tuple[str, float], ...]
    """Full names of tasks with the seconds since the run began, the oldest first."""
    calls: tuple[str, ...]
    """Full names of methods, in alphabetical order."""
    seconds: float
    """Seconds from now until they are cancelled; infinite while no stop has begun."""


class Piece(Protocol):
    """One run or call."""

    @property
    def full_name(self) -> str: ...  # pragma: no cover
    @property
    def future(self) -> asyncio.Future[None] | None: ...  # pragma: no cover
    @property
    def failed(self) -> bool: ...  # pragma: no cover


class Work(Protocol):
    """A part of the service that has runs or calls in progress: the runner, or the server of calls."""

    @property
    def waiting(self) -> frozenset[Any]: ...  # pragma: no cover
    def cancel(self, pieces: Iterable[Any], /) -> None: ...  # pragma: no cover
    def give_up(self) -> frozenset[Any]: ...  # pragma: no cover


class Drain:
    """Ends all runs and calls of one service. Call `meet`, `wait`, `cancel` and `report`, in this order."""

    def __init__(self) -> None:
        self._until = math.inf
        self._limit: asyncio.Timeout | None = None
        self._works: dict[Work, None] = {}
        self._met: set[Piece] = set()
        self._left: frozenset[Piece] = frozenset()
        self._leaked: frozenset[Piece] = frozenset()

    def limit(self, seconds: float) -> None:
        """Let runs and calls go on for `seconds` from now; a limit that ends earlier stays."""
        until = asyncio.get_running_loop().time() + max(0.0, seconds)
        if until < self._until:
            self._until = until
            if self._limit is not None:
                self._limit.reschedule(until)

    def meet(self, work: Work) -> None:
        """Drain this work too: note the runs or calls that it has in progress now."""
        self._works[work] = None
        self._met |= work.waiting

    async def wait(self) -> None:
        """Wait until runs and calls have ended by themselves, or until the limit."""
        try:
            async with asyncio.timeout_at(self._until) as self._limit:
                while tasks := _tasks(self._in_progress()):
                    await asyncio.wait(tasks)
        except TimeoutError:
            pass
        finally:
            self._limit = None

    async def cancel(self) -> None:
        """Cancel the runs and calls that are left, and wait up to `CANCEL_GRACE` seconds for their end."""
        self._left = self._in_progress()
        for work in self._works:
            work.cancel(work.waiting)
        try:
            if tasks := _tasks(self._left):
                await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        finally:
            self._leaked = frozenset[Piece]().union(*(work.give_up() for work in self._works))

    def pending(self, *, runs: Work | None, calls: Work | None) -> Pending:
        """List the runs and calls in progress there, and how long they may go on."""
        now = asyncio.get_running_loop().time()
        ages = [(run.full_name, now - run.started) for run in (runs.waiting if runs else ())]
        names = sorted(call.full_name for call in (calls.waiting if calls else ()))
        return Pending(
            tuple(sorted(ages, key=itemgetter(1), reverse=True)), tuple(names), max(0.0, self._until - now)
        )

    def report(self, duration: float) -> StopReport:
        """Report how all runs and calls that `meet` noted have ended."""
        return StopReport(
            _names(self._met - self._left),
            _names(self._left - self._leaked),
            _names(self._leaked),
            duration,
            _names(piece for piece in self._met if piece.failed),
        )

    def _in_progress(self) -> frozenset[Piece]:
        return frozenset[Piece]().union(*(work.waiting for work in self._works))


def _tasks(pieces: Iterable[Piece]) -> set[asyncio.Future[None]]:
    return {piece.future for piece in pieces if piece.future is not None}


def _names(pieces: Iterable[Piece]) -> tuple[str, ...]:
    return tuple(sorted(piece.full_name for piece in pieces))
