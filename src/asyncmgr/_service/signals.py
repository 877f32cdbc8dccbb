"""Runs a service in the foreground. Its signal handlers only ask the service to act, and are removed at the end."""

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

    The first SIGTERM or SIGINT drains the service, and this returns. The second cancels runs and calls, gives
    `cleanup_host` one second, and raises `KeyboardInterrupt`. SIGHUP reads the settings again; in a process that has a
    controlling terminal it drains instead, since it means there that the terminal was closed. Handlers are set only in
    the main thread, and only for signals that the application neither handles nor ignores; the handlers from before
    come back at the end. Several calls may run side by side: a signal reaches all of them.

    Raises
    ------
    AsyncmgrError
        A service is given together with an option that it has already, such as `name`.
    KeyboardInterrupt
        The second signal came.
    BaseException
        The error of a start that failed, of the scheduler's death, or the `SystemExit` of a run.
    """
    service = _one_service(managers, name=name, host=host, transport=transport, settings=settings)
    interrupts = Interrupts(service)
    with _handlers.installed_for(interrupts):
        try:
            with contextlib.suppress(ServiceStopped):
                async with service:
                    await service.wait()
        finally:
            interrupts.raise_second()
    return await service.stop()


def _one_service(managers: tuple[Any, ...], **options: Any) -> Service:
    """Return the service that is given, or build one for the managers."""
    if len(managers) != 1 or not isinstance(managers[0], Service):
        return Service(*managers, **options)
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise AsyncmgrError(
            f"run() is given a service, which has its {given[0]} already; leave {given[0]}= out"
        )
    return managers[0]


class Interrupts:
    """Turns signals into requests to one service in the foreground, and counts those that ask for a stop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._count = 0

    def terminate(self) -> None:
        self._stop("SIGTERM")

    def interrupt(self) -> None:
        self._stop("SIGINT")

    def _stop(self, because: str) -> None:
        self._count += 1
        self._service.request_stop(at_once=self._count > 1, because=because)

    def reload(self) -> None:
        self._service.request_reload()

    def hang_up(self) -> None:
        # Not counted, neither as the first signal nor as the second: when a window is closed, the shell and the kernel
        # both send a SIGHUP, and service managers send one beside their SIGTERM.
        log.info("terminal.hung_up", reason="SIGHUP ends what runs on a terminal; without one it reloads")
        self._service.request_stop(because="SIGHUP")

    def raise_second(self) -> None:
        if self._count > 1:
            raise KeyboardInterrupt


class Handlers:
    """The signal handlers of the process while services run in the foreground. A signal reaches all these services."""

    def __init__(self) -> None:
        self._installed_for: list[Interrupts] = []
        self._replaced: dict[signal.Signals, tuple[_Handler, _Handler]] = {}
        """By signal: the handler that was set before, and ours."""

    @contextmanager
    def installed_for(self, interrupts: Interrupts) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP while the block runs, as far as platform and application allow."""
        if threading.current_thread() is not threading.main_thread():
            log.info("signal.left", reason="not the main thread; the service's stop() ends it")
            yield
            return
        loop = asyncio.get_running_loop()
        if not self._installed_for:
            self._install_all(loop)
        self._installed_for.append(interrupts)
        try:
            yield
        finally:
            self._installed_for.remove(interrupts)
            if not self._installed_for:
                self._restore(loop)

    def _install_all(self, loop: asyncio.AbstractEventLoop) -> None:
        self._install(loop, signal.SIGTERM, Interrupts.terminate)
        self._install(loop, signal.SIGINT, Interrupts.interrupt)
        if hasattr(signal, "SIGHUP"):
            # Checked now: when the signal comes, the terminal may be gone.
            self._install(loop, signal.SIGHUP, Interrupts.hang_up if has_terminal() else Interrupts.reload)

    def _install(
        self, loop: asyncio.AbstractEventLoop, number: signal.Signals, action: Callable[[Interrupts], None]
    ) -> None:
        before = signal.getsignal(number)
        if not _is_default(before):
            log.info("signal.left", signal=number.name, reason=_why_left(number, before))
            return
        try:
            loop.add_signal_handler(number, self._call_all, action)
        except RuntimeError as exc:  # also NotImplementedError, on Windows
            log.info("signal.left", signal=number.name, reason=f"this event loop takes none: {exc!r}")
        else:
            self._replaced[number] = (before, signal.getsignal(number))

    def _call_all(self, action: Callable[[Interrupts], None]) -> None:
        for interrupts in tuple(self._installed_for):
            action(interrupts)

    def _restore(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._replaced:
            number, (before, ours) = self._replaced.popitem()
            now = signal.getsignal(number)
            loop.remove_signal_handler(number)
            # A handler that the application has set meanwhile stays.
            signal.signal(number, before if now == ours else now)


_handlers = Handlers()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, however stdin and stdout are redirected."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, AttributeError):  # AttributeError on Windows, which has no such terminals
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
    """Whether the handler is Python's default one, or that of `asyncio.run`."""
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    owner = getattr(handler.func, "__self__", None) if isinstance(handler, functools.partial) else None
    return isinstance(owner, asyncio.Runner)
