"""Compares what a page shows with what was printed: numbers, spaces and lines may differ in length, words may not."""

from __future__ import annotations

import re

_ID = re.compile(r"\b[0-9a-f]{8}-\d+\b|~[0-9a-f]{8}\b")
_NUMBER = re.compile(r"<?(?:\d+(?:[.,:]\d+)*(?: ?(?:us|ms|[smhd])(?![a-z]))?)+")
"""Numbers, moments and lengths such as ``1h30m``: a faster machine writes another unit."""


def pattern_of(line: str) -> str:
    """A shown line as a regular expression; ``...`` in it stands for anything."""
    return r"\S*.*".join(re.escape(part) for part in _even(line).split("..."))


def _even(line: str) -> str:
    return re.sub(r"─+", "─", re.sub(r"\s+", " ", _NUMBER.sub("0", _ID.sub("0", line)))).strip()


def missing(shown: str, printed: str) -> list[str]:
    """The shown lines that were not printed, or not in this order."""
    rest = [_even(line) for line in printed.splitlines()]
    lines = [line for line in shown.splitlines() if line.strip() not in ("", "...")]
    return [line for line in lines if not _found(pattern_of(line), rest)]


def _found(pattern: str, rest: list[str]) -> bool:
    """Look for a line, and forget those up to it."""
    for place, line in enumerate(rest):
        if re.fullmatch(pattern, line):
            del rest[: place + 1]
            return True
    return False
