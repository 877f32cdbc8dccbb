"""The task in which a service lives: steps forward, then steps back, one at a time. Knows nothing of what they do.

All hooks run in this one task, so that what one of them opens another may close. A step that will not end when it
has to is left behind together with its task, and another task goes on with the steps that are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio

from asyncmgr._common.cancellation import current_task, is_cancelled, relieve
from asyncmgr._common.log import log
from asyncmgr._service.steps import Hook
from asyncmgr.errors import TaskFailed

GRACE = 1.0
"""Seconds that a step has once somebody is in a hurry, and once more after it was cancelled."""


class Life:
    """One way there and back.

    The way there is a coroutine that takes its steps by `step` and then waits until it is `asked` for the end; the
    way back is an iterator, which is asked for the next step when the one before it is over.
    """

    def __init__(
        self,
        there: Callable[[Life], Awaitable[None]],
        back: Iterator[tuple[str, Hook]],
        *,
        name: str,
        context: contextvars.Context,
    ) -> None:
        """Begin. Needs a running loop."""
        self._loop = asyncio.get_running_loop()
        self._there = there
        self._back = back
        self._name = name
        self._context = context
        self._going_back = False
        self._step: _Step | None = None
        self.asked = asyncio.Event()
        """Somebody wants the end."""
        self.hurried = False
        self.running: asyncio.Future[None] = self._loop.create_future()
        """Done when the way there is; for `there` to say."""
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when the way back is."""
        self.error: BaseException | None = None
        """What ended it, or went wrong in a way that whoever waits has to know."""
        self._task = self._begin(self._live())

    # For whoever wants the end

    def ask(self, patience: float) -> None:
        """Ask for the end. A step on the way there is cancelled, and left behind after `patience` seconds more."""
        self.asked.set()
        if self._step is not None and not self._going_back and asyncio.current_task() is not self._task:
            self._step.cut(0, patience)

    def hurry(self) -> None:
        """Ask for the end, and give each step on the way to it `GRACE` only."""
        self.hurried = True
        self.asked.set()
        if self._step is not None:
            self._step.cut(GRACE if self._going_back else 0, GRACE)

    async def wait_out(self) -> None:
        """Wait for the end, however often the caller is cancelled; it is near, for one who has called `hurry`."""
        # anyio cancels again at each turn of the loop, and time would never pass in virtual time.
        with anyio.CancelScope(shield=True):
            while not self.over.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({self.over})

    # For the way there

    async def step(self, name: str, hook: Hook) -> None:
        """Await one step; before it, end here if somebody has asked for the end.

        Raises
        ------
        CancelledError
            Somebody wants the end.
        TaskFailed
            The step raised a `CancelledError` that nobody had asked for.
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
        # Not by the loop's task factory: an eager one would run steps before `_task` is known.
        task = asyncio.Task(life, loop=self._loop, name=self._name, context=self._context)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is not self._task:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:  # between two steps: a Ctrl-C, which asyncio has let out of the loop
            self._report("between steps", error)
        # Too early, also where the loop was shut down before the first step of this task.
        if not self.over.done():
            self._go_on()

    def _go_on(self) -> None:
        """Have another task take the steps that are left."""
        self._task = self._begin(self._go_back())

    def _is_left_behind(self) -> bool:
        return asyncio.current_task() is not self._task

    async def _live(self) -> None:
        try:
            await self._there(self)
        except GeneratorExit:
            raise
        except BaseException as exc:  # SystemExit too: whoever waits raises it, and not this task
            if not self._is_left_behind():
                self._note(exc)
        await self._go_back()

    def _note(self, error: BaseException) -> None:
        """Tell why the way there ended."""
        if isinstance(error, asyncio.CancelledError):
            if is_cancelled():
                self._shut_down()
        elif self.asked.is_set() and isinstance(error, Exception):
            log.error("service.step_failed", service=self._name, step="start", exc_info=error)
        else:
            self._end_with(error)

    async def _go_back(self) -> None:
        self._going_back = True
        self.asked.set()
        while not self._is_left_behind():
            step = next(self._back, None)
            if step is None:
                self.over.set_result(None)
                return
            await self._undo(*step)

    async def _undo(self, name: str, hook: Hook) -> None:
        """Take one step back; what goes wrong in it is logged, and the next one follows."""
        try:
            await self._take(name, hook)
        except GeneratorExit:
            raise
        except BaseException as exc:
            if not self._is_left_behind():
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
        """Keep it for whoever waits. A Ctrl-C that comes when the end was asked for already is the second one."""
        self.error = self.error or error
        if isinstance(error, KeyboardInterrupt) and self.asked.is_set():
            self.hurry()

    def _shut_down(self) -> None:
        """The loop is being shut down, which cancels every task: be quick, and carry no cancellation into hooks."""
        relieve()
        self.hurry()

    async def _take(self, name: str, hook: Hook) -> None:
        """Await one step, in this task, until it ends or is cut short."""
        step = self._step = _Step(name, self._leave_behind)
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

    def _leave_behind(self, step: _Step) -> None:
        log.critical("service.step_abandoned", service=self._name, step=step.name)
        self._go_on()


class _CutShort(asyncio.CancelledError):
    """A step was cancelled because it had to end."""


class _Step:
    """A step in progress, and how it is cut short: cancelled at one moment, left behind at a later one."""

    def __init__(self, name: str, leave_behind: Callable[[_Step], None]) -> None:
        self.name = name
        self._leave_behind = leave_behind
        self._loop = asyncio.get_running_loop()
        self._task = current_task()
        self._cancels = 0
        self._last = math.inf
        """When it is left behind, in loop time."""
        self._timer: asyncio.TimerHandle | None = None

    def cut(self, delay: float, patience: float) -> None:
        """Cancel it after `delay` seconds, and leave it behind `patience` later; never later than planned before."""
        last = self._loop.time() + delay + patience
        if last < self._last:
            self._last = last
            self._set_timer(self._loop.time() + delay, self._cancel)

    def end(self) -> bool:
        """Relieve the task of the cancellations that were meant for this step; whether there were any."""
        if self._timer is not None:
            self._timer.cancel()
        cancels, self._cancels = self._cancels, 0
        for _ in range(cancels):
            self._task.uncancel()
        return cancels > 0

    def _cancel(self) -> None:
        self._cancels += 1
        self._task.cancel()
        self._set_timer(self._last, lambda: self._leave_behind(self))

    def _set_timer(self, when: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, callback)
