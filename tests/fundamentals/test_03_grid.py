"""Chapter 3: planned starts are slots on a grid, which no early, late or slow run can move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from asyncmgr import Manager, periodic_task

START = datetime(2026, 1, 1, tzinfo=UTC)


class Disks(Manager):
    """One task, every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    @periodic_task(spacing=10)
    async def sweep(self, context: object) -> None:
        self.runs += 1

    @property
    def next_due(self) -> float:
        """Seconds from the start."""
        due = self.task_status()[0].next_due
        assert due is not None
        return (due - START).total_seconds()


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """Move the wall clock by hand."""
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


async def test_a_task_that_is_nearly_due_starts_together_with_others(clock: time_machine.Traveller) -> None:
    """Up to 0.2 seconds early, which saves a wake-up; its next slot is where it always was."""
    disks = Disks()
    clock.shift(9.8)
    await disks.periodic_tasks(context=None)
    assert (disks.runs, disks.next_due) == (1, 20)


async def test_a_late_run_does_not_move_the_grid(clock: time_machine.Traveller) -> None:
    """The next one is early by as much."""
    disks = Disks()
    clock.shift(17)
    await disks.periodic_tasks(context=None)
    assert (disks.runs, disks.next_due) == (1, 20)


async def test_missed_slots_cost_one_run(clock: time_machine.Traveller) -> None:
    """However many there were: after a month of suspend, say."""
    disks = Disks()
    clock.shift(timedelta(days=30, seconds=4))
    await disks.periodic_tasks(context=None)
    await disks.periodic_tasks(context=None)
    assert disks.runs == 1
    assert disks.next_due == timedelta(days=30, seconds=10).total_seconds()


async def test_a_clock_that_is_set_back_silences_nothing(clock: time_machine.Traveller) -> None:
    """The slot is as far away as before."""
    disks = Disks()
    clock.shift(4)
    await disks.periodic_tasks(context=None)
    clock.shift(timedelta(hours=-1))
    assert await disks.periodic_tasks(context=None) == 6.0
    clock.shift(6)
    await disks.periodic_tasks(context=None)
    assert disks.runs == 1
