"""JSON as it travels: written compactly, read with suspicion, as anybody may have sent it. Pure."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from typing import Any, NoReturn

NESTING = 64
"""Levels of objects and arrays that a message may have."""


def encode_json(value: object) -> bytes:
    """`value` in UTF-8.

    Raises
    ------
    ValueError
        It holds NaN, an infinity, or text that is no Unicode.
    TypeError
        It holds something that is not JSON.
    """
    return _ENCODER.encode(value).encode()


def decode_json(data: bytes) -> Any:
    """The value that `data` is, all of it finite, Unicode, and at most `NESTING` levels deep.

    Raises
    ------
    ValueError
        It is not such a value in UTF-8.
    """
    text = str(data, "utf-8")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {NESTING} levels") from None
    if text.count("[") + text.count("{") > NESTING and _is_deep(value):
        raise ValueError(f"nested deeper than {NESTING} levels")
    if "\\u" in text:
        encode_json(value)  # an escape may stand for half a character
    return value


def typed(value: Any, *kinds: type) -> Any:
    """`value` itself if it is of one of these types, and no bool unless that is one of them; else a `TypeError`."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{reprlib.repr(value)} is no {kinds[-1].__name__}")
    return value


def positive(value: Any) -> float:
    """`value` as a number greater than 0 and finite; else a `TypeError` or `ValueError`."""
    number = float(typed(value, int, float))
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not positive and finite")
    return number


def _is_deep(value: object) -> bool:
    """Whether `value` has more than `NESTING` levels. By level and not by recursion, whatever its depth."""
    level = [value]
    for _ in range(NESTING):
        level = [item for whole in level for item in _items(whole)]
    return any(isinstance(item, dict | list) for item in level)


def _items(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{reprlib.repr(text)} is beyond the range of a float")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
