"""A timer that can be moved."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from typing import Any

import pytest

from asyncmgr._common.deadlines import Deadlines
from asyncmgr._common.heap import NO_PLACE, Place
from asyncmgr._common.timer import Timer


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.virtual_time
async def test_it_rings_once_at_the_moment_it_was_set_for_last() -> None:
    """Set, brought forward, not put off by `set_by`, put off by `set`; and then it is not set any more."""
    rang: list[float] = []
    timer, start = Timer(lambda: rang.append(now() - start)), now()
    assert (timer.is_set, timer.when) == (False, math.inf)
    for move, seconds in ((timer.set, 10), (timer.set_by, 5), (timer.set_by, 20)):
        move(start + seconds)
    assert (timer.is_set, timer.when) == (True, start + 5)
    await asyncio.sleep(30)
    timer.set(start + 40)
    timer.set(start + 50)
    await asyncio.sleep(30)
    assert rang == pytest.approx([5, 50], abs=0.001)
    assert (timer.is_set, timer.when) == (False, math.inf)


@pytest.mark.virtual_time
async def test_a_dropped_one_does_not_ring() -> None:
    """However often it is dropped; and it can be set again, also while it rings."""
    rang: list[float] = []

    def again() -> None:
        rang.append(now() - start)
        if len(rang) < 3:
            timer.set(now() + 1)

    timer, start = Timer(again), now()
    timer.set(start + 1)
    timer.drop()
    timer.drop()
    await asyncio.sleep(5)
    timer.set_by(start + 6)
    await asyncio.sleep(5)
    assert rang == pytest.approx([6, 7, 8], abs=0.001)


@pytest.mark.virtual_time
async def test_a_call_that_fails_leaves_it_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in debug mode, where a loop refuses calls from another thread."""
    rang: list[float] = []
    timer = Timer(lambda: rang.append(now()))
    timer.set(now() + 1)

    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("another thread")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "call_at", refuse)
        with pytest.raises(RuntimeError):
            timer.set(now())
    await asyncio.sleep(2)
    assert len(rang) == 1


class Item:
    def __init__(self) -> None:
        self.place: Place | None = NO_PLACE


@pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="uvloop is not installed")
def test_moments_that_have_come_on_uvloop() -> None:
    """Its handles know no `when` then; several deadlines of that kind are met all the same."""
    import uvloop

    async def main() -> None:
        assert not hasattr(asyncio.get_running_loop().call_at(now(), lambda: None), "when")
        expired: list[Item] = []
        done = asyncio.Event()

        def expire(item: Item) -> None:
            expired.append(item)
            if len(expired) == 3:
                done.set()

        deadlines: Deadlines[Item] = Deadlines(expire)
        for seconds in (0.0, -1.0, 0.001):
            deadlines.add(Item(), now() + seconds)
        async with asyncio.timeout(30):
            await done.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
