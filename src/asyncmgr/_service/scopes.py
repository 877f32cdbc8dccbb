"""`Scopes`: what a service runs alone, on its machine or in its application, and what it remembers of its slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from asyncmgr._service.cluster_scope import ClusterScope
from asyncmgr._service.gates import Gates
from asyncmgr._service.host_scope import HostScope
from asyncmgr._service.persist_scope import PersistScope, needs_no_file

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncmgr._history.journal import Journal
    from asyncmgr._service.connections import Connections
    from asyncmgr._settings.model import Settings
    from asyncmgr._tasks.managed import ManagedTask
    from asyncmgr.events import Listeners
    from asyncmgr.transports import StoreEngine


class Scopes:
    """The scopes of one service, and the gates of its tasks that they make.

    Parameters
    ----------
    application
        The application whose processes compete.
    store
        Returns the open store engine; raises where the service is not connected.
    """

    def __init__(
        self,
        application: str,
        host: str,
        settings: Settings,
        connections: Connections,
        *,
        store: Callable[[], StoreEngine],
        listeners: Listeners,
        journal: Journal,
    ) -> None:
        self._connections = connections
        self._store = store
        self.host = HostScope(application, settings.lease.directory)
        self.cluster = ClusterScope(
            application,
            host,
            ttl=settings.lease.ttl,
            shards=settings.lease.shards,
            store=store,
            listeners=listeners,
            journal=journal,
        )
        self.persist = PersistScope(application, host, settings, self._store_for_slots)
        self.gates = Gates()
        self.gates.makers |= {
            "host": self.host.gate,
            "cluster": self.cluster.gate,
            "persist": self.persist.gate,
        }

    def host_lease(self, name: str) -> AbstractAsyncContextManager[Any]:
        """Make a lease of which this machine and user have one."""
        from asyncmgr._leases.host_lease import host_lease

        return host_lease(self.host.locks(), name)

    async def read_slots(self, tasks: Iterable[ManagedTask]) -> None:
        """Read what is known of the slots of these tasks, before they start."""
        await self.persist.load(tasks)

    async def close_gates(self) -> None:
        """Close all gates and let others have the tasks, once no run is in progress."""
        self.gates.close()
        await self.cluster.release_tasks()

    def _store_for_slots(self) -> StoreEngine | None:
        """Return the store that keeps slots of tasks that every process runs; `None` = a file of the user does."""
        return self._store() if self._connections.given_store is not None or needs_no_file() else None
