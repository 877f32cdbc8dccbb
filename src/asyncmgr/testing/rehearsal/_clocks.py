"""What a change of summer time does to cron tasks. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from typing import Any, Literal

from asyncmgr._common.clock import SECOND, to_datetime, to_us
from asyncmgr._tasks.schedules import Cron
from asyncmgr.testing.rehearsal._stage import Rehearsal

_HOUR = 3600 * SECOND
_MOST_TIMES = 1000
"""Local times that one task may have in an hour that is left out or comes twice, before no more are counted."""

Effect = Literal["moved", "left out", "once", "twice"]
"""What becomes of slots: those of an hour that is left out move to its end, or there are none; those of an hour that
comes twice come the first time only, or both times."""


@dataclass(frozen=True, slots=True)
class Affected:
    """One cron task that has times in the hour of a change."""

    task: str
    times: tuple[str, ...]
    """Local times, ``02:30``: the first ones."""
    count: int
    """The number of these times."""
    effect: Effect
    slots: int
    """Slots that the task has for these times."""

    def as_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "times": list(self.times),
            "count": self.count,
            "effect": self.effect,
            "slots": self.slots,
        }


@dataclass(frozen=True, slots=True)
class ClockChange:
    """A moment at which the clocks of a zone change."""

    zone: str
    at: int
    """Wall time, microseconds since 1970."""
    before: int
    """What the zone adds to UTC before it, microseconds."""
    after: int

    tasks: tuple[Affected, ...]

    @property
    def is_forward(self) -> bool:
        """Whether local times are left out; else they come twice."""
        return self.after > self.before

    @property
    def from_time(self) -> str:
        """What a local clock would have shown at the moment."""
        return _local(self.at + self.before)

    @property
    def to_time(self) -> str:
        """What a local clock shows instead."""
        return _local(self.at + self.after)

    @property
    def day(self) -> str:
        return f"{to_datetime(self.at + self.before):%Y-%m-%d}"

    def as_json(self) -> dict[str, Any]:
        return {
            "zone": self.zone,
            "at": to_datetime(self.at).isoformat(),
            "from": self.from_time,
            "to": self.to_time,
            "tasks": [task.as_json() for task in self.tasks],
        }


def clock_changes(rehearsal: Rehearsal) -> Iterator[ClockChange]:
    """Find the changes of the zones of cron tasks during a rehearsal, in the order of the zones and moments."""
    crons = [
        (cast.name, schedule)
        for cast in rehearsal.casts
        if cast.off is None and isinstance(schedule := cast.options.schedule, Cron)
    ]
    for name in sorted({cron.tz for _, cron in crons}):
        here = [(task, cron) for task, cron in crons if cron.tz == name]
        zone = here[0][1].zone
        for at in _changes(zone, rehearsal.first, rehearsal.last):
            before, after = _offset(zone, at - 1), _offset(zone, at)
            found = (_affected(task, cron, at, before, after) for task, cron in here)
            yield ClockChange(name, at, before, after, tuple(one for one in found if one is not None))


def _changes(zone: tzinfo, first: int, last: int) -> Iterator[int]:
    moment = first
    while moment < last:
        following = min(moment + _HOUR, last)
        if _offset(zone, following) != (offset := _offset(zone, moment)):
            hour = range(moment, following + 1)
            yield hour[bisect_left(hour, True, key=lambda wall: _offset(zone, wall) != offset)]
        moment = following


def _offset(zone: tzinfo, wall: int) -> int:
    return to_us(to_datetime(wall).astimezone(zone).utcoffset() or timedelta())


def _affected(task: str, cron: Cron, at: int, before: int, after: int) -> Affected | None:
    """Compare the times that the expression names in the hour of the change with the slots that there are."""
    first, last = sorted((at + before, at + after))
    named = _slots(
        Cron(cron.expression, "UTC"), first, last
    )  # of UTC: each local time is a moment of its own
    if not named:
        return None
    times = tuple(_local(time) for time in named[:3])
    size = abs(after - before)
    if after > before:
        own = _slots(
            Cron(cron.expression, "UTC"), at + after, at + after + 1
        )  # the time that the clocks jump to
        moved = [] if own else _slots(cron, at, at + 1)
        return Affected(task, times, len(named), "moved" if moved else "left out", len(moved))
    found = len(_slots(cron, at - size, at)) + len(_slots(cron, at, at + size))
    return Affected(task, times, len(named), "twice" if found > len(named) else "once", found)


def _slots(cron: Cron, first: int, end: int) -> list[int]:
    """List the slots from one moment to before another."""
    found: list[int] = []
    slot = cron.first(first - 1)
    while slot < end and len(found) < _MOST_TIMES:
        found.append(slot)
        slot = cron.first(slot)
    return found


def _local(local: int) -> str:
    moment = to_datetime(local)
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
