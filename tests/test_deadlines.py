"""Many deadlines with one timer."""

from __future__ import annotations

import asyncio
import random

import pytest

from asyncmgr._common.deadlines import Deadlines
from asyncmgr._common.heap import NO_PLACE, Place

pytestmark = pytest.mark.virtual_time


class Item:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.place: Place | None = NO_PLACE


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_items_expire_in_order_and_not_early() -> None:
    """Whatever the order in which they were added; those that were removed do not."""
    told: list[tuple[str, float]] = []
    deadlines: Deadlines[Item] = Deadlines(lambda item: told.append((item.name, now())))
    start = now()
    items = {name: Item(name) for name in "abcd"}
    for name, after in {"c": 3.0, "a": 1.0, "d": 4.0, "b": 2.0}.items():
        deadlines.add(items[name], start + after)
    deadlines.remove(items["b"])
    await asyncio.sleep(10)
    assert [(name, round(at - start, 3)) for name, at in told] == [("a", 1.0), ("c", 3.0), ("d", 4.0)]


async def test_one_timer_at_most_and_none_for_nothing() -> None:
    """A thousand items leave nothing behind in the loop."""
    deadlines: Deadlines[Item] = Deadlines(lambda item: None)
    draw = random.Random(1)
    items = [Item() for _ in range(1000)]
    for item in items:
        deadlines.add(item, now() + draw.uniform(1, 100))
    assert deadlines._timer.is_set
    for item in items:
        deadlines.remove(item)
    assert not deadlines._timer.is_set


async def test_an_item_may_be_added_when_another_expires() -> None:
    """Also one that is due at once."""
    told: list[float] = []

    def again(item: Item) -> None:
        told.append(now())
        if len(told) < 5:
            deadlines.add(item, now() + (len(told) % 2))

    deadlines: Deadlines[Item] = Deadlines(again)
    deadlines.add(Item(), now() + 1)
    await asyncio.sleep(10)
    assert len(told) == 5
