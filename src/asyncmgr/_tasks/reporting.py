"""Turns what happens to runs and slots into log events and listeners' records. Logs changes of state, not states."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from asyncmgr._common.clock import Moment, Step, to_datetime
from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import error_text
from asyncmgr._tasks.agenda import Entry
from asyncmgr._tasks.failures import Episode
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
        """A run ended. Nothing is built where nobody listens and nothing changed.

        Raises nothing but a `KeyboardInterrupt` that arrives in a listener or a log processor. The entry's counters
        are right by then.
        """
        entry = run.entry
        if outcome is Outcome.CANCELLED and run.cause == "cancelled":
            log.info("task.cancelled", **self._keys(run), reason="stopping")
        elif outcome is not Outcome.SUCCEEDED:
            self._failed(run, outcome, error)
        elif entry.failures:
            self._recovered(run)
        if entry.log_level is not None and outcome is Outcome.SUCCEEDED:
            log.at(entry.log_level, "task.succeeded", **self._keys(run), duration=round(duration, 6))
        if self.listeners:
            self.listeners.tell(
                RunFinished(
                    entry.full_name, run.run_id, run.trigger, run.slot, run.lateness, duration, outcome, error
                )
            )

    def _failed(self, run: Run, outcome: Outcome, error: BaseException | None) -> None:
        """Log the first failure and each new kind of error with its traceback, and the rest at 2, 4, 8 ..."""
        entry = run.entry
        entry.failures += 1
        if entry.failures == 1 or entry.episode is None:
            entry.episode = Episode(run.slot)
        keys = {**self._keys(run), "outcome": str(outcome), "failures": entry.failures}
        if entry.episode.is_news(error):
            log.error("task.failed", **keys, exc_info=error)
        elif is_reminder(entry.failures):
            log.warning("task.still_failing", **keys, error=_text(error))

    def _recovered(self, run: Run) -> None:
        entry = run.entry
        failures, episode = entry.failures, entry.episode
        entry.failures, entry.episode = 0, None
        lasted = 0.0 if episode is None else (run.slot - episode.since).total_seconds()
        log.info("task.recovered", **self._keys(run), after_failures=failures, failing_for=max(0.0, lasted))

    def leaked(self, run: Run, running_for: float) -> None:
        """A run goes on although it was cancelled."""
        log.error("task.leaked", **self._keys(run), running_for=round(running_for, 3))
        if self.listeners:
            self.listeners.tell(RunLeaked(run.entry.full_name, run.run_id, run.slot, running_for))

    def skipped(
        self, entry: Entry, slot: datetime, reason: Literal["overlap", "stopping", "removed"]
    ) -> None:
        """A slot was refused; of the refusals that a run in the way causes the 1st, 2nd, 4th, 8th ... are logged."""
        if reason == "overlap":
            entry.skipping += 1
            if is_reminder(entry.skipping):
                self._log_overlap(entry, slot)
        if self.listeners:
            self.listeners.tell(SlotSkipped(entry.full_name, slot, reason))

    def _log_overlap(self, entry: Entry, slot: datetime) -> None:
        log.warning(
            "slot.skipped",
            task=entry.full_name,
            slot=slot.isoformat(),
            host=self._host,
            reason="overlap",
            skipped=entry.skipping,
            running_for=_age(entry, slot),
        )

    def starting(self, run: Run) -> None:
        """A run starts after slots that had none: missed ones, or skipped ones."""
        entry = run.entry
        skipped, entry.skipping = entry.skipping, 0
        if run.missed:
            self.missed(run)
        if skipped:
            log.info("slot.resumed", task=entry.full_name, host=self._host, skipped=skipped)

    def missed(self, run: Run) -> None:
        """One run stands for slots that have passed."""
        log.warning("slot.missed", **self._keys(run), count=run.missed)
        if self.listeners:
            self.listeners.tell(SlotsMissed(run.entry.full_name, run.slot, run.missed))

    def schedule_failed(self, entry: Entry, error: Exception, moment: Moment) -> None:
        """A schedule raised; its slot is over."""
        entry.failures += 1
        if entry.failures == 1 or entry.episode is None:
            entry.episode = Episode(to_datetime(moment.wall))
        if entry.episode.is_news(error) or is_reminder(entry.failures):
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


def _age(entry: Entry, slot: datetime) -> float:
    """Seconds that the run in the way had lasted at the slot; of several the youngest."""
    if entry.last_run is None:
        return 0.0
    return round(max(0.0, (slot - to_datetime(entry.last_run)).total_seconds()), 3)


def _text(error: BaseException | None) -> str:
    return "" if error is None else error_text(error)
