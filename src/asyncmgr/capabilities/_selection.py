"""Ready-made filters and weighers for `Hosts.select`, by capabilities. Pure.

``hosts.select(filters=[at_least("memory.free", 512)], weighers=[weigh("memory.free"), weigh("load", multiplier=-1)])``
takes the host with most memory and least load, after the filters and weighers of Nova's scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncmgr.capabilities._hosts import HostState

_NOTHING: Any = object()


def capability(host: HostState, path: str, default: Any = None) -> Any:
    """What a host says under a path such as ``memory.free`` or ``disks.0.free``; `default` where it says nothing."""
    value: Any = host.capabilities
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step, _NOTHING)
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else _NOTHING
        else:
            value = _NOTHING
    return default if value is _NOTHING else value


@dataclass(frozen=True, slots=True)
class at_least:  # noqa: N801 - read as a function: filters=[at_least("memory", 512)]
    """A filter: passes hosts whose capability at `path` is a number of at least `amount`."""

    path: str
    amount: float

    def __call__(self, host: HostState) -> bool:
        value = _number(capability(host, self.path))
        return value is not None and value >= self.amount


@dataclass(frozen=True, slots=True)
class equals:  # noqa: N801 - likewise
    """A filter: passes hosts whose capability at `path` is `value`."""

    path: str
    value: Any

    def __call__(self, host: HostState) -> bool:
        return bool(capability(host, self.path, _NOTHING) == self.value)


@dataclass(frozen=True, slots=True)
class weigh:  # noqa: N801 - likewise
    """A weigher: hosts with more at `path` come first; with a negative `multiplier` those with less.

    A host without a number there weighs as if it had `default`.
    """

    path: str
    multiplier: float = 1.0
    default: float = 0.0

    def __call__(self, host: HostState) -> float:
        value = _number(capability(host, self.path))
        return self.default if value is None else value


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
