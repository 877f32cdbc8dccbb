"""The pass: what it starts and in which order, what a failing task can do to it, and how it takes the wall clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import structlog
import time_machine

from asyncmgr import DEFAULT_INTERVAL, Manager, Settings, TaskFailed, TaskHandle, periodic_task
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.schedules import Schedule
from asyncmgr.testing import VirtualTime

START = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
Body = Callable[[Any], Awaitable[object]]


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A wall clock that only the test moves."""
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


class Bench(Manager):
    """A manager whose tasks a test adds, and a record of their runs."""

    name = "M"

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings=Settings(**settings))
        self.ran: list[str] = []

    def add(self, label: str, body: Body | None = None, **options: Any) -> TaskHandle:
        async def run(context: Any) -> None:
            self.ran.append(label)
            if body is not None:
                await body(context)

        return self.add_periodic_task(run, name=label, **options)

    def entry(self, label: str) -> ManagedTask:
        return self._asyncmgr.tasks()[f"{self.name}.{label}"]

    def inject(self, label: str, schedule: Schedule) -> None:
        """Put a schedule in force that no declaration can make."""
        entry = self.entry(label)
        entry.plan.adopt(replace(entry.options, schedule=schedule))
        entry.plan.begin_at(self._asyncmgr.read_clock())

    async def pass_(self, *, raise_on_error: bool = False) -> tuple[list[str], float]:
        """What one pass runs, and what it returns."""
        self.ran.clear()
        idle = await self.periodic_tasks(None, raise_on_error=raise_on_error)
        return self.ran.copy(), idle


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


# Order


async def test_tasks_run_one_after_the_other_each_to_its_end(clock: time_machine.Traveller) -> None:
    """In definition order; a task that waits delays the next."""
    bench = Bench()

    async def wait(context: object) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        bench.ran.append("a's end")

    bench.add("a", wait)
    bench.add("b")
    assert await bench.pass_() == (["a", "a's end", "b"], 60.0)


async def test_the_loop_is_yielded_to_after_each_task(clock: time_machine.Traveller) -> None:
    """Something else runs between two tasks that never wait, and after a failed one too."""
    bench = Bench()

    async def call_soon(context: object) -> None:
        asyncio.get_running_loop().call_soon(bench.ran.append, "elsewhere")

    async def fail(context: object) -> None:
        await call_soon(context)
        raise ValueError

    bench.add("a", call_soon)
    bench.add("b", fail)
    bench.add("c", call_soon)
    assert (await bench.pass_())[0] == ["a", "elsewhere", "b", "elsewhere", "c", "elsewhere"]


async def test_the_context_is_handed_to_every_task(clock: time_machine.Traveller) -> None:
    """The very object."""
    bench, seen, context = Bench(), list[object](), object()

    async def look(context: object) -> None:
        seen.append(context)

    bench.add("a", look)
    bench.add("b", look)
    await bench.periodic_tasks(context)
    assert seen == [context, context]


async def test_what_becomes_due_meanwhile_waits_for_the_next_pass(clock: time_machine.Traveller) -> None:
    """The set of due tasks is taken at the start of the pass."""
    bench = Bench()

    async def take_a_while(context: object) -> None:
        clock.shift(30)

    bench.add("slow", take_a_while)
    bench.add("spaced", spacing=10)
    assert await bench.pass_() == (["slow"], 0.0)
    assert (await bench.pass_())[0] == ["slow", "spaced"]


async def test_a_task_added_during_a_pass_waits_for_the_next(clock: time_machine.Traveller) -> None:
    """But the idle time knows of it."""
    bench = Bench()

    async def add(context: object) -> None:
        if len(bench.task_status()) == 1:
            bench.add("new", spacing=5)
            bench.add("every")

    bench.add("a", add)
    assert await bench.pass_() == (["a"], 5.0)
    assert await bench.pass_() == (["a", "every"], 5.0)


async def test_a_task_removed_during_a_pass_does_not_start_in_it(clock: time_machine.Traveller) -> None:
    """Although it was due, and the idle time knows of it."""
    bench = Bench()

    async def remove(context: object) -> None:
        handle.remove()

    bench.add("a", remove)
    handle = bench.add("b", run_immediately=True, spacing=5)
    assert await bench.pass_() == (["a"], 60.0)


async def test_a_task_rescheduled_during_a_pass_starts_at_its_new_slot(clock: time_machine.Traveller) -> None:
    """Although it was due in its old one."""
    bench = Bench()

    async def reschedule(context: object) -> None:
        handle.reschedule(spacing=30)

    bench.add("a", reschedule, spacing=10)
    handle = bench.add("b", spacing=10)
    clock.shift(10)
    assert await bench.pass_() == (["a"], 10.0)
    clock.shift(20)
    assert (await bench.pass_())[0] == ["a", "b"]


async def test_a_task_switched_off_during_a_pass_does_not_start_in_it(clock: time_machine.Traveller) -> None:
    """By rescheduling it to a negative spacing."""
    bench = Bench()

    async def switch_off(context: object) -> None:
        handle.reschedule(spacing=-1)

    bench.add("a", switch_off)
    handle = bench.add("b")
    assert (await bench.pass_())[0] == ["a"]


# Due, and the idle time


@pytest.mark.parametrize(
    ("options", "early"),
    [
        ({"spacing": 10}, 200_000),
        ({"spacing": 10, "tolerance": 3}, 3_000_000),
        ({"spacing": 10, "tolerance": 8}, 5_000_000),
        ({"spacing": 10, "tolerance": 0}, 0),
        ({"spacing": 0.3}, 150_000),
        ({"spacing": 0.001}, 500),
        ({"cron": "0 0 * * * *"}, 0),
    ],
)
async def test_the_window_is_exact_to_the_microsecond(
    clock: time_machine.Traveller, options: dict[str, Any], early: int
) -> None:
    """min(tolerance, spacing / 2), its edge included; a cron task is never early."""
    bench = Bench()
    bench.add("a", **options)
    due = bench.task_status()[0].next_due
    assert due is not None
    clock.move_to(due - (early + 1) * MICROSECOND)
    assert (await bench.pass_())[0] == []
    clock.move_to(due - early * MICROSECOND)
    assert (await bench.pass_())[0] == ["a"]


async def test_an_early_run_does_not_move_the_grid(clock: time_machine.Traveller) -> None:
    """Nor does a late one."""
    bench = Bench()
    bench.add("a", spacing=10)
    starts = []
    for moment in (9.9, 19.8, 37.0, 39.9, 50.0):
        clock.move_to(at(moment))
        ran, idle = await bench.pass_()
        starts.append((ran, round(moment + idle, 6)))
    assert starts == [(["a"], 20.0), (["a"], 30.0), (["a"], 40.0), (["a"], 50.0), (["a"], 60.0)]


async def test_missed_slots_cost_one_run_and_one_record(
    clock: time_machine.Traveller, logs: list[Any]
) -> None:
    """The run is for the latest slot, here that of 30 s; the older ones are a number."""
    bench = Bench()
    handle = bench.add("a", spacing=10)
    clock.shift(35)
    assert await bench.pass_() == (["a"], 5.0)
    assert [(log["event"], log["log_level"], log["task"], log["count"]) for log in logs] == [
        ("slot.missed", "warning", "M.a", 2)
    ]
    handle.reschedule(spacing=7)
    assert bench.task_status()[0].next_due == at(30 + 7)


async def test_thirty_years_cost_one_run(clock: time_machine.Traveller, logs: list[Any]) -> None:
    """Of a task of a millisecond, without a walk over the slots."""
    bench = Bench()
    bench.add("a", spacing=0.001)
    clock.shift(timedelta(days=30 * 365))
    assert (await bench.pass_())[0] == ["a"]
    assert logs[0]["count"] == 30 * 365 * 86_400_000 - 1


async def test_a_grid_goes_by_the_moment_at_which_the_task_starts(clock: time_machine.Traveller) -> None:
    """A task before it in the pass took its time; the slots that passed meanwhile are not run again."""
    bench = Bench()

    async def take_a_while(context: object) -> None:
        clock.shift(25)

    bench.add("slow", take_a_while, spacing=60, run_immediately=True)
    bench.add("a", spacing=10, run_immediately=True)
    assert await bench.pass_() == (["slow", "a"], 5.0)


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ([], DEFAULT_INTERVAL),
        ([{}], 60.0),
        ([{"spacing": 90}], 60.0),
        ([{"spacing": 60}], 60.0),
        ([{"spacing": 42.5}], 42.5),
        ([{"spacing": 42.5}, {"spacing": 7}], 7.0),
        ([{"spacing": 42.5}, {"spacing": 7, "enabled": False}], 42.5),
        ([{"spacing": 42.5}, {"spacing": 7, "external_process_ok": True}], 42.5),
        ([{"initial_delay": 3}], 3.0),
        ([{"spacing": 20, "initial_delay": 3}], 3.0),
        ([{"cron": "*/20 * * * * *"}], 20.0),
        ([{"spacing": 0.001, "run_immediately": True}], 0.001),
    ],
)
async def test_the_idle_time_reaches_to_the_nearest_slot(
    clock: time_machine.Traveller, options: list[dict[str, Any]], idle: float
) -> None:
    """At most 60 s; tasks of every pass that have started do not shorten it."""
    bench = Bench(run_external_periodic_tasks=False)
    for number, each in enumerate(options):
        bench.add(str(number), **each)
    assert (await bench.pass_())[1] == idle


async def test_the_idle_time_counts_from_the_end_of_the_pass(clock: time_machine.Traveller) -> None:
    """It is never negative."""
    bench = Bench()

    async def take_a_while(context: object) -> None:
        clock.shift(12)

    bench.add("slow", take_a_while, spacing=10, run_immediately=True)
    assert (await bench.pass_())[1] == 0.0
    bench.add("b", spacing=30)
    clock.shift(-1)
    assert (await bench.pass_())[1] == 0.0


async def test_an_every_pass_task_waits_for_its_initial_delay(clock: time_machine.Traveller) -> None:
    """Then it is due on every pass."""
    bench = Bench()
    bench.add("a", initial_delay=30)
    assert await bench.pass_() == ([], 30.0)
    clock.shift(29)
    assert await bench.pass_() == ([], 1.0)
    clock.shift(1)
    assert await bench.pass_() == (["a"], 60.0)
    assert await bench.pass_() == (["a"], 60.0)


async def test_an_initial_delay_begins_the_grid(clock: time_machine.Traveller) -> None:
    """The first slot is the start + D, the others follow it."""
    bench = Bench()
    bench.add("a", spacing=10, initial_delay=3)
    clock.shift(4)
    assert await bench.pass_() == (["a"], 9.0)


async def test_the_start_is_the_creation_of_the_instance(clock: time_machine.Traveller) -> None:
    """Not the import, not the first pass."""

    class Disks(Manager):
        @periodic_task(spacing=10)
        async def sweep(self, context: object) -> None: ...

    clock.shift(100)
    disks = Disks()
    clock.shift(4)
    assert await disks.periodic_tasks(None) == 6.0


async def test_the_first_pass_is_the_start_of_a_task_that_runs_immediately(
    clock: time_machine.Traveller,
) -> None:
    """Its grid begins there, however long after the creation; nothing was missed."""

    class Disks(Manager):
        @periodic_task(spacing=10, run_immediately=True)
        async def sweep(self, context: object) -> None: ...

    disks = Disks()
    clock.shift(34)
    with structlog.testing.capture_logs() as logs:
        assert await disks.periodic_tasks(None) == 10.0
    assert logs == []
    clock.shift(10)
    assert await disks.periodic_tasks(None) == 10.0


async def test_jitter_is_ignored(clock: time_machine.Traveller) -> None:
    """A pass starts what is due."""
    bench = Bench()
    bench.add("a", spacing=10, jitter=5)
    for _ in range(20):
        clock.shift(10)
        assert await bench.pass_() == (["a"], 10.0)


async def test_the_method_on_the_instance_is_what_runs(clock: time_machine.Traveller) -> None:
    """Looked up at each run: a patch holds from the next pass on."""

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None:
            ran.append("method")

    async def patch(context: object) -> None:
        ran.append("patch")

    ran: list[str] = []
    disks = Disks()
    await disks.periodic_tasks(None)
    disks.sweep = patch  # type: ignore[method-assign]
    await disks.periodic_tasks(None)
    del disks.sweep
    await disks.periodic_tasks(None)
    assert ran == ["method", "patch", "method"]


# Errors


async def fail(context: object) -> None:
    raise ValueError("on purpose")


async def test_a_task_that_raises_is_logged_and_the_pass_goes_on(
    clock: time_machine.Traveller, logs: list[Any]
) -> None:
    """With its full name, its outcome and the exception for the traceback; it has run."""
    bench = Bench()
    bench.add("a", fail, spacing=10)
    bench.add("b", spacing=10)
    clock.shift(10)
    assert await bench.pass_() == (["a", "b"], 10.0)
    (entry,) = logs
    error = entry.pop("exc_info")
    assert (
        entry.items()
        >= {
            "event": "task.failed",
            "log_level": "error",
            "task": "M.a",
            "outcome": "failed",
            "failures": 1,
            "trigger": "pass",
        }.items()
    )
    assert isinstance(error, ValueError)
    assert error.__traceback__ is not None
    assert bench.task_status()[0].last_run == at(10)
    assert await bench.pass_() == ([], 10.0)


async def test_raise_on_error_lets_the_first_error_out_as_it_is(clock: time_machine.Traveller) -> None:
    """The very exception; tasks not yet started stay due, the one that raised has run."""
    bench = Bench()
    error = OSError("on purpose")

    async def raise_it(context: object) -> None:
        raise error

    bench.add("a", spacing=10)
    bench.add("b", raise_it, spacing=10)
    bench.add("c", fail, spacing=10)
    clock.shift(10)
    with pytest.raises(OSError, match="on purpose") as caught:
        await bench.pass_(raise_on_error=True)
    assert caught.value is error
    assert bench.ran == ["a", "b"]
    assert (await bench.pass_())[0] == ["c"]


async def test_what_is_no_coroutine_any_more_is_the_tasks_failure(
    clock: time_machine.Traveller, logs: list[Any]
) -> None:
    """A method patched away fails its run and nothing else."""

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None: ...

        @periodic_task
        async def trim(self, context: object) -> None: ...

    disks = Disks()
    disks.sweep = None  # type: ignore[assignment, method-assign]
    assert await disks.periodic_tasks(None) == 60.0
    assert [log["task"] for log in logs] == ["Disks.sweep"]
    assert disks.task_status()[1].last_run == START


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("raise_on_error", [True, False])
async def test_what_ends_the_process_goes_through(
    clock: time_machine.Traveller, logs: list[Any], error: type[BaseException], raise_on_error: bool
) -> None:
    """Unlogged, with or without `raise_on_error`; tasks not yet started stay due and the manager is free."""
    bench = Bench()

    async def end(context: object) -> None:
        raise error

    bench.add("a", end, spacing=10, timeout=5)
    bench.add("b", spacing=10)
    clock.shift(10)
    with pytest.raises(error):
        await bench.pass_(raise_on_error=raise_on_error)
    assert logs == []
    assert (await bench.pass_())[0] == ["b"]


# Cancellation


async def stray(context: object) -> None:
    raise asyncio.CancelledError("stray")


async def test_a_stray_cancelled_error_is_the_tasks_failure(
    clock: time_machine.Traveller, logs: list[Any]
) -> None:
    """Its outcome is `cancelled`, and the pass goes on."""
    bench = Bench()
    bench.add("a", stray)
    bench.add("b")
    assert await bench.pass_() == (["a", "b"], 60.0)
    assert [(log["event"], log["task"], log["outcome"]) for log in logs] == [
        ("task.failed", "M.a", "cancelled")
    ]


async def test_a_stray_cancelled_error_leaves_as_task_failed(clock: time_machine.Traveller) -> None:
    """So that nobody takes it for a cancellation of the pass."""
    bench = Bench()
    bench.add("a", stray)
    bench.add("b")
    with pytest.raises(TaskFailed) as caught:
        await bench.pass_(raise_on_error=True)
    assert str(caught.value) == "M.a was cancelled by a CancelledError that nobody asked for"
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert bench.ran == ["a"]


async def test_awaiting_a_cancelled_future_is_stray(clock: time_machine.Traveller, logs: list[Any]) -> None:
    """The usual way to one: the task of somebody else was cancelled."""
    bench = Bench()

    async def wait_for_other(context: object) -> None:
        other = asyncio.create_task(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    bench.add("a", wait_for_other)
    assert (await bench.pass_())[0] == ["a"]
    assert [log["outcome"] for log in logs] == ["cancelled"]


async def cancel_during(bench: Bench, started: asyncio.Event) -> asyncio.Task[Any]:
    """Cancel a pass while its first task waits; the ended task of the pass."""
    running = asyncio.create_task(bench.pass_())
    await started.wait()
    running.cancel("requested")
    await asyncio.wait([running])
    return running


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("reaction", ["let through", "swallow", "raise another", "raise a stray one"])
async def test_a_requested_cancellation_goes_through(
    clock: time_machine.Traveller, logs: list[Any], reaction: str, timeout: float | None
) -> None:
    """Whatever the body makes of it: nothing more is started, and what was not started stays due."""
    bench, started = Bench(), asyncio.Event()

    async def react(context: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if reaction == "let through":
                raise
            if reaction == "raise another":
                raise ValueError from None
            if reaction == "raise a stray one":
                raise asyncio.CancelledError from None

    bench.add("a", react, spacing=10, timeout=timeout)
    bench.add("b", spacing=10)
    clock.shift(10)
    running = await cancel_during(bench, started)
    assert running.cancelled()
    assert (bench.ran, logs) == (["a"], [])
    assert (await bench.pass_())[0] == ["b"]


async def test_a_cancellation_between_two_tasks_goes_through(clock: time_machine.Traveller) -> None:
    """At the yield to the loop."""
    bench = Bench()

    async def cancel_soon(context: object) -> None:
        asyncio.get_running_loop().call_soon(running.cancel)

    bench.add("a", cancel_soon)
    bench.add("b")
    running = asyncio.create_task(bench.pass_())
    await asyncio.wait([running])
    assert running.cancelled()
    assert bench.ran == ["a"]


async def test_a_bodys_own_timeout_is_no_request(clock: time_machine.Traveller, logs: list[Any]) -> None:
    """`asyncio.timeout` inside a body cancels and takes it back; the TimeoutError is the task's."""
    bench = Bench()

    async def time_out(context: object) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    bench.add("a", time_out)
    bench.add("b")
    assert (await bench.pass_())[0] == ["a", "b"]
    assert [(log["task"], log["outcome"]) for log in logs] == [("M.a", "failed")]


async def test_a_timeout_around_the_pass_ends_it(virtual_time: VirtualTime) -> None:
    """It reaches the caller as the TimeoutError of the caller's own."""
    bench = Bench()

    async def swallow(context: object) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    bench.add("a", swallow)
    bench.add("b")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await bench.pass_()
    assert bench.ran == ["a"]
    assert virtual_time.elapsed == 5


async def test_a_pass_under_a_request_of_before_is_not_hurt(clock: time_machine.Traveller) -> None:
    """Only a request that arrives during a run counts: one that the caller swallowed is over."""
    bench = Bench()
    bench.add("a", stray)
    bench.add("b")
    entered = asyncio.Event()

    async def clean_up() -> list[str]:
        try:
            entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return (await bench.pass_())[0]
        return []

    running = asyncio.create_task(clean_up())
    await entered.wait()
    running.cancel()
    assert await running == ["a", "b"]


# Timeouts


async def hang(context: object) -> None:
    await asyncio.Event().wait()


async def swallow_and_return(context: object) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def swallow_and_raise(context: object) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("on purpose") from None


async def swallow_and_go_on(context: object) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(7)


@pytest.mark.parametrize(
    ("body", "lasts", "cause"),
    [
        (hang, 5, asyncio.CancelledError),
        (swallow_and_return, 5, None),
        (swallow_and_raise, 5, ValueError),
        (swallow_and_go_on, 12, None),
    ],
)
async def test_a_run_longer_than_its_timeout_is_cancelled_once(
    virtual_time: VirtualTime, logs: list[Any], body: Body, lasts: float, cause: type[BaseException] | None
) -> None:
    """Its outcome is `timed_out` whatever the body then does, and the pass goes on."""
    bench = Bench()
    bench.add("a", body, timeout=5)
    bench.add("b")
    assert (await bench.pass_())[0] == ["a", "b"]
    assert virtual_time.elapsed == lasts
    ((task, outcome, error),) = [(log["task"], log["outcome"], log["exc_info"]) for log in logs]
    assert (task, outcome, str(error)) == ("M.a", "timed_out", "M.a ran longer than its timeout of 5 s")
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, cause) if cause else error.__cause__ is None


async def test_a_timeout_leaves_a_raising_pass_as_a_timeout_error(virtual_time: VirtualTime) -> None:
    """With the task's full name; no request to cancel is left behind."""
    bench = Bench()
    bench.add("a", hang, timeout=5)
    with pytest.raises(TimeoutError, match=r"^M\.a ran longer than its timeout of 5 s$"):
        await bench.pass_(raise_on_error=True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_run_within_its_timeout_is_not_touched(virtual_time: VirtualTime, logs: list[Any]) -> None:
    """Nor does the timeout reach the task after it."""
    bench = Bench()

    async def wait(context: object) -> None:
        await asyncio.sleep(4)

    bench.add("a", wait, timeout=5)
    bench.add("b", wait)
    assert (await bench.pass_())[0] == ["a", "b"]
    assert (virtual_time.elapsed, logs) == (8, [])


async def test_a_cancellation_during_an_expired_timeout_goes_through(virtual_time: VirtualTime) -> None:
    """The timeout takes back its own request only."""
    bench = Bench()
    bench.add("a", swallow_and_go_on, timeout=5)
    bench.add("b")
    running = asyncio.create_task(bench.pass_())
    await virtual_time.advance(8)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert (bench.ran, virtual_time.elapsed) == (["a"], 8)


# A schedule whose arithmetic raises


@dataclass
class Broken:
    """A schedule that is due at once and cannot say what comes next."""

    on_wall: ClassVar[bool] = False
    spacing: float | None = 10.0

    def first(self, start: int) -> int:
        return start

    def turn(self, slot: int, now: int, window: int) -> tuple[int, int, int]:
        raise ArithmeticError("on purpose")

    def gap(self, slot: int) -> int:
        return 10_000_000


async def test_a_schedule_that_raises_fails_its_own_run_only(
    clock: time_machine.Traveller, logs: list[Any]
) -> None:
    """The body does not run, the others keep their slots, and it is asked again a minute later, not at once."""
    bench = Bench()
    bench.add("a", spacing=10)
    bench.add("b", spacing=10)
    bench.add("c", spacing=10)
    bench.inject("b", Broken())
    clock.shift(10)
    assert await bench.pass_() == (["a", "c"], 10.0)
    assert [(log["event"], log["task"]) for log in logs] == [
        ("schedule.failed", "M.b"),
    ]
    assert bench.task_status()[1].last_run is None
    logs.clear()
    clock.shift(49)
    assert (await bench.pass_())[0] == ["a", "c"]
    assert [log["event"] for log in logs] == ["slot.missed", "slot.missed"]
    clock.shift(11)
    await bench.pass_()
    assert "schedule.failed" in [log["event"] for log in logs]


async def test_the_error_of_a_schedule_leaves_a_raising_pass(clock: time_machine.Traveller) -> None:
    """As it is."""
    bench = Bench()
    bench.add("a", spacing=10)
    bench.inject("a", Broken())
    with pytest.raises(ArithmeticError, match="on purpose"):
        await bench.pass_(raise_on_error=True)


# The wall clock


@pytest.mark.parametrize("seconds", [1, 59, 3_600, 86_400])
async def test_a_clock_set_back_repeats_and_loses_nothing(
    clock: time_machine.Traveller, seconds: float
) -> None:
    """Scheduling time stands still while the wall goes back, and goes on from there."""
    bench = Bench()
    bench.add("a", spacing=10)
    clock.shift(14)
    assert await bench.pass_() == (["a"], 6.0)
    clock.shift(-seconds)
    assert await bench.pass_() == ([], 6.0)
    clock.shift(5)
    assert await bench.pass_() == ([], 1.0)
    clock.shift(1)
    assert await bench.pass_() == (["a"], 10.0)


async def test_a_clock_set_forward_runs_each_due_task_once(clock: time_machine.Traveller) -> None:
    """No burst; what is not due yet waits."""
    bench = Bench()
    bench.add("a", spacing=1)
    bench.add("b", spacing=3_000)
    bench.add("c", spacing=7_200)
    clock.shift(3_600)
    assert (await bench.pass_())[0] == ["a", "b"]
    assert (await bench.pass_())[0] == []


# Cron


async def test_a_cron_task_runs_at_its_wall_clock_slots(clock: time_machine.Traveller) -> None:
    """Never early, each slot once."""
    bench = Bench()
    bench.add("a", cron="*/10 * * * *")
    runs = []
    for minute in (9.999, 10, 10.5, 19, 20, 31):
        clock.move_to(at(minute * 60))
        ran, idle = await bench.pass_()
        runs.append((minute, bool(ran), idle))
    assert runs == [
        (9.999, False, pytest.approx(0.06)),
        (10, True, 60.0),
        (10.5, False, 60.0),
        (19, False, 60.0),
        (20, True, 60.0),
        (31, True, 60.0),
    ]


async def test_missed_cron_slots_cost_one_run_for_the_latest(
    clock: time_machine.Traveller, logs: list[Any]
) -> None:
    """The older ones are a number in one record."""
    bench = Bench()
    bench.add("a", cron="*/10 * * * *")
    clock.shift(47 * 60)
    assert (await bench.pass_())[0] == ["a"]
    assert [log["count"] for log in logs] == [3]
    assert bench.task_status()[0].next_due == at(50 * 60)


@pytest.mark.parametrize("seconds", [1, 30, 60])
async def test_a_set_back_of_a_minute_repeats_no_cron_slot(
    clock: time_machine.Traveller, seconds: float
) -> None:
    """The slot that has run stays run; the next one keeps its wall time."""
    bench = Bench()
    bench.add("a", cron="*/10 * * * *")
    clock.move_to(at(600))
    assert (await bench.pass_())[0] == ["a"]
    clock.move_to(at(600 - seconds))
    assert (await bench.pass_())[0] == []
    clock.move_to(at(600))
    assert (await bench.pass_())[0] == []
    clock.move_to(at(1_200))
    assert (await bench.pass_())[0] == ["a"]


async def test_a_larger_set_back_plans_cron_slots_anew(clock: time_machine.Traveller) -> None:
    """The wall shows those times again, so the slots come again."""
    bench = Bench()
    bench.add("a", cron="*/10 * * * *")
    clock.move_to(at(3_600))
    assert (await bench.pass_())[0] == ["a"]
    clock.move_to(at(3_600 - 60.000001))
    assert await bench.pass_() == ([], 60.0)
    clock.move_to(at(3_600))
    assert (await bench.pass_())[0] == ["a"]
    clock.move_to(at(5))
    assert (await bench.pass_())[0] == []
    assert bench.task_status()[0].next_due == at(600)


async def test_a_set_back_is_measured_from_the_end_of_the_last_pass(clock: time_machine.Traveller) -> None:
    """A pass that took long has planned slots that its start knew nothing of."""
    bench = Bench()

    async def take_a_while(context: object) -> None:
        clock.shift(timedelta(days=300))

    handle = bench.add("slow", take_a_while)
    bench.add("a", cron="*/10 * * * *", run_immediately=True)
    assert (await bench.pass_())[0] == ["slow", "a"]
    handle.remove()
    clock.move_to(at(5))
    await bench.pass_()
    assert bench.task_status()[0].next_due == at(600)


async def test_a_cron_task_added_under_a_wrong_clock_follows_the_right_one(
    clock: time_machine.Traveller,
) -> None:
    """A set-back is seen wherever the clock was read, not from pass to pass only."""
    bench = Bench()
    await bench.pass_()
    clock.shift(timedelta(days=300))
    bench.add("a", cron="*/10 * * * *")
    clock.move_to(at(5))
    assert bench.task_status()[0].next_due == at(600)


async def test_run_immediately_with_cron_is_one_run_more(clock: time_machine.Traveller) -> None:
    """At the first pass; then the slots of the expression."""
    bench = Bench()
    bench.add("a", cron="*/10 * * * *", run_immediately=True)
    clock.shift(61.5)
    assert (await bench.pass_())[0] == ["a"]
    assert bench.task_status()[0].next_due == at(600)
    clock.move_to(at(600))
    assert (await bench.pass_())[0] == ["a"]
    assert (await bench.pass_())[0] == []


async def test_an_initial_delay_with_cron_is_its_first_slot(clock: time_machine.Traveller) -> None:
    """The start + D; then the slots of the expression."""
    bench = Bench()
    bench.add("a", cron="*/10 * * * *", initial_delay=90)
    assert bench.task_status()[0].next_due == at(90)
    clock.shift(90)
    assert (await bench.pass_())[0] == ["a"]
    assert bench.task_status()[0].next_due == at(600)
