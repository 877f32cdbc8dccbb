"""The page on cron says what is true: each row of its tables is held."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from asyncmgr import InvalidPeriodicTaskArg
from asyncmgr._common.clock import to_datetime, to_us
from asyncmgr._tasks.cron_text import ALIASES
from asyncmgr._tasks.declare import declare
from asyncmgr._tasks.schedules import Cron

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "cron.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """The rows of the one table that begins with this header."""
    lines = iter(PAGE.splitlines())
    assert next(line for line in lines if line.startswith(f"| {header} |"))
    next(lines)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in rows]


def slots(cron: Cron, start: datetime, end: datetime) -> Iterator[datetime]:
    epoch = to_datetime(0)
    slot = cron.first(to_us(start - epoch) - 1)
    while to_datetime(slot) < end:
        yield to_datetime(slot)
        slot = cron.first(slot)


@pytest.mark.parametrize(("expression", "words"), table("accepted"))
def test_what_is_accepted(expression: str, words: str) -> None:
    """Every expression of the page is one; a name stands for the expression beside it."""
    assert Cron(expression).first(0) > 0
    if expression.startswith("@"):
        names, meaning = [expression, *re.findall("@[a-z]+", words)], words.partition(";")[0].strip("`")
        assert [ALIASES[name] for name in names] == [meaning] * len(names)


def test_every_name_is_on_the_page() -> None:
    """None is left out."""
    assert all(f"`{name}`" in PAGE for name in ALIASES)


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 18 LW * *", ["01-29", "02-26", "03-31"]),
        ("0 0 L * *", ["01-31", "02-28", "03-31"]),
        ("0 0 * * 5L", ["01-29", "02-26", "03-26"]),
        ("0 0 * * fri#2", ["01-08", "02-12", "03-12"]),
        ("0 0 1 NOV-MAR ?", ["01-01", "02-01", "03-01"]),
    ],
)
def test_the_extensions_mean_what_the_page_says(expression: str, days: list[str]) -> None:
    """In the first three months of 2027."""
    assert expression in PAGE
    found = slots(Cron(expression), datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC))
    assert [f"{slot:%m-%d}" for slot in found] == days


@pytest.mark.parametrize(("expression", "instead"), table("not accepted"))
def test_what_is_not_accepted(expression: str, instead: str) -> None:
    """It is refused at the declaration; where the page says what to write, that is accepted or said by the error."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        declare({"cron": expression})
    if instead.startswith(("cron=", "spacing=", "run_")):
        assert instead.replace('"', "'") in str(caught.value)


@pytest.mark.parametrize(("expression", "zone", "day", "expected"), table("expression"))
def test_when_clocks_change(expression: str, zone: str, day: str, expected: str) -> None:
    """Exactly these slots lie in that local day."""
    info, first = ZoneInfo(zone), date.fromisoformat(day)
    around = (datetime.combine(first + timedelta(days=away), datetime.min.time(), UTC) for away in (-2, 3))
    local = (slot.astimezone(info) for slot in slots(Cron(expression, zone), *around))
    found = [slot.isoformat(timespec="minutes").partition("T")[2] for slot in local if slot.date() == first]
    assert found == ([] if expected == "none" else expected.split(", "))


def test_two_day_fields() -> None:
    """The examples of the page."""
    year = datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
    either = list(slots(Cron("0 0 13 * FRI"), *year))
    assert all(slot.day == 13 or slot.weekday() == 4 for slot in either)
    assert len(either) == 53 + 12 - 1
    both = list(slots(Cron("0 0 */2 * MON"), *year))
    assert all(slot.day % 2 and slot.weekday() == 0 for slot in both)
    assert len(both) == sum(1 for slot in slots(Cron("0 0 * * MON"), *year) if slot.day % 2)
    assert len(list(slots(Cron("0 0 13 * MON-SUN"), *year))) == 365
