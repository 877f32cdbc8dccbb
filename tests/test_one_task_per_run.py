"""Every run is one asyncio Task of its own: nothing of a run can be seen from another (contract 4)."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asyncmgr import Outcome, RunContext
from asyncmgr.events import RunFinished, SlotSkipped
from tests.helpers import Recorded, task

pytestmark = pytest.mark.virtual_time

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def this_task() -> asyncio.Task[Any]:
    current = asyncio.current_task()
    assert current is not None
    return current


class Subclass(asyncio.Task[Any]):
    """A Task of the application's own."""


def recording(seen: list[str]) -> Callable[..., asyncio.Task[Any]]:
    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        made: asyncio.Task[Any] = Subclass(coro, loop=loop, **options)
        seen.append(getattr(coro, "__qualname__", ""))
        return made

    return factory


@pytest.fixture(params=["plain", "recording", "eager"])
def factory(request: pytest.FixtureRequest) -> Any:
    """The loop's task factory: none, one that makes a subclass, Python's eager one."""
    if request.param == "plain":
        return None
    if request.param == "recording":
        return recording([])
    if sys.version_info < (3, 12):
        pytest.skip("eager Tasks came with Python 3.12")
    return asyncio.eager_task_factory


@pytest.fixture
def on_loop(factory: Any) -> Callable[[], None]:
    def set_it() -> None:
        asyncio.get_running_loop().set_task_factory(factory)

    return set_it


async def test_state_on_the_task_does_not_leak(on_loop: Callable[[], None]) -> None:
    """Weak keys, attributes, names and context variables of a run that never waits are not found by the next one."""
    on_loop()
    kept: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
    found: list[Any] = []

    async def leaves(context: RunContext) -> None:
        current = this_task()
        found.append((kept.get(current), getattr(current, "mine", None), variable.get(), current.get_name()))
        kept[current] = "from an earlier run"
        if hasattr(current, "__dict__"):
            current.mine = "likewise"  # type: ignore[attr-defined]
        current.set_name("renamed")
        variable.set("set by an earlier run")

    recorded = Recorded(task(leaves, spacing=1, name="one"), task(leaves, spacing=1, name="two"))
    async with recorded.service:
        await asyncio.sleep(5.5)
    assert [one[:3] for one in found] == [(None, None, "unset")] * 10
    assert {one[3] for one in found} == {"M.one", "M.two"}


async def test_the_loops_task_factory_makes_the_runs() -> None:
    """Also of runs that never wait; the Task is the one that it made."""
    seen: list[str] = []
    kinds: list[type] = []
    asyncio.get_running_loop().set_task_factory(recording(seen))

    async def never_waits(context: RunContext) -> None:
        kinds.append(type(this_task()))

    async with Recorded(task(never_waits, spacing=1)).service:
        seen.clear()
        await asyncio.sleep(3.5)
    assert kinds == [Subclass] * 3
    assert len([name for name in seen if "Runner" in name]) == 3


async def test_a_factory_that_raises_fails_the_run_and_no_more() -> None:
    """The run's outcome is `failed` with that error; the schedule goes on, and nothing is left unawaited."""
    loop = asyncio.get_running_loop()

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no more tasks")

    async def body(context: RunContext) -> None: ...

    recorded = Recorded(task(body, spacing=1))
    async with recorded.service:
        loop.set_task_factory(refuse)
        await asyncio.sleep(2.5)
        loop.set_task_factory(None)
        await asyncio.sleep(2)
    ended = recorded.of(RunFinished)
    assert [run.outcome for run in ended] == [Outcome.FAILED] * 2 + [Outcome.SUCCEEDED] * 2
    assert str(ended[0].error) == "no more tasks"


async def test_one_run_is_cancelled_alone(on_loop: Callable[[], None]) -> None:
    """Whoever holds a run's Task ends that run, and no other."""
    on_loop()
    tasks: list[asyncio.Task[Any]] = []

    async def waits(context: RunContext) -> None:
        tasks.append(this_task())
        await asyncio.sleep(100)

    recorded = Recorded(task(waits, spacing=1, name="a", overlap="allow"), task(waits, spacing=1, name="b"))
    async with recorded.service:
        await asyncio.sleep(1.5)
        tasks[0].cancel()
        await asyncio.sleep(0.1)
        assert [(run.task, run.outcome) for run in recorded.of(RunFinished)] == [("M.a", Outcome.CANCELLED)]
        assert not tasks[1].done()
        await recorded.service.stop(timeout=0)


async def test_a_task_of_a_run_that_is_over_cancels_nothing(on_loop: Callable[[], None]) -> None:
    """Kept and cancelled later, it belongs to nobody any more."""
    on_loop()
    tasks: list[asyncio.Task[Any]] = []

    async def keeps(context: RunContext) -> None:
        for one in tasks:
            one.cancel()
        tasks.append(this_task())

    recorded = Recorded(task(keeps, spacing=1, name="a"), task(keeps, spacing=1, name="b"))
    async with recorded.service:
        await asyncio.sleep(3.5)
    assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.SUCCEEDED] * 6


async def test_a_cancellation_before_the_first_step() -> None:
    """It ends the run as cancelled; the task is free for its next slot."""
    loop = asyncio.get_running_loop()
    cancel_next = True

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made = asyncio.Task(coro, loop=loop, **options)
        if cancel_next and "Runner" in coro.__qualname__:
            made.cancel()
        return made

    async def body(context: RunContext) -> None: ...

    recorded = Recorded(task(body, spacing=1))
    async with recorded.service:
        loop.set_task_factory(factory)
        await asyncio.sleep(1.5)
        cancel_next = False
        await asyncio.sleep(1)
        loop.set_task_factory(None)
    assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.CANCELLED, Outcome.SUCCEEDED]
    (managed,) = recorded.manager._asyncmgr.tasks().values()
    assert managed.standing.running == 0


async def test_a_stop_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot is refused: its body never begins."""
    began: list[str] = []

    async def body(context: RunContext) -> None:
        began.append(context.task)

    recorded = Recorded(task(body, spacing=1))
    await recorded.service.start()
    runner = recorded.service._runner
    assert runner is not None
    start = runner._start

    def start_and_close(run: Any) -> None:
        start(run)
        runner.close()  # right after its Task was made, before the loop gives it the first step

    monkeypatch.setattr(runner, "_start", start_and_close)
    asyncio.get_running_loop().set_task_factory(recording([]))
    await asyncio.sleep(1.5)
    await recorded.service.stop()
    assert began == []
    assert [skip.reason for skip in recorded.of(SlotSkipped)] == ["draining"]


@pytest.mark.parametrize("waits", [False, True])
async def test_an_exit_in_a_run_does_not_reach_the_loop(on_loop: Callable[[], None], waits: bool) -> None:
    """The run is recorded failed, and `wait` raises it."""
    on_loop()

    async def leaves(context: RunContext) -> None:
        if waits:
            await asyncio.sleep(0.1)
        raise SystemExit(3)

    recorded = Recorded(task(leaves, spacing=1))
    await recorded.service.start()
    with pytest.raises(SystemExit):
        await recorded.service.wait()
    (run,) = recorded.of(RunFinished)
    assert run.outcome is Outcome.FAILED


async def test_the_await_chain_reaches_the_users_line(on_loop: Callable[[], None]) -> None:
    """A debugger that follows the Task's await chain finds where a hung run waits, the first run too."""
    on_loop()

    async def deeper() -> None:
        await asyncio.Event().wait()

    async def hangs(context: RunContext) -> None:
        await deeper()

    recorded = Recorded(task(hangs, spacing=1))
    await recorded.service.start()
    await asyncio.sleep(1.5)
    (hung,) = [one for one in asyncio.all_tasks() if one.get_name() == "M.hangs"]
    names: list[str] = []
    frame: Any = hung.get_coro()
    while inspect.iscoroutine(frame):
        names.append(frame.cr_code.co_name)
        frame = frame.cr_await
    assert names[1:3] == ["hangs", "deeper"]
    await recorded.service.stop(timeout=0)


async def test_ten_thousand_at_once_leave_the_loop_its_turn() -> None:
    """Between two turns of the loop at most 128 runs are started, however many are due."""
    started = 0
    per_turn: list[int] = []

    async def body(context: RunContext) -> None:
        nonlocal started
        started += 1

    recorded = Recorded(*(task(body, spacing=10, name=f"t{number}") for number in range(10_000)))
    loop = asyncio.get_running_loop()

    def turn(before: int) -> None:
        per_turn.append(started - before)
        if started < 10_000:
            loop.call_soon(turn, started)

    async with recorded.service:
        await asyncio.sleep(9.9)
        loop.call_at(loop.time() + 0.1, turn, 0)
        await asyncio.sleep(0.2)
    assert started == 10_000
    assert max(per_turn) <= 2 * 128
