"""Handles of tasks: what can be done with a declared or an added one, and from which thread (9.2, 9.11, 9.55)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncmgr import (
    AlreadyRunning,
    AsyncmgrError,
    InvalidPeriodicTaskArg,
    Manager,
    Outcome,
    RunContext,
    Service,
    ServiceStateError,
    Settings,
    Skip,
    TaskFailed,
    TaskRemoved,
    WrongThread,
    periodic_task,
)
from asyncmgr.events import RunFinished, SlotSkipped, SlotsMissed
from tests.helpers import Recorded, task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = datetime(2026, 1, 1, tzinfo=UTC)


def elapsed() -> float:
    return round((datetime.now(UTC) - START).total_seconds(), 3)


class Volumes(Manager):
    """Notes when its task runs."""

    def __init__(self) -> None:
        super().__init__(settings=Settings())
        self.at: list[float] = []
        self.triggers: list[str] = []
        self.lasts = 0.0
        self.error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> str | None:
        self.at.append(elapsed())
        self.triggers.append(context.trigger)
        await asyncio.sleep(self.lasts)
        if self.error:
            raise self.error
        return None

    @periodic_task(spacing=10, enabled=False)
    async def off(self, context: RunContext) -> None: ...


def service_of(*managers: Manager) -> Service:
    return Service(*managers, settings=Settings(seed=1))


# Finding them


async def test_a_handle_by_name_and_by_method() -> None:
    """Declared, added and switched off tasks have one; an unknown name is told with those that there are."""
    volumes = Volumes()
    service = service_of(volumes)

    async def added(context: Any) -> None: ...

    volumes.add_periodic_task(added, spacing=5)
    assert [handle.full_name for handle in service.tasks] == ["Volumes.sync", "Volumes.off", "Volumes.added"]
    assert service.task("Volumes.sync").full_name == service.task(volumes.sync).full_name == "Volumes.sync"
    assert service.task(added).full_name == "Volumes.added"
    with pytest.raises(AsyncmgrError, match=r"no task 'Volumes\.snyc'; it has Volumes\.sync, "):
        service.task("Volumes.snyc")


async def test_a_handle_can_be_shown() -> None:
    """Its repr says what it is and how it stands."""
    volumes = Volumes()
    service = service_of(volumes)
    assert repr(service.task("Volumes.sync")) == "<TaskHandle Volumes.sync: every 10s>"
    assert repr(service.task("Volumes.off")) == "<TaskHandle Volumes.off: it is not enabled>"
    service.task("Volumes.sync").pause()
    assert repr(service.task("Volumes.sync")) == "<TaskHandle Volumes.sync: every 10s, paused>"


async def test_the_status_tells_how_the_last_run_went() -> None:
    """Outcome, error, duration, failures in a row, how often it ran, since when it runs."""
    volumes = Volumes()
    volumes.lasts, volumes.error = 2, ValueError("no disk")
    async with service_of(volumes) as service:
        handle = service.task(volumes.sync)
        assert handle.status.outcome is None
        await asyncio.sleep(11)
        assert handle.status.running_since == START + timedelta(seconds=10)
        await asyncio.sleep(12)
        status = handle.status
        assert (status.outcome, status.error, status.failures) == (Outcome.FAILED, "ValueError: no disk", 2)
        assert (status.duration, status.runs, status.running_since) == (2.0, 2, None)
        volumes.error = None
        await asyncio.sleep(10)
        status = handle.status
        assert status.error is None
        assert status.outcome is Outcome.SUCCEEDED
        assert service.status() == volumes.task_status()


# Triggering


async def test_a_trigger_runs_it_now_beside_the_grid() -> None:
    """It answers the record of the run; the next slot stays."""
    volumes = Volumes()
    volumes.lasts = 1
    async with service_of(volumes) as service:
        await asyncio.sleep(3)
        handle = service.task(volumes.sync)
        record = await handle.trigger()
        assert isinstance(record, RunFinished)
        assert (record.trigger, record.outcome, record.duration) == ("manual", Outcome.SUCCEEDED, 1.0)
        assert handle.status.next_due == START + timedelta(seconds=10)
        await asyncio.sleep(17)
    assert volumes.at == [3, 10, 20]
    assert volumes.triggers == ["manual", "schedule", "schedule"]


async def test_a_trigger_that_waits_for_nothing_answers_the_run_id() -> None:
    """Also where the run never waits."""
    volumes = Volumes()
    async with service_of(volumes) as service:
        run_id = await service.task(volumes.sync).trigger(wait=False)
        assert volumes.at == []
        await asyncio.sleep(0.01)
        assert volumes.at == [0]
        assert run_id.endswith("-1")


async def test_a_trigger_meets_its_own_run() -> None:
    """It is refused, naming the run; with ``overlap="queue"`` it waits; a grid slot that meets it is skipped."""
    volumes = Volumes()
    volumes.lasts = 15
    events: list[Any] = []
    async with service_of(volumes) as service:
        service.add_listener(events.append)
        handle = service.task(volumes.sync)
        waiting = asyncio.create_task(handle.trigger())
        await asyncio.sleep(1)
        with pytest.raises(AlreadyRunning, match=r"Volumes\.sync is running: \w{8}-1, since 1\.0 s"):
            await handle.trigger()
        record = await waiting
        assert record.duration == 15
    assert [skip.reason for skip in events if isinstance(skip, SlotSkipped)] == ["overlap"]


async def test_a_queued_trigger_runs_when_the_one_before_has_ended() -> None:
    """And tells its caller of itself."""
    at: list[float] = []

    async def slow(context: RunContext) -> None:
        at.append(elapsed())
        await asyncio.sleep(5)

    recorded = Recorded(task(slow, spacing=100, overlap="queue"))
    async with recorded.service as service:
        first = asyncio.create_task(service.task("M.slow").trigger())
        await asyncio.sleep(1)
        second = await service.task("M.slow").trigger()
        assert (await first).run_id != second.run_id
    assert at == [0, 5]


async def test_a_cancelled_caller_does_not_cancel_the_run() -> None:
    """It was asked for, and goes on."""
    volumes = Volumes()
    volumes.lasts = 5
    async with service_of(volumes) as service:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await service.task(volumes.sync).trigger()
        await asyncio.sleep(5)
        assert service.task(volumes.sync).status.outcome is Outcome.SUCCEEDED


async def test_a_success_by_hand_ends_the_failures() -> None:
    """As any success does."""
    volumes = Volumes()
    volumes.error = ValueError("no disk")
    async with service_of(volumes) as service:
        await asyncio.sleep(21)
        assert service.task(volumes.sync).status.failures == 2
        volumes.error = None
        await service.task(volumes.sync).trigger()
        assert service.task(volumes.sync).status.failures == 0


@pytest.mark.parametrize("name", ["Volumes.off", "Volumes.sync"])
async def test_what_cannot_be_triggered(name: str) -> None:
    """A task that is switched off, and any task without a running service."""
    volumes = Volumes()
    service = service_of(volumes)
    with pytest.raises(ServiceStateError, match="no service runs it; start one first"):
        await service.task(name).trigger()
    if name == "Volumes.off":
        async with service:
            with pytest.raises(ServiceStateError, match="cannot be triggered: it is not enabled"):
                await service.task(name).trigger()


async def test_a_trigger_that_the_stop_overtakes() -> None:
    """Its caller is told that the run was not started."""
    gate = asyncio.Event()

    async def slow(context: RunContext) -> None:
        await gate.wait()

    recorded = Recorded(task(slow, spacing=100, overlap="queue"))
    async with recorded.service as service:
        await service.task("M.slow").trigger(wait=False)
        await asyncio.sleep(1)
        queued = asyncio.create_task(service.task("M.slow").trigger())
        await asyncio.sleep(1)
        stopping = asyncio.create_task(service.stop())
        with pytest.raises(TaskFailed, match=r"M\.slow was not started: draining"):
            await queued
        gate.set()
        await stopping


# Pausing


async def test_a_pause_starts_nothing_and_a_resume_catches_nothing_up() -> None:
    """The next slot of the grid is the next to run; a run in progress goes on; `next_due` is none meanwhile."""
    volumes = Volumes()
    volumes.lasts = 2
    async with service_of(volumes) as service:
        handle = service.task(volumes.sync)
        await asyncio.sleep(11)
        handle.pause(note="moving")
        assert (handle.status.paused is not None, handle.status.next_due) == (True, None)
        await asyncio.sleep(34)
        assert volumes.at == [10]
        assert handle.status.outcome is Outcome.SUCCEEDED
        handle.resume()
        assert handle.status.next_due == START + timedelta(seconds=50)
        await asyncio.sleep(10)
    assert volumes.at == [10, 50]


@pytest.mark.parametrize(
    "length", [{"for_": 25}, {"for_": timedelta(seconds=25)}, {"until": START + timedelta(seconds=26)}]
)
async def test_a_pause_that_ends_by_itself(length: dict[str, Any]) -> None:
    """After so many seconds, or at a moment."""
    volumes = Volumes()
    async with service_of(volumes) as service:
        await asyncio.sleep(1)
        service.task(volumes.sync).pause(**length)
        await asyncio.sleep(31)
    assert volumes.at == [30]


async def test_a_paused_task_can_be_triggered() -> None:
    """By hand, while nothing starts it by itself."""
    volumes = Volumes()
    async with service_of(volumes) as service:
        service.task(volumes.sync).pause()
        await asyncio.sleep(15)
        await service.task(volumes.sync).trigger()
        await asyncio.sleep(15)
    assert volumes.at == [15]


async def test_a_pause_holds_for_passes_too() -> None:
    """A manager without a service."""
    volumes = Volumes()
    handle = service_of(volumes).task(volumes.sync)
    handle.pause()
    await asyncio.sleep(15)
    await volumes.periodic_tasks(None)
    assert volumes.at == []
    handle.resume()
    await asyncio.sleep(5)
    await volumes.periodic_tasks(None)
    assert volumes.at == [20]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"for_": 1, "until": START}, "either for_= or until="),
        ({"until": datetime(2026, 1, 1)}, "has no time zone"),
        ({"for_": -1}, "for_ is 0 or more seconds"),
        ({"for_": True}, "for_ is 0 or more seconds"),
    ],
)
async def test_a_pause_that_cannot_be_meant(arguments: dict[str, Any], text: str) -> None:
    """It is refused with what is accepted, and nothing is paused."""
    volumes = Volumes()
    handle = service_of(volumes).task(volumes.sync)
    with pytest.raises(InvalidPeriodicTaskArg, match=text):
        handle.pause(**arguments)
    assert not handle.status.paused


# Removing


async def test_only_added_tasks_can_be_removed() -> None:
    """A declared one is told what to do instead."""
    volumes = Volumes()
    with pytest.raises(InvalidPeriodicTaskArg, match=r"declared in its class .* pause\(\) or disable\(\) it"):
        service_of(volumes).task(volumes.sync).remove()


async def test_a_removed_task_has_an_error_of_its_own() -> None:
    """Not one that speaks of drivers; and a run that meets it keeps its own error."""
    errors: list[BaseException | None] = []

    async def backs_off(context: RunContext) -> None:
        try:
            raise ValueError("first")
        finally:
            handle.remove()
            handle.reschedule(spacing=60)

    recorded = Recorded()
    handle = recorded.manager.add_periodic_task(backs_off, spacing=1)
    async with recorded.service:
        await asyncio.sleep(1.5)
    errors = [run.error for run in recorded.of(RunFinished)]
    (error,) = errors
    assert isinstance(error, TaskRemoved)
    assert str(error.__context__) == "first"


async def test_a_run_of_a_removed_task_counts_for_the_new_one_of_its_name() -> None:
    """Two bodies of one name do not run side by side (9.11)."""
    running = most = 0

    async def slow(context: RunContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(25)
        running -= 1

    recorded = Recorded()
    handle = recorded.manager.add_periodic_task(slow, spacing=10)
    async with recorded.service:
        await asyncio.sleep(11)
        handle.remove()
        recorded.manager.add_periodic_task(slow, spacing=10)
        await asyncio.sleep(40)
        await recorded.service.stop(timeout=0)
    assert most == 1
    assert {skip.reason for skip in recorded.of(SlotSkipped)} == {"overlap"}


# Skips, lateness, places


async def test_a_run_that_had_nothing_to_do() -> None:
    """`Skip` is an outcome of its own: no failure, and it ends failures (9.58)."""
    volumes = Volumes()
    volumes.error = ValueError("no disk")
    ended: list[Any] = []
    async with service_of(volumes) as service:
        service.add_listener(ended.append, RunFinished)
        await asyncio.sleep(11)
        volumes.error = Skip("no new items")
        await asyncio.sleep(10)
        assert service.task(volumes.sync).status.failures == 0
    assert [run.outcome for run in ended] == [Outcome.FAILED, Outcome.NOTHING]
    assert str(ended[1].error) == "no new items"


async def test_a_queued_slot_that_waited_too_long_is_missed() -> None:
    """`misfire_grace` counts from the slot to the start, whatever it waited for."""
    started: list[str] = []

    async def slow(context: RunContext) -> None:
        started.append(context.slot.strftime("%S"))
        await asyncio.sleep(14)

    recorded = Recorded(task(slow, spacing=10, overlap="queue", misfire_grace=2))
    async with recorded.service:
        await asyncio.sleep(33)
        await recorded.service.stop(timeout=0)
    assert started == ["10", "30"]
    assert [(missed.count, missed.reason) for missed in recorded.of(SlotsMissed)] == [(1, "late")]


async def test_max_runs_bounds_the_runs_in_progress() -> None:
    """What waits for a place keeps its slot, and its timeout begins at its start (9.60)."""
    running = most = 0
    late: dict[str, float] = {}

    async def slow(context: RunContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        late[context.task] = context.lateness
        await asyncio.sleep(4)
        running -= 1

    recorded = Recorded(
        *(task(slow, spacing=100, initial_delay=1, timeout=5, name=f"t{number}") for number in range(5)),
        max_runs=2,
    )
    async with recorded.service:
        await asyncio.sleep(20)
    assert most == 2
    assert sorted(late.values()) == [0, 0, 4, 4, 8]
    assert {run.outcome for run in recorded.of(RunFinished)} == {Outcome.SUCCEEDED}


async def test_overlap_is_judged_at_the_slot() -> None:
    """A run of 9.95 s every 10 s loses no slot to a neighbour that is due 0.1 s earlier."""

    async def long(context: RunContext) -> None:
        await asyncio.sleep(9.95)

    async def neighbour(context: RunContext) -> None: ...

    recorded = Recorded(
        task(long, spacing=10), task(neighbour, spacing=10, initial_delay=9.9, name="neighbour")
    )
    async with recorded.service:
        await asyncio.sleep(115)
    assert len([run for run in recorded.of(RunFinished) if run.task == "M.long"]) == 11
    assert recorded.of(SlotSkipped) == []


async def test_one_off_slots() -> None:
    """`at=`: each once, then the task is over (9.56)."""
    slots: list[datetime] = []

    async def body(context: RunContext) -> None:
        slots.append(context.slot)

    wanted = [START + timedelta(seconds=5), START + timedelta(hours=1)]
    recorded = Recorded(task(body, at=wanted))
    async with recorded.service as service:
        await asyncio.sleep(2 * 3600)
        assert service.task("M.body").status.next_due is None
    assert slots == wanted


async def test_a_stop_counts_failures() -> None:
    """Of the runs that it met (9.59)."""

    async def fails(context: RunContext) -> None:
        await asyncio.sleep(5)
        raise ValueError("no disk")

    recorded = Recorded(task(fails, spacing=1))
    async with recorded.service:
        await asyncio.sleep(2)
    report = await recorded.service.stop()
    assert (report.drained, report.failed) == (("M.fails",), ("M.fails",))


# Other threads


async def noop(context: Any) -> None: ...


CALLS: dict[str, Callable[[Service, Any], Any]] = {
    "add": lambda service, handle: service.managers[0].add_periodic_task(noop, spacing=0.05),
    "remove": lambda service, handle: handle.remove(),
    "reschedule": lambda service, handle: handle.reschedule(spacing=3),
    "pause": lambda service, handle: handle.pause(),
    "resume": lambda service, handle: handle.resume(),
    "trigger": lambda service, handle: asyncio.run(handle.trigger()),
}


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_another_thread_is_refused_and_changes_nothing(
    call: Callable[[Service, Any], Any], debug: bool
) -> None:
    """The error says what to write, and the schedule goes on, also in debug mode (9.2)."""
    asyncio.get_running_loop().set_debug(debug)
    ran: list[float] = []

    async def body(context: RunContext) -> None:
        ran.append(elapsed())

    recorded = Recorded()
    handle = recorded.manager.add_periodic_task(body, spacing=1)
    async with recorded.service as service:
        await asyncio.sleep(1.5)
        with pytest.raises(WrongThread, match=r"call it there: loop\.call_soon_threadsafe"):
            await asyncio.to_thread(call, service, handle)
        before = len(service.tasks)
        await asyncio.sleep(3)
        assert service.health.ok
        assert len(service.tasks) == before == 1
    assert len(ran) == 4


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_stop_may_be_asked_for_from_another_thread(at_once: bool) -> None:
    """It is handed over to the loop."""
    recorded = Recorded(task(noop, spacing=1))
    async with recorded.service as service:
        await asyncio.to_thread(service.request_stop, at_once=at_once)
        await service.wait()
    assert service.state == "stopped"


async def test_awaiting_a_service_on_another_loop_is_refused() -> None:
    """The error says what to use instead."""
    recorded = Recorded(task(noop, spacing=1))
    async with recorded.service as service:
        for method in (service.stop, service.wait, service.reload):
            with pytest.raises(WrongThread, match=r"another event loop .* request_stop\(\)"):
                await asyncio.to_thread(asyncio.run, method())
        assert service.state == "running"
