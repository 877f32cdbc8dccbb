"""Cron, against what the suites of twelve other libraries expect; where we follow another rule, the data says why."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asyncmgr._common.clock import to_datetime, to_us
from asyncmgr._tasks.schedules import Cron

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cases" / "cron_cases.json").read_text())


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case['from']}: {case['expression']} from {case['start']}" for case in CASES]
)
def test_a_case_of_another_library(case: dict[str, Any]) -> None:
    """Each expected slot is the first after the one before."""
    cron = Cron(case["expression"], case["tz"])
    moment, found = datetime.fromisoformat(case["start"]), []
    for _ in case["expected"]:
        moment = to_datetime(cron.first(to_us(moment - to_datetime(0))))
        found.append(moment)
    assert found == [datetime.fromisoformat(expected) for expected in case["expected"]]


def test_the_cases_are_all_there() -> None:
    """A file that was cut would pass as well."""
    assert len(CASES) == 557
    assert len(Counter(case["from"] for case in CASES)) == 12


def test_where_we_differ_the_case_says_why() -> None:
    """The other library's slot is kept beside ours, and is another one."""
    different = [case for case in CASES if "why" in case]
    assert len(different) == 16
    for case in different:
        ours, theirs = (
            [datetime.fromisoformat(slot) for slot in case[key]] for key in ("expected", "elsewhere")
        )
        assert ours != theirs
