"""Takes the steps of a service's start, then those of its stop, one at a time, in one asyncio task of its own.

It does not know what the steps do. All hooks run in this one task, so that one hook may close what another has opened.
Where a step does not end although it has been cancelled, it is abandoned together with its task, and a new task takes
the steps that are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio

from asyncmgr._common.cancellation import current_task, is_cancelled, relieve
from asyncmgr._common.log import log
from asyncmgr._service.steps import Hook
from asyncmgr.errors import TaskFailed

GRACE = 1.0
"""Seconds that a step gets after `hurry`, and once more after it was cancelled."""


class Life:
    """One start and one stop of a service.

    Parameters
    ----------
    start
        A coroutine function: it takes its steps by `step`, sets `running`, and then waits until the end is `asked`.
    next_stop_step
        Gives the name and the hook of the next step of the stop, `None` after the last one. No generator: a Ctrl-C that
        lands in one ends it, and the steps that are left would be lost.
    name
        The service's name, for the log.
    context
        The context in which all steps run.
    """

    def __init__(
        self,
        start: Callable[[Life], Awaitable[None]],
        next_stop_step: Callable[[], tuple[str, Hook] | None],
        *,
        name: str,
        context: contextvars.Context,
    ) -> None:
        """Begin the start; an event loop must be running."""
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._next_stop_step = next_stop_step
        self._name = name
        self._context = context
        self._is_stopping = False
        self._step: _Step | None = None
        self.asked = asyncio.Event()
        """Set when the service is asked to stop."""
        self.hurried = False
        self.running: asyncio.Future[None] = self._loop.create_future()
        """Set by the start coroutine when the service is up."""
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Set when the last step of the stop has been taken."""
        self.error: BaseException | None = None
        """The error that ended the service, or that callers of `Service.start` and `wait` have to see."""
        self._task = self._begin(self._live())

    # Asking for the end

    def ask(self, patience: float) -> None:
        """Ask for the end. A step of the start is cancelled now, and abandoned `patience` seconds later."""
        self.asked.set()
        if self._step is not None and not self._is_stopping and asyncio.current_task() is not self._task:
            self._step.cut(0, patience)

    def hurry(self) -> None:
        """Ask for the end, and cancel each step of the stop after `GRACE` seconds."""
        self.hurried = True
        self.asked.set()
        if self._step is not None:
            self._step.cut(GRACE if self._is_stopping else 0, GRACE)

    async def wait_out(self) -> None:
        """Wait for the end, however often the caller is cancelled. Call `hurry` first, so that the end is near."""
        # Shielded, since anyio cancels again at each turn of the loop: virtual time would never pass.
        with anyio.CancelScope(shield=True):
            while not self.over.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({self.over})

    # For the start coroutine

    async def step(self, name: str, hook: Hook) -> None:
        """Await one step of the start, unless the end is asked for.

        Raises
        ------
        CancelledError
            The end is asked for.
        TaskFailed
            The step raised a `CancelledError` although nothing had cancelled it.
        """
        if self.asked.is_set():
            raise asyncio.CancelledError
        try:
            await self._take(name, hook)
        except asyncio.CancelledError as exc:
            if self.asked.is_set() or is_cancelled():
                raise
            raise TaskFailed(f"{name} ended with a CancelledError that nobody had asked for") from exc

    # The task

    def _begin(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not by the loop's task factory: an eager one would run steps before `_task` is set.
        task = asyncio.Task(life, loop=self._loop, name=self._name, context=self._context)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is not self._task:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a Ctrl-C between two steps: asyncio let it out of the loop
            self._report("between steps", error)
        # The task has ended before the last step, perhaps because the loop was shut down before its first one.
        if not self.over.done():
            self._go_on()

    def _go_on(self) -> None:
        """Let a new task take the steps that are left."""
        self._task = self._begin(self._stop())

    def _is_abandoned(self) -> bool:
        """Whether another task has taken over from the current one."""
        return asyncio.current_task() is not self._task

    async def _live(self) -> None:
        try:
            await self._start(self)
        except GeneratorExit:
            raise
        except BaseException as exc:  # SystemExit too: the callers that wait raise it, and not this task
            if not self._is_abandoned():
                self._note(exc)
        await self._stop()

    def _note(self, error: BaseException) -> None:
        """Log or keep the error that ended the start coroutine."""
        if isinstance(error, asyncio.CancelledError):
            if is_cancelled():
                self._shut_down()
        elif self.asked.is_set() and isinstance(error, Exception):
            log.error("service.step_failed", service=self._name, step="start", exc_info=error)
        else:
            self._end_with(error)

    async def _stop(self) -> None:
        self._is_stopping = True
        self.asked.set()
        while not self._is_abandoned():
            step = self._next_stop_step()
            if step is None:
                self.over.set_result(None)
                return
            await self._take_stop_step(*step)

    async def _take_stop_step(self, name: str, hook: Hook) -> None:
        """Take one step of the stop; log what it raises, so that the next step follows."""
        try:
            await self._take(name, hook)
        except GeneratorExit:
            raise
        except BaseException as exc:
            if not self._is_abandoned():
                self._report(name, exc)

    def _report(self, name: str, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            self._shut_down()
            return
        if isinstance(error, _CutShort):
            log.error("service.step_cut_short", service=self._name, step=name, after=GRACE)
            return
        log.error("service.step_failed", service=self._name, step=name, exc_info=error)
        if not isinstance(error, Exception | asyncio.CancelledError):
            self._end_with(error)

    def _end_with(self, error: BaseException) -> None:
        """Keep the error for the callers that wait. A Ctrl-C after the end was asked for is the second one: hurry."""
        self.error = self.error or error
        if isinstance(error, KeyboardInterrupt) and self.asked.is_set():
            self.hurry()

    def _shut_down(self) -> None:
        """The loop shuts down and has cancelled every task: take the cancellation back, so that hooks can await."""
        relieve()
        self.hurry()

    async def _take(self, name: str, hook: Hook) -> None:
        """Await one step in the current task until it ends or is cut short."""
        step = self._step = _Step(name, self._abandon)
        if self.hurried:
            step.cut(GRACE, GRACE)
        try:
            await hook()
        except asyncio.CancelledError as exc:
            if step.end() and not is_cancelled():
                raise _CutShort(name) from exc
            raise
        finally:
            step.end()
            if self._step is step:
                self._step = None

    def _abandon(self, step: _Step) -> None:
        log.critical("service.step_abandoned", service=self._name, step=step.name)
        self._go_on()


class _CutShort(asyncio.CancelledError):
    """A step was cancelled because its time was over."""


class _Step:
    """A step in progress. To be cut short means: it is cancelled at one moment and abandoned at a later one."""

    def __init__(self, name: str, abandon: Callable[[_Step], None]) -> None:
        self.name = name
        self._abandon = abandon
        self._loop = asyncio.get_running_loop()
        self._task = current_task()
        self._cancels = 0
        self._last = math.inf
        """The loop time at which it is abandoned; infinite while nothing cuts it short."""
        self._timer: asyncio.TimerHandle | None = None

    def cut(self, delay: float, patience: float) -> None:
        """Cancel the step after `delay` seconds and abandon it `patience` seconds later; an earlier plan stays."""
        last = self._loop.time() + delay + patience
        if last < self._last:
            self._last = last
            self._set_timer(self._loop.time() + delay, self._cancel)

    def end(self) -> bool:
        """Take back the cancellations that this step got from `cut`; return whether there were any."""
        if self._timer is not None:
            self._timer.cancel()
        cancels, self._cancels = self._cancels, 0
        for _ in range(cancels):
            self._task.uncancel()
        return cancels > 0

    def _cancel(self) -> None:
        self._cancels += 1
        self._task.cancel()
        self._set_timer(self._last, lambda: self._abandon(self))

    def _set_timer(self, when: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, callback)
