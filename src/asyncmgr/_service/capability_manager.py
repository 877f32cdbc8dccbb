"""`SchedulerDependentManager`: a manager that publishes capabilities of its host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncmgr._service.manager import Manager
from asyncmgr._tasks.declare import periodic_task
from asyncmgr.capabilities._board import Board
from asyncmgr.capabilities._values import Node, read_capabilities

if TYPE_CHECKING:
    from pydantic import BaseModel


class SchedulerDependentManager(Manager):
    """A manager that publishes the capabilities of its host, so that others can choose between hosts."""

    service_name: str | None = None
    """The service's name on the wire; `None` = the service chooses it."""

    last_capabilities: tuple[Node, ...] | None = None
    """The latest capabilities given to `update_service_capabilities`; `None` before the first call."""

    def update_service_capabilities(
        self, capabilities: Mapping[str, Any] | BaseModel | Sequence[Mapping[str, Any] | BaseModel]
    ) -> None:
        """Remember the host's capabilities; a service sends a change within a second. Any thread may call this.

        `capabilities` is one mapping or pydantic model, or a list of them, one for each node; the key ``node`` holds
        the node's name. The list is complete: the service withdraws nodes that are not in it, and the empty list
        withdraws all. The values are copied during the call.

        Raises
        ------
        InvalidCapabilities
            Something is not a JSON value (the text has its path), a node comes twice (also where another manager of
            the service reports it), or the capabilities together are larger than one value of a store. The
            capabilities of the previous call then stay.
        """
        nodes = read_capabilities(capabilities)
        self._write(nodes)
        self.last_capabilities = nodes

    @periodic_task
    async def publish_service_capabilities(self, context: Any) -> None:
        """Send capabilities that are not sent yet. Without a service, or before the first update, do nothing."""
        if self.last_capabilities is not None:
            self._write(self.last_capabilities)

    def _write(self, nodes: tuple[Node, ...]) -> None:
        if self.service is not None:
            self.service.board.write(self.name, nodes)


def write_reports(managers: Iterable[Manager], board: Board) -> None:
    """Copy the managers' capabilities from before the start to the service's board.

    Raises
    ------
    InvalidCapabilities
        Two managers report the same node, or their capabilities together are too large.
    """
    for manager in managers:
        if isinstance(manager, SchedulerDependentManager) and manager.last_capabilities is not None:
            board.write(manager.name, manager.last_capabilities)
