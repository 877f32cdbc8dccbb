"""Real time of a simulated cluster: what happens next, on whichever host. It knows neither services nor stores.

Everything is ordered by (moment, serial number), so that a run can be replayed exactly.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

SECOND = 1_000_000
"""Microseconds in a second of real time."""


class Taker(Protocol):
    """What takes turns: the event loop of a host."""

    def takes(self, turn: Turn, /) -> bool: ...  # pragma: no cover
    def call_exception_handler(self, context: dict[str, Any], /) -> None: ...  # pragma: no cover


class Turn(asyncio.TimerHandle):
    """One callback that waits for its turn, on a host or outside of all hosts."""

    __slots__ = ("args", "callback", "context", "due", "loop")

    def __init__(
        self,
        loop: Taker | None,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        due: float = 0.0,
    ) -> None:
        # Not by super(): asyncio's handle belongs to one of asyncio's own loops, and this one is made very often.
        self.loop = loop
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.due = due
        """The host's monotonic time, seconds; 0 = no host's clock decides."""

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __repr__(self) -> str:
        return f"<Turn {self.callback} at {self.due:g}>"


class Timeline:
    """The queue of all turns. `now` is real time, in microseconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0
        self.turns = 0
        """Turns taken so far: a measure of the work."""
        self.ready: deque[Turn] = deque()
        self._timers: list[tuple[int, int, Turn]] = []
        self._serial = 0
        self._outside = contextvars.Context()
        self.before_turn: Callable[[Taker | None], None] = lambda loop: None
        """Called before a turn where another host or another moment than before comes up."""
        self.after_moment: Callable[[], None] = lambda: None
        """Called when everything that was ready at a moment has had its turn."""

        self._error: BaseException | None = None

    def halt(self, error: BaseException) -> None:
        """Have `run_until` raise this error after the present turn. The first error counts."""
        self._error = self._error or error

    def put(self, moment: int, turn: Turn) -> None:
        """Let `turn` come up at this real moment."""
        self._serial += 1
        heapq.heappush(self._timers, (moment, self._serial, turn))

    def at(self, moment: int, callback: Callable[..., object], *args: Any) -> Turn:
        """Call back outside of all hosts at this real moment, microseconds."""
        turn = Turn(None, callback, args, self._outside)
        self.put(max(moment, self.now), turn)
        return turn

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Turn:
        """Call back outside of all hosts after this much real time."""
        return self.at(self.now + round(seconds * SECOND), callback, *args)

    def take_turns_of(self, loop: Taker) -> list[Turn]:
        """Take out all turns of one host: those that are ready, then the others in their order."""
        ready = [turn for turn in self.ready if turn.loop is loop]
        timers = sorted(timer for timer in self._timers if timer[2].loop is loop)
        self.ready = deque(turn for turn in self.ready if turn.loop is not loop)
        self._timers = [timer for timer in self._timers if timer[2].loop is not loop]
        heapq.heapify(self._timers)
        return [*ready, *(timer[2] for timer in timers)]

    def clear(self) -> None:
        """Drop all turns."""
        self.ready.clear()
        self._timers.clear()

    def run_until(self, end: int) -> None:
        """Take all turns up to the real moment `end`."""
        loop: Taker | None = None
        moment = -1
        while True:
            while self.ready:
                turn = self.ready.popleft()
                callback = turn.callback
                if callback is None or (turn.loop is not None and not turn.loop.takes(turn)):
                    continue
                if turn.loop is not loop or self.now != moment:
                    loop, moment = turn.loop, self.now
                    self.before_turn(loop)
                self.turns += 1
                try:
                    turn.context.run(callback, *turn.args)
                except BaseException as exc:
                    self._fail(turn, exc)
                if self._error is not None:
                    raise self._error
            self.after_moment()
            if self._error is not None:
                raise self._error
            if not self._next_moment(end):
                return

    def _fail(self, turn: Turn, error: BaseException) -> None:
        """Hand the error of a callback to its host's handler; one from outside of all hosts ends the simulation."""
        if turn.loop is None or isinstance(error, SystemExit | KeyboardInterrupt):
            raise error
        turn.loop.call_exception_handler({"message": f"exception in {turn.callback!r}", "exception": error})

    def run_last(self, turn: Turn) -> None:
        """Take a turn of a dead host."""
        if turn.callback is not None:
            try:
                turn.context.run(turn.callback, *turn.args)
            except BaseException as exc:
                self._fail(turn, exc)

    def _next_moment(self, end: int) -> bool:
        """Make ready what comes next; False where that is after `end`."""
        if self.ready:  # put there by what looked at the moment that ended
            return True
        timers = self._timers
        if not timers or timers[0][0] > end:
            self.now = max(self.now, end)
            return False
        now = self.now = timers[0][0]
        while timers and timers[0][0] <= now:
            turn = heapq.heappop(timers)[2]
            if turn.callback is not None:
                self.ready.append(turn)
        return True
