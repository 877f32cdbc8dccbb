"""The changes that one reader has not read yet."""

from __future__ import annotations

from collections import OrderedDict

from asyncmgr.capabilities._states import HostChange, Kind
from asyncmgr.transports._streams import Stream


class ChangeStream(Stream[HostChange]):
    """Changes, of which at most one of a node waits for its reader: the net difference."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: OrderedDict[tuple[str, str, str], HostChange] = OrderedDict()

    def deliver(self, change: HostChange) -> None:
        """Add a change to those that wait. Ignored after the end."""
        if self._ended:
            return
        node = (change.host.service, change.host.host, change.host.node)
        pending = self._pending.pop(node, None)
        kind = change.kind if pending is None else _net(pending.kind, change.kind)
        if kind is not None:
            self._pending[node] = HostChange(kind, change.host)
            self._wake.set()

    def _has_items(self) -> bool:
        return bool(self._pending)

    def _take(self) -> HostChange:
        return self._pending.popitem(last=False)[1]


def _net(first: Kind, then: Kind) -> Kind | None:
    """Two changes of one node as one; `None` where it came and went."""
    if first == "joined":
        return None if then == "left" else "joined"
    if then == "joined":
        return "updated"
    return "updated" if first == "updated" and then == "stale" else then
