"""`HostLocks`: the locks of one application on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from asyncmgr._common.clock import MovesWall
from asyncmgr._leases.boot import Boot, boot_of
from asyncmgr._leases.directory import Kind, file_name, find_directory
from asyncmgr._leases.host_lock import HostLock
from asyncmgr._leases.memory_lock import memory_lock

_PROBE = "asyncmgr.lock"


class Lock(Protocol):
    """What at most one object has at a time, on all of this machine: a locked file, or what stands in for it."""

    @property
    def held(self) -> bool: ...  # pragma: no cover

    @property
    def gained(self) -> bool: ...  # pragma: no cover

    @property
    def restored(self) -> bool: ...  # pragma: no cover

    def acquire(self) -> bool: ...  # pragma: no cover

    def read(self) -> bytes: ...  # pragma: no cover

    def write(self, data: bytes) -> None: ...  # pragma: no cover

    def close(self) -> None: ...  # pragma: no cover


class HostLocks:
    """Makes locks. An event loop must be running.

    In virtual time the services of one loop are the processes of a machine, which has no files: so a test neither waits
    for an application that runs beside it, nor disturbs it. Where a directory is given, files are used even then.

    Parameters
    ----------
    application
        Its processes compete with each other only.
    directory
        Where the files are; `None` = the default.
    """

    def __init__(self, application: str, directory: Path | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.application = application
        self.boot: Boot = boot_of(loop)
        self.directory = None if directory is None else directory.absolute()
        self._in_memory = loop if directory is None and isinstance(loop, MovesWall) else None

    @property
    def are_files(self) -> bool:
        return self._in_memory is None

    def check(self) -> None:
        """Try whether a file can be made and locked.

        Raises
        ------
        LockUnavailable
            It cannot; the text says why and what to do.
        """
        if self.are_files:
            probe = HostLock(find_directory(self.directory) / _PROBE)
            try:
                probe.acquire()
            finally:
                probe.close()

    def lock(self, kind: Kind, name: str) -> Lock:
        """Make the lock of this name; nobody has it yet.

        Raises
        ------
        LockUnavailable
            The directory cannot be used.
        """
        if self._in_memory is not None:
            return memory_lock(self._in_memory, f"{self.application}\0{kind}\0{name}")
        return self.file(kind, name)

    def file(self, kind: Kind, name: str) -> HostLock:
        """Make the lock of this name, which is a file."""
        return HostLock(find_directory(self.directory) / file_name(self.application, kind, name))
