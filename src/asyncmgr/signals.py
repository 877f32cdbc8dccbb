"""Runs a service in the foreground: signal handlers that only ask, and are put back afterwards."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncmgr.log import log
from asyncmgr.manager import Manager
from asyncmgr.service import Service, StopReport

if TYPE_CHECKING:
    from asyncmgr.settings import Settings
    from asyncmgr.transports import Transport


async def run(
    *managers: Manager | Service,
    name: str | None = None,
    host: str | None = None,
    transport: str | Transport | None = None,
    settings: Settings | None = None,
) -> StopReport:
    """Run managers, or one service, in the foreground until a signal or `service.stop` ends it.

    The first SIGTERM or SIGINT drains, and this returns. The second cancels what runs, gives `cleanup_host` one
    second, and raises `KeyboardInterrupt`. SIGHUP reads the settings again. Handlers are set only in the main
    thread and for signals that the application handles nowhere else; they are put back at the end.

    Raises
    ------
    KeyboardInterrupt
        At the second signal.
    BaseException
        What a failing start, the scheduler's death or a run's `SystemExit` raised.
    """
    if len(managers) == 1 and isinstance(managers[0], Service):
        service = managers[0]
    else:
        service = Service(*managers, name=name, host=host, transport=transport, settings=settings)  # type: ignore[arg-type] # it checks and says what is wrong
    interrupts = Interrupts(service)
    with interrupts.installed():
        try:
            async with service:
                await service.wait()
        finally:
            interrupts.raise_second()
    return await service.stop()


class Interrupts:
    """What signals mean to one service in the foreground."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._count = 0
        self._reload: asyncio.Task[None] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP while the block runs, as far as platform and application allow."""
        previous: dict[int, Any] = {}
        for number, action in self._actions():
            self._install(number, action, previous)
        try:
            yield
        finally:
            for number, handler in previous.items():
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, handler)

    def raise_second(self) -> None:
        if self._count > 1:
            raise KeyboardInterrupt

    def _actions(self) -> Iterator[tuple[int, Callable[[], None]]]:
        yield signal.SIGTERM, self._stop
        yield signal.SIGINT, self._stop
        if hasattr(signal, "SIGHUP"):
            yield signal.SIGHUP, self._read_settings

    def _install(self, number: int, action: Callable[[], None], previous: dict[int, Any]) -> None:
        name = signal.Signals(number).name
        if threading.current_thread() is not threading.main_thread():
            log.info("signal.left", signal=name, reason="not the main thread")
            return
        handler = signal.getsignal(number)
        if not _is_default(handler):
            log.info("signal.left", signal=name, reason="the application handles it")
            return
        try:
            asyncio.get_running_loop().add_signal_handler(number, action)
        except NotImplementedError:
            log.info("signal.left", signal=name, reason="this platform's event loop takes no signal handlers")
        else:
            previous[number] = handler

    def _stop(self) -> None:
        self._count += 1
        self._service.request_stop()

    def _read_settings(self) -> None:
        if self._reload is None or self._reload.done():
            self._reload = asyncio.get_running_loop().create_task(self._service.reload())


def _is_default(handler: Callable[[int, FrameType | None], Any] | int | None) -> bool:
    """Nobody handles the signal but Python itself, or `asyncio.run`."""
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    owner = getattr(handler.func, "__self__", None) if isinstance(handler, functools.partial) else None
    return isinstance(owner, asyncio.Runner)
