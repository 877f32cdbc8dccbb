"""Reads and writes the JSON of the wire format, with suspicion. Pure.

The format itself, all of it, is on the page ``docs/wire.md``, for programs in other languages: subjects, requests,
replies, withdrawals, announcements, a table of the fields, and example messages that the test suite reads from there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from asyncmgr._common.safe_text import printable

NESTING = 64
"""Levels of objects and arrays that a message may have."""

SIZE = 1024 * 1024
"""Bytes of a message; readers take no more either, whatever an engine would carry."""

_SHOWN = 60
"""Characters of a value that an error shows."""

_LONG = re.compile(r"[0-9]{309}")
"""A number of so many digits may be beyond the range of a float."""


def encode_json(value: object) -> bytes:
    """`value` in UTF-8.

    Raises
    ------
    ValueError
        It holds NaN, an infinity, a number beyond the range of a float, or text that is no Unicode, or is nested
        deeper than `NESTING` levels.
    TypeError
        It holds something that is not JSON.
    """
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise _too_deep() from None
    if _is_deep(text, value):
        raise _too_deep()
    if _LONG.search(text):
        _CAREFUL.decode(text)
    return text.encode()


def decode_json(data: bytes) -> Any:
    """The value that `data` is, all of it finite, Unicode, and at most `NESTING` levels deep.

    Raises
    ------
    ValueError
        It is not such a value in UTF-8, or has more than `SIZE` bytes.
    """
    if len(data) > SIZE:
        raise ValueError(f"{len(data)} bytes, at most {SIZE} are read")
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8, at byte {exc.start}") from None
    try:
        value = (_CAREFUL if _LONG.search(text) else _DECODER).decode(text)
    except RecursionError:
        raise _too_deep() from None
    if _is_deep(text, value):
        raise _too_deep()
    if "\\u" in text:
        _refuse_halves(value)
    return value


def typed(value: Any, *kinds: type) -> Any:
    """`value` itself if it is of one of these types, and no bool unless that is one of them; else a `TypeError`."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{shown(value)} is not {_WORDS.get(kinds[-1], kinds[-1].__name__)}")
    return value


def positive(value: Any) -> float:
    """`value` as a number greater than 0 and finite; else a `TypeError` or `ValueError`."""
    number = float(typed(value, int, float))
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not positive and finite")
    return number


def shown(value: Any) -> str:
    """A decoded value for people, as JSON: one line, shortened."""
    return printable(_ENCODER.encode(value), _SHOWN)


_WORDS: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def _refuse_halves(value: object) -> None:
    """An escape may stand for half a character."""
    try:
        encode_json(value)
    except UnicodeEncodeError:
        raise ValueError("a string holds half a character") from None


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {NESTING} levels")


def _is_deep(text: str, value: object) -> bool:
    """Whether `value`, which is written as `text`, has more than `NESTING` levels."""
    if text.count("[") + text.count("{") <= NESTING:
        return False
    level = [value]  # by level and not by recursion, whatever its depth
    for _ in range(NESTING):
        level = [item for whole in level for item in _items(whole)]
    return any(isinstance(item, dict | list | tuple) for item in level)


def _items(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _out_of_range(text)
    return number


def _whole(text: str) -> int:
    if len(text) > _DIGITS or math.isinf(float(text)):
        raise _out_of_range(text)
    return int(text)


def _out_of_range(text: str) -> ValueError:
    return ValueError(f"{printable(text, 20)} is beyond the range of a float")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DIGITS = 310
"""More digits, with a sign, no float has before its point."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
_CAREFUL = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_refuse)
