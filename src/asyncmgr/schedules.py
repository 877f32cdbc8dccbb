"""When a task is planned: a grid of slots. Pure and stateless: no clock, no await, no randomness.

A schedule is asked two things only: its first slot after an instant, and what to do with the slots up to an instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from asyncmgr.clock import SECOND, to_datetime

DEFAULT_INTERVAL: float = 60.0
"""Seconds: how long a pass lets its caller idle at most, and the spacing of every-pass tasks under a service."""

SLOTS_COUNTED = 100
"""A cron schedule counts the slots it missed up to this many: each costs tens of microseconds to find."""


_ZONE_CHANGE = 3 * 3600 * SECOND
"""No zone moves its clocks by more than this at once."""


def _load_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except Exception as exc:
        raise ValueError(f"{name!r} is not a time zone of this machine; write e.g. 'Europe/Berlin'") from exc


class Turn(NamedTuple):
    """What one start of a task does to its grid."""

    slot: int
    """The slot that this start is for: the latest one due."""
    missed: int
    """How many older slots it stands for too."""
    next_slot: int
    """The next planned slot."""


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
            return Turn(slot, 0, slot + self.step)
        latest = slot + passed * self.step
        return Turn(latest, passed, latest + self.step)

    def gap(self, slot: int) -> int:
        return self.step

    def __str__(self) -> str:
        return f"every {self.spacing:g} s"


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
        return Turn(now, 0, now)

    def gap(self, slot: int) -> int:
        return int(DEFAULT_INTERVAL * SECOND)

    def __str__(self) -> str:
        return "every pass"


@dataclass(frozen=True)
class Cron:
    """Wall-clock slots of a cron expression (5 or 6 fields) in a time zone.

    Across a change to or from summer time it does what Debian's cron does, as cronsim implements it: a slot in the
    hour that is left out moves to its end, and a slot in the hour that comes twice runs once.

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
            return Turn(slot, 0, following)
        latest = self._latest(slot, now)
        return Turn(latest, self._count(slot, latest), self._after(max(latest, now)))

    def gap(self, slot: int) -> int:
        following = self._after(slot)
        return self._after(following) - following

    def _latest(self, slot: int, now: int) -> int:
        # The search backwards does not always land on a slot of the search forwards near a change of summer time
        # (cronsim 2.8), so it only says where to begin.
        guess = next(self._search(now + 1, reverse=True))
        latest = cursor = max(slot, guess - _ZONE_CHANGE)
        while (cursor := self._after(cursor)) <= now:
            latest = cursor
        return latest

    def _count(self, slot: int, latest: int) -> int:
        count = 0
        while slot < latest and count < SLOTS_COUNTED:
            slot = self._after(slot)
            count += 1
        return count

    def _after(self, wall: int) -> int:
        # In the hour that comes twice the first find may be its first passing, which is over.
        return next(found for found in self._search(wall, reverse=False) if found > wall)

    def _search(self, wall: int, *, reverse: bool) -> Iterator[int]:
        local = to_datetime(wall).astimezone(self._zone)
        for found in self._simulate(self._fields, local, reverse=reverse):
            yield round(found.timestamp()) * SECOND

    def __str__(self) -> str:
        return f"cron {self.expression!r} {self.tz}"
