"""`Board`: the claims of an application as this process sees them. The watch may be late; nothing is decided by it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from asyncmgr._leases.keys import is_shard_key
from asyncmgr._leases.records import ClaimRecord, Foreign, decode
from asyncmgr._leases.rules import Rules
from asyncmgr.transports import Entry


@dataclass(frozen=True, slots=True)
class Seen:
    """One claim as it was last seen."""

    record: ClaimRecord | Foreign | None = None
    """`None` = there is none."""
    revision: int = 0
    at: float = 0.0
    """The loop time of its writing."""

    @property
    def owner(self) -> str | None:
        """The session that the claim names; `None` = none, or nobody knows."""
        return self.record.owner if isinstance(self.record, ClaimRecord) else None

    @property
    def claim(self) -> ClaimRecord | None:
        return self.record if isinstance(self.record, ClaimRecord) else None


NOTHING = Seen()


class Board:
    """All claims of one application, by key and by owner."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._now = asyncio.get_running_loop().time
        self._seen: dict[str, Seen] = {}
        self._floor: dict[str, int] = {}
        """Revisions of claims that were seen to be deleted, or that are absent: what is older says nothing."""
        self._by_owner: dict[str, dict[str, None]] = {}
        self._counts: Counter[str] = Counter()
        self.highest_token = 0
        """The highest token that was ever seen."""

    def get(self, key: str) -> Seen:
        return self._seen.get(key, NOTHING)

    def of(self, owner: str) -> list[str]:
        """List the keys of the claims that name a session."""
        return list(self._by_owner.get(owner, ()))

    def count(self, owner: str) -> int:
        """Count the claims that name a session; shards of keys, which are shared out by other rules, do not count."""
        return self._counts.get(owner, 0)

    def revisions(self) -> dict[str, int]:
        return {key: seen.revision for key, seen in self._seen.items()}

    def see(self, entry: Entry, *, force: bool = False) -> bool:
        """Note an entry; return whether that is news. An older one than is known is none, unless it is forced."""
        record = decode(ClaimRecord, entry.value, self._rules.knows)
        return self.note(entry.key, record, entry.revision, age=entry.age, force=force)

    def note(
        self, key: str, record: ClaimRecord | Foreign, revision: int, *, age: float = 0.0, force: bool = False
    ) -> bool:
        """Note what stands under a key at a revision; see `see`."""
        known = max(self.get(key).revision, self._floor.get(key, 0))
        if revision == self.get(key).revision or (revision < known and not force):
            return False
        self._put(key, Seen(record, revision, self._now() - age))
        if isinstance(record, ClaimRecord):
            self.highest_token = max(self.highest_token, self._rules.token_of(record, revision))
        return True

    def note_absent(self, key: str, revision: int, *, force: bool = False) -> bool:
        """Note that a key was deleted at a revision, or that a read did not find it; return whether that is news."""
        seen = self.get(key)
        if seen.record is None or (revision < seen.revision and not force):
            return False
        self._floor[key] = revision
        self._put(key, NOTHING)
        return True

    def forget_revisions(self) -> None:
        """Forget everything but the tokens: the store went back."""
        self._seen.clear()
        self._floor.clear()
        self._by_owner.clear()
        self._counts.clear()

    def _put(self, key: str, seen: Seen) -> None:
        before = self.get(key).owner
        if before is not None:
            keys = self._by_owner[before]
            keys.pop(key, None)
            self._counts[before] -= not is_shard_key(key)
            if not keys:
                del self._by_owner[before], self._counts[before]
        if seen is NOTHING:
            self._seen.pop(key, None)
        else:
            self._seen[key] = seen
        if seen.owner is not None:
            self._by_owner.setdefault(seen.owner, {})[key] = None
            self._counts[seen.owner] += not is_shard_key(key)
