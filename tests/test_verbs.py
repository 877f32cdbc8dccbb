"""What people do to tasks while a service runs: who did it, what the status says, what ends by itself (11)."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from asyncmgr import (
    AlreadyRunning,
    InvalidProgress,
    Outcome,
    RunContext,
    Service,
    ServiceStateError,
    TaskFailed,
)
from asyncmgr._tasks.actions import Action, Actor, acting_as
from asyncmgr._tasks.status import TaskState
from asyncmgr.events import RunFinished, RunLeaked, RunProgressed, SlotSkipped
from asyncmgr.testing import context as context_of
from tests.helpers import Recorded, task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = datetime(2026, 1, 1, tzinfo=UTC)
OPS = Actor("ops (uid 1000)", "socket")


def elapsed() -> float:
    return round((datetime.now(UTC) - START).total_seconds(), 3)


async def noop(context: RunContext) -> None: ...


def actions(service: Service) -> list[Action]:
    return service.journal.actions()


def verbs(service: Service) -> list[tuple[str, str]]:
    return [(action.verb, action.by) for action in actions(service)]


# Triggering


@pytest.mark.parametrize("wait_first", [False, True], ids=["in its first step", "later"])
async def test_a_run_that_would_wait_for_itself(wait_first: bool) -> None:
    """A run that awaits its own queued trigger is refused at once, and told what to write."""
    errors: list[Exception] = []

    async def again(context: RunContext) -> None:
        if wait_first:
            await asyncio.sleep(1)
        if not errors:
            try:
                await recorded.service.task("M.again").trigger()
            except AlreadyRunning as exc:
                errors.append(exc)

    recorded = Recorded(task(again, spacing=10, overlap="queue"))
    async with recorded.service:
        await asyncio.sleep(12)
    (error,) = errors
    assert "is queued until that run has ended; use trigger(wait=False)" in str(error)


async def test_runs_that_would_wait_for_each_other() -> None:
    """A run awaits another, which awaits a queued run of the first task: the one that closes the circle is refused."""
    outcomes: dict[str, Outcome] = {}

    async def first(context: RunContext) -> None:
        await asyncio.sleep(1)
        await recorded.service.task("M.second").trigger()

    async def second(context: RunContext) -> None:
        await recorded.service.task("M.first").trigger()

    recorded = Recorded(
        task(first, spacing=100, overlap="queue", name="first"),
        task(second, spacing=1000, overlap="queue", name="second"),
    )
    async with recorded.service:
        await asyncio.sleep(103)
    outcomes = {run.task: run.outcome for run in recorded.of(RunFinished)}
    assert outcomes == {"M.second": Outcome.FAILED, "M.first": Outcome.SUCCEEDED}


async def test_a_run_that_waits_for_another_needs_no_place() -> None:
    """With ``max_runs=1`` the other one gets its place: else both would wait until the stop."""
    ended: list[str] = []

    async def outer(context: RunContext) -> None:
        await recorded.service.task("M.inner").trigger()
        ended.append("outer")

    async def inner(context: RunContext) -> None:
        await asyncio.sleep(1)
        ended.append("inner")

    recorded = Recorded(
        task(outer, spacing=10, name="outer"), task(inner, spacing=1000, name="inner"), max_runs=1
    )
    async with recorded.service:
        await asyncio.sleep(12)
    assert ended == ["inner", "outer"]


async def test_a_caller_that_is_cancelled_does_not_cancel_the_run() -> None:
    """It goes on to its end."""

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(5)

    recorded = Recorded(task(slow, spacing=100))
    async with recorded.service as service:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(service.task("M.slow").trigger(), 1)
        await asyncio.sleep(5)
    assert [run.outcome for run in recorded.of(RunFinished)] == [Outcome.SUCCEEDED]


async def test_a_trigger_keeps_timeout_and_resets_failures() -> None:
    """The options of the task apply to it, and its success ends failures in a row."""
    lasts = 10.0

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(lasts)

    recorded = Recorded(task(slow, spacing=1000, timeout=2))
    async with recorded.service as service:
        handle = service.task("M.slow")
        assert (await handle.trigger()).outcome is Outcome.TIMED_OUT
        assert (handle.status.state, handle.status.failures) == ("failing", 1)
        lasts = 1
        await handle.trigger()
        assert (handle.status.state, handle.status.failures) == ("ok", 0)


# Pausing


async def test_a_pause_lets_a_manual_run_wait_and_skips_a_queued_slot() -> None:
    """What somebody asked for stays in the queue; a slot of the grid does not."""

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(15)

    recorded = Recorded(task(slow, spacing=10, overlap="queue"))
    async with recorded.service as service:
        handle = service.task("M.slow")
        await asyncio.sleep(21)  # the run of 10 goes on, the slot of 20 is queued
        handle.pause()
        assert [skip.reason for skip in recorded.of(SlotSkipped)] == ["paused"]
        waiting = asyncio.create_task(handle.trigger())
        await asyncio.sleep(1)
        handle.pause(note="still")
        assert (await waiting).trigger == "manual"


async def test_who_paused_it_until_when_and_why() -> None:
    """The status says it, and the journal says who ended it: the timer."""
    recorded = Recorded(task(noop, spacing=10))
    async with recorded.service as service:
        handle = service.task("M.noop")
        await asyncio.sleep(5)
        with acting_as(OPS):
            handle.pause(for_=25, note="provider moves")
        paused = handle.status.paused
        assert paused is not None
        assert (paused.by, paused.note) == ("ops (uid 1000)", "provider moves")
        assert (paused.since, paused.until) == (START + timedelta(seconds=5), START + timedelta(seconds=30))
        assert handle.status.state is TaskState.PAUSED
        await asyncio.sleep(26)
        assert handle.status.paused is None
    pause, resume = actions(service)
    assert (pause.verb, pause.by, pause.via, pause.note) == (
        "pause",
        "ops (uid 1000)",
        "socket",
        "provider moves",
    )
    assert pause.details == {"until": "2026-01-01T00:00:30+00:00"}
    assert (resume.verb, resume.by, resume.via, resume.at) == (
        "resume",
        "timer",
        "timer",
        START + timedelta(seconds=30),
    )


@pytest.mark.parametrize(
    ("shift", "length", "ends"), [(3600, "until", 20), (-3600, "until", 3700), (-3600, "for", 100)]
)
async def test_the_wall_clock_is_set_during_a_pause(shift: int, length: str, ends: float) -> None:
    """A moment is one of the wall clock, wherever that is set; a length is one of scheduling time."""
    loop = asyncio.get_running_loop()
    resumed: list[float] = []
    recorded = Recorded(task(noop, spacing=1e6))
    async with recorded.service as service:
        began = loop.time()
        handle = service.task("M.noop")
        now = datetime.now(UTC)
        handle.pause(**({"for_": 100} if length == "for" else {"until": now + timedelta(seconds=100)}))
        with time_machine.travel(now, tick=False) as traveller:
            for second in range(1, 4000):
                await asyncio.sleep(1)
                jump = shift if second > 5 else 0
                traveller.move_to(now + timedelta(seconds=second + jump))
                if len(actions(service)) == 2:  # the status would end it too
                    resumed.append(loop.time() - began)
                    break
    assert resumed
    assert resumed[0] <= ends + 1
    assert resumed[0] >= (6 if shift > 0 else ends - 1)


# Switching


async def test_a_disabled_task_has_no_slots_and_cannot_be_triggered() -> None:
    """Its queued slot is skipped, its run goes on; enabling fires nothing."""
    at: list[float] = []

    async def slow(context: RunContext) -> None:
        at.append(elapsed())
        await asyncio.sleep(12)

    recorded = Recorded(task(slow, spacing=10, overlap="queue"))
    async with recorded.service as service:
        handle = service.task("M.slow")
        await asyncio.sleep(21)
        with acting_as(OPS):
            handle.disable(note="too dear")
        assert [skip.reason for skip in recorded.of(SlotSkipped)] == ["disabled"]
        status = handle.status
        assert (status.state, status.next_due) == (TaskState.DISABLED, None)
        assert status.off == 'ops (uid 1000) switched it off at 2026-01-01 00:00 UTC ("too dear")'
        assert status.running is not None
        with pytest.raises(ServiceStateError, match=r"ops \(uid 1000\) switched it off .*; enable it first"):
            await handle.trigger()
        handle.reschedule(spacing=20)
        assert handle.status.off == status.off
        await asyncio.sleep(34)
        handle.enable()
        handle.enable()
        assert handle.status.next_due == START + timedelta(seconds=60)
        await asyncio.sleep(6)
    assert at == [10, 60]
    assert [verb for verb, _ in verbs(service)] == ["disable", "reschedule", "enable"]


async def test_what_cannot_be_enabled() -> None:
    """A task without a schedule, and one that another process has; each error says what to do."""
    recorded = Recorded(
        task(noop, spacing=-1, name="never"),
        task(noop, spacing=5, external_process_ok=True, name="others"),
        run_external_periodic_tasks=False,
    )
    with pytest.raises(ServiceStateError, match=r"its spacing is negative; reschedule\(\) it first"):
        recorded.service.task("M.never").enable()
    async with recorded.service as service:
        with pytest.raises(ServiceStateError, match="run_external_periodic_tasks = false"):
            service.task("M.others").enable()


async def test_a_declared_off_task_can_be_enabled() -> None:
    """Until the restart; its first slot is one of the grid that began with the service."""
    recorded = Recorded(task(noop, spacing=10, enabled=False))
    async with recorded.service as service:
        await asyncio.sleep(25)
        service.task("M.noop").enable()
        await asyncio.sleep(10)
    assert [run.slot for run in recorded.of(RunFinished)] == [START + timedelta(seconds=30)]


# Rescheduling and reload


async def test_a_live_schedule_stays_where_the_files_say_nothing_else_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of its timeout, nor of the zone of all tasks; what they say of its schedule holds."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "asyncmgr.toml"
    file.write_text("")
    recorded = Recorded(task(noop, cron="0 3 * * *"))
    async with recorded.service as service:
        handle = service.task("M.noop")
        handle.reschedule(spacing=7)
        for text in (
            '[tasks."M.noop"]\ntimeout = 5\n',
            'timezone = "Europe/Berlin"\n[tasks."M.noop"]\ntimeout = 5\n',
        ):
            file.write_text(text)
            await service.reload()
            assert handle.status.schedule == "every 7s"
        file.write_text('[tasks."M.noop"]\nspacing = 9\n')
        await service.reload()
        assert handle.status.schedule == "every 9s"


async def test_a_live_switch_stays_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that says nothing else of `enabled` leaves a disabled task off."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "asyncmgr.toml"
    file.write_text("")
    recorded = Recorded(task(noop, spacing=10))
    async with recorded.service as service:
        handle = service.task("M.noop")
        handle.disable()
        file.write_text('[tasks."M.noop"]\nspacing = 9\n')
        await service.reload()
        assert (handle.status.state, handle.status.schedule) == (TaskState.DISABLED, "every 9s")
        file.write_text('[tasks."M.noop"]\nspacing = 9\nenabled = true\n')
        await service.reload()
        assert (handle.status.off, handle.status.state) == (None, TaskState.NEW)


# Cancelling


async def test_a_cancelled_run_is_no_failure_and_says_by_whom() -> None:
    """Whatever its body then does; the run after it starts at its slot."""
    cleaned: list[str] = []

    async def slow(context: RunContext) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cleaned.append("cleaned")

    recorded = Recorded(task(slow, spacing=10))
    async with recorded.service as service:
        handle = service.task("M.slow")
        await asyncio.sleep(11)
        running = handle.status.running
        assert running is not None
        assert handle.cancel("nobody") == ()
        with acting_as(OPS):
            assert handle.cancel(running.run_id) == (running.run_id,)
        await asyncio.sleep(1)
        status = handle.status
        assert (status.outcome, status.failures, status.state) == (Outcome.CANCELLED, 0, TaskState.OK)
        assert handle.cancel() == ()
        await asyncio.sleep(8.5)
        assert handle.status.running is not None
        handle.cancel()
    first = recorded.of(RunFinished)[0]
    assert str(first.error) == "cancelled by ops (uid 1000)"
    assert cleaned[0] == "cleaned"
    assert actions(service)[0].details == {"run_ids": [running.run_id]}


async def test_a_run_that_does_not_end_when_it_is_cancelled_has_leaked() -> None:
    """It is told 10 s later, counts as running, and its outcome stays `cancelled`."""

    async def stubborn(context: RunContext) -> None:
        ends = elapsed() + 30
        while elapsed() < ends:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(ends - elapsed())

    recorded = Recorded(task(stubborn, spacing=10))
    async with recorded.service as service:
        handle = service.task("M.stubborn")
        await asyncio.sleep(11)
        handle.cancel()
        await asyncio.sleep(9.5)
        assert recorded.of(RunLeaked) == []
        handle.cancel()
        await asyncio.sleep(1)
        assert len(recorded.of(RunLeaked)) == 1
        assert handle.status.running is not None
        await asyncio.sleep(20)
        await service.stop(timeout=0)
    assert recorded.of(RunFinished)[0].outcome is Outcome.CANCELLED


async def test_a_cancelled_trigger_tells_its_caller() -> None:
    """The record says `cancelled`."""

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(100)

    recorded = Recorded(task(slow, spacing=1000))
    async with recorded.service as service:
        waiting = asyncio.create_task(service.task("M.slow").trigger())
        await asyncio.sleep(1)
        service.task("M.slow").cancel()
        assert (await waiting).outcome is Outcome.CANCELLED


async def test_a_disabled_task_tells_the_caller_whose_run_waited() -> None:
    """A manual run in the queue of a task that is switched off is refused."""

    async def slow(context: RunContext) -> None:
        await asyncio.sleep(10)

    recorded = Recorded(task(slow, spacing=1000, overlap="queue"))
    async with recorded.service as service:
        handle = service.task("M.slow")
        await handle.trigger(wait=False)
        await asyncio.sleep(1)
        waiting = asyncio.create_task(handle.trigger())
        await asyncio.sleep(1)
        handle.disable()
        with pytest.raises(TaskFailed, match="was not started: disabled"):
            await waiting


# Status


async def test_the_states_of_a_task() -> None:
    """new, running, ok, failing, hung; with what is known of the last run and the one in progress."""
    error: Exception | None = None
    lasts = 2.0

    async def sync(context: RunContext) -> None:
        await asyncio.sleep(lasts)
        if error:
            raise error

    recorded = Recorded(task(sync, spacing=10))
    async with recorded.service as service:
        handle = service.task("M.sync")
        assert (handle.status.state, handle.status.last, handle.status.last_success) == ("new", None, None)
        await asyncio.sleep(11)
        running = handle.status.running
        assert running is not None
        assert (handle.status.state, running.since, running.trigger) == (
            "running",
            START + timedelta(seconds=10),
            "schedule",
        )
        assert running.where is not None
        assert running.where.startswith("test_the_states_of_a_task.sync at test_verbs.py:")
        await asyncio.sleep(4)
        status = handle.status
        assert status.last is not None
        assert (status.state, status.last.fate, status.last.slot) == (
            "ok",
            "succeeded",
            START + timedelta(seconds=10),
        )
        assert (status.last.lateness, status.last.duration, status.last.error) == (0.0, 2.0, None)
        assert status.last_success == START + timedelta(seconds=12)
        error = ValueError("no disk")
        await asyncio.sleep(20)
        status = handle.status
        assert status.last is not None
        assert (status.state, status.failures, status.last.error) == ("failing", 2, "ValueError: no disk")
        assert status.failing_since == START + timedelta(seconds=20)
        assert status.last_success == START + timedelta(seconds=12)
        error, lasts = None, 1000
        await asyncio.sleep(60)
        assert handle.status.state == "failing"
        await asyncio.sleep(6)
        assert handle.status.state == "hung"
        handle.cancel()
        lasts = 1
        await asyncio.sleep(3)
        assert handle.status.state == "failing"  # a cancelled run is neither a success nor a failure
        await asyncio.sleep(10)
        assert handle.status.state == "ok"
        handle.cancel()
    assert handle.status.last_success is not None


async def test_a_cancelled_run_keeps_the_last_success() -> None:
    """And the good run after it takes its place."""
    lasts = 1.0

    async def sync(context: RunContext) -> None:
        await asyncio.sleep(lasts)

    recorded = Recorded(task(sync, spacing=10))
    async with recorded.service as service:
        handle = service.task("M.sync")
        await asyncio.sleep(12)
        lasts = 100
        await asyncio.sleep(10)
        handle.cancel()
        await asyncio.sleep(1)
        assert (handle.status.outcome, handle.status.last_success) == (
            "cancelled",
            START + timedelta(seconds=11),
        )
        lasts = 1
        await asyncio.sleep(10)
        assert handle.status.last_success == START + timedelta(seconds=31)
        assert service.managers[0]._asyncmgr.tasks()["M.sync"].standing.trouble is None


@pytest.mark.parametrize(
    ("options", "hangs_after"),
    [
        ({"spacing": 1}, 60),
        ({"spacing": 100}, 300),
        ({"spacing": 100, "timeout": 20}, 30),
        ({"cron": "*/10 * * * *"}, 1800),
    ],
)
async def test_when_a_run_hangs(options: dict[str, Any], hangs_after: float) -> None:
    """After a minute, three spacings, or ten seconds after its timeout, whichever the task has."""

    async def stubborn(context: RunContext) -> None:
        while True:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                if hang.is_set():
                    raise

    hang = asyncio.Event()
    recorded = Recorded(task(stubborn, **options))
    async with recorded.service as service:
        handle = service.task("M.stubborn")
        await handle.trigger(wait=False)
        await asyncio.sleep(hangs_after - 1)
        assert handle.status.state != "hung"
        await asyncio.sleep(2)
        assert handle.status.state == "hung"
        hang.set()
        await service.stop(timeout=0)


async def test_a_run_that_usually_takes_long_does_not_hang() -> None:
    """Ten times the median of its runs; the short ones that never wait do not count."""

    async def long(context: RunContext) -> None:
        await asyncio.sleep(60)

    recorded = Recorded(task(long, spacing=100))
    async with recorded.service:
        await asyncio.sleep(1000)
        managed = recorded.manager._asyncmgr.tasks()["M.long"]
        usual = managed.standing.usual
    assert usual is not None
    assert 54 <= usual <= 66


async def test_nothing_is_due_that_is_not_armed() -> None:
    """Paused, disabled, over, or the service stops: `next_due` is none."""
    recorded = Recorded(task(noop, spacing=10))
    service = recorded.service
    handle = service.task("M.noop")
    async with service:
        assert handle.status.next_due == START + timedelta(seconds=10)
        handle.disable()
        assert handle.status.next_due is None
        handle.pause()
        handle.enable()
        assert handle.status.next_due is None
        handle.resume()
        assert handle.status.next_due is not None


# Progress


async def test_progress_is_shown_and_told_at_most_ten_times_a_second() -> None:
    """The first word at once, the last word always, and nothing of a run that has ended."""

    async def work(context: RunContext) -> None:
        for number in range(1000):
            context.progress(number, 1000, f"part {number}")
            await asyncio.sleep(0.001)
        await asyncio.sleep(5)

    recorded = Recorded(task(work, spacing=10))
    async with recorded.service as service:
        await asyncio.sleep(12)
        running = service.task("M.work").status.running
        assert running is not None
        assert running.progress is not None
        assert tuple(running.progress) == (999, 1000, "part 999")
        told = recorded.of(RunProgressed)
        assert 10 <= len(told) <= 11
        assert (told[0].done, told[-1].done, told[-1].total) == (0, 999, 1000)
        await asyncio.sleep(5)
        assert service.task("M.work").status.running is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("1",), "progress(done='1') is no number"),
        ((float("nan"),), "progress(done=nan) is no number"),
        ((1, -1), "progress(total=-1) is no number"),
        ((1, 2, b"x"), "progress(message=b'x') is no text"),
    ],
)
async def test_progress_that_makes_no_sense(arguments: Any, text: str) -> None:
    """It is refused where it is told, and names what is wrong."""
    with pytest.raises(InvalidProgress) as raised:
        context_of("M.t").progress(*arguments)
    assert text in str(raised.value)


async def test_progress_in_a_unit_test() -> None:
    """A context made by `asyncmgr.testing.context` keeps what the task told."""
    made = context_of("M.t")
    made.progress(1, 2)
    made.progress(2, 2, "done\x1b")
    assert made.reported == [(1, 2, None), (2, 2, "done\\x1b")]  # type: ignore[attr-defined]


async def test_progress_from_a_thread_of_the_run() -> None:
    """A run that works in a thread tells it from there."""

    def work(context: RunContext) -> None:
        for number in range(100):
            context.progress(number)

    async def threaded(context: RunContext) -> None:
        await asyncio.to_thread(work, context)
        await asyncio.sleep(1)

    recorded = Recorded(task(threaded, spacing=10))
    async with recorded.service:
        await asyncio.sleep(11.5)
    assert recorded.of(RunProgressed)[-1].done == 99
    assert len(recorded.of(RunProgressed)) <= 2


# The journal


async def test_the_journal_keeps_what_was_done_before_the_start() -> None:
    """Once the service starts; a broken caller leaves no actor behind."""
    recorded = Recorded(task(noop, spacing=10))
    with acting_as(OPS):
        recorded.service.task("M.noop").pause()
    recorded.service.task("M.noop").resume()
    assert verbs(recorded.service) == []
    async with recorded.service as service:
        await service.task("M.noop").trigger()
    assert verbs(service) == [("pause", "ops (uid 1000)"), ("resume", "code"), ("trigger", "code")]
