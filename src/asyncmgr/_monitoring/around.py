"""`Around`: a recorder around another one, which is told everything. Subclasses add to single methods."""

from __future__ import annotations

from collections.abc import Callable

from asyncmgr._common.clock import Moment, Step
from asyncmgr._tasks.managed import ManagedTask, Standing
from asyncmgr._tasks.recorder import Recorder, Stall
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.schedules import Gap
from asyncmgr.events import MissReason, Outcome, SkipReason


class Around(Recorder):
    """Passes everything on to another recorder."""

    def __init__(self, inner: Recorder | None) -> None:
        self._inner = inner

    def follow(self, oldest: Callable[[Standing], Run | None]) -> None:
        if self._inner is not None:
            self._inner.follow(oldest)

    def add(self, task: ManagedTask) -> None:
        if self._inner is not None:
            self._inner.add(task)

    def succeeded(self, run: Run, duration: float) -> None:
        if (inner := self._inner) is not None:
            inner.succeeded(run, duration)

    def ended(self, run: Run, duration: float, outcome: Outcome, error: BaseException | None) -> None:
        if (inner := self._inner) is not None:
            inner.ended(run, duration, outcome, error)

    def skipped(
        self, run: Run, reason: SkipReason, *, holder: str | None = None, with_older: bool = False
    ) -> None:
        if (inner := self._inner) is not None:
            inner.skipped(run, reason, holder=holder, with_older=with_older)

    def missed(self, run: Run, reason: MissReason) -> None:
        if (inner := self._inner) is not None:
            inner.missed(run, reason)

    def late(self, run: Run) -> None:
        if (inner := self._inner) is not None:
            inner.late(run)

    def gap(self, task: ManagedTask, gap: Gap, reason: SkipReason | MissReason, moment: Moment) -> None:
        if self._inner is not None:
            self._inner.gap(task, gap, reason, moment)

    def schedule_failed(self, task: ManagedTask, error: Exception, moment: Moment) -> None:
        if self._inner is not None:
            self._inner.schedule_failed(task, error, moment)

    def stepped(self, step: Step, moment: Moment) -> None:
        if self._inner is not None:
            self._inner.stepped(step, moment)

    def stalled(self, kind: Stall, seconds: float, moment: Moment) -> None:
        if self._inner is not None:
            self._inner.stalled(kind, seconds, moment)
