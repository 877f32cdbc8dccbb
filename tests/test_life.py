"""Lives cut short: callers cancelled at every await, steps that hang or will not be cancelled, hurried stops."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeAlias

import anyio
import pytest

import asyncmgr
from asyncmgr import Manager, RunContext, Service, ServiceStateError, ServiceStopped, Settings, StopReport
from asyncmgr._service.service import State
from asyncmgr.events import ServiceStopping
from tests.lives import (
    EACH_STEP,
    Noting,
    Stubborn,
    World,
    hang,
    logged,
    logs,
    naps,
    now,
    turns,
    two_managers,
    world,
)

__all__ = ["logs", "world"]

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")

Call: TypeAlias = "Callable[[Service], Coroutine[Any, Any, object]]"


# Callers that are cancelled


def busy_service(world: World) -> Service:
    """Two managers whose hooks await several times, with runs in progress that end some turns after the stop."""
    stopping = asyncio.Event()
    hooks = ("init_host", "pre_start_hook", "post_start_hook", "cleanup_host")
    for name in ("a", "b"):
        manager = world.manager(name, **dict.fromkeys(hooks, turns))

        async def run(context: RunContext) -> None:
            await stopping.wait()
            await turns()

        manager.add_periodic_task(run, run_immediately=True, spacing=1000)
    for step in ("connect", "announce", "withdraw", "close"):
        world.does[step] = turns
    service = world.service()
    service.add_listener(lambda event: stopping.set(), ServiceStopping)
    return service


async def cancel_once(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    task.cancel()


async def cancel_twice(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    task.cancel()
    await turns(4)
    task.cancel()


async def cancel_scope(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    """As anyio does it: again at each turn, until the scope was left."""
    scope.cancel()


HOWS = [cancel_once, cancel_twice, cancel_scope]
EACH_HOW = pytest.mark.parametrize("how", HOWS)
How: TypeAlias = "Callable[[asyncio.Task[Any], anyio.CancelScope], Awaitable[None]]"


Outcome: TypeAlias = Literal["cancelled", "too late", "over"]


async def cancel_after(count: int, how: How, call: Call, service: Service) -> Outcome:
    """Cancel the call after so many turns of the loop, if it is not over by then."""
    scope = anyio.CancelScope()

    async def in_scope() -> None:
        with scope:
            await call(service)

    task = asyncio.create_task(in_scope())
    await turns(count)
    if task.done():
        await task
        return "over"
    await how(task, scope)
    async with asyncio.timeout(100):
        await asyncio.wait({task})
    if task.cancelled() or scope.cancelled_caught:
        return "cancelled"
    await task
    return "too late"


async def cancel_everywhere(world: World, how: How, call: Call, least: int) -> None:
    """Cancel the call of a new service after each number of turns, and see that nothing is left."""
    for count in itertools.count(1):
        service = busy_service(world)
        outcome = await cancel_after(count, how, call, service)
        await world.assert_undone(service)
        if outcome == "over":
            break
        world.clear()
    assert count > least


@EACH_HOW
async def test_start_cancelled_anywhere(world: World, how: How) -> None:
    """Whenever the caller of `start` is cancelled, all that was begun is undone when the call ends."""
    for count in itertools.count(1):
        service = busy_service(world)
        outcome = await cancel_after(count, how, Service.start, service)
        if outcome == "cancelled":
            await world.assert_undone(service)
            with pytest.raises(ServiceStateError):
                await service.start()
        await service.stop()
        await world.assert_undone(service)
        if outcome == "over":
            break
        world.clear()
    assert count > 30


@EACH_HOW
async def test_stop_cancelled_anywhere(world: World, how: How) -> None:
    """Whenever the caller of `stop` is cancelled, the stop is over when the call ends."""
    for count in itertools.count(1):
        service = busy_service(world)
        await service.start()
        await turns()
        outcome = await cancel_after(count, how, Service.stop, service)
        await world.assert_undone(service)
        if outcome == "over":
            break
        world.clear()
    assert count > 15


@EACH_HOW
async def test_wait_cancelled_anywhere(world: World, how: How) -> None:
    """A cancelled `wait` leaves the service alone, while it runs and while it stops."""
    service = busy_service(world)
    await service.start()
    for count in range(1, 10):
        assert await cancel_after(count, how, Service.wait, service) == "cancelled"
        assert service.health.ok
    stopping = asyncio.create_task(service.stop())
    for count in itertools.count(1):
        if await cancel_after(count, how, Service.wait, service) == "over":
            break
    assert (await stopping).drained == ("a.run", "b.run")
    await world.assert_undone(service)


@EACH_HOW
async def test_async_with_cancelled_anywhere(world: World, how: How) -> None:
    """Whether the entry, the body or the exit is cancelled: nothing is left afterwards."""

    async def use(service: Service) -> None:
        async with service:
            await turns(5)

    await cancel_everywhere(world, how, use, 45)


@EACH_HOW
async def test_run_cancelled_anywhere(world: World, how: How) -> None:
    """The same for `asyncmgr.run`."""

    async def use(service: Service) -> None:
        async def end() -> None:
            await turns(40)
            service.request_stop()

        ending = asyncio.create_task(end())
        try:
            await asyncmgr.run(service)
        finally:
            ending.cancel()

    await cancel_everywhere(world, how, use, 45)


@pytest.mark.parametrize("tenths", range(5, 100, 5))
async def test_cancelled_at_any_time(world: World, tenths: int) -> None:
    """With hooks and runs that take their time, a caller who is cancelled is free a second per step later."""
    hooks = ("init_host", "pre_start_hook", "post_start_hook", "cleanup_host")
    manager = world.manager("a", **dict.fromkeys(hooks, naps(2)))

    async def run(context: RunContext) -> None:
        await asyncio.sleep(1000)

    manager.add_periodic_task(run, run_immediately=True, spacing=10_000)
    service = world.service()

    async def use() -> None:
        await service.start()
        await service.stop(timeout=2)

    using = asyncio.create_task(use())
    await asyncio.sleep(tenths / 10)
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert now() <= tenths / 10 + 1
    await world.assert_undone(service)


async def with_timeout(stop: Coroutine[Any, Any, StopReport]) -> None:
    async with asyncio.timeout(5):
        await stop


async def with_wait_for(stop: Coroutine[Any, Any, StopReport]) -> None:
    await asyncio.wait_for(stop, 5)


async def with_fail_after(stop: Coroutine[Any, Any, StopReport]) -> None:
    with anyio.fail_after(5):
        await stop


@pytest.mark.parametrize("limit", [with_timeout, with_wait_for, with_fail_after])
async def test_a_stop_with_a_time_limit(world: World, limit: Callable[..., Awaitable[None]]) -> None:
    """After the limit the stop is hurried to its end, and the limit raises as it always does."""
    world.manager(cleanup_host=hang).add_periodic_task(forever, run_immediately=True, spacing=1000)
    service = world.service()
    await service.start()
    await turns()
    with pytest.raises(TimeoutError):
        await limit(service.stop())
    assert now() == 6
    await world.assert_undone(service)


async def test_one_of_several_callers_cancelled(world: World) -> None:
    """The others get their report, of an end that was hurried."""
    manager = world.manager(cleanup_host=naps(0.5))
    manager.add_periodic_task(forever, run_immediately=True, spacing=1000)
    service = world.service()
    await service.start()
    await turns()
    first, second = (asyncio.create_task(service.stop()) for _ in range(2))
    waiting = asyncio.create_task(service.wait())
    await asyncio.sleep(3)
    first.cancel()
    report = await second
    await waiting
    assert report == StopReport(cancelled=("a.forever",), duration=3.5)
    with pytest.raises(asyncio.CancelledError):
        await first


async def forever(context: RunContext) -> None:
    await hang()


async def test_a_body_that_is_cancelled_drains(world: World) -> None:
    """The exit of ``async with`` after a cancelled body is an exit as ever; a second cancellation hurries it."""
    manager = world.manager()
    manager.add_periodic_task(forever, run_immediately=True, spacing=1000)

    async def use() -> None:
        async with world.service():
            await hang()

    for seconds in (None, 3):
        began = now()
        using = asyncio.create_task(use())
        await asyncio.sleep(1)
        using.cancel()
        if seconds is not None:
            await asyncio.sleep(seconds)
            using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        assert now() - began == 31 if seconds is None else 4


# Steps that hang


def hurry_by_cancelling(stopping: asyncio.Task[Any], service: Service) -> None:
    stopping.cancel()


def hurry_by_request(stopping: asyncio.Task[Any], service: Service) -> None:
    service.request_stop(at_once=True)


EACH_HURRY = pytest.mark.parametrize("hurry", [hurry_by_cancelling, hurry_by_request])
Hurry: TypeAlias = "Callable[[asyncio.Task[Any], Service], None]"


@EACH_HURRY
async def test_a_hurried_cleanup_has_a_second(world: World, logs: list[Any], hurry: Hurry) -> None:
    """One that hangs is cut short with a log line, those that are quick are not, and all are called."""
    world.manager("a", cleanup_host=naps(0.9))
    world.manager("b", cleanup_host=hang)
    world.manager("c", cleanup_host=naps(0.5))
    service = world.service()
    await service.start()
    stopping = asyncio.create_task(service.stop())
    await turns(1)
    hurry(stopping, service)
    await asyncio.wait({stopping})
    assert now() == pytest.approx(2.4)
    (line,) = logged(logs, "service.step_cut_short")
    assert line["step"] == "b.cleanup_host"
    assert [manager.name for manager in world.managers if "cleanup_host" in manager.ended] == ["a", "c"]
    await world.assert_undone(service)


@EACH_HURRY
async def test_a_step_in_progress_is_hurried_too(world: World, hurry: Hurry) -> None:
    """A `cleanup_host` that has taken long already has one more second, however often one asks."""
    world.manager("a", cleanup_host=hang)
    service = world.service()
    await service.start()
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(100)
    for _ in range(3):
        hurry(stopping, service)
        await asyncio.sleep(0.4)
    await asyncio.wait({stopping})
    assert world.when("close") == 101
    await world.assert_undone(service)


@pytest.fixture
async def told() -> list[Any]:
    """What is complained of to the loop's exception handler."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    return told


def stubborn_then(stubborn: Stubborn, error: BaseException | None) -> Callable[[], Awaitable[None]]:
    """A hook that will not end, and when it is let go raises this."""

    async def hook() -> None:
        await stubborn()
        if error is not None:
            raise error

    return hook


EACH_LATE_ERROR = pytest.mark.parametrize(
    "error", [None, OSError("late"), SystemExit(3), asyncio.CancelledError()]
)


@EACH_HURRY
@EACH_LATE_ERROR
async def test_a_cleanup_that_will_not_end_is_left_behind(
    world: World, logs: list[Any], told: list[Any], hurry: Hurry, error: BaseException | None
) -> None:
    """The other hooks are undone and the transport closed without it; what becomes of it later changes nothing."""
    stubborn = Stubborn()
    world.manager("a")
    world.manager("b", cleanup_host=stubborn_then(stubborn, error))
    service = world.service()
    await service.start()
    waiting = asyncio.create_task(service.wait())
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(10)
    hurry(stopping, service)
    await asyncio.wait({stopping})
    await waiting
    assert now() == 12
    assert stubborn.cancelled_at == [11]
    (line,) = logged(logs, "service.step_abandoned")
    assert (line["step"], line["log_level"]) == ("b.cleanup_host", "critical")
    await world.assert_undone(service, left=1)
    await stubborn.let_go()
    gc.collect()
    await service.wait()
    assert (service.state, told, logged(logs, "service.step_failed")) == (State.STOPPED, [], [])


@pytest.mark.parametrize("step", ["withdraw", "close"])
async def test_a_transport_that_hangs(world: World, step: str) -> None:
    """A hurried stop does not wait for the transport either."""
    world.manager()
    world.does[step] = hang
    service = world.service()
    await service.start()
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(10)
    service.request_stop(at_once=True)
    await stopping
    assert now() == 11
    assert world.notes[-2:] == ["a.cleanup_host", "close"]
    if step == "withdraw":
        await end_announcer()


async def end_announcer() -> None:
    """A withdrawal that was cut off before it began leaves the announcer to the loop."""
    for task in asyncio.all_tasks():
        if "announcer" in task.get_name():
            task.cancel()
    await turns()


@pytest.mark.parametrize("step", ["a.init_host", "b.init_host", "a.pre_start_hook", "b.post_start_hook"])
@EACH_LATE_ERROR
async def test_a_start_that_will_not_end_is_left_behind(
    world: World, logs: list[Any], told: list[Any], step: str, error: BaseException | None
) -> None:
    """A cancelled caller of `start` is free a second later, whatever a hook makes of its cancellation."""
    stubborn = Stubborn()
    service = two_managers(world, step, stubborn_then(stubborn, error))
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(5)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert now() == 6
    assert stubborn.cancelled_at == [5]
    await world.assert_undone(service, left=1)
    await stubborn.let_go()
    gc.collect()
    await service.wait()
    assert (service.state, told, logged(logs, "service.step_failed")) == (State.STOPPED, [], [])


async def test_a_hook_is_cancelled_again_in_a_hurry(world: World) -> None:
    """A hook of the start that swallowed one cancellation gets another one when somebody is in a hurry."""
    swallowed: list[float] = []

    async def swallow_once() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            swallowed.append(now())
        await hang()

    world.manager("a", init_host=swallow_once)
    service = world.service()
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(5)
    service.request_stop(at_once=True)
    await stopping
    with pytest.raises(ServiceStopped):
        await starting
    assert swallowed == [1]
    assert now() == 6
    await world.assert_undone(service)


async def test_a_hook_that_makes_an_error_of_its_end(world: World, logs: list[Any]) -> None:
    """What a `cleanup_host` that is cut short raises instead is logged as its failure."""

    async def fail() -> None:
        try:
            await hang()
        finally:
            raise OSError("cut off")

    world.manager(cleanup_host=fail)
    service = world.service()
    await service.start()
    service.request_stop(at_once=True)
    await service.wait()
    assert str(logged(logs, "service.step_failed")[0]["exc_info"]) == "cut off"
    await world.assert_undone(service)


# Runs in a hurry


def with_runs(world: World, *functions: Callable[..., Any]) -> Service:
    manager: Noting = world.manager()
    for number, function in enumerate(functions):

        async def run(context: RunContext, function: Callable[..., Any] = function) -> None:
            await function()

        manager.add_periodic_task(run, run_immediately=True, spacing=10_000, name=f"run{number}")
    return world.service()


async def test_a_hurried_stop_cancels_runs_at_once(world: World) -> None:
    """Runs in progress are not drained, and have a second before they are reported as leaked."""
    stubborn = Stubborn()
    service = with_runs(world, hang, stubborn, Stubborn(seconds=0.7))
    await service.start()
    await turns(10)
    service.request_stop(at_once=True)
    report = await service.stop()
    assert report == StopReport(cancelled=("a.run0", "a.run2"), leaked=("a.run1",), duration=1.0)
    await stubborn.let_go()
    await world.assert_undone(service)


@pytest.mark.parametrize("seconds", [0, 10, 30, 32, 34.5])
async def test_a_stop_may_be_hurried_at_any_time(world: World, seconds: float) -> None:
    """During the drain as during the wait for what was cancelled, it ends a second later, or as it would have."""
    stubborn = Stubborn()
    service = with_runs(world, stubborn)
    await service.start()
    await turns(10)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(seconds)
    service.request_stop(at_once=True)
    report = await stopping
    assert report.leaked == ("a.run0",)
    assert report.duration == min(seconds + 1, 35)
    assert stubborn.cancelled_at == [min(seconds, 30)]
    await stubborn.let_go()
    await world.assert_undone(service)


async def test_runs_and_hooks_that_will_not_end(world: World, logs: list[Any]) -> None:
    """With everything that can be stubborn being so, a hurried stop still ends, and the transport is closed."""
    run, reload, cleanup = Stubborn(), Stubborn(), Stubborn()
    service = with_runs(world, run)
    world.managers[0]._does |= {"reload": reload, "cleanup_host": cleanup}
    await service.start()
    service.request_reload()
    await turns(10)
    service.request_stop(at_once=True)
    report = await service.stop()
    assert report.leaked == ("a.run0",)
    assert now() == 4
    assert world.notes[-1] == "close"
    await world.assert_undone(service, left=3)
    for stubborn in (run, reload, cleanup):
        await stubborn.let_go()


# A loop that is shut down


@pytest.mark.parametrize("count", range(0, 60, 3))
async def test_every_task_of_the_loop_is_cancelled(world: World, count: int) -> None:
    """What `asyncio.run` does at its end, at any time: all but the step in progress is undone, everybody is told."""
    service = busy_service(world)

    async def use() -> None:
        async with service:
            await turns(10)

    using = asyncio.create_task(use())
    await turns(count)
    ours = asyncio.all_tasks() - world.tasks_before - {asyncio.current_task()}
    for task in ours:
        task.cancel()
    last = world.notes[-1:]
    await asyncio.gather(*ours, return_exceptions=True)
    assert using.done()
    await world.assert_undone(service, withdrawn=last != ["withdraw"])


@EACH_STEP
async def test_a_start_that_the_loops_shutdown_cancels(world: World, step: str, logs: list[Any]) -> None:
    """The start is undone, `start` says that it was stopped, and hooks find no cancellation left over."""
    counts: list[int] = []

    async def count() -> None:
        current = asyncio.current_task()
        assert current is not None
        counts.append(current.cancelling())

    service = two_managers(world, step, hang)
    for manager in world.managers:
        manager._does["cleanup_host"] = count
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    (life,) = (task for task in asyncio.all_tasks() if task.get_name() == service.name)
    life.cancel()
    with pytest.raises(ServiceStopped):
        await starting
    assert set(counts) <= {0}
    assert logged(logs, "service.step_failed") == []
    await world.assert_undone(service)


async def test_the_loops_shutdown_cuts_the_drain_short(world: World) -> None:
    """Runs that outlive even that have a second, and whoever asks again meanwhile changes nothing."""
    stubborn = Stubborn()
    service = with_runs(world, stubborn)
    await service.start()
    await turns(10)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(5)
    (life,) = (task for task in asyncio.all_tasks() if task.get_name() == service.name)
    life.cancel()
    await turns()
    service.request_stop(at_once=True)
    report = await stopping
    assert (report.leaked, now()) == (("a.run0",), 6)
    await stubborn.let_go()
    await world.assert_undone(service)


async def test_the_life_survives_its_own_bugs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the code around the steps raise, the steps that are left are taken all the same."""
    world.manager("a")
    service = world.service()
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    await service.start()
    assert service._life is not None
    undo = service._life._take_stop_step

    async def undo_badly(name: str, hook: Any) -> None:
        monkeypatch.setattr(service._life, "_take_stop_step", undo)
        await undo(name, hook)
        raise RuntimeError("a bug")

    monkeypatch.setattr(service._life, "_take_stop_step", undo_badly)
    await service.stop()
    await world.assert_undone(service)


@pytest.mark.parametrize("where", ["init_host", "running", "cleanup_host"])
def test_a_loop_that_is_closed_without_a_shutdown(where: str) -> None:
    """The life ends where it is; no step is taken outside of the loop."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    starting: list[asyncio.Task[None]] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))

    class Left(Manager):
        async def init_host(self) -> None:
            if where == "init_host":
                await hang()

        async def cleanup_host(self) -> None:
            if where == "cleanup_host":
                await hang()
            told.append("cleaned")

    async def main() -> None:
        service = Service(Left(), settings=Settings())
        starting.append(asyncio.create_task(service.start()))
        await turns(20)
        if where == "cleanup_host":
            service.request_stop()
            await turns(20)

    loop.run_until_complete(main())
    loop.close()
    starting.clear()
    gc.collect()
    assert set(told) == {"Task was destroyed but it is pending!"}
