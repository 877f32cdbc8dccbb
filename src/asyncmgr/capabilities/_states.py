"""What readers see of hosts: states, and changes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class HostState:
    """One node of one host, as this reader knows it. Nothing in it can be changed."""

    service: str
    host: str
    node: str
    """The capability `node`; empty where the host has only one."""
    capabilities: Mapping[str, Any]
    state: Literal["fresh", "stale"]
    """`stale` once half the TTL of the host has passed without an announcement.

    A view that hears nothing (see `Hosts.live`) keeps the state that it knew.
    """
    age: float
    """Seconds since the host was announced, on this reader's clock."""
    incarnation: int
    """Greater for each later start of the host."""
    sequence: int
    """Greater for each later announcement of one start."""


Kind: TypeAlias = Literal["joined", "updated", "stale", "left"]


@dataclass(frozen=True, slots=True)
class HostChange:
    """Something became different about a node."""

    kind: Kind
    """`updated`: it has other capabilities, its host was restarted, or it is fresh after it was stale."""
    host: HostState
    """The node as it is now; with `left` as it was last."""


Filter: TypeAlias = Callable[[HostState], bool]
"""Says whether a node may be chosen."""

Weigher: TypeAlias = Callable[[HostState], float]
"""Says what a node is worth; more is better. Its attribute `multiplier`, where it has one, says how much it counts."""
