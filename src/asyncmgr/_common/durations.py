"""Reads and writes lengths of time as people do, for settings and the command line. Pure."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal

_UNITS: dict[str, Decimal] = {
    "w": Decimal(604800),
    "d": Decimal(86400),
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
    "us": Decimal("0.000001"),
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
# Each unit at most once and the larger first: "30m1h" or "5m5m" is more likely a slip than intended.
_PARTS = re.compile(
    r"(?P<sign>-)?\s*" + "".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?)\s*{unit}\s*)?" for unit in _UNITS),
    re.ASCII,
)
_ACCEPTED = "write seconds, or e.g. '30s', '5m', '1h30m', '100ms', '2d'"


def parse_duration(value: str | float | timedelta) -> float:
    """Read seconds from a number of them, a text such as ``"1h30m"`` or ``"-5s"``, or a `timedelta`.

    Units are ``w d h m s ms us``, the larger first. The caller decides whether a zero, negative or very long duration
    makes sense.

    Raises
    ------
    ValueError
        The value is no finite length of time; `bool` and NaN are none either.
    """
    seconds = _read(value)
    if seconds is None or not math.isfinite(seconds):
        raise ValueError(f"{value!r} is not a duration; {_ACCEPTED}")
    return seconds


def format_duration(seconds: float) -> str:
    """Write `seconds` for people, to the microsecond: ``1h30m``, ``0.2s``. `parse_duration` reads the text again."""
    if not math.isfinite(seconds):
        return f"{seconds}s"
    rest = abs(Decimal(str(seconds))).quantize(_UNITS["us"])
    text = ""
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count:f}{unit}" if count else ""
    if rest or not text:
        text += f"{_plain(rest)}s"
    return f"-{text}" if seconds < 0 and text != "0s" else text


def _read(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _read_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _as_float(value)


def _read_text(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _PARTS.fullmatch(text)
    counts = {unit: match[unit] for unit in _UNITS if match[unit]} if match else {}
    if not match or not counts:
        return None
    total = sum((Decimal(count) * _UNITS[unit] for unit, count in counts.items()), Decimal())
    return _as_float(-total if match["sign"] else total)


def _as_float(number: float | Decimal) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
