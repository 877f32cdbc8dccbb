"""`ClusterScope`: gives a service the gates of tasks of ``scope="cluster"``, and leases; else it imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncmgr._service.health import Leases
from asyncmgr._tasks.gate import Gate
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner

if TYPE_CHECKING:
    from asyncmgr._history.journal import Journal
    from asyncmgr._leases.cluster import Cluster
    from asyncmgr._leases.lease import Lease, OnLost
    from asyncmgr._leases.rules import Rules
    from asyncmgr._service.service import Service
    from asyncmgr.events import Listeners
    from asyncmgr.transports import StoreEngine


class ClusterScope:
    """What one service holds alone in its application: tasks and leases.

    Parameters
    ----------
    store
        Returns the open store engine.
    """

    def __init__(
        self,
        application: str,
        host: str,
        *,
        ttl: float,
        shards: int,
        store: Callable[[], StoreEngine],
        listeners: Listeners,
        journal: Journal,
    ) -> None:
        self.application = application
        self.rules: Rules | None = None
        """The rules that are followed; a simulation sets others before the start. `None` = the usual ones."""
        self._host, self._ttl, self._shards = host, ttl, shards
        self._store = store
        self._listeners, self._journal = listeners, journal
        self._cluster: Cluster | None = None

    @property
    def begun(self) -> Cluster | None:
        """The part of this process in its application; `None` = nothing has asked for it."""
        return self._cluster

    def cluster(self) -> Cluster:
        """Return the part of this process in its application; the first call begins it, in the running loop."""
        if self._cluster is None:
            from asyncmgr._leases.cluster import Cluster

            self._cluster = Cluster(
                self._store(),
                application=self.application,
                host=self._host,
                ttl=self._ttl,
                rules=self.rules,
                tell=self._listeners.tell,
                write=self._journal.add,
            )
            self._cluster.start()
        return self._cluster

    def gate(self, task: ManagedTask, runner: Runner) -> Gate:
        """Make the gate of a task."""
        if isinstance(task, KeyedTask):
            from asyncmgr._leases.key_shares import KeyShares

            shares = KeyShares(task, runner, self.cluster(), self._shards)
            shares.open()
            return shares
        from asyncmgr._leases.cluster_gate import ClusterGate

        gate = ClusterGate(task, runner, self.cluster())
        gate.open()
        return gate

    def lease(self, name: str, on_lost: OnLost) -> Lease:
        """Make a lease, which is asked for when it is entered."""
        from asyncmgr._leases.lease import Lease

        return Lease(self.cluster, name, on_lost)

    def leases(self) -> Leases:
        """Tell what is held at present, by the names of tasks and leases."""
        if self._cluster is None:
            return Leases()
        names = sorted({name.holder.name for name in self._cluster.claims.held()})
        return Leases(tuple(names), self._cluster.trusted)

    async def release_tasks(self) -> None:
        """Release the tasks, for whose runs have ended."""
        if self._cluster is not None:
            await self._cluster.release(lambda holder: holder.kind == "task")

    async def stop(self) -> None:
        """Release all that is left, and end the session."""
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            await cluster.stop()


def cluster_scope_of(service: Service) -> ClusterScope:
    """Return what a service holds alone; for simulations and tests."""
    return service._scopes.cluster  # noqa: SLF001 - a door of our own house
