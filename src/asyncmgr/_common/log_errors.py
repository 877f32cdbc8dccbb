"""What of an exception a log can show, whatever the exception's own code does when it is asked for text."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator

from asyncmgr._common.safe_text import error_text, type_name

_CHAINED = 1_000
"""Exceptions of one chain or group that are looked at."""


def error_of(exc_info: object) -> BaseException | None:
    """The exception that `exc_info` means: itself, a tuple of `sys.exc_info`, or `True` for the one being handled."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if exc_info is True:
        return sys.exception()
    return exc_info if isinstance(exc_info, BaseException) else None


def has_text(error: BaseException) -> bool:
    """Whether Python can format its traceback, with the exceptions that led to it.

    Python guards `str`, and neither notes (before 3.13) nor what a metaclass makes of the class's name. Most errors
    have neither and cost a look.
    """
    try:
        return all(_is_ordinary(one) for one in _all_of(error)) or _can_be_formatted(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False


def plain_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, without local variables; a shorter one where that raises."""
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
    """The exception, its causes and contexts, and the members of groups among them."""
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
