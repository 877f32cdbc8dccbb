"""Reads and writes the JSON of the wire format, and checks all of it. Pure.

The page ``docs/reference/wire.md`` describes the whole format for programs in other languages: subjects, requests,
replies, withdrawals, announcements, a table of the fields, and example messages, which the test suite reads from it.
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
"""Most bytes of a message. Readers refuse more, even if an engine carries more."""

_SHOWN = 60
"""Characters of a value that an error shows."""

_LONG = re.compile(r"[0-9]{309}")
"""A number with this many digits may be beyond the range of a float."""


def encode_json(value: object) -> bytes:
    """Encode `value` as JSON in UTF-8.

    Raises
    ------
    ValueError
        `value` holds NaN, an infinity, a number beyond the range of a float, or text that is not Unicode, or is nested
        deeper than `NESTING` levels.
    TypeError
        `value` holds something that is not JSON.
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
    """Decode JSON. All numbers are finite, all text is Unicode, and nothing is deeper than `NESTING` levels.

    Raises
    ------
    ValueError
        `data` is not such JSON in UTF-8, or has more than `SIZE` bytes.
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
    """Return `value` if it is of one of these types, else raise `TypeError`. A bool counts only as `bool`."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{shown(value)} is not {_WORDS.get(kinds[-1], kinds[-1].__name__)}")
    return value


def positive(value: Any) -> float:
    """Return `value` as a float greater than 0 and finite, else raise `TypeError` or `ValueError`."""
    number = float(typed(value, int, float))
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not positive and finite")
    return number


def shown(value: Any) -> str:
    """Show a decoded value to people, as JSON: one line, shortened."""
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
    """Refuse strings with half a character, which JSON escapes can write."""
    try:
        encode_json(value)
    except UnicodeEncodeError:
        raise ValueError("a string holds half a character") from None


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {NESTING} levels")


def _is_deep(text: str, value: object) -> bool:
    """Whether `value` has more than `NESTING` levels; `text` is its JSON."""
    if text.count("[") + text.count("{") <= NESTING:
        return False
    level = [value]  # level by level, because recursion has a limit of depth
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
"""Most characters of an integer within the range of a float: 309 digits and a sign."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
_CAREFUL = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_refuse)
