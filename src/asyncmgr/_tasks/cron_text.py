"""Reads cron expressions as people write them (names, wrapping ranges, `?`), and says what is accepted. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from asyncmgr._common.durations import parse_duration
from asyncmgr._common.safe_text import safe_repr

ALIASES: dict[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()
    more: str = ""
    """For errors: the forms that only this field accepts."""

    def number(self, text: str) -> int | None:
        """Read a value of this field; `None` = the text is no such value."""
        if text in self.names:
            return self.names.index(text) + self.first
        return int(text) if text.isdecimal() else None

    @property
    def accepted(self) -> str:
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.first}-{self.last}{named}, '*', lists '1,2', ranges '1-5', steps '*/5'{self.more}"


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day-of-month", 1, 31, more=", the last day 'L', the last working day 'LW'"),
    _Field("month", 1, 12, _MONTHS),
    _Field("day-of-week", 0, 6, _DAYS, more=", the last Friday '5L', the second 'FRI#2'; 7 is Sunday too"),
)
"""The fields in the order of an expression that has six."""

_COUNT = "cron has 5, or 6 with seconds in front"
_RANGE = re.compile(r"(\w+)-(\w+)(?:/(\d+))?", re.ASCII)
_YEAR = re.compile(r"(?:19|20)\d\d(?:[-,/]\d+)*", re.ASCII)
_ZONE = re.compile(r"(?:CRON_)?TZ=(\S*)\s*(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)


def fields_of(expression: str) -> list[str]:
    """Return the 5 or 6 fields of an expression in upper case, with `?` and wrapping ranges written out.

    Raises
    ------
    ValueError
        The text is no cron expression: it has another number of fields, an unknown name, or a time zone. The error
        says what to write.
    """
    text = expression.strip()
    if text.startswith("@"):
        text = _meaning_of(text)
    _refuse_zone(expression, text)
    fields = text.upper().split()
    if len(fields) not in (5, 6) or (len(fields) == 6 and _YEAR.fullmatch(fields[-1])):
        raise ValueError(_wrong_count(expression, fields))
    kinds = FIELDS[-len(fields) :]
    return [_unwrapped(kind, field) for kind, field in zip(kinds, fields, strict=True)]


def explain(expression: str, name: str) -> str:
    """Write an error for the field of this name: that it is wrong, and what it accepts."""
    fields = ALIASES.get(expression.strip().lower(), expression).split()
    for kind, field in zip(FIELDS[-len(fields) :], fields, strict=True):
        if kind.name == name:
            return (
                f"{safe_repr(expression)} is not a cron expression: Bad {name} {safe_repr(field)}; "
                f"{name} is {kind.accepted}"
            )
    return f"{safe_repr(expression)} is not a cron expression: Bad {name}"


def _meaning_of(name: str) -> str:
    known = ALIASES.get(name.lower())
    if known is not None:
        return known
    word, _, rest = name.partition(" ")
    if word.lower() == "@every":
        raise ValueError(
            f"{safe_repr(name)} is no cron expression: write spacing={_seconds(rest)} instead of cron="
        )
    if word.lower() == "@reboot":
        raise ValueError(
            f"{safe_repr(name)} is no cron expression: write run_immediately=True for a run at the start"
        )
    raise ValueError(
        f"{safe_repr(name)} is not a cron expression: it has {_number_of_fields(name.split())} and is none of the "
        f"names {', '.join(ALIASES)}; {_COUNT}"
    )


def _seconds(text: str) -> str:
    try:
        return f"{parse_duration(text):g}"
    except ValueError:
        return "<seconds>"


def _refuse_zone(expression: str, text: str) -> None:
    zone = _ZONE.fullmatch(text)
    if zone is not None:
        raise ValueError(
            f"{safe_repr(expression)} is not a cron expression: the time zone is an option of its own; "
            f"write cron={safe_repr(zone[2])}, tz={safe_repr(zone[1])}"
        )


def _wrong_count(expression: str, fields: list[str]) -> str:
    text = f"{safe_repr(expression)} has {_number_of_fields(fields)}; {_COUNT}"
    if len(fields) in (6, 7) and _YEAR.fullmatch(fields[-1]):
        return f"{text}, and no year: leave {fields[-1]} out"
    return f"{text}, and no year" if len(fields) == 7 else text


def _number_of_fields(fields: list[str]) -> str:
    return f"{len(fields)} field{'' if len(fields) == 1 else 's'}"


def _unwrapped(kind: _Field, field: str) -> str:
    return ",".join(_unwrapped_term(kind, term) for term in field.split(","))


def _unwrapped_term(kind: _Field, term: str) -> str:
    """Write `FRI-MON` as a list and `?` as a star; return every other term unchanged."""
    if term == "?":
        return "*"
    found = _RANGE.fullmatch(term)
    ends = [kind.number(text) for text in found.groups()[:2]] if found else []
    if found is None or None in ends:
        return term
    start, end = (number for number in ends if number is not None)
    if start <= end or end < kind.first or start > kind.last + (kind.name == "day-of-week"):
        return term
    numbers = [*range(start, kind.last + 1), *range(kind.first, end + 1)]
    step = int(found[3] or 1)
    return ",".join(map(str, numbers[::step])) if step else term
