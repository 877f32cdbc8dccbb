"""One pass over a manager's tasks, for services that own their loop, and for tests. Shares the agenda's decisions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._common.log import log
from asyncmgr._tasks.agenda import RETRY, Entry, nearest
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL
from asyncmgr.errors import TaskFailed
from asyncmgr.events import Outcome

Result = tuple[Outcome, BaseException | None]


async def run_pass(
    entries: Callable[[], Iterable[Entry]], read: Callable[[], Moment], context: Any, *, raise_on_error: bool
) -> float:
    """Start what is due, one after the other, each awaited to its end; how long the caller may idle, in seconds."""
    moment = read()
    present = tuple(entries())
    for entry in present:
        entry.note_first_pass(moment)
    # The set is taken now: what becomes due while these run waits for the next pass.
    for entry, slot in [(entry, entry.slot) for entry in present if entry.is_due(moment)]:
        moment = read()
        if entry.slot != slot or entry.options.switched_off is not None:
            continue  # a task before it moved or removed it
        await _start(entry, moment, context, raise_on_error=raise_on_error)
        await asyncio.sleep(0)
    moment = read()
    idle = nearest(entries(), moment)
    return DEFAULT_INTERVAL if idle is None else min(DEFAULT_INTERVAL, max(0.0, idle / SECOND))


async def _start(entry: Entry, moment: Moment, context: Any, *, raise_on_error: bool) -> None:
    error: BaseException | None
    try:
        _, missed = entry.begin(entry.reference(moment))
        entry.last_run = moment.wall
    except Exception as exc:
        log.error("schedule.failed", task=entry.full_name, exc_info=exc)
        entry.slot = entry.reference(moment) + RETRY
        outcome, error = Outcome.FAILED, exc
    else:
        if missed:
            log.warning("slot.missed", task=entry.full_name, count=missed)
        outcome, error = await _await_body(entry, context)
    if outcome is Outcome.SUCCEEDED:
        entry.failures = 0
        return
    entry.failures += 1
    log.error("task.failed", task=entry.full_name, outcome=str(outcome), exc_info=error)
    if raise_on_error:
        raise _to_raise(entry, outcome, error)


def _to_raise(entry: Entry, outcome: Outcome, error: BaseException | None) -> BaseException:
    if isinstance(error, Exception):
        return error
    failure = TaskFailed(f"{entry.full_name} was {outcome} by a CancelledError that nobody asked for")
    failure.__cause__ = error
    return failure


async def _await_body(entry: Entry, context: Any) -> Result:
    """Await one body inline. A requested cancellation goes through; a stray one is the task's failure."""
    task = asyncio.current_task()
    assert task is not None
    requested = task.cancelling()
    deadline = _Deadline(task, entry)
    entry.running += 1
    entry.runs += 1
    try:
        await entry.call(context)
        result: Result = (Outcome.SUCCEEDED, None)
    except asyncio.CancelledError as exc:
        result = (Outcome.CANCELLED, exc)
    except Exception as exc:
        result = (Outcome.FAILED, exc)
    finally:
        entry.running -= 1
        timed_out = deadline.disarm()
    if task.cancelling() > requested:
        raise result[1] if isinstance(result[1], asyncio.CancelledError) else asyncio.CancelledError
    return (Outcome.TIMED_OUT, deadline.error(result[1])) if timed_out else result


class _Deadline:
    """Cancels a task once, when its body has run for its timeout, and takes the request back afterwards."""

    def __init__(self, task: asyncio.Task[Any], entry: Entry) -> None:
        self._task = task
        self._expired = False
        timeout = entry.options.timeout
        seconds = math.inf if timeout is None else timeout / SECOND
        self._text = f"{entry.full_name} ran longer than its timeout of {seconds:g} s"
        loop = asyncio.get_running_loop()
        self._timer = None if timeout is None else loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def disarm(self) -> bool:
        """True if it had cancelled the body."""
        if self._timer is not None:
            self._timer.cancel()
        if self._expired:
            self._task.uncancel()
        return self._expired

    def error(self, cause: BaseException | None) -> TimeoutError:
        """What the run failed with; `cause` is how its body then ended."""
        late = TimeoutError(self._text)
        late.__cause__ = cause
        return late
