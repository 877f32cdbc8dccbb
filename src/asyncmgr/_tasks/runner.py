"""Waits for what the agenda plans and starts each run isolated from the others. The only place that runs bodies.

How a run is isolated without paying for a Task each: one Task, the *starter*, starts the due runs one after another,
stepping each body inside a context of its own. A body that never waits ends right there. A body that waits keeps the
Task it is on, which is its own from then on, and a new starter goes on with the rest. A task whose last run waited
gets a Task of its own from the beginning.

The life of a run:

* the agenda hands it out and raises its entry's `running`; it is ready (`_accept`);
* the starter makes its first step (`_begin`), or a Task of its own does (`_run_alone`);
* where it waits it is in `_waiting`, with its Task in `run.task`; a run that never waits has none (`_attend`);
* it ends, and `running` is lowered (`_end`), as for a slot that is given up before its start (`_give_up`, `close`).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Sized
from typing import Any

from asyncmgr._common.clock import SECOND, LoopClock, Moment, Step, to_us
from asyncmgr._common.heap import NO_TICKET, LazyHeap
from asyncmgr._common.log import log
from asyncmgr._tasks.agenda import Agenda, Batch, Entry
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runs import Look, Run, RunContext, Site
from asyncmgr.events import Outcome

LEAKED_AFTER = 10.0
"""Seconds that a body may go on after its timeout cancelled it, before it is reported."""

SET_BACK = 60.0
"""Seconds: a wall clock set back by more makes wall-clock schedules start over."""

_SHORTEST_SLEEP = 0.001
"""Seconds. uvloop rounds timers to milliseconds and may fire early; asking it for less is a busy loop."""

_LONGEST_TURN = 0.001
"""Seconds after which the loop gets its turn even if no callback waits: it may have sockets to look at."""

_ASK_AGAIN = 64
"""A task whose runs wait is tried without a Task of its own once in so many runs: it may have changed."""

_STARTS_PER_TURN = 16
"""How many Tasks are made for runs that will wait before the loop gets its turn."""

_ENDED: Any = object()

getrefcount: Callable[[object], int] = getattr(sys, "getrefcount", lambda _: 0)


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
    ) -> None:
        """Needs a running loop.

        `context` holds the variables that every run gets a copy of; `on_exit` is told of a run that raised
        `SystemExit` or `KeyboardInterrupt`, `on_death` of an error of the scheduler itself.
        """
        self._loop = asyncio.get_running_loop()
        self.clock: LoopClock = LoopClock(self._loop)
        self.agenda: Agenda[Run] = Agenda(Run, random_source)
        self._site = site
        self._report = reporter
        self._listeners = reporter.listeners.callbacks
        self._context = context
        self._own_context = context.copy()
        self._on_exit = on_exit
        self._on_death = on_death
        self._numbers = itertools.count(1)
        self._ready: deque[Run] = deque()
        self._queued: dict[Entry, Run] = {}
        self._waiting: set[Run] = set()
        self._deadlines: LazyHeap[Run] = LazyHeap()
        # A turn of the loop costs as much as a short run, so none is made for nobody: the loop's own queue tells
        # whether a callback waits. asyncio has no public name for it; without it a turn is made each time.
        self._others: Sized = getattr(self._loop, "_ready", "unknown")
        self._starter: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    # What a service asks of it

    def open(self) -> None:
        """Begin to start what is planned."""
        self._open = True
        self._set_timer(self._loop.time())

    @property
    def is_alive(self) -> bool:
        """The timer that everything hangs on is set and not overdue by more than a look at the clock."""
        return self._timer is not None and self._timer.when() + LoopClock.CHECK / SECOND > self._loop.time()

    @property
    def waiting(self) -> frozenset[Run]:
        """The runs in progress."""
        return frozenset(self._waiting)

    def close(self) -> None:
        """Start nothing more. Slots handed out and not yet started are refused."""
        self._open = False
        not_begun = [run for run in self._waiting if not run.begun]
        self._waiting.difference_update(not_begun)
        for run in (*self._ready, *not_begun):
            run.entry.running -= 1
        for run in self._queued.values():
            run.entry.queued = False
        for run in (*self._ready, *not_begun, *self._queued.values()):
            self._report.skipped(run.entry, run.slot, "stopping")
        self._ready.clear()
        self._queued.clear()

    def cancel(self, runs: Iterable[Run]) -> None:
        """Ask these runs to end."""
        for run in runs:
            run.cause = run.cause or "cancelled"
            if run.task is not None:
                run.task.cancel()

    def give_up(self) -> frozenset[Run]:
        """Report the runs that did not end although they were cancelled, and stop looking."""
        leaked = frozenset(run for run in self._waiting if run.task is not None and not run.task.done())
        for run in leaked:
            self._report.leaked(run, self._loop.time() - run.started)
        self._drop_timer()
        return leaked

    # What a manager asks of it

    def add(self, entry: Entry) -> None:
        self.agenda.add(entry)
        self._wake_in_time()

    def remove(self, entry: Entry) -> None:
        self.agenda.remove(entry)
        queued = self._queued.pop(entry, None)
        if queued is not None:
            entry.queued = False

    def reschedule(self, entry: Entry, options: PeriodicTask) -> None:
        """Plan the entry anew, and leave it to the manager to add it again where it is switched on."""
        self.agenda.remove(entry)
        entry.reschedule(options, self.clock.read(), by_service=True)

    # Waking up

    def _wake(self) -> None:
        self._timer = None
        try:
            self._look()
        except Exception as exc:
            self._die(exc)

    def _look(self) -> None:
        step = self.clock.notice_steps()
        moment = self.clock.read()
        if step is not None:
            self._take_step(step, moment)
        found = self._accept(self.agenda.take(moment), moment) if self._open else True
        self._expire()
        earliest = self._loop.time() + (0.0 if found else _SHORTEST_SLEEP)
        self._set_timer(max(earliest, self._next_look(moment)))

    def _next_look(self, moment: Moment) -> float:
        looks = [self._loop.time() + LoopClock.CHECK / SECOND]
        planned = self.agenda.next_wake(moment) if self._open else None
        if planned is not None:
            looks.append(self.clock.loop_time(planned))
        deadline = self._deadlines.head()
        if deadline is not None:
            looks.append(deadline[0] / SECOND)
        return min(looks)

    def _wake_in_time(self) -> None:
        if not self._open:
            return
        when = self._next_look(self.clock.read())
        if self._timer is None or when < self._timer.when():
            self._set_timer(when)

    def _set_timer(self, when: float) -> None:
        self._drop_timer()
        self._timer = self._loop.call_at(when, self._wake, context=self._own_context)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take_step(self, step: Step, moment: Moment) -> None:
        self._report.stepped(step)
        if step.kind == "back" and step.seconds > SET_BACK:
            self.agenda.set_back(moment)

    def _accept(self, batch: Batch[Run], moment: Moment) -> bool:
        look = Look(self._site, moment, self._loop.time())
        for run in (*batch.due, *batch.queued, *batch.refused):
            run.look, run.number = look, next(self._numbers)
        self._ready.extend(batch.due)
        for run in batch.queued:
            run.queued = True
            self._queued[run.entry] = run
        for run in batch.refused:
            self._report.skipped(run.entry, run.slot, "overlap")
        for entry, error in batch.failed:
            self._report.schedule_failed(entry, error, moment)
        self._start_ready()
        return bool(batch.due or batch.queued or batch.refused or batch.failed)

    def _die(self, exc: BaseException) -> None:
        self._open = False
        log.critical("scheduler.died", service=self._site.service, host=self._site.host, exc_info=exc)
        self._on_death(exc)

    # Starting runs

    def _start_ready(self) -> None:
        if self._ready and self._starter is None:
            self._starter = self._make_task(self._start_runs())

    def _make_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not by the loop's task factory: an application's eager one would start the run inside of the wake-up.
        return asyncio.Task(_begun(coroutine), loop=self._loop, context=self._own_context)

    async def _start_runs(self) -> None:
        starter: asyncio.Task[Any] | None = self._starter
        try:
            await _first_step()
            starter = asyncio.current_task()
            assert starter is not None
            await self._start_one_by_one(starter)
        except asyncio.CancelledError:
            # Somebody kept hold of this Task from a run that is over. Only this Task ends.
            pass
        except Exception as exc:
            self._die(exc)
        finally:
            self._step_down(starter or self._starter)

    def _step_down(self, starter: asyncio.Task[Any] | None) -> None:
        """This Task starts nothing more; another one goes on with what is ready."""
        if self._starter is starter:
            self._starter = None
            self._start_ready()

    @types.coroutine
    def _start_one_by_one(self, starter: asyncio.Task[None]) -> Generator[Any, Any, None]:
        turn_ends = self._loop.time() + _LONGEST_TURN
        alone = 0
        while self._ready:
            run = self._ready.popleft()
            entry = run.entry
            if entry.options.switched_off is not None:
                self._give_up(run)
                continue
            if entry.waits and entry.runs % _ASK_AGAIN:
                self._start_alone(run)
                alone += 1
                if alone % _STARTS_PER_TURN == 0:
                    yield
                continue
            # Whoever keeps hold of this Task from a run that is over could cancel a later one by it.
            references = getrefcount(starter)
            awaited = self._begin(run, starter)
            if awaited is not _ENDED:
                self._step_down(starter)
                yield from self._attend(run, awaited)
                return
            if starter.cancelling() or getrefcount(starter) > references:
                return
            if self._others or run.started > turn_ends:
                yield  # to the event loop, between any two starts that somebody waits for
                turn_ends = self._loop.time() + _LONGEST_TURN

    def _start_alone(self, run: Run) -> None:
        """Start a run whose task waited the last time: in a Task and a context of its own from the beginning."""
        run.begun = False
        run.started = self._loop.time()
        body = _begun(self._run_alone(run))
        run.task = asyncio.Task(body, loop=self._loop, name=run.entry.full_name, context=self._context.copy())
        self._waiting.add(run)

    def _give_up(self, run: Run) -> None:
        """Its task was removed or switched off after the slot was handed out."""
        run.entry.running -= 1
        self._report.skipped(run.entry, run.slot, "removed")

    async def _run_alone(self, run: Run) -> None:
        entry = run.entry
        try:
            await _first_step()
            if not self._open:
                return  # `close` has refused it
            run.begun = True
            run.started = self._loop.time()
            entry.runs += 1
            if run.missed or entry.skipping:
                self._report.starting(run)
            timeout = entry.options.timeout
            if timeout is not None:
                self._set_deadline(run, timeout)
            await entry.call(RunContext(run))
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and asyncio.current_task(self._loop) is not run.task:
                self._waiting.discard(run)
                raise  # the loop is gone, and this is cleared away
            if run in self._waiting:
                self._end(run, exc)
        else:
            self._end(run, None)

    def _begin(self, run: Run, starter: asyncio.Task[None]) -> Any:
        """Make the first step of a run on the starter; what it waits for, or `_ENDED`."""
        entry = run.entry
        run.started = self._loop.time()
        run.scope = self._context.copy()
        entry.runs += 1
        if run.missed or entry.skipping:
            self._report.starting(run)
        starter.set_name(entry.full_name)
        try:
            run.body = entry.call(RunContext(run))
            resume = run.body.send
        except BaseException as exc:
            return self._end(run, exc)
        try:
            awaited = run.scope.run(resume, None)
        except StopIteration:
            return self._end(run, None)
        except BaseException as exc:
            return self._end(run, exc)
        entry.waits = True
        return awaited

    @types.coroutine
    def _attend(self, run: Run, awaited: Any) -> Generator[Any, Any, None]:
        """Hand what the body waits for to the Task that it is on, and what the Task answers back to the body."""
        self._begin_to_wait(run)
        body, enter = run.body, run.scope.run
        resume: Callable[[Any], Any]
        while True:
            try:
                value = yield awaited
            except GeneratorExit:
                self._waiting.discard(run)
                enter(body.close)
                raise
            except BaseException as exc:
                resume, value = body.throw, exc
            else:
                resume = body.send
            try:
                awaited = enter(resume, value)
            except StopIteration:
                self._end(run, None)
                return
            except BaseException as exc:
                self._end(run, exc)
                return

    def _begin_to_wait(self, run: Run) -> None:
        run.task = asyncio.current_task()
        run.begun = True
        self._waiting.add(run)
        timeout = run.entry.options.timeout
        if timeout is not None:
            self._set_deadline(run, timeout)

    def _set_deadline(self, run: Run, timeout: int) -> None:
        self._deadlines.push(to_us(run.started) + timeout, run)
        self._wake_by(run.started + timeout / SECOND)

    # Ending runs

    def _end(self, run: Run, error: BaseException | None) -> Any:
        entry = run.entry
        entry.running -= 1
        if run.task is None:
            entry.waits = False
        else:
            self._waiting.discard(run)
            if run.ticket != NO_TICKET:
                self._deadlines.remove(run)
        if error is not None or run.cause is not None or entry.failures or entry.log_level or self._listeners:
            self._conclude(run, error)
        if entry.queued:
            self._start_queued(entry)
        return _ENDED

    def _conclude(self, run: Run, error: BaseException | None) -> None:
        outcome, error = _judge(run, error)
        self._report.finished(run, outcome, self._loop.time() - run.started, error)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._on_exit(error)

    def _start_queued(self, entry: Entry) -> None:
        run = self._queued.pop(entry, None)
        entry.queued = False
        if run is not None and self._open:
            entry.running += 1
            entry.last_run = self.clock.read().wall
            self._ready.append(run)
            self._start_ready()

    # Timeouts

    def _wake_by(self, when: float) -> None:
        if self._timer is not None and when < self._timer.when():
            self._set_timer(when)

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


@types.coroutine
def _first_step() -> Generator[None, None, None]:
    """Wait for the Task's own first step; a cancellation that comes before it is raised here."""
    yield


def _begun(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    """Step a coroutine up to its `_first_step`, inside its `try`: else a Task cancelled early would skip its end."""
    coroutine.send(None)
    return coroutine


def _judge(run: Run, error: BaseException | None) -> tuple[Outcome, BaseException | None]:
    """How a run ended: who cancelled decides, not what the body raised."""
    if run.cause == "timed_out":
        timeout = (run.entry.options.timeout or 0) / SECOND
        late = TimeoutError(f"{run.entry.full_name} ran longer than its timeout of {timeout:g} s")
        late.__cause__ = error
        return Outcome.TIMED_OUT, late
    if error is None:
        return Outcome.SUCCEEDED, None
    return (Outcome.CANCELLED if isinstance(error, asyncio.CancelledError) else Outcome.FAILED), error
