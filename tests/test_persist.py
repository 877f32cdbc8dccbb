"""``persist=True``: the last slot of a task survives a restart of its process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine

from asyncmgr import Manager, RunContext, Service, Settings
from asyncmgr._service import persist_scope
from asyncmgr.events import Outcome, SlotsMissed
from tests.workers import Wire

pytestmark = pytest.mark.usefixtures("virtual_time")


class Nightly(Manager):
    name = "M"

    def __init__(self, log: list[tuple[str, str]]) -> None:
        super().__init__()
        self.log = log
        self.lasts = 0.0

    async def work(self, context: RunContext) -> None:
        self.log.append((context.trigger, context.slot.strftime("%d %H:%M:%S")))
        await asyncio.sleep(self.lasts)


class Process:
    """One process after the other on one host; the store is there all the time."""

    def __init__(self, **options: Any) -> None:
        self.log: list[tuple[str, str]] = []
        self.events: list[Any] = []
        self.options = {"persist": True, **options}
        self.keeps_the_store = Wire("p")

    def start(self) -> Service:
        manager = Nightly(self.log)
        service = Service(manager, name="s", host="h", transport=Wire("p"), settings=Settings(seed=1))
        service.add_listener(self.events.append, SlotsMissed)
        manager.add_periodic_task(manager.work, **self.options)
        return service


async def test_down_at_the_slot() -> None:
    """Down at 02:30, up at 05:00: one run at once, and the slots that it stands for have a fate."""
    process = Process(cron="30 2 * * *")
    async with process.start():
        await asyncio.sleep(3 * 3600)
    await asyncio.sleep(3 * 86400 + 7200)
    async with process.start() as service:
        await asyncio.sleep(1)
        assert service.task("M.work").status.runs == 1
        await asyncio.sleep(86400)
    assert process.log == [
        ("schedule", "01 02:30:00"),
        ("catch_up", "04 02:30:00"),
        ("schedule", "05 02:30:00"),
    ]
    (missed,) = process.events
    assert (missed.count, missed.reason, missed.slot.day) == (2, "down", 4)
    assert missed.run_id is not None


async def test_one_missed_slot_is_a_catch_up_too() -> None:
    process = Process(cron="30 2 * * *")
    async with process.start():
        await asyncio.sleep(3 * 3600)
    await asyncio.sleep(86400)
    async with process.start():
        await asyncio.sleep(1)
    assert process.log[1:] == [("catch_up", "02 02:30:00")]


async def test_nothing_missed() -> None:
    """A restart between two slots changes nothing: the grid goes on."""
    process = Process(spacing=3600)
    async with process.start():
        await asyncio.sleep(3700)
    await asyncio.sleep(600)
    async with process.start():
        await asyncio.sleep(3000)
    assert process.log == [("schedule", "01 01:00:00"), ("schedule", "01 02:00:00")]
    assert not process.events


@pytest.mark.parametrize("options", [{"catch_up": "none"}, {"catch_up_window": 60}])
async def test_no_catch_up(options: dict[str, Any]) -> None:
    """With ``catch_up="none"``, or beyond `catch_up_window`, slots have a fate and no run."""
    process = Process(spacing=3600, **options)
    async with process.start():
        await asyncio.sleep(3700)
    await asyncio.sleep(3 * 3600)
    async with process.start():
        await asyncio.sleep(3600)
    assert [trigger for trigger, _ in process.log] == ["schedule", "schedule"]
    (missed,) = process.events
    assert (missed.count, missed.reason, missed.run_id) == (3, "down", None)


@pytest.mark.parametrize(("interrupted", "runs"), [("skip", 1), ("rerun", 2)])
async def test_a_run_that_was_cut_off(interrupted: str, runs: int) -> None:
    """A process that died during a run: the slot is missed, or run again where that is asked for."""
    process = Process(spacing=3600, interrupted=interrupted)
    dead = process.start()
    manager: Any = dead.managers[0]
    manager.lasts = 1e6
    await dead.start()
    await asyncio.sleep(3601)
    wire: Any = dead.transport
    outage = wire.outage()
    outage.__enter__()  # nothing that it does from now on reaches the store
    async with process.start():
        await asyncio.sleep(60)
        assert len(process.log) == runs
    assert [e.reason for e in process.events] == (["down"] if interrupted == "skip" else [])
    await dead.stop(timeout=0.0)


async def test_a_record_from_the_future(caplog: pytest.LogCaptureFixture) -> None:
    """The wall clock went back: the grid starts over, and that is said."""
    process = Process(spacing=3600)
    async with process.start():
        await asyncio.sleep(3700)
    with time_machine.travel(datetime(2023, 1, 1, tzinfo=UTC), tick=False):
        async with process.start():
            await asyncio.sleep(3601)
    assert [trigger for trigger, _ in process.log] == ["schedule", "schedule"]
    assert any("grid.restarted" in record.getMessage() for record in caplog.records)


async def test_a_store_that_is_down_stops_no_local_task() -> None:
    process = Process(spacing=60)
    service = process.start()
    wire: Any = service.given_transport
    wire.fault = lambda verb, store, key: "lose_request" if store == "asyncmgr-slots" else None
    async with service:
        await asyncio.sleep(200)
    assert len(process.log) == 3


async def test_many_slots_a_second_are_one_write_a_second() -> None:
    process = Process(spacing=0.1)
    service = process.start()
    wire: Any = service.given_transport
    async with service:
        await asyncio.sleep(20)
        assert len([call for call in wire.calls if call[1] == "asyncmgr-slots"]) <= 25
    assert len(process.log) >= 190


async def test_a_task_that_is_added_while_the_service_runs() -> None:
    process = Process(cron="30 2 * * *")
    async with process.start():
        await asyncio.sleep(3 * 3600)
    await asyncio.sleep(86400)
    added = process.options
    process.options = {"persist": True, "spacing": 86400, "name": "other"}
    async with process.start() as service:
        manager: Any = service.managers[0]
        manager.add_periodic_task(manager.work, **added)
        await asyncio.sleep(1)
    assert process.log[-1] == ("catch_up", "02 02:30:00")


async def test_the_outcome_is_kept() -> None:
    from asyncmgr._leases.records import SlotRecord, decode

    process = Process(spacing=60)
    async with process.start():
        await asyncio.sleep(61)
    shelf = process.keeps_the_store._fabric.shelves["asyncmgr-slots"]
    record = decode(SlotRecord, shelf.get("s.p.h.M.work").value, lambda version: version == 1)  # type: ignore[union-attr]
    assert isinstance(record, SlotRecord)
    assert record.state == str(Outcome.SUCCEEDED)


async def test_the_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a store, slots are in the state directory of the user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("os.name", "posix")
    assert persist_scope._state_directory() == tmp_path / "asyncmgr"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert persist_scope._state_directory() == tmp_path / ".local" / "state" / "asyncmgr"
