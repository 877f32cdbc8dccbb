"""Reads the settings of a running service again and puts them in force."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import safe_str
from asyncmgr._service.manager import Manager
from asyncmgr.errors import AsyncmgrError

if TYPE_CHECKING:
    from asyncmgr._settings.model import Settings


class Reload:
    """Reloads the settings of one service, one reload at a time.

    Parameters
    ----------
    service
        The service's name, for the log.
    read
        Reads new settings and checks them against the tasks. Where it raises, the error is logged and the old
        settings stay.
    put_in_force
        Puts the new settings in force.
    managers
        Returns the managers whose `reload` hook is called afterwards.
    on_exit
        Called with the `SystemExit` or `KeyboardInterrupt` that a hook raised.
    """

    def __init__(
        self,
        service: str,
        *,
        read: Callable[[], Settings],
        put_in_force: Callable[[Settings], None],
        managers: Callable[[], Iterable[Manager]],
        on_exit: Callable[[BaseException], None],
    ) -> None:
        self._service = service
        self._read = read
        self._put_in_force = put_in_force
        self._managers = managers
        self._on_exit = on_exit
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def begin(self, context: contextvars.Context) -> asyncio.Task[None]:
        """Begin a reload. Where one is in progress, it reads the settings once more at its end, for later changes."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(
                self._reload_while_asked(), name=f"{self._service} reload", context=context
            )
        return self._task

    async def end(self) -> None:
        """Cancel the reload in progress, and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _reload_while_asked(self) -> None:
        while self._again:
            self._again = False
            if self._reload_settings():
                for manager in tuple(self._managers()):
                    await self._reload_manager(manager)

    def _reload_settings(self) -> bool:
        try:
            settings = self._read()
        except Exception as exc:
            log.error("settings.rejected", service=self._service, error=_text_of(exc))
            return False
        self._put_in_force(settings)
        return True

    async def _reload_manager(self, manager: Manager) -> None:
        try:
            await manager.reload()
        except (SystemExit, KeyboardInterrupt) as exc:  # from a task they would tear down the whole loop
            self._on_exit(exc)
        except (Exception, asyncio.CancelledError) as exc:
            if is_cancelled():
                raise
            log.error("reload.failed", service=self._service, manager=manager.name, exc_info=exc)


def _text_of(error: Exception) -> str:
    """Return the text of the error: ours keeps its lines, one for each problem; any other is made safe to show."""
    return str(error) if isinstance(error, AsyncmgrError) else safe_str(error)
