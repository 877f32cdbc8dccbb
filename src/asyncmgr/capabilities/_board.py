"""The board of one service: managers write what the host offers; the board wakes the announcer, which reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from asyncmgr.capabilities._values import PRESENCE, Node, check_nodes


class Board:
    """What the managers of one service report about their host. May be used in any thread."""

    def __init__(self) -> None:
        self.nodes: tuple[Node, ...] = PRESENCE
        """All nodes that are reported now; one node without capabilities before the first report."""
        self._reports: dict[str, tuple[Node, ...]] = {}
        self._writing = threading.Lock()
        self._reader: Callable[[], object] | None = None

    def write(self, author: str, report: tuple[Node, ...]) -> None:
        """Replace what `author` reported before, and wake the reader.

        Raises
        ------
        InvalidCapabilities
            Another author reports one of these nodes, or all reports together are too large. What the board held
            before stays.
        """
        with self._writing:
            if self._reports.get(author) is not report:
                self._replace(author, report)
        if (reader := self._reader) is not None:
            reader()

    def _replace(self, author: str, report: tuple[Node, ...]) -> None:
        reports = self._reports | {author: report}
        nodes = tuple(node for each in reports.values() for node in each)
        # Each report was checked when it was made. To encode it again for its size would double the cost.
        self.nodes = nodes if len(reports) == 1 else check_nodes(nodes)
        self._reports = reports

    def set_reader(self, reader: Callable[[], object] | None) -> None:
        """Have `reader` called after each report, in the thread of its author; `None` ends this."""
        self._reader = reader
