"""Lengths of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr._common.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, 5.0),
        (0.2, 0.2),
        ("5", 5.0),
        (" 2.5 ", 2.5),
        ("-1", -1.0),
        ("1e3", 1000.0),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("100ms", 0.1),
        ("250us", 0.00025),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("1.5h", 5400.0),
        ("1s100ms", 1.1),
        ("-5s", -5.0),
        ("0", 0.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_reads_seconds(written: str | float | timedelta, seconds: float) -> None:
    """Numbers are seconds; texts may name units, the larger first, and a sign."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            "s",
            "often",
            "5 parsecs",
            "30m1h",
            "5m5m",
            "1h-5m",
            "5M",
            "--5",
            "1_000",
            "nan",
            "inf",
            "9e999",
        ),
        *(float("nan"), float("inf"), 10**400, True, None, [5], "\N{ARABIC-INDIC DIGIT FIVE}s"),
    ],
)
def test_refuses_what_is_no_length(written: str) -> None:
    """Anything else is refused with a text that shows what was written and how to write it."""
    with pytest.raises(ValueError, match=r"is not a duration; write seconds, or e\.g\. '30s'"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.2, "0.2s"),
        (0.001, "0.001s"),
        (30, "30s"),
        (60.0, "1m"),
        (90.5, "1m30.5s"),
        (5400, "1h30m"),
        (86400, "1d"),
        (90061, "1d1h1m1s"),
        (3155760000, "36525d"),
        (-300, "-5m"),
        (59.9999999, "1m"),
        (-0.0000001, "0s"),
        (float("inf"), "infs"),
    ],
)
def test_writes_for_people(seconds: float, text: str) -> None:
    """Zero units are left out; what is finer than a microsecond is rounded away."""
    assert format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_reads_what_it_writes(microseconds: int) -> None:
    """Every length, to the microsecond, comes back as it was."""
    seconds = microseconds / 1_000_000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=5e-7)
