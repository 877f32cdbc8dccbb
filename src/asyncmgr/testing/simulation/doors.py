"""The doors of the product that a simulation uses: which rules a process follows, and what it trusts now."""

from __future__ import annotations

from collections.abc import Mapping

from asyncmgr._leases.rules import Rules
from asyncmgr.testing.simulation.cluster import Process


def set_rules(process: Process, rules: Rules) -> None:
    """Have the service that is built next in this process follow these rules."""


def trusted(process: Process) -> Mapping[str, int]:
    """List the names that a process holds and trusts at this moment, each with its token."""
    return {}
