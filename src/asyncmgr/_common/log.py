"""Sends log events to the application's own logging, and never lets a broken log hurt the work that it reports.

An event has a constant name, ``noun.verb_past``, and keys. It goes to structlog where the application has configured
that, else to the standard library's logger ``asyncmgr``. Each event decides anew between the two, because an
application may configure either after it has imported this package. Only the command line configures logging itself.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

from asyncmgr._common import log_records, log_structlog

LOGGER = "asyncmgr"
"""The name of the logger, in structlog and in the standard library."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_DEFAULTS = None if structlog.is_configured() else log_structlog.configuration()
"""structlog's own defaults; `None` where the application configured structlog before it imported this module."""


class SafeLog:
    """Log methods that raise nothing but a `KeyboardInterrupt` (a person presses Ctrl-C meanwhile).

    Where a log processor, a handler or a bound logger raises, the line is lost and nothing else happens.
    """

    def debug(self, event: str, **keys: Any) -> None:
        self._send("debug", event, keys)

    def info(self, event: str, **keys: Any) -> None:
        self._send("info", event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        self._send("warning", event, keys)

    def error(self, event: str, **keys: Any) -> None:
        self._send("error", event, keys)

    def critical(self, event: str, **keys: Any) -> None:
        self._send("critical", event, keys)

    def at(self, level: str, event: str, **keys: Any) -> None:
        """Log `event` at the level of this name: ``debug``, ``info``, ``warning``, ``error`` or ``critical``."""
        self._send(level, event, keys)

    def _send(self, level: str, event: str, keys: dict[str, Any]) -> None:
        try:
            # Looked up only now: `dictConfig` disables the loggers that exist when an application calls it, so this
            # one must not exist before it is needed.
            logger = logging.getLogger(LOGGER)
            number = _LEVELS[level]
            if not is_structlog_configured():
                if logger.isEnabledFor(number):
                    log_records.send(logger, number, event, keys, stacklevel=3)
            elif number >= logger.level:  # the logger's own level; where it has none, structlog decides alone
                log_structlog.send(level, event, keys)
        except KeyboardInterrupt:
            raise  # from the keyboard: swallowing it here would lose the Ctrl-C
        except BaseException:
            pass


log: SafeLog = SafeLog()


def is_structlog_configured() -> bool:
    """Whether the application has configured structlog, and events therefore go there.

    structlog's defaults do not count as a configuration: `capture_logs` sets them when it ends, and structlog would
    then print events to stdout although no application asked for that.
    """
    return structlog.is_configured() and log_structlog.configuration() != _DEFAULTS


def is_reminder(count: int) -> bool:
    """True at 1, 2, 4, 8 ...: often enough to notice, seldom enough to read."""
    return count & (count - 1) == 0
