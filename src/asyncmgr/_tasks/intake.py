"""Sorts the runs for the slots that the lookout hands over: ready to start, queued behind a run, or refused."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, cast

from asyncmgr._common.clock import Moment
from asyncmgr._common.log import is_reminder
from asyncmgr._tasks.agenda import MOST_AT_ONCE, Batch
from asyncmgr._tasks.gate import Answer, Gate
from asyncmgr._tasks.key_ring import KeySlot
from asyncmgr._tasks.keys import KeyedTask, KeyTask
from asyncmgr._tasks.managed import ManagedTask, Standing
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runs import Look, Run, Site
from asyncmgr.errors import AlreadyRunning, NotOwner, TaskFailed
from asyncmgr.events import MissReason, Outcome, RunFinished, SkipReason

GivenUp = Literal["draining", "removed", "paused", "disabled", "late", "lease_lost", "not_owner", "backoff"]
"""Why a run that was handed out does not start."""


class Intake:
    """The runs of one service that have not started.

    Parameters
    ----------
    site
        Where the runs happen.
    reporter
        Reports the slots that get no run.
    oldest
        Finds the run in progress that started first, by the standing of its task.
    """

    def __init__(self, site: Site, reporter: Reporter, *, oldest: Callable[[Standing], Run | None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._site = site
        self._report = reporter
        self._oldest = oldest
        self._numbers = itertools.count(1)
        self._queued: dict[Standing, Run] = {}
        self.gates: dict[ManagedTask, Gate] = {}
        """The tasks that only one process may run, each with what says whether this one may."""
        self._admitted: dict[Run, Gate] = {}
        """Runs that their gate has admitted and that have not ended. The task may have another gate by now."""
        self._asking: dict[Run, None] = {}
        """Runs that wait for the answer of their gate. Their tasks count as running already."""
        self._crowded: set[KeyedTask] = set()
        """Tasks with keys of which a run has had to wait for a place."""
        self.has_held = False
        """Whether a task was ever held back: only then does a slot cost the question whether its task is."""
        self.ready: deque[Run] = deque()
        """Runs to start next. Their tasks count as running already."""

    def accept(self, batch: Batch[Run], moment: Moment, late_because: MissReason) -> None:
        """Take in the slots that one look has found; `late_because` is the reason where it found older ones too."""
        look, numbers = Look(self._site, moment, self._loop.time(), late_because), self._numbers
        for run in batch.due:
            run.look, run.number = look, next(numbers)
            self._hand_out(run, moment)
        for run in batch.queued:
            run.look, run.number, run.asked = look, next(numbers), "queue"
            self._queue(run)
        for run in batch.refused:
            run.look, run.number = look, next(numbers)
            self._refuse(run, "overlap")
        for run in batch.gone:
            run.look, run.number = look, next(numbers)
            self._skip(run, "removed")
        for task, error in batch.failed:
            self._report.schedule_failed(task, error, moment)

    def skip_keys(
        self, task: KeyedTask, slots: Iterable[KeySlot], reason: SkipReason, moment: Moment
    ) -> None:
        """Refuse slots of keys that a look has found and not handed out."""
        look = self._look_at(moment)
        for slot in slots:
            run = Run(task.task_of(slot.key), slot.planned, slot.missed)
            if slot.missed:
                run.oldest = slot.planned - slot.missed * task.keys.ring.spacing
            run.look, run.number = look, next(self._numbers)
            self._skip(run, reason)

    def _skip(self, run: Run, reason: SkipReason) -> None:
        run.managed.standing.skipped += 1
        run.managed.standing.missed += run.missed
        self._report.skipped(run, reason)
        self.let_go(run)

    def trigger(self, task: ManagedTask, moment: Moment, waiter: asyncio.Future[RunFinished] | None) -> Run:
        """Take in a run that a handle asks for, outside the grid.

        Raises
        ------
        AlreadyRunning
            A run of the task is in progress, and the task's `overlap` neither allows nor queues another one.
        NotOwner
            Only one process may run the task, and it is another one.
        """
        run = Run(task, task.plan.reference(moment), 0)
        run.asked, run.look, run.number = "manual", self._look_at(moment), next(self._numbers)
        run.waiter = waiter
        standing, overlap = task.standing, task.options.overlap
        if standing.running and overlap == "queue" and not standing.queued:
            self._queue(run)  # and its gate is asked when its turn comes
            return run
        if standing.running and (overlap != "allow" or standing.running >= MOST_AT_ONCE):
            raise self._already_running(task)
        gate = self.gates.get(task.whole)
        if gate is not None and (answer := self._ask(gate, run)) != "run":
            raise _not_here(run, answer, gate)
        self._make_ready(run, moment.wall)
        return run

    def start_early(self, task: ManagedTask, moment: Moment) -> None:
        """Take in a run of a task that has failed, outside the grid, unless another process may run the task."""
        run = Run(task, task.plan.reference(moment), 0)
        run.asked, run.look, run.number = "retry", self._look_at(moment), next(self._numbers)
        gate = self.gates.get(task)
        if gate is None or self._ask(gate, run) == "run":
            self._make_ready(run, moment.wall)

    def start_queued(self, standing: Standing, moment: Moment) -> None:
        """Make the queued run ready, when the run before it has ended."""
        standing.queued = False
        self._hand_out(self._queued.pop(standing), moment)

    def unqueue(
        self, task: ManagedTask, reason: Literal["draining", "removed", "paused", "disabled", "not_owner"]
    ) -> None:
        """Refuse the run that is queued behind a run of the task, if there is one; of each key where it has keys.

        A pause lets a manual one wait.
        """
        if task.is_keyed:
            for each in tuple(cast("KeyedTask", task).active.values()):
                self.unqueue(each, reason)
        run = self._queued.get(task.standing)
        if run is not None and not (reason == "paused" and run.asked == "manual"):
            del self._queued[task.standing]
            task.standing.queued = False
            self._refuse(run, reason)

    def give_up(self, run: Run, reason: GivenUp, *, with_older: bool = False) -> None:
        """Refuse a run that was handed out and has not started.

        `with_older`: where another process may run its slot, so it may the older ones. Else the gate that may have
        claimed the slot tells of these.
        """
        run.managed.standing.running -= 1
        if run in self._asking:
            del self._asking[run]
        else:
            self.leave_place(run)
        try:
            if reason == "late":
                run.managed.standing.missed += 1
                self._report.late(run)
            else:
                self._report.skipped(run, reason, with_older=with_older)
        finally:  # the gate tells of the older slots that are left then
            self.tell_gate(run, None)
        _refuse_waiter(run, reason)
        self.let_go(run)

    def _refuse(self, run: Run, reason: SkipReason) -> None:
        """Refuse a run that was not handed out. A slot that another process may have run is refused for that reason."""
        standing, gate = run.managed.standing, self.gates.get(run.managed.whole)
        not_here = None if gate is None or not run.is_of_grid else gate.not_here(run)
        standing.skipped += 1
        if gate is not None and not_here is not None:
            self._skip_not_here(run, not_here, gate)
            return
        standing.missed += run.missed
        self._report.skipped(run, reason, self._in_the_way(run) if reason == "overlap" else None)
        _refuse_waiter(run, reason)
        self.let_go(run)

    def _skip_not_here(self, run: Run, answer: Answer, gate: Gate) -> None:
        # Only for listeners: a gate may have to ask the system for it.
        holder = gate.holder() if self._report.listeners else None
        in_the_way = self._in_the_way(run) if answer == "overlap" else None
        self._report.skipped(
            run, cast("SkipReason", answer), in_the_way, holder=holder, with_older=answer != "overlap"
        )
        _refuse_waiter(run, answer)
        self.let_go(run)

    def close(self) -> None:
        """Refuse all runs that have not started."""
        # Taken out before it is reported: an interrupt in a listener must not leave some of them to be started.
        while self.ready:
            self.give_up(self.ready.popleft(), "draining")
        for group in self._crowded:
            for run in tuple(group.waiting):
                self.give_up(run, "draining")
        while self._asking:
            self.give_up(next(iter(self._asking)), "draining")
        for run in tuple(self._queued.values()):
            self.unqueue(run.managed, "draining")

    def _hand_out(self, run: Run, moment: Moment) -> None:
        if not (self.gates or self.has_held):
            self._make_ready(run, moment.wall)
            return
        if self.has_held and run.is_of_grid and run.managed.is_held(run.planned):
            self._refuse(run, "backoff")
            return
        gate = self.gates.get(run.managed.whole)
        if gate is None:
            self._make_ready(run, moment.wall)
            return
        answer = self._ask(gate, run)
        if answer == "run":
            self._make_ready(run, moment.wall)
        elif answer == "later":
            run.managed.standing.running += 1
            self._asking[run] = None
        else:
            run.managed.standing.skipped += 1
            self._skip_not_here(run, answer, gate)

    def _make_ready(self, run: Run, wall: int) -> None:
        standing = run.managed.standing
        standing.running += 1
        standing.last_run = wall
        standing.missed += run.missed
        if run.managed.each_key is None or _keyed(run).enter(run):
            self.ready.append(run)
        else:
            self._crowded.add(_keyed(run))

    # Keys

    def leave_place(self, run: Run) -> None:
        """Note that a run of a key has ended, or never starts; make the one ready that waits for its place."""
        if run.managed.each_key is None:
            return
        following = _keyed(run).leave(run)
        if following is not None:
            self.ready.append(following)

    def let_go(self, run: Run) -> None:
        """Let go of an idle key, once the end of its run has been reported."""
        if run.managed.each_key is not None:
            _keyed(run).note(cast("KeyTask", run.managed), run.look.moment.wall)

    # Gates

    def _ask(self, gate: Gate, run: Run) -> Answer:
        answer = gate.ask(run)
        if answer == "run":
            self._admitted[run] = gate
        return answer

    def admit(self, run: Run) -> bool:
        """Make a run ready that waited for the answer of its gate; False where it was given up meanwhile."""
        if run not in self._asking:
            return False
        self._asking.pop(run)
        if (gate := self.gates.get(run.managed.whole)) is not None:
            self._admitted[run] = gate
        run.managed.standing.running -= 1
        self._make_ready(run, run.look.moment.wall)
        return True

    def not_ready(self) -> list[Run]:
        """List the runs that wait for a place, or for the answer of their gate."""
        return [*(run for group in self._crowded for run in group.waiting), *self._asking]

    def tell_gate(self, run: Run, outcome: Outcome | None) -> None:
        """Tell the gate that admitted the run how it ended; `None` = it never started."""
        gate = self._admitted.pop(run, None) if self._admitted else None
        if gate is not None:
            gate.ended(run, outcome)

    def may_start(self, run: Run) -> bool:
        """Whether the gate that admitted the run still lets it start."""
        gate = self._admitted.get(run)
        return gate is None or gate.still_holds(run)

    def _queue(self, run: Run) -> None:
        run.managed.standing.queued = True
        self._queued[run.managed.standing] = run

    def _look_at(self, moment: Moment) -> Look:
        return Look(self._site, moment, self._loop.time())

    def _in_the_way(self, run: Run) -> tuple[str, float] | None:
        """Find the run that this slot met, and its age in seconds. It is slow: do it only where the log shows it."""
        trouble = run.managed.standing.trouble
        if trouble is not None and not is_reminder(trouble.refused + 1):
            return None
        other = self._oldest(run.managed.standing)
        return None if other is None else (other.run_id, self._loop.time() - other.started)

    def _already_running(self, task: ManagedTask) -> AlreadyRunning:
        run = self._oldest(task.standing)
        if run is None:
            return AlreadyRunning(f"a run of {task.full_name} is about to start; wait for its end")
        age = self._loop.time() - run.started
        return AlreadyRunning(
            f"{task.full_name} is running: {run.run_id}, since {age:.1f} s; wait for its end, or give the task "
            "overlap='queue' or 'allow'"
        )


def _keyed(run: Run) -> KeyedTask:
    return cast("KeyTask", run.managed).group


def _not_here(run: Run, answer: Answer, gate: Gate) -> NotOwner:
    holder = gate.holder_for(run)
    where = f"{holder} holds it; trigger it there" if holder else "no process is known to hold it; try again"
    if answer == "later" or not gate.is_settled(run.managed):
        where = "this process is about to take it over, or to give it up; try again"
    if answer == "lease_lost":
        where = "this process has lost the store for too long, so another one may run it"
    return NotOwner(f"{run.full_name} cannot run here: {where}")


def _refuse_waiter(run: Run, reason: str) -> None:
    if run.waiter is not None and not run.waiter.done():
        run.waiter.set_exception(TaskFailed(f"{run.full_name} was not started: {reason}"))
