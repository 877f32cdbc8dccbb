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
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any, Literal

from asyncmgr._common.clock import Moment, to_us
from asyncmgr._common.log import log
from asyncmgr._tasks.agenda import Batch
from asyncmgr._tasks.attempts import Attempts
from asyncmgr._tasks.blame import current_run
from asyncmgr._tasks.consequences import EarlyRuns, Pause, hold_back, pauses_now, why_paused
from asyncmgr._tasks.gate import Gate
from asyncmgr._tasks.intake import GivenUp, Intake
from asyncmgr._tasks.key_refresh import KeyRefreshes, WhyGone
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.lookout import Lookout
from asyncmgr._tasks.managed import GOOD, ManagedTask, Standing
from asyncmgr._tasks.progress import Progresses
from asyncmgr._tasks.reporting import Reporter, record_of
from asyncmgr._tasks.runs import CancelledBy, Run, Site, judge
from asyncmgr._tasks.schedules import Gap
from asyncmgr._tasks.stuck import Stuck
from asyncmgr.errors import AlreadyRunning, ServiceStateError
from asyncmgr.events import Outcome, RunFinished, SkipReason

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
        pause: Pause | None = None,
    ) -> None:
        """An event loop must be running.

        Every run gets a copy of `context`. `on_exit` is called with the `SystemExit` or `KeyboardInterrupt` of a run,
        `on_death` with an error of the scheduler itself. `max_runs` is the largest number of runs in progress at once;
        `None` = any number. `pause` pauses a task by policy.
        """
        self._loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        """The event loop's thread. No other thread may call a method of this object."""
        self._progresses = Progresses(self._loop, reporter.listeners)
        self._site = site = replace(site, progressed=self._progresses.note)
        self._report = reporter
        self._listeners = reporter.listeners.of_runs
        if reporter.recorder is not None:
            reporter.recorder.follow(self.oldest)
        self._context = context
        self._own_context = context.copy()
        self._on_exit = on_exit
        self._on_death = on_death
        self._max_runs = max_runs
        self._around: Callable[[Run], Awaitable[object]] | None = None
        self._intake = Intake(site, reporter, oldest=self.oldest)
        self._ready = self._intake.ready
        self._unbegun: dict[asyncio.Future[None], Run] = {}
        """Runs by Task, where the Task has not made its first step."""
        self._in_progress: set[Run] = set()
        """Runs whose Task has made its first step and has not ended."""
        self._callers: dict[Run, Run] = {}
        """Runs in progress that wait for the end of another run, which they have triggered."""
        self._will_start = False
        self._has_factory = False
        self.refreshes = KeyRefreshes(self, self._own_context, site.host)
        """The questions for the keys of tasks that have keys."""
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
            stalled=reporter.stalled,
            die=self._die,
        )
        self._pause = pause
        self._attempts = Attempts(
            self.lookout,
            self._intake,
            reporter,
            random_source,
            end=self._end,
            is_abandoned=self._is_abandoned,
        )
        self._early = EarlyRuns(self.lookout.clock.read, self._start_early)
        self._stuck = Stuck(self._loop, reporter, self._in_progress)

    # Called by the service

    def open(self) -> None:
        """Begin to start runs."""
        self.lookout.open()

    def close(self) -> None:
        """Start no more runs, and refuse those that were handed out and have not started."""
        self.lookout.close()
        self.refreshes.close()
        self._early.drop()
        self._attempts.cut_short()
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
        """Cancel these runs, because the service stops."""
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
            self._report.leaked(run, self.age(run))
        self.lookout.end()
        return leaked

    # Called by the managers

    def forget(self, task: ManagedTask, reason: Literal["removed", "paused", "disabled"]) -> None:
        """Take the task out of the agenda, and refuse its runs that have not started. A run in progress goes on.

        A pause lets those start that a handle asked for.
        """
        self.lookout.remove(task)
        self._intake.unqueue(task, reason)
        self._early.drop(task)
        if reason != "paused":
            self._attempts.cut_short(task)
        self._refuse([run for run in self._not_begun() if task in (run.managed, run.managed.whole)], reason)

    def _not_begun(self) -> Iterator[Run]:
        """Yield the runs that were handed out and have not begun. First those that wait for a place.

        They come first, so that none of them is made ready by the end of another.
        """
        yield from self._intake.not_ready()
        yield from self._ready
        yield from self._unbegun.values()

    def _refuse(self, runs: list[Run], reason: GivenUp) -> None:
        """Refuse these runs. A pause lets those start that a handle asked for."""
        refused = {run: None for run in runs if run.asked != "manual" or reason != "paused"}
        if not refused:
            return
        self._unbegun = {future: run for future, run in self._unbegun.items() if run not in refused}
        if any(run in refused for run in self._ready):
            kept = [run for run in self._ready if run not in refused]
            self._ready.clear()
            self._ready.extend(kept)
        for run in refused:
            self._give_up(run, reason)

    # Called when the keys of a task have changed

    def read(self) -> Moment:
        """Read the clock."""
        return self.lookout.read()

    def keys_changed(self, task: KeyedTask) -> None:
        """Plan the next look at a task whose keys have changed."""
        self.lookout.replan(task, lambda _: task.keys.settle())

    def forget_keys(self, task: KeyedTask, keys: Collection[Hashable], reason: WhyGone) -> None:
        """Refuse the runs of keys that are gone, where they have not started. A run in progress goes on."""
        gone = dict.fromkeys(task.forget(keys))
        if not gone:
            return
        for key_task in gone:
            self._intake.unqueue(key_task, reason)
        self._refuse([run for run in self._not_begun() if run.managed in gone], reason)

    async def until_settled(self, task: ManagedTask) -> None:
        """Wait, for some seconds at most, while this process is about to get a task that only one may run."""
        gate = self._intake.gates.get(task.whole)
        if gate is not None:
            await gate.until_settled(task)

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

    def refuse(
        self, run: Run, reason: Literal["not_owner", "lease_lost"], *, with_older: bool = True
    ) -> None:
        """Refuse a run for which the gate answered `later`.

        `with_older`: its slot is not claimed, and neither are the older ones. Else the gate tells of these.
        """
        if run in self._intake.not_ready():
            self._give_up(run, reason, with_older=with_older)

    def withdraw(self, task: ManagedTask, which: Callable[[Run], bool] = lambda _: True) -> bool:
        """Cancel the runs of a task that another process may run now, and refuse those that have not started.

        `which` says which runs are concerned. Returns whether a run is still in progress, which unwinds.
        """

        def is_meant(run: Run) -> bool:
            return task in (run.managed, run.managed.whole) and which(run)

        self._refuse([run for run in self._not_begun() if is_meant(run)], "lease_lost")
        for run in [run for run in self._in_progress if run.cause is None and is_meant(run)]:
            run.cause = "lease_lost"
            if run.future is not None:
                run.future.cancel()
            self.lookout.set_deadline(run, to_us(self.age(run) + LEAKED_AFTER))
        return task.is_at_work

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
            gap = plan.continue_from(last_slot, moment, own=own)
            if gap is not None:
                self._report.passed(task, gap, "down", moment)
            if run.asked != "manual" and plan.is_due(moment):
                assert plan.slot is not None
                run.oldest = plan.slot
                run.planned, run.missed = plan.take(plan.reference(moment))
                taken = True

        self.lookout.replan(task, change)
        return taken

    def resume_grid(
        self, task: ManagedTask, last_slot: int, why: Literal["lease_lost", "down"], *, again: bool = False
    ) -> bool:
        """Go on with a grid whose last slot is known, outside of a run; `last_slot` is on the scale of the plan.

        Slots that get no run are reported as missed, with `why` as the reason. With `again`, the last slot itself gets
        a run, or is missed too where a later one is over. Returns whether it gets one.
        """
        gets_run = False

        def change(moment: Moment) -> None:
            nonlocal gets_run
            gap = task.plan.continue_from(last_slot, moment)
            gets_run = again and gap is None and task.plan.take_again(last_slot, moment)
            if again and not gets_run:
                self._report.passed(task, Gap(last_slot, last_slot, 1), why, moment)
            if gap is not None:
                self._report.passed(task, gap, why, moment)

        self.lookout.replan(task, change)
        return gets_run

    def begin_grid(self, task: ManagedTask, start: int) -> None:
        """Go on with a grid that another holder began at `start`, on the scale of the plan, and took no slot of.

        Slots that get no run are reported as missed.
        """

        def change(moment: Moment) -> None:
            if (gap := task.plan.begin_from(start, moment)) is not None:
                self._report.passed(task, gap, "lease_lost", moment)

        self.lookout.replan(task, change)

    def begin_now(self, task: ManagedTask) -> None:
        """Make this moment the next slot of the task."""
        self.lookout.replan(task, task.plan.begin_now)

    def report_cut_off(self, task: ManagedTask, gap: Gap, why: Literal["lease_lost", "down"]) -> None:
        """Report slots, on the scale of the plan, whose run was cut off, or never began, when its process died."""
        self._report.passed(task, gap, why, self.lookout.read())

    def report_missed(self, run: Run) -> None:
        """Report the older slots for which a run stood that was refused."""
        self._report.missed(run)

    def lose(self, run: Run, slot: int) -> None:
        """Report a slot whose run was cut off when its holder died; `run` is the first one of the next holder."""
        self._report.passed(run.managed, Gap(slot, slot, 1), "lease_lost", run.look.moment)

    def enrol(self, task: ManagedTask) -> None:
        """Have the fates of the task recorded, on the grid that it has now."""
        if self._report.recorder is not None:
            self._report.recorder.add(task)

    def note_gap(self, task: ManagedTask, reason: SkipReason, moment: Moment) -> None:
        """Record the slots up to a moment that no look has handed out, before the plan of the task moves on."""
        if isinstance(task, KeyedTask):
            self._intake.skip_keys(task, task.keys.left_over(moment), reason, moment)
        gap = None if self._report.recorder is None else task.plan.gap(moment)
        if gap is not None:
            self._report.gap(task, gap, reason, moment)

    def _give_up(self, run: Run, reason: GivenUp, *, with_older: bool = False) -> None:
        """Refuse a run that has not started, and make the one that waits behind it ready."""
        self._intake.give_up(run, reason, with_older=with_older)
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

    def age(self, run: Run) -> float:
        """Seconds since the run began."""
        return self._loop.time() - run.started

    def call_by(self, around: Callable[[Run], Awaitable[object]]) -> None:
        """Have the body of each attempt called by `around`, which has to await ``run.managed.call(run)``."""
        self._around = self._attempts.around = around

    def now(self) -> float:
        """The time of the loop, seconds."""
        return self._loop.time()

    def oldest_runs(self) -> dict[Standing, Run]:
        """Return the run in progress that started first, for each task that has one."""
        oldest: dict[Standing, Run] = {}
        for run in self._in_progress:
            for standing in {run.managed.standing: None, run.managed.whole.standing: None}:
                first = oldest.get(standing)
                if first is None or run.started < first.started:
                    oldest[standing] = run
        return oldest

    def trigger(self, task: ManagedTask, waiter: asyncio.Future[RunFinished] | None = None) -> Run:
        """Start a run now, outside the grid; the next slot stays. `waiter` gets the record when the run has ended.

        Raises
        ------
        AlreadyRunning
            A run of the task is in progress, and the task's `overlap` neither allows nor queues another one.
            Or the caller is a run that would wait for the end of the triggered run, which waits for the caller's own.
        ServiceStateError
            The runner is closed.
        """
        if not self.lookout.is_open:
            raise ServiceStateError(f"{task.full_name} cannot be triggered: the service is stopping")
        caller = None if waiter is None else self._caller()
        if caller is not None and task.options.overlap == "queue":
            self._refuse_circle(task, caller)
        run = self._intake.trigger(task, self.lookout.read(), waiter)
        if caller is not None and waiter is not None:
            self._callers[caller] = run
            waiter.add_done_callback(lambda _: self._callers.pop(caller, None))
        self._start_soon()
        return run

    def _caller(self) -> Run | None:
        """Find the run whose Task makes the present call; `None` = another Task does."""
        task = asyncio.current_task(self._loop)
        frame = getattr(None if task is None else task.get_coro(), "cr_frame", None)
        # By the outermost frame, since an eager Task is not known to its run while it makes its first step.
        if frame is None or frame.f_code is not Runner._live.__code__:
            return None
        run: Run = frame.f_locals["run"]
        return run if run.look.site is self._site else None

    def _refuse_circle(self, task: ManagedTask, caller: Run) -> None:
        """Refuse a run that would be queued behind `caller`, which is about to wait for that run's end.

        Raises
        ------
        AlreadyRunning
            It would; perhaps by way of other runs that wait for each other.
        """
        if not task.standing.running:
            return
        seen, ahead = {task.standing}, [task.standing]
        while ahead:
            standing = ahead.pop()
            if standing is caller.managed.standing:
                raise AlreadyRunning(
                    f"{task.full_name} cannot be awaited by {caller.run_id}, a run of {caller.full_name}: it is queued "
                    "until that run has ended; use trigger(wait=False)"
                )
            for run, awaited in self._callers.items():
                following = awaited.managed.standing
                if run.managed.standing is standing and following not in seen:
                    seen.add(following)
                    ahead.append(following)

    def cancel_asked(self, task: ManagedTask, run_id: str | None, by: str) -> tuple[str, ...]:
        """Cancel the task's runs in progress, or the one of this id; return the ids of those that were cancelled.

        A run that still goes on `LEAKED_AFTER` seconds later is reported.
        """
        found = [
            run
            for run in (*self._in_progress, *self._unbegun.values())
            if task.standing in (run.managed.standing, run.managed.whole.standing)
            and run_id in (None, run.run_id)
        ]
        for run in sorted(found, key=lambda run: run.number):
            if run.cause is None:
                run.cause = CancelledBy(by)
                self.lookout.set_deadline(run, to_us(self.age(run) + LEAKED_AFTER))
            if run.future is not None:
                run.future.cancel()
        return tuple(run.run_id for run in found)

    # Starting

    def _accept(self, batch: Batch[Run], moment: Moment) -> None:
        self._intake.accept(batch, moment, self.lookout.late_because)
        for task in batch.refreshes:
            self.refreshes.begin(task)
        self._start_ready()
        if moment.now >= self._stuck.look_at:
            self._stuck.look(moment)

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
            # A run that waits for another one needs no place meanwhile: else the other might never get one.
            busy = len(self._in_progress) + len(self._unbegun) - len(self._callers)
            room = min(room, self._max_runs - busy)
        return max(0, room)

    def _start(self, run: Run) -> None:
        managed = run.managed
        options = managed.plan.options
        run.started = self._loop.time()
        if options.switched_off is not None:
            self._give_up(run, "disabled")  # after the slot was handed out
            return
        if run.claim is not None and not self._intake.may_start(run):
            self._give_up(run, "lease_lost")
            return
        if options.misfire_grace is not None and run.is_too_late:
            self._give_up(run, "late")
            return
        body, make = self._live(run), _by_factory if self._has_factory else _new_task
        try:
            task = make(body, self._loop, run.label, self._context.copy())
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
            await (managed.call(run) if self._around is None else self._around(run))
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and self._is_abandoned(run):
                raise
            if managed.plan.options.retry is None or not self._attempts.follows(run, exc):
                self._end(run, exc)
                return
        else:
            if run.cause is None or not self._attempts.follows(run, None):
                self._end(run, None)
                return
        await self._attempts.live(
            run
        )  # not above, where each later error would have the first one as its context

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
            self._give_up(run, "disabled")
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
            task.set_name(run.label)

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
        if run.cause == "cancelled" or run in self._attempts:
            return  # by a stop, which reports the leaked runs itself; a delay between attempts does not count
        if run.cause is not None:
            self._report.leaked(run, self.age(run))
            return
        run.cause = "timed_out"
        if run.future is not None:
            run.future.cancel()
        self.lookout.set_deadline(run, to_us(self.age(run) + LEAKED_AFTER))

    def _end(self, run: Run, error: BaseException | None) -> None:
        """End a run: update its standing, then report, since listeners and log processors are the user's code."""
        if run.has_ended:
            return  # by its body, before an application's factory raised
        run.has_ended = True
        managed = run.managed
        standing = managed.standing
        standing.running -= 1
        duration = self._loop.time() - run.started
        if run.future is not None:
            standing.note_usual(duration, succeeded=error is None and run.cause is None)
            self._in_progress.discard(run)
            if run.reported is not None:
                self._progresses.forget(run)
            if run.place is not None:
                self.lookout.deadlines.remove(run)
            run.future = None  # the record of its end reads some fields of the run, and may be kept for long
        if standing.queued:
            self._release(standing)
        keyed = managed.each_key is not None
        if keyed:
            self._intake.leave_place(run)
        if self._ready:
            self._start_soon()
        if (
            error is None
            and run.cause is None
            and standing.trouble is None
            and managed.log_level is None
            and run.waiter is None
            and run.claim is None
            and not self._listeners
        ):
            # As `standing.end` does, whose call would cost as much as all of this.
            standing.outcome, standing.duration = Outcome.SUCCEEDED, duration
            standing.look, standing.planned = run.look, run.planned
            standing.on_wall, standing.started = run.on_wall, run.started
            record = run.managed.record
            if record is not None:
                record(run, duration)
        else:
            self._conclude(run, duration, error)
        if keyed:
            self._intake.let_go(run)

    def _conclude(self, run: Run, duration: float, error: BaseException | None) -> None:
        outcome, error = judge(run, error)
        if run.missed and not run.has_begun:
            self._report.missed(run)
        run.managed.standing.end(run, outcome, duration)
        run.failed = outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
        if run.claim is not None:
            self._intake.tell_gate(run, outcome)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._on_exit(error)
        # The record knows its run, so run, waiter and record would be a circle.
        waiter, run.waiter = run.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(record_of(run, outcome, duration, error))
        self._report.finished(run, outcome, duration, error)
        if run.failed:
            self._draw_consequences(run)
        elif outcome in GOOD:
            self._early.drop(run.managed)

    def _draw_consequences(self, run: Run) -> None:
        """Hold the task of a run that failed back, pause it, or plan an early run, as its options say."""
        managed = run.managed
        hold_back(run, self._report)
        if managed.hold is not None:
            self._intake.has_held = True
            for other in [one for one in self._ready if one.managed is managed and _is_held(one)]:
                self._ready.remove(other)  # a slot that was queued behind this run
                self._give_up(other, "backoff")
        if self._pause is not None and pauses_now(managed):
            self._pause(managed, why_paused(managed))
        if managed.plan.options.freshness is not None and self.lookout.is_open:
            self._early.plan(managed)

    def _start_early(self, managed: ManagedTask, moment: Moment) -> None:
        self._intake.start_early(managed, moment)
        self._start_soon()

    def _die(self, exc: BaseException) -> None:
        self.lookout.close()
        log.critical("scheduler.died", service=self._site.service, host=self._site.host, exc_info=exc)
        self._on_death(exc)


def _nothing() -> None:
    """Do nothing: nobody watches the event loop."""


def _is_held(run: Run) -> bool:
    return run.is_of_grid and run.managed.is_held(run.planned)


def _by_factory(body: Any, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> asyncio.Task[None]:
    """Make a Task by the application's task factory."""
    return loop.create_task(body, name=name, context=context)


if sys.version_info >= (3, 12):

    def _new_task(body: Any, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> asyncio.Task[None]:
        return asyncio.Task(body, loop=loop, name=name, context=context, eager_start=True)
else:

    def _new_task(body: Any, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> asyncio.Task[None]:
        return asyncio.Task(body, loop=loop, name=name, context=context)
