"""`HostLoop`: the event loop of one simulated host. All hosts share one timeline, and nothing real is ever awaited."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from asyncmgr.testing.simulation._hosts import Clocks, State
from asyncmgr.testing.simulation._timeline import SECOND, Timeline, Turn

MOST_CANCELLATIONS = 50
"""How often the tasks of a dead host are cancelled before their coroutines are closed."""

MOST_LAST_TURNS = 10_000
"""Turns that a dead host takes after each of these cancellations."""


def show(loop: HostLoop | None) -> None:
    """Make this the running loop, for code that runs from now on."""
    # "A low-level function intended to be used by event loops", says asyncio, and lists it in its __all__.
    asyncio._set_running_loop(loop)  # noqa: SLF001


@contextlib.contextmanager
def running_in(loop: HostLoop) -> Iterator[None]:
    """Make this the running loop while the block runs."""
    before = asyncio._get_running_loop()  # noqa: SLF001 - as above
    show(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(before)  # noqa: SLF001 - as above


class HostLoop(asyncio.AbstractEventLoop):
    """An event loop with clocks of its own. `time` is the monotonic clock of the host.

    A paused host keeps its turns for later while its clocks go on. A dead one is cut off from the timeline: its tasks
    are cancelled and unwind at once, at a time of their own, so that nothing is left that Python would have to clear
    away. There are no threads: a call in an executor is made at once.
    """

    def __init__(self, timeline: Timeline, clock: Clocks, name: str = "host") -> None:
        self.timeline = timeline
        self.clock = clock
        self.name = name
        self.state = State.UP
        self.errors: list[dict[str, Any]] = []
        """What went to the exception handler."""
        self.on_error: Callable[[dict[str, Any]], object] = self.errors.append
        self._backlog: list[Turn] = []
        self._factory: Any = None
        self._ahead = 0
        """Microseconds by which a dead host's own time has run ahead of the timeline."""
        self._outside = contextvars.Context()
        self._last: list[Turn] = []
        """The turns of a dead host."""

    # What asyncio calls

    def time(self) -> float:
        return self.clock.monotonic(self.timeline.now + self._ahead)

    def clock_readings(self) -> tuple[float, float, float]:
        """Return monotonic, boot-time and wall clock of this host, in seconds."""
        return self.clock.read(self.timeline.now + self._ahead)

    def call_soon(  # type: ignore[override]  # plain arguments are enough
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Turn:
        turn = Turn(self, callback, args, contextvars.copy_context() if context is None else context)
        if self.state is State.DEAD:
            self._last.append(turn)
        else:
            self.timeline.ready.append(turn)
        return turn

    def call_soon_threadsafe(  # type: ignore[override]  # plain arguments are enough
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Turn:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]  # plain arguments are enough
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Turn:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # plain arguments are enough
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Turn:
        turn = Turn(self, callback, args, contextvars.copy_context() if context is None else context, when)
        if self.state is State.DEAD:
            self._last.append(turn)
        else:
            self._put(turn)
        return turn

    def _put(self, turn: Turn) -> None:
        """Let a turn come up at its time."""
        # One microsecond at least: what waits for no time at all would else come up for ever at one moment.
        timeline, moment = self.timeline, self.clock.moment_of(turn.due)
        timeline.put(moment if moment > timeline.now else timeline.now + 1, turn)

    def bring(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back here after so much real time: what comes from outside waits for no clock of this host."""
        if self.state is not State.DEAD:
            timeline = self.timeline
            timeline.put(timeline.now + round(seconds * SECOND), Turn(self, callback, args, self._outside))

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        if self._factory is not None:
            return self._factory(self, coro, **options)
        return asyncio.Task(coro, loop=self, **options)

    def set_task_factory(self, factory: Any) -> None:
        self._factory = factory

    def get_task_factory(self) -> Any:
        return self._factory

    def run_in_executor(  # type: ignore[override]  # plain arguments are enough
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.state is State.DEAD

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.state is not State.DEAD:
            self.on_error(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    # What the cluster does to the host

    def takes(self, turn: Turn) -> bool:
        """Whether this turn, which has come up, is to be taken now; else it is kept for later, or dropped."""
        if self.state is State.UP:
            if (
                turn.due and self.clock.slept and self.time() < turn.due
            ):  # the machine was suspended meanwhile
                self._put(turn)
                return False
            return True
        if self.state is State.PAUSED:
            self._backlog.append(turn)
        return False

    def pause(self, *, suspend: bool = False) -> None:
        """Take no turns. In a suspend the monotonic clock stands still too; boot time and wall go on."""
        self.state = State.PAUSED
        if suspend:
            self.clock.suspend(self.timeline.now)

    def resume(self) -> None:
        """Take all turns that came up meanwhile, in their order."""
        self.state = State.UP
        self.clock.resume(self.timeline.now)
        self.timeline.ready.extend(self._backlog)
        self._backlog.clear()

    def kill(self) -> None:
        """End the host between two of its steps; nothing that its tasks still do reaches the cluster."""
        self.resume()
        self.state = State.DEAD
        self.clock = replace(self.clock)
        self._last = self.timeline.take_turns_of(self)
        with running_in(self):
            self._unwind()
        self._last.clear()

    def _unwind(self) -> None:
        """Cancel all tasks until all have ended; what they do then takes a time of its own, and has no effect."""
        for _ in range(MOST_CANCELLATIONS):
            self._take_last_turns()
            tasks = asyncio.all_tasks(self)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self._let_time_pass()
        for task in asyncio.all_tasks(self):
            _close(task)
        self._take_last_turns()

    def _take_last_turns(self) -> None:
        left = MOST_LAST_TURNS
        while left > 0 and (ready := [turn for turn in self._last if not turn.due]):
            now, later = ready[:left], ready[left:]
            self._last[:] = [*later, *(turn for turn in self._last if turn.due)]
            left -= len(now)
            for turn in now:
                self.timeline.run_last(turn)

    def _let_time_pass(self) -> None:
        """Let the next timer of the dead host ring."""
        timers = [turn for turn in self._last if turn.due and turn.callback is not None]
        if timers:
            turn = min(timers, key=lambda turn: turn.due)
            self._ahead = max(self._ahead, self.clock.moment_of(turn.due) - self.timeline.now)
            turn.due = 0.0


def _close(task: asyncio.Task[Any]) -> None:
    """End a task that its cancellations did not end: its coroutine is closed, and the next step then fails."""
    coroutine = task.get_coro()
    if coroutine is not None:
        with contextlib.suppress(Exception):
            coroutine.close()
    task.cancel()
