"""Turns the user's objects into text that is safe to show anywhere.

The caller always gets one line of bounded length without control characters, even where `repr` or `str` raises: a
detached database row raises in its `repr`, an exception's text may be a megabyte, a host's name may hold terminal
escapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

LIMIT = 500
"""The default limit of one object's text, in characters."""

_name_of: Callable[[type], Any] = type.__dict__["__name__"].__get__


def safe_repr(value: object, limit: int = LIMIT) -> str:
    """Return ``repr(value)``; where that raises, a text that says so."""
    return printable(_formatted(value, repr), limit)


def safe_str(value: object, limit: int = LIMIT) -> str:
    """Return ``str(value)``; where that raises, a text that says so."""
    return printable(_formatted(value, str), limit)


def error_text(error: BaseException, limit: int = LIMIT) -> str:
    """Write an exception as its type and text: ``ValueError: no such row``."""
    text = safe_str(error, limit)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def callable_name(function: object) -> str:
    """Write a callable as its module and name, ``shop.metrics.Counter.note``; a nameless object by its `repr`.

    It looks through `functools.partial`, and never calls the `repr` of a bound method's owner.
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
    """Return the name of the value's type, even where a metaclass hides it."""
    # Not `type(value).__name__`: a metaclass may have a property of that name.
    name: str = _name_of(type(value))
    return name


def printable(text: str, limit: int = LIMIT) -> str:
    """Make one line: escape control characters and lone surrogates, and cut the text off after `limit` characters."""
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text):,} characters)"
    return text if text.isprintable() else _escaped(text)


def printable_lines(text: str) -> str:
    """Escape control characters in a text of several lines, such as a traceback; line breaks and tabs stay."""
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
        raise  # it comes from the keyboard and not from the object
    except BaseException as exc:
        # Only names of types: the text of this object, and perhaps of this exception, cannot be had.
        return f"<{type_name(value)} whose {how.__name__}() raised {type_name(exc)}>"
