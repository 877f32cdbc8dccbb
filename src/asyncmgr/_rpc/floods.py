"""Keeps repeated events from filling the log: each kind is told at the first, second, fourth, eighth time and so on."""

from __future__ import annotations

from collections.abc import Hashable
from types import TracebackType

from asyncmgr._common.log import is_reminder

_KINDS_KEPT = 256
"""Kinds that are told apart; the one that was counted longest ago is then forgotten."""


class Counts:
    """How often each kind of event happened."""

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}

    def note(self, kind: Hashable) -> int | None:
        """Count one more; the number where it is to be told."""
        count = self._counts.pop(kind, 0) + 1
        self._counts[kind] = count  # at the end: the others are older
        if len(self._counts) > _KINDS_KEPT:
            del self._counts[next(iter(self._counts))]
        return count if is_reminder(count) else None


def kind_of_error(error: BaseException) -> Hashable:
    """Errors of one type that were raised in one line are one kind."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
