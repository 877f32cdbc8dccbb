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
    """A manager that publishes what its host offers, for those who choose between hosts."""

    service_name: str | None = None
    """The service's name on the wire; `None`: the service decides."""

    last_capabilities: tuple[Node, ...] | None = None
    """What was last given to `update_service_capabilities`; `None` before that, and nothing is sent."""

    def update_service_capabilities(
        self, capabilities: Mapping[str, Any] | BaseModel | Sequence[Mapping[str, Any] | BaseModel]
    ) -> None:
        """Remember what this host offers; under a service a change is sent within a second. Any thread may call this.

        `capabilities` is one mapping or pydantic model, or a list with one for each node, named by the key ``node``.
        The list is the whole truth: nodes that are not in it are withdrawn, and the empty list withdraws all. The
        values are copied now.

        Raises
        ------
        InvalidCapabilities
            Something is not a JSON value (the text has its path), a node comes twice, also where another manager of
            the service reports it, or all of it is more than one value of a store can hold. What was remembered
            before stays.
        """
        nodes = read_capabilities(capabilities)
        self._write(nodes)
        self.last_capabilities = nodes

    @periodic_task
    async def publish_service_capabilities(self, context: Any) -> None:
        """Send what is not sent yet. Without a service, or before the first update, this does nothing."""
        if self.last_capabilities is not None:
            self._write(self.last_capabilities)

    def _write(self, nodes: tuple[Node, ...]) -> None:
        if self.service is not None:
            self.service.board.write(self.name, nodes)


def write_reports(managers: Iterable[Manager], board: Board) -> None:
    """Write to the board of a service what its managers reported before they had a service.

    Raises
    ------
    InvalidCapabilities
        Two managers report the same node, or all reports together are too large.
    """
    for manager in managers:
        if isinstance(manager, SchedulerDependentManager) and manager.last_capabilities is not None:
            board.write(manager.name, manager.last_capabilities)
