"""Moments, lengths and slots in the words of an explanation. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from asyncmgr._common.clock import SECOND, to_datetime
from asyncmgr._history.slots import Record


@dataclass(frozen=True, slots=True)
class Dial:
    """Shows moments in one time zone; with the day where it is another one than today."""

    now: int
    """Wall time, microseconds since 1970."""
    zone: tzinfo = UTC

    def show(self, moment: int) -> str:
        """Show a moment: ``03:00``, ``02:59:30``, ``2026-07-01 02:59:30.250``."""
        local = self._local(moment)
        if local is None:
            return f"{moment / SECOND:.0f} s after 1970"
        day = "" if self._is_today(local) else f"{local:%Y-%m-%d} "
        if local.microsecond >= 1000:
            return f"{day}{local:%H:%M:%S}.{local.microsecond // 1000:03}"
        return f"{day}{local:%H:%M:%S}" if local.second else f"{day}{local:%H:%M}"

    def show_second(self, moment: int) -> str:
        """Show a moment without fractions of a second."""
        return self.show(moment - moment % SECOND)

    def _is_today(self, local: datetime) -> bool:
        today = self._local(self.now)
        return today is not None and local.date() == today.date()

    def _local(self, moment: int) -> datetime | None:
        try:
            return to_datetime(moment).astimezone(self.zone)
        except (OverflowError, ValueError, OSError):
            return None

    def slots(self, record: Record) -> str:
        """Name the slots of a record: ``the slot of 03:00``, ``the 4 slots from 02:40 to 02:55``."""
        if record.count == 1:
            return f"the slot of {self.show(record.slot)}"
        return f"the {record.count:,} slots from {self.show(record.slot)} to {self.show(record.last)}"


def length(seconds: float) -> str:
    """Show a length: ``300 ms``, ``4.2 s``, ``23 min``, ``1 h 30 min``, ``2 d 3 h``. What is no number is not known."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 0:
        return f"-{length(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
    if seconds < 119.5:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    rest = round(seconds / 60)
    parts = []
    for unit, size in (("d", 1440), ("h", 60), ("min", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def was(record: Record) -> str:
    """``was`` or ``were``."""
    return "was" if record.count == 1 else "were"


def quoted(note: str) -> str:
    """Put a note in brackets; nothing for none."""
    return f' ("{note}")' if note else ""
