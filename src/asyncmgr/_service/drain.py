"""Ends the runs and calls that a stop meets: lets them end, cancels the rest, reports what goes on even then."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

CANCEL_GRACE = 5.0
"""Seconds that cancelled runs and calls get to end before they are reported as leaked."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop did with the runs and calls that it met.

    Full names of tasks and methods in alphabetical order, one for each run and call.
    """

    drained: tuple[str, ...] = ()
    """Ended by themselves in time."""
    cancelled: tuple[str, ...] = ()
    """Ended when they were cancelled."""
    leaked: tuple[str, ...] = ()
    """Go on although they were cancelled."""
    duration: float = 0.0
    """Seconds from the first request to the end."""
    failed: tuple[str, ...] = ()
    """Those of all these that ended as `failed` or `timed_out`."""

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {
            "drained": len(self.drained),
            "cancelled": len(self.cancelled),
            "leaked": len(self.leaked),
            "failed": len(self.failed),
        }


@dataclass(frozen=True, slots=True)
class Pending:
    """What is in progress in a service."""

    runs: tuple[tuple[str, float], ...]
    """Full names of tasks with the seconds since the run began, the oldest first."""
    calls: tuple[str, ...]
    """Full names of methods, in alphabetical order."""
    seconds: float
    """How long they may go on from now; infinite while no stop has begun."""


class Piece(Protocol):
    """One run or call."""

    @property
    def full_name(self) -> str: ...  # pragma: no cover
    @property
    def future(self) -> asyncio.Future[None] | None: ...  # pragma: no cover
    @property
    def failed(self) -> bool: ...  # pragma: no cover


class Work(Protocol):
    """What has runs or calls in progress: the runner, the server of calls."""

    @property
    def waiting(self) -> frozenset[Any]: ...  # pragma: no cover
    def cancel(self, pieces: Iterable[Any], /) -> None: ...  # pragma: no cover
    def give_up(self) -> frozenset[Any]: ...  # pragma: no cover


class Drain:
    """The end of all runs and calls of one service: `meet`, `wait`, `cancel`, `report`, in this order."""

    def __init__(self) -> None:
        self._until = math.inf
        self._limit: asyncio.Timeout | None = None
        self._works: dict[Work, None] = {}
        self._met: set[Piece] = set()
        self._left: frozenset[Piece] = frozenset()
        self._leaked: frozenset[Piece] = frozenset()

    def limit(self, seconds: float) -> None:
        """Let them go on for so many seconds from now, or for as long as they had before if that is less."""
        until = asyncio.get_running_loop().time() + max(0.0, seconds)
        if until < self._until:
            self._until = until
            if self._limit is not None:
                self._limit.reschedule(until)

    def meet(self, work: Work) -> None:
        """Note what is in progress there, and drain it too."""
        self._works[work] = None
        self._met |= work.waiting

    async def wait(self) -> None:
        """Let those in progress end by themselves."""
        try:
            async with asyncio.timeout_at(self._until) as self._limit:
                while tasks := _tasks(self._in_progress()):
                    await asyncio.wait(tasks)
        except TimeoutError:
            pass
        finally:
            self._limit = None

    async def cancel(self) -> None:
        """Cancel those that are left, and look for a while how they end."""
        self._left = self._in_progress()
        for work in self._works:
            work.cancel(work.waiting)
        try:
            if tasks := _tasks(self._left):
                await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        finally:
            self._leaked = frozenset[Piece]().union(*(work.give_up() for work in self._works))

    def pending(self, *, runs: Work | None, calls: Work | None) -> Pending:
        """Say what is in progress there, and how long it may go on."""
        now = asyncio.get_running_loop().time()
        ages = [(run.full_name, now - run.started) for run in (runs.waiting if runs else ())]
        names = sorted(call.full_name for call in (calls.waiting if calls else ()))
        return Pending(
            tuple(sorted(ages, key=itemgetter(1), reverse=True)), tuple(names), max(0.0, self._until - now)
        )

    def report(self, duration: float) -> StopReport:
        """Say what became of them."""
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
