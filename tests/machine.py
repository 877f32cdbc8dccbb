"""A machine in virtual time: processes that share a memory lock, start at any moment, and are stopped or killed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import Any

from asyncmgr import RunContext
from asyncmgr._leases.host_gate import HostGate
from asyncmgr._leases.host_locks import HostLocks
from asyncmgr._tasks.declare import declare
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run, Site
from asyncmgr.events import Event

Body = Callable[[RunContext], Awaitable[object]]


class Process:
    """One process with one task of ``scope="host"``, without the service around it."""

    def __init__(self, locks: HostLocks, body: Body, **options: Any) -> None:
        self.events: list[Event] = []
        self.errors: list[BaseException] = []
        self.task = ManagedTask(self, body, "M.work", declare(options | {"scope": "host"}), tolerance=0)
        reporter = Reporter("h")
        reporter.listeners.add(self.events.append)
        self.runner = Runner(
            Site("h", "s", "0"),
            reporter,
            random_source=random.Random(1),
            context=contextvars.copy_context(),
            on_exit=self.errors.append,
            on_death=self.errors.append,
        )
        self.gate = HostGate(self.task, self.runner, locks)
        self.runner.set_gate(self.task, self.gate)
        self.task.plan.begin_at(self.runner.lookout.read(), by_service=True)
        self.runner.lookout.add(self.task)
        self.runner.open()

    @property
    def holds(self) -> bool:
        return self.gate._lock is not None and self.gate._lock.held

    def notice_clock(self) -> None:
        """Look at the wall clock now, as happens within ten seconds of a step."""
        self.runner.lookout._timer.set_by(asyncio.get_running_loop().time())

    def kill(self) -> None:
        """End at once, as by ``kill -9``: nothing is written or told, the system unlocks what was locked."""
        if self.gate._lock is not None:
            self.gate._lock.close()
        self._end(self.runner.waiting)

    async def stop(self) -> None:
        """End in order; runs in progress are cancelled."""
        self.runner.close()
        runs = self.runner.waiting
        self.runner.cancel(runs)
        for run in runs:
            assert run.future is not None
            with contextlib.suppress(asyncio.CancelledError):
                await run.future
        self.gate.close()
        self._end(())

    def _end(self, runs: Any) -> None:
        self.runner.lookout.close()
        self.runner.lookout.end()
        run: Run
        for run in runs:
            run.has_ended = True
            assert run.future is not None
            run.future.cancel()
