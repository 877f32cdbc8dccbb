"""The time axis of the picture. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta, tzinfo

from asyncmgr._common.clock import SECOND, to_datetime, to_us
from asyncmgr.testing.rehearsal._figures import MINUTE, Figures

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
"""Seconds between two labels."""

_MOST_LABELS = 13


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps moments (wall time, microseconds) to places."""

    first: int
    last: int
    left: float
    width: float
    ticks: tuple[tuple[float, str], ...]
    """Places with their labels."""

    def x(self, moment: int) -> float:
        """Return the place of a moment, within the axis."""
        share = (moment - self.first) / max(1, self.last - self.first)
        return self.left + self.width * min(1.0, max(0.0, share))

    @property
    def pixel(self) -> float:
        """Microseconds of one unit of width."""
        return (self.last - self.first) / self.width

    def columns(self, minutes: Sequence[float]) -> Iterator[tuple[float, float, float]]:
        """Make columns of the values of minutes, each at least two units wide: from, to, the largest value in it."""
        together = max(1, round(2 * self.pixel / MINUTE))
        for at in range(0, len(minutes), together):
            end = min(at + together, len(minutes))
            yield self.x(self.first + at * MINUTE), self.x(self.first + end * MINUTE), max(minutes[at:end])


def axis_of(figures: Figures, left: float, right: float, zone: tzinfo) -> Axis:
    """Make the axis of a rehearsal, with labels in this zone."""
    rehearsal = figures.rehearsal
    bare = Axis(rehearsal.first, rehearsal.last, left, right - left, ())
    return Axis(bare.first, bare.last, left, bare.width, tuple(_ticks(bare, zone)))


def _ticks(axis: Axis, zone: tzinfo) -> Iterator[tuple[float, str]]:
    seconds = (axis.last - axis.first) / SECOND
    days = 86_400 * int(-(-seconds // (_MOST_LABELS * 86_400)))
    step = next((step for step in _STEPS if seconds / step <= _MOST_LABELS), days) * SECOND
    offset = to_us(to_datetime(axis.first).astimezone(zone).utcoffset() or timedelta())
    moment = -(-(axis.first + offset) // step) * step - offset
    while moment <= axis.last:
        local = to_datetime(moment).astimezone(zone)
        if step >= 86_400 * SECOND:
            label = f"{local:%m-%d}"
        else:
            label = f"{local:%H:%M:%S}" if step < 60 * SECOND else f"{local:%H:%M}"
        yield axis.x(moment), label
        moment += step
