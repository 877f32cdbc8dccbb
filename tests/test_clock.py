"""Scheduling time outside a service, and moments exact to the microsecond."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr._common.clock import Moment, WallClock, read_wall, to_datetime, to_us

START = datetime(2026, 1, 1, tzinfo=UTC)
WALL = 1_767_225_600_000_000


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A wall clock that only the test moves."""
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


# Microseconds


@pytest.mark.parametrize(
    ("seconds", "microseconds"),
    [
        (0, 0),
        (1, 1_000_000),
        (0.2, 200_000),
        (0.29, 290_000),
        (2.01, 2_010_000),
        (1.001, 1_001_000),
        (0.000249, 249),
        (0.57, 570_000),
        (1.1, 1_100_000),
        (0.200001, 200_001),
        (-0.29, -290_000),
        (3_155_760_000, 3_155_760_000_000_000),
        (timedelta(microseconds=1), 1),
        (timedelta(days=36_525, microseconds=1), 3_155_760_000_000_001),
        (timedelta(microseconds=-1), -1),
        (timedelta(seconds=0.29), 290_000),
    ],
)
def test_seconds_become_the_nearest_microsecond(seconds: float | timedelta, microseconds: int) -> None:
    """0.29 s is 290,000 and not 289,999; a timedelta is exact over any length."""
    assert to_us(seconds) == microseconds


@given(st.integers(min_value=-(10**13), max_value=10**13))
def test_microseconds_survive_the_way_through_float_seconds(microseconds: int) -> None:
    """For four months to either side; lengths are written as floats."""
    assert to_us(microseconds / 1_000_000) == microseconds


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)))
def test_wall_instants_are_datetimes_exactly(naive: datetime) -> None:
    """No float is on the way."""
    aware = naive.replace(tzinfo=UTC)
    assert to_datetime((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)) == aware


# The wall


def test_the_wall_is_read_in_microseconds_since_1970(clock: time_machine.Traveller) -> None:
    """UTC, whatever the machine's zone."""
    assert read_wall() == WALL


@pytest.mark.parametrize("shift", [0.29, 0.1, 0.2, 0.200001, 0.57, 1.1, 2.3, 4.35, 1e-6, 59.999999])
def test_a_wall_shifted_by_a_float_is_exact(clock: time_machine.Traveller, shift: float) -> None:
    """Fakes add floats; the reading is the nearest microsecond, step after step."""
    for number in range(1, 50):
        clock.shift(shift)
        assert read_wall() == WALL + number * to_us(shift)


@pytest.mark.parametrize("second", [0.29, 0.57, 0.1, 0.000001])
def test_a_wall_set_to_a_float_is_exact(clock: time_machine.Traveller, second: float) -> None:
    """A float of that size is off by a hundred nanoseconds."""
    clock.move_to(WALL / 1_000_000 + second)
    assert read_wall() == WALL + to_us(second)


def test_the_wall_is_that_of_datetime(clock: time_machine.Traveller) -> None:
    """What a user sees and what schedules are one time."""
    clock.shift(0.29)
    assert to_datetime(read_wall()) == datetime.now(UTC) == START + timedelta(microseconds=290_000)


# Scheduling time


def test_scheduling_time_advances_with_the_wall(clock: time_machine.Traveller) -> None:
    """By the same microseconds, from a zero that means nothing."""
    wall_clock = WallClock()
    first = wall_clock.read()
    clock.shift(0.29)
    clock.shift(3_600)
    second = wall_clock.read()
    assert (second.now - first.now, second.wall - first.wall) == (3_600_290_000, 3_600_290_000)


def test_scheduling_time_stands_still_while_the_wall_goes_back(clock: time_machine.Traveller) -> None:
    """And goes on at once when the wall does, without waiting for the old reading."""
    wall_clock = WallClock()
    start = wall_clock.read()
    clock.shift(-3_600)
    assert wall_clock.read() == Moment(start.now, WALL - 3_600_000_000)
    clock.shift(5)
    assert wall_clock.read() == Moment(start.now + 5_000_000, WALL - 3_595_000_000)


def test_a_reading_changes_nothing_of_a_frozen_clock(clock: time_machine.Traveller) -> None:
    """Two looks see one moment."""
    wall_clock = WallClock()
    assert wall_clock.read() == wall_clock.read()


@given(st.lists(st.integers(min_value=-(10**12), max_value=10**12), max_size=20))
def test_scheduling_time_is_the_sum_of_the_steps_forward(steps: list[int]) -> None:
    """It never goes back, whatever the wall does."""
    with time_machine.travel(START, tick=False) as traveller:
        wall_clock = WallClock()
        readings = [wall_clock.read()]
        for step in steps:
            traveller.shift(timedelta(microseconds=step))
            readings.append(wall_clock.read())
    assert readings[-1].now - readings[0].now == sum(max(0, step) for step in steps)
    assert all(before.now <= after.now for before, after in pairwise(readings))
