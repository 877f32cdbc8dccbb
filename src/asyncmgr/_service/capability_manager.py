"""`SchedulerDependentManager`: a manager that publishes capabilities of its host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncmgr._service.manager import Manager
from asyncmgr._tasks.declare import periodic_task
from asyncmgr.capabilities._values import PRESENCE, Node, check_nodes, read_capabilities

if TYPE_CHECKING:
    from pydantic import BaseModel


class SchedulerDependentManager(Manager):
    """A manager that reports capabilities of its host to whoever chooses between hosts."""

    service_name: str | None = None
    """The service's name on the wire; `None` = the service decides."""

    last_capabilities: tuple[Node, ...] | None = None
    """What was last given to `update_service_capabilities`; `None` = nothing yet, and nothing is sent."""

    def update_service_capabilities(
        self, capabilities: Mapping[str, Any] | BaseModel | Sequence[Mapping[str, Any] | BaseModel]
    ) -> None:
        """Remember what this host offers; under a service a change is sent within a second.

        One mapping or pydantic model, or a list with one for each node, named by the key ``node``. The list is the
        whole truth: nodes that are not in it are withdrawn, and the empty list withdraws all. The values are copied
        now.

        Raises
        ------
        InvalidCapabilities
            Something is not a JSON value (the text has its path), a node comes twice, also where another manager of
            the service reports it, or it is all together more than one value of a store can hold. What was
            remembered before stays.
        """
        nodes = read_capabilities(capabilities)
        if self.service is not None:
            others = [manager for manager in self.service.managers if manager is not self]
            if reported := _reported(others):
                check_nodes((*nodes, *reported))
        self.last_capabilities = nodes
        self._announce_changes()

    @periodic_task
    async def publish_service_capabilities(self, context: Any) -> None:
        """Send what is not sent yet. Without a service, or before the first update, this does nothing."""
        self._announce_changes()

    def _announce_changes(self) -> None:
        if self.service is not None and self.service.announcer is not None:
            self.service.announcer.announce_changes()


def nodes_of(managers: Iterable[Manager]) -> tuple[Node, ...]:
    """All nodes that these managers report; `PRESENCE` before the first of them has.

    Raises
    ------
    InvalidCapabilities
        Two managers report the same node, or all of them too much.
    """
    reporting = [manager for manager in managers if _has_reported(manager)]
    if not reporting:
        return PRESENCE
    nodes = _reported(reporting)
    # What one manager reports was checked when it did; encoding it for its size is most of the cost of a change.
    return nodes if len(reporting) == 1 else check_nodes(nodes)


def _has_reported(manager: Manager) -> bool:
    return isinstance(manager, SchedulerDependentManager) and manager.last_capabilities is not None


def _reported(managers: Iterable[Manager]) -> tuple[Node, ...]:
    return tuple(
        node
        for manager in managers
        if isinstance(manager, SchedulerDependentManager)
        for node in manager.last_capabilities or ()
    )
