"""Logs what is malformed in the store: once for each key and episode, in bounded memory."""

from __future__ import annotations

from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import printable, safe_str

KEYS_KEPT = 64
"""Keys whose malformed value was logged and which are kept, so that it is not logged again."""

_KEY_SHOWN = 300


class MalformedKeys:
    """The keys that hold something malformed at the moment."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._others = 0
        """How often there was one while no more were kept."""

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
        """The key holds an announcement now, or nothing; what is malformed later is a new episode."""
        self._told.discard(key)
