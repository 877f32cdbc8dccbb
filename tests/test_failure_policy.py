"""What a service does after failures: other attempts, longer spacings, pauses, early runs (13). In virtual time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncmgr import Outcome, Retry, RunContext, Service, Skip
from asyncmgr._history.slots import Record
from asyncmgr._service.manager import state_of
from asyncmgr._tasks.actions import Actor, acting_as
from asyncmgr._tasks.gate import Answer, Gate
from asyncmgr._tasks.runs import Run, SlotClaim
from asyncmgr._tasks.status import TaskState
from asyncmgr.events import RunFinished, SlotSkipped
from asyncmgr.testing import run_virtual
from tests.helpers import Bare, Recorded, task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = datetime(2026, 1, 1, tzinfo=UTC)
OFTEN = Retry(3, delay=1, jitter=0)


class Body:
    """A task whose attempts end as they are told: each a number of seconds, and how it ends. After these it is well."""

    def __init__(self, *attempts: tuple[float, BaseException | None]) -> None:
        self.script = list(attempts)
        self.began: list[tuple[float, int]] = []
        """When each attempt began, seconds from the start, and its number."""

    async def work(self, context: RunContext) -> None:
        self.began.append((elapsed(), context.attempt))
        seconds, error = self.script.pop(0) if self.script else (0.0, None)
        if seconds:
            await asyncio.sleep(seconds)
        if error is not None:
            raise error


def elapsed() -> float:
    return round((datetime.now(UTC) - START).total_seconds(), 3)


def wrong(text: str = "wrong") -> ValueError:
    return ValueError(text)


def failing(times: int, seconds: float = 0.0) -> Body:
    return Body(*[(seconds, wrong()) for _ in range(times)])


def made(body: Body, **options: Any) -> Recorded:
    return Recorded(task(body.work, **{"spacing": 60, "name": "t", "tolerance": 0, **options}))


def finished(recorded: Recorded) -> list[tuple[Outcome, int]]:
    return [(event.outcome, event.attempts) for event in recorded.of(RunFinished)]


# Other attempts


async def test_a_run_is_tried_again_within_its_slot() -> None:
    """One run with three attempts, one record, no failure; the delay doubles."""
    body = failing(2, 0.5)
    recorded = made(body, retry=OFTEN)
    async with recorded.service:
        await asyncio.sleep(70)
        (record,) = recorded.service.history("M.t")
        assert recorded.service.task("M.t").status.failures == 0
    assert body.began == [(60, 1), (61.5, 2), (64, 3)]
    assert finished(recorded) == [(Outcome.SUCCEEDED, 3)]
    assert (record.fate, record.attempts, record.duration) == ("succeeded", 3, 4.0)


async def test_a_body_that_fails_before_it_waits() -> None:
    """In the first step of its Task, which may be eager: the same."""
    body = failing(1)
    recorded = made(body, retry=OFTEN, timeout=0.5)
    async with recorded.service:
        await asyncio.sleep(70)
    assert body.began == [(60, 1), (61, 2)]
    assert finished(recorded) == [(Outcome.SUCCEEDED, 2)]


async def test_all_attempts_fail() -> None:
    """One failure, with the error of the last attempt and none of the others as its context; then the next slot."""
    body = Body((0, wrong("first")), (0, wrong("second")), (0, wrong("third")))
    recorded = made(body, retry=OFTEN)
    async with recorded.service:
        await asyncio.sleep(70)
        assert recorded.service.task("M.t").status.failures == 1
        assert recorded.service.explain("M.t").text.endswith(
            "failed after 3 s with ValueError: third, after 3 attempts."
        )
        await asyncio.sleep(60)
    first, second = recorded.of(RunFinished)
    assert str(first.error) == "third"
    assert first.error is not None
    assert first.error.__context__ is None
    assert (first.attempts, second.attempts) == (3, 1)
    assert second.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Skip("no news"), Outcome.NOTHING),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (OSError(), Outcome.FAILED),
    ],
)
async def test_what_is_not_tried_again(error: BaseException, outcome: Outcome) -> None:
    """A `Skip`, a cancellation, and what `on` does not name."""
    recorded = made(Body((1, error)), retry=Retry(3, on=ValueError))
    async with recorded.service:
        await asyncio.sleep(80)
    assert finished(recorded) == [(outcome, 1)]


async def test_no_attempt_after_the_next_slot() -> None:
    """Neither where the delay would end after it, nor where the attempt ends after it."""
    body = Body((8, wrong()), (0, None), (12, wrong()))
    recorded = made(body, spacing=10, retry=Retry(3, delay=3, jitter=0))
    async with recorded.service:
        await asyncio.sleep(39)
    assert body.began == [(10, 1), (20, 1), (30, 1)]
    slow = Body((12, wrong()))
    recorded = made(slow, spacing=10, retry=OFTEN)
    start = elapsed()
    async with recorded.service:
        await asyncio.sleep(35)
    assert [round(at - start, 3) for at, _ in slow.began] == [10, 30]


async def test_the_timeout_is_that_of_each_attempt() -> None:
    """A delay does not count, the next attempt has all of it, and the run is told to have timed out."""
    body = Body((100, None), (100, None), (4, None))
    recorded = made(body, spacing=60, timeout=5, retry=OFTEN)
    async with recorded.service:
        await asyncio.sleep(100)
    assert body.began == [(60, 1), (66, 2), (73, 3)]
    assert finished(recorded) == [(Outcome.SUCCEEDED, 3)]

    recorded = made(Body((100, None), (100, None)), timeout=5, retry=Retry(2, delay=20, jitter=0))
    async with recorded.service:
        await asyncio.sleep(100)
    (event,) = recorded.of(RunFinished)
    assert (event.outcome, event.attempts, event.duration) == (Outcome.TIMED_OUT, 2, 30.0)
    assert str(event.error) == "M.t ran longer than its timeout of 5 s"


async def test_an_attempt_that_swallows_its_timeout() -> None:
    """It has timed out all the same, and is tried again."""
    attempts: list[int] = []

    async def stubborn(context: RunContext) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                return
        current = asyncio.current_task()
        assert current is not None
        assert not current.cancelling()

    recorded = Recorded(task(stubborn, spacing=60, timeout=5, retry=OFTEN))
    async with recorded.service:
        await asyncio.sleep(80)
    assert attempts == [1, 2, 3]
    assert finished(recorded) == [(Outcome.SUCCEEDED, 3)]


async def test_attempts_are_kept_where_nobody_listens() -> None:
    """Also where another run of the task ends well meanwhile, which leaves the task without any trouble."""
    body = failing(1)
    manager = Bare()
    manager.add_periodic_task(
        body.work, name="t", spacing=60, overlap="allow", retry=Retry(2, delay=5, jitter=0)
    )
    async with Service(manager, host="h", name="s") as service:
        await asyncio.sleep(62)
        await service.task("M.t").trigger()
        await asyncio.sleep(10)
        found = [(one.trigger, one.fate, one.attempts) for one in service.history("M.t")]
    assert found == [("schedule", "succeeded", 2), ("manual", "succeeded", 1)]


async def test_a_stop_ends_a_delay_after_a_timeout() -> None:
    """Its outcome is `timed_out`, as that of its last attempt."""
    recorded = made(Body((100, None)), timeout=5, retry=Retry(5, delay=30, jitter=0))
    async with recorded.service:
        await asyncio.sleep(70)
    assert finished(recorded) == [(Outcome.TIMED_OUT, 1)]


async def test_a_stop_ends_a_delay() -> None:
    """At once, with the outcome of the last attempt: the stop does not wait for another one."""
    body = failing(9)
    recorded = made(body, retry=Retry(5, delay=30, jitter=0))
    async with recorded.service:
        await asyncio.sleep(65)
    assert elapsed() == 65
    assert finished(recorded) == [(Outcome.FAILED, 1)]
    assert len(body.began) == 1


async def test_no_attempt_while_the_service_stops() -> None:
    """An attempt that fails while the service drains is the last one."""
    body = failing(9, seconds=10)
    recorded = made(body, retry=OFTEN)
    async with recorded.service:
        await asyncio.sleep(65)
    assert finished(recorded) == [(Outcome.FAILED, 1)]


@pytest.mark.parametrize("seconds", [5, 0.5], ids=["in a delay", "in an attempt"])
async def test_somebody_cancels_the_run(seconds: float) -> None:
    """Its outcome is `cancelled`, and there is no other attempt."""
    body = failing(9, seconds=1)
    recorded = made(body, retry=Retry(5, delay=10, jitter=0))
    async with recorded.service:
        await asyncio.sleep(60 + seconds)
        recorded.service.task("M.t").cancel()
        await asyncio.sleep(10)
    assert finished(recorded) == [(Outcome.CANCELLED, 1)]
    assert len(body.began) == 1


@pytest.mark.parametrize("verb", ["disable", "remove"])
async def test_a_task_that_is_switched_off_in_a_delay(verb: str) -> None:
    """Ends the run with the outcome of its last attempt. A pause lets it go on, as any run in progress."""
    body = failing(9)
    recorded = made(body, retry=Retry(5, delay=10, jitter=0))
    async with recorded.service:
        await asyncio.sleep(65)
        getattr(recorded.service.task("M.t"), verb)()
        await asyncio.sleep(1)
        assert finished(recorded) == [(Outcome.FAILED, 1)]
    body = failing(1)
    recorded = made(body, retry=Retry(5, delay=10, jitter=0))
    async with recorded.service:
        await asyncio.sleep(65)
        recorded.service.task("M.t").pause()
        await asyncio.sleep(10)
    assert finished(recorded) == [(Outcome.SUCCEEDED, 2)]


async def test_a_reload_in_a_delay(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that allow fewer attempts hold from the next one on."""
    monkeypatch.chdir(tmp_path)
    body = failing(9)
    recorded = made(body, retry=Retry(5, delay=10, jitter=0))
    async with recorded.service:
        await asyncio.sleep(65)
        (tmp_path / "asyncmgr.toml").write_text("[tasks.'M.t']\nretry = 1\n")
        await recorded.service.reload()
        await asyncio.sleep(10)
    assert finished(recorded) == [(Outcome.FAILED, 1)]
    assert len(body.began) == 1


async def test_a_shorter_spacing_in_a_delay() -> None:
    """The slot of the new schedule comes first: it is skipped, since a run is in progress, and this one then ends."""
    body = failing(1)
    recorded = made(body, retry=Retry(5, delay=20, jitter=0))
    async with recorded.service:
        await asyncio.sleep(65)
        recorded.service.task("M.t").reschedule(spacing=10)
        await asyncio.sleep(26)
    assert finished(recorded)[0] == (Outcome.FAILED, 1)
    assert body.began == [(60, 1), (90, 1)]
    assert [event.reason for event in recorded.of(SlotSkipped)] == ["overlap"] * 2


async def test_a_suspend_in_a_delay() -> None:
    """Where the slot is over when the machine wakes, the run ends at once, and the next slot is run as ever."""
    body = failing(1)
    recorded = made(body, retry=Retry(5, delay=20, jitter=0))
    async with recorded.service:
        await asyncio.sleep(65)
        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=100)):
            await asyncio.sleep(10)
            assert finished(recorded) == [(Outcome.FAILED, 1)]
            await asyncio.sleep(70)
    assert len(body.began) >= 2
    assert all(attempt == 1 for _, attempt in body.began)


async def test_a_delay_counts_as_a_run_in_progress() -> None:
    """For overlap, for the status and for `max_runs`: another task waits for the place."""
    body, other = failing(1), Body()
    recorded = Recorded(
        task(body.work, spacing=60, name="t", retry=Retry(5, delay=10, jitter=0), timeout=2),
        task(other.work, spacing=60, initial_delay=65, name="other"),
        max_runs=1,
    )
    async with recorded.service:
        await asyncio.sleep(66)
        status = recorded.service.task("M.t").status
        assert status.running is not None
        assert (status.running.attempt, status.state) == (1, TaskState.RUNNING)
        assert status.running.where is None
        await asyncio.sleep(10)
    assert body.began == [(60, 1), (70, 2)]
    assert other.began == [(70, 1)]


async def test_the_status_knows_the_attempt() -> None:
    """The attempt in progress, and where it waits."""
    recorded = made(failing(2, 5), retry=OFTEN)
    async with recorded.service:
        await asyncio.sleep(67)
        running = recorded.service.task("M.t").status.running
        assert running is not None
        assert running.attempt == 2
        assert running.where is not None
        assert running.where.startswith("Body.work")


async def test_a_trigger_is_tried_again() -> None:
    """Its caller gets one record. The slot that limits it is the next one of the grid."""
    body = failing(1)
    recorded = made(body, retry=OFTEN)
    async with recorded.service:
        await asyncio.sleep(10)
        record = await recorded.service.task("M.t").trigger()
        assert (record.outcome, record.attempts, elapsed()) == (Outcome.SUCCEEDED, 2, 11)
        body.script = failing(9).script
        await asyncio.sleep(47.5)
        record = await recorded.service.task("M.t").trigger()
        assert (record.attempts, elapsed()) == (2, 59.5)
    body = failing(1)
    recorded = made(body, retry=OFTEN)
    async with recorded.service:
        recorded.service.task("M.t").pause()
        await asyncio.sleep(100)
        record = await recorded.service.task("M.t").trigger()
        assert (record.outcome, record.attempts) == (Outcome.SUCCEEDED, 2)


async def test_delays_are_drawn_from_the_seeded_generator() -> None:
    """The same seed, the same delays."""

    async def live() -> list[tuple[float, int]]:
        body = failing(3)
        recorded = made(body, retry=Retry(4, jitter=1))
        begin = elapsed()
        async with recorded.service:
            await asyncio.sleep(80)
        return [(round(at - begin, 3), attempt) for at, attempt in body.began]

    first, second = await live(), await live()
    assert first == second
    assert first[1][0] not in (60, 61)


async def test_what_the_log_says_of_attempts() -> None:
    """Once a run at info, else at debug; nothing at info while the task fails anyway."""
    recorded = made(failing(6), retry=OFTEN)
    with structlog.testing.capture_logs() as logs:
        async with recorded.service:
            await asyncio.sleep(130)
    told = [
        (line["log_level"], line["attempt"], line["delay"])
        for line in logs
        if line["event"] == "task.retrying"
    ]
    assert told == [("info", 1, 1), ("debug", 2, 2), ("debug", 1, 1), ("debug", 2, 2)]


async def test_attempts_in_the_history_file(tmp_path: Any) -> None:
    """They outlive the service."""
    url = f"sqlite:///{tmp_path}/history.db"
    recorded = Recorded(task(failing(1).work, spacing=60, name="t", retry=OFTEN), history=url)
    async with recorded.service:
        await asyncio.sleep(70)
    again = Recorded(task(Body().work, spacing=60, name="t"), history=url)
    async with again.service:
        (record, *_) = [one for one in again.service.history("M.t") if one.is_run]
    assert (record.fate, record.attempts) == ("succeeded", 2)


async def test_a_pass_makes_one_attempt() -> None:
    """Its caller would wait for the delays."""
    body = failing(1)
    manager = Bare()
    manager.add_periodic_task(body.work, name="t", retry=5)
    with pytest.raises(ValueError, match="wrong"):
        await manager.periodic_tasks(None, raise_on_error=True)
    await manager.periodic_tasks(None)
    assert [attempt for _, attempt in body.began] == [1, 1]


class Door(Gate):
    """A gate that lets runs start while it is open."""

    is_open = True

    def __init__(self) -> None:
        self.told: list[Outcome | None] = []

    def ask(self, run: Run) -> Answer:
        run.claim = SlotClaim(7)
        return "run" if self.is_open else "not_owner"

    def still_holds(self, run: Run) -> bool:
        return self.is_open

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        self.told.append(outcome)

    def close(self) -> None: ...

    def holder(self) -> str | None:
        return None


@pytest.mark.parametrize("how", ["shut", "withdrawn"])
async def test_a_lease_that_is_lost_in_a_delay(how: str) -> None:
    """There is no other attempt: another process may run the task now. The gate is told of the last outcome, once."""
    body, door = failing(9), Door()
    recorded = made(body, retry=Retry(5, delay=10, jitter=0))
    async with recorded.service:
        runner = state_of(recorded.manager).runner
        assert runner is not None
        managed = state_of(recorded.manager).tasks()["M.t"]
        runner.set_gate(managed, door)
        await asyncio.sleep(65)
        door.is_open = False
        if how == "withdrawn":
            runner.withdraw(managed)
        await asyncio.sleep(6)
        assert finished(recorded) == [(Outcome.FAILED, 1)]
        assert door.told == [Outcome.FAILED]


async def test_no_early_run_where_another_process_may_run_the_task() -> None:
    """That one keeps the promise."""
    body, door = Body((0, None), (0, wrong())), Door()
    recorded = made(body, spacing=600, freshness=720)
    async with recorded.service:
        runner = state_of(recorded.manager).runner
        assert runner is not None
        runner.set_gate(state_of(recorded.manager).tasks()["M.t"], door)
        await asyncio.sleep(1210)
        door.is_open = False
        await asyncio.sleep(300)
        assert len(body.began) == 2
        assert recorded.of(SlotSkipped) == []


# Longer spacings


async def test_a_failing_task_runs_more_seldom() -> None:
    """From the second failure on the spacing doubles; the slots between have a fate; a success ends it."""
    body = failing(4)
    recorded = made(body, spacing=60, backoff=True)
    async with recorded.service:
        await asyncio.sleep(10 * 60 + 1)
        status = recorded.service.task("M.t").status
        assert (status.state, status.failures, status.held_spacing) == (TaskState.HELD, 4, 480)
        assert status.next_due == START + timedelta(minutes=16)
        explained = recorded.service.explain("M.t").text
        await asyncio.sleep(10 * 60)
        assert recorded.service.task("M.t").status.held_spacing is None
        records = recorded.service.history("M.t")
    assert [round(at / 60) for at, _ in body.began] == [1, 2, 4, 8, 16, 17, 18, 19, 20]
    assert explained == (
        "M.t: the 2 slots from 00:09 to 00:10 were held back: after 4 failures in a row it runs only every 8 min. "
        "The last error is ValueError: wrong. Next at 00:16."
    )
    held = [(one.count, one.reason) for one in reversed(records) if one.reason == "backoff"]
    assert held == [(1, "backoff"), (3, "backoff"), (7, "backoff")]


async def test_a_skip_ends_the_longer_spacing() -> None:
    """To have nothing to do is no failure."""
    body = Body((0, wrong()), (0, wrong()), (0, Skip("no news")))
    recorded = made(body, backoff=True)
    async with recorded.service:
        await asyncio.sleep(6 * 60 + 1)
    assert [round(at / 60) for at, _ in body.began] == [1, 2, 4, 5, 6]


async def test_a_trigger_runs_in_any_case() -> None:
    """Its success ends the longer spacing, its failure makes it longer."""
    body = failing(3)
    recorded = made(body, backoff=True)
    async with recorded.service:
        await asyncio.sleep(2 * 60 + 30)
        handle = recorded.service.task("M.t")
        assert (await handle.trigger()).outcome is Outcome.FAILED
        assert handle.status.held_spacing == 240
        assert handle.status.next_due == START + timedelta(minutes=6)
        assert (await handle.trigger()).outcome is Outcome.SUCCEEDED
        assert handle.status.next_due == START + timedelta(minutes=3)
        await asyncio.sleep(60)
    assert [at for at, _ in body.began] == [60, 120, 150, 150, 180]


async def test_a_cron_task_is_held_back_by_time() -> None:
    """By the time since its last failure; a gap of an hour or more stays."""
    body = failing(4)
    recorded = Recorded(task(body.work, cron="*/10 * * * *", backoff=True, name="t"))
    async with recorded.service:
        await asyncio.sleep(3 * 3600)
    assert [round(at / 60) for at, _ in body.began][:6] == [10, 20, 40, 80, 140, 150]
    body = failing(5)
    recorded = Recorded(task(body.work, cron="0 */2 * * *", backoff=True, name="t"))
    begin = elapsed()
    async with recorded.service:
        await asyncio.sleep(9 * 3600)
    assert [round((at - begin) / 3600) for at, _ in body.began] == [1, 3, 5, 7, 9]


async def test_a_longer_spacing_and_clocks_that_are_set() -> None:
    """A wall clock that is set back lets a cron task run at once again, and forward ends the wait."""
    body = failing(3)
    recorded = Recorded(task(body.work, cron="*/10 * * * *", backoff=True, name="t"))
    async with recorded.service:
        await asyncio.sleep(41 * 60)  # failed at 10, 20 and 40: held until 01:20
        with time_machine.travel(START + timedelta(minutes=5)):
            await asyncio.sleep(20)
            assert recorded.service.task("M.t").status.next_due == START + timedelta(minutes=10)


async def test_another_schedule_holds_nothing_back() -> None:
    """Somebody acted: the next slot is run."""
    body = failing(3)
    recorded = made(body, backoff=True)
    async with recorded.service:
        await asyncio.sleep(4 * 60 + 1)
        recorded.service.task("M.t").reschedule(spacing=90)
        await asyncio.sleep(120)
    assert [at for at, _ in body.began] == [60, 120, 240, 330]


async def test_a_resume_holds_nothing_back() -> None:
    """The next slot of the grid is run."""
    body = failing(3)
    recorded = made(body, backoff=True)
    async with recorded.service:
        await asyncio.sleep(4 * 60 + 1)
        recorded.service.task("M.t").pause()
        recorded.service.task("M.t").resume()
        await asyncio.sleep(60)
    assert [at for at, _ in body.began] == [60, 120, 240, 300]


async def test_a_restart_holds_nothing_back() -> None:
    """A new life of the service begins anew."""
    body = failing(4)
    recorded = made(body, backoff=True)
    async with recorded.service:
        await asyncio.sleep(4 * 60 + 1)
    async with Service(recorded.manager, host="h", name="s", settings=recorded.settings):
        assert recorded.service.task("M.t").status.held_spacing is None
        await asyncio.sleep(61)
    assert [at for at, _ in body.began] == [60, 120, 240, 301]


async def test_a_queued_slot_is_held_back_too() -> None:
    """It was queued behind the run whose failure holds the task back."""
    body = failing(2, 70)
    recorded = made(body, backoff=True, overlap="queue")
    async with recorded.service:
        await asyncio.sleep(6 * 60 - 1)
    assert [at for at, _ in body.began] == [60, 130, 240, 300]


async def test_a_pass_holds_back_and_pauses() -> None:
    """As a service does, at the passes that its caller makes."""
    body = failing(9)
    manager = Bare()
    handle = manager.add_periodic_task(body.work, name="t", spacing=60, backoff=True, pause_after=3)
    for _ in range(12):
        await asyncio.sleep(60)
        await manager.periodic_tasks(None)
    assert [round(at / 60) for at, _ in body.began] == [1, 2, 4]
    assert handle.status.paused is not None
    assert handle.status.paused.by == "policy"


# Pauses


async def test_a_pause_after_failures_in_a_row() -> None:
    """By `policy`, in the journal, with the reason; a resume by hand gives it a run, and another failure ends that."""
    body = failing(4)
    recorded = made(body, pause_after=3)
    async with recorded.service:
        await asyncio.sleep(10 * 60)
        handle = recorded.service.task("M.t")
        paused = handle.status.paused
        assert paused is not None
        assert (paused.by, paused.until) == ("policy", None)
        assert paused.note == "after 3 failures in a row: ValueError: wrong"
        assert len(body.began) == 3
        handle.resume()
        await asyncio.sleep(5 * 60)
        assert len(body.began) == 4
        assert handle.status.paused is not None
        handle.resume()
        await asyncio.sleep(5 * 60)
        assert handle.status.paused is None
        explained = recorded.service.explain("M.t", START + timedelta(minutes=5)).text
    actions = [(one.verb, one.by, one.via) for one in recorded.service.journal.actions()]
    assert actions[:2] == [("pause", "policy", "policy"), ("resume", "code", "code")]
    assert 'policy paused it at 00:03 ("after 3 failures in a row: ValueError: wrong")' in explained


async def test_failures_that_are_not_in_a_row() -> None:
    """A success in between starts the count anew."""
    body = Body((0, wrong()), (0, wrong()), (0, None), (0, wrong()), (0, wrong()))
    recorded = made(body, pause_after=3)
    async with recorded.service:
        await asyncio.sleep(7 * 60)
        assert recorded.service.task("M.t").status.paused is None


async def test_a_pause_by_policy_leaves_another_pause_as_it_is() -> None:
    """A trigger may fail while somebody's pause is in force."""
    body = failing(9)
    recorded = made(body, pause_after=1)
    async with recorded.service:
        handle = recorded.service.task("M.t")
        with acting_as(Actor("ops", "socket")):
            handle.pause(for_=600, note="moving")
        await handle.trigger()
        assert handle.status.paused is not None
        assert handle.status.paused.by == "ops"


# The promise of a fresh success


async def test_a_promise_that_is_broken() -> None:
    """`fresh` and `stale` say so, and a success mends it. Before the first one, the start counts."""
    body = Body((0, None), (100, None), (0, None))
    recorded = made(body, spacing=60, freshness=90, critical=True)
    async with recorded.service:
        handle = recorded.service.task("M.t")
        await asyncio.sleep(60)
        assert (handle.status.fresh, handle.status.freshness, handle.status.critical) == (True, 90, True)
        await asyncio.sleep(89)
        assert handle.status.fresh is True
        await asyncio.sleep(2)
        assert (handle.status.fresh, handle.status.state) == (False, TaskState.STALE)
        await asyncio.sleep(80)
        assert handle.status.fresh is True
        assert handle.status.state is not TaskState.STALE
    recorded = made(Body(), spacing=600, freshness=90)
    async with recorded.service:
        handle = recorded.service.task("M.t")
        await asyncio.sleep(89)
        assert handle.status.fresh is True
        await asyncio.sleep(3)
        assert handle.status.fresh is False


async def test_a_task_that_promises_nothing() -> None:
    """It is neither fresh nor stale."""
    recorded = made(Body())
    async with recorded.service:
        await asyncio.sleep(1000)
        assert recorded.service.task("M.t").status.fresh is None


async def test_a_promise_is_not_judged_while_the_task_is_off() -> None:
    """And afterwards it has all the time again."""
    recorded = made(Body(), spacing=60, freshness=90)
    async with recorded.service:
        handle = recorded.service.task("M.t")
        await asyncio.sleep(61)
        handle.disable()
        await asyncio.sleep(1000)
        assert (handle.status.fresh, handle.status.state) == (None, TaskState.DISABLED)
        handle.enable()
        assert handle.status.fresh is True


async def test_an_early_run_keeps_the_promise() -> None:
    """Where the next slot comes too late: halfway to the moment at which the promise is broken, and halfway again."""
    body = Body((0, None), (0, wrong()), (0, wrong()), (0, None))
    recorded = made(body, spacing=600, freshness=720)
    async with recorded.service:
        await asyncio.sleep(600 + 600 + 119)
        handle = recorded.service.task("M.t")
        assert handle.status.fresh is True
        await asyncio.sleep(500)
    # Broken at 1320: it fails at 1200, then at 1260, and succeeds at 1290.
    assert [at for at, _ in body.began] == [600, 1200, 1260, 1290, 1800]
    triggers = [event.trigger for event in recorded.of(RunFinished)]
    assert triggers == ["schedule", "schedule", "retry", "retry", "schedule"]


async def test_an_early_run_that_is_not_needed() -> None:
    """The next slot comes in time, or the promise is broken already, or somebody paused the task."""
    body = failing(2)
    recorded = made(body, spacing=60, freshness=600)
    async with recorded.service:
        await asyncio.sleep(200)
    assert [at for at, _ in body.began] == [60, 120, 180]
    body = Body((0, None), (0, wrong()))
    recorded = made(body, spacing=600, freshness=720)
    begin = elapsed()
    async with recorded.service:
        await asyncio.sleep(1201)
        recorded.service.task("M.t").pause()
        await asyncio.sleep(300)
    assert [round(at - begin) for at, _ in body.began] == [600, 1200]


async def test_no_early_run_after_the_promise_is_broken() -> None:
    """It comes closer and closer, and then the grid goes on."""
    body = Body((0, None), *[(0.0, wrong())] * 20)
    recorded = made(body, spacing=600, freshness=720)
    async with recorded.service:
        await asyncio.sleep(1799)
        assert recorded.service.task("M.t").status.fresh is False
    assert [at for at, _ in body.began] == [600, 1200, 1260, 1290, 1305, 1312.5, 1316.25, 1318.125]


async def test_a_trigger_that_succeeds_makes_the_early_run_needless() -> None:
    """It is dropped."""
    body = Body((0, None), (0, wrong()))
    recorded = made(body, spacing=600, freshness=720)
    async with recorded.service:
        await asyncio.sleep(1210)
        await recorded.service.task("M.t").trigger()
        await asyncio.sleep(300)
    assert [at for at, _ in body.began] == [600, 1200, 1210]


async def test_no_early_run_while_the_service_stops() -> None:
    """Another run is waited for, and nothing is started meanwhile."""
    body, slow = Body((0, None), (0, wrong())), Body((100, None))
    recorded = Recorded(
        task(body.work, spacing=600, freshness=720, name="t"),
        task(slow.work, spacing=5000, initial_delay=1190, name="slow"),
        drain_timeout=300.0,
    )
    async with recorded.service:
        await asyncio.sleep(1205)
    assert elapsed() == 1290
    assert len(body.began) == 2


# Runs that hang


async def test_a_run_that_hangs_is_told_once() -> None:
    """With its age and where it waits; when it has ended, that is told too. It is no failure."""
    body = Body((400, None))
    recorded = made(body, spacing=60)
    with structlog.testing.capture_logs() as logs:
        async with recorded.service:
            await asyncio.sleep(60 + 179)
            assert recorded.service.task("M.t").status.state is TaskState.RUNNING
            await asyncio.sleep(62)
            assert recorded.service.task("M.t").status.state is TaskState.HUNG
            await asyncio.sleep(300)
    told = [line for line in logs if line["event"] in ("task.hung", "task.unstuck")]
    assert [line["event"] for line in told] == ["task.hung", "task.unstuck"]
    assert told[0]["task"] == "M.t"
    assert 180 <= told[0]["running_for"] <= 240
    assert told[0]["where"].startswith("Body.work at test_failure_policy.py:")


async def test_a_run_that_ignores_its_timeout_hangs() -> None:
    """Ten seconds after it. A run of many attempts is as old as the attempt in progress, and in a delay it waits."""

    async def stubborn(context: RunContext) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(100)

    recorded = Recorded(task(stubborn, spacing=1000, timeout=5))
    async with recorded.service:
        await asyncio.sleep(1000 + 14)
        assert recorded.service.task("M.stubborn").status.state is TaskState.RUNNING
        await asyncio.sleep(2)
        assert recorded.service.task("M.stubborn").status.state is TaskState.HUNG
        await asyncio.sleep(200)
    recorded = made(failing(9, 4), spacing=1000, timeout=5, retry=Retry(5, delay=50, jitter=0))
    async with recorded.service:
        await asyncio.sleep(1000 + 30)
        assert recorded.service.task("M.t").status.state is TaskState.RUNNING
        await asyncio.sleep(26)
        assert recorded.service.task("M.t").status.state is TaskState.RUNNING


DAY = 86_400


@pytest.mark.parametrize(
    ("runs", "hangs_after"),
    [
        ([], 2 * DAY),  # nothing is known of it
        ([30], 600),
        ([30, 30, 300], 3000),  # ten times the longest one, though most are short
        ([7200], 20 * 3600),
        ([20_000, 1000, 1000], 2 * DAY),
        ([80_000], 800_000),  # ten usual ones
    ],
)
async def test_a_nightly_run_hangs_before_three_days_are_over(runs: list[float], hangs_after: float) -> None:
    """After ten times its longest run, or two spacings; never within ten minutes."""
    body = Body(*[(float(run), None) for run in runs], (1e7, None))
    recorded = Recorded(task(body.work, name="t", cron="0 2 * * *"))
    async with recorded.service:
        await asyncio.sleep(len(runs) * DAY + 2 * 3600 + hangs_after - 1)
        assert recorded.service.task("M.t").status.state is TaskState.RUNNING
        await asyncio.sleep(2)
        assert recorded.service.task("M.t").status.state is TaskState.HUNG
        recorded.service.task("M.t").cancel()


async def test_a_run_that_had_nothing_to_do_is_no_measure() -> None:
    """Nor is one that failed: they say nothing of how long the work takes."""
    body = Body((1, Skip("empty")), (1, wrong()), (1e7, None))
    recorded = Recorded(task(body.work, name="t", cron="0 2 * * *"))
    async with recorded.service:
        await asyncio.sleep(2 * DAY + 2 * 3600 + 2 * DAY - 1)
        assert recorded.service.task("M.t").status.state in (TaskState.RUNNING, TaskState.FAILING)
        await asyncio.sleep(2)
        assert recorded.service.task("M.t").status.state is TaskState.HUNG
        recorded.service.task("M.t").cancel()


async def test_a_run_usually_takes_as_long() -> None:
    """A run that takes ten minutes each time does not hang after three spacings."""
    body = Body(*[(55.0, None)] * 40, (400, None))
    recorded = made(body, spacing=60)
    with structlog.testing.capture_logs() as logs:
        async with recorded.service:
            await asyncio.sleep(40 * 60 + 60 + 399)
            assert recorded.service.task("M.t").status.state is TaskState.RUNNING
    assert not [line for line in logs if line["event"] == "task.hung"]


# Against a naive model

S = 10
"""Seconds between two slots of the model."""

Fate = tuple[str, int]


class Model:
    """What a service does with one task, written down slot by slot, as naively as can be."""

    def __init__(
        self,
        script: list[tuple[float, bool]],
        attempts: int,
        delay: float,
        backoff: bool,
        pause_after: int | None,
    ) -> None:
        self.script = list(script)
        self.attempts, self.delay, self.backoff, self.pause_after = attempts, delay, backoff, pause_after
        self.began: list[tuple[float, int]] = []
        self.fates: dict[float, Fate] = {}

    def live(self, slots: int) -> None:
        failures, busy_until, held_until, is_paused = 0, 0.0, 0.0, False
        for n in range(1, slots + 1):
            slot = float(n * S)
            if slot < busy_until:
                self.fates[slot] = ("overlap", 0)
            elif is_paused:
                self.fates[slot] = ("paused", 0)
            elif slot < held_until:
                self.fates[slot] = ("backoff", 0)
            else:
                made, is_well, busy_until = self.run(slot)
                self.fates[slot] = ("succeeded" if is_well else "failed", made)
                failures = 0 if is_well else failures + 1
                if self.backoff and failures >= 2:
                    held_until = slot + min(S * 2 ** (failures - 1), 3600)
                is_paused = self.pause_after is not None and failures >= self.pause_after

    def run(self, slot: float) -> tuple[int, bool, float]:
        now, delay = slot, self.delay
        for attempt in range(1, self.attempts + 1):
            self.began.append((round(now, 3), attempt))
            seconds, is_well = self.script.pop(0) if self.script else (0.0, True)
            now += seconds
            if is_well:
                return attempt, True, now
            if attempt == self.attempts or now + delay >= slot + S:
                break
            now += delay
            delay *= 2
        return attempt, False, now


def fates_of(records: list[Record]) -> dict[float, Fate]:
    """Spread the records of a history over their slots; each slot may have one fate."""
    found: dict[float, Fate] = {}
    for record in records:
        for n in range(record.count):
            slot = round(record.slot / 1e6 - START.timestamp() + n * S, 3)
            assert slot not in found
            found[slot] = (record.reason or record.fate, record.attempts if record.is_run else 0)
    return found


# Odd lengths, so that nothing ends at the very moment of a slot.
lengths = st.sampled_from([0.0, 0.3, 2.3, 7.3, 11.3, 25.3])
scripts = st.lists(st.tuples(lengths, st.sampled_from([True, False, False])), max_size=20)


@given(
    script=scripts,
    attempts=st.integers(1, 4),
    delay=st.sampled_from([0.5, 1.0, 4.0]),
    backoff=st.booleans(),
    pause_after=st.none() | st.integers(1, 6),
)
@settings(max_examples=100)
def test_every_slot_has_the_fate_that_a_naive_model_gives_it(
    script: list[tuple[float, bool]], attempts: int, delay: float, backoff: bool, pause_after: int | None
) -> None:
    """Each slot one fate, each attempt counted and made at its moment, none that begins after the next slot."""
    slots = 60
    model = Model(script, attempts, delay, backoff, pause_after)
    model.live(slots)
    body = Body(*[(seconds, None if is_well else wrong()) for seconds, is_well in script])

    async def live() -> dict[float, Fate]:
        recorded = Recorded(
            task(
                body.work,
                name="t",
                spacing=S,
                tolerance=0,
                retry=Retry(attempts, delay=delay, jitter=0),
                backoff=backoff,
                pause_after=pause_after,
            )
        )
        async with recorded.service:
            await asyncio.sleep(slots * S + 5)
            found = fates_of(recorded.service.history("M.t", limit=10_000))
            running = recorded.service.task("M.t").status.running
            if running is not None:
                slot = max(at for at, attempt in body.began if attempt == 1)
                found[slot] = model.fates[slot]
        return found

    assert run_virtual(live(), start=START) == model.fates
    assert body.began == [one for one in model.began if one[0] <= slots * S + 5]
