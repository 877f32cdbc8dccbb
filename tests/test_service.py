"""A service's life in virtual time: the order of its steps, its managers, events, plugins, health, and its ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import asyncmgr._service.plugins
from asyncmgr import (
    AsyncmgrError,
    Manager,
    ManagerInUse,
    Outcome,
    RunContext,
    SchedulerDependentManager,
    Service,
    ServiceStateError,
    ServiceStopped,
    Settings,
    StopReport,
    TaskFailed,
    TransportError,
    open_transport,
    periodic_task,
)
from asyncmgr._common.safe_text import error_text
from asyncmgr._service.plugins import Plugin
from asyncmgr._service.service import State
from asyncmgr._tasks.runner import Runner
from asyncmgr.errors import InvalidName
from asyncmgr.events import RunFinished, ServiceStarted, ServiceStopping
from asyncmgr.testing import VirtualTimeLoop
from asyncmgr.transports import register_scheme
from tests.helpers import Bare
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
    nothing,
    now,
    raises,
    turns,
    two_managers,
    world,
)

__all__ = ["logs", "world"]

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


# The order of the steps


async def test_start_and_stop_take_their_steps_in_order(world: World) -> None:
    """Managers go through each step in order of definition; the stop undoes them in reverse, the transport last."""
    world.manager("a")
    second = world.manager("b")

    async def note_run(context: RunContext) -> None:
        world.note("run")

    second.add_periodic_task(note_run, run_immediately=True, spacing=100)
    service = world.service()
    service.add_listener(lambda event: world.note("started"), ServiceStarted)
    service.add_listener(lambda event: world.note("stopping"), ServiceStopping)
    async with service:
        await asyncio.sleep(1)
    assert world.notes == [
        "a.init_host",
        "b.init_host",
        "connect",
        "a.pre_start_hook",
        "b.pre_start_hook",
        "a.post_start_hook",
        "b.post_start_hook",
        "announce",
        "started",
        "run",
        "stopping",
        "withdraw",
        "b.cleanup_host",
        "a.cleanup_host",
        "close",
    ]
    await world.assert_undone(service)


async def test_runs_in_progress_end_after_the_host_is_withdrawn_and_before_cleanup(world: World) -> None:
    """The host is no longer announced while runs are drained, and hooks are undone when the last one has ended."""
    manager = world.manager()

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(10)
        world.note("run ended")
        assert await world.announced() == []
        assert manager.service is not None
        assert manager.service.transport.connected

    manager.add_periodic_task(slow, run_immediately=True, spacing=100)
    async with world.service():
        await asyncio.sleep(1)
        assert await world.announced() == ["s.h"]
    assert world.notes[-4:] == ["withdraw", "run ended", "a.cleanup_host", "close"]
    assert world.when("a.cleanup_host") == 10


async def test_the_transport_is_there_from_its_step_on(world: World) -> None:
    """`service.transport` is for the hooks after `init_host`, for runs and for `cleanup_host`; else it raises."""
    found: dict[str, bool] = {}

    def look(hook: str) -> Callable[[], Any]:
        async def look() -> None:
            try:
                found[hook] = service.transport.connected
            except ServiceStateError:
                found[hook] = False

        return look

    hooks = ("init_host", "pre_start_hook", "post_start_hook", "cleanup_host")
    world.manager(**{hook: look(hook) for hook in hooks})
    service = world.service()
    async with service:
        assert service.transport.connected
    assert found == {
        "init_host": False,
        "pre_start_hook": True,
        "post_start_hook": True,
        "cleanup_host": True,
    }
    with pytest.raises(ServiceStateError, match="has no transport while it is stopped"):
        _ = service.transport


async def test_an_open_transport_is_shared_and_not_closed() -> None:
    """A service closes only the transport that it opened."""
    async with open_transport("memory://") as transport:
        async with Service(Bare(), transport=transport) as service:
            assert service.transport is transport
        assert transport.connected


class Rare(BaseException):
    """As testing and async libraries have some."""


@EACH_STEP
@pytest.mark.parametrize("error", [OSError("no disk"), SystemExit(3), KeyboardInterrupt(), Rare()])
async def test_a_failing_step_undoes_the_steps_before_it(
    world: World, step: str, error: BaseException
) -> None:
    """What the step raised leaves `start`, whatever it is, and exactly what was done is undone in reverse."""
    service = two_managers(world, step, raises(error))
    with pytest.raises(type(error)) as caught:
        await service.start()
    assert caught.value is error
    begun = STEPS[: STEPS.index(step) + 1]
    assert world.notes == begun + UNDONE_AFTER[step]
    await world.assert_undone(service)
    with pytest.raises(type(error)):
        await service.wait()
    assert await service.stop() == StopReport()


async def test_a_failing_last_step_withdraws_the_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tasks cannot be started, all the rest is undone."""
    world.manager().add_periodic_task(nothing, spacing=1)

    def explode(*args: object) -> None:
        raise ArithmeticError("no first slot")

    service = world.service()
    monkeypatch.setattr(Runner, "open", explode)
    with pytest.raises(ArithmeticError):
        await service.start()
    assert world.notes[-3:] == ["withdraw", "a.cleanup_host", "close"]
    assert world.events == []
    await world.assert_undone(service)


async def test_a_stray_cancelled_error_fails_the_start(world: World) -> None:
    """A `CancelledError` that nobody asked for is the hook's failure, and not taken for a cancelled caller."""
    service = two_managers(world, "b.init_host", raises(asyncio.CancelledError("stray")))
    with pytest.raises(TaskFailed, match=r"b\.init_host ended with a CancelledError") as caught:
        await service.start()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    await world.assert_undone(service)


async def test_a_failing_cleanup_is_logged_and_the_rest_follows(world: World, logs: list[Any]) -> None:
    """An `Exception`, and a stray `CancelledError`, of `cleanup_host` stop nothing and hurry nothing."""
    world.manager("a", cleanup_host=naps(20))
    world.manager("b", cleanup_host=raises(asyncio.CancelledError()))
    world.manager("c", cleanup_host=raises(OSError("no disk")))
    service = world.service()
    async with service:
        pass
    assert world.notes[-4:] == ["c.cleanup_host", "b.cleanup_host", "a.cleanup_host", "close"]
    assert now() == 20
    failed = logged(logs, "service.step_failed")
    assert [entry["step"] for entry in failed] == ["c.cleanup_host", "b.cleanup_host"]
    await world.assert_undone(service)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_raised_in_cleanup_ends_the_rest_first(world: World, error: BaseException) -> None:
    """`SystemExit` of `cleanup_host` leaves the end of ``async with``, after everything was undone."""
    world.manager("a")
    world.manager("b", cleanup_host=raises(error))
    service = world.service()
    with pytest.raises(type(error)):
        async with service:
            pass
    await world.assert_undone(service)


async def test_a_failing_withdrawal_or_close_is_logged(world: World, logs: list[Any]) -> None:
    """A transport that fails at the end does not keep the hooks from being undone."""
    world.manager()
    world.does["withdraw"] = world.does["close"] = raises(TransportError("gone"))
    async with world.service():
        pass
    failed = logged(logs, "service.step_failed")
    assert [entry["step"] for entry in failed] == ["withdraw host", "close transport"]
    assert "a.cleanup_host" in world.notes
    assert world.tasks_left() != []  # this broken announcer goes on
    for left in asyncio.all_tasks() - {asyncio.current_task()}:
        if "announcer" in left.get_name():
            left.cancel()
            await turns()


async def test_hooks_share_one_task_and_its_context(world: World) -> None:
    """What one hook opens another may close, also where that must happen in one task, as in a task group."""
    groups: list[asyncio.TaskGroup] = []
    ended: list[str] = []

    async def work() -> None:
        await asyncio.sleep(5)
        ended.append("work")

    async def open_group() -> None:
        group = asyncio.TaskGroup()
        groups.append(await group.__aenter__())
        group.create_task(work())

    async def close_group() -> None:
        await groups[0].__aexit__(None, None, None)

    world.manager(init_host=open_group, cleanup_host=close_group)
    async with world.service():
        pass
    assert ended == ["work"]


async def test_no_cancellation_is_left_over_for_hooks(world: World) -> None:
    """`cleanup_host` after a start that was cut short may use task groups and timeouts as ever."""
    errors: list[BaseException] = []
    counts: list[int] = []

    async def fail_in_group() -> None:
        current = asyncio.current_task()
        assert current is not None
        counts.append(current.cancelling())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(raises(ValueError("inner"))())  # type: ignore[arg-type]
                await hang()
        except BaseExceptionGroup as exc:
            errors.extend(exc.exceptions)

    world.manager(pre_start_hook=hang, cleanup_host=fail_in_group)
    service = world.service()
    starting = asyncio.create_task(service.start())
    await turns(10)
    await service.stop()
    with pytest.raises(ServiceStopped):
        await starting
    assert counts == [0]
    assert [str(error) for error in errors] == ["inner"]


async def test_start_delay_comes_before_the_tasks_start(world: World) -> None:
    """The delay is random, up to the setting; the host is announced before it, and every slot counts from its end."""
    manager = world.manager()
    starts: list[float] = []

    async def note(context: RunContext) -> None:
        starts.append(now())

    manager.add_periodic_task(note, run_immediately=True, spacing=100)
    service = world.service(start_delay=60)
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(0.1)
    assert service.state is State.STARTING
    assert await world.announced() == ["s.h"]
    await starting
    began = now()
    assert 0 < began <= 60
    await asyncio.sleep(150)
    await service.stop()
    assert starts == [began, began + 100]


async def test_a_stop_during_the_start_delay_ends_it(world: World) -> None:
    """Nobody waits for the rest of the delay."""
    world.manager()
    service = world.service(start_delay=1000)
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(0.1)
    await service.stop()
    with pytest.raises(ServiceStopped):
        await starting
    assert now() == pytest.approx(0.1)
    await world.assert_undone(service)


# Managers


async def test_a_manager_in_two_services(world: World) -> None:
    """The second service does not start, undoes what it has begun, and leaves the first unharmed."""
    shared, other = world.manager("shared"), world.manager("other")
    ran: list[float] = []

    async def note(context: RunContext) -> None:
        ran.append(now())

    shared.add_periodic_task(note, spacing=10)
    async with world.service(shared) as first:
        second = world.service(other, shared)
        with pytest.raises(ManagerInUse, match="shared is already driven by the service s"):
            await second.start()
        assert second.state is State.STOPPED
        assert other.service is None
        assert shared.service is first
        assert first.health.ok
        await asyncio.sleep(25)
    assert ran == [10, 20]
    assert world.notes.count("shared.cleanup_host") == 1
    assert "other.cleanup_host" not in world.notes


async def test_manager_service_follows_the_life(world: World) -> None:
    """`manager.service` is the service from before `init_host` until after `cleanup_host`, and else `None`."""
    found: list[Service | None] = []

    async def look() -> None:
        found.append(manager.service)

    manager = world.manager(init_host=look, cleanup_host=look)
    service = world.service()
    assert manager.service is None
    async with service:
        assert manager.service is service
    assert manager.service is None
    assert found == [service, service]


async def test_pass_during_and_after_a_service(world: World) -> None:
    """A pass is refused from the start to the end of a service, and free after it."""
    refused: list[str] = []

    async def try_pass() -> None:
        with pytest.raises(ManagerInUse) as caught:
            await manager.periodic_tasks(None)
        refused.append(str(caught.value))

    manager = world.manager(init_host=try_pass, cleanup_host=try_pass)
    await manager.periodic_tasks(None)
    async with world.service():
        await try_pass()
    assert len(refused) == 3
    assert await manager.periodic_tasks(None) == 60


async def test_managers_after_a_service_start_over(world: World) -> None:
    """A second service may run the same managers; their tasks start with it, and `last_run` stays."""
    manager = world.manager()
    ran: list[float] = []

    async def note(context: RunContext) -> None:
        ran.append(now())

    manager.add_periodic_task(note, spacing=10)
    async with world.service():
        await asyncio.sleep(15)
    (status,) = manager.task_status()
    assert status.last_run is not None
    async with world.service():
        await asyncio.sleep(15)
    assert ran == [10, 25]


async def test_a_manager_that_cannot_be_released_keeps_nobody_else(world: World, logs: list[Any]) -> None:
    """Each manager is released on its own."""
    first, second = world.manager("a"), world.manager("b")
    service = world.service()
    async with service:
        first._asyncmgr.leave = raise_now  # type: ignore[method-assign]
    assert second.service is None
    await second.periodic_tasks(None)
    assert [entry["step"] for entry in logged(logs, "service.step_failed")] == ["release a"]


def raise_now() -> None:
    raise ArithmeticError("no first slot")


async def test_managers_may_be_added_until_the_start(world: World) -> None:
    """Adding one is refused from the moment on that the managers have joined the service."""
    late = Bare()

    async def add() -> None:
        service.add_manager(late)

    service = world.service(world.manager("a", init_host=add))
    service.add_manager(world.manager("b"))
    with pytest.raises(ServiceStateError, match="add managers before it starts"):
        await service.start()
    assert [manager.name for manager in service.managers] == ["a", "b"]


class Named(SchedulerDependentManager):
    service_name = "compute"


class OtherwiseNamed(SchedulerDependentManager):
    service_name = "storage"


def test_names() -> None:
    """The name is the given one, else the first `service_name`, else the first class name in lower case."""
    settings = Settings()
    assert Service(Bare(), settings=settings).name == "bare"
    assert Service(Bare(), Named(), settings=settings).name == "compute"
    assert Service(Bare(), Named(), name="x", settings=settings).name == "x"
    assert Service(Bare(), host="n1", settings=settings).host == "n1"
    assert Service(Bare(), settings=Settings(host="n2")).host == "n2"


classes: list[Any] = [Bare]
texts: list[Any] = ["Bare"]


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: Service(), AsyncmgrError, "neither a manager nor a name"),
        (lambda: Service(*classes), AsyncmgrError, r"Bare is a class; .*Bare\(\)"),
        (lambda: Service(*texts), AsyncmgrError, "'Bare' is no Manager"),
        (lambda: Service(Bare(), Bare()), AsyncmgrError, "two managers are named 'M'"),
        (lambda: Service(Named(), OtherwiseNamed()), AsyncmgrError, "make two services"),
        (lambda: Service(Bare(), name="x" * 129), InvalidName, "service name"),
        (lambda: Service(Bare(), host="ä" * 60), InvalidName, "host name"),
    ],
)
def test_what_cannot_be_a_service(build: Callable[[], Service], error: type[Exception], text: str) -> None:
    """What is wrong with managers and names is said when the service is built."""
    with pytest.raises(error, match=text):
        build()


# Other tasks, other loops


async def test_enter_and_exit_in_different_tasks(world: World) -> None:
    """As in an ASGI lifespan, one task may start a service and another stop it."""
    world.manager()
    service = world.service()
    await asyncio.create_task(service.__aenter__())
    assert service.health.ok
    await asyncio.create_task(service.__aexit__(None, None, None))
    await world.assert_undone(service)


@pytest.fixture
async def running() -> AsyncIterator[Service]:
    async with Service(Bare(), settings=Settings()) as service:
        yield service
    assert service.state is State.STOPPED


async def test_service_in_an_async_generator_fixture(running: Service) -> None:
    """A fixture may hold a service across its ``yield``."""
    await asyncio.sleep(100)
    assert running.health.ok


async def test_lifespan_like_generator_closed_by_another_task(world: World) -> None:
    """A lifespan that is entered by one task, ended by a second one and cancelled meanwhile leaves nothing."""
    world.manager()
    service = world.service()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service:
            yield

    span = lifespan()
    await asyncio.create_task(span.__aenter__())
    await asyncio.create_task(span.__aexit__(None, None, None))
    await world.assert_undone(service)


async def test_a_service_that_has_stopped_is_forgotten(world: World) -> None:
    """Nothing in the package or the loop keeps it alive."""
    manager = Bare()
    service = Service(manager, settings=Settings())
    async with service:
        await service.reload()
    reference = weakref.ref(service)
    del service
    gc.collect()
    assert reference() is None


async def test_two_services_start_and_stop_apart(world: World) -> None:
    """Two services in one loop have nothing in common but the loop."""
    first, second = world.manager("a"), world.manager("b")
    one, two = world.service(first), world.service(second)
    await asyncio.gather(one.start(), two.start())
    await one.stop()
    assert (first.service, second.service) == (None, two)
    assert two.health.ok
    await two.stop()
    assert second.service is None
    assert world.connections == 0


def test_a_service_built_outside_any_loop_runs_in_one() -> None:
    """Building needs no running loop."""
    service = Service(Bare(), settings=Settings())

    async def main() -> StopReport:
        async with service:
            await turns()
        return await service.stop()

    assert asyncio.run(main()).drained == ()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
async def test_eager_tasks(world: World) -> None:
    """An application that makes its tasks eager gets the same life."""
    manager = world.manager()
    ran: list[float] = []

    async def note(context: RunContext) -> None:
        ran.append(now())
        await asyncio.sleep(1)

    manager.add_periodic_task(note, run_immediately=True, spacing=10)
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    service = world.service()
    async with service:
        await service.reload()
        await asyncio.sleep(15)
    assert ran == [0, 10]
    asyncio.get_running_loop().set_task_factory(None)
    await world.assert_undone(service)


# What ends it from inside


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_run_that_wants_the_process_to_end(world: World, error: BaseException, waits: bool) -> None:
    """The run is recorded failed, the service drains and stops, and `wait` and ``async with`` raise it."""
    manager = world.manager()

    async def leave(context: RunContext) -> None:
        if waits:
            await asyncio.sleep(0.5)
        raise error

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(20)

    manager.add_periodic_task(slow, run_immediately=True, spacing=100)
    manager.add_periodic_task(leave, spacing=1)
    service = world.service()
    await service.start()
    with pytest.raises(type(error)) as caught:
        await service.wait()
    assert caught.value is error
    assert now() == 20
    assert not service.health.ok
    assert error_text(error) in service.health.reason
    (run,) = [event for event in world.of(RunFinished) if event.task == "a.leave"]
    assert (run.outcome, run.error) == (Outcome.FAILED, error)
    assert (await service.stop()).drained == ("a.slow",)
    with pytest.raises(type(error)):
        await service.__aexit__(None, None, None)
    await world.assert_undone(service)


async def test_an_exit_leaves_async_with_only_where_the_body_raised_nothing(world: World) -> None:
    """The body is not interrupted, and its own exception wins."""
    manager = world.manager()

    async def leave(context: RunContext) -> None:
        raise SystemExit(3)

    manager.add_periodic_task(leave, run_immediately=True, spacing=100)
    with pytest.raises(SystemExit):
        async with world.service():
            await asyncio.sleep(500)
    assert now() == 500
    with pytest.raises(ValueError, match="of the body"):  # noqa: PT012 - the end of the block is what raises
        async with world.service() as service:
            await service.stop()
            raise ValueError("of the body")


async def test_run_raises_what_a_run_wanted(world: World) -> None:
    """`asyncmgr.run` raises it too."""
    manager = world.manager()

    async def leave(context: RunContext) -> None:
        raise SystemExit(3)

    manager.add_periodic_task(leave, spacing=1)
    with pytest.raises(SystemExit):
        await asyncmgr.run(world.service())


async def test_an_exit_during_the_drain_is_raised_too(world: World) -> None:
    """A run that raises `SystemExit` when it is cancelled is heard."""
    manager = world.manager()

    async def leave(context: RunContext) -> None:
        try:
            await hang()
        finally:
            raise SystemExit(3)

    manager.add_periodic_task(leave, run_immediately=True, spacing=100)
    service = world.service()
    with pytest.raises(SystemExit):
        async with service:
            await turns(10)
    await world.assert_undone(service)


async def test_an_exit_of_a_leaked_run_changes_nothing(world: World) -> None:
    """What a run does after the service has given it up does not reach it any more."""
    manager = world.manager()
    stubborn = Stubborn()

    async def leave(context: RunContext) -> None:
        await stubborn()
        raise SystemExit(3)

    manager.add_periodic_task(leave, run_immediately=True, spacing=100)
    service = world.service()
    async with service:
        await turns(10)
    await stubborn.let_go()
    await service.wait()
    assert service.health.reason == "the service is stopped"


async def test_death_of_the_scheduler(world: World, logs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged critical, shown by health, raised by `wait` and ``async with``, and cancels nobody."""
    manager = world.manager()
    manager.add_periodic_task(naps_in_run(20), run_immediately=True, spacing=10_000)
    manager.add_periodic_task(nothing, spacing=5)
    service = world.service()
    body_went_on = False
    with pytest.raises(ArithmeticError, match="agenda"):  # noqa: PT012 - the end of the block is what raises
        async with service:
            await asyncio.sleep(1)
            assert service._runner is not None
            monkeypatch.setattr(service._runner.lookout.agenda, "take", raise_agenda)
            with pytest.raises(ArithmeticError):
                await service.wait()
            assert now() == 20
            assert not service.health.ok
            await asyncio.sleep(5)
            body_went_on = True
    assert body_went_on
    (line,) = logged(logs, "scheduler.died")
    assert line["log_level"] == "critical"
    await world.assert_undone(service)


def raise_agenda(*args: object) -> None:
    raise ArithmeticError("agenda")


async def test_the_bodys_exception_wins_over_the_schedulers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``async with`` raises what the body raised."""
    world.manager().add_periodic_task(nothing, spacing=5)
    service = world.service()
    with pytest.raises(KeyError):  # noqa: PT012 - the end of the block is what raises
        async with service:
            assert service._runner is not None
            monkeypatch.setattr(service._runner.lookout.agenda, "take", raise_agenda)
            await asyncio.sleep(10)
            raise KeyError


# Health


async def test_health_follows_the_state(world: World) -> None:
    """Only a running service is healthy; the reason says what is the matter."""
    world.manager(init_host=naps(1), cleanup_host=naps(1))
    service = world.service()
    seen = [service.health]
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(0.5)
    seen.append(service.health)
    await starting
    seen.append(service.health)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0.5)
    seen.append(service.health)
    await stopping
    seen.append(service.health)
    assert [(health.ok, health.state) for health in seen] == [
        (False, State.NEW),
        (False, State.STARTING),
        (True, State.RUNNING),
        (False, State.STOPPING),
        (False, State.STOPPED),
    ]
    assert [health.reason for health in seen] == [
        "the service is new",
        "the service is starting",
        "the scheduler keeps its time",
        "the service is stopping",
        "the service is stopped",
    ]


async def test_health_of_a_blocked_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that has missed its own timer is not healthy, and is again when it has caught up."""
    world.manager().add_periodic_task(nothing, spacing=5)
    async with world.service() as service:
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        later = loop.time() + 20
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: later)
            assert not service.health.ok
            assert "missed its own timer" in service.health.reason
        assert service.health.ok


async def test_health_of_a_failed_start(world: World) -> None:
    """The error of the start is in the reason."""
    world.manager(init_host=raises(OSError("no disk")))
    service = world.service()
    with pytest.raises(OSError, match="no disk"):
        await service.start()
    assert "no disk" in service.health.reason


# Events and plugins


async def test_events_of_a_life(world: World) -> None:
    """Listeners hear of start, runs and end, in this order; when the start is told the service runs."""
    manager = world.manager()
    manager.add_periodic_task(nothing, spacing=10)
    states: list[State] = []
    service = world.service()
    service.add_listener(lambda event: states.append(service.state), ServiceStarted, ServiceStopping)
    async with service:
        await asyncio.sleep(25)
    assert [type(event) for event in world.events] == [
        ServiceStarted,
        RunFinished,
        RunFinished,
        ServiceStopping,
    ]
    assert world.events[0] == ServiceStarted("s", "h")
    assert world.events[-1] == ServiceStopping("s", "h")
    assert states == [State.RUNNING, State.STOPPING]


async def test_a_start_that_fails_tells_no_listener(world: World) -> None:
    """Neither start nor end are told of a service that never ran."""
    service = two_managers(world, "announce", raises(OSError()))
    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        await service.start()
    assert world.events == []


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that installs plugins, as ``name=hook`` or ``name=error``."""

    def plug(**plugins: Any) -> None:
        def load(group: str = "", *, disabled: Any = ()) -> list[Plugin]:
            return [
                Plugin(name, f"{name}:hook", error=hook)
                if isinstance(hook, BaseException)
                else Plugin(name, f"{name}:hook", hook)
                for name, hook in plugins.items()
                if name not in disabled
            ]

        monkeypatch.setattr(asyncmgr._service.plugins, "load_plugins", load)

    return plug


async def test_plugins_are_handed_the_service_once(
    world: World, plug: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may add listeners, managers and transport schemes; what they add takes part from the first step on."""
    handed: list[Service] = []
    heard: list[Any] = []
    added = world.manager("added")

    def plugin(service: Service) -> None:
        handed.append(service)
        service.add_listener(heard.append, ServiceStarted)
        service.add_manager(added)
        register_scheme("noted", opener)

    opener = asyncmgr.transports._openers["noted"]
    monkeypatch.delitem(asyncmgr.transports._openers, "noted")
    plug(one=plugin)
    service = world.service(world.manager("a"))
    async with service:
        assert handed == [service]
        assert [manager.name for manager in service.managers] == ["a", "added"]
        assert heard == [ServiceStarted("s", "h")]
        assert service.failed_plugins == ()
    assert world.notes[:2] == ["a.init_host", "added.init_host"]
    assert handed == [service]


async def test_plugins_of_a_service_without_managers(world: World, plug: Callable[..., None]) -> None:
    """A service that has only a name is filled by its plugins."""
    plug(one=lambda service: service.add_manager(Bare()))
    async with Service(name="empty", settings=Settings()) as service:
        assert len(service.managers) == 1


async def plugin_without_end(service: Service) -> None: ...


def raise_exit(service: Service) -> None:
    raise SystemExit(3)


def raise_key(service: Service) -> None:
    raise KeyError("k")


def add_twice(service: Service) -> None:
    service.add_manager(service.managers[0])


@pytest.mark.parametrize(
    "hook", [ImportError("no module"), raise_exit, raise_key, add_twice, plugin_without_end, lambda: None]
)
async def test_a_failing_plugin_stops_nothing(
    world: World, plug: Callable[..., None], logs: list[Any], hook: Any
) -> None:
    """It is named in the log and in `failed_plugins`; the others and the service go on."""
    called: list[Service] = []
    plug(bad=hook, good=called.append)
    world.manager()
    async with world.service() as service:
        assert service.failed_plugins == ("bad",)
        assert called == [service]
        assert service.health.ok
    (line,) = logged(logs, "plugin.failed")
    assert (line["plugin"], line["target"]) == ("bad", "bad:hook")


async def test_disabled_plugins_are_left_alone(world: World, plug: Callable[..., None]) -> None:
    """The setting keeps a plugin from being called."""
    plug(bad=raise_key)
    world.manager()
    async with world.service(plugins={"disabled": ["bad"]}) as service:
        assert service.failed_plugins == ()


# A loop that is shut down


def shut_down(main: Callable[[], Any]) -> list[dict[str, Any]]:
    """Run `main` as `asyncio.run` does, and give what the loop's exception handler was told."""
    told: list[dict[str, Any]] = []

    async def outer() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        await main()

    asyncio.run(outer())
    gc.collect()
    return told


@pytest.mark.parametrize("turns_before", range(12))
def test_a_service_that_nobody_stopped(turns_before: int) -> None:
    """When `asyncio.run` cancels everything, hooks are undone at once, and nothing is complained of."""
    notes: list[str] = []

    class Left(Manager):
        async def init_host(self) -> None:
            await turns()
            notes.append("init")

        async def cleanup_host(self) -> None:
            await turns()
            notes.append("cleanup")

        @periodic_task(spacing=10, run_immediately=True)
        async def hold(self, context: RunContext) -> None:
            await hang()

    services: list[Service] = []
    starts: list[asyncio.Task[None]] = []

    async def main() -> None:
        service = Service(Left(), settings=Settings())
        services.append(service)
        starts.append(asyncio.create_task(service.start()))
        await turns(turns_before)

    assert shut_down(main) == []
    assert notes in ([], ["init", "cleanup"])
    assert services[0].state in (State.STOPPED, State.NEW)


def test_a_service_that_nobody_stopped_ends_quickly() -> None:
    """Hooks that hang, and runs that will not end, are not waited for longer than a second each."""

    class Hangs(Manager):
        async def cleanup_host(self) -> None:
            await hang()

        @periodic_task(spacing=10, run_immediately=True)
        async def hold(self, context: RunContext) -> None:
            with pytest.raises(asyncio.CancelledError):
                await hang()
            await asyncio.sleep(0.1)

    async def main() -> None:
        await Service(Hangs(), settings=Settings()).start()
        await turns(10)

    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert loop.time() < 3
