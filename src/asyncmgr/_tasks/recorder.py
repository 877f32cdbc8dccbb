"""`Recorder`: is told the fate of every slot. Rooms above implement it; without a service there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from asyncmgr._common.clock import Moment, Step
from asyncmgr._tasks.schedules import Gap
from asyncmgr.events import MissReason, Outcome, SkipReason

if TYPE_CHECKING:
    from asyncmgr._tasks.managed import ManagedTask, Standing
    from asyncmgr._tasks.runs import Run

Stall = Literal["blocked", "stopped"]
"""Why a look at the agenda came late: the event loop was blocked, or the process got no CPU."""


class Recorder(ABC):
    """Keeps the fates of slots. All methods are called in the event loop, never wait and never raise."""

    @abstractmethod
    def follow(self, oldest: Callable[[Standing], Run | None]) -> None:
        """Learn how to find a task's oldest run in progress, from the runner that begins to tell its fates."""

    @abstractmethod
    def add(self, task: ManagedTask) -> None:
        """Take in a task, or a task that has got a new grid: set its `key` and `record`, or `key_record`."""

    @abstractmethod
    def succeeded(self, run: Run, duration: float) -> None:
        """Record a run that succeeded. The runner's fast path calls the task's `record` itself."""

    @abstractmethod
    def ended(self, run: Run, duration: float, outcome: Outcome, error: BaseException | None) -> None:
        """Record any other end of a run."""

    @abstractmethod
    def skipped(
        self, run: Run, reason: SkipReason, *, holder: str | None = None, with_older: bool = False
    ) -> None:
        """Record that the slot of `run` gets no run; `holder` is the process that runs it instead.

        `with_older`: this is the fate of the older slots too that `run` would have stood for.
        """

    @abstractmethod
    def missed(self, run: Run, reason: MissReason) -> None:
        """Record the older slots that `run` stands for too, or would have stood for."""

    @abstractmethod
    def late(self, run: Run) -> None:
        """Record that the slot of `run` gets no run, nor do the older ones, because `misfire_grace` has passed."""

    @abstractmethod
    def gap(self, task: ManagedTask, gap: Gap, reason: SkipReason | MissReason, moment: Moment) -> None:
        """Record slots that nothing has looked at: those of a pause, for example. `moment` is the present one."""

    @abstractmethod
    def schedule_failed(self, task: ManagedTask, error: Exception, moment: Moment) -> None:
        """Record a slot that has no run because the schedule raised."""

    @abstractmethod
    def stepped(self, step: Step, moment: Moment) -> None:
        """Note a jump of the wall clock. `moment` is right after it."""

    @abstractmethod
    def stalled(self, kind: Stall, seconds: float, moment: Moment) -> None:
        """Note that a look at the agenda came so many seconds late."""
