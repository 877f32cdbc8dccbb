"""What follows a failure: another attempt, a longer spacing, an earlier run. Pure: no clock, no await, no generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from asyncmgr._common.clock import SECOND
from asyncmgr._common.safe_text import safe_repr
from asyncmgr.errors import InvalidPeriodicTaskArg, Skip

Errors: TypeAlias = type[Exception] | tuple[type[Exception], ...]

MOST_ATTEMPTS = 100

LONGEST_BACKOFF = 3600 * SECOND
"""Microseconds: `backoff` makes no spacing longer than this."""

BACKS_OFF_FROM = 2
"""Failures in a row from which on `backoff` makes the spacing longer."""

SHORTEST_WAIT = SECOND
"""Microseconds: no early run comes sooner than this after the run before."""

_MOST_DOUBLINGS = 40
_LONGEST = 1e9
"""Seconds that a delay may last."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a run is tried again, within its slot, before it counts as failed.

    Parameters
    ----------
    attempts
        The number of attempts in all, the first one included: 1 to 100. 1 = no other attempt.
    delay
        Seconds from the end of the first attempt to the second one.
    backoff
        By what each further delay is longer than the one before; at least 1.
    max_delay
        Seconds that no delay exceeds.
    jitter
        Each delay is shortened by a random share of up to this, 0 to 1.
    on
        The exception class, or classes, that are tried again. A timeout is a `TimeoutError`. `Skip` and a cancellation
        are never tried again.

    Raises
    ------
    InvalidPeriodicTaskArg
        A value is not accepted; the text names it and what is accepted.
    """

    attempts: int
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | timedelta = 60.0
    jitter: float = 0.1
    on: Errors = Exception

    def __post_init__(self) -> None:
        if not _is_whole(self.attempts) or not 1 <= self.attempts <= MOST_ATTEMPTS:
            self._refuse("attempts", f"a whole number from 1 to {MOST_ATTEMPTS}")
        for name in ("delay", "max_delay"):
            value = getattr(self, name)
            seconds = value.total_seconds() if isinstance(value, timedelta) else value
            if not _is_between(seconds, 0, _LONGEST):
                self._refuse(name, "0 or more seconds, or a timedelta")
            object.__setattr__(self, name, float(seconds))
        if not _is_between(self.backoff, 1, 1000):
            self._refuse("backoff", "a number from 1 to 1000")
        if not _is_between(self.jitter, 0, 1):
            self._refuse("jitter", "a number from 0 to 1")
        if not _are_errors(self.on):
            self._refuse("on", "an exception class, or a tuple of them")

    def _refuse(self, name: str, accepted: str) -> None:
        value = safe_repr(getattr(self, name), 60)
        raise InvalidPeriodicTaskArg(f"Retry({name}={value}) is not accepted; {name} is {accepted}")

    def covers(self, error: BaseException) -> bool:
        """Whether an attempt that ended with this error is tried again."""
        return isinstance(error, self.on) and not isinstance(error, Skip)

    def seconds_before(self, attempt: int, draw: Callable[[], float]) -> float:
        """Compute the delay before an attempt, of which the second one is 2; `draw` gives a number from 0 to 1."""
        assert isinstance(self.delay, float)
        assert isinstance(self.max_delay, float)
        longest = min(self.max_delay, self.delay * self.backoff ** min(attempt - 2, _MOST_DOUBLINGS))
        return longest * (1 - self.jitter * draw())


RETRY_FIELDS = tuple(field.name for field in fields(Retry))


def retry_from(value: object) -> Retry | None:
    """Read a `Retry`, the number of its attempts, or a table of its fields; `None` = no other attempt.

    Raises
    ------
    InvalidPeriodicTaskArg
        It is none of these, or a value in it is not accepted.
    """
    if value is None or isinstance(value, Retry):
        return value
    if isinstance(value, Mapping):
        return _from_table(value)
    if not _is_whole(value):
        raise InvalidPeriodicTaskArg(
            f"retry={safe_repr(value, 60)} is not accepted; retry is a Retry such as Retry(3), or a number of attempts"
        )
    return Retry(value)  # type: ignore[arg-type]


def _from_table(table: Mapping[Any, Any]) -> Retry:
    unknown = [key for key in table if key not in RETRY_FIELDS]
    if unknown or "attempts" not in table:
        raise InvalidPeriodicTaskArg(
            f"retry={safe_repr(dict(table), 60)} is not accepted; it has attempts, and may have "
            f"{', '.join(RETRY_FIELDS[1:])}"
        )
    return Retry(**table)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_between(value: object, least: float, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and least <= value <= most


def _are_errors(value: object) -> bool:
    errors = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(one, type) and issubclass(one, Exception) for one in errors)


# Between slots


class Hold(NamedTuple):
    """Slots of a failing task that get no run: those after `after`, up to `until`, on the scale of its grid."""

    after: int
    """The slot of the last failure. Where the wall clock was set back, earlier slots are run."""
    until: int
    spacing: int
    """Microseconds from one run to the next one."""
    failures: int
    grid: object
    start: int | None
    """Grid and start of the plan, when the run failed: another plan is not held."""

    def covers(self, slot: int) -> bool:
        return self.after < slot <= self.until


def spacing_after(failures: int, spacing: int, freshness: int | None) -> int:
    """Compute the spacing, microseconds, under ``backoff=True`` after so many failures in a row.

    From the second failure on it doubles, in whole spacings, to an hour at most and never over half of `freshness`.
    """
    if failures < BACKS_OFF_FROM:
        return spacing
    longest = LONGEST_BACKOFF if freshness is None else min(LONGEST_BACKOFF, freshness // 2)
    return spacing * min(1 << min(failures - 1, _MOST_DOUBLINGS), max(1, longest // spacing))


def early_run_after(left: int, until_next: int | None) -> int | None:
    """Say in how many microseconds a failed task runs again before its next slot; `None` = at its slot.

    Where that slot comes only after the promise of `freshness` is broken, it runs halfway to that moment, and halfway
    again, until it succeeds or less than two seconds are left.

    Parameters
    ----------
    left
        Microseconds until the promise is broken; negative where it is.
    until_next
        Microseconds to the next slot that gets a run; `None` = there is none.
    """
    if until_next is not None and until_next <= left:
        return None
    wait = left // 2
    return wait if wait >= SHORTEST_WAIT else None
