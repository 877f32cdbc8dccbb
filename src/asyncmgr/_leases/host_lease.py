"""`host_lease`: the right to be the only one of this machine, application and user, for as long as a block lasts.

A thread that is blocked in ``flock`` has the lock within a millisecond of its release, without a look at any interval.
One thread waits for all tasks of an event loop that want the same lease. Nothing can take a thread out of ``flock``: so
where all its tasks were cancelled, it waits on, and gives the lock back as soon as it gets it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from asyncmgr._common.safe_text import printable
from asyncmgr._leases.host_lock import HostLock
from asyncmgr._leases.host_locks import HostLocks, Lock
from asyncmgr._leases.host_record import HostRecord, decode
from asyncmgr._leases.memory_lock import MemoryLock


class HostLease:
    """A lease that is held."""

    fencing_token: None = None
    """There is none: a lock of one machine has no numbers that grow."""

    def __init__(self, name: str, lock: Lock) -> None:
        self.name = name
        self._lock = lock
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether another process may have it too, since somebody removed the file of the lock. This looks now."""
        self._lost = self._lost or not self._lock.acquire() or self._lock.gained
        return self._lost

    def __repr__(self) -> str:
        return f"<HostLease {printable(self.name)}>"


@asynccontextmanager
async def host_lease(locks: HostLocks, name: str) -> AsyncIterator[HostLease]:
    """Wait until no other task, process or application of this name holds the lease, and hold it.

    A task that holds it and asks for it again waits for ever.

    Raises
    ------
    LockUnavailable
        The file of the lock cannot be used; the text says why and what to do.
    """
    door = _door(locks, name)
    await door.enter()
    try:
        door.lock.write(HostRecord(locks.boot.id, os.getpid()).encode())
        yield HostLease(name, door.lock)
    finally:
        door.leave()


def holder_of_lease(locks: HostLocks, name: str) -> str | None:
    """Name the process that holds a lease, or held it last, for people; `None` = it is not known."""
    lock = locks.lock("lease", name)
    record = decode(lock.read())
    lock.close()
    return None if record is None or not record.pid else f"pid {record.pid}"


class _Door:
    """The tasks of one event loop that hold, or wait for, one lease. `forget` is called when there is none left."""

    def __init__(self, lock: Lock, forget: Callable[[], object]) -> None:
        self.lock = lock
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._awaits_lock = False
        """Whether a thread, or a call of the lock itself, will come with the lock."""

    async def enter(self) -> None:
        place: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(place)
        try:
            if not self.lock.held and not self._awaits_lock:
                self._look()
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # it was let in while it was being cancelled
            raise
        finally:
            self._waiting.remove(place)
            self._end_if_idle()

    def leave(self) -> None:
        self.lock.close()
        if any(not place.done() for place in self._waiting):
            # Not at once: the processes that wait longer come first.
            self._await_lock()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._waiting and not self._awaits_lock and not self.lock.held:
            self._forget()

    def _look(self) -> None:
        if self.lock.acquire():
            self._let_in()
        else:
            self._await_lock()

    def _await_lock(self) -> None:
        self._awaits_lock = True
        if isinstance(self.lock, MemoryLock):
            self.lock.when_free(self._come_with_none)
        else:
            assert isinstance(self.lock, HostLock)
            # A daemon: a process that ends does not wait for it. The loop's own threads would be used up by others.
            threading.Thread(
                target=self._block, args=(self.lock,), name="asyncmgr lease", daemon=True
            ).start()

    def _block(self, lock: HostLock) -> None:
        """Wait in a thread."""
        error: Exception | None = None
        try:
            lock.acquire(wait=True)
        except Exception as exc:
            error = exc
        try:
            self._loop.call_soon_threadsafe(self._come, error)
        except RuntimeError:  # the loop was closed meanwhile
            lock.close()

    def _come_with_none(self) -> None:
        self._awaits_lock = False
        if any(not place.done() for place in self._waiting):
            self._look()
        self._end_if_idle()

    def _come(self, error: Exception | None) -> None:
        self._awaits_lock = False
        if error is None:
            self._let_in()
            return
        for place in self._waiting:
            if not place.done():
                place.set_exception(error)

    def _let_in(self) -> None:
        """Let the first one in who still waits; where nobody does, others may have the lock."""
        for place in self._waiting:
            if not place.done():
                place.set_result(None)
                return
        self.lock.close()
        self._end_if_idle()


_doors: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Door]] = WeakKeyDictionary()


def _door(locks: HostLocks, name: str) -> _Door:
    """Return the one door of this lease in the running loop. It stays while a thread may come with the lock."""
    doors = _doors.setdefault(asyncio.get_running_loop(), {})
    key = f"{locks.application}\0{name}\0{locks.directory}"
    if key not in doors:
        doors[key] = _Door(locks.lock("lease", name), lambda: doors.pop(key, None))
    return doors[key]
