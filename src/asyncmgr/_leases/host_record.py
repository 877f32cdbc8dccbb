"""`HostRecord`: what the holder of a lock of this machine writes in it, for people and for the next holder. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeAlias

VERSION = 1

_SIZE = 512
"""Bytes of a record, so that one that is written over an older one leaves nothing of it."""

State: TypeAlias = Literal["new", "claimed", "ended"]
"""Of the last slot: there was none; its run is in progress, or was cut off; its run has ended."""

_TYPES: dict[str, tuple[type, ...]] = {"boot": (str,), "state": (str,), "left": (bool,)}
_STATES = ("new", "claimed", "ended")


@dataclass(frozen=True, slots=True)
class HostRecord:
    """The holder of a task, and how far the task's grid has come."""

    boot: str
    """The boot of the machine during which this was written."""
    pid: int = 0
    start: int = 0
    """When the process started, in ticks since the boot; 0 = it is not known."""
    number: int = 0
    """The number of the last slot; it only grows, over all holders and boots."""
    slot: int = 0
    """The last slot in microseconds since the boot."""
    wall: int = 0
    """The same slot by the wall clock: microseconds since 1970."""
    state: State = "new"
    left: bool = False
    """Whether the holder has given the lock up in order."""

    def encode(self) -> bytes:
        """Write the record as one line of JSON, always of the same length."""
        text = json.dumps({"v": VERSION, **asdict(self)}, separators=(",", ":"))
        return text.ljust(_SIZE - 1).encode() + b"\n"


def decode(data: bytes) -> HostRecord | None:
    """Read a record; `None` where there is none, or none that this program understands."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("v") != VERSION:
        return None
    known = {field.name: found[field.name] for field in fields(HostRecord) if field.name in found}
    if known.get("state", "new") not in _STATES or "boot" not in known:
        return None
    if not all(_fits(name, value) for name, value in known.items()):
        return None
    return HostRecord(**known)


def _fits(name: str, value: object) -> bool:
    types = _TYPES.get(name)
    if types is None:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, types)
