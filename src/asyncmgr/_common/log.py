"""Sends log events to the application's own logging, and never lets a broken log hurt the work that it reports.

An event has a constant name, ``noun.verb_past``, and keys. It goes to the application's structlog where that is
configured, else to the standard library's logger ``asyncmgr``. Which of the two is asked at each event: an application
may configure either after it has imported this package. Only the command line configures anything itself.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

from asyncmgr._common import log_records, log_structlog

LOGGER = "asyncmgr"
"""The name of the logger on both ways."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_DEFAULTS = None if structlog.is_configured() else log_structlog.configuration()
"""structlog's own defaults, where this module is imported before anybody changes them."""


class SafeLog:
    """Log methods that raise nothing but the `KeyboardInterrupt` of a person who presses Ctrl-C meanwhile.

    What a log processor, a handler or a bound logger raises costs the line, and nothing else.
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
        """Log `event` at the level of this name: ``debug info warning error critical``."""
        self._send(level, event, keys)

    def _send(self, level: str, event: str, keys: dict[str, Any]) -> None:
        try:
            # Asked for each time, so that it does not exist when an application's `dictConfig` disables the loggers
            # that do.
            logger = logging.getLogger(LOGGER)
            number = _LEVELS[level]
            if not is_structlog_configured():
                if logger.isEnabledFor(number):
                    log_records.send(logger, number, event, keys, stacklevel=3)
            elif number >= logger.level:  # the logger's own: where none is set, structlog decides alone
                log_structlog.send(level, event, keys)
        except KeyboardInterrupt:
            raise  # from the keyboard: nobody else would hear of it
        except BaseException:
            pass


log: SafeLog = SafeLog()


def is_structlog_configured() -> bool:
    """Whether the application has configured structlog, so that events are its to show.

    `capture_logs` leaves the defaults behind and calls them a configuration: that is nobody's wish to print to stdout.
    """
    return structlog.is_configured() and log_structlog.configuration() != _DEFAULTS


def is_reminder(count: int) -> bool:
    """True at 1, 2, 4, 8 ...: often enough to notice, seldom enough to read."""
    return count & (count - 1) == 0
