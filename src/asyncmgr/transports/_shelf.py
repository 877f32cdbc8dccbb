"""The keys of one store of ``memory://``, and the clock that their revisions follow. Pure but for the loop's time."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from asyncmgr._common.clock import read_wall, to_us
from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.transports._given import lasting
from asyncmgr.transports._streams import SNAPSHOT_DONE, Change, Deleted, Entry, Watch


class EngineClock:
    """Microseconds since 1970: the wall's at the making, and from then on the loop's, which is never set back."""

    def __init__(self) -> None:
        self._ahead = read_wall() - to_us(_now())

    def __call__(self) -> int:
        return self._ahead + to_us(_now())


@dataclass(frozen=True, slots=True)
class _Record:
    value: bytes
    revision: int
    written: float


@dataclass(eq=False, slots=True)
class Shelf:
    """The keys of one store, shared by all transports that have opened it."""

    name: str
    ttl: float
    now: Callable[[], int] = field(default_factory=lambda: EngineClock())
    """Reads the clock that revisions follow."""
    watches: dict[Watch, str] = field(default_factory=dict)
    """The watches, each with the first characters of the keys that it covers."""
    _revision: int = 0
    # In the order of writing. This is the order of expiry too, since all keys have one TTL: expired ones are in front.
    _records: OrderedDict[str, _Record] = field(default_factory=OrderedDict)
    _resting: dict[str, Callable[[], object]] = field(default_factory=dict)
    """The keys that do not age, each with the function to call when it ages again."""

    @property
    def lasts(self) -> str:
        """How long keys live, for errors."""
        return lasting(None if math.isinf(self.ttl) else self.ttl)

    def get(self, key: str) -> Entry | None:
        self._purge()
        record = self._records.get(key)
        return self._entry(key, record) if record else None

    def require_none(self, key: str) -> None:
        if (entry := self.get(key)) is not None:
            raise RevisionConflict(f"{self.name}: {key} is there, at revision {entry.revision}; update it")

    def require(self, key: str, revision: int) -> None:
        entry = self.get(key)
        if entry is None or entry.revision != revision:
            found = f"at revision {entry.revision}" if entry else "not there"
            raise RevisionConflict(f"{self.name}: {key} is {found}, not at {revision}; read it again")

    def write(self, key: str, value: bytes) -> int:
        self._purge()
        self._wake(key)
        self._revision = self._next_revision()
        record = self._records[key] = _Record(value, self._revision, _now())
        self._records.move_to_end(key)
        self._announce(self._entry(key, record))
        return self._revision

    def delete(self, key: str) -> None:
        self._purge()
        self._wake(key)
        if self._records.pop(key, None):
            self._revision = self._next_revision()
            self._announce(Deleted(key, self._revision))

    def _next_revision(self) -> int:
        """The engine's microseconds, so that revisions grow after the loss of all data too."""
        return max(self._revision + 1, self.now())

    def wipe(self) -> None:
        """Lose all keys and the last revision. Watches end, as those of an engine that was started again do."""
        for key in list(self._resting):
            self._wake(key)
        self._records.clear()
        self._revision = 0
        for watch in self.watches:
            watch.end(TransportError(f"store {self.name}: the engine has lost its data; watch again"))

    def follow(self, watch: Watch, start: str) -> None:
        """Deliver the entries whose keys begin with `start`, then their changes until the watch leaves `watches`."""
        self._purge()
        for key in [key for key in self._resting if key.startswith(start)]:
            self._wake(key)
        for key, record in self._records.items():
            if key.startswith(start):
                watch.deliver(self._entry(key, record))
        watch.deliver(SNAPSHOT_DONE)
        self.watches[watch] = start

    def rest(self, key: str, wake: Callable[[], object]) -> bool:
        """Stop the ageing of a key until it is watched or written; return False where it is watched or missing."""
        self._purge()
        if key not in self._records or any(key.startswith(start) for start in self.watches.values()):
            return False
        self._resting[key] = wake
        return True

    def end_rest(self, key: str, wake: Callable[[], object]) -> None:
        """Let the key age again from now on, if it rests by a call with this `wake`."""
        if self._resting.get(key) is wake:
            del self._resting[key]
            self._renew(key)

    def _wake(self, key: str) -> None:
        if (wake := self._resting.get(key)) is not None:
            self.end_rest(key, wake)
            wake()

    def _renew(self, key: str) -> None:
        record = self._records[key]
        self._records[key] = _Record(record.value, record.revision, _now())
        self._records.move_to_end(key)

    def _announce(self, change: Change) -> None:
        for watch, start in self.watches.items():
            if not isinstance(change, Entry | Deleted) or change.key.startswith(start):
                watch.deliver(change)

    def _purge(self) -> None:
        horizon = _now() - self.ttl
        while self._records:
            key, record = next(iter(self._records.items()))
            if record.written > horizon:
                return
            if key in self._resting:
                self._renew(key)
            else:
                del self._records[key]

    def _entry(self, key: str, record: _Record) -> Entry:
        age = 0.0 if key in self._resting else _now() - record.written
        return Entry(key, record.value, record.revision, age)


def _now() -> float:
    return asyncio.get_running_loop().time()
