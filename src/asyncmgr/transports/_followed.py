"""Finds out what a watch has to tell, by what it told before and what is there now. Pure but for the loop's time.

For engines whose watches read again from time to time. Revisions are compared for equality key by key: an order of
commits is not assumed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping

from asyncmgr.transports._streams import SNAPSHOT_DONE, Deleted, Entry, Watch

SUM_MODULO = 2**31 - 1
"""Revisions are summed up by their rests, since the sum of many would be too large for an engine."""

_LEEWAY = 1.0
"""Seconds. A key that vanished this short before its expiry counts as expired."""


class Followed:
    """The keys below one prefix, as one watch has told them.

    Parameters
    ----------
    store, start
        The store's name, and the first characters of the keys that are covered.
    ttl
        Seconds that a key lives; None = it does not expire.
    """

    def __init__(self, store: str, start: str, ttl: float | None) -> None:
        self.store, self.start = store, start
        self.watch = Watch()
        self.seen = 0
        """The store's last revision when all keys were compared last; 0 before the snapshot."""
        self._ttl = math.inf if ttl is None else ttl
        self._told: dict[str, tuple[int, float]] = {}
        """Of each key that is there: its revision, and the loop time of its expiry."""

    def begin(self, entries: Iterable[Entry], last: int) -> None:
        """Deliver the snapshot, which showed the store at its revision `last`."""
        for entry in entries:
            self.tell(entry)
        self.seen = last
        self.watch.deliver(SNAPSHOT_DONE)

    def tell(self, entry: Entry) -> None:
        """Deliver an entry that is newer than what was told of its key."""
        if entry.revision > self.revision_of(entry.key):
            self._told[entry.key] = (entry.revision, _now() + self._ttl - entry.age)
            self.watch.deliver(entry)

    def tell_absent(self, key: str, revision: int) -> None:
        """Deliver the deletion of a key that was there, unless it has expired."""
        told, expires = self._told.get(key, (0, 0.0))
        if told and told < revision:
            del self._told[key]
            if _now() < expires - _LEEWAY:
                self.watch.deliver(Deleted(key, revision))

    def changed(self, listed: Mapping[str, int]) -> list[str]:
        """The keys of a complete list, each with its revision, whose values have to be read."""
        return [key for key, revision in listed.items() if revision > self.revision_of(key)]

    def vanished(self, listed: Mapping[str, int]) -> list[str]:
        """The keys that were told and are not in a complete list."""
        return [key for key in self._told if key not in listed]

    def tell_vanished(self, listed: Mapping[str, int], last: int) -> None:
        """Deliver the deletion of each key that is not in a complete list, made at the revision `last` of the store.

        A key that somebody has removed behind the engine's back may have been the last one written.
        """
        for key in self.vanished(listed):
            self.tell_absent(key, max(last, self.revision_of(key) + 1))

    @property
    def summary(self) -> tuple[int, int]:
        """The number of keys that were told, and the sum of their revisions, each by its rest of `SUM_MODULO`."""
        return len(self._told), sum(revision % SUM_MODULO for revision, _ in self._told.values())

    def revision_of(self, key: str) -> int:
        """The revision of `key` that was told; 0 = none."""
        return self._told.get(key, (0, 0.0))[0]


def _now() -> float:
    return asyncio.get_running_loop().time()
