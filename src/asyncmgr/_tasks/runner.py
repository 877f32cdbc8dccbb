"""Waits for what the agenda plans and starts each run as an asyncio Task of its own. The only place that starts them.

The life of a run:

* a look at the agenda hands it out: its task counts as running, and it is ready (`_accept`);
* it gets its Task (`_start`), in bounded batches, between which the event loop gets its turn;
* the Task's outermost frame is `_live`: it calls the body, and nothing that the body does leaves it;
* it ends and its outcome is judged and reported (`_end`), or its slot is given up before that (`_give_up`).

Where Python can (3.12 on) a Task is eager: a body that never waits has ended when the Task is made. Elsewhere, and
with a task factory of the application's, its first step may come later, and a cancellation may come before it
(`_unbegun`).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from asyncmgr._common.clock import SECOND, LoopClock, Moment, Step, to_us
from asyncmgr._common.heap import NO_TICKET, LazyHeap
from asyncmgr._common.log import is_reminder, log
from asyncmgr._tasks.agenda import MOST_AT_ONCE, Agenda, Batch
from asyncmgr._tasks.managed import ManagedTask, Standing
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.reporting import Reporter, record_of
from asyncmgr._tasks.runs import Look, Run, RunContext, Site, judge
from asyncmgr.errors import AlreadyRunning, ServiceStateError, TaskFailed
from asyncmgr.events import Outcome, RunFinished

LEAKED_AFTER = 10.0
"""Seconds that a body may go on after its timeout cancelled it, before it is reported."""

SET_BACK = 60.0
"""Seconds: a wall clock set back by more makes wall-clock schedules start over."""

_SHORTEST_SLEEP = 0.001
"""Seconds. uvloop rounds timers to milliseconds and may fire early; asking it again and again is a busy loop."""

_LONGEST_TURN = 0.001
"""Seconds for which runs are started before the event loop gets its turn."""

_MOST_IN_A_TURN = 128
"""How many runs are started before the event loop gets its turn, however short they are."""

_MOST_UNBEGUN = 64
"""So many Tasks may wait for their first step: the event loop makes all those steps in one turn."""

_Make = Callable[..., "asyncio.Task[None]"]
_make_task: _Make = asyncio.Task if sys.version_info < (3, 12) else partial(asyncio.Task, eager_start=True)


class Runner:
    """One timer, one agenda, the runs of one service."""

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
        """Needs a running loop.

        `context` holds the variables that every run gets a copy of; `on_exit` is told of a run that raised
        `SystemExit` or `KeyboardInterrupt`, `on_death` of an error of the scheduler itself; `max_runs` is the number
        of runs in progress at once, `None` = any.
        """
        self._loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        """The loop's thread: nothing here may be touched from another one."""
        self.clock = LoopClock(self._loop)
        self.agenda: Agenda[Run] = Agenda(Run, random_source)
        self._site = site
        self._report = reporter
        self._listeners = reporter.listeners.callbacks
        self._context = context
        self._own_context = context.copy()
        self._on_exit = on_exit
        self._on_death = on_death
        self._max_runs = sys.maxsize if max_runs is None else max_runs
        self._numbers = itertools.count(1)
        self._ready: deque[Run] = deque()
        self._queued: dict[Standing, Run] = {}
        self._unbegun: dict[asyncio.Future[None], Run] = {}
        """Runs whose Task has not made its first step."""
        self._in_progress: set[Run] = set()
        """Runs whose Task has, and waits for something."""
        self._deadlines: LazyHeap[Run] = LazyHeap()
        self._timer: asyncio.TimerHandle | None = None
        self._unfollow: Callable[[], None] = lambda: None
        self._will_start = False
        self._found_nothing = False
        self._open = False

    # What a service asks of it

    def open(self) -> None:
        """Begin to start what is planned."""
        self._open = True
        self._set_timer(self._loop.time())
        self._unfollow = self.clock.follow(lambda: self._wake_by(self._loop.time()))

    @property
    def is_alive(self) -> bool:
        """The timer that everything hangs on is set and not overdue by more than a look at the clock."""
        return self._timer is not None and self._timer.when() + LoopClock.CHECK / SECOND > self._loop.time()

    @property
    def waiting(self) -> frozenset[Run]:
        """The runs in progress."""
        return frozenset(self._in_progress)

    def running_for(self) -> dict[Standing, float]:
        """Seconds since the oldest run in progress of each task that has one was started."""
        now = self._loop.time()
        ages: dict[Standing, float] = {}
        for run in self._in_progress:
            standing = run.managed.standing
            ages[standing] = max(ages.get(standing, 0.0), now - run.started)
        return ages

    def close(self) -> None:
        """Start nothing more. Slots handed out and not yet started are refused."""
        self._open = False
        begun_never = (*self._ready, *self._unbegun.values())
        for run in begun_never:
            self._give_up(run, "draining")
        for run in tuple(self._queued.values()):
            self._unqueue(run.managed, "draining")
        self._ready.clear()
        self._unbegun.clear()

    def cancel(self, runs: Iterable[Run]) -> None:
        """Ask these runs to end."""
        for run in runs:
            run.cause = run.cause or "cancelled"
            if run.task is not None:
                run.task.cancel()

    def give_up(self) -> frozenset[Run]:
        """Report the runs that did not end although they were cancelled, and stop looking."""
        leaked = frozenset(run for run in self._in_progress if run.task is not None and not run.task.done())
        for run in leaked:
            self._report.leaked(run, self._loop.time() - run.started)
        self._drop_timer()
        return leaked

    # What a manager asks of it

    def add(self, task: ManagedTask) -> None:
        self.agenda.add(task)
        self._wake_in_time()

    def remove(self, task: ManagedTask, reason: Literal["removed", "paused"] = "removed") -> None:
        """Plan it no more; a run in progress goes on."""
        self.agenda.remove(task)
        self._unqueue(task, reason)

    def reschedule(self, task: ManagedTask, options: PeriodicTask) -> None:
        """Plan the task anew, and leave it to the manager to add it again where it is switched on."""
        self.agenda.remove(task)
        task.plan.reschedule(options, self.clock.read(), by_service=True)

    def trigger(self, task: ManagedTask, waiter: asyncio.Future[RunFinished] | None = None) -> Run:
        """Start a run now, beside the grid; the next slot stays. `waiter` gets the record when it has ended.

        Raises
        ------
        AlreadyRunning
            A run of the task is in progress, and its `overlap` allows no other and none to be queued.
        ServiceStateError
            Nothing is started any more.
        """
        if not self._open:
            raise ServiceStateError(f"{task.full_name} cannot be triggered: the service is stopping")
        moment = self.clock.read()
        run = Run(task, task.plan.reference(moment), 0)
        run.asked, run.look, run.number = "manual", self._look_at(moment), next(self._numbers)
        run.waiter = waiter
        standing, overlap = task.standing, task.options.overlap
        if standing.running and overlap == "queue" and not standing.queued:
            self._queue(run)
        elif standing.running and (overlap != "allow" or standing.running >= MOST_AT_ONCE):
            raise self._already_running(task)
        else:
            self._hand_out(run)
            self._start_soon()
        return run

    def _already_running(self, task: ManagedTask) -> AlreadyRunning:
        run = self.oldest(task.standing)
        if run is None:
            return AlreadyRunning(f"a run of {task.full_name} is about to start; wait for its end")
        age = self._loop.time() - run.started
        return AlreadyRunning(
            f"{task.full_name} is running: {run.run_id}, since {age:.1f} s; wait for its end, or give the task "
            "overlap='queue' or 'allow'"
        )

    def _in_the_way(self, run: Run) -> tuple[str, float] | None:
        """The run that this slot met, and its age in seconds; not looked for where nobody will read it."""
        trouble = run.managed.standing.trouble
        if trouble is not None and not is_reminder(trouble.refused + 1):
            return None
        other = self.oldest(run.managed.standing)
        return None if other is None else (other.run_id, self._loop.time() - other.started)

    def oldest(self, standing: Standing) -> Run | None:
        """The run in progress that was started first."""
        runs = (run for run in self._in_progress if run.managed.standing is standing)
        return min(runs, key=lambda run: run.started, default=None)

    # Waking up

    def _wake(self) -> None:
        try:
            self._look()
        except Exception as exc:
            self._die(exc)
        else:
            self._start_ready()

    def _look(self) -> None:
        step = self.clock.notice_steps()
        moment = self.clock.read()
        if step is not None:
            self._take_step(step, moment)
        batch = self.agenda.take(moment) if self._open else Batch[Run]()
        self._expire()
        # Before anything of the batch is told or started: whatever happens there, there will be another look.
        self._set_timer(self._loop.time() if batch.is_full else self._sleep_until(moment, found=len(batch)))
        self._accept(batch, moment)

    def _sleep_until(self, moment: Moment, *, found: int) -> float:
        """When to look again. After two looks in a row for nothing not at once: the loop's timers are that coarse."""
        now, when = self._loop.time(), self._next_look(moment)
        earliest = now + _SHORTEST_SLEEP if self._found_nothing and not found else now
        self._found_nothing = not found
        return max(earliest, when)

    def _next_look(self, moment: Moment) -> float:
        looks = [self._loop.time() + self.clock.check / SECOND]
        planned = self.agenda.next_wake(moment) if self._open else None
        if planned is not None:
            looks.append(self.clock.loop_time(planned))
        deadline = self._deadlines.head()
        if deadline is not None:
            looks.append(deadline[0] / SECOND)
        return min(looks)

    def _wake_in_time(self) -> None:
        if self._open:
            self._wake_by(self._next_look(self.clock.read()))

    def _wake_by(self, when: float) -> None:
        if self._timer is None or when < self._timer.when():
            self._set_timer(when)

    def _set_timer(self, when: float) -> None:
        # The new one first: a call that fails must not leave the schedule without a timer.
        before, self._timer = self._timer, self._loop.call_at(when, self._wake, context=self._own_context)
        if before is not None:
            before.cancel()

    def _drop_timer(self) -> None:
        self._unfollow()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take_step(self, step: Step, moment: Moment) -> None:
        self._report.stepped(step)
        if step.kind == "back" and step.seconds > SET_BACK:
            self.agenda.set_back(moment)

    def _look_at(self, moment: Moment) -> Look:
        return Look(self._site, moment, self._loop.time())

    def _accept(self, batch: Batch[Run], moment: Moment) -> None:
        look, numbers = self._look_at(moment), self._numbers
        for run in batch.due:
            run.look, run.number = look, next(numbers)
            self._hand_out(run)
        for run in batch.queued:
            run.look, run.number, run.asked = look, next(numbers), "queue"
            self._queue(run)
        for run in batch.refused:
            run.look, run.number = look, next(numbers)
            run.managed.standing.skipped += 1
            self._report.skipped(run, "overlap", self._in_the_way(run))
        for task, error in batch.failed:
            self._report.schedule_failed(task, error, moment)

    def _die(self, exc: BaseException) -> None:
        self._open = False
        log.critical("scheduler.died", service=self._site.service, host=self._site.host, exc_info=exc)
        self._on_death(exc)

    # From the slot to the start

    def _hand_out(self, run: Run) -> None:
        standing = run.managed.standing
        standing.running += 1
        standing.last_run = run.look.moment.wall
        standing.missed += run.missed
        self._ready.append(run)

    def _queue(self, run: Run) -> None:
        run.managed.standing.queued = True
        self._queued[run.managed.standing] = run

    def _unqueue(self, task: ManagedTask, reason: Literal["draining", "removed", "paused"]) -> None:
        run = self._queued.pop(task.standing, None)
        if run is not None:
            task.standing.queued = False
            self._report.skipped(run, reason)
            _refuse_waiter(run, reason)

    def _start_queued(self, standing: Standing) -> None:
        run = self._queued.pop(standing)
        standing.queued = False
        standing.running += 1
        standing.last_run = self.clock.read().wall
        self._ready.append(run)

    def _give_up(self, run: Run, reason: Literal["draining", "removed", "late"]) -> None:
        """It is handed out, and will not be started."""
        run.managed.standing.running -= 1
        if reason == "late":
            run.managed.standing.missed += 1
            self._report.late(run)
        else:
            self._report.skipped(run, reason)
        _refuse_waiter(run, reason)

    def _start_soon(self) -> None:
        if self._ready and not self._will_start:
            self._will_start = True
            self._loop.call_soon(self._start_ready, context=self._own_context)

    def _start_ready(self) -> None:
        """Start what is ready, for a millisecond; the rest when the event loop has had its turn."""
        self._will_start = True
        ready, turn_ends = self._ready, self._loop.time() + _LONGEST_TURN
        try:
            for _ in range(_MOST_IN_A_TURN):
                if not ready or not self._has_place() or len(self._unbegun) >= _MOST_UNBEGUN:
                    break
                run = ready.popleft()
                self._start(run)
                if run.started > turn_ends:
                    break
        finally:
            self._will_start = False
            if self._has_place():
                self._start_soon()

    def _has_place(self) -> bool:
        return len(self._in_progress) + len(self._unbegun) < self._max_runs

    def _start(self, run: Run) -> None:
        managed = run.managed
        run.started = self._loop.time()
        if managed.plan.options.switched_off is not None:
            self._give_up(run, "removed")  # or switched off, after the slot was handed out
            return
        if run.is_too_late:
            self._give_up(run, "late")
            return
        body = self._live(run)
        make = _make_task if self._loop.get_task_factory() is None else _by_factory
        try:
            task = make(body, loop=self._loop, name=managed.full_name, context=self._context.copy())
        except Exception as exc:  # a task factory of the application's
            body.close()
            self._end(run, exc)
            return
        if task.done():
            return
        if run.has_begun:
            self._attend(run, task)
        else:
            run.task = task
            self._unbegun[task] = run
            task.add_done_callback(self._never_began)

    def _never_began(self, task: asyncio.Future[None]) -> None:
        """Its Task was cancelled before its first step."""
        run = self._unbegun.pop(task, None)
        if run is not None:
            self._end(run, asyncio.CancelledError())

    # The run

    async def _live(self, run: Run) -> None:
        if run.task is not None and not self._has_first_step(run, run.task):
            return
        run.has_begun = True
        run.managed.standing.runs += 1
        if run.missed or run.managed.standing.trouble is not None:
            self._report.starting(run)
        try:
            await run.managed.call(RunContext(run))
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and self._is_abandoned(run):
                raise
            self._end(run, exc)
        else:
            self._end(run, None)

    def _is_abandoned(self, run: Run) -> bool:
        """The loop is gone, and the frame of a run in progress is cleared away."""
        if run.task is None or asyncio.current_task(self._loop) is run.task:
            return False
        self._in_progress.discard(run)
        return True

    def _has_first_step(self, run: Run, task: asyncio.Future[None]) -> bool:
        """It begins now, later than it got its Task; False: it was given up meanwhile."""
        if self._unbegun.pop(task, None) is None:
            return False
        task.remove_done_callback(self._never_began)
        run.started = self._loop.time()
        self._attend(run, task)
        return True

    def _attend(self, run: Run, task: asyncio.Future[None]) -> None:
        """The run waits for something, or may: it can be cancelled, and its timeout counts."""
        run.task = task
        self._in_progress.add(run)
        timeout = run.managed.plan.options.timeout
        if timeout is not None:
            self._deadlines.push(to_us(run.started) + timeout, run)
            self._wake_by(run.started + timeout / SECOND)

    def _end(self, run: Run, error: BaseException | None) -> None:
        """The books first, then what calls the user's code: listeners and the log."""
        standing = run.managed.standing
        standing.running -= 1
        duration = standing.duration = self._loop.time() - run.started
        if run.task is not None:
            self._in_progress.discard(run)
            if run.ticket != NO_TICKET:
                self._deadlines.remove(run)
        if standing.queued and not standing.running and self._open:
            self._start_queued(standing)
        if self._ready:
            self._start_soon()
        if (
            error is None
            and run.cause is None
            and standing.trouble is None
            and run.managed.log_level is None
            and run.waiter is None
            and not self._listeners
        ):
            standing.outcome = Outcome.SUCCEEDED
        else:
            self._conclude(run, duration, error)

    def _conclude(self, run: Run, duration: float, error: BaseException | None) -> None:
        outcome, error = judge(run, error)
        run.managed.standing.outcome = outcome
        run.failed = outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._on_exit(error)
        self._report.finished(run, outcome, duration, error)
        if run.waiter is not None and not run.waiter.done():
            run.waiter.set_result(record_of(run, outcome, duration, error))

    # Timeouts

    def _expire(self) -> None:
        now = to_us(self._loop.time())
        while (head := self._deadlines.head()) is not None and head[0] <= now:
            self._deadlines.pop()
            self._overdue(head[2])

    def _overdue(self, run: Run) -> None:
        if run.cause == "cancelled":
            return  # by a stop, which reports what is left itself
        if run.cause is not None:
            self._report.leaked(run, self._loop.time() - run.started)
            return
        run.cause = "timed_out"
        if run.task is not None:
            run.task.cancel()
        self._deadlines.push(to_us(self._loop.time() + LEAKED_AFTER), run)


def _by_factory(body: Any, *, loop: asyncio.AbstractEventLoop, name: str, context: Any) -> Any:
    """A Task as the application's factory makes it."""
    return loop.create_task(body, name=name, context=context)


def _refuse_waiter(run: Run, reason: str) -> None:
    if run.waiter is not None and not run.waiter.done():
        run.waiter.set_exception(TaskFailed(f"{run.full_name} was not started: {reason}"))
