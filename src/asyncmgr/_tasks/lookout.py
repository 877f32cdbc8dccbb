"""Looks at the agenda when a slot is due, and hands over what it finds. It has the only timer of a service's tasks."""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections.abc import Callable

from asyncmgr._common.clock import SECOND, LoopClock, Moment, Step, to_us
from asyncmgr._common.heap import LazyHeap
from asyncmgr._common.timer import Timer
from asyncmgr._tasks.agenda import Agenda, Batch
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.recorder import Stall
from asyncmgr._tasks.runs import Run
from asyncmgr.events import MissReason

SET_BACK = 60.0
"""Seconds. Where the wall clock is set back by more than this, wall-clock schedules are planned anew."""

STALL = 1.0
"""Seconds by which a look comes late where the event loop was blocked, or the process was stopped."""
LATE = 0.02
"""Seconds from which on a late look is worth a word to whoever watches the event loop."""

_SHORTEST_SLEEP = 0.001
"""Seconds. uvloop rounds timers to milliseconds and may fire early; setting one again at once is a busy loop."""


class Lookout:
    """The clock, the agenda and the one timer of a service. An event loop must be running.

    Parameters
    ----------
    random_source
        Draws the jitter.
    context
        The context in which the looks are made.
    accept
        Called with the batch that a look has found.
    expire
        Called with each run whose deadline has passed.
    stepped
        Called with each jump of the wall clock, and the moment right after it.
    stalled
        Called where a look comes more than `STALL` seconds late: why, how late, and when.
    die
        Called with the error that a look raised: the schedule has ended.
    """

    def __init__(
        self,
        *,
        random_source: random.Random,
        context: contextvars.Context,
        accept: Callable[[Batch[Run], Moment], None],
        expire: Callable[[Run], None],
        stepped: Callable[[Step, Moment], None],
        stalled: Callable[[Stall, float, Moment], None],
        die: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.clock = LoopClock(self._loop)
        self.agenda: Agenda[Run] = Agenda(Run, random_source)
        self.deadlines: LazyHeap[Run] = LazyHeap()
        """Runs by the end of their timeout, in loop time, microseconds."""
        self._accept = accept
        self._expire = expire
        self._stepped = stepped
        self._stalled = stalled
        self._die = die
        self._timer = Timer(self._wake, loop=self._loop, context=context)
        self._unfollow: Callable[[], None] = lambda: None
        self._on_step: list[Callable[[], object]] = []
        self._found_nothing = False
        self._jump: Step | None = None
        """The largest jump forward since the last look."""
        self.kind_of_stall: Callable[[float], Stall] = _blocked
        """Says why a look comes late by so many seconds. Whoever watches the event loop knows it better."""
        self.late_because: MissReason = "blocked"
        """Why slots passed before the present look could find them."""
        self.on_late: Callable[[float, Batch[Run], Moment], None] = _nothing
        """Called with a look that came late by more than `LATE` seconds: how late, and what it found."""
        self.is_open = False
        """Whether slots are handed out."""
        self.looks = 0
        """The number of looks so far."""
        self.looked_at = self._loop.time()
        """The loop time of the last look, seconds."""
        self.lag = 0.0
        """Seconds by which the last look came late."""
        self._is_behind = False
        """Whether the last look has left some slots that were due to the next one."""
        self._look_every = math.inf
        self._on_look: Callable[[], object] | None = None

    def open(self) -> None:
        """Begin to hand out slots."""
        self.is_open = True
        self._timer.set(self._loop.time())
        self._unfollow = self.clock.follow(lambda: self._timer.set_by(self._loop.time()))

    def close(self) -> None:
        """Hand out no more slots. Deadlines go on to expire."""
        self.is_open = False

    def end(self) -> None:
        """End all looks: deadlines expire no more."""
        self._unfollow()
        self._timer.drop()

    def follow_steps(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` after each jump of the wall clock; return a function that ends this."""
        self._on_step.append(callback)
        return lambda: self._on_step.remove(callback)

    def follow_looks(self, callback: Callable[[], object], *, every: float) -> None:
        """Call `callback`, which raises nothing, at each look, and look at least so often (seconds).

        That goes on after `close`, until `end`.
        """
        self._on_look, self._look_every = callback, every

    @property
    def is_alive(self) -> bool:
        """Whether the timer is set, and overdue by no more than the time between two looks at the clock."""
        return self._timer.is_set and self._timer.when + LoopClock.CHECK / SECOND > self._loop.time()

    def unwatch(self) -> None:
        """Tell nobody any more of late looks, and ask nobody why they are."""
        self.on_late, self.kind_of_stall = _nothing, _blocked

    @property
    def overdue(self) -> float:
        """For how many seconds the next look has been due; negative while it is not."""
        return self._loop.time() - self._timer.when

    def add(self, task: ManagedTask) -> None:
        """Take in a planned task."""
        self.agenda.add(task)
        if self.is_open:
            # A slot that a gate has put in the past is due now: the look for it does not come late.
            self._timer.set_by(max(self._loop.time(), self._next_look(self.clock.read())))

    def remove(self, task: ManagedTask) -> None:
        """Take the task out of the agenda. It may be absent."""
        self.agenda.remove(task)

    def reschedule(self, task: ManagedTask, options: PeriodicTask) -> None:
        """Plan the task anew. The caller adds it again where it is switched on."""
        moment = self.read()
        self.agenda.remove(task)
        task.plan.reschedule(options, moment, by_service=True)

    def replan(self, task: ManagedTask, change: Callable[[Moment], object]) -> None:
        """Change the plan of a task, and its place in the agenda where it has one. An error of `change` is raised."""
        moment = self.read()
        is_planned = task.lane is not None
        self.agenda.remove(task)
        try:
            change(moment)
        finally:
            if is_planned:
                self.add(task)

    def set_deadline(self, run: Run, timeout: int) -> None:
        """Let the run expire `timeout` microseconds after its start."""
        if run.place is not None:
            self.deadlines.remove(run)
        self.deadlines.push(to_us(run.started) + timeout, run)
        self._timer.set_by(run.started + timeout / SECOND)

    # Looking

    def _wake(self) -> None:
        try:
            self._look()
        except Exception as exc:
            self._die(exc)

    def _look(self) -> None:
        # Set before anything calls a listener, in which an interrupt may land: another look follows in any case.
        now = self._loop.time()
        self._timer.set(now + _SHORTEST_SLEEP)
        late = now - self._timer.rang_for
        self.looks, self.looked_at, self.lag = self.looks + 1, now, max(0.0, late)
        if self._on_look is not None:
            self._on_look()
        moment = self.read()
        stall = self.kind_of_stall(late) if late >= STALL else "blocked"
        if self._jump is not None or not self._is_behind:  # else it is the cause of the look that was full
            self.late_because = self._why_late(late, stall)
        if late >= STALL and self._jump is None:
            self._stalled(stall, late, moment)
        self._jump = None
        self._expire_deadlines()
        batch = self.agenda.take(moment) if self.is_open else Batch[Run]()
        self._is_behind = batch.is_full
        if late > LATE:
            self.on_late(late, batch, moment)
        self._timer.set(self._loop.time() if batch.is_full else self._sleep_until(moment, found=len(batch)))
        self._accept(batch, moment)

    def _why_late(self, late: float, stall: Stall) -> MissReason:
        jump = self._jump
        if jump is not None and jump.seconds >= late:
            return "suspended" if jump.is_sleep else "clock"
        return stall

    def read(self) -> Moment:
        """Read the clock; a step of the wall that no look has noticed yet is taken first."""
        step = self.clock.notice_steps()
        moment = self.clock.read()
        if step is not None:
            self._timer.set_by(self._loop.time())
            self._take_step(step, moment)
        return moment

    def _take_step(self, step: Step, moment: Moment) -> None:
        self._stepped(step, moment)
        if step.kind == "forward" and (self._jump is None or step.seconds > self._jump.seconds):
            self._jump = step
        if step.kind == "back" and step.seconds > SET_BACK:
            self.agenda.set_back(moment)
        elif step.kind == "forward":
            self.agenda.set_forward(moment)
        for callback in tuple(self._on_step):
            callback()

    def _expire_deadlines(self) -> None:
        now = to_us(self._loop.time())
        while (head := self.deadlines.head()) is not None and head[0] <= now:
            run = head[2]  # before its place lets go of it
            self.deadlines.pop()
            self._expire(run)

    # The timer

    def _sleep_until(self, moment: Moment, *, found: int) -> float:
        """Choose the loop time of the next look; not now after two that found nothing, since timers are coarse."""
        now, when = self._loop.time(), self._next_look(moment)
        earliest = now + _SHORTEST_SLEEP if self._found_nothing and not found else now
        self._found_nothing = not found
        return max(earliest, when)

    def _next_look(self, moment: Moment) -> float:
        looks = [self._loop.time() + min(self.clock.check / SECOND, self._look_every)]
        planned = self.agenda.next_wake(moment) if self.is_open else None
        if planned is not None:
            looks.append(self.clock.loop_time(planned))
        deadline = self.deadlines.head()
        if deadline is not None:
            looks.append(deadline[0] / SECOND)
        return min(looks)


def _blocked(seconds: float) -> Stall:
    """Say what is likely where nobody watches the event loop."""
    return "blocked"


def _nothing(late: float, batch: Batch[Run], moment: Moment) -> None:
    """Do nothing: nobody watches the event loop."""
