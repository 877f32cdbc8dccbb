"""Turns an exception into text for a log, even where the exception's own code raises while it makes that text."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator

from asyncmgr._common.safe_text import error_text, type_name

_CHAINED = 1_000
"""The number of exceptions of one chain or group that `has_text` looks at."""


def error_of(exc_info: object) -> BaseException | None:
    """Return the exception that `exc_info` stands for: an exception, a tuple of `sys.exc_info`, or `True`.

    `True` stands for the exception that is being handled.
    """
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if exc_info is True:
        return sys.exception()
    return exc_info if isinstance(exc_info, BaseException) else None


def has_text(error: BaseException) -> bool:
    """Whether Python can format the traceback, with the exceptions that led to it.

    Python survives a `str` that raises. It does not survive strange notes (before 3.13), nor a metaclass that spoils
    the class's name. Most errors have neither: for these the answer costs a glance.
    """
    try:
        return all(_is_ordinary(one) for one in _all_of(error)) or _can_be_formatted(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False


def plain_traceback(error: BaseException) -> str:
    """Format the traceback as Python prints it, without local variables; where this raises, format a shorter one."""
    try:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        return _short_traceback(error, type_name(exc))


def _short_traceback(error: BaseException, reason: str) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    said = f"{error_text(error)}\n(its notes or causes cannot be shown: formatting them raised {reason})"
    return f"Traceback (most recent call last):\n{frames}{said}" if frames else said


def _is_ordinary(error: BaseException) -> bool:
    return type(type(error)) is type and type(getattr(error, "__notes__", None)) in (type(None), list)


def _can_be_formatted(error: BaseException) -> bool:
    for _ in traceback.TracebackException(type(error), error, None, limit=0, lookup_lines=False).format():
        pass
    return True


def _all_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, its causes and contexts, and the members of the groups among them."""
    left, seen = [error], set[int]()
    while left and len(seen) < _CHAINED:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
