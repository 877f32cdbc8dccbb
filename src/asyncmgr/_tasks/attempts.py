"""Makes further attempts of a run that failed, in the run's own Task (`retry=`). The policy is in `policy`.

A run that waits for its next attempt is in progress: it counts for overlap, and keeps its place of `max_runs`. It stops
waiting, and ends with the outcome of its last attempt, when the service stops, when its task is switched off or
removed, when its slot is over, or when another process may run the task.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from asyncmgr._common.clock import to_us
from asyncmgr._tasks.intake import Intake
from asyncmgr._tasks.lookout import Lookout
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.reporting import Reporter, forget
from asyncmgr._tasks.runs import Again, Run, judge
from asyncmgr.events import Outcome

End = Callable[[Run, BaseException | None], None]


class Attempts:
    """The runs of one service that make another attempt.

    Parameters
    ----------
    end
        Ends a run, with the error of its last attempt.
    is_abandoned
        Whether Python destroys the frame of this run, because the loop is gone.
    """

    def __init__(
        self,
        lookout: Lookout,
        intake: Intake,
        reporter: Reporter,
        random_source: random.Random,
        *,
        end: End,
        is_abandoned: Callable[[Run], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lookout = lookout
        self._intake = intake
        self._report = reporter
        self._random = random_source
        self._end = end
        self._is_abandoned = is_abandoned
        self._waiting: dict[Run, asyncio.Future[bool]] = {}
        """Runs that wait for their next attempt. The answer is whether they have waited to the end."""
        lookout.follow_steps(self._cut_short_those_over)

    def __contains__(self, run: Run) -> bool:
        """Whether the run waits for its next attempt."""
        return run in self._waiting

    def cut_short(self, task: ManagedTask | None = None) -> None:
        """Have the runs of a task, or all, wait no longer: they end."""
        for run, waiting in self._waiting.items():
            if (task is None or run.managed is task) and not waiting.done():
                waiting.set_result(False)

    def _cut_short_those_over(self) -> None:
        """End the waits that a suspend or a clock that was set has made pointless."""
        for run, waiting in self._waiting.items():
            if not self._fits(run, 0.0) and not waiting.done():
                waiting.set_result(False)

    def follows(self, run: Run, error: BaseException | None) -> bool:
        """Whether the attempt that ended so is followed by another one; if so, the run is made ready to wait for it."""
        retry = run.managed.plan.options.retry
        if retry is None or run.attempt >= retry.attempts or run.cause not in (None, "timed_out"):
            return False
        outcome, judged = judge(run, error)
        if outcome not in (Outcome.FAILED, Outcome.TIMED_OUT) or judged is None or not retry.covers(judged):
            return False
        if not self._may_go_on(run) or self._is_cancelled_too(run):
            return False
        seconds = retry.seconds_before(run.attempt + 1, self._random.random)
        if not self._fits(run, seconds):
            return False
        self._prepare(run, error, judged, seconds)
        return True

    def _prepare(self, run: Run, error: BaseException | None, judged: BaseException, seconds: float) -> None:
        if run.attempt == 1:
            run.again = Again(run.started)
            run.managed.standing.in_trouble().retrying += 1
        again = run.again
        again.error, again.seconds, again.began = error, seconds, None
        again.cause, run.cause = ("timed_out" if run.cause == "timed_out" else None), None
        if run.place is not None:
            self._lookout.deadlines.remove(run)
        self._report.retrying(run, seconds, judged)

    @staticmethod
    def _is_cancelled_too(run: Run) -> bool:
        """Take back the cancellation by the timeout; whether there is another one, by the application."""
        task = run.future
        if run.cause != "timed_out" or not isinstance(task, asyncio.Task):
            return False
        return task.uncancel() > 0

    def _may_go_on(self, run: Run) -> bool:
        if not self._lookout.is_open or run.managed.plan.options.switched_off is not None:
            return False
        return run.claim is None or self._intake.may_start(run)

    def _fits(self, run: Run, seconds: float) -> bool:
        """Whether an attempt so many seconds from now begins before the slot after the run's own."""
        room = run.managed.until_next(run, self._lookout.clock.read())
        return room is None or to_us(seconds) < room

    # In the run's Task

    async def live(self, run: Run) -> None:
        """Make the attempts that follow the first one, and end the run."""
        trouble = run.managed.standing.in_trouble()
        try:
            while await self._begins(run) and await self._goes_on(run):
                pass
        finally:
            run.again.error = None  # its traceback has this frame
            trouble.retrying -= 1
            forget(run.managed.standing)

    async def _begins(self, run: Run) -> bool:
        """Wait for the next attempt, and begin it; end the run where it may not begin."""
        try:
            has_waited = await self._wait(run)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and self._is_abandoned(run):
                raise
            self._end_with_last(run, exc)
            return False
        retry = run.managed.plan.options.retry  # of new settings, perhaps
        is_left = retry is not None and run.attempt < retry.attempts
        if not (has_waited and is_left and self._may_go_on(run) and self._fits(run, 0.0)):
            self._end_with_last(run, None)
            return False
        again = run.again
        again.attempt += 1
        again.began = self._loop.time()
        timeout = run.managed.plan.options.timeout
        if timeout is not None:
            self._lookout.set_deadline(run, to_us(again.began - run.started) + timeout)
        elif run.place is not None:
            self._lookout.deadlines.remove(run)
        return True

    async def _wait(self, run: Run) -> bool:
        waiting: asyncio.Future[bool] = self._loop.create_future()
        timer = self._loop.call_later(run.again.seconds, _wake, waiting)
        self._waiting[run] = waiting
        try:
            return await waiting
        finally:
            timer.cancel()
            del self._waiting[run]

    def _end_with_last(self, run: Run, error: BaseException | None) -> None:
        """End a run that waited: as its last attempt has, unless somebody cancelled it."""
        if error is None or run.cause in ("cancelled", "lease_lost"):
            error, run.cause = run.again.error, run.again.cause
        self._end(run, error)

    async def _goes_on(self, run: Run) -> bool:
        """Make one attempt; whether another one follows. If not, the run is ended."""
        try:
            await run.managed.call(run)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and self._is_abandoned(run):
                raise
            if self.follows(run, exc):
                return True
            self._end(run, exc)
        else:
            if run.cause == "timed_out" and self.follows(run, None):
                return True
            self._end(run, None)
        return False


def _wake(waiting: asyncio.Future[bool]) -> None:
    if not waiting.done():
        waiting.set_result(True)
