"""Scheduling time outside a service and under one, and moments exact to the microsecond."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

import asyncmgr._common.clock
from asyncmgr import Manager, Service, Settings
from asyncmgr._common.clock import JUMP, SECOND, LoopClock, Moment, WallClock, read_wall, to_datetime, to_us
from asyncmgr.events import ClockStepped, SlotsMissed

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


# Scheduling time under a service


class Clocks:
    """A loop's time and a wall, in microseconds, and what `LoopClock` makes of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = 1_000 * SECOND
        self.wall = WALL
        monkeypatch.setattr(asyncmgr._common.clock, "read_wall", lambda: self.wall)
        self.clock = LoopClock(self)  # type: ignore[arg-type]  # its time is all that is asked
        self._start = self.clock.read().now

    def time(self) -> float:
        return self.loop / SECOND

    def go_on(self, seconds: float, jump: float = 0.0) -> str:
        """Let both go on for so long, and the wall jump besides; the kind of step that is noticed, if any."""
        self.loop += to_us(seconds)
        self.wall += to_us(seconds) + to_us(jump)
        step = self.clock.notice_steps()
        return "" if step is None else f"{step.kind} {step.seconds:g}"

    @property
    def passed(self) -> float:
        """Seconds of scheduling time since the beginning."""
        return (self.clock.read().now - self._start) / SECOND


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


HOUR = 3_600.0


@pytest.mark.parametrize(
    ("jumps", "added"),
    [
        ([HOUR], HOUR),
        ([-HOUR], 0),
        ([-25 * HOUR, 25 * HOUR], 0),
        ([25 * HOUR, -25 * HOUR], 25 * HOUR),
        ([25 * HOUR, -25 * HOUR, 25 * HOUR], 25 * HOUR),
        ([-5, 5] * 100, 0),
        ([5, -5] * 100, 5),
        ([-HOUR, 2 * HOUR], HOUR),
        ([-HOUR, HOUR / 2, HOUR / 2, 7], 7),
        ([-HOUR, -HOUR, 3 * HOUR], HOUR),
        # Asleep for half an hour after the wall was set back by one for good: the contract's own price.
        ([-HOUR, HOUR / 2], 0),
        # Slewing is no jump in either direction, and takes nothing from a suspend years later.
        ([-1.0] * 5_000 + [HOUR], HOUR),
        ([0.5, -0.5] * 1_000, 0),
        ([-1.000001, 1.000001], 0),
    ],
)
def test_a_jump_counts_for_what_exceeds_earlier_set_backs(
    clocks: Clocks, jumps: list[float], added: float
) -> None:
    """Between any two of them the loop goes on for 20 s."""
    for jump in jumps:
        clocks.go_on(20, jump)
    assert clocks.passed == 20 * len(jumps) + added


def test_steps_are_told_as_they_are(clocks: Clocks) -> None:
    """Also where a jump only undoes an earlier one."""
    jumps = [0.0, -90_000.0, 0.0, 90_000.0, 0.5, 1.5]
    said = [clocks.go_on(20, jump) for jump in jumps]
    assert said == ["", "back 90000", "", "forward 90000", "", "forward 1.5"]


def test_a_wall_that_stood_still_and_catches_up_adds_nothing(clocks: Clocks) -> None:
    """The loop went on meanwhile: what the wall makes up for has been counted."""
    said = [clocks.go_on(20, -20) for _ in range(3)]
    said.append(clocks.go_on(20, 60))
    assert said == ["stopped 20", "", "", "forward 60"]
    assert clocks.passed == 80


def test_a_wall_that_stood_still_for_less_than_a_look(clocks: Clocks) -> None:
    """It is seen to stand still however often it is read."""
    assert [clocks.go_on(0.4, -0.4) for _ in range(4)] == ["", "", "stopped 1.2", ""]
    clocks.go_on(5, 1.6)
    assert clocks.passed == 6.6


MOVES = st.tuples(st.integers(0, 30 * SECOND), st.integers(-(10**5), 10**5))


@given(st.lists(MOVES, max_size=40))
def test_scheduling_time_is_that_of_a_naive_model(moves: list[tuple[int, int]]) -> None:
    """The loop's time plus how far ahead of it the wall has ever been, by jumps alone; it never goes back."""
    with pytest.MonkeyPatch.context() as patch:
        clocks = Clocks(patch)
        readings = [clocks.clock.read().now]
        for elapsed, tenths in moves:
            clocks.loop += elapsed
            clocks.wall += elapsed + tenths * SECOND // 10 or 1  # a wall that stands still is another story
            clocks.clock.notice_steps()
            readings.append(clocks.clock.read().now)
    jumps = [(elapsed + tenths * SECOND // 10 or 1) - elapsed for elapsed, tenths in moves]
    ahead = accumulate((jump for jump in jumps if abs(jump) > JUMP), initial=0)
    assert readings[-1] - readings[0] == sum(elapsed for elapsed, _ in moves) + max(ahead)
    assert all(before <= after for before, after in pairwise(readings))


@pytest.mark.virtual_time(start="2026-01-01T12:30:00+00:00")
@pytest.mark.parametrize(
    ("jumps", "steps"),
    [
        ({7: -5, 10: 5, 13: -5, 16: 5, 19: -5, 22: 5, 41: -5, 44: 5, 63: -5, 75: 5}, 10),
        ({10: -25 * 3_600, 30: 25 * 3_600}, 2),
    ],
)
async def test_a_wall_that_is_tugged_runs_what_is_due(jumps: dict[int, int], steps: int) -> None:
    """Spaced tasks keep their slots, and no slot comes twice or early."""
    manager = Manager()
    ran: dict[str, list[float]] = {}
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def work(context: Any) -> None:
        ran.setdefault(context.task, []).append(round(loop.time() - begun, 1))

    for spacing in (1, 10, 3_600, 86_400):
        manager.add_periodic_task(work, spacing=spacing, name=str(spacing))
    service = Service(manager, settings=Settings())
    stepped: list[Any] = []
    service.add_listener(stepped.append, ClockStepped)
    async with service:
        with time_machine.travel(datetime.now(UTC), tick=False) as traveller:
            for second in range(85):
                traveller.shift(jumps.get(second, 0))
                for _ in range(10):
                    await asyncio.sleep(0.1)
                    traveller.shift(0.1)
    assert len(stepped) == steps
    assert ran == {
        "Manager.1": [float(second) for second in range(1, 86)],
        "Manager.10": [float(second) for second in range(10, 86, 10)],
    }


@pytest.mark.virtual_time(start="2026-01-01T12:59:55+00:00")
@pytest.mark.parametrize(
    ("jumps", "slots"),
    [
        ({10: -25, 30: 25}, [(1, 13, 0)]),
        ({10: -25, 30: 26}, [(1, 13, 0), (1, 14, 0)]),
        ({10: -25, 30: 28}, [(1, 13, 0), (1, 16, 2)]),
        ({10: -25, 30: 10}, [(1, 13, 0)]),
        ({10: -25, 30: 10, 50: 15}, [(1, 13, 0)]),
        ({10: -25, 30: 10, 50: 16}, [(1, 13, 0), (1, 14, 0)]),
        ({10: -25, 30: -5, 50: 30}, [(1, 13, 0)]),
        ({10: -25, 30: 25, 50: 1}, [(1, 13, 0), (1, 14, 0)]),
        ({10: 2}, [(1, 13, 0), (1, 15, 1)]),
    ],
)
async def test_a_wall_that_comes_back_repeats_no_slot_of_cron(
    jumps: dict[int, int], slots: list[tuple[int, int, int]]
) -> None:
    """Jumps by hours: day and hour of each run's slot, and how many older slots it stood for."""
    manager = Manager()
    ran: list[tuple[int, int]] = []
    missed: list[SlotsMissed] = []

    async def work(context: Any) -> None:
        ran.append((context.slot.day, context.slot.hour))

    manager.add_periodic_task(work, cron="0 * * * *")
    service = Service(manager, settings=Settings())
    service.add_listener(missed.append, SlotsMissed)  # type: ignore[arg-type]
    async with service:
        with time_machine.travel(datetime.now(UTC), tick=False) as traveller:
            for second in range(70):
                traveller.shift(jumps.get(second, 0) * 3_600)
                for _ in range(10):
                    await asyncio.sleep(0.1)
                    traveller.shift(0.1)
    counts = {(event.slot.day, event.slot.hour): event.count for event in missed}
    assert [(*slot, counts.get(slot, 0)) for slot in ran] == slots
