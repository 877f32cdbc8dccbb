"""When a task is planned: a grid of slots. Pure and stateless: no clock, no await, no randomness.

A schedule is asked two things only: its first slot after an instant, and what to do with the slots up to an instant.
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
from typing import ClassVar, Protocol, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from asyncmgr._common.clock import SECOND, to_datetime, to_us
from asyncmgr._common.durations import format_duration
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.cron_text import explain, fields_of

DEFAULT_INTERVAL: float = 60.0
"""Seconds: how long a pass lets its caller idle at most, and the spacing of every-pass tasks under a service."""

SLOTS_COUNTED = 10
"""A cron schedule counts the slots it missed up to this many: each costs tens of microseconds to find."""


_WEEK = 7 * 86_400 * SECOND
"""No zone moves its clocks and moves them back again within less."""

_NEVER = 36_525 * 86_400 * SECOND
"""The gap after the last slot of all: longer than anything that is compared with it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SOME_DAY = datetime(2000, 1, 1)


class _LocalZone(tzinfo):
    """The zone of this process, as the C library has it, at every moment asked about."""

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
        # By way of the naive local time, which knows the first and the second passing of an hour.
        return datetime.fromtimestamp(dt.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)


LOCAL = "local"
"""The name for the zone of the process."""

_local_zone = _LocalZone()


def load_zone(name: str) -> tzinfo:
    """The time zone of this name, or of ``"local"``.

    Raises
    ------
    ValueError
        This machine has none of that name.
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
"""What one start of a task does to its grid: the slot that it is for, which is the latest one due; how many older
slots it stands for too; the next planned slot, or `None` where that was the last. A plain tuple, as one is made for
each run."""

EndlessTurn: TypeAlias = tuple[int, int, int]
"""The same of a schedule that is never over."""


class Schedule(Protocol):
    """A grid of slots, in microseconds of scheduling time, or of wall time where `on_wall`.

    `None` in place of a slot says that the schedule is over: there is never another one.
    """

    on_wall: ClassVar[bool]

    @property
    def spacing(self) -> float | None:
        """Seconds between two slots; 0.0 = every pass; `None` where it is not constant."""
        ...  # pragma: no cover

    def first(self, start: int) -> int | None:
        """The first slot of a task that starts at `start`, which is later than that; `None` = there is none."""
        ...  # pragma: no cover

    def turn(self, slot: int, now: int, window: int) -> Turn:
        """The outcome of starting at `now` a task whose next planned slot was `slot`."""
        ...  # pragma: no cover

    def gap(self, slot: int) -> int:
        """Microseconds from `slot` to the one after it; where there is none, a hundred years."""
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
    """Due whenever anybody looks; a service looks every `DEFAULT_INTERVAL`."""

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

    Where neither minute nor hour begin with ``*``, a slot in the hour that a change to summer time leaves out moves to
    that hour's end, and a slot in the hour that comes twice is there the first time only. All others have a slot at
    every instant at which a local clock shows such a time.

    Raises
    ------
    ValueError
        The expression or the zone means nothing, or has no slot at all (``0 0 30 2 *``).
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
            # This error also says that the day is in none of the months.
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
        """Where its times are read."""
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
        minute, hour = self._fields[-5:-3]
        return not minute.startswith("*") and not hour.startswith("*")

    def _after_at_fixed_times(self, wall: int) -> int:
        # Where an hour comes twice, this passing of it may be the second, in which nothing is due.
        found = (self._first_passing(time) for time in self._simulate(self._text, self._local_start(wall)))
        return next(slot for slot in found if slot > wall)

    def _local_start(self, wall: int) -> datetime:
        """The local time from which to look for slots after `wall`: in the second passing of an hour, its end."""
        local = to_datetime(wall).astimezone(self.zone)
        naive = local.replace(tzinfo=None, fold=0)
        if local.fold:
            before = _to_wall(naive) - self._offset_at(naive)
            change = self._next_change(before, wall)
            if change is not None:
                return _from_wall(change + self._offset(before)) - timedelta(seconds=1)
        return naive

    def _first_passing(self, local: datetime) -> int:
        """The instant at which a local clock first shows this, or the end of the hour that is left out with it."""
        time = _to_wall(local)
        first, second = time - self._offset_at(local), time - self._offset_at(local.replace(fold=1))
        if second >= first:
            return first
        change = self._next_change(second, first)
        return first if change is None else change

    def _after_in_real_time(self, wall: int) -> int:
        # Between two changes of its offset a zone's time is plain arithmetic. Handed the zone itself, cronsim 2.8 loses
        # slots where clocks change at midnight or by half an hour.
        while True:
            offset = self._offset(wall + 1)
            found = _to_wall(next(self._simulate(self._text, _from_wall(wall + offset)))) - offset
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
        return to_us(to_datetime(wall).astimezone(self.zone).utcoffset() or timedelta())

    def _offset_at(self, local: datetime) -> int:
        return to_us(local.replace(tzinfo=self.zone).utcoffset() or timedelta())

    def __str__(self) -> str:
        return f"cron {self.expression!r} {self.tz}"


def _to_wall(time: datetime) -> int:
    """Microseconds from 1970 to a naive time, both read on the same clock."""
    return to_us(time.replace(tzinfo=UTC, fold=0) - _EPOCH)


def _from_wall(wall: int) -> datetime:
    return to_datetime(wall).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Once:
    """Wall-clock slots that are listed one by one; after the last there is none.

    Raises
    ------
    ValueError
        There is no slot, or they are not in order.
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
    """A number of 32 bits that is always the same for this text, and far apart for similar ones.

    A task that begins at a share of its spacing begins ``spacing * share_of(f"{host}/{full_name}") >> 32`` after the
    start.
    """
    digest = hashlib.blake2b(
        text.encode(errors="surrogatepass"), digest_size=4, usedforsecurity=False
    ).digest()
    return int.from_bytes(digest, "big")
