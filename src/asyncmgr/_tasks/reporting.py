"""Turns what happens to runs and slots into log events and listeners' records. Logs changes of state, not states."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from asyncmgr._common.clock import Moment, Step
from asyncmgr._common.log import is_reminder, log
from asyncmgr._tasks.agenda import Entry
from asyncmgr._tasks.runs import Run
from asyncmgr.events import (
    ClockStepped,
    Listeners,
    Outcome,
    RunFinished,
    RunLeaked,
    ScheduleFailed,
    SlotSkipped,
    SlotsMissed,
)


class Reporter:
    """Reports for one service."""

    def __init__(self, host: str) -> None:
        self.listeners: Listeners = Listeners()
        self._host = host

    def finished(self, run: Run, outcome: Outcome, duration: float, error: BaseException | None) -> None:
        """A run ended. Nothing is built where nobody listens and nothing changed."""
        entry = run.entry
        if outcome is Outcome.CANCELLED and run.cause == "cancelled":
            log.info("task.cancelled", **self._keys(run), reason="stopping")
        elif outcome is not Outcome.SUCCEEDED:
            self._failed(run, outcome, error)
        elif entry.failures:
            log.info("task.recovered", **self._keys(run), after_failures=entry.failures)
            entry.failures = 0
        if entry.log_level is not None and outcome is Outcome.SUCCEEDED:
            log.at(entry.log_level, "task.succeeded", **self._keys(run), duration=round(duration, 6))
        if self.listeners:
            self.listeners.tell(
                RunFinished(
                    entry.full_name, run.run_id, run.trigger, run.slot, run.lateness, duration, outcome, error
                )
            )

    def _failed(self, run: Run, outcome: Outcome, error: BaseException | None) -> None:
        entry = run.entry
        entry.failures += 1
        if entry.failures == 1:
            log.error("task.failed", **self._keys(run), outcome=str(outcome), exc_info=error)
        elif is_reminder(entry.failures):
            log.warning(
                "task.still_failing",
                **self._keys(run),
                outcome=str(outcome),
                failures=entry.failures,
                error=repr(error),
            )

    def leaked(self, run: Run, running_for: float) -> None:
        """A run goes on although it was cancelled."""
        log.error("task.leaked", **self._keys(run), running_for=round(running_for, 3))
        if self.listeners:
            self.listeners.tell(RunLeaked(run.entry.full_name, run.run_id, run.slot, running_for))

    def skipped(
        self, entry: Entry, slot: datetime, reason: Literal["overlap", "stopping", "removed"]
    ) -> None:
        """A slot was refused: logged when it begins to happen."""
        if not entry.skipping and reason == "overlap":
            entry.skipping = True
            log.warning(
                "slot.skipped", task=entry.full_name, slot=slot.isoformat(), host=self._host, reason=reason
            )
        if self.listeners:
            self.listeners.tell(SlotSkipped(entry.full_name, slot, reason))

    def starting(self, run: Run) -> None:
        """A run starts after slots that had none: missed ones, or skipped ones."""
        if run.missed:
            self.missed(run)
        entry = run.entry
        if entry.skipping:
            entry.skipping = False
            log.info("slot.resumed", task=entry.full_name, host=self._host, skipped=entry.skipped)

    def missed(self, run: Run) -> None:
        """One run stands for slots that have passed."""
        log.warning("slot.missed", **self._keys(run), count=run.missed)
        if self.listeners:
            self.listeners.tell(SlotsMissed(run.entry.full_name, run.slot, run.missed))

    def schedule_failed(self, entry: Entry, error: Exception, moment: Moment) -> None:
        """A schedule raised; its slot is over."""
        entry.failures += 1
        if is_reminder(entry.failures):
            log.error("schedule.failed", task=entry.full_name, host=self._host, exc_info=error)
        if self.listeners:
            self.listeners.tell(ScheduleFailed(entry.full_name, error))

    def stepped(self, step: Step) -> None:
        """The wall clock jumped or stands still."""
        log.warning("clock.stepped", kind=step.kind, seconds=round(step.seconds, 3), host=self._host)
        if self.listeners:
            self.listeners.tell(ClockStepped(step.kind, step.seconds))

    def _keys(self, run: Run) -> dict[str, object]:
        return {
            "task": run.entry.full_name,
            "run_id": run.run_id,
            "slot": run.slot.isoformat(),
            "trigger": run.trigger,
            "host": self._host,
        }
