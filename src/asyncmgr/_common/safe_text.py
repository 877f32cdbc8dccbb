"""Turns objects of the user's into text that can be shown anywhere.

Whatever `repr` or `str` does, the caller gets one line of bounded length without control characters: a detached
database row raises in its `repr`, an exception's text may be a megabyte, a host's name may hold terminal escapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

LIMIT = 500
"""Characters of one object's text, unless the caller says otherwise."""

_name_of: Callable[[type], Any] = type.__dict__["__name__"].__get__


def safe_repr(value: object, limit: int = LIMIT) -> str:
    """``repr(value)``, or what went wrong in it."""
    return printable(_formatted(value, repr), limit)


def safe_str(value: object, limit: int = LIMIT) -> str:
    """``str(value)``, or what went wrong in it."""
    return printable(_formatted(value, str), limit)


def error_text(error: BaseException, limit: int = LIMIT) -> str:
    """An exception as its type and text: ``ValueError: no such row``."""
    text = safe_str(error, limit)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def callable_name(function: object) -> str:
    """A callable as its module and name, ``shop.metrics.Counter.note``; for a nameless object what `repr` says.

    Looks through `functools.partial`. Asks no owner of a bound method for its `repr`.
    """
    while isinstance(function, functools.partial):
        function = function.func
    try:
        name = f"{_text_of(function, '__module__')}.{_text_of(function, '__qualname__')}"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return safe_repr(function)
    return printable(name)


def type_name(value: object) -> str:
    """The name of the value's type."""
    # Not `type(value).__name__`: a metaclass may have a property of that name.
    name: str = _name_of(type(value))
    return name


def printable(text: str, limit: int = LIMIT) -> str:
    """One line: control characters and lone surrogates escaped, the end cut off where it is longer than `limit`."""
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text):,} characters)"
    return text if text.isprintable() else _escaped(text)


def printable_lines(text: str) -> str:
    """Text of several lines, such as a traceback: its line breaks and tabs stay, other control characters do not."""
    return "\n".join("\t".join(map(_escaped, line.split("\t"))) for line in text.split("\n"))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _text_of(value: object, attribute: str) -> str:
    text = getattr(value, attribute)
    if type(text) is not str:
        raise TypeError(attribute)
    return text


def _formatted(value: object, how: Callable[..., str]) -> str:
    try:
        return str.__str__(how(value))
    except KeyboardInterrupt:
        raise  # from the keyboard, not from the object
    except BaseException as exc:
        # Neither the object nor the exception is formatted again: their text is what cannot be had.
        return f"<{type_name(value)} whose {how.__name__}() raised {type_name(exc)}>"
