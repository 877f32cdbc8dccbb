"""Schedules: the grids of slots at which tasks run. Pure and stateless: no clock, no await, no randomness.

A schedule answers two questions: which slot is the first after an instant, and which slot does a start at an instant
belong to.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, NamedTuple, Protocol, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from asyncmgr._common.clock import SECOND, to_datetime, to_us
from asyncmgr._common.durations import format_duration
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.cron_text import explain, fields_of

DEFAULT_INTERVAL: float = 60.0
"""Seconds: the longest time that a pass lets its caller idle, and the spacing of every-pass tasks under a service."""

_WEEK = 7 * 86_400 * SECOND
"""Microseconds. No zone changes its offset and changes it back within less time."""

_DAY = 86_400
"""Seconds."""

_MOST_A_CLOCK_CHANGES = 25 * 3600 * SECOND
"""Microseconds: no change of a zone's offset is larger, also where a zone leaves out a whole day."""

_NEVER = 36_525 * 86_400 * SECOND
"""Microseconds: the gap after the last slot, longer than any time that is compared with it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SOME_DAY = datetime(2000, 1, 1)


class _LocalZone(tzinfo):
    """The time zone of this process, as the C library knows it at each call."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        assert dt is not None
        local = dt.replace(tzinfo=None)
        return local - datetime.fromtimestamp(local.timestamp(), UTC).replace(tzinfo=None)

    def dst(self, dt: datetime | None) -> None:
        return None

    def tzname(self, dt: datetime | None) -> str:
        return LOCAL

    def __str__(self) -> str:
        return LOCAL

    def fromutc(self, dt: datetime) -> datetime:
        # By the naive local time, whose `fold` distinguishes the two passings of an hour that comes twice.
        return datetime.fromtimestamp(dt.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)


LOCAL = "local"
"""The name that stands for the zone of this process."""

_local_zone = _LocalZone()


def load_zone(name: str) -> tzinfo:
    """Load the time zone of this name, or of ``"local"``.

    Raises
    ------
    ValueError
        This machine has no time zone of that name.
    """
    if name == "UTC":
        return UTC
    if name == LOCAL:
        return _local_zone
    try:
        return ZoneInfo(name)
    except Exception as exc:
        data = "" if _has_zone_data() else ", which has no time zone data at all: install the package tzdata"
        raise ValueError(
            f"{safe_repr(name)} is not a time zone of this machine{data}; write e.g. 'Europe/Berlin'"
        ) from exc


def _has_zone_data() -> bool:
    try:
        return ZoneInfo.no_cache("UTC") is not None
    except ZoneInfoNotFoundError:
        return False


Turn: TypeAlias = tuple[int, int, int | None]
"""How one start of a task moves on its grid: the slot that the start is for, which is the latest one due; the number
of older slots that it stands for too; the next slot, or `None` where there is no other. It is a plain tuple, since each
run makes one."""

EndlessTurn: TypeAlias = tuple[int, int, int]
"""The same for a schedule that is never over."""


class Gap(NamedTuple):
    """Slots of one task without a run that follow one another on its grid; on the scale of the grid."""

    first: int
    last: int
    slots: int
    """Their number."""


class Schedule(Protocol):
    """A grid of slots, in microseconds of scheduling time, or of wall time where `on_wall`.

    `None` in place of a slot means that the schedule is over: it has no other slot.
    """

    on_wall: ClassVar[bool]

    @property
    def spacing(self) -> float | None:
        """Seconds between two slots; 0.0 = every pass; `None` where it is not constant."""
        ...  # pragma: no cover

    def first(self, start: int) -> int | None:
        """Return the first slot after `start`; `None` = there is none. `EveryPass` returns `start` itself."""
        ...  # pragma: no cover

    def turn(self, slot: int, now: int, window: int) -> Turn:
        """Compute the turn of a start at `now`, where `slot` was the next slot; `window` is the nearly-due window."""
        ...  # pragma: no cover

    def gap(self, slot: int) -> int:
        """Return the microseconds from `slot` to the next one; a hundred years where there is no next one."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Every:
    """A slot every `step` microseconds. It never drifts, and catches up in O(1) over any distance."""

    step: int
    on_wall: ClassVar[bool] = False

    @property
    def spacing(self) -> float:
        return self.step / SECOND

    def first(self, start: int) -> int:
        return start + self.step

    def turn(self, slot: int, now: int, window: int) -> EndlessTurn:
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
    """A slot at every pass; under a service one every `DEFAULT_INTERVAL` seconds."""

    on_wall: ClassVar[bool] = False

    @property
    def spacing(self) -> float:
        return 0.0

    def first(self, start: int) -> int:
        return start

    def turn(self, slot: int, now: int, window: int) -> EndlessTurn:
        return now, 0, now

    def gap(self, slot: int) -> int:
        return int(DEFAULT_INTERVAL * SECOND)

    def __str__(self) -> str:
        return "every pass"


@dataclass(frozen=True)
class Cron:
    """Wall-clock slots of a cron expression (5 or 6 fields) in a time zone.

    Where neither the minute nor the hour field begins with ``*``, a slot in the hour that a change to summer time
    leaves out moves to that hour's end, and in an hour that comes twice there is a slot the first time only. All other
    expressions have a slot at every instant at which a local clock shows a matching time.

    Raises
    ------
    ValueError
        The expression or the zone is wrong, or there is no slot at all (``0 0 30 2 *``).
    """

    expression: str
    tz: str = "UTC"
    """A name, or ``"local"``."""
    on_wall: ClassVar[bool] = True

    def __post_init__(self) -> None:
        fields = self._fields
        _ = self.zone
        try:
            next(self._simulate(self._text, _SOME_DAY))
        except StopIteration:
            raise ValueError(f"{safe_repr(self.expression)} never comes: there is no such date") from None
        except Exception as exc:
            raise ValueError(self._what_is_wrong(fields, exc)) from exc

    def _what_is_wrong(self, fields: list[str], error: Exception) -> str:
        name = str(error).removeprefix("Bad ")
        if name == "day-of-month":
            # cronsim raises this error also where no month of the expression has the day.
            with contextlib.suppress(Exception):
                next(self._simulate(" ".join([*fields[:-2], "*", fields[-1]]), _SOME_DAY))
                return f"{safe_repr(self.expression)} never comes: there is no such date"
        return explain(self.expression, name)

    @cached_property
    def _fields(self) -> list[str]:
        return fields_of(self.expression)

    @cached_property
    def _text(self) -> str:
        return " ".join(self._fields)

    @cached_property
    def zone(self) -> tzinfo:
        """The time zone in which the expression is read."""
        return load_zone(self.tz)

    @cached_property
    def _simulate(self) -> Callable[..., Iterator[datetime]]:
        from cronsim import CronSim

        return CronSim

    @property
    def spacing(self) -> None:
        return None

    def first(self, start: int) -> int:
        return self._after(start)

    def turn(self, slot: int, now: int, window: int) -> EndlessTurn:
        following = self._after(slot)
        if following > now:
            return slot, 0, following
        latest = self._latest(slot, now)
        return latest, self._count(slot, latest), self._after(latest)

    def gap(self, slot: int) -> int:
        following = self._after(slot)
        return self._after(following) - following

    def _latest(self, slot: int, now: int) -> int:
        # Bisected over seconds: 30 years take 30 steps.
        seconds = range((now - slot) // SECOND + 2)
        past = bisect_left(seconds, True, key=lambda second: self._after(slot + second * SECOND) > now)
        return self._after(slot + (past - 1) * SECOND)

    def _count(self, after: int, until: int) -> int:
        """Count the slots after one moment and up to another: day by day, not one by one."""
        count = 0
        while after < until:
            change = self._next_change(after + 1, until)
            if change is None:
                return count + self._count_plain(after, until)
            # The slots around a change of the clocks are found one by one where a time may be left out or come twice.
            margin = _MOST_A_CLOCK_CHANGES if self._has_fixed_times else 0
            plain = max(after, change - 1 - margin)
            count += self._count_plain(after, plain)
            after = min(until, change - 1 + margin) if margin else change - 1
            if margin:
                count += self._count_one_by_one(plain, after)
        return count

    def _count_plain(self, after: int, until: int) -> int:
        """Count the slots between two moments between which the zone does not change its offset."""
        offset = self._offset(after + 1)
        first, last = (after + offset) // SECOND, (until + offset) // SECOND  # local seconds, (first, last]
        today, final = first // _DAY, last // _DAY
        if today == final:
            return self._slots_of_day(today, first, last)
        between = sum(1 for _ in self._days(today + 1, final)) * len(self._times_of_day)
        return self._slots_of_day(today, first, last) + between + self._slots_of_day(final, first, last)

    def _slots_of_day(self, day: int, after: int, until: int) -> int:
        if next(self._days(day, day + 1), None) is None:
            return 0
        times, start = self._times_of_day, day * _DAY
        return bisect_right(times, until - start) - bisect_right(times, after - start)

    def _days(self, first: int, end: int) -> Iterator[int]:
        """Yield the days (since 1970, local) from `first` to before `end` on which there are slots."""
        daily = " ".join(["0", "0", *self._fields[-3:]])
        for found in self._simulate(daily, _from_wall(first * _DAY * SECOND) - timedelta(seconds=1)):
            day = _to_wall(found) // (_DAY * SECOND)
            if day >= end:
                return
            yield day

    @cached_property
    def _times_of_day(self) -> list[int]:
        """The seconds of a day at which there are slots, on a day that has some."""
        parsed = self._simulate(self._text, _SOME_DAY)
        return sorted(
            hour * 3600 + minute * 60 + second
            for hour in parsed.hours  # type: ignore[attr-defined]
            for minute in parsed.minutes  # type: ignore[attr-defined]
            for second in parsed.seconds  # type: ignore[attr-defined]
        )

    def _count_one_by_one(self, after: int, until: int) -> int:
        count = 0
        while (after := self._after(after)) <= until:
            count += 1
        return count

    def _after(self, wall: int) -> int:
        return self._after_at_fixed_times(wall) if self._has_fixed_times else self._after_in_real_time(wall)

    @cached_property
    def _has_fixed_times(self) -> bool:
        minute, hour = self._fields[-5:-3]
        return not minute.startswith("*") and not hour.startswith("*")

    def _after_at_fixed_times(self, wall: int) -> int:
        # The filter is for the second passing of an hour that comes twice: its times have no slot.
        found = (self._first_passing(time) for time in self._simulate(self._text, self._local_start(wall)))
        return next(slot for slot in found if slot > wall)

    def _local_start(self, wall: int) -> datetime:
        """Return the local time from which slots are searched; in an hour's second passing, the end of this hour."""
        local = to_datetime(wall).astimezone(self.zone)
        naive = local.replace(tzinfo=None, fold=0)
        if local.fold:
            before = _to_wall(naive) - self._offset_at(naive)
            change = self._next_change(before, wall)
            if change is not None:
                return _from_wall(change + self._offset(before)) - timedelta(seconds=1)
        return naive

    def _first_passing(self, local: datetime) -> int:
        """Return the first instant at which a local clock shows this time; the end of the hour that leaves it out."""
        time = _to_wall(local)
        first, second = time - self._offset_at(local), time - self._offset_at(local.replace(fold=1))
        if second >= first:
            return first
        change = self._next_change(second, first)
        return first if change is None else change

    def _after_in_real_time(self, wall: int) -> int:
        # By plain arithmetic between two changes of the zone's offset. If cronsim 2.8 gets the zone itself, it loses
        # slots where clocks change at midnight or by half an hour.
        while True:
            offset = self._offset(wall + 1)
            found = _to_wall(next(self._simulate(self._text, _from_wall(wall + offset)))) - offset
            change = self._next_change(wall + 1, found)
            if change is None:
                return found
            wall = change - 1

    def _next_change(self, start: int, end: int) -> int | None:
        """Return the first instant from `start` to `end` that has another offset than `start`; `None` = none."""
        offset = self._offset(start)
        while start < end:
            week = range(start, min(start + _WEEK, end) + 1)
            if self._offset(week[-1]) != offset:
                return week[bisect_left(week, True, key=lambda wall: self._offset(wall) != offset)]
            start = week[-1]
        return None

    def _offset(self, wall: int) -> int:
        return to_us(to_datetime(wall).astimezone(self.zone).utcoffset() or timedelta())

    def _offset_at(self, local: datetime) -> int:
        return to_us(local.replace(tzinfo=self.zone).utcoffset() or timedelta())

    def __str__(self) -> str:
        return f"cron {self.expression!r} {self.tz}"


def _to_wall(time: datetime) -> int:
    """Convert a naive time to microseconds since 1970 on the same clock."""
    return to_us(time.replace(tzinfo=UTC, fold=0) - _EPOCH)


def _from_wall(wall: int) -> datetime:
    return to_datetime(wall).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Once:
    """Wall-clock slots that are listed one by one. After the last one the schedule is over.

    Raises
    ------
    ValueError
        There is no slot, or the slots are not in order.
    """

    slots: tuple[int, ...]
    """Microseconds since 1970, each later than the one before."""
    on_wall: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.slots or any(after <= before for before, after in pairwise(self.slots)):
            raise ValueError(f"{self.slots!r} are not slots in order")

    @property
    def spacing(self) -> None:
        return None

    def first(self, start: int) -> int | None:
        following = bisect_right(self.slots, start)
        return self.slots[following] if following < len(self.slots) else None

    def turn(self, slot: int, now: int, window: int) -> Turn:
        passed = bisect_right(self.slots, now) - bisect_right(self.slots, slot)
        if passed <= 0:
            return slot, 0, self.first(slot)
        return self.slots[bisect_right(self.slots, now) - 1], passed, self.first(now)

    def gap(self, slot: int) -> int:
        following = self.first(slot)
        return _NEVER if following is None else following - slot

    def __str__(self) -> str:
        first = f"{to_datetime(self.slots[0]):%Y-%m-%d %H:%M:%S} UTC"
        return f"once at {first}" if len(self.slots) == 1 else f"{len(self.slots)} times from {first}"


def share_of(text: str) -> int:
    """Compute a number of 32 bits that is always the same for one text, and far apart for similar texts.

    A task with ``phase="auto"`` begins ``spacing * share_of(f"{host}/{full_name}") >> 32`` after the
    start.
    """
    digest = hashlib.blake2b(
        text.encode(errors="surrogatepass"), digest_size=4, usedforsecurity=False
    ).digest()
    return int.from_bytes(digest, "big")
