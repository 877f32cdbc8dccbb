"""Reports runs and slots to the log and to listeners. The log gets changes of state and not every failure."""

from __future__ import annotations

from datetime import datetime

from asyncmgr._common.clock import Moment, Step, to_datetime
from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import error_text
from asyncmgr._tasks.failures import Episode
from asyncmgr._tasks.key_floods import LINES, KeyFloods
from asyncmgr._tasks.managed import ManagedTask, Standing, Trouble
from asyncmgr._tasks.recorder import Recorder, Stall
from asyncmgr._tasks.runs import CancelledBy, Run
from asyncmgr._tasks.schedules import Gap
from asyncmgr.events import (
    ClockStepped,
    Listeners,
    LoopBlocked,
    MissReason,
    Outcome,
    RunFinished,
    RunLeaked,
    ScheduleFailed,
    SkipReason,
    SlotSkipped,
    SlotsMissed,
    run_finished,
)


class Reporter:
    """Reports for one service, or for the passes of one manager."""

    def __init__(self, host: str) -> None:
        self.listeners = Listeners()
        self.recorder: Recorder | None = None
        """Keeps the fates of slots; `None` = nobody does, as in passes."""
        self._floods = KeyFloods()
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
        elif outcome is Outcome.CANCELLED and isinstance(run.cause, CancelledBy):
            log.warning("task.cancelled", **self._keys(run), reason="asked", by=run.cause.name)
        elif outcome in (Outcome.SUCCEEDED, Outcome.NOTHING):
            self._recovered(run)
        else:
            self._failed(run, outcome, error)
        if managed.log_level is not None and outcome is Outcome.SUCCEEDED:
            log.at(managed.log_level, "task.succeeded", **self._keys(run), duration=round(duration, 6))
        if (recorder := self.recorder) is not None:
            if outcome is Outcome.SUCCEEDED:
                recorder.succeeded(run, duration)
            else:
                recorder.ended(run, duration, outcome, error)
        if self.listeners:
            self.listeners.tell(record_of(run, outcome, duration, error))

    def _recovered(self, run: Run) -> None:
        standing = run.managed.standing
        trouble = standing.trouble
        if trouble is None:
            return
        trouble.last_success = None
        if not trouble.failures:
            forget(standing)
            return
        failures, episode = trouble.failures, trouble.episode
        trouble.failures, trouble.text, trouble.episode, trouble.hold = 0, "", None, None
        forget(standing)
        lasted = 0.0 if episode is None else (run.slot - episode.since).total_seconds()
        if (flood := self._flood(run, "task.recovered")) is not None:
            lasted = max(0.0, lasted)
            log.info(
                "task.recovered", **self._keys(run), after_failures=failures, failing_for=lasted, **flood
            )

    def _failed(self, run: Run, outcome: Outcome, error: BaseException | None) -> None:
        """Log the first failure and each new kind of error with its traceback, others only at the 2nd, 4th, 8th ..."""
        trouble = _failing(run.managed.standing, run.slot, error)
        if not (trouble.is_news or is_reminder(trouble.failures)):
            return
        flood = self._flood(run, "task.failed" if trouble.is_news else "task.still_failing")
        if flood is None:
            return
        keys = {**self._keys(run), "outcome": str(outcome), "failures": trouble.failures, **flood}
        if trouble.is_news:
            log.error("task.failed", **keys, exc_info=error)
        else:
            log.warning("task.still_failing", **keys, error=trouble.text)

    def retrying(self, run: Run, seconds: float, error: BaseException) -> None:
        """Report that a run is tried again so many seconds after an attempt that ended with `error`.

        At `info` once for each run, and not for those of a task that is failing already.
        """
        keys = {**self._keys(run), "attempt": run.attempt, "delay": round(seconds, 3)}
        trouble = run.managed.standing.trouble
        if run.attempt == 1 and (trouble is None or not trouble.failures):
            log.info("task.retrying", **keys, error=error_text(error))
        else:
            log.debug("task.retrying", **keys, error=error_text(error))

    def held_back(self, managed: ManagedTask, failures: int, spacing: float) -> None:
        """Report that a task runs more seldom from now on, since it has failed so often in a row."""
        log.info(
            "task.held_back", task=managed.full_name, host=self._host, failures=failures, spacing=spacing
        )

    def hung(self, run: Run, running_for: float, where: str | None) -> None:
        """Report that a run hangs; `where` is the line in which it waits."""
        log.warning("task.hung", **self._keys(run), running_for=round(running_for, 3), where=where)

    def unstuck(self, run: Run) -> None:
        """Report that a run that hung has ended."""
        log.info("task.unstuck", **self._keys(run))

    def leaked(self, run: Run, running_for: float) -> None:
        """Report a run that goes on although it was cancelled."""
        log.error("task.leaked", **self._keys(run), running_for=round(running_for, 3))
        if self.listeners:
            self.listeners.tell(RunLeaked(run.full_name, run.run_id, run.slot, running_for, key=run.key))

    def skipped(
        self,
        run: Run,
        reason: SkipReason,
        in_the_way: tuple[str, float] | None = None,
        *,
        holder: str | None = None,
        with_older: bool = False,
    ) -> None:
        """Report a slot that gets no run. `in_the_way`: the id of the run that it met, and its age in seconds.

        `holder` is the process that runs the task instead, where it is not this one. `with_older`: another process may
        have run the older slots for which this run stands, and so their fate is this one's.
        """
        if run.missed and reason not in ("not_owner", "lease_lost"):  # the older slots get no run either
            self.missed(run)  # of those that another process may catch up, that one reports
        if (recorder := self.recorder) is not None:
            recorder.skipped(run, reason, holder=holder, with_older=with_older and run.missed > 0)
        if reason == "overlap":
            self._refused(run, in_the_way)
        if self.listeners:
            self.listeners.tell(SlotSkipped(run.full_name, run.slot, reason, holder, key=run.key))

    def _refused(self, run: Run, in_the_way: tuple[str, float] | None) -> None:
        trouble = run.managed.standing.in_trouble()
        trouble.refused += 1
        if is_reminder(trouble.refused) and (flood := self._flood(run, "slot.skipped")) is not None:
            run_id, age = in_the_way or ("", 0.0)
            log.warning(
                "slot.skipped",
                **_names(run),
                slot=run.slot.isoformat(),
                host=self._host,
                reason="overlap",
                skipped=trouble.refused,
                running=run_id,
                running_for=round(age, 3),
                **flood,
            )

    def starting(self, run: Run) -> None:
        """Report the start of a run after slots that got no run: missed ones, or skipped ones."""
        trouble = run.managed.standing.trouble
        skipped = 0
        if trouble is not None:
            skipped, trouble.refused = trouble.refused, 0
            forget(run.managed.standing)
        if run.missed:
            self.missed(run)
        if skipped and (flood := self._flood(run, "slot.resumed")) is not None:
            log.info("slot.resumed", **_names(run), host=self._host, skipped=skipped, **flood)

    def missed(self, run: Run) -> None:
        """Report the missed slots for which this run stands, or would have stood."""
        why = None if run.claim is None else run.claim.stands_for
        reason = why or run.look.late_because
        if (recorder := self.recorder) is not None:
            recorder.missed(run, reason or "blocked")
        if (flood := self._flood(run, "slot.missed")) is not None:
            log.warning("slot.missed", **self._keys(run), count=run.missed, reason=reason, **flood)
        if self.listeners:
            self.listeners.tell(
                SlotsMissed(
                    run.full_name, run.slot, run.missed, reason=reason, run_id=run.run_id, key=run.key
                )
            )
        if (
            not run.has_begun
        ):  # whoever refuses it tells of them too, and so does the gate that had admitted it
            run.asked, run.missed = run.asked or "catch_up", 0

    def passed(self, managed: ManagedTask, gap: Gap, reason: MissReason, moment: Moment) -> None:
        """Report slots that got no whole run by any process, and for which no run stands.

        `lease_lost`: nobody held the task, or its holder died during its run. `down`: no process was there.
        """
        self.gap(managed, gap, reason, moment)
        slot = managed.plan.datetime_of(gap.last, moment)
        log.warning(
            "slot.missed",
            task=managed.full_name,
            slot=slot.isoformat(),
            host=self._host,
            count=gap.slots,
            reason=reason,
        )
        if self.listeners:
            self.listeners.tell(SlotsMissed(managed.full_name, slot, gap.slots, reason=reason))

    def late(self, run: Run) -> None:
        """Report a slot that gets no run because `misfire_grace` has passed."""
        if (recorder := self.recorder) is not None:
            recorder.late(run)
        if (flood := self._flood(run, "slot.missed")) is not None:
            told = {**self._keys(run), "count": run.missed + 1, "reason": "late", "lateness": run.lateness}
            log.warning("slot.missed", **told, **flood)
        if self.listeners:
            self.listeners.tell(
                SlotsMissed(run.full_name, run.slot, run.missed + 1, reason="late", key=run.key)
            )
        run.missed = 0

    def schedule_failed(self, managed: ManagedTask, error: Exception, moment: Moment) -> None:
        """Report a schedule that raised. The slot gets no run."""
        if self.recorder is not None:
            self.recorder.schedule_failed(managed, error, moment)
        trouble = _failing(managed.standing, to_datetime(moment.wall), error)
        if trouble.is_news or is_reminder(trouble.failures):
            log.error("schedule.failed", task=managed.full_name, host=self._host, exc_info=error)
        if self.listeners:
            self.listeners.tell(ScheduleFailed(managed.full_name, error))

    def gap(self, task: ManagedTask, gap: Gap, reason: SkipReason | MissReason, moment: Moment) -> None:
        """Report slots that nobody has looked at; the log and the listeners have got their cause."""
        if self.recorder is not None:
            self.recorder.gap(task, gap, reason, moment)

    def stalled(self, kind: Stall, seconds: float, moment: Moment) -> None:
        """Report that a look at the agenda came late. It is no log event: the slots that it missed are."""
        if self.recorder is not None:
            self.recorder.stalled(kind, seconds, moment)

    def stepped(self, step: Step, moment: Moment) -> None:
        """Report that the wall clock jumped or stands still."""
        if self.recorder is not None:
            self.recorder.stepped(step, moment)
        log.warning("clock.stepped", kind=step.kind, seconds=round(step.seconds, 3), host=self._host)
        if self.listeners:
            self.listeners.tell(ClockStepped(step.kind, step.seconds))

    def blocked(self, block: LoopBlocked) -> None:
        """Report a block of the event loop that is over; the watch has logged it."""
        if self.listeners:
            self.listeners.tell(block)

    def _flood(self, run: Run, event: str) -> dict[str, object] | None:
        """Return what to add to a line: of one key, where many have the same trouble, how many; `None` = no line."""
        task = run.managed
        if task.each_key is None:
            return {}
        spacing = task.plan.grid.gap(run.planned)
        count = self._floods.count(task.full_name, event, run.look.moment.now, spacing)
        if count is None:
            return None
        return {"keys": count} if count > LINES else {}

    def _keys(self, run: Run) -> dict[str, object]:
        return {
            **_names(run),
            "run_id": run.run_id,
            "slot": run.slot.isoformat(),
            "trigger": run.trigger,
            "host": self._host,
        }


def _names(run: Run) -> dict[str, object]:
    key = run.managed.each_key
    return {"task": run.full_name} if key is None else {"task": run.full_name, "key": key}


def record_of(run: Run, outcome: Outcome, duration: float, error: BaseException | None) -> RunFinished:
    """Make the record of a run's end, for listeners and for the caller that triggered the run."""
    return run_finished(run.managed.full_name, duration, outcome, error, run)


def forget(standing: Standing) -> None:
    """Let go of a trouble that is over."""
    if standing.trouble is not None and standing.trouble.is_over:
        standing.trouble = None


def _failing(standing: Standing, at: datetime, error: BaseException | None) -> Trouble:
    """Count one more failure in the standing; return the standing's trouble."""
    trouble = standing.in_trouble()
    trouble.failures += 1
    trouble.text = "" if error is None else error_text(error)
    if trouble.episode is None:
        trouble.episode = Episode(at)
    trouble.is_news = trouble.episode.is_news(error)
    return trouble
