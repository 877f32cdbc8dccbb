"""Does what a task's options ask for after a failure: a longer spacing, an early run, a pause. Policy: `policy`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.policy import Hold, early_run_after, spacing_after
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.status import left_fresh

Pause = Callable[[ManagedTask, str], None]
"""Pauses a task by policy; the text says why."""


def hold_back(run: Run, reporter: Reporter) -> None:
    """Hold the task of a run that failed back, where it has ``backoff=True`` and failed before."""
    managed = run.managed
    plan, trouble = managed.plan, managed.standing.trouble
    if trouble is None or not plan.options.backoff or run.on_wall != plan.grid.on_wall or plan.slot is None:
        return
    try:
        gap = plan.grid.gap(plan.slot)
    except Exception:  # of the schedule, which is asked again at its slot, and reported then
        return
    spacing = spacing_after(trouble.failures, gap, plan.options.freshness)
    before = trouble.hold
    if spacing == gap:
        trouble.hold = None
        return
    until = run.planned + spacing - gap
    trouble.hold = Hold(run.planned, until, spacing, trouble.failures, plan.grid, plan.start)
    if before is None or before.spacing != spacing:
        reporter.held_back(managed, trouble.failures, spacing / SECOND)


def pauses_now(managed: ManagedTask) -> bool:
    """Whether the task has failed as often in a row as its `pause_after` allows."""
    most, trouble = managed.plan.options.pause_after, managed.standing.trouble
    return most is not None and trouble is not None and trouble.failures >= most


def why_paused(managed: ManagedTask) -> str:
    """Say why the policy pauses a task."""
    trouble = managed.standing.trouble
    if trouble is None:
        return "it failed"
    times = "1 failure" if trouble.failures == 1 else f"{trouble.failures} failures in a row"
    return f"after {times}: {trouble.text}" if trouble.text else f"after {times}"


class EarlyRuns:
    """The tasks of one service that run again before their next slot, since it would break their promise.

    Parameters
    ----------
    read
        Reads the clock.
    start
        Starts a run of a task beside its grid.
    """

    def __init__(self, read: Callable[[], Moment], start: Callable[[ManagedTask, Moment], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._read = read
        self._start = start
        self._timers: dict[ManagedTask, asyncio.TimerHandle] = {}

    def plan(self, managed: ManagedTask) -> None:
        """Plan the early run of a task that has failed, where it needs one."""
        self.drop(managed)
        wait = self._wait(managed)
        if wait is not None:
            self._timers[managed] = self._loop.call_later(wait / SECOND, self._ring, managed)

    def drop(self, managed: ManagedTask | None = None) -> None:
        """Plan no early run of this task any more, or of any."""
        for task in tuple(self._timers) if managed is None else (managed,):
            timer = self._timers.pop(task, None)
            if timer is not None:
                timer.cancel()

    def _wait(self, managed: ManagedTask) -> int | None:
        if managed.lane is None or managed.plan.options.freshness is None:
            return None
        moment = self._read()
        left, slot = left_fresh(managed, moment), managed.next_slot()
        until_next = None if slot is None else slot - managed.plan.reference(moment)
        return None if left is None else early_run_after(left, until_next)

    def _ring(self, managed: ManagedTask) -> None:
        self._timers.pop(managed, None)
        trouble = managed.standing.trouble
        if trouble is None or not trouble.failures or managed.standing.running or managed.lane is None:
            return
        moment = self._read()
        left = left_fresh(managed, moment)
        if left is not None and left > 0:
            self._start(managed, moment)
