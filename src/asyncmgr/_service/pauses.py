"""The pauses of one manager's tasks: when each ends, by which clock, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from asyncmgr._common.clock import SECOND, Moment, to_datetime, to_us
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.gate import TaskPause
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.status import PausedStatus
from asyncmgr.errors import InvalidPeriodicTaskArg

_LONGEST_SLEEP = 86400.0
"""Seconds after which a timer is set anew: event loops refuse those of many years."""


@dataclass(slots=True)
class Pause:
    """A pause of one task."""

    by: str
    since: int
    """Wall time, microseconds."""
    end: int | None = None
    """When it ends, on its own scale, microseconds; `None` = when somebody resumes the task."""
    on_wall: bool = False
    """The scale of `end`: the wall clock's, for a moment; scheduling time, for a length."""
    note: str | None = None
    timer: asyncio.TimerHandle | None = None

    def remaining(self, moment: Moment) -> int | None:
        """Microseconds to its end, negative if that is past; `None` = it has no end."""
        return None if self.end is None else self.end - (moment.wall if self.on_wall else moment.now)

    def status(self, moment: Moment) -> PausedStatus:
        remaining = self.remaining(moment)
        until = None if remaining is None else to_datetime(moment.wall + remaining)
        return PausedStatus(self.by, to_datetime(self.since), until, self.note)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Pauses:
    """The pauses in force.

    Under a service each one that has an end has a timer, which is set anew when the wall clock jumps. Without one the
    reader asks for those that are over.
    """

    def __init__(self, over: Callable[[ManagedTask], object]) -> None:
        """`over` is called with a task whose pause has reached its end."""
        self._over = over
        self._pauses: dict[ManagedTask, Pause] = {}
        self._read: Callable[[], Moment] | None = None

    def __contains__(self, task: ManagedTask) -> bool:
        return task in self._pauses

    def __iter__(self) -> Iterator[ManagedTask]:
        return iter(tuple(self._pauses))

    def status(self, task: ManagedTask, moment: Moment) -> PausedStatus | None:
        pause = self._pauses.get(task)
        return None if pause is None else pause.status(moment)

    def facts(self, task: ManagedTask, moment: Moment) -> TaskPause | None:
        """Describe the pause of a task in wall time; `None` = there is none."""
        pause = self._pauses.get(task)
        if pause is None:
            return None
        remaining = pause.remaining(moment)
        until = None if remaining is None else moment.wall + remaining
        return TaskPause(pause.by, pause.since, until, pause.note)

    def put(self, task: ManagedTask, pause: Pause) -> None:
        """Pause the task; another pause of it is replaced."""
        self.end(task)
        self._pauses[task] = pause
        self._set_timer(task, pause)

    def end(self, task: ManagedTask) -> bool:
        """End the pause of the task; return whether it had one."""
        pause = self._pauses.pop(task, None)
        if pause is not None:
            pause.stop_timer()
        return pause is not None

    def move(self, before: Moment, after: Moment) -> None:
        """Move lengths from one clock to another; these are two readings of the same moment."""
        for pause in self._pauses.values():
            if pause.end is not None and not pause.on_wall:
                pause.end += after.now - before.now

    def begin_timers(self, read: Callable[[], Moment]) -> None:
        """Let pauses end by timers, in the loop that runs now. `read` reads the service's clock."""
        self._read = read
        self.set_timers()

    def end_timers(self) -> None:
        """Let no pause end by a timer any more."""
        self._read = None
        for pause in self._pauses.values():
            pause.stop_timer()

    def set_timers(self) -> None:
        """Set all timers anew, after the wall clock jumped."""
        for task, pause in tuple(self._pauses.items()):
            self._set_timer(task, pause)

    def _set_timer(self, task: ManagedTask, pause: Pause) -> None:
        pause.stop_timer()
        if self._read is None:
            return
        remaining = pause.remaining(self._read())
        if remaining is not None:
            seconds = min(_LONGEST_SLEEP, max(0.0, remaining / SECOND))
            pause.timer = asyncio.get_running_loop().call_later(seconds, self._ring, task, pause)

    def _ring(self, task: ManagedTask, pause: Pause) -> None:
        if self._read is None or self._pauses.get(task) is not pause:
            return
        remaining = pause.remaining(self._read())
        if remaining is not None and remaining <= 0:
            self._over(task)
        else:  # a long pause, or the clock was set back
            self._set_timer(task, pause)

    def end_those_over(self, moment: Moment) -> None:
        """End the pauses whose end is past."""
        for task, pause in tuple(self._pauses.items()):
            remaining = pause.remaining(moment)
            if remaining is not None and remaining <= 0:
                self._over(task)


def new_pause(
    moment: Moment, by: str, *, for_: float | timedelta | None, until: datetime | None, note: str | None
) -> Pause:
    """Read the arguments of `TaskHandle.pause`.

    Raises
    ------
    InvalidPeriodicTaskArg
        Both `for_` and `until` are given, or a value is not accepted.
    """
    if for_ is not None and until is not None:
        raise InvalidPeriodicTaskArg("pause() takes either for_= or until=; give one of them")
    if note is not None and not isinstance(note, str):
        raise InvalidPeriodicTaskArg(f"note={safe_repr(note, 60)} is not accepted; note is a text")
    pause = Pause(by, moment.wall, note=note)
    if until is not None:
        pause.end, pause.on_wall = _moment(until), True
    elif for_ is not None:
        pause.end = moment.now + _length(for_)
    return pause


def _moment(until: datetime) -> int:
    if not isinstance(until, datetime):
        raise InvalidPeriodicTaskArg(
            f"until={safe_repr(until, 60)} is not accepted; until is an aware datetime"
        )
    if until.utcoffset() is None:
        raise InvalidPeriodicTaskArg(
            f"until={until!r} has no time zone; write e.g. datetime(..., tzinfo=UTC)"
        )
    return to_us(until - to_datetime(0))


def _length(for_: object) -> int:
    seconds = for_.total_seconds() if isinstance(for_, timedelta) else for_
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e10:
        raise InvalidPeriodicTaskArg(
            f"for_={safe_repr(for_, 60)} is not accepted; for_ is 0 or more seconds, or a timedelta"
        )
    return to_us(seconds)
