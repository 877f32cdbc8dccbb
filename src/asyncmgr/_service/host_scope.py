"""`HostScope`: gives a service the gates of its tasks of ``scope="host"``. Without such a task it imports nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from asyncmgr._tasks.gate import Gate
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner

if TYPE_CHECKING:
    from asyncmgr._leases.host_locks import HostLocks


class HostScope:
    """The tasks of one service that one process of this machine runs.

    Parameters
    ----------
    application
        The application whose processes compete.
    directory
        Where the files of its locks are; `None` = the default.
    """

    def __init__(self, application: str, directory: Path | None) -> None:
        self._application = application
        self._directory = directory
        self._locks: HostLocks | None = None

    def check(self, tasks: Iterable[ManagedTask]) -> None:
        """Try whether locks can be used, if any of the tasks needs one.

        Raises
        ------
        LockUnavailable
            They cannot; the text says why and what to do.
        """
        if any(task.options.scope == "host" and task.options.switched_off is None for task in tasks):
            self.locks().check()

    def gate(self, task: ManagedTask, runner: Runner) -> Gate:
        """Make the gate of a task; an event loop must be running."""
        from asyncmgr._leases.host_gate import HostGate
        from asyncmgr._leases.host_keys import HostKeysGate

        make = HostKeysGate if task.is_keyed else HostGate
        return make(task, runner, self.locks())

    def locks(self) -> HostLocks:
        """Return the locks of the application, made at first use; an event loop must be running."""
        from asyncmgr._leases.host_locks import HostLocks

        if self._locks is None:
            self._locks = HostLocks(self._application, self._directory)
        return self._locks
