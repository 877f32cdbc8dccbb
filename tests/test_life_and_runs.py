"""Where the life cycle meets runs, managers and listeners: what each leaves to the other at the end."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
import structlog

from asyncmgr import Manager, Service, Settings, periodic_task
from asyncmgr.events import RunFinished, ServiceStopping, SlotSkipped
from tests.helpers import Bare

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


# runner.py


async def test_no_run_begins_after_the_stop_was_told() -> None:
    """Runs whose Tasks were made and have not begun are refused like those that are merely ready."""
    manager = Bare()
    began: list[str] = []
    begun_by_then: list[int] = []
    skipped: list[Any] = []

    async def work(context: Any) -> None:
        began.append(context.task)
        if len(began) == 41:  # the second slot: all tasks waited in their first run
            assert manager.service is not None
            manager.service.request_stop()
        await asyncio.sleep(1)

    for number in range(40):
        manager.add_periodic_task(work, spacing=10, run_immediately=True, name=f"n{number}")
    service = Service(manager, settings=Settings())
    service.add_listener(lambda event: begun_by_then.append(len(began)), ServiceStopping)
    service.add_listener(skipped.append, SlotSkipped)
    async with service:
        await service.wait()
    assert begun_by_then == [len(began)]
    assert len(began) + len(skipped) == 80
    assert len((await service.stop()).drained) == len(began) - 40


# manager.py


async def test_a_second_service_brings_its_host_and_settings() -> None:
    """What a manager took over from its first service is forgotten when it leaves it."""
    manager = Bare()
    async with Service(manager, host="one", settings=Settings(drain_timeout=1)):
        assert (manager.host, manager.settings.drain_timeout) == ("one", 1)
    async with Service(manager, host="two", settings=Settings(drain_timeout=2)):
        assert (manager.host, manager.settings.drain_timeout) == ("two", 2)


class Volumes(Manager):
    @periodic_task(spacing=10)
    async def sync(self, context: Any) -> None: ...


async def test_service_settings_hold_for_a_manager_that_was_looked_at_before() -> None:
    """Looking at a manager before the start does not fix its settings."""
    manager = Volumes()
    manager.task_status()
    async with Service(manager, settings=Settings(drain_timeout=1, tasks={"Volumes.sync": {"spacing": 3}})):
        assert manager.settings.drain_timeout == 1
        assert manager.task_status()[0].spacing == 3


async def test_a_reload_keeps_settings_of_the_managers_own() -> None:
    """Settings that a manager was given itself stay in force through a reload of the service's."""
    manager = Volumes(settings=Settings(tasks={"Volumes.sync": {"spacing": 5}}))
    async with Service(manager) as service:
        assert manager.task_status()[0].spacing == 5
        await service.reload()
        assert manager.task_status()[0].spacing == 5


class Broken:
    on_wall = False
    spacing = 10.0

    def first(self, start: int) -> int:
        raise ArithmeticError("no first slot")

    def gap(self, slot: int) -> int:
        return 10_000_000


async def test_a_schedule_that_raises_does_not_keep_its_manager() -> None:
    """A manager is free again after its service, whatever its schedules raise."""
    manager = Volumes()
    (entry,) = manager._asyncmgr.tasks().values()
    entry.plan.options = dataclasses.replace(entry.options, schedule=Broken())  # type: ignore[arg-type]
    with pytest.raises(ArithmeticError):
        await Service(manager).start()
    manager._asyncmgr.claim("somebody else")


# events.py


async def test_a_listener_that_wants_to_exit_does_not_tear_down_the_loop() -> None:
    """It is logged like any other error of a listener."""
    manager = Bare()

    async def work(context: Any) -> None:
        await asyncio.sleep(1)

    def leave(event: Any) -> None:
        raise SystemExit(3)

    manager.add_periodic_task(work, spacing=10, run_immediately=True)
    service = Service(manager)
    service.add_listener(leave, RunFinished)
    async with service:
        await asyncio.sleep(5)


# reporting.py


async def test_a_run_that_the_stop_cancels_is_no_error() -> None:
    """A run that the stop cancels has one quiet line, and no failure is counted."""
    manager = Bare()

    async def work(context: Any) -> None:
        await asyncio.Event().wait()

    manager.add_periodic_task(work, spacing=10, run_immediately=True)
    with structlog.testing.capture_logs() as logs:
        async with Service(manager) as service:
            await asyncio.sleep(1)
            await service.stop(timeout=0)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []
