"""Keeps repeated events from filling the log: logs the first, second, fourth, eighth event of a kind, and so on."""

from __future__ import annotations

from collections.abc import Hashable
from types import TracebackType

from asyncmgr._common.log import is_reminder

_KINDS_KEPT = 256
"""Kinds that are counted. The kind whose last event is the oldest is forgotten first."""


class Counts:
    """Counts events by kind."""

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}

    def note(self, kind: Hashable) -> int | None:
        """Count one event. Returns the count if this event is to be logged, else `None`."""
        count = self._counts.pop(kind, 0) + 1
        self._counts[kind] = count  # moves to the end: the other kinds are older
        if len(self._counts) > _KINDS_KEPT:
            del self._counts[next(iter(self._counts))]
        return count if is_reminder(count) else None


def kind_of_error(error: BaseException) -> Hashable:
    """Give errors the same kind if they have one type and were raised in one line."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
