"""Runs a service in the foreground: signal handlers that only ask, and are put back afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncmgr._common.log import log
from asyncmgr._service.manager import Manager
from asyncmgr._service.service import Service, StopReport
from asyncmgr.errors import AsyncmgrError, ServiceStopped

if TYPE_CHECKING:
    from asyncmgr._settings.model import Settings
    from asyncmgr.transports import Transport

_Handler = Callable[[int, FrameType | None], Any] | int | None


async def run(
    *managers: Manager | Service,
    name: str | None = None,
    host: str | None = None,
    transport: str | Transport | None = None,
    settings: Settings | None = None,
) -> StopReport:
    """Run managers, or one service, in the foreground until a signal or `service.stop` ends it.

    The first SIGTERM or SIGINT drains, and this returns. The second cancels what runs, gives `cleanup_host` one
    second, and raises `KeyboardInterrupt`. SIGHUP reads the settings again; in a process that has a controlling
    terminal it drains instead, as the terminal is closed then. Handlers are set only in the main thread and for
    signals that the application neither handles nor ignores; they are put back at the end. Several calls may run
    side by side: a signal is for all of them.

    Raises
    ------
    AsyncmgrError
        A service is given together with what it has already.
    KeyboardInterrupt
        At the second signal.
    BaseException
        What a failing start, the scheduler's death or a run's `SystemExit` raised.
    """
    service = _one_service(managers, name=name, host=host, transport=transport, settings=settings)
    interrupts = Interrupts(service)
    with _handlers.telling(interrupts):
        try:
            with contextlib.suppress(ServiceStopped):
                async with service:
                    await service.wait()
        finally:
            interrupts.raise_second()
    return await service.stop()


def _one_service(managers: tuple[Any, ...], **options: Any) -> Service:
    """The service that is given, or a new one for the managers."""
    if len(managers) != 1 or not isinstance(managers[0], Service):
        return Service(*managers, **options)
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise AsyncmgrError(
            f"run() is given a service, which has its {given[0]} already; leave {given[0]}= out"
        )
    return managers[0]


class Interrupts:
    """What signals mean to one service in the foreground."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._count = 0

    def stop(self) -> None:
        self._count += 1
        self._service.request_stop(at_once=self._count > 1)

    def reload(self) -> None:
        self._service.request_reload()

    def hang_up(self) -> None:
        # Counted neither as the first signal nor as the second: when a window is closed, the shell and the kernel
        # both send one, and service managers send one with their SIGTERM.
        log.info("terminal.hung_up", reason="SIGHUP ends what runs on a terminal; without one it reloads")
        self._service.request_stop()

    def raise_second(self) -> None:
        if self._count > 1:
            raise KeyboardInterrupt


class Handlers:
    """The signal handlers of the process while anything runs in the foreground; they tell all that does."""

    def __init__(self) -> None:
        self._told: list[Interrupts] = []
        self._replaced: dict[signal.Signals, tuple[_Handler, _Handler]] = {}
        """By signal: the handler before ours, and ours."""

    @contextmanager
    def telling(self, interrupts: Interrupts) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP while the block runs, as far as platform and application allow."""
        if threading.current_thread() is not threading.main_thread():
            log.info("signal.left", reason="not the main thread; the service's stop() ends it")
            yield
            return
        loop = asyncio.get_running_loop()
        if not self._told:
            self._install_all(loop)
        self._told.append(interrupts)
        try:
            yield
        finally:
            self._told.remove(interrupts)
            if not self._told:
                self._restore(loop)

    def _install_all(self, loop: asyncio.AbstractEventLoop) -> None:
        self._install(loop, signal.SIGTERM, Interrupts.stop)
        self._install(loop, signal.SIGINT, Interrupts.stop)
        if hasattr(signal, "SIGHUP"):
            # Asked now: of a terminal that was closed nothing is left to ask.
            self._install(loop, signal.SIGHUP, Interrupts.hang_up if has_terminal() else Interrupts.reload)

    def _install(
        self, loop: asyncio.AbstractEventLoop, number: signal.Signals, action: Callable[[Interrupts], None]
    ) -> None:
        before = signal.getsignal(number)
        if not _is_default(before):
            log.info("signal.left", signal=number.name, reason=_why_left(number, before))
            return
        try:
            loop.add_signal_handler(number, self._tell, action)
        except RuntimeError as exc:  # also NotImplementedError, on Windows
            log.info("signal.left", signal=number.name, reason=f"this event loop takes none: {exc!r}")
        else:
            self._replaced[number] = (before, signal.getsignal(number))

    def _tell(self, action: Callable[[Interrupts], None]) -> None:
        for interrupts in tuple(self._told):
            action(interrupts)

    def _restore(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._replaced:
            number, (before, ours) = self._replaced.popitem()
            now = signal.getsignal(number)
            loop.remove_signal_handler(number)
            # What the application has set meanwhile is the application's.
            signal.signal(number, before if now == ours else now)


_handlers = Handlers()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; a redirected stdin or stdout says nothing of that."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, AttributeError):  # AttributeError on Windows, which knows no such terminals
        return False
    os.close(terminal)
    return True


def _why_left(number: signal.Signals, handler: _Handler) -> str:
    if handler != signal.SIG_IGN:
        return "the application handles it"
    return (
        f"the process was told to ignore it, as by nohup or by a shell's &: {number.name} does nothing here"
    )


def _is_default(handler: _Handler) -> bool:
    """Nobody handles the signal but Python itself, or `asyncio.run`."""
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    owner = getattr(handler.func, "__self__", None) if isinstance(handler, functools.partial) else None
    return isinstance(owner, asyncio.Runner)
