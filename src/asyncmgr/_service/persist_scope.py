"""`PersistScope`: remembers the last slots of tasks with ``persist=True``. Without such a task it imports nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from asyncmgr._common.clock import MovesWall
from asyncmgr._common.log import log
from asyncmgr._tasks.gate import Gate
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner
from asyncmgr.transports import StoreEngine, encode_token, open_store

if TYPE_CHECKING:
    from asyncmgr._leases.persist import Memory, PersistGate
    from asyncmgr._settings.model import Settings


class PersistScope:
    """The tasks of one service whose slots survive a restart.

    Parameters
    ----------
    store
        Returns the open store that was set; `None` = none was set, and a file of the user is taken.
    """

    def __init__(
        self, application: str, host: str, settings: Settings, store: Callable[[], StoreEngine | None]
    ) -> None:
        self._application, self._host, self._settings = application, host, settings
        self._given = store
        self._opened = AsyncExitStack()
        self._memory: Memory | None = None
        self._gates: dict[PersistGate, None] = {}

    async def load(self, tasks: Iterable[ManagedTask]) -> None:
        """Read what is known of the tasks, before they start."""
        names = [task.full_name for task in tasks if _is_kept(task)]
        if not names:
            return
        try:
            engine = self._given() or await self._open_file()
        except Exception as exc:  # no local task stops because of a store
            log.error("slots.unavailable", application=self._application, host=self._host, exc_info=exc)
            return
        from asyncmgr._leases.persist import Memory

        self._memory = Memory(engine, self._application, self._host)
        await self._memory.load(names)

    async def _open_file(self) -> StoreEngine:
        path = _state_directory() / f"{encode_token(self._application)}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return await self._opened.enter_async_context(
            open_store(f"sqlite:///{path}", settings=self._settings)
        )

    def gate(self, task: ManagedTask, runner: Runner) -> Gate | None:
        """Make the gate of a task; `None` = there is no store, or the service has started without such tasks."""
        if self._memory is None:
            return None
        from asyncmgr._leases.persist import PersistGate

        gate = PersistGate(task, runner, self._memory)
        self._gates[gate] = None
        gate.open()
        return gate

    async def close(self) -> None:
        """Write what is left, and close the file."""
        try:
            await asyncio.gather(*(gate.flush() for gate in self._gates))
        finally:
            await self._opened.aclose()


def _is_kept(task: ManagedTask) -> bool:
    options = task.options
    return options.persist and options.scope == "process" and options.switched_off is None


def needs_no_file() -> bool:
    """Whether the running loop's time is virtual: what runs there leaves no files behind."""
    return isinstance(asyncio.get_running_loop(), MovesWall)


def _state_directory() -> Path:
    """Return where programs of this user keep what survives a restart."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "asyncmgr"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "asyncmgr"
