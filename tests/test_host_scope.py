"""``scope="host"`` in virtual time: one process of a machine runs a task, and the next one goes on with its grid."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from asyncmgr import Manager, Outcome, RunContext, Service, Settings, periodic_task
from asyncmgr._leases.host_lock import HostLock
from asyncmgr._leases.host_locks import HostLocks
from asyncmgr._leases.host_record import HostRecord
from asyncmgr._tasks.plan import Plan
from asyncmgr.errors import LockUnavailable, NotOwner
from asyncmgr.events import Event, RunFinished, SlotSkipped, SlotsMissed
from asyncmgr.testing import VirtualTimeLoop
from tests.helpers import Bare
from tests.machine import Process

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")

HERE = f"pid {os.getpid()}"


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


class Machine:
    """Processes of one application, and what their runs were: the process, the moment, the slot's number and lag."""

    def __init__(self, *, lasts: float = 0.0, **options: Any) -> None:
        self.locks = HostLocks("app")
        self.lasts = lasts
        self.options = {"spacing": 30, **options}
        self.runs: list[tuple[str, float, int | None]] = []
        self.contexts: list[RunContext] = []

    def start(self, name: str, **options: Any) -> Process:
        async def work(context: RunContext) -> None:
            self.runs.append((name, now(), context.slot_number))
            self.contexts.append(context)
            if self.lasts:
                await asyncio.sleep(self.lasts)

        return Process(self.locks, work, **self.options | options)


async def until(moment: float) -> None:
    await asyncio.sleep(moment - now())


async def handover(machine: Machine, *, follows: float, dies: float, ends: float) -> Process:
    """A starts now and dies at `dies`; B, which is returned, is there from `follows` to `ends`."""
    a = machine.start("A")
    if follows > dies:
        await until(dies)
        a.kill()
    await until(follows)
    b = machine.start("B")
    if follows <= dies:
        await until(dies)
        a.kill()
    await until(ends)
    b.kill()
    return b


def missed(process: Process) -> list[tuple[int, str | None]]:
    """How many slots the process told as missed, and why."""
    return [(event.count, event.reason) for event in process.events if isinstance(event, SlotsMissed)]


# The grid over holders


async def test_the_next_holder_runs_the_slot_that_the_dead_one_left() -> None:
    """A runs 30 and 60 and dies at 75; B, half a second later, runs 90 half a second late and goes on with 120."""
    machine = Machine()
    await handover(machine, follows=0.5, dies=75, ends=160)
    assert machine.runs == [("A", 30, 1), ("A", 60, 2), ("B", 90.5, 3), ("B", 120, 4), ("B", 150, 5)]
    assert [context.lateness for context in machine.contexts] == [0, 0, 0.5, 0, 0]


async def test_the_next_holder_repeats_no_slot() -> None:
    """A ran 60 and died at once: B has the lock at 60.5, and runs nothing until 90."""
    machine = Machine()
    a = machine.start("A")
    await until(0.5)
    b = machine.start("B")
    await until(60.1)
    a.kill()
    await until(60.6)
    assert b.holds
    await until(125)
    b.kill()
    assert machine.runs == [("A", 30, 1), ("A", 60, 2), ("B", 90, 3), ("B", 120, 4)]


async def test_slots_that_nobody_was_there_for_get_one_run() -> None:
    """It stands for all of them, and says so."""
    machine = Machine()
    b = await handover(machine, follows=200, dies=35, ends=245)
    assert machine.runs == [("A", 30, 1), ("B", 230, 7), ("B", 240, 8)]
    assert machine.contexts[1].trigger == "catch_up"
    assert missed(b) == [(5, "down")]


@pytest.mark.parametrize("options", [{"catch_up": "none"}, {"catch_up_window": 5}])
async def test_slots_that_nobody_was_there_for_are_dropped_where_the_task_says_so(
    options: dict[str, Any], logs: list[Any]
) -> None:
    """The slots are told as missed, and the grid stays."""
    machine = Machine(**options)
    b = await handover(machine, follows=200, dies=35, ends=245)
    assert machine.runs == [("A", 30, 1), ("B", 240, 2)]
    assert missed(b) == [(6, "down")]
    assert [(log["count"], log["reason"]) for log in logs if log["event"] == "slot.missed"] == [(6, "down")]


async def test_a_slot_on_time_is_no_catch_up() -> None:
    """Cron slots are the same for all: where the holder has died, the next one runs its own slot, on time."""
    machine = Machine(spacing=0, cron="* * * * *", catch_up="none")
    machine.options.pop("spacing")
    await handover(machine, follows=0, dies=61, ends=130)
    assert machine.runs == [("A", 60, 1), ("B", 120, 2)]


async def test_a_run_that_was_cut_off_is_told_and_not_repeated() -> None:
    """Its slot is missed, since its holder died."""
    machine = Machine(lasts=5)
    b = await handover(machine, follows=0.5, dies=60.1, ends=95)
    assert machine.runs == [("A", 30, 1), ("A", 60, 2), ("B", 90, 3)]
    assert missed(b) == [(1, "lease_lost")]
    assert [str(event.slot.time()) for event in b.events if isinstance(event, SlotsMissed)] == ["00:01:00"]


async def test_a_run_that_was_cut_off_is_repeated_where_the_task_says_so() -> None:
    """With the same number of its slot, since it is the same slot."""
    machine = Machine(lasts=5, interrupted="rerun")
    await handover(machine, follows=0.5, dies=60.1, ends=98)
    assert machine.runs == [("A", 30, 1), ("A", 60, 2), ("B", 60.5, 2), ("B", 90, 3)]
    assert [context.trigger for context in machine.contexts] == [
        "schedule",
        "schedule",
        "catch_up",
        "schedule",
    ]


async def test_a_run_that_ended_is_not_repeated() -> None:
    """Also where the task would repeat one that was cut off."""
    machine = Machine(lasts=5, interrupted="rerun")
    await handover(machine, follows=7, dies=66, ends=90.1)
    assert machine.runs == [("A", 30, 1), ("A", 60, 2), ("B", 90, 3)]


async def test_a_claimed_slot_that_never_started_is_given_back() -> None:
    """A run that waits for its place at the stop is refused: the next holder runs its slot."""
    machine = Machine()
    a = machine.start("A")
    await until(0.5)
    b = machine.start("B")
    await until(35)
    a.runner._max_runs = 0
    await until(60.2)
    await a.stop()
    await until(95)
    b.kill()
    assert machine.runs == [("A", 30, 1), ("B", 60.5, 2), ("B", 90, 3)]
    assert [event.reason for event in a.events if isinstance(event, SlotSkipped)] == ["draining"]


async def test_a_reboot_starts_the_grid_over_and_numbers_go_on() -> None:
    """What another boot wrote says nothing of the time since."""
    machine = Machine()
    a = machine.start("A")
    await until(65)
    a.kill()
    machine.locks.boot.id = "another"  # type: ignore[misc]
    await until(75)
    b = machine.start("B")
    await until(140)
    b.kill()
    assert machine.runs == [("A", 30, 1), ("A", 60, 2), ("B", 105, 3), ("B", 135, 4)]


async def test_what_stands_in_the_lock_and_is_no_record_starts_the_grid_over() -> None:
    """Whatever it is."""
    for text in (
        b"",
        b"{",
        b"[]",
        b'{"v":2}',
        b'{"v":1,"boot":"x","slot":"y"}',
        b'{"v":1,"state":"odd","boot":""}',
    ):
        machine = Machine()
        lock = machine.locks.lock("task", "M.work")
        lock.acquire()
        lock.write(text)
        lock.close()
        began = now()
        a = machine.start("A")
        await until(began + 31)
        a.kill()
        assert machine.runs == [("A", began + 30, 1)]


async def test_nearly_due_slots_are_no_slots_of_the_future() -> None:
    """A holder that ran 90 at 89.9 and died: the next one goes on with 120."""
    machine = Machine(tolerance=1)
    a = machine.start("A")
    await until(29.2)
    a.notice_clock()  # as where another task is due
    await until(29.3)
    b = machine.start("B", initial_delay=0.1)
    a.kill()
    await until(65)
    b.kill()
    assert machine.runs == [("A", 29.2, 1), ("B", 59.4, 2)]
    assert [context.slot.second for context in machine.contexts] == [30, 0]


async def test_a_slot_of_the_future_is_of_another_boot() -> None:
    """Where the system does not tell boots apart: the grid starts over, and numbers go on."""
    machine = Machine()
    lock = machine.locks.lock("task", "M.work")
    lock.acquire()
    record = HostRecord(machine.locks.boot.id, 7, number=5, slot=10**12, wall=10**15, state="ended")
    lock.write(record.encode())
    lock.close()
    a = machine.start("A")
    await until(31)
    a.kill()
    assert machine.runs == [("A", 30, 6)]


async def test_cron_after_a_wall_that_was_set_back_by_an_hour() -> None:
    """The next holder does as the one before would have done: the times come a second time."""
    machine = Machine(cron="* * * * *")
    machine.options.pop("spacing")
    a = machine.start("A")
    await until(61)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    a.kill()
    loop._wall.shift(-3600 * 1_000_000)
    b = machine.start("B")
    await until(125)
    b.kill()
    assert machine.runs == [("A", 60, 1), ("B", 120, 2)]


# Under services


class Jobs(Manager):
    """A manager as users write it."""

    def __init__(self, ran: list[tuple[str, float]], host: str) -> None:
        super().__init__(host)
        self.ran = ran

    @periodic_task(spacing=10, scope="host")
    async def once(self, context: RunContext) -> None:
        self.ran.append((self.host, now()))


async def test_one_of_two_services_runs_the_task() -> None:
    """The other one's slots have the fate not_owner, with who runs it; the status of both says so too."""
    ran: list[tuple[str, float]] = []
    events: list[Event] = []
    first, second = Service(Jobs(ran, "a"), name="s"), Service(Jobs(ran, "b"), name="s", host="b")
    second.add_listener(events.append)
    async with first:
        await asyncio.sleep(0.5)
        async with second:
            await until(35)
            assert [status.owner for status in (*first.status(), *second.status())] == [HERE, HERE]
            with pytest.raises(NotOwner, match=f"Jobs.once cannot run here: {HERE} holds it"):
                await second.task("Jobs.once").trigger(wait=True)
            await first.task("Jobs.once").trigger(wait=True)
    assert ran == [("a", 10), ("a", 20), ("a", 30), ("a", 35)]
    skipped = [event for event in events if isinstance(event, SlotSkipped)]
    assert [(event.reason, event.holder) for event in skipped] == [("not_owner", HERE)] * 3


async def test_the_holder_is_named_where_nobody_listens() -> None:
    """Who it was is not asked at each slot: an explanation says who it is by now."""
    ran: list[tuple[str, float]] = []
    async with Service(Jobs(ran, "a"), name="s"):
        await asyncio.sleep(0.5)
        async with Service(Jobs(ran, "b"), name="s", host="b") as second:
            await until(25)
            told = second.explain("Jobs.once", datetime.now(UTC) - timedelta(seconds=5))
    assert told.text.endswith(f"did not run here: another process held the task; now it is {HERE}.")


async def test_a_service_that_stops_hands_over() -> None:
    """The next one runs the next slot, and the run of the one that stops has ended before."""
    ran: list[tuple[str, float]] = []
    second = Service(Jobs(ran, "b"), name="s", host="b")
    async with Service(Jobs(ran, "a"), name="s"):
        await asyncio.sleep(0.5)
        await second.start()
        await until(25)
    await until(51)
    await second.stop()
    assert ran == [("a", 10), ("a", 20), ("b", 30.5), ("b", 40), ("b", 50)]


class Long(Manager):
    @periodic_task(spacing=600, run_immediately=True)
    async def long(self, context: RunContext) -> None:
        await asyncio.sleep(60)


async def test_a_long_drain_keeps_only_what_runs() -> None:
    """A service that stops waits for a run of one task; the next process has the other task at its next slot."""
    ran: list[tuple[str, float]] = []
    first = Service(Jobs(ran, "a"), Long(), name="s")
    await first.start()
    await asyncio.sleep(0.5)
    async with Service(Jobs(ran, "b"), name="s", host="b"):
        await until(25)
        stopping = asyncio.create_task(first.stop(timeout=50))
        await until(55)
        assert not stopping.done()
        assert ran == [("a", 10), ("a", 20), ("b", 30.5), ("b", 40), ("b", 50)]
        assert len((await stopping).drained) == 1


async def test_two_applications_run_it_each() -> None:
    """The service's name is the application, unless the setting says another."""
    ran: list[tuple[str, float]] = []
    async with Service(Jobs(ran, "a"), name="s"), Service(Jobs(ran, "b"), name="t"):
        await until(15)
    assert ran == [("a", 10), ("b", 10)]
    ran.clear()
    settings = Settings(application="shop")
    async with (
        Service(Jobs(ran, "a"), name="s", settings=settings),
        Service(Jobs(ran, "b"), name="t", settings=settings),
    ):
        await until(26)
    assert ran == [("a", 25)]


async def test_a_task_gets_its_gate_whenever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added while the service runs, or put under the scope by a reload; removed or off, it is free for others."""
    monkeypatch.chdir(tmp_path)

    def configure(line: str) -> None:
        Path("asyncmgr.toml").write_text(f'[tasks."M.t"]\n{line}\n')

    first, second = Bare(), Bare()
    ran: list[tuple[str, float]] = []

    def task(name: str) -> Any:
        async def run(context: RunContext) -> None:
            ran.append((name, now()))

        return run

    async with Service(first, name="s") as one, Service(second, name="s", host="other") as two:
        handle = first.add_periodic_task(task("a"), name="t", spacing=10, scope="host")
        second.add_periodic_task(task("b"), name="t", spacing=10)
        await until(11)
        assert ran == [("a", 10), ("b", 10)]
        configure('scope = "host"')
        await two.reload()
        await until(31)
        assert ran[2:] == [("a", 20), ("a", 30)]
        handle.remove()
        await until(51)
        assert ran[4:] == [("b", 40), ("b", 50)]
        assert two.task("M.t").status.owner == HERE
        first.add_periodic_task(task("a"), name="t", spacing=10, scope="host")
        configure("enabled = false")
        await two.reload()
        await until(62)
        assert ran[6:] == [("a", 61)]
        configure('scope = "process"')
        await one.reload()
        await two.reload()
        assert [status.owner for status in (*one.status(), *two.status())] == [None, None]
        await until(76)
        assert {name for name, _ in ran[7:]} == {"a", "b"}


async def test_a_run_in_progress_keeps_the_lock_of_a_task_that_is_removed() -> None:
    """No other process runs it while the body goes on."""
    ran: list[tuple[str, float]] = []
    ended = asyncio.Event()

    async def long(context: RunContext) -> None:
        ran.append(("a", now()))
        await ended.wait()

    async def other(context: RunContext) -> None:
        ran.append(("b", now()))

    first, second = Bare(), Bare()
    async with Service(first, name="s"), Service(second, name="s", host="other"):
        handle = first.add_periodic_task(long, name="t", spacing=10, scope="host")
        second.add_periodic_task(other, name="t", spacing=10, scope="host")
        await until(15)
        handle.remove()
        await until(35)
        assert ran == [("a", 10)]
        ended.set()
        await until(45)
        assert ran[1:] == [("b", 40)]


async def test_a_queued_trigger_asks_when_its_turn_comes() -> None:
    """It is refused with the reason where the lock is another's by then."""
    machine = Machine(lasts=5, overlap="queue")
    a = machine.start("A")
    await until(31)
    waiter: asyncio.Future[RunFinished] = asyncio.get_running_loop().create_future()
    a.runner.trigger(a.task, waiter)
    assert a.gate._active == 1
    await until(41)
    assert (await waiter).outcome is Outcome.SUCCEEDED
    assert a.gate._active == 0
    assert machine.runs == [("A", 30, 1), ("A", 35, None)]
    a.kill()


async def test_an_idle_service_is_not_woken_by_a_lock() -> None:
    """The lock is tried at the task's own slots; between them the loop sleeps as it does without a scope."""

    async def turns(**options: Any) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        count = 0
        select = loop._io.select

        def counting(timeout: float | None = None) -> Any:
            nonlocal count
            count += 1
            return select(timeout)

        manager = Bare()

        async def body(context: RunContext) -> None: ...

        manager.add_periodic_task(body, spacing=60, **options)
        other = Bare()
        other.add_periodic_task(body, spacing=60, **options)
        async with Service(other, name="s", host="holder"), Service(manager, name="s"):
            await asyncio.sleep(61)
            loop._io.select = counting  # type: ignore[method-assign]
            await asyncio.sleep(600)
            loop._io.select = select  # type: ignore[method-assign]
        return count

    assert await turns(scope="host") <= await turns()


async def test_files_are_used_in_virtual_time_where_a_directory_is_given(tmp_path: Path) -> None:
    """So an application can test its directory."""
    ran: list[tuple[str, float]] = []
    settings = Settings(lease={"directory": tmp_path / "locks"})
    async with (
        Service(Jobs(ran, "a"), name="s", settings=settings),
        Service(Jobs(ran, "b"), name="s", host="b", settings=settings),
    ):
        await until(21)
        names = sorted(path.name for path in (tmp_path / "locks").iterdir())
    assert ran == [("a", 10), ("a", 20)]
    assert names[0] == "asyncmgr.lock"
    assert names[1].startswith("s~task~Jobs_once~")


async def test_a_directory_that_cannot_be_used_fails_the_start(tmp_path: Path) -> None:
    """With the directory, what is wrong and what to do."""
    (tmp_path / "file").write_text("")
    settings = Settings(lease={"directory": tmp_path / "file"})
    with pytest.raises(
        LockUnavailable, match=r"file is no directory; remove it, or give \[lease\] directory"
    ):
        await Service(Jobs([], "a"), settings=settings).start()


async def test_a_lock_that_fails_later_is_logged_once(tmp_path: Path, logs: list[Any]) -> None:
    """The task does not run meanwhile, and the service goes on."""
    directory = tmp_path / "locks"
    ran: list[tuple[str, float]] = []
    settings = Settings(lease={"directory": directory})
    manager = Bare()
    (tmp_path / "locks").write_text("")

    async def run(context: RunContext) -> None:
        ran.append(("a", now()))

    async with Service(manager, name="s", settings=settings):
        manager.add_periodic_task(run, name="t", spacing=10, scope="host")
        await until(35)
        failed = [log for log in logs if log["event"] == "lock.failed"]
        assert [log["task"] for log in failed] == ["M.t"]
        assert "is no directory; remove it" in failed[0]["error"]
        directory.unlink()
        await until(45)
    assert ran == [("a", 40)]
    assert [log["event"] for log in logs if log["event"] == "lock.recovered"] == ["lock.recovered"]


# Trouble


class Files:
    """Two processes whose locks are files."""

    def __init__(self, directory: Path) -> None:
        self.locks = HostLocks("app", directory)
        self.path = self.locks.file("task", "M.work").path
        self.runs: list[tuple[str, float]] = []

    def start(self, name: str, *, lasts: float = 0.0) -> Process:
        async def work(context: RunContext) -> None:
            self.runs.append((name, now()))
            await asyncio.sleep(lasts)

        return Process(self.locks, work, spacing=10)


def of(logs: list[Any], event: str) -> list[Any]:
    return [log for log in logs if log["event"] == event]


@pytest.mark.skipif(os.name == "nt", reason="locked files cannot be removed there")
async def test_a_removed_file_is_made_anew_and_told(tmp_path: Path, logs: list[Any]) -> None:
    """Neither process runs a slot of the other."""
    files = Files(tmp_path)
    a = files.start("A")
    await until(5)
    b = files.start("B")
    await until(18)
    files.path.unlink()
    await until(44)
    a.kill()
    await until(58)
    b.kill()
    assert files.runs == [("A", 10), ("A", 20), ("A", 30), ("A", 40), ("B", 50)]
    assert [log["cure"][:32] for log in of(logs, "lock.removed")] == ["something removes files from the"]


@pytest.mark.skipif(os.name == "nt", reason="locked files cannot be removed there")
async def test_a_holder_that_lost_its_lock_is_cancelled(tmp_path: Path, logs: list[Any]) -> None:
    """At its next slot, with the reason lease_lost."""
    files = Files(tmp_path)
    ran: list[str] = []

    async def work(context: RunContext) -> None:
        ran.append("began")
        await asyncio.sleep(100)

    a = Process(files.locks, work, spacing=10, overlap="allow")
    await until(15)
    files.path.unlink()
    other = files.locks.file("task", "M.work")
    assert other.acquire()
    await until(21)
    assert ran == ["began"]
    assert [event.outcome for event in a.events if isinstance(event, RunFinished)] == [Outcome.CANCELLED]
    assert [log["reason"] for log in of(logs, "task.cancelled")] == ["lease_lost"]
    assert len(of(logs, "lock.lost")) == 1
    other.close()
    await until(31)
    assert ran == ["began", "began"]
    a.kill()


async def test_another_machine_that_holds_the_lock_is_told(tmp_path: Path, logs: list[Any]) -> None:
    """Its directory is on a network file system."""
    files = Files(tmp_path)
    other = files.locks.file("task", "M.work")
    other.acquire()
    other.write(HostRecord("another boot", 1234).encode())
    a = files.start("A")
    await until(55)
    assert files.runs == []
    assert [(log["holder"], log["cure"][:24]) for log in of(logs, "lock.shared")] == [
        ("pid 1234", "another machine holds it")
    ]
    a.kill()
    other.close()


@pytest.mark.parametrize("what", ["write", "acquire"])
async def test_a_lock_that_cannot_be_used_any_more(
    what: str, tmp_path: Path, logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot has no run, the next ones neither; it is told once, and again when it works."""
    files = Files(tmp_path)
    a = files.start("A")
    await until(15)

    def fail(*args: Any, **options: Any) -> Any:
        raise LockUnavailable("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(HostLock, what, fail)
        await until(35)
    await until(45)
    assert files.runs == [("A", 10), ("A", 40)]
    assert [log["error"] for log in of(logs, "lock.failed")] == ["the disk is gone"]
    assert len(of(logs, "lock.recovered")) == 1
    assert [event.reason for event in a.events if isinstance(event, SlotSkipped)] == ["not_owner"] * 2
    a.kill()


async def test_an_end_that_cannot_be_written(
    tmp_path: Path, logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, others may have the lock, and the run is what it was."""
    files = Files(tmp_path)
    a = files.start("A", lasts=2)
    await until(11)

    def fail(*args: Any, **options: Any) -> Any:
        raise LockUnavailable("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(HostLock, "write", fail)
        await until(13)
    assert [log["error"] for log in of(logs, "lock.failed")] == ["the disk is gone"]
    assert [event.outcome for event in a.events if isinstance(event, RunFinished)] == [Outcome.SUCCEEDED]
    assert not a.holds
    await until(25)
    assert files.runs == [("A", 10), ("A", 20)]
    a.kill()


async def test_a_dead_holder_is_named_as_such(tmp_path: Path) -> None:
    """Its number may be that of a process in another container."""
    files = Files(tmp_path)
    a = files.start("A")
    assert a.gate.holder() is None
    lock = files.locks.file("task", "M.work")
    lock.acquire()
    lock.write(HostRecord(files.locks.boot.id, 2**22 + 1, start=5).encode())
    assert a.gate.holder() == f"pid {2**22 + 1}, which is gone or in another container"
    lock.write(HostRecord(files.locks.boot.id, 77, left=True).encode())
    assert a.gate.holder() is None
    lock.close()
    a.kill()


async def test_a_schedule_that_raises_as_the_task_is_taken_over(
    logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the grid starts over."""
    machine = Machine()
    a = machine.start("A")
    await until(0.5)
    b = machine.start("B")
    await until(35)
    a.kill()

    def fail(*args: Any, **options: Any) -> Any:
        raise ValueError("no such slot")

    monkeypatch.setattr(Plan, "continue_from", fail)
    await until(91)
    b.kill()
    assert machine.runs == [("A", 30, 1), ("B", 60.5, 2), ("B", 90.5, 3)]
    assert len(of(logs, "schedule.failed")) == 1
