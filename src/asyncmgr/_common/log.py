"""Structured log events that can never hurt the work they report.

Event names are ``noun.verb_past``; only the command line configures structlog.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog

_logger: Any = structlog.get_logger("asyncmgr")


class SafeLog:
    """structlog's levels, without its errors: a processor that raises loses its event, not the schedule."""

    def debug(self, event: str, **keys: Any) -> None:
        self.at("debug", event, **keys)

    def info(self, event: str, **keys: Any) -> None:
        self.at("info", event, **keys)

    def warning(self, event: str, **keys: Any) -> None:
        self.at("warning", event, **keys)

    def error(self, event: str, **keys: Any) -> None:
        self.at("error", event, **keys)

    def critical(self, event: str, **keys: Any) -> None:
        self.at("critical", event, **keys)

    def at(self, level: str, event: str, **keys: Any) -> None:
        """Log `event` at the level of this name: ``debug info warning error critical``."""
        with contextlib.suppress(Exception):
            getattr(_logger, level)(event, **keys)


log: SafeLog = SafeLog()


def is_reminder(count: int) -> bool:
    """True at 1, 2, 4, 8 ...: often enough to notice, seldom enough to read."""
    return count & (count - 1) == 0
