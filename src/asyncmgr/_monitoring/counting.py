"""`Counting`: the recorder that counts runs and slots, around the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncmgr._common.clock import SECOND, Moment, Step
from asyncmgr._monitoring.around import Around
from asyncmgr._monitoring.counts import BUCKETS, TaskCounts
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.recorder import Recorder
from asyncmgr.events import MissReason, Outcome, SkipReason

if TYPE_CHECKING:
    from asyncmgr._tasks.managed import ManagedTask
    from asyncmgr._tasks.runs import Run
    from asyncmgr._tasks.schedules import Gap

_RESULT = {"paused": "paused", "not_owner": "not_owner", "backoff": "held", "late": "late"}
_MISSES = ("suspended", "clock", "blocked", "stopped", "down")
_FAST = BUCKETS[0]


class Counting(Around):
    """The recorder that counts. What it is told it tells the ledger too."""

    def __init__(self, inner: Recorder | None, counts_of: Callable[[ManagedTask], TaskCounts]) -> None:
        super().__init__(inner)
        self._counts_of = counts_of
        self.steps: Counter[str] = Counter()
        """Jumps of the wall clock, by kind."""

    def add(self, task: ManagedTask) -> None:
        super().add(task)
        counts = self._counts_of(task)
        task.record = _counting(task.record, counts)
        if isinstance(task, KeyedTask):
            task.key_record = record = _counting(task.key_record, counts)
            for key_task in task.active.values():
                key_task.record = record

    def succeeded(self, run: Run, duration: float) -> None:
        record = run.managed.record
        if record is not None:
            record(run, duration)

    def ended(self, run: Run, duration: float, outcome: Outcome, error: BaseException | None) -> None:
        super().ended(run, duration, outcome, error)
        counts = self._counts_of(run.managed)
        late = max(0.0, run.lateness)
        setattr(counts, outcome.value, getattr(counts, outcome.value) + 1)
        counts.duration += duration
        counts.lateness += late
        counts.manager.durations.add(duration)
        counts.manager.latenesses.add(late)
        if run.asked == "manual":
            counts.manual += 1

    def skipped(
        self, run: Run, reason: SkipReason, *, holder: str | None = None, with_older: bool = False
    ) -> None:
        super().skipped(run, reason, holder=holder, with_older=with_older)
        if run.asked not in ("manual", "pass"):
            slots = run.missed + 1 if with_older else 1
            self._count(run.managed, _RESULT.get(reason, "skipped"), slots)

    def missed(self, run: Run, reason: MissReason) -> None:
        super().missed(run, reason)
        self._count(run.managed, "missed", run.missed)

    def late(self, run: Run) -> None:
        super().late(run)
        self._count(run.managed, "late", run.missed + 1)

    def gap(self, task: ManagedTask, gap: Gap, reason: SkipReason | MissReason, moment: Moment) -> None:
        super().gap(task, gap, reason, moment)
        result = "missed" if reason in _MISSES else _RESULT.get(reason, "skipped")
        self._count(task, result, gap.slots)

    def stepped(self, step: Step, moment: Moment) -> None:
        super().stepped(step, moment)
        self.steps[step.kind] += 1

    def _count(self, task: ManagedTask, result: str, slots: int) -> None:
        self._counts_of(task).slots[result] += slots


def _counting(
    record: Callable[[Run, float], None] | None, counts: TaskCounts
) -> Callable[[Run, float], None]:
    """Make the function that counts a run which succeeded. A closure, with `lateness` inlined, costs it the least."""
    durations, latenesses = counts.manager.durations, counts.manager.latenesses
    short, soon = durations.counts, latenesses.counts

    def count(run: Run, duration: float) -> None:
        if record is not None:
            record(run, duration)
        counts.succeeded += 1
        counts.duration += duration
        if duration <= _FAST:
            short[0] += 1
            durations.total += duration
        else:
            durations.add(duration)
        look = run.look
        moment = look.moment
        late = ((moment.wall if run.on_wall else moment.now) - run.planned) / SECOND + run.started - look.at
        if late <= 0:
            soon[0] += 1
        else:
            counts.lateness += late
            latenesses.add(late)
        if run.asked == "manual":
            counts.manual += 1

    return count
