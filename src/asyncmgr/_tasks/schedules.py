"""When a task is planned: a grid of slots. Pure and stateless: no clock, no await, no randomness.

A schedule is asked two things only: its first slot after an instant, and what to do with the slots up to an instant.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import ClassVar, Protocol, TypeAlias
from zoneinfo import ZoneInfo

from asyncmgr._common.clock import SECOND, to_datetime, to_us
from asyncmgr._common.durations import format_duration

DEFAULT_INTERVAL: float = 60.0
"""Seconds: how long a pass lets its caller idle at most, and the spacing of every-pass tasks under a service."""

SLOTS_COUNTED = 10
"""A cron schedule counts the slots it missed up to this many: each costs tens of microseconds to find."""


_WEEK = 7 * 86_400 * SECOND
"""No zone moves its clocks and moves them back again within less."""


def _load_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except Exception as exc:
        raise ValueError(f"{name!r} is not a time zone of this machine; write e.g. 'Europe/Berlin'") from exc


def _to_wall(time: datetime) -> int:
    return round(time.timestamp()) * SECOND


Turn: TypeAlias = tuple[int, int, int]
"""What one start of a task does to its grid: the slot that it is for, which is the latest one due; how many older
slots it stands for too; the next planned slot. A plain tuple, as one is made for each run."""


class Schedule(Protocol):
    """A grid of slots, in microseconds of scheduling time, or of wall time where `on_wall`."""

    on_wall: ClassVar[bool]

    @property
    def spacing(self) -> float | None:
        """Seconds between two slots; 0.0 = every pass; `None` where it is not constant."""
        ...  # pragma: no cover

    def first(self, start: int) -> int:
        """The first slot of a task that starts at `start`."""
        ...  # pragma: no cover

    def turn(self, slot: int, now: int, window: int) -> Turn:
        """The outcome of starting at `now` a task whose next planned slot was `slot`."""
        ...  # pragma: no cover

    def gap(self, slot: int) -> int:
        """Microseconds from `slot` to the one after it."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Every:
    """A slot every `step` microseconds; never drifts, catches up in O(1) over any distance."""

    step: int
    on_wall: ClassVar[bool] = False

    @property
    def spacing(self) -> float:
        return self.step / SECOND

    def first(self, start: int) -> int:
        return start + self.step

    def turn(self, slot: int, now: int, window: int) -> Turn:
        passed = (now + window - slot) // self.step
        if passed <= 0:
            return slot, 0, slot + self.step
        latest = slot + passed * self.step
        return latest, passed, latest + self.step

    def gap(self, slot: int) -> int:
        return self.step

    def __str__(self) -> str:
        return f"every {format_duration(self.spacing)}"


@dataclass(frozen=True, slots=True)
class EveryPass:
    """Due whenever anybody looks; a service looks every `DEFAULT_INTERVAL`."""

    on_wall: ClassVar[bool] = False

    @property
    def spacing(self) -> float:
        return 0.0

    def first(self, start: int) -> int:
        return start

    def turn(self, slot: int, now: int, window: int) -> Turn:
        return now, 0, now

    def gap(self, slot: int) -> int:
        return int(DEFAULT_INTERVAL * SECOND)

    def __str__(self) -> str:
        return "every pass"


@dataclass(frozen=True)
class Cron:
    """Wall-clock slots of a cron expression (5 or 6 fields) in a time zone.

    Across a change to or from summer time it does what Debian's cron does. Where neither minute nor hour begin with
    ``*``, a slot in the hour that is left out moves to its end, and a slot in the hour that comes twice runs once.
    All others, and those of 6 fields, have a slot at every instant at which a local clock shows such a time.

    Raises
    ------
    ValueError
        The expression or the zone means nothing, or has no slot at all (``0 0 30 2 *``).
    """

    expression: str
    tz: str = "UTC"
    on_wall: ClassVar[bool] = True

    ALIASES: ClassVar[dict[str, str]] = {
        "@yearly": "0 0 1 1 *",
        "@annually": "0 0 1 1 *",
        "@monthly": "0 0 1 * *",
        "@weekly": "0 0 * * 0",
        "@daily": "0 0 * * *",
        "@midnight": "0 0 * * *",
        "@hourly": "0 * * * *",
    }

    def __post_init__(self) -> None:
        fields = len(self._fields.split())
        if fields not in (5, 6):
            raise ValueError(
                f"{self.expression!r} has {fields} fields; cron has 5, or 6 with seconds in front"
            )
        zone = self._zone
        try:
            self._after(0)
        except StopIteration:
            raise ValueError(f"{self.expression!r} in {zone} never comes: there is no such date") from None
        except ValueError:
            raise
        except Exception as exc:
            raise ValueError(f"{self.expression!r} is not a cron expression: {exc}") from exc

    @property
    def _fields(self) -> str:
        return self.ALIASES.get(self.expression.strip().lower(), self.expression)

    @cached_property
    def _zone(self) -> tzinfo:
        return _load_zone(self.tz)

    @cached_property
    def _simulate(self) -> Callable[..., Iterator[datetime]]:
        from cronsim import CronSim

        return CronSim

    @property
    def spacing(self) -> None:
        return None

    def first(self, start: int) -> int:
        return self._after(start)

    def turn(self, slot: int, now: int, window: int) -> Turn:
        following = self._after(slot)
        if following > now:
            return slot, 0, following
        latest = self._latest(slot, now)
        return latest, self._count(slot, latest), self._after(latest)

    def gap(self, slot: int) -> int:
        following = self._after(slot)
        return self._after(following) - following

    def _latest(self, slot: int, now: int) -> int:
        # Searched for by halving, second by second: a slot a second for 30 years takes 30 looks.
        seconds = range((now - slot) // SECOND + 2)
        past = bisect_left(seconds, True, key=lambda second: self._after(slot + second * SECOND) > now)
        return self._after(slot + (past - 1) * SECOND)

    def _count(self, slot: int, latest: int) -> int:
        count = 0
        while slot < latest and count < SLOTS_COUNTED:
            slot = self._after(slot)
            count += 1
        return count

    def _after(self, wall: int) -> int:
        return self._after_at_fixed_times(wall) if self._has_fixed_times else self._after_in_real_time(wall)

    @cached_property
    def _has_fixed_times(self) -> bool:
        minute, hour, *others = self._fields.split()
        return len(others) == 3 and not minute.startswith("*") and not hour.startswith("*")

    def _after_at_fixed_times(self, wall: int) -> int:
        # In the hour that comes twice the first find may be its first passing, which is over.
        local = to_datetime(wall).astimezone(self._zone)
        found = (_to_wall(time) for time in self._simulate(self._fields, local))
        return next(slot for slot in found if slot > wall)

    def _after_in_real_time(self, wall: int) -> int:
        # Between two changes of its offset a zone's time is plain arithmetic. Handed the zone itself, cronsim 2.8 loses
        # slots where clocks change at midnight or by half an hour.
        while True:
            offset = self._offset(wall + 1)
            local = to_datetime(wall + offset).replace(tzinfo=None)
            found = _to_wall(next(self._simulate(self._fields, local)).replace(tzinfo=UTC)) - offset
            change = self._next_change(wall + 1, found)
            if change is None:
                return found
            wall = change - 1

    def _next_change(self, start: int, end: int) -> int | None:
        """The instant in `start` .. `end` from which the zone's offset is another than at `start`."""
        offset = self._offset(start)
        while start < end:
            week = range(start, min(start + _WEEK, end) + 1)
            if self._offset(week[-1]) != offset:
                return week[bisect_left(week, True, key=lambda wall: self._offset(wall) != offset)]
            start = week[-1]
        return None

    def _offset(self, wall: int) -> int:
        return to_us(to_datetime(wall).astimezone(self._zone).utcoffset() or timedelta())

    def __str__(self) -> str:
        return f"cron {self.expression!r} {self.tz}"
