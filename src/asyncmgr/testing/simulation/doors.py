"""The doors into the leases that a simulation uses: which rules a process follows, and whether it trusts itself."""

from __future__ import annotations

from typing import Any

from asyncmgr._leases.rules import Rules
from asyncmgr.testing.simulation.cluster import Process


def _cluster(process: Process) -> Any:
    return getattr(process.service, "_cluster", None)


def set_rules(process: Process, rules: Rules) -> None:
    """Have the service that is built next in this process follow these rules."""


def session(process: Process) -> Any:
    """Return the present session of the process; `None` = it has none."""
    cluster = _cluster(process)
    return None if cluster is None else cluster.session


def is_trusted(process: Process) -> bool:
    """Whether the process may act on what it holds, by its own rules and clocks."""
    own = session(process)
    return own is not None and bool(own.trusted)


def untrusted_for(process: Process, own: Any) -> float:
    """Return the seconds since the trust of a session ended, by the host's clocks; negative = it lasts."""
    return -1.0 if own is None or own.is_lost else -float(own.trust_left)
