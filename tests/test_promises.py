"""The algorithmic promises, pinned by counting: no clock is read here to judge speed."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from asyncmgr import Service
from asyncmgr._common.clock import SECOND
from asyncmgr._tasks.agenda import MOST_IN_A_BATCH
from asyncmgr._tasks.lookout import Lookout
from asyncmgr._tasks.schedules import Every
from tests.helpers import Bare

_HEAP_OPERATIONS = ("heappush", "heappop", "heapreplace", "heapify")


class Counted:
    """Counts heap operations and looks at the agenda."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        # Not those of the loop's own timers.
        operations = {name: self._counting(name, getattr(heapq, name)) for name in _HEAP_OPERATIONS}
        monkeypatch.setattr("asyncmgr._common.heap.heapq", SimpleNamespace(**operations))
        monkeypatch.setattr(Lookout, "_look", self._counting("look", Lookout._look))

    @property
    def heap_operations(self) -> int:
        return sum(self.calls[name] for name in _HEAP_OPERATIONS)

    def _counting(self, name: str, function: Any) -> Any:
        def counting(*args: Any) -> Any:
            self.calls[name] += 1
            return function(*args)

        return counting


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def agents(count: int, spacing: float) -> tuple[Bare, Counter[str]]:
    """A manager with so many tasks, and how often each ran."""
    manager, ran = Bare(), Counter[str]()

    async def body(context: Any) -> None:
        ran[context.task] += 1

    for number in range(count):
        manager.add_periodic_task(body, name=f"t{number}", spacing=spacing)
    return manager, ran


@pytest.mark.virtual_time
async def test_one_wake_up_starts_a_batch_with_one_heap_operation_each(counted: Counted) -> None:
    """A thousand tasks due at one instant: a look for each bounded batch, one operation on a heap for each run."""
    manager, ran = agents(1000, 100)
    async with Service(manager):
        counted.calls.clear()
        await asyncio.sleep(101)
        looks_of_the_clock = 101 // 9
        assert sum(ran.values()) == 1000
        assert counted.heap_operations <= 1000 + 2  # for the bucket that is left and the one that is come to
        assert counted.calls["look"] <= 1000 / MOST_IN_A_BATCH + 1 + looks_of_the_clock + 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("count", [10, 1000])
async def test_spread_tasks_share_wake_ups(counted: Counted, count: int) -> None:
    """Wake-ups depend on the window and not on the number of tasks: at most five a second, and the clock's."""
    manager = Bare()

    async def body(context: Any) -> None: ...

    for number in range(count):
        manager.add_periodic_task(
            body, name=f"t{number}", spacing=10, initial_delay=10 * (number + 1) / count
        )
    async with Service(manager):
        await asyncio.sleep(10)
        counted.calls.clear()
        await asyncio.sleep(10)
        assert counted.calls["look"] <= 10 / 0.2 + 2


@pytest.mark.virtual_time
async def test_an_idle_service_looks_at_its_clock_only(counted: Counted) -> None:
    """With ten thousand tasks due in an hour nothing happens but a look at the wall each nine seconds."""
    manager, _ = agents(10_000, 3600)
    async with Service(manager):
        counted.calls.clear()
        await asyncio.sleep(90)
        assert counted.calls["look"] <= 11
        assert counted.heap_operations == 0


def test_catching_up_is_one_division(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty years at a millisecond's spacing are caught up with in one step."""
    thirty_years = 30 * 365 * 86400 * SECOND
    slot, missed, following = Every(SECOND // 1000).turn(0, thirty_years, 0)
    assert (slot, missed) == (thirty_years, thirty_years // 1000)
    assert following == thirty_years + 1000


@pytest.mark.virtual_time
async def test_churn_leaves_nothing_behind() -> None:
    """Ten thousand tasks added, rescheduled and removed: the heaps hold what is there, and little more."""
    manager, _ = agents(100, 3600)

    async def body(context: Any) -> None: ...

    async with Service(manager) as service:
        agenda = service._runner.lookout.agenda  # type: ignore[union-attr]
        for _ in range(1000):
            handles = [manager.add_periodic_task(body, name=f"x{n}", spacing=3600 + n) for n in range(10)]
            for handle in handles:
                handle.reschedule(spacing=0.001)
                handle.remove()
        assert len(agenda) == 100
        places = sum(lane.places for lane in agenda._lanes.values())
        assert places <= 2 * 100 + 2 * 64
        assert len(agenda._lanes) == 1
