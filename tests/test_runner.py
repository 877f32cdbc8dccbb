"""The runner, through a service in virtual time: when runs start, and how little they can do to each other."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
import structlog
import time_machine

from asyncmgr import Manager, Outcome, RunContext, Service, Settings, periodic_task
from asyncmgr._common.clock import LoopClock
from asyncmgr.events import ClockStepped, RunFinished, RunLeaked, ScheduleFailed, SlotSkipped, SlotsMissed
from asyncmgr.testing import VirtualTime
from tests.helpers import Bare, Recorded, log_processors, task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = datetime(2026, 1, 1, tzinfo=UTC)


def elapsed() -> float:
    return (datetime.now(UTC) - START).total_seconds()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


class Log:
    """Notes when a task ran."""

    def __init__(self, lasts: float = 0.0) -> None:
        self.at: list[float] = []
        self.contexts: list[RunContext] = []
        self.lasts = lasts

    async def __call__(self, context: RunContext) -> None:
        self.at.append(round(elapsed(), 6))
        self.contexts.append(context)
        if self.lasts:
            await asyncio.sleep(self.lasts)

    @property
    def run(self) -> Any:
        async def run(context: RunContext) -> None:
            await self(context)

        return run


# When runs start


async def test_spaced_task_keeps_its_grid() -> None:
    """The first slot is one spacing after the start, and the grid does not drift."""
    log = Log(lasts=3)
    async with Recorded(task(log.run, spacing=10)).service:
        await asyncio.sleep(3605)
    assert log.at == [10.0 * n for n in range(1, 361)]


async def test_run_immediately_and_initial_delay() -> None:
    """`run_immediately` starts with the service, `initial_delay` so long after it; both then keep their spacing."""
    now, later = Log(), Log()
    async with Recorded(
        task(now.run, spacing=10, run_immediately=True, name="now"),
        task(later.run, spacing=10, initial_delay=3, name="later"),
    ).service:
        await asyncio.sleep(25)
    assert now.at == [0, 10, 20]
    assert later.at == [3, 13, 23]


async def test_every_pass_task_runs_each_minute() -> None:
    """An every-pass task runs at the start and every 60 s, whatever its siblings' slots."""
    log, sibling = Log(), Log()
    async with Recorded(task(log.run, name="log"), task(sibling.run, spacing=7, name="sibling")).service:
        await asyncio.sleep(185)
    assert log.at == [0, 60, 120, 180]


async def test_slots_less_than_a_millisecond_apart(virtual_time: VirtualTime) -> None:
    """The last one before an inclusive end is run too, also right after a look that found nothing (28)."""
    a, b = Log(), Log()
    recorded = Recorded(
        task(a.run, spacing=100, initial_delay=8.9995, tolerance=0, name="a"),
        task(b.run, spacing=100, initial_delay=9.0004, tolerance=0, name="b"),
    )
    await virtual_time.run_for(recorded.service, seconds=9.0004)
    assert (a.at, b.at) == ([8.9995], [9.0004])


async def test_nearly_due_tasks_start_together() -> None:
    """What is due within the window starts with what is due; each keeps its own grid."""
    a, b, c = Log(), Log(), Log()
    async with Recorded(
        task(a.run, spacing=10, name="a"),
        task(b.run, spacing=10.2, name="b"),
        task(c.run, spacing=10.3, name="c"),
    ).service:
        await asyncio.sleep(21)
    assert a.at == [10, 20]
    assert b.at == [10, 20.4]
    assert c.at == [10.3, 20.4]
    assert [round(context.lateness, 6) for context in b.contexts] == [-0.2, 0]


async def test_tolerance_zero_is_exact() -> None:
    """With `tolerance=0` a task is never early."""
    a, b = Log(), Log()
    async with Recorded(
        task(a.run, spacing=10, name="a"), task(b.run, spacing=10.1, tolerance=0, name="b")
    ).service:
        await asyncio.sleep(11)
    assert (a.at, b.at) == ([10], [10.1])


async def test_start_forgets_the_time_before_it() -> None:
    """The moment the service starts is every task's start, however old the instance is."""
    log = Log()
    recorded = Recorded(task(log.run, spacing=10))
    await asyncio.sleep(95)
    async with recorded.service:
        await asyncio.sleep(11)
    assert log.at == [105]


async def test_cron_runs_on_the_wall_clock() -> None:
    """A cron task runs at its wall-clock instants, never early; `run_immediately` is one run more."""
    log = Log()
    async with Recorded(task(log.run, cron="*/15 * * * *", run_immediately=True)).service:
        await asyncio.sleep(3600)
    assert log.at == [0, 900, 1800, 2700, 3600]
    assert [context.slot.minute for context in log.contexts] == [0, 15, 30, 45, 0]


async def test_jitter_delays_starts_and_moves_no_slot() -> None:
    """Jitter is part of the lateness, bounded by half the spacing, the same for the same seed."""

    async def starts() -> list[float]:
        log = Log()
        async with Recorded(task(log.run, spacing=10, jitter=60)).service:
            begun = elapsed()
            await asyncio.sleep(1000)
        assert [context.slot - START for context in log.contexts] == [
            timedelta(seconds=begun + 10 * n) for n in range(1, len(log.at) + 1)
        ]
        assert len(log.at) in (99, 100)
        assert all(context.lateness + 0.2 >= 0 for context in log.contexts)
        assert max(context.lateness for context in log.contexts) <= 5
        assert len({context.lateness for context in log.contexts}) > 50
        return [round(at - begun, 6) for at in log.at]

    assert await starts() == await starts()


async def test_run_context_tells_the_facts_of_the_run() -> None:
    """Each run gets its own context, with task, slot, lateness, id, trigger, host and service."""
    log = Log()
    async with Recorded(task(log.run, spacing=10, name="t")).service:
        await asyncio.sleep(21)
    first, second = log.contexts
    assert (first.task, first.host, first.service, first.trigger) == ("M.t", "h", "s", "schedule")
    assert first.slot == START + timedelta(seconds=10)
    assert first.slot.tzinfo is UTC
    assert first.lateness == 0
    assert first.run_id != second.run_id


async def test_task_status_under_a_service() -> None:
    """Last run and next slot are aware wall times."""
    log = Log()
    recorded = Recorded(task(log.run, spacing=10, name="t"))
    async with recorded.service:
        await asyncio.sleep(13)
        (status,) = recorded.manager.task_status()
    assert (status.full_name, status.spacing) == ("M.t", 10.0)
    assert status.last_run == START + timedelta(seconds=10)
    assert status.next_due == START + timedelta(seconds=20)


async def test_tasks_come_and_go_while_it_runs() -> None:
    """An added task starts on its own grid, a rescheduled one from its last slot, a removed one no more."""
    log = Log()
    recorded = Recorded()
    async with recorded.service:
        await asyncio.sleep(5)
        handle = recorded.manager.add_periodic_task(log.run, spacing=10, name="t")
        await asyncio.sleep(12)
        handle.reschedule(spacing=4)
        await asyncio.sleep(9)
        handle.remove()
        handle.remove()
        await asyncio.sleep(60)
    assert log.at == [15, 19, 23]


async def test_reschedule_into_the_past_is_due_now() -> None:
    """A new slot that is past is now."""
    log = Log()
    recorded = Recorded()
    async with recorded.service:
        handle = recorded.manager.add_periodic_task(log.run, spacing=100, name="t")
        await asyncio.sleep(50)
        handle.reschedule(spacing=10)
        await asyncio.sleep(15)
    assert log.at == [50, 60]


# Isolation


async def test_slow_and_hung_runs_delay_nobody() -> None:
    """A run that hangs for ever holds up only its own task."""
    log, hung = Log(), Log(lasts=1e9)
    recorded = Recorded(task(hung.run, spacing=1, name="hung"), task(log.run, spacing=1, name="log"))
    async with recorded.service:
        await asyncio.sleep(60.5)
        assert (await recorded.service.stop(timeout=0)).cancelled == ("M.hung",)
    assert len(log.at) == 60
    assert hung.at == [1]
    assert len(recorded.of(SlotSkipped)) == 59


async def test_failing_task_goes_on() -> None:
    """An exception ends its run and nothing else; the record of the run has it."""

    async def bad(context: Any) -> None:
        raise ValueError("broken")

    log = Log()
    recorded = Recorded(task(bad, spacing=10, name="bad"), task(log.run, spacing=10, name="log"))
    async with recorded.service:
        await asyncio.sleep(105)
    failed = [run for run in recorded.of(RunFinished) if run.outcome is Outcome.FAILED]
    assert len(failed) == 10
    assert isinstance(failed[0].error, ValueError)
    assert len(log.at) == 10


async def test_failures_are_logged_on_change_of_state(logs: list[Any]) -> None:
    """The first failure has a traceback, then come reminders at 2, 4, 8 ..., then one recovery with count and time."""
    failing = True

    async def flaky(context: Any) -> None:
        if failing:
            raise ValueError("broken")

    async with Recorded(task(flaky, spacing=1, name="t")).service:
        await asyncio.sleep(10.5)
        failing = False
        await asyncio.sleep(5)
    events = [(entry["event"], entry.get("failures")) for entry in logs if entry.get("task") == "M.t"]
    assert events == [
        ("task.failed", 1),
        ("task.still_failing", 2),
        ("task.still_failing", 4),
        ("task.still_failing", 8),
        ("task.recovered", None),
    ]
    assert isinstance(
        next(entry for entry in logs if entry["event"] == "task.failed")["exc_info"], ValueError
    )
    assert {entry["error"] for entry in logs if entry["event"] == "task.still_failing"} == {
        "ValueError: broken"
    }
    recovered = logs[[entry["event"] for entry in logs].index("task.recovered")]
    assert (recovered["after_failures"], recovered["failing_for"]) == (10, 10.0)


async def test_another_error_is_logged_with_its_traceback(logs: list[Any]) -> None:
    """A new type, and the same type from another line, is news; an error that was there before is not."""

    def refuse() -> None:
        raise ValueError("refused")

    def say(what: str) -> None:
        if what == "type":
            raise LookupError("type")
        if what == "line":
            raise ValueError("another line")
        if what == "callee":
            refuse()
        raise ValueError("first")

    errors = iter(["", "", "type", "line", "callee", "", "type", "callee"])

    async def flaky(context: Any) -> None:
        say(next(errors))

    async with Recorded(task(flaky, spacing=1, name="t")).service:
        await asyncio.sleep(8.5)
    failed = [
        (entry["failures"], str(entry["exc_info"])) for entry in logs if entry["event"] == "task.failed"
    ]
    assert failed == [(1, "first"), (3, "type"), (4, "another line"), (5, "refused")]
    reminded = [entry["failures"] for entry in logs if entry["event"] == "task.still_failing"]
    assert reminded == [2, 8]


async def test_a_new_error_after_a_recovery_is_news_again(logs: list[Any]) -> None:
    """Each episode begins with a traceback."""
    answers = iter([ValueError, None, ValueError, ValueError])

    async def flaky(context: Any) -> None:
        error = next(answers)
        if error is not None:
            raise error

    async with Recorded(task(flaky, spacing=1, name="t")).service:
        await asyncio.sleep(4.5)
    assert [entry["event"] for entry in logs if entry.get("task") == "M.t"] == [
        "task.failed",
        "task.recovered",
        "task.failed",
        "task.still_failing",
    ]


async def test_a_task_whose_every_error_is_new_does_not_fill_the_log(logs: list[Any]) -> None:
    """Sixteen kinds an episode have a traceback; after that there are reminders."""
    kinds = iter(type(f"Error{number}", (Exception,), {}) for number in range(100))

    async def flaky(context: Any) -> None:
        raise next(kinds)

    async with Recorded(task(flaky, spacing=1, name="t")).service:
        await asyncio.sleep(70.5)
    events = [entry["event"] for entry in logs if entry.get("task") == "M.t"]
    assert (events.count("task.failed"), events.count("task.still_failing")) == (16, 2)


async def test_stray_cancelled_error_is_the_tasks_own() -> None:
    """A `CancelledError` that nobody asked for makes the outcome `cancelled`, and the task goes on."""

    async def stray(context: Any) -> None:
        raise asyncio.CancelledError

    recorded = Recorded(task(stray, spacing=10))
    async with recorded.service:
        await asyncio.sleep(35)
    assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.CANCELLED] * 3


async def test_cancelling_itself_reaches_no_other_run() -> None:
    """A cancellation that a run leaves behind on its Task does not meet the next run."""

    async def suicidal(context: Any) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()

    log = Log(lasts=0.5)
    recorded = Recorded(task(suicidal, spacing=1, name="a"), task(log.run, spacing=1, name="b"))
    async with recorded.service:
        await asyncio.sleep(10.2)
    assert len(log.at) == 10
    assert {run.outcome for run in recorded.of(RunFinished) if run.task == "M.b"} == {Outcome.SUCCEEDED}


async def test_a_kept_reference_to_its_task_cannot_hurt_later_runs() -> None:
    """Cancelling the Task of a run that is over does nothing to the runs after it."""
    kept: list[asyncio.Task[Any]] = []

    async def keeper(context: Any) -> None:
        current = asyncio.current_task()
        assert current is not None
        kept.append(current)

    log = Log(lasts=0.5)
    recorded = Recorded(task(keeper, spacing=1, name="a"), task(log.run, spacing=1, name="b"))
    async with recorded.service:
        for _ in range(10):
            await asyncio.sleep(1)
            await asyncio.sleep(0.1)
            for old in kept:
                old.cancel()
    assert len(log.at) >= 10
    assert {run.outcome for run in recorded.of(RunFinished)} == {Outcome.SUCCEEDED}


async def test_one_run_can_be_cancelled_alone() -> None:
    """Cancelling the Task of one run ends that run only."""

    async def wait(context: Any) -> None:
        await asyncio.sleep(5)

    recorded = Recorded(task(wait, spacing=10, name="a"), task(wait, spacing=10, name="b"))
    async with recorded.service:
        await asyncio.sleep(11)
        (found,) = [one for one in asyncio.all_tasks() if one.get_name() == "M.a"]
        found.cancel()
        await asyncio.sleep(8)
    assert [(run.task, run.outcome) for run in recorded.of(RunFinished)] == [
        ("M.a", Outcome.CANCELLED),
        ("M.b", Outcome.SUCCEEDED),
    ]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_context_variables_are_each_runs_own() -> None:
    """A run sees the variables as they were when the service started, and leaves no trace in them."""
    seen: list[tuple[str, str]] = []

    async def change(context: Any) -> None:
        before = variable.get()
        token = variable.set("changed")
        await asyncio.sleep(0.5)
        seen.append((before, variable.get()))
        variable.reset(token)
        variable.set("left behind")

    async def change_without_waiting(context: Any) -> None:
        seen.append((variable.get(), ""))
        variable.set("left behind")

    variable.set("start")
    recorded = Recorded(task(change, spacing=1, name="a"), task(change_without_waiting, spacing=1, name="b"))
    async with recorded.service:
        variable.set("later")
        await asyncio.sleep(3.9)
    assert set(seen) == {("start", "changed"), ("start", "")}
    assert variable.get() == "later"


async def test_asyncio_and_anyio_work_inside_a_run() -> None:
    """Timeouts, task groups and cancel scopes of both libraries behave as in a Task of one's own."""
    notes: list[str] = []

    async def body(context: Any) -> None:
        current = asyncio.current_task()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.sleep(10)
        with anyio.move_on_after(0.1) as scope:
            await anyio.sleep(10)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.1))
        async with anyio.create_task_group() as other:
            other.start_soon(anyio.sleep, 10)
            other.cancel_scope.cancel()
        assert scope.cancelled_caught
        assert asyncio.current_task() is current
        assert current is not None
        notes.append(current.get_name())

    recorded = Recorded(task(body, spacing=1, name="t"), task(body, spacing=1, name="u"))
    async with recorded.service:
        await asyncio.sleep(3.9)
    assert [set(notes[at : at + 2]) for at in (0, 2, 4)] == [{"M.t", "M.u"}] * 3
    assert {run.outcome for run in recorded.of(RunFinished)} == {Outcome.SUCCEEDED}


async def test_no_two_runs_in_progress_share_a_task() -> None:
    """While runs are in progress, `current_task()` of each is another one."""
    current: list[Any] = []

    async def body(context: Any) -> None:
        current.append(asyncio.current_task())
        await asyncio.sleep(0.5)
        assert asyncio.current_task() in current

    tasks = [task(body, spacing=1, name=f"t{n}") for n in range(20)]
    async with Recorded(*tasks).service:
        await asyncio.sleep(1.2)
        assert len(set(current)) == 20


async def test_traceback_names_the_task(logs: list[Any]) -> None:
    """What is logged of a failure names the task and shows its function."""

    async def broken(context: Any) -> None:
        await asyncio.sleep(0.1)
        raise ValueError("broken")

    async with Recorded(task(broken, spacing=1, name="t")).service:
        await asyncio.sleep(1.5)
    (entry,) = [entry for entry in logs if entry["event"] == "task.failed"]
    assert entry["task"] == "M.t"
    assert "in broken" in "".join(traceback.format_exception(entry["exc_info"]))


async def test_ten_thousand_tasks_due_at_one_instant() -> None:
    """All of them start in that wake-up, each once."""
    started = 0

    async def body(context: Any) -> None:
        nonlocal started
        started += 1

    recorded = Recorded(*(task(body, spacing=3600, name=f"t{n}") for n in range(10_000)))
    async with recorded.service:
        await asyncio.sleep(3601)
        assert started == 10_000


async def test_patched_method_is_what_runs() -> None:
    """A run looks the method up on the instance."""

    class Patched(Manager):
        @periodic_task(spacing=1)
        async def sync(self, context: Any) -> None:
            raise AssertionError("the declared one must not run")

    log = Log()
    manager = Patched()
    manager.sync = log.run  # type: ignore[method-assign]
    async with Service(manager):
        await asyncio.sleep(2.5)
    assert log.at == [1, 2]


# Overlap


async def test_overlap_skip_counts_and_does_not_catch_up() -> None:
    """A slot that meets its own run is refused, told of, and not run later."""
    log = Log(lasts=25)
    recorded = Recorded(task(log.run, spacing=10))
    async with recorded.service:
        await asyncio.sleep(75)
    assert log.at == [10, 40, 70]
    assert [skip.slot - START for skip in recorded.of(SlotSkipped)] == [
        timedelta(seconds=seconds) for seconds in (20, 30, 50, 60)
    ]
    assert {skip.reason for skip in recorded.of(SlotSkipped)} == {"overlap"}


async def test_skips_are_logged_on_change_of_state(logs: list[Any]) -> None:
    """Reminders of how long the run in the way has lasted, and one line when the task runs again, about this time."""
    log = Log(lasts=35)
    async with Recorded(task(log.run, spacing=10)).service:
        await asyncio.sleep(95)
    events = [
        (entry["event"], entry["skipped"], entry.get("running_for"))
        for entry in logs
        if entry["event"].startswith("slot.")
    ]
    assert events == [
        ("slot.skipped", 1, 10.0),
        ("slot.skipped", 2, 20.0),
        ("slot.resumed", 3, None),
        ("slot.skipped", 1, 10.0),
        ("slot.skipped", 2, 20.0),
        ("slot.resumed", 3, None),
    ]


async def test_a_hung_task_is_told_again_and_again(logs: list[Any]) -> None:
    """At the 1st, 2nd, 4th, 8th ... slot that it skips, with its age."""
    async with Recorded(task(Log(lasts=1e6).run, spacing=60)).service:
        await asyncio.sleep(20.5 * 60)
    told = [(entry["skipped"], entry["running_for"]) for entry in logs if entry["event"] == "slot.skipped"]
    assert told == [(1, 60.0), (2, 120.0), (4, 240.0), (8, 480.0), (16, 960.0)]


async def test_overlap_queue_keeps_one() -> None:
    """A slot that meets its own run waits for its end; a second one is refused."""
    log = Log(lasts=25)
    recorded = Recorded(task(log.run, spacing=10, overlap="queue"))
    async with recorded.service:
        await asyncio.sleep(84)
    assert log.at == [10, 35, 60]
    assert [context.trigger for context in log.contexts] == ["schedule", "queue", "queue"]
    assert [context.slot - START for context in log.contexts] == [
        timedelta(seconds=seconds) for seconds in (10, 20, 40)
    ]
    assert log.contexts[1].lateness == 15


async def test_overlap_allow_starts_up_to_ten() -> None:
    """With `allow` the runs of one task may overlap, ten at most."""
    log = Log(lasts=1e6)
    recorded = Recorded(task(log.run, spacing=10, overlap="allow"))
    async with recorded.service:
        await asyncio.sleep(155)
        await recorded.service.stop(timeout=0)
    assert log.at == [10.0 * n for n in range(1, 11)]
    assert len(recorded.of(SlotSkipped)) == 5


# Timeouts


async def test_timeout_cancels_the_run_once() -> None:
    """A run that lasts longer than its timeout is cancelled; the outcome is `timed_out`."""
    cancelled = 0

    async def slow(context: Any) -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    recorded = Recorded(task(slow, spacing=10, timeout=2))
    async with recorded.service:
        await asyncio.sleep(25)
    finished = recorded.of(RunFinished)
    assert [run.outcome for run in finished] == [Outcome.TIMED_OUT] * 2
    assert [round(run.duration, 6) for run in finished] == [2, 2]
    assert cancelled == 2
    assert isinstance(finished[0].error, TimeoutError)


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_timed_out_whatever_the_body_then_does(ending: str) -> None:
    """Who cancelled decides the outcome, not what the body makes of it."""

    async def stubborn(context: Any) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        if ending == "raises":
            raise ValueError("late")

    recorded = Recorded(task(stubborn, spacing=10, timeout=2))
    async with recorded.service:
        await asyncio.sleep(15)
    (run,) = recorded.of(RunFinished)
    assert run.outcome is Outcome.TIMED_OUT
    assert round(run.duration, 6) == 3


async def test_body_that_swallows_its_cancellation_is_reported_leaked() -> None:
    """Ten seconds after the timeout it is `task.leaked`, and overlap still counts it as running."""

    async def immortal(context: Any) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                continue

    recorded = Recorded(task(immortal, spacing=10, timeout=2))
    async with recorded.service:
        await asyncio.sleep(41.9)
        (leak,) = recorded.of(RunLeaked)
        assert round(leak.running_for, 6) == 12
        assert len(recorded.of(SlotSkipped)) == 3
        await asyncio.sleep(0.2)
        assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.TIMED_OUT]


async def test_timeout_shorter_than_the_next_wake_up() -> None:
    """A deadline is kept although nothing else would wake the runner by then."""

    async def slow(context: Any) -> None:
        await asyncio.sleep(100)

    recorded = Recorded(task(slow, spacing=3600, run_immediately=True, timeout=0.5))
    async with recorded.service:
        await asyncio.sleep(0.6)
        assert len(recorded.of(RunFinished)) == 1


# What raises in the wrong place


class BrokenSchedule:
    """A schedule whose arithmetic fails after its first slot."""

    on_wall = False
    spacing = 10.0

    def first(self, start: int) -> int:
        return start

    def turn(self, slot: int, now: int, window: int) -> Any:
        raise ArithmeticError("no such slot")

    def gap(self, slot: int) -> int:
        return 10_000_000


async def test_raising_schedule_leaves_the_batch_whole() -> None:
    """Its slot is reported failed; its neighbours run; it is asked again a minute later."""
    before, after = Log(), Log()
    recorded = Recorded(
        task(before.run, spacing=10, name="a"),
        task(before.run, spacing=10, name="b"),
        task(after.run, spacing=10, name="c"),
    )
    entry = recorded.manager._asyncmgr.tasks()["M.b"]
    entry.plan.adopt(entry.options.__class__(schedule=BrokenSchedule()))  # type: ignore[arg-type]
    async with recorded.service:
        await asyncio.sleep(125)
    assert before.at == after.at == [10.0 * n for n in range(1, 13)]
    assert len(recorded.of(ScheduleFailed)) == 3


async def test_raising_log_processor_stops_nothing() -> None:
    """A log processor that raises loses its line and no run."""

    def explode(*args: Any) -> Any:
        raise RuntimeError("log processor")

    async def bad(context: Any) -> None:
        raise ValueError("broken")

    recorded = Recorded(task(bad, spacing=1))
    with log_processors(explode):
        async with recorded.service:
            await asyncio.sleep(5.5)
    assert len(recorded.of(RunFinished)) == 5


async def test_raising_listener_stops_nothing(logs: list[Any]) -> None:
    """A listener that raises is logged; the others and the schedule go on."""

    def explode(event: Any) -> None:
        raise RuntimeError("listener")

    log = Log()
    recorded = Recorded(task(log.run, spacing=1))
    recorded.service.add_listener(explode, RunFinished)
    async with recorded.service:
        await asyncio.sleep(3.5)
    assert len(log.at) == 3
    assert len(recorded.of(RunFinished)) == 3
    assert [entry["event"] for entry in logs].count("listener.failed") == 3


async def test_listener_can_be_taken_off() -> None:
    """The function that `add_listener` returns takes it off, also twice."""
    recorded = Recorded(task(Log().run, spacing=1))
    seen: list[Any] = []
    remove = recorded.service.add_listener(seen.append, RunFinished)
    async with recorded.service:
        await asyncio.sleep(2.5)
        remove()
        remove()
        await asyncio.sleep(2)
    assert len(seen) == 2


# Clocks


async def test_wall_set_back_an_hour_keeps_every_slot() -> None:
    """Spaced tasks do not notice; the step is reported within 10 s."""
    log = Log()
    recorded = Recorded(task(log.run, spacing=60))
    loop = asyncio.get_running_loop()
    ran: list[float] = []
    recorded.service.add_listener(lambda event: ran.append(loop.time()), RunFinished)
    async with recorded.service:
        begun = loop.time()
        await asyncio.sleep(95)
        with time_machine.travel(datetime.now(UTC) - timedelta(hours=1), tick=False) as clock:
            await pass_real_time(clock, 10)
            (step,) = recorded.of(ClockStepped)
            assert step.kind == "back"
            assert step.seconds == pytest.approx(3600, abs=0.2)
            await pass_real_time(clock, 200)
    assert [round(at - begun) for at in ran] == [60, 120, 180, 240, 300]
    assert {run.outcome for run in recorded.of(RunFinished)} == {Outcome.SUCCEEDED}


async def pass_real_time(clock: time_machine.Traveller, seconds: int) -> None:
    """Let wall and loop go on together inside a test's own travel."""
    for _ in range(seconds * 10):
        await asyncio.sleep(0.1)
        clock.shift(0.1)


@pytest.mark.parametrize("forward", [timedelta(hours=1), timedelta(days=30)])
async def test_wall_set_forward_runs_each_due_task_once(forward: timedelta) -> None:
    """After a jump or a suspend each task that became due runs once, and the rest is one record."""
    short, long, cron, never = Log(), Log(), Log(), Log()
    recorded = Recorded(
        task(short.run, spacing=1, name="short"),
        task(long.run, spacing=600, name="long"),
        task(cron.run, cron="* * * * *", name="cron"),
        task(never.run, spacing=10**9, name="never"),
    )
    async with recorded.service:
        await asyncio.sleep(5.5)
        before = len(short.at)
        with time_machine.travel(datetime.now(UTC) + forward, tick=False) as clock:
            clock.shift(0.6)
            await asyncio.sleep(0.6)
            assert len(short.at) == before + 1
            assert len(long.at) == len(cron.at) == 1
            missed = {event.task: event.count for event in recorded.of(SlotsMissed)}
            assert missed["M.short"] == forward.total_seconds()
            assert missed["M.long"] == forward.total_seconds() // 600 - 1
            await pass_real_time(clock, 10)
            assert len(short.at) == before + 11
    assert not never.at
    assert recorded.of(ClockStepped)[0].kind == "forward"
    assert recorded.of(ClockStepped)[0].seconds == pytest.approx(forward.total_seconds(), abs=0.7)


async def test_standing_wall_clock_is_reported_once_and_stops_nothing() -> None:
    """Under a frozen wall the service goes on by the loop's time."""
    log = Log()
    recorded = Recorded(task(log.run, spacing=10))
    async with recorded.service:
        with time_machine.travel(START, tick=False):
            await asyncio.sleep(305)
            assert len(log.at) == 30
    steps = [step for step in recorded.of(ClockStepped) if step.kind == "stopped"]
    assert len(steps) == 1


async def test_cron_after_a_small_set_back_repeats_no_slot() -> None:
    """Up to 60 s back, the slots already run are not run again."""
    log = Log()
    recorded = Recorded(task(log.run, cron="* * * * *"))
    async with recorded.service:
        await asyncio.sleep(125)
        with time_machine.travel(datetime.now(UTC) - timedelta(seconds=50), tick=False) as clock:
            await pass_real_time(clock, 170)
    minutes = [context.slot.minute for context in log.contexts]
    assert minutes == [1, 2, 3, 4]


async def test_cron_after_a_large_set_back_starts_over() -> None:
    """More than 60 s back, slots are planned from the new time."""
    log = Log()
    recorded = Recorded(task(log.run, cron="* * * * *"))
    async with recorded.service:
        await asyncio.sleep(605)
        with time_machine.travel(datetime.now(UTC) - timedelta(seconds=300), tick=False) as clock:
            await pass_real_time(clock, 130)
    minutes = [context.slot.minute for context in log.contexts]
    assert minutes == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 6, 7]


def test_steps_are_looked_for_often_enough() -> None:
    """A jump is noticed within 10 s."""
    assert LoopClock.CHECK < 10_000_000


async def test_two_services_share_a_loop() -> None:
    """Two services in one loop run their tasks side by side and stop apart."""
    one, two = Log(), Log()
    first = Recorded(task(one.run, spacing=10))
    second = Service(other := Bare(), host="h2", name="s2")
    other.add_periodic_task(two.run, spacing=10)
    async with second:
        async with first.service:
            await asyncio.sleep(25)
        await asyncio.sleep(25)
    assert one.at == [10, 20]
    assert two.at == [10, 20, 30, 40, 50]


# Phase


async def test_phase_auto_spreads_first_slots_stably() -> None:
    """Each host and task begins at its own share of the spacing, the same at each start, and then keeps the grid."""

    async def starts(host: str) -> list[float]:
        logs = [Log() for _ in range(20)]
        manager = Bare()
        for number, log in enumerate(logs):
            manager.add_periodic_task(log.run, spacing=100, name=f"t{number}", tolerance=0)
        async with Service(manager, host=host, settings=Settings(phase="auto")):
            begun = elapsed()
            await asyncio.sleep(201)
        firsts = [log.at[0] - begun for log in logs]
        assert [log.at[1] - begun for log in logs] == pytest.approx([first + 100 for first in firsts])
        return [round(first, 6) for first in firsts]

    one = await starts("one")
    assert one == await starts("one")
    assert one != await starts("two")
    assert min(one) < 20
    assert max(one) > 80


async def test_phase_of_one_task() -> None:
    """A task can ask for it alone; its siblings begin after one spacing."""
    spread, plain = Log(), Log()
    async with Recorded(
        task(spread.run, spacing=100, phase="auto", name="spread"), task(plain.run, spacing=100, name="plain")
    ).service:
        await asyncio.sleep(100.5)
    assert plain.at == [100]
    assert spread.at[0] < 100


async def test_the_services_settings_are_in_force_however_early_a_manager_was_used() -> None:
    """What a manager read by itself before is forgotten; what its constructor was given is not."""
    faster = Settings(tasks={"M.t": {"spacing": 10}})
    ran: list[list[float]] = []
    for manager in (Bare(), Bare(settings=Settings())):
        log, begun = Log(), elapsed()
        manager.add_periodic_task(log.run, spacing=20, name="t")
        assert manager.task_status()[0].spacing == 20
        async with Service(manager, settings=faster):
            await asyncio.sleep(25)
        ran.append([at - begun for at in log.at])
    assert ran == [[10, 20], [20]]


# Cancelled at the worst moment


async def test_run_cancelled_before_its_first_step() -> None:
    """It ends as cancelled, and its task goes on."""
    log = Log(lasts=0.5)

    async def cancel_siblings(context: RunContext) -> None:
        for found in asyncio.all_tasks():
            if found.get_name() == "M.a" and context.slot == START + timedelta(seconds=30):
                found.cancel()

    recorded = Recorded(task(log.run, spacing=10, name="a"), task(cancel_siblings, spacing=10, name="b"))
    async with recorded.service:
        await asyncio.sleep(65)
    outcomes = [run.outcome for run in recorded.of(RunFinished) if run.task == "M.a"]
    assert outcomes.count(Outcome.CANCELLED) == 1
    assert outcomes.count(Outcome.SUCCEEDED) == 5
    assert not recorded.of(SlotSkipped)


@pytest.mark.parametrize("waits", [False, True])
async def test_body_that_raises_generator_exit_has_failed(waits: bool) -> None:
    """It is a failure like any other, and the task goes on."""

    async def odd(context: Any) -> None:
        if waits:
            await asyncio.sleep(0.1)
        raise GeneratorExit

    recorded = Recorded(task(odd, spacing=10))
    async with recorded.service:
        await asyncio.sleep(45)
    assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.FAILED] * 4


async def test_removed_by_a_sibling_of_the_same_batch() -> None:
    """A task that is removed after its slot was handed out does not start."""
    log = Log()
    recorded = Recorded()

    async def remove(context: Any) -> None:
        handle.remove()

    recorded.manager.add_periodic_task(remove, spacing=10, name="a")
    handle = recorded.manager.add_periodic_task(log.run, spacing=10, name="b")
    async with recorded.service:
        await asyncio.sleep(25)
    assert log.at == []
    assert [skip.reason for skip in recorded.of(SlotSkipped)] == ["removed"]


async def test_cleaning_up_during_a_stop_is_no_leak() -> None:
    """A run that the stop cancelled is reported by the stop alone, although its timeout passes meanwhile."""

    async def tidy(context: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)

    recorded = Recorded(task(tidy, spacing=5, timeout=4))
    async with recorded.service:
        await asyncio.sleep(8)
        report = await recorded.service.stop(timeout=0)
    assert report.cancelled == ("M.tidy",)
    assert not recorded.of(RunLeaked)


async def test_standing_wall_is_seen_however_often_it_is_read() -> None:
    """Looks half a second apart find it too."""
    recorded = Recorded(task(Log().run, spacing=0.5))
    async with recorded.service:
        with time_machine.travel(START, tick=False):
            await asyncio.sleep(100)
    assert [step.kind for step in recorded.of(ClockStepped)].count("stopped") == 1
