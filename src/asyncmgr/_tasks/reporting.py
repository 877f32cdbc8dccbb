"""Reports runs and slots to the log and to listeners. The log gets changes of state and not every failure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from asyncmgr._common.clock import Moment, Step, to_datetime
from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import error_text
from asyncmgr._tasks.failures import Episode
from asyncmgr._tasks.managed import ManagedTask, Standing, Trouble
from asyncmgr._tasks.runs import Run
from asyncmgr.events import (
    ClockStepped,
    Listeners,
    LoopBlocked,
    Outcome,
    RunFinished,
    RunLeaked,
    ScheduleFailed,
    SlotSkipped,
    SlotsMissed,
)

Reason = Literal["overlap", "draining", "removed", "paused", "not_owner", "lease_lost"]


class Reporter:
    """Reports for one service, or for the passes of one manager."""

    def __init__(self, host: str) -> None:
        self.listeners = Listeners()
        self._host = host

    def finished(self, run: Run, outcome: Outcome, duration: float, error: BaseException | None) -> None:
        """Report the end of a run.

        This raises nothing but a `KeyboardInterrupt` that arrives in a listener or a log processor. The caller has
        updated the standing before.
        """
        managed = run.managed
        if outcome is Outcome.CANCELLED and run.cause == "cancelled":
            log.info("task.cancelled", **self._keys(run), reason="stopping")
        elif outcome is Outcome.CANCELLED and run.cause == "lease_lost":
            log.warning("task.cancelled", **self._keys(run), reason="lease_lost")
        elif outcome in (Outcome.SUCCEEDED, Outcome.NOTHING):
            self._recovered(run)
        else:
            self._failed(run, outcome, error)
        if managed.log_level is not None and outcome is Outcome.SUCCEEDED:
            log.at(managed.log_level, "task.succeeded", **self._keys(run), duration=round(duration, 6))
        if self.listeners:
            self.listeners.tell(record_of(run, outcome, duration, error))

    def _recovered(self, run: Run) -> None:
        standing = run.managed.standing
        trouble = standing.trouble
        if trouble is None or not trouble.failures:
            return
        failures, episode = trouble.failures, trouble.episode
        trouble.failures, trouble.text, trouble.episode = 0, "", None
        _forget(standing)
        lasted = 0.0 if episode is None else (run.slot - episode.since).total_seconds()
        log.info("task.recovered", **self._keys(run), after_failures=failures, failing_for=max(0.0, lasted))

    def _failed(self, run: Run, outcome: Outcome, error: BaseException | None) -> None:
        """Log the first failure and each new kind of error with its traceback, others only at the 2nd, 4th, 8th ..."""
        trouble = _failing(run.managed.standing, run.slot, error)
        keys = {**self._keys(run), "outcome": str(outcome), "failures": trouble.failures}
        if trouble.is_news:
            log.error("task.failed", **keys, exc_info=error)
        elif is_reminder(trouble.failures):
            log.warning("task.still_failing", **keys, error=trouble.text)

    def leaked(self, run: Run, running_for: float) -> None:
        """Report a run that goes on although it was cancelled."""
        log.error("task.leaked", **self._keys(run), running_for=round(running_for, 3))
        if self.listeners:
            self.listeners.tell(RunLeaked(run.full_name, run.run_id, run.slot, running_for))

    def skipped(
        self,
        run: Run,
        reason: Reason,
        in_the_way: tuple[str, float] | None = None,
        *,
        holder: str | None = None,
    ) -> None:
        """Report a slot that gets no run. `in_the_way`: the id of the run that it met, and its age in seconds.

        `holder` is the process that runs the task instead, where it is not this one.
        """
        if run.missed and reason != "not_owner":  # the older slots get no run either
            self.missed(run)
        if reason == "overlap":
            self._refused(run, in_the_way)
        if self.listeners:
            self.listeners.tell(SlotSkipped(run.full_name, run.slot, reason, holder))

    def _refused(self, run: Run, in_the_way: tuple[str, float] | None) -> None:
        trouble = _trouble(run.managed.standing)
        trouble.refused += 1
        if is_reminder(trouble.refused):
            run_id, age = in_the_way or ("", 0.0)
            log.warning(
                "slot.skipped",
                task=run.full_name,
                slot=run.slot.isoformat(),
                host=self._host,
                reason="overlap",
                skipped=trouble.refused,
                running=run_id,
                running_for=round(age, 3),
            )

    def starting(self, run: Run) -> None:
        """Report the start of a run after slots that got no run: missed ones, or skipped ones."""
        trouble = run.managed.standing.trouble
        skipped = 0
        if trouble is not None:
            skipped, trouble.refused = trouble.refused, 0
            _forget(run.managed.standing)
        if run.missed:
            self.missed(run)
        if skipped:
            log.info("slot.resumed", task=run.full_name, host=self._host, skipped=skipped)

    def missed(self, run: Run) -> None:
        """Report the missed slots for which this run stands, or would have stood."""
        why = None if run.claim is None else run.claim.stands_for
        reason = {} if why is None else {"reason": why}
        log.warning("slot.missed", **self._keys(run), count=run.missed, **reason)
        if self.listeners:
            self.listeners.tell(
                SlotsMissed(run.full_name, run.slot, run.missed, reason=why, run_id=run.run_id)
            )

    def lost(self, run: Run, slot: int, count: int, reason: Literal["lease_lost", "down"]) -> None:
        """Report slots that got no whole run by any process, at the first run of the process that goes on with them.

        `slot` is the latest of them, on the scale of `run`. `lease_lost`: its holder died during its run. `down`: no
        process was there to run it, and the task catches up with none.
        """
        self.passed(run.managed, run.slot_at(slot), count, reason)

    def passed(
        self, managed: ManagedTask, slot: datetime, count: int, reason: Literal["lease_lost", "down"]
    ) -> None:
        """Report slots for which no run stands; `slot` is the latest of them."""
        log.warning(
            "slot.missed",
            task=managed.full_name,
            slot=slot.isoformat(),
            host=self._host,
            count=count,
            reason=reason,
        )
        if self.listeners:
            self.listeners.tell(SlotsMissed(managed.full_name, slot, count, reason=reason))

    def late(self, run: Run) -> None:
        """Report a slot that gets no run because `misfire_grace` has passed."""
        log.warning(
            "slot.missed", **self._keys(run), count=run.missed + 1, reason="late", lateness=run.lateness
        )
        if self.listeners:
            self.listeners.tell(SlotsMissed(run.full_name, run.slot, run.missed + 1, reason="late"))

    def schedule_failed(self, managed: ManagedTask, error: Exception, moment: Moment) -> None:
        """Report a schedule that raised. The slot gets no run."""
        trouble = _failing(managed.standing, to_datetime(moment.wall), error)
        if trouble.is_news or is_reminder(trouble.failures):
            log.error("schedule.failed", task=managed.full_name, host=self._host, exc_info=error)
        if self.listeners:
            self.listeners.tell(ScheduleFailed(managed.full_name, error))

    def stepped(self, step: Step) -> None:
        """Report that the wall clock jumped or stands still."""
        log.warning("clock.stepped", kind=step.kind, seconds=round(step.seconds, 3), host=self._host)
        if self.listeners:
            self.listeners.tell(ClockStepped(step.kind, step.seconds))

    def blocked(self, block: LoopBlocked) -> None:
        """Report a block of the event loop that is over; the watch has logged it."""
        if self.listeners:
            self.listeners.tell(block)

    def _keys(self, run: Run) -> dict[str, object]:
        return {
            "task": run.full_name,
            "run_id": run.run_id,
            "slot": run.slot.isoformat(),
            "trigger": run.trigger,
            "host": self._host,
        }


def record_of(run: Run, outcome: Outcome, duration: float, error: BaseException | None) -> RunFinished:
    """Make the record of a run's end, for listeners and for the caller that triggered the run."""
    return RunFinished(
        run.full_name, run.run_id, run.trigger, run.slot, run.lateness, duration, outcome, error
    )


def _trouble(standing: Standing) -> Trouble:
    if standing.trouble is None:
        standing.trouble = Trouble()
    return standing.trouble


def _forget(standing: Standing) -> None:
    trouble = standing.trouble
    if trouble is not None and not trouble.failures and not trouble.refused:
        standing.trouble = None


def _failing(standing: Standing, at: datetime, error: BaseException | None) -> Trouble:
    """Count one more failure in the standing; return the standing's trouble."""
    trouble = _trouble(standing)
    trouble.failures += 1
    trouble.text = "" if error is None else error_text(error)
    if trouble.episode is None:
        trouble.episode = Episode(at)
    trouble.is_news = trouble.episode.is_news(error)
    return trouble
