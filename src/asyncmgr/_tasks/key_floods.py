"""`KeyFloods`: lets the log stay readable where very many keys of one task are in the same trouble at once."""

from __future__ import annotations

from asyncmgr._common.clock import SECOND
from asyncmgr._common.log import is_reminder

LINES = 20
"""Lines of one event about single keys of one task that are written in a spell; after them only the 32nd, 64th ..."""

SPELL = 60 * SECOND
"""Microseconds of one spell, unless the spacing of the task is longer."""


class KeyFloods:
    """Counts the lines about single keys: 100,000 of them, with tracebacks, would keep the event loop for long."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}

    def count(self, task: str, event: str, now: int, spacing: int) -> int | None:
        """Count one more line of an event; return the number in this spell, `None` = it is not to be written."""
        began, count = self._counts.get((task, event), (now, 0))
        if not 0 <= now - began <= max(SPELL, spacing):
            began, count = now, 0
        self._counts[task, event] = began, count + 1
        return count + 1 if count < LINES or is_reminder(count + 1) else None
