"""The doors into the leases that a simulation uses: which rules a process follows, and whether it trusts itself."""

from __future__ import annotations

from asyncmgr._leases.cluster import Cluster
from asyncmgr._leases.rules import Rules
from asyncmgr._leases.session import Session
from asyncmgr._service.service import Service
from asyncmgr.testing.simulation._cluster import Process


def set_rules(service: Service, rules: Rules) -> None:
    """Have a service that has not started follow these rules."""
    service._scopes.cluster.rules = rules  # noqa: SLF001 - a door of our own house


def _cluster(process: Process) -> Cluster | None:
    service: Service | None = process.service
    return None if service is None else service._scopes.cluster.begun  # noqa: SLF001 - a door of our own house


def session(process: Process) -> Session | None:
    """Return the present session of the process; `None` = it has none."""
    cluster = _cluster(process)
    return None if cluster is None else cluster.session


def acts_on(process: Process, name: str) -> bool:
    """Whether the process holds a name and trusts itself, by its own rules and clocks."""
    cluster = _cluster(process)
    return (
        cluster is not None
        and cluster.trusted
        and any(held.holder.name == name for held in cluster.claims.held())
    )


def untrusted_for(own: Session | None) -> float:
    """Return the seconds since the trust of a session ended, by the host's clocks; negative = it lasts."""
    return -1.0 if own is None or own.is_lost else -own.trust_left
