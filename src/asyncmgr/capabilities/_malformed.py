"""Logs malformed announcements: once for each key and episode, in bounded memory."""

from __future__ import annotations

from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import printable, safe_str

KEYS_KEPT = 64
"""Keys that are remembered, so that what they hold is not logged again."""

_KEY_SHOWN = 300


class MalformedKeys:
    """The keys that hold a malformed announcement now."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._others = 0
        """How often a key beyond those was malformed."""

    def note(self, key: str, error: ValueError) -> None:
        """Log the first malformed value of a key; of keys beyond those kept the 1st, 2nd, 4th, 8th ..."""
        if key in self._told:
            return
        if len(self._told) < KEYS_KEPT:
            self._told.add(key)
            log.warning("announcement.malformed", key=printable(key, _KEY_SHOWN), error=safe_str(error))
            return
        self._others += 1
        if is_reminder(self._others):
            log.warning(
                "announcement.malformed",
                key=printable(key, _KEY_SHOWN),
                error=safe_str(error),
                other_keys=self._others,
            )

    def forget(self, key: str) -> None:
        """End the episode of a key: it holds a good announcement now, or nothing."""
        self._told.discard(key)
