"""Starts each run as an asyncio Task of its own, from the slot that the lookout hands over to the run's end.

The life of a run:

* the intake makes the run ready: its task counts as running;
* `_start` makes the run's Task; runs start in bounded batches, and the event loop gets its turn between them;
* the Task's outermost frame is `_live`: it calls the body, and lets no exception of the body out;
* `_end` judges and reports the run's outcome. A run that never starts is given up instead.

Where Python can (3.12 on) a Task is eager: a body that never waits has ended when the Task is made. Elsewhere, and
with a task factory of the application's, its first step may come later, and a cancellation may come before it
(`_unbegun`).
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Literal

from asyncmgr._common.clock import Moment, to_us
from asyncmgr._common.log import log
from asyncmgr._tasks.agenda import Batch
from asyncmgr._tasks.blame import current_run
from asyncmgr._tasks.gate import Gate
from asyncmgr._tasks.intake import GivenUp, Intake
from asyncmgr._tasks.lookout import Lookout
from asyncmgr._tasks.managed import ManagedTask, Standing
from asyncmgr._tasks.reporting import Reporter, record_of
from asyncmgr._tasks.runs import Run, Site, judge
from asyncmgr.errors import ServiceStateError
from asyncmgr.events import Outcome, RunFinished

LEAKED_AFTER = 10.0
"""Seconds from the cancellation of a run by its timeout to the report that it still goes on."""

_LONGEST_TURN = 0.001
"""Seconds for which runs are started before the event loop gets its turn."""

_MOST_IN_A_TURN = 128
"""The number of runs that are started before the event loop gets its turn, however short they are."""

_MOST_UNBEGUN = _MOST_IN_A_TURN
"""The number of Tasks that may wait for their first step, since the event loop makes all these steps in one turn."""


class Runner:
    """The runs of one service."""

    def __init__(
        self,
        site: Site,
        reporter: Reporter,
        *,
        random_source: random.Random,
        context: contextvars.Context,
        on_exit: Callable[[BaseException], None],
        on_death: Callable[[BaseException], None],
        max_runs: int | None = None,
    ) -> None:
        """An event loop must be running.

        Every run gets a copy of `context`. `on_exit` is called with the `SystemExit` or `KeyboardInterrupt` of a run,
        `on_death` with an error of the scheduler itself. `max_runs` is the largest number of runs in progress at once;
        `None` = any number.
        """
        self._loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        """The event loop's thread. No other thread may call a method of this object."""
        self._site = site
        self._report = reporter
        self._listeners = reporter.listeners.callbacks
        self._context = context
        self._own_context = context.copy()
        self._on_exit = on_exit
        self._on_death = on_death
        self._max_runs = max_runs
        self._intake = Intake(site, reporter, oldest=self.oldest)
        self._ready = self._intake.ready
        self._unbegun: dict[asyncio.Future[None], Run] = {}
        """Runs by Task, where the Task has not made its first step."""
        self._in_progress: set[Run] = set()
        """Runs whose Task has made its first step and has not ended."""
        self._will_start = False
        self._has_factory = False
        self.on_start: Callable[[], None] = _nothing
        """Called before runs are started, by whoever watches the event loop."""
        self.marks_contexts = False
        """Whether each run is named in its context, so that Tasks and callbacks that it starts are known as its own."""
        self.lookout = Lookout(
            random_source=random_source,
            context=self._own_context,
            accept=self._accept,
            expire=self._overdue,
            stepped=reporter.stepped,
            die=self._die,
        )

    # Called by the service

    def open(self) -> None:
        """Begin to start runs."""
        self.lookout.open()

    def close(self) -> None:
        """Start no more runs, and refuse those that were handed out and have not started."""
        self.lookout.close()
        while self._unbegun:
            self._intake.give_up(self._unbegun.popitem()[1], "draining")
        self._intake.close()

    @property
    def waiting(self) -> frozenset[Run]:
        """The runs in progress."""
        return frozenset(self._in_progress)

    def unwatch(self) -> None:
        """Tell nobody any more what the watch of the event loop wants to know."""
        self.on_start, self.marks_contexts = _nothing, False
        self.lookout.unwatch()

    @property
    def is_busy(self) -> bool:
        """Whether a run is in progress or about to start. Any thread may ask."""
        return bool(self._in_progress or self._unbegun or self._ready)

    def cancel(self, runs: Iterable[Run]) -> None:
        """Cancel these runs."""
        for run in runs:
            run.cause = run.cause or "cancelled"
            if run.future is not None:
                run.future.cancel()

    def give_up(self) -> frozenset[Run]:
        """Report the runs that go on although they were cancelled, and end all looks; return these runs."""
        leaked = frozenset(
            run for run in self._in_progress if run.future is not None and not run.future.done()
        )
        for run in leaked:
            self._report.leaked(run, self._age(run))
        self.lookout.end()
        return leaked

    # Called by the managers

    def forget(self, task: ManagedTask, reason: Literal["removed", "paused"]) -> None:
        """Take the task out of the agenda, and refuse its runs that have not started. A run in progress goes on."""
        self.lookout.remove(task)
        self._intake.unqueue(task, reason)
        for run in [run for run in self._ready if run.managed is task and run.asked != "manual"]:
            self._ready.remove(run)
            self._give_up(run, reason)
        for future, run in tuple(self._unbegun.items()):
            if run.managed is task and run.asked != "manual":
                del self._unbegun[future]
                self._give_up(run, reason)
        for run in self._intake.asking(task):
            self._give_up(run, reason)

    # Called by the gates of tasks that only one process may run

    def set_gate(self, task: ManagedTask, gate: Gate | None) -> None:
        """Ask `gate` before each run of the task, from now on; `None` = ask nothing."""
        if gate is None:
            self._intake.gates.pop(task, None)
        else:
            self._intake.gates[task] = gate

    def admit(self, run: Run) -> bool:
        """Start a run for which the gate answered `later`. False = it was given up meanwhile, and stays so."""
        is_admitted = self._intake.admit(run)
        if is_admitted:
            self._start_soon()
        return is_admitted

    def refuse(self, run: Run, reason: Literal["not_owner", "lease_lost"]) -> None:
        """Refuse a run for which the gate answered `later`."""
        if run in self._intake.asking(run.managed):
            self._give_up(run, reason)

    def withdraw(self, task: ManagedTask) -> bool:
        """Cancel the runs of a task that another process may run now, and refuse those that have not started.

        Returns whether a run is still in progress, which unwinds.
        """
        for run in [run for run in self._ready if run.managed is task]:
            self._ready.remove(run)
            self._give_up(run, "lease_lost")
        for run in self._intake.asking(task):
            self._give_up(run, "lease_lost")
        for future, run in tuple(self._unbegun.items()):
            if run.managed is task:
                del self._unbegun[future]
                self._give_up(run, "lease_lost")
        for run in [run for run in self._in_progress if run.managed is task and run.cause is None]:
            run.cause = "lease_lost"
            if run.future is not None:
                run.future.cancel()
            self.lookout.set_deadline(run, to_us(self._age(run) + LEAKED_AFTER))
        return bool(task.standing.running)

    def continue_grid(self, run: Run, last_slot: int) -> bool:
        """Go on with the grid that another process kept for the run's task; `last_slot` is on the scale of the plan.

        Where a slot of that grid is due or nearly due, the run becomes the run for this slot. Returns whether it has. A
        run that a handle asked for stays what it is: the lookout hands out the slot.
        """
        task, plan = run.managed, run.managed.plan
        taken = False

        def change(moment: Moment) -> None:
            nonlocal taken
            own = run.planned if run.asked is None else None
            latest, dropped = plan.continue_from(last_slot, moment, own=own)
            if dropped:
                self._report.lost(run, latest, dropped, "down")
            if run.asked != "manual" and plan.is_due(moment):
                run.planned, run.missed = plan.take(plan.reference(moment))
                taken = True

        self.lookout.replan(task, change)
        return taken

    def resume_grid(
        self, task: ManagedTask, last_slot: int, why: Literal["lease_lost", "down"], *, again: bool = False
    ) -> None:
        """Go on with a grid whose last slot is known, outside of a run; `last_slot` is on the scale of the plan.

        Slots that get no run are reported as missed, with `why` as the reason. With `again`, the last slot itself gets
        a run, unless a later one is over too.
        """

        def change(moment: Moment) -> None:
            latest, dropped = task.plan.continue_from(last_slot, moment)
            if dropped:
                self._report.passed(task, task.plan.datetime_of(latest, moment), dropped, why)
            elif again:
                task.plan.take_again(last_slot, moment)

        self.lookout.replan(task, change)

    def begin_now(self, task: ManagedTask) -> None:
        """Make this moment the next slot of the task."""
        self.lookout.replan(task, task.plan.begin_now)

    def report_cut_off(self, task: ManagedTask, slot: int) -> None:
        """Report a slot, on the scale of the plan, whose run was cut off when its holder died."""
        self._report.passed(task, task.plan.datetime_of(slot, self.lookout.read()), 1, "lease_lost")

    def lose(self, run: Run, slot: int) -> None:
        """Report a slot whose run was cut off when its holder died; `run` is the first one of the next holder."""
        self._report.lost(run, slot, 1, "lease_lost")

    def _give_up(self, run: Run, reason: GivenUp) -> None:
        """Refuse a run that has not started, and make the one that waits behind it ready."""
        self._intake.give_up(run, reason)
        self._release(run.managed.standing)

    def _release(self, standing: Standing) -> None:
        if standing.queued and not standing.running and self.lookout.is_open:
            self._intake.start_queued(standing, self.lookout.clock.read())
            self._start_soon()

    def oldest(self, standing: Standing) -> Run | None:
        """Find the run in progress that started first; `None` = no run is in progress."""
        runs = (
            run for run in (*self._in_progress, *self._unbegun.values()) if run.managed.standing is standing
        )
        return min(runs, key=lambda run: run.started, default=None)

    def _age(self, run: Run) -> float:
        return self._loop.time() - run.started

    def running_for(self) -> dict[Standing, float]:
        """Return the age of the oldest run in progress, in seconds, for each task that has one."""
        ages: dict[Standing, float] = {}
        for run in self._in_progress:
            standing = run.managed.standing
            ages[standing] = max(ages.get(standing, 0.0), self._age(run))
        return ages

    def trigger(self, task: ManagedTask, waiter: asyncio.Future[RunFinished] | None = None) -> Run:
        """Start a run now, outside the grid; the next slot stays. `waiter` gets the record when the run has ended.

        Raises
        ------
        AlreadyRunning
            A run of the task is in progress, and the task's `overlap` neither allows nor queues another one.
        ServiceStateError
            The runner is closed.
        """
        if not self.lookout.is_open:
            raise ServiceStateError(f"{task.full_name} cannot be triggered: the service is stopping")
        run = self._intake.trigger(task, self.lookout.read(), waiter)
        self._start_soon()
        return run

    # Starting

    def _accept(self, batch: Batch[Run], moment: Moment) -> None:
        self._intake.accept(batch, moment)
        self._start_ready()

    def _start_soon(self) -> None:
        if self._ready and not self._will_start:
            self._will_start = True
            self._loop.call_soon(self._start_ready, context=self._own_context)

    def _start_ready(self) -> None:
        """Start ready runs for a millisecond; start the rest when the event loop has had its turn."""
        if not self._ready:
            return
        self._will_start = True
        self.on_start()
        self._has_factory = self._loop.get_task_factory() is not None
        turn_ends = self._loop.time() + _LONGEST_TURN
        try:
            for _ in range(self._room()):
                if not self._ready:
                    break
                run = self._ready.popleft()
                self._start(run)
                if run.started > turn_ends:
                    break
        finally:
            self._will_start = False
            if self._unbegun:
                self._loop.call_soon(self._sweep)
            if self._room():
                self._start_soon()

    def _room(self) -> int:
        """How many runs may be started in this turn of the loop."""
        room = min(_MOST_IN_A_TURN, _MOST_UNBEGUN - len(self._unbegun))
        if self._max_runs is not None:
            room = min(room, self._max_runs - len(self._in_progress) - len(self._unbegun))
        return max(0, room)

    def _start(self, run: Run) -> None:
        managed = run.managed
        options = managed.plan.options
        run.started = self._loop.time()
        if options.switched_off is not None:
            self._give_up(run, "removed")  # removed or switched off after the slot was handed out
            return
        if run.claim is not None and not self._intake.may_start(run):
            self._give_up(run, "lease_lost")
            return
        if options.misfire_grace is not None and run.is_too_late:
            self._give_up(run, "late")
            return
        body, make = self._live(run), _by_factory if self._has_factory else _new_task
        try:
            task = make(body, self._loop, managed.full_name, self._context.copy())
        except Exception as exc:  # raised by a task factory of the application's
            body.close()
            self._end(run, exc)
            return
        if run.has_begun:
            if not task.done():
                self._attend(run, task)
        else:
            run.future = task
            self._unbegun[task] = run
            if self._has_factory:  # whose Task may begin much later than in the next turn
                task.add_done_callback(self._never_began)

    def _never_began(self, task: asyncio.Future[None]) -> None:
        """End the run of a Task that was cancelled before its first step."""
        run = self._unbegun.pop(task, None)
        if run is not None:
            self._end(run, asyncio.CancelledError())

    def _sweep(self) -> None:
        """End the runs whose Task was cancelled before its first step. By now every other Task has made this step."""
        for task in tuple(self._unbegun):
            if task.done():
                self._never_began(task)
        if self._room():  # else the loop would turn for nothing until there is
            self._start_soon()

    # The run

    async def _live(self, run: Run) -> None:
        if run.future is not None and not self._has_first_step(run, run.future):
            return
        run.has_begun = True
        if self._has_factory:
            self._name_task(run)
        managed = run.managed
        if self.marks_contexts:
            # Not the run: it knows its Task, whose context would then know the run, and neither would be freed.
            current_run.set((managed, run.number, run.look))
        standing = managed.standing
        standing.runs += 1
        try:
            if run.missed or standing.trouble is not None:
                self._report.starting(run)
            await managed.call(run)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and self._is_abandoned(run):
                raise
            self._end(run, exc)
        else:
            self._end(run, None)

    @staticmethod
    def run_of(frame: FrameType) -> Run | None:
        """Return the run whose outermost frame this is; `None` = it is another frame. Any thread may ask."""
        if frame.f_code is not Runner._live.__code__:
            return None
        run: Run | None = frame.f_locals.get("run")  # a frame that has ended meanwhile has no locals
        return run

    def _has_first_step(self, run: Run, task: asyncio.Future[None]) -> bool:
        """Note that the run begins, later than it got its Task; False where it was given up meanwhile."""
        if self._unbegun.pop(task, None) is None:
            return False
        if run.managed.plan.options.switched_off is not None:
            self._give_up(run, "removed")
            return False
        if run.claim is not None and not self._intake.may_start(run):
            self._give_up(run, "lease_lost")
            return False
        run.started = self._loop.time()
        self._attend(run, task)
        self._start_soon()  # there is room for another one that waits for its first step
        return True

    def _name_task(self, run: Run) -> None:
        """Name the Task: one of an eager factory makes its first step before the loop names it (up to 3.13)."""
        task = asyncio.current_task(self._loop)
        if task is not None:
            task.set_name(run.full_name)

    def _is_abandoned(self, run: Run) -> bool:
        """Whether Python destroys the frame of a run in progress, because the loop is gone."""
        if run.future is None or asyncio.current_task(self._loop) is run.future:
            return False
        self._in_progress.discard(run)
        run.managed.standing.running -= 1
        return True

    def _attend(self, run: Run, task: asyncio.Future[None]) -> None:
        """Note a run that may wait: from now on it can be cancelled, and its timeout counts."""
        run.future = task
        self._in_progress.add(run)
        timeout = run.managed.plan.options.timeout
        if timeout is not None:
            self.lookout.set_deadline(run, timeout)

    def _overdue(self, run: Run) -> None:
        """Cancel a run whose timeout has passed; report it where it goes on `LEAKED_AFTER` seconds later."""
        if run.cause == "cancelled":
            return  # by a stop, which reports the leaked runs itself
        if run.cause is not None:
            self._report.leaked(run, self._age(run))
            return
        run.cause = "timed_out"
        if run.future is not None:
            run.future.cancel()
        self.lookout.set_deadline(run, to_us(self._age(run) + LEAKED_AFTER))

    def _end(self, run: Run, error: BaseException | None) -> None:
        """End a run: update its standing, then report, since listeners and log processors are the user's code."""
        if run.has_ended:
            return  # by its body, before an application's factory raised
        run.has_ended = True
        standing = run.managed.standing
        standing.running -= 1
        duration = standing.duration = self._loop.time() - run.started
        if run.future is not None:
            self._in_progress.discard(run)
            if run.place is not None:
                self.lookout.deadlines.remove(run)
        if standing.queued:
            self._release(standing)
        if self._ready:
            self._start_soon()
        if (
            error is None
            and run.cause is None
            and standing.trouble is None
            and run.managed.log_level is None
            and run.waiter is None
            and run.claim is None
            and not self._listeners
        ):
            standing.outcome = Outcome.SUCCEEDED
        else:
            self._conclude(run, duration, error)

    def _conclude(self, run: Run, duration: float, error: BaseException | None) -> None:
        outcome, error = judge(run, error)
        run.managed.standing.outcome = outcome
        run.failed = outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
        if run.claim is not None:
            self._intake.tell_gate(run, outcome)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._on_exit(error)
        if run.waiter is not None and not run.waiter.done():
            run.waiter.set_result(record_of(run, outcome, duration, error))
        self._report.finished(run, outcome, duration, error)

    def _die(self, exc: BaseException) -> None:
        self.lookout.close()
        log.critical("scheduler.died", service=self._site.service, host=self._site.host, exc_info=exc)
        self._on_death(exc)


def _nothing() -> None:
    """Do nothing: nobody watches the event loop."""


def _by_factory(body: Any, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> asyncio.Task[None]:
    """Make a Task by the application's task factory."""
    return loop.create_task(body, name=name, context=context)


if sys.version_info >= (3, 12):

    def _new_task(body: Any, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> asyncio.Task[None]:
        return asyncio.Task(body, loop=loop, name=name, context=context, eager_start=True)
else:

    def _new_task(body: Any, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> asyncio.Task[None]:
        return asyncio.Task(body, loop=loop, name=name, context=context)
