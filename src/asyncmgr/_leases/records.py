"""What stands in the three stores: sessions, claims and slots, as JSON with a version. Pure.

* A *session* is one life of one process. It is renewed while the process lives.
* A *claim* says which session holds a name. It is written when the name is acquired and released only.
* A *slot record* says how far the grid of a task has come, whoever holds the task.

A record of an unknown version is `Foreign`: it belongs to a newer program, and is never acted on, changed or deleted.
A record that cannot be read at all is foreign too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

VERSION = 1
"""The version of all records that this program writes."""

SESSIONS = "asyncmgr-sessions"
CLAIMS = "asyncmgr-claims"
SLOTS = "asyncmgr-slots"
"""The names of the three stores."""

SESSIONS_TTL = 3600.0
"""Seconds: the store forgets a session that was not written for so long. Nothing is decided by this."""

LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON keeps exactly."""

Knows: TypeAlias = Callable[[object], bool]
"""Whether records of this version may be acted on (`Rules.knows`)."""

R = TypeVar("R", bound="Record")


class Record:
    """A record that stands under one key."""

    __slots__ = ()
    optional: ClassVar[frozenset[str]] = frozenset()

    def encode(self) -> bytes:
        """Write the record as JSON."""
        fields = {name: value for name, value in asdict(self).items() if value or name not in self.optional}  # type: ignore[call-overload]
        return json.dumps({"v": VERSION, **fields}, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Foreign:
    """A record that this program does not understand: it leaves it alone."""

    reason: str


@dataclass(frozen=True, slots=True)
class SessionRecord(Record):
    """One life of one process."""

    optional: ClassVar[frozenset[str]] = frozenset({"wants", "shares"})

    inc: str
    """The identity: ``host~8 hexadecimal digits``."""
    host: str
    ttl: float
    """Seconds without a renewal after which others may kill this session."""
    n: int
    """The number of the attempt that wrote this; each attempt has its own."""
    state: Literal["live", "dead"] = "live"
    wants: str = ""
    """The key of a claim that this session asks its owner for; empty = none."""
    shares: tuple[str, ...] = ()
    """The tasks with keys that it takes part in: hosts share out the keys of each."""


@dataclass(frozen=True, slots=True)
class ClaimRecord(Record):
    """Who holds a name."""

    optional: ClassVar[frozenset[str]] = frozenset({"lag"})

    owner: str | None
    """The identity of the session that holds the name; `None` = it was released."""
    token: int
    ttl: float
    """The TTL of the owner's session, for those who never saw that session."""
    lag: int = 0
    """Of a shard that was released: microseconds from the last moment up to which its keys were run to the writing."""


@dataclass(frozen=True, slots=True)
class ShardsRecord(Record):
    """Into how many shards the keys of a task are shared out."""

    shards: int


@dataclass(frozen=True, slots=True)
class SlotRecord(Record):
    """How far the grid of a task has come."""

    optional: ClassVar[frozenset[str]] = frozenset({"oldest"})

    token: int
    """The fencing token of the holder that wrote this."""
    n: int
    """The number of the last slot that was claimed. It only grows, but that a holder gives back of `several` what it
    did not start. For slots of the wall clock: that moment in microseconds."""
    lag: int
    """Microseconds from that slot to the writing of this record; negative where the slot was still to come."""
    spacing: int
    """Microseconds between two slots; 0 = the slots are moments of the wall clock."""
    state: str
    """``new``: the grid has begun and had no slot; ``claimed``: the slot's run is in progress, or was cut off;
    ``several``: slots were claimed together; ``unstarted``: no run of the slot started; ``missed``: its run was cut
    off, as a later holder has told; ``passed``: its holder had no run for it; else the outcome of its run."""
    inc: str
    """The identity of the holder that claimed the slot, or took over slots that are still to be told of."""
    oldest: int = 0
    """The number of the first older slot that may not have been told of: the run of `n` stands for the slots from this
    one on, and its holder tells of them when it begins. With `missed`, `n` itself is still to be told of. 0 = none."""


_TYPES: dict[str, tuple[type, ...]] = {
    "inc": (str,),
    "oldest": (int,),
    "host": (str,),
    "ttl": (int, float),
    "n": (int,),
    "state": (str,),
    "wants": (str,),
    "owner": (str, type(None)),
    "token": (int,),
    "lag": (int,),
    "shards": (int,),
    "shares": (list,),
    "spacing": (int,),
}
_STATES = {SessionRecord: ("live", "dead")}


def decode(kind: type[R], value: bytes | None, knows: Knows) -> R | Foreign:
    """Read a record. Fields that this program does not know are ignored: they do not change what the others mean."""
    try:
        fields = json.loads(value or b"")
    except ValueError:
        return Foreign("no JSON")
    if not isinstance(fields, dict):
        return Foreign("no object")
    if not knows(fields.get("v")):
        return Foreign(f"version {fields.get('v')!r}")
    return _make(kind, fields)


def _make(kind: type[R], fields: dict[str, Any]) -> R | Foreign:
    names: Any = kind.__dataclass_fields__  # type: ignore[attr-defined]
    found = {name: fields[name] for name in names if name in fields and name != "optional"}
    for name, value in tuple(found.items()):
        if isinstance(value, bool) or not isinstance(value, _TYPES[name]):
            return Foreign(f"{name} is {value!r}")
        if isinstance(value, list):
            if not all(isinstance(one, str) for one in value):
                return Foreign(f"{name} is {value!r}")
            found[name] = tuple(value)
        if isinstance(value, int) and abs(value) > LARGEST:
            return Foreign(f"{name} is too large")
    if not 0 < found.get("ttl", 1) < float("inf"):
        return Foreign("ttl is not positive")
    if kind in _STATES and found.get("state") not in _STATES[kind]:  # type: ignore[index]
        return Foreign(f"state is {found.get('state')!r}")
    try:
        return kind(**found)
    except TypeError:
        return Foreign("fields are missing")
