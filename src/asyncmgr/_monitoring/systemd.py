"""Tells systemd that a service has started, stops, and lives: ``Type=notify`` and ``WatchdogSec=`` of its unit.

The pings come with the runner's own looks at the agenda, and only while `/livez` would say yes: a loop that is blocked,
or a critical task that is stuck, ends them.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping

from asyncmgr._common.log import log
from asyncmgr._service.health import live
from asyncmgr._service.service import Service, insight_of
from asyncmgr._tasks.runner import Runner
from asyncmgr.events import Event, ServiceStarted, ServiceStopping

_MICROSECONDS = 1e6


class Notifier:
    """Sends messages to the socket that systemd has named."""

    def __init__(self, path: str, watchdog: float | None) -> None:
        """`watchdog` is how many seconds systemd waits for a ping; `None` = it wants none."""
        self._path = f"\0{path[1:]}" if path.startswith("@") else path
        self.watchdog = watchdog
        self._has_failed = False

    def send(self, message: str) -> None:
        """Send a message such as ``READY=1``. Where systemd does not take it, log why, once."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(message.encode(), self._path)
            self._has_failed = False
        except OSError as exc:
            if not self._has_failed:
                self._has_failed = True
                log.warning("systemd.unreachable", message=message, error=str(exc))


def find_notifier(environ: Mapping[str, str] = os.environ) -> Notifier | None:
    """Read from the environment what systemd wants to hear; `None` = nothing, or the process is not its child."""
    path = environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@") or not hasattr(socket, "AF_UNIX"):
        return None
    meant = environ.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
    length = environ.get("WATCHDOG_USEC", "")
    wants = meant and length.isascii() and length.isdigit() and int(length) > 0
    return Notifier(path, int(length) / _MICROSECONDS if wants else None)


def tell_systemd(service: Service, notifier: Notifier) -> None:
    """Have a service that has not started tell systemd of itself."""
    insight = insight_of(service)
    pinged = -math.inf

    def started(_: Event) -> None:
        notifier.send("READY=1")

    def stopping(_: Event) -> None:
        notifier.send("STOPPING=1")

    def look_often(runner: Runner) -> None:
        if notifier.watchdog is None:
            return
        often, seldom = notifier.watchdog / 4, notifier.watchdog / 2

        def ping() -> None:
            nonlocal pinged
            # A busy scheduler looks a thousand times a second.
            if runner.now() - pinged >= often and live(insight.facts()).ok:
                pinged = runner.now()
                notifier.send("WATCHDOG=1")

        runner.lookout.follow_looks(ping, every=seldom)

    service.add_listener(started, ServiceStarted)
    service.add_listener(stopping, ServiceStopping)
    insight.with_runner(look_often)
