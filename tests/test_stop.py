"""Starting twice, stopping in every state, from everywhere, and what the report says. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncmgr import (
    Outcome,
    RunContext,
    Service,
    ServiceStateError,
    ServiceStopped,
    StopReport,
)
from asyncmgr._service.service import State
from asyncmgr.events import RunFinished, RunLeaked, ServiceStarted, SlotSkipped
from tests.helpers import Bare, Recorded, task
from tests.lives import (
    EACH_STEP,
    STEPS,
    UNDONE_AFTER,
    Stubborn,
    World,
    hang,
    logged,
    logs,
    naps,
    naps_in_run,
    now,
    turns,
    two_managers,
    world,
)

__all__ = ["logs", "world"]

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


# Start twice, stop at any time


async def test_a_service_runs_once(world: World) -> None:
    """A second start raises, while it starts, runs, stops and when it has stopped; the first is unharmed."""
    world.manager(init_host=naps(1), cleanup_host=naps(1))
    service = world.service()
    first = asyncio.create_task(service.start())
    await asyncio.sleep(0.5)
    with pytest.raises(ServiceStateError, match="is starting; a service runs once"):
        await service.start()
    await first
    with pytest.raises(ServiceStateError, match="is running; a service runs once"):
        async with service:
            pytest.fail("was entered")
    assert service.health.ok
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0.5)
    with pytest.raises(ServiceStateError, match="is stopping; a service runs once"):
        await service.start()
    await stopping
    with pytest.raises(ServiceStateError, match="is stopped; a service runs once") as caught:
        await service.start()
    assert not isinstance(caught.value, ServiceStopped)
    await world.assert_undone(service)


async def test_two_starts_at_once(world: World) -> None:
    """Of two concurrent starts one is refused."""
    world.manager()
    service = world.service()
    results = await asyncio.gather(service.start(), service.start(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ServiceStateError]
    await service.stop()


@pytest.mark.parametrize("how", ["stop", "request_stop", "at_once"])
async def test_stop_before_start(world: World, how: str) -> None:
    """A service that was stopped before its start never starts, and `start` says so."""
    world.manager()
    service = world.service()
    if how == "stop":
        assert await service.stop() == StopReport()
    else:
        service.request_stop(at_once=how == "at_once")
    assert service.state is State.STOPPED
    with pytest.raises(ServiceStopped, match="was stopped before it was started"):
        await service.start()
    await service.wait()
    assert await service.stop() == StopReport()
    assert world.notes == []
    await world.assert_undone(service)


async def test_wait_before_start_is_refused() -> None:
    """Waiting for the end of what has not begun would never end."""
    with pytest.raises(ServiceStateError, match="is new; start it first"):
        await Service(Bare()).wait()


@EACH_STEP
async def test_stop_during_a_step_of_the_start(world: World, step: str, logs: list[Any]) -> None:
    """The step is cancelled, the steps before it are undone, and `start` raises `ServiceStopped`."""
    service = two_managers(world, step, hang)
    starting = asyncio.create_task(service.start())
    waiting = asyncio.create_task(asyncio.wait({starting}))
    await asyncio.sleep(1)
    assert world.notes[-1] == step
    report = await service.stop()
    assert now() == 1
    assert report == StopReport(duration=0)
    with pytest.raises(ServiceStopped, match="was stopped while it started"):
        await starting
    await waiting
    assert logged(logs, "service.step_failed") == []
    assert world.notes == STEPS[: STEPS.index(step) + 1] + UNDONE_AFTER[step]
    await service.wait()
    await world.assert_undone(service)


@EACH_STEP
async def test_stop_during_a_step_that_swallows_its_cancellation(world: World, step: str) -> None:
    """The start ends with that step; it is undone if it came to its end."""
    stubborn = Stubborn(seconds=7)
    service = two_managers(world, step, stubborn)
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    report = await service.stop()
    assert now() == 7
    assert report.duration == 6
    assert stubborn.cancelled_at == [1]
    with pytest.raises(ServiceStopped):
        await starting
    assert world.notes[: STEPS.index(step) + 1] == STEPS[: STEPS.index(step) + 1]
    assert "started" not in world.notes
    await world.assert_undone(service)


@pytest.mark.parametrize("step", ["a.init_host", "b.init_host", "a.pre_start_hook", "b.post_start_hook"])
async def test_a_step_that_will_not_end_is_left_behind(world: World, step: str, logs: list[Any]) -> None:
    """A hook that swallows its cancellation and hangs holds up the stop no longer than a run would."""
    stubborn = Stubborn()
    service = two_managers(world, step, stubborn)
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    await service.stop(timeout=10)
    assert now() == 16
    with pytest.raises(ServiceStopped):
        await starting
    (line,) = logged(logs, "service.step_abandoned")
    assert line["step"] == step
    assert stubborn.cancelled_at == [1]
    await world.assert_undone(service, left=1)
    await stubborn.let_go()
    assert world.tasks_left() == []
    assert service.state is State.STOPPED
    await service.wait()


async def test_a_step_that_fails_because_it_is_stopped(world: World, logs: list[Any]) -> None:
    """What a hook makes of its cancellation is logged, and `start` still says that it was stopped."""

    async def turn_into_error() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            raise RuntimeError("interrupted") from None

    service = two_managers(world, "b.init_host", turn_into_error)
    starting = asyncio.create_task(service.start())
    await turns(10)
    await service.stop()
    with pytest.raises(ServiceStopped):
        await starting
    assert str(logged(logs, "service.step_failed")[0]["exc_info"]) == "interrupted"
    await service.wait()
    await world.assert_undone(service)


async def test_stop_twice(world: World) -> None:
    """The second stop gives the report of the first, and does nothing."""
    world.manager()
    service = world.service()
    await service.start()
    first = await service.stop()
    assert await service.stop(timeout=0) is first
    assert world.notes.count("a.cleanup_host") == 1
    await world.assert_undone(service)


async def test_concurrent_stops_share_one_end(world: World) -> None:
    """Several tasks that stop a service all wait for its one end and get one report."""
    manager = world.manager(cleanup_host=naps(3))

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(10)

    manager.add_periodic_task(slow, run_immediately=True, spacing=100)
    service = world.service()
    await service.start()
    await asyncio.sleep(1)
    reports = await asyncio.gather(*(service.stop() for _ in range(5)), service.wait())
    assert now() == 13
    assert set(reports[:5]) == {StopReport(drained=("a.slow",), duration=12.0)}
    await world.assert_undone(service)


def hold(world: World, seconds: float = 1000.0) -> Service:
    """A service that has one run in progress, which lasts."""

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(seconds)

    world.manager().add_periodic_task(slow, run_immediately=True, spacing=10_000)
    return world.service()


async def test_a_shorter_timeout_counts_a_longer_one_does_not(world: World) -> None:
    """Of several timeouts the one that ends first is obeyed; saying none says nothing."""
    service = hold(world)
    async with service:
        await turns(10)
        stops = [asyncio.create_task(service.stop(timeout=100))]
        await asyncio.sleep(40)
        stops.append(asyncio.create_task(service.stop()))
        await asyncio.sleep(20)
        stops.append(asyncio.create_task(service.stop(timeout=5)))
        stops.append(asyncio.create_task(service.stop(timeout=500)))
        (report, *others) = await asyncio.gather(*stops)
    assert now() == 65
    assert report == StopReport(cancelled=("a.slow",), duration=65.0)
    assert others == [report] * 3
    await world.assert_undone(service)


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
async def test_stop_without_patience_cancels_at_once(world: World, timeout: float) -> None:
    """A timeout of 0 drains nothing, and yet gives `cleanup_host` its time."""
    service = hold(world)
    service.managers[0]._does["cleanup_host"] = naps(20)  # type: ignore[attr-defined]
    async with service:
        await turns(10)
        report = await service.stop(timeout)
    assert report.cancelled == ("a.slow",)
    assert now() == pytest.approx(20, abs=0.01)
    assert "cleanup_host" in world.managers[0].ended


async def test_stop_with_endless_patience(world: World) -> None:
    """An infinite timeout waits for the runs."""
    service = hold(world, seconds=100_000)
    async with service:
        await turns(10)
        report = await service.stop(timeout=float("inf"))
    assert report.drained == ("a.slow",)
    assert now() == 100_000


async def test_the_report_tells_what_became_of_each_run(world: World, logs: list[Any]) -> None:
    """Drained, cancelled and leaked runs are told apart; a leaked one does not hold up the exit."""
    stubborn, obedient = Stubborn(), Stubborn(seconds=32)
    manager = world.manager()

    async def quick(context: RunContext) -> None:
        await asyncio.sleep(20)

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(1000)

    async def late(context: RunContext) -> None:
        await obedient()

    async def never(context: RunContext) -> None:
        await stubborn()

    for function in (slow, quick, late, never):
        manager.add_periodic_task(function, run_immediately=True, spacing=10_000)
    manager.add_periodic_task(quick, run_immediately=True, spacing=10_000, name="again")
    service = world.service()
    async with service:
        await turns(20)
        report = await service.stop()
    assert report == StopReport(
        drained=("a.again", "a.quick"), cancelled=("a.late", "a.slow"), leaked=("a.never",), duration=35.0
    )
    assert now() == 35
    assert [entry["task"] for entry in logged(logs, "task.leaked")] == ["a.never"]
    assert [event.task for event in world.of(RunLeaked)] == ["a.never"]
    (stopped,) = logged(logs, "service.stopped")
    assert (stopped["drained"], stopped["cancelled"], stopped["leaked"]) == (2, 2, 1)
    outcomes = {event.task: event.outcome for event in world.of(RunFinished)}
    assert outcomes["a.slow"] is Outcome.CANCELLED
    await stubborn.let_go()
    await world.assert_undone(service)


async def test_a_run_that_ends_while_the_host_is_withdrawn_counts_as_drained(world: World) -> None:
    """What was in progress when the stop was asked for is in the report."""
    service = hold(world, seconds=3)
    world.does["withdraw"] = naps(10)
    async with service:
        await turns(10)
        report = await service.stop()
    assert report.drained == ("a.slow",)


async def test_no_run_starts_once_it_stops(world: World) -> None:
    """Slots that fall due while it drains are not started, and queued ones are refused with a reason."""
    service = hold(world, seconds=25)
    started: list[float] = []

    async def often(context: RunContext) -> None:
        started.append(now())

    async def queued(context: RunContext) -> None:
        started.append(now())
        await asyncio.sleep(15)

    service.managers[0].add_periodic_task(often, spacing=1)
    service.managers[0].add_periodic_task(queued, spacing=10, overlap="queue", run_immediately=True)
    async with service:
        await asyncio.sleep(12.5)
        started.clear()
        await service.stop()
    assert now() == 25
    assert started == []
    assert [(event.task, event.reason) for event in world.of(SlotSkipped)] == [("a.queued", "draining")]


# Stop from within


async def test_stop_from_inside_a_run(world: World) -> None:
    """A run may stop its service: it is asked to, the run ends by itself and is drained like the others."""
    manager = world.manager(cleanup_host=naps(5))
    reports: list[StopReport] = []

    async def stop_at_once(context: RunContext) -> None:
        assert manager.service is not None
        reports.append(await manager.service.stop())

    async def stop_later(context: RunContext) -> None:
        assert manager.service is not None
        await asyncio.sleep(1)
        reports.append(await manager.service.stop())
        await asyncio.sleep(9)
        reports.append(await asyncio.wait_for(manager.service.stop(), 3))

    manager.add_periodic_task(stop_later, run_immediately=True, spacing=100)
    manager.add_periodic_task(stop_at_once, spacing=1)
    service = world.service()
    async with service:
        await service.wait()
        assert now() == 15
    assert reports == [StopReport()] * 3
    assert (await service.stop()).drained == ("a.stop_later",)
    assert {event.outcome for event in world.of(RunFinished)} == {Outcome.SUCCEEDED}
    await world.assert_undone(service)


async def test_stop_from_inside_a_run_and_from_outside(world: World) -> None:
    """A stop from outside, at the same time, waits for the end as ever."""
    manager = world.manager()

    async def stop(context: RunContext) -> None:
        assert manager.service is not None
        await manager.service.stop()
        await asyncio.sleep(10)

    manager.add_periodic_task(stop, run_immediately=True, spacing=100)
    async with world.service() as service:
        await turns(10)
        report = await service.stop()
    assert now() == 10
    assert report.drained == ("a.stop",)


@pytest.mark.parametrize("hook", ["init_host", "pre_start_hook", "post_start_hook"])
async def test_stop_from_inside_a_hook_of_the_start(world: World, hook: str) -> None:
    """The hook goes on to its end, is undone, and `start` raises `ServiceStopped`."""

    async def stop() -> None:
        assert await service.stop() == StopReport()
        await asyncio.sleep(1)

    world.manager("a", **{hook: stop})
    world.manager("b")
    service = world.service()
    with pytest.raises(ServiceStopped):
        await service.start()
    assert hook in world.managers[0].ended
    assert world.managers[1].ended == [] or hook != "init_host"
    assert "announce" not in world.notes
    assert now() == 1
    await world.assert_undone(service)


@pytest.mark.parametrize("hook", ["cleanup_host", "reload"])
async def test_stop_from_inside_other_hooks(world: World, hook: str) -> None:
    """The hook gets its empty report at once, and goes on."""

    async def stop() -> None:
        assert await service.stop(timeout=0) == StopReport()
        await turns()

    world.manager(**{hook: stop})
    service = world.service()
    async with service:
        service.request_reload()
        await asyncio.sleep(1)
    assert "cleanup_host" in world.managers[0].ended
    await world.assert_undone(service)


async def test_stop_from_a_task_that_a_hook_has_started(world: World) -> None:
    """What a hook started belongs to the service too, so that `cleanup_host` may wait for it."""
    tasks: list[asyncio.Task[StopReport]] = []

    async def watch() -> StopReport:
        await asyncio.sleep(5)
        return await service.stop()

    async def begin() -> None:
        tasks.append(asyncio.create_task(watch()))

    async def end() -> None:
        await tasks[0]

    world.manager(post_start_hook=begin, cleanup_host=end)
    service = world.service()
    async with service:
        await service.wait()
    assert now() == 5
    await world.assert_undone(service)


async def test_a_service_inside_a_run_of_another_is_stopped_as_ever(world: World) -> None:
    """Only one's own service cannot be waited for in a run."""
    reports: list[StopReport] = []
    manager = world.manager()
    inner = Recorded(task(naps_in_run(5), run_immediately=True, spacing=100))

    async def nest(context: RunContext) -> None:
        await inner.service.start()
        await turns(10)
        reports.append(await inner.service.stop())
        assert manager.service is not None
        await manager.service.stop()

    manager.add_periodic_task(nest, run_immediately=True, spacing=100)
    async with world.service() as service:
        await service.wait()
    assert reports == [StopReport(drained=("M.run",), duration=5.0)]


async def test_stop_from_a_listener(world: World) -> None:
    """A listener may ask for a stop, at the very start too."""
    world.manager()
    service = world.service()
    service.add_listener(lambda event: service.request_stop(), ServiceStarted)
    async with service:
        await service.wait()
    await world.assert_undone(service)
