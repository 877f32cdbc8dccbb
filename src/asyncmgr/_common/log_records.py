"""Sends log events to the standard library's logging, as `LogRecord`s."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterable
from typing import Any

from asyncmgr._common.log_errors import error_of, has_text, plain_traceback
from asyncmgr._common.safe_text import printable, safe_str

VALUE_LIMIT = 2_000
"""Characters of one value in a message."""

_RESERVED = frozenset({"message", "asctime"})
"""Attributes that formatters add to a record later."""


def send(logger: logging.Logger, level: int, event: str, keys: dict[str, Any], *, stacklevel: int) -> None:
    """Hand a record to the logger's handlers; `stacklevel` 1 names the line that calls this function.

    The message is a constant template. Services that group errors by the template so group all lines of one event.
    """
    error = error_of(keys.pop("exc_info", None))
    is_shown = error is not None and has_text(error)
    exc_info = (type(error), error, error.__traceback__) if error is not None and is_shown else None
    values = {key: _value(value) for key, value in keys.items()}
    file, line, function = _caller(stacklevel + 1)
    args = ({key: _in_message(value) for key, value in values.items()},) if values else ()
    record = logger.makeRecord(
        logger.name, level, file, line, template(event, tuple(values)), args, exc_info, function
    )
    if error is not None and not is_shown:
        record.exc_text = plain_traceback(error)
    _add_extra(record, {"event": event, **values}.items())
    logger.handle(record)


def _caller(stacklevel: int) -> tuple[str, int, str]:
    # Not by the logger's `findCaller`: older versions of structlog replace it with one that ignores `stacklevel`.
    frame = inspect.currentframe()
    for _ in range(stacklevel):
        frame = frame and frame.f_back
    if frame is None:
        return "(unknown file)", 0, "(unknown function)"
    return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name


@functools.lru_cache(1024)
def template(event: str, keys: tuple[str, ...]) -> str:
    """Make the message of an event, ``task.failed task=%(task)s ...``: the same for every line of this event."""
    return " ".join([event, *(f"{key}=%({key})s" for key in keys)])


def _add_extra(record: logging.LogRecord, values: Iterable[tuple[str, Any]]) -> None:
    # Not by `extra` of `makeRecord`: it refuses the whole record where one name is taken. A record factory of the
    # application's may have taken any name.
    attributes = vars(record)
    for key, value in values:
        attributes[f"{key}_" if key in attributes or key in _RESERVED else key] = value


def _value(value: Any) -> Any:
    """Convert to a value that a handler can format without calling the user's code."""
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if type(value) in (list, tuple):
        return [_value(one) for one in value]
    if type(value) is dict:
        return {_value(key): _value(one) for key, one in value.items()}
    return safe_str(value, VALUE_LIMIT)


def _in_message(value: Any) -> Any:
    if type(value) in (int, float, bool, type(None)):
        return value
    return printable(value if type(value) is str else str(value), VALUE_LIMIT)
