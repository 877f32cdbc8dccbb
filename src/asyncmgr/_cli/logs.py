"""Configures structlog and the logging of the standard library: every line goes to stderr, in one format."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from asyncmgr._cli.output import LONGEST, lines_of
from asyncmgr._common.log_errors import error_of, plain_traceback
from asyncmgr._common.safe_text import printable, printable_lines, safe_repr

LogFormat = Literal["console", "json"]

_HANDLER = "asyncmgr"
_EVENT_WIDTH = 18
"""Columns for the name of an event on the console: most names of asyncmgr fit."""


def choose_format(wanted: str, stream: TextIO) -> LogFormat:
    """Resolve `auto`: the format for people on a terminal, else the one for programs."""
    if wanted == "auto":
        return "console" if stream.isatty() else "json"
    return "json" if wanted == "json" else "console"


def configure(level: str, log_format: LogFormat, stream: TextIO) -> None:
    """Write events of `level` and above to `stream`, and Python's warnings among them.

    An application that configures structlog itself on import has the last word.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    render = _renderers(log_format, stream)
    structlog.configure(
        processors=[*_gatherers(log_format), *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            *_gatherers(log_format),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    _handle_standard_logging(number, formatter, stream)


def _handle_standard_logging(level: int, formatter: logging.Formatter, stream: TextIO) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name == _HANDLER]:
        root.removeHandler(handler)
    ours = logging.StreamHandler(stream)
    ours.name = _HANDLER
    ours.setFormatter(formatter)
    root.addHandler(ours)
    root.setLevel(level)
    # At debug level it logs only which selector it uses.
    logging.getLogger("asyncio").setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)


def _gatherers(log_format: LogFormat) -> list[Processor]:
    on_console = log_format == "console"
    stamp = structlog.processors.TimeStamper(
        fmt="%Y-%m-%d %H:%M:%S" if on_console else "iso", utc=not on_console
    )
    return [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, stamp]


def _put_event_first(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Put the keys that every line has first, for people who read the lines."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _unfold(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Write the lines of an error below its event: an `InvalidSettings` has a line for each problem."""
    error = event.get("error")
    if isinstance(error, str) and "\n" in error and not event.get("exc_info"):
        event["error"], event["exception"] = error.split("\n", 1)
    return event


def _escape(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Escape what would move the reader's cursor: texts come from other hosts too."""
    return {printable(key): _harmless(key, value) for key, value in event.items()}


_RENDERED = ("exc_info", "stack_info")
"""Keys that the renderer makes into text, by `_write_traceback`."""
_LINES = ("event", "exception", "stack")
"""Keys whose text may have several lines."""


def _harmless(key: str, value: object) -> object:
    if key in _RENDERED:
        return value
    if not isinstance(value, str):
        return _Shown(safe_repr(value, LONGEST))
    if key in _LINES:
        return lines_of(value)
    # Write the whole text as a literal: the renderer does this with some texts and not with others.
    return value if value.isprintable() else _Shown(repr(value))


class _Shown:
    """Replaces the `repr` of a value by a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _renderers(log_format: LogFormat, stream: TextIO) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, _put_event_first, structlog.processors.JSONRenderer()]
    console: Any = structlog.dev.ConsoleRenderer(
        _EVENT_WIDTH,
        colors=stream.isatty() and not os.environ.get("NO_COLOR"),
        # The default prints the values of all local variables.
        exception_formatter=_write_traceback,
        sort_keys=False,
    )
    return [_unfold, _escape, console]


def _write_traceback(stream: TextIO, exc_info: Any) -> None:
    error = error_of(exc_info)
    if error is not None:
        stream.write("\n" + printable_lines(plain_traceback(error)))
