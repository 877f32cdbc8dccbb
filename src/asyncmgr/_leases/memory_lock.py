"""`MemoryLock`: stands in for the lock of a file in virtual time, where the services of one loop are the processes."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from weakref import WeakKeyDictionary


class _Cell:
    """What a file is on a machine."""

    def __init__(self) -> None:
        self.holder: MemoryLock | None = None
        self.data = b""
        self.waiting: deque[Callable[[], None]] = deque()


class MemoryLock:
    """The lock of one name in one event loop; see `HostLock`."""

    def __init__(self, cell: _Cell) -> None:
        self._cell = cell
        self.gained = self.restored = False

    @property
    def held(self) -> bool:
        return self._cell.holder is self

    def acquire(self) -> bool:
        self.gained = self._cell.holder is None
        if self.gained:
            self._cell.holder = self
        return self.held

    def read(self) -> bytes:
        return self._cell.data

    def write(self, data: bytes) -> None:
        assert self.held
        self._cell.data = data

    def close(self) -> None:
        if self.held:
            self._cell.holder = None
            if self._cell.waiting:
                asyncio.get_running_loop().call_soon(self._cell.waiting.popleft())

    def when_free(self, call: Callable[[], None]) -> None:
        """Call once, when the present holder has given it up, or soon where there is none; the first in line first."""
        if self._cell.holder is None and not self._cell.waiting:
            asyncio.get_running_loop().call_soon(call)
        else:
            self._cell.waiting.append(call)


_machines: WeakKeyDictionary[asyncio.AbstractEventLoop, defaultdict[str, _Cell]] = WeakKeyDictionary()


def memory_lock(loop: asyncio.AbstractEventLoop, name: str) -> MemoryLock:
    """Make a lock of this name for the machine that the loop is."""
    return MemoryLock(_machines.setdefault(loop, defaultdict(_Cell))[name])
