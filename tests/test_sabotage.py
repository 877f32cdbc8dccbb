"""What once broke a running service: each of these left a run, a waiter or a task behind."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncmgr import Outcome, RunContext
from asyncmgr.events import RunFinished, RunLeaked, SlotSkipped, SlotsMissed
from tests.helpers import Recorded, task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = datetime(2026, 1, 1, tzinfo=UTC)


async def noop(context: Any) -> None: ...


def standing_of(recorded: Recorded, name: str) -> Any:
    return recorded.manager._asyncmgr.tasks()[name].standing


async def test_a_run_keeps_the_scale_of_its_slot() -> None:
    """A task may go over from a spacing to cron while its run goes on, and while one is queued."""
    slots: list[datetime] = []

    async def changes(context: RunContext) -> None:
        recorded.service.task("M.changes").reschedule(cron="0 3 * * *")
        slots.append(context.slot)
        await asyncio.sleep(12)

    recorded = Recorded(task(changes, spacing=10, overlap="queue", misfire_grace=30))
    async with recorded.service:
        await asyncio.sleep(40)
    assert slots[0] == START + timedelta(seconds=10)
    (run,) = recorded.of(RunFinished)
    assert (run.slot, run.lateness) == (START + timedelta(seconds=10), 0)
    assert recorded.of(SlotsMissed) == []


async def test_a_run_behind_one_that_is_given_up_is_started() -> None:
    """The one in front waited too long for a place: whoever triggered the next one gets its record."""

    async def hog(context: RunContext) -> None:
        await asyncio.sleep(20)

    recorded = Recorded(
        task(noop, spacing=3600, overlap="queue", misfire_grace=5, name="q"),
        task(hog, spacing=10_000, name="hog"),
        max_runs=1,
    )
    async with recorded.service as service:
        await asyncio.sleep(3590)
        await service.task("M.hog").trigger(wait=False)
        await asyncio.sleep(12)
        async with asyncio.timeout(600):
            record = await service.task("M.q").trigger()
    assert record.trigger == "manual"
    assert (standing_of(recorded, "M.q").running, standing_of(recorded, "M.q").queued) == (0, False)


async def test_a_pause_holds_for_what_was_handed_out() -> None:
    """A run that waits for a place does not start; nor does one that the same pass would start."""
    ran: list[float] = []

    async def hog(context: RunContext) -> None:
        await asyncio.sleep(30)

    async def held(context: RunContext) -> None:
        ran.append(asyncio.get_running_loop().time())

    recorded = Recorded(task(hog, spacing=3600, run_immediately=True), task(held, spacing=10), max_runs=1)
    async with recorded.service as service:
        await asyncio.sleep(15)
        service.task("M.held").pause()
        await asyncio.sleep(600)
    assert ran == []
    assert [skip.reason for skip in recorded.of(SlotSkipped)] == ["paused"]


async def test_a_pause_within_a_pass_holds_for_that_pass() -> None:
    """The set of due tasks was taken before."""
    ran: list[str] = []

    async def first(context: Any) -> None:
        recorded.service.task("M.second").pause()
        ran.append("first")

    async def second(context: Any) -> None:
        ran.append("second")

    recorded = Recorded(task(first, spacing=10), task(second, spacing=10))
    await asyncio.sleep(11)
    await recorded.manager.periodic_tasks()
    assert ran == ["first"]


async def test_a_pause_needs_no_loop() -> None:
    """One that ends by itself neither: whoever looks at the task, or the service, ends it."""
    recorded = Recorded(task(noop, spacing=10))
    handle = recorded.service.task("M.noop")
    await asyncio.to_thread(handle.pause, for_=5)
    assert handle.status.paused
    await asyncio.sleep(6)
    assert not handle.status.paused


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager Tasks came with Python 3.12")
async def test_a_factory_that_raises_after_an_eager_step() -> None:
    """The run is ended once, and its task goes on."""
    loop = asyncio.get_running_loop()
    raises = True

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        made = asyncio.Task(coro, loop=loop, eager_start=True, context=options.get("context"))  # type: ignore[call-arg, unused-ignore]
        if raises and "Runner" in coro.__qualname__:
            raise RuntimeError("instrumentation")
        return made

    recorded = Recorded(task(noop, spacing=1))
    async with recorded.service:
        loop.set_task_factory(factory)
        await asyncio.sleep(1.5)
        raises = False
        await asyncio.sleep(2)
        loop.set_task_factory(None)
    assert standing_of(recorded, "M.noop").running == 0
    assert len(recorded.of(RunFinished)) == 3


async def test_a_wrapped_task_that_ends_before_its_body_begins() -> None:
    """A factory may have it wait for a place of its own; a cancellation then frees the task."""
    loop = asyncio.get_running_loop()
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, context: Any = None, **options: Any) -> Any:
        async def wrap() -> Any:
            try:
                await asyncio.sleep(0.5)
                return await coro
            finally:
                coro.close()

        ours = "Runner" in getattr(coro, "__qualname__", "")
        one = asyncio.Task(wrap() if ours else coro, loop=loop, context=context)
        if ours:
            made.append(one)
        return one

    recorded = Recorded(task(noop, spacing=10))
    async with recorded.service:
        loop.set_task_factory(factory)
        await asyncio.sleep(10.1)
        made[0].cancel()
        made[0].add_done_callback(lambda _: None)
        await asyncio.sleep(20)
        loop.set_task_factory(None)
    assert standing_of(recorded, "M.noop").running == 0
    assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.CANCELLED, Outcome.SUCCEEDED]


async def test_very_many_tasks_that_begin_late() -> None:
    """A factory may hold back more Tasks than are made in a turn: the loop does not turn for nothing meanwhile."""
    loop = asyncio.get_running_loop()
    turns = 0

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, context: Any = None, **options: Any) -> Any:
        async def wrap() -> Any:
            await asyncio.sleep(0.5)
            return await coro

        ours = "Runner" in getattr(coro, "__qualname__", "")
        return asyncio.Task(wrap() if ours else coro, loop=loop, context=context)

    recorded = Recorded(*(task(noop, spacing=100, name=f"t{number}") for number in range(300)))
    async with recorded.service:
        await asyncio.sleep(99)
        loop.set_task_factory(factory)
        run_once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            assert turns < 1000
            run_once()

        loop._run_once = counted  # type: ignore[attr-defined]
        await asyncio.sleep(10)
        del loop._run_once  # type: ignore[attr-defined]
        loop.set_task_factory(None)
    assert len(recorded.of(RunFinished)) == 300


async def test_an_interrupt_before_a_body_ends_the_service() -> None:
    """In a listener that is told of missed slots: the run is over, and whoever waits gets the interrupt."""

    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    recorded = Recorded(task(noop, spacing=1, name="t"))
    recorded.service.add_listener(interrupt, SlotsMissed)
    await recorded.service.start()
    loop: Any = asyncio.get_running_loop()
    loop._advance(5_000_000)
    with pytest.raises(KeyboardInterrupt):
        await recorded.service.wait()
    assert standing_of(recorded, "M.t").running == 0


def test_an_interrupt_in_a_listener_leaves_a_schedule() -> None:
    """The loop that it ended may be run again: there is another look."""
    from asyncmgr.testing import VirtualTimeLoop

    loop = VirtualTimeLoop()
    interrupted: list[Any] = []

    async def stubborn(context: RunContext) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(15)

    def interrupt(event: Any) -> None:
        if not interrupted:
            interrupted.append(event)
            raise KeyboardInterrupt

    async def started() -> Recorded:
        recorded = Recorded(
            task(stubborn, spacing=1000, run_immediately=True, timeout=1), task(noop, spacing=1, name="t")
        )
        recorded.service.add_listener(interrupt, RunLeaked)
        await recorded.service.start()
        return recorded

    asyncio.set_event_loop(None)
    try:
        recorded = loop.run_until_complete(started())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(30))
        before = standing_of(recorded, "M.t").runs
        loop.run_until_complete(asyncio.sleep(30))
        assert standing_of(recorded, "M.t").runs >= before + 25
        loop.run_until_complete(recorded.service.stop(timeout=0))
    finally:
        loop.close()
