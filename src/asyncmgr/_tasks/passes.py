"""Makes one pass over a manager's tasks, for applications that have their own loop, and for tests.

A pass makes the same runs as a service does, and judges and reports them by the same code. It awaits each body itself,
one after the other, and makes one attempt of each: the delays of `retry=` would keep its caller waiting.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, cast

from asyncmgr._common.clock import SECOND, Moment, to_us
from asyncmgr._tasks.agenda import MOST_IN_A_BATCH
from asyncmgr._tasks.consequences import Pause, hold_back, pauses_now, why_paused
from asyncmgr._tasks.key_refresh import WhyGone, change_keys, read_keys
from asyncmgr._tasks.keys import KeyedTask, KeyTask
from asyncmgr._tasks.managed import GOOD, ManagedTask
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runs import Look, Result, Run, Site, judge
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL, EveryPass
from asyncmgr.errors import TaskFailed
from asyncmgr.events import Outcome


class Passes:
    """The passes of one manager."""

    def __init__(
        self,
        site: Site,
        *,
        present: Callable[[], Iterable[ManagedTask]],
        runs_here: Callable[[ManagedTask], bool],
        read: Callable[[], Moment],
        pause: Pause,
    ) -> None:
        """`present` returns the tasks that are switched on at the moment; `read` reads the clock.

        `pause` pauses a task by policy.
        """
        self._site = site
        self._present = present
        self._runs_here = runs_here
        self._read = read
        self._pause = pause
        self._report = Reporter(site.host)
        self._numbers = itertools.count(1)

    async def make_one(self, context: Any, *, raise_on_error: bool) -> float:
        """Run the tasks that are due, each to its end; return the seconds that the caller may idle."""
        moment = self._read()
        present = tuple(self._present())
        for managed in present:
            managed.plan.note_first_pass(moment)
        # Listed now: a task that becomes due while these run waits for the next pass.
        due = [(managed, managed.plan.slot) for managed in present if managed.plan.is_due(moment)]
        for managed, slot in due:
            if managed.plan.slot != slot or not self._runs_here(managed):
                continue  # a task before it moved or removed it
            if managed.is_keyed:
                await self._start_keys(cast("KeyedTask", managed), context, raise_on_error=raise_on_error)
            else:
                await self._start(managed, context, raise_on_error=raise_on_error)
            await asyncio.sleep(0)
        return _idle(self._present(), self._read())

    async def _start(self, managed: ManagedTask, context: Any, *, raise_on_error: bool) -> None:
        moment = self._read()
        run = self._take(managed, moment)
        if isinstance(run, Run):
            await self._finish(run, context, raise_on_error=raise_on_error)
            return
        self._report.schedule_failed(managed, run, moment)
        if raise_on_error:
            raise _to_raise(managed, Outcome.FAILED, run)

    async def _finish(self, run: Run, context: Any, *, raise_on_error: bool) -> None:
        managed = run.managed
        if managed.is_held(run.planned):
            managed.standing.skipped += 1
            managed.standing.missed += run.missed
            self._report.skipped(run, "backoff")
            return
        if run.is_too_late:
            managed.standing.missed += run.missed + 1
            self._report.late(run)
            return
        outcome, error = await self._run(run, context)
        if raise_on_error and outcome not in GOOD:
            raise _to_raise(managed, outcome, error)

    # Keys

    def read(self) -> Moment:
        """Read the clock."""
        return self._read()

    def keys_changed(self, task: KeyedTask) -> None:
        """Plan the next look at a task whose keys have changed."""
        task.keys.settle()

    def forget_keys(self, task: KeyedTask, keys: Collection[Hashable], reason: WhyGone) -> None:
        """Forget keys that are gone. None of them has a run: a pass awaits each run itself."""
        task.forget(keys)

    async def _start_keys(self, task: KeyedTask, context: Any, *, raise_on_error: bool) -> None:
        """Ask for the keys where it is time, and run those that are due one after the other."""
        reference = self._read().now
        if task.keys.wants_refresh(reference):
            await change_keys(task, await read_keys(task), self)
        while slots := task.keys.take_keys(reference, MOST_IN_A_BATCH):
            for slot in slots:
                if slot.key in task.keys.ring.known:
                    run = self._run_of(task.task_of(slot.key), slot.planned, slot.missed)
                    await self._finish(run, context, raise_on_error=raise_on_error)
                    task.note(cast("KeyTask", run.managed), run.look.moment.wall)
                    await asyncio.sleep(0)

    def _take(self, managed: ManagedTask, moment: Moment) -> Run | Exception:
        """Make the run that is due now; return the schedule's error where it raises."""
        reference = managed.plan.reference(moment)
        try:
            planned, missed = managed.plan.take(reference)
        except Exception as exc:
            managed.plan.ask_later(reference)
            return exc
        return self._run_of(managed, planned, missed)

    def _run_of(self, managed: ManagedTask, planned: int, missed: int) -> Run:
        run = Run(managed, planned, missed)
        run.asked, run.number = "pass", next(self._numbers)
        run.started = asyncio.get_running_loop().time()
        run.look = Look(self._site, self._read(), run.started)
        return run

    async def _run(self, run: Run, context: Any) -> Result:
        standing = run.managed.standing
        standing.running += 1
        standing.runs += 1
        standing.missed += run.missed
        standing.last_run = run.look.moment.wall
        if run.missed or standing.trouble is not None:
            self._report.starting(run)
        try:
            error = await _await_body(run, run if context is None else context)
        finally:
            standing.running -= 1
        outcome, error = judge(run, error)
        standing.end(run, outcome, asyncio.get_running_loop().time() - run.started)
        self._report.finished(run, outcome, standing.duration, error)
        if outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            hold_back(run, self._report)
            if pauses_now(run.managed):
                self._pause(run.managed, why_paused(run.managed))
        return outcome, error


def _idle(present: Iterable[ManagedTask], moment: Moment) -> float:
    """Compute the seconds to the nearest slot. Tasks of every pass do not count once they have started."""
    waits = [
        remaining
        for managed in present
        if (remaining := managed.plan.remaining(moment)) is not None
        and not (isinstance(managed.plan.grid, EveryPass) and remaining <= 0)
    ]
    return min(DEFAULT_INTERVAL, max(0.0, min(waits, default=to_us(DEFAULT_INTERVAL)) / SECOND))


def _to_raise(managed: ManagedTask, outcome: Outcome, error: BaseException | None) -> BaseException:
    if isinstance(error, Exception):
        return error
    failure = TaskFailed(f"{managed.full_name} was {outcome} by a CancelledError that nobody asked for")
    failure.__cause__ = error
    return failure


async def _await_body(run: Run, context: Any) -> BaseException | None:
    """Await one body in the caller's task; return its error, also a stray `CancelledError`.

    Where the caller is cancelled, raise that.
    """
    task = asyncio.current_task()
    assert task is not None
    requested = task.cancelling()
    deadline = _Deadline(task, run)
    error: BaseException | None = None
    try:
        await run.managed.call(context)
    except (Exception, asyncio.CancelledError) as exc:
        error = exc
    finally:
        deadline.disarm()
    if task.cancelling() > requested:
        raise error if isinstance(error, asyncio.CancelledError) else asyncio.CancelledError
    return error


class _Deadline:
    """Cancels the asyncio task once, when the body has run for its timeout, and takes this back at the end."""

    def __init__(self, task: asyncio.Task[Any], run: Run) -> None:
        self._task = task
        self._run = run
        timeout = run.managed.options.timeout
        loop = asyncio.get_running_loop()
        self._timer = None if timeout is None else loop.call_later(timeout / SECOND, self._expire)

    def _expire(self) -> None:
        self._run.cause = "timed_out"
        self._task.cancel()

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._run.cause is not None:
            self._task.uncancel()
