"""Chapter 6: an instance can have tasks that its class does not know, and settings change those that it does."""

from __future__ import annotations

from datetime import UTC, datetime

import time_machine

from asyncmgr import Manager, Settings, periodic_task


class Disks(Manager):
    """Watches disks that come and go."""

    @periodic_task(spacing=60)
    async def discover(self, context: object) -> None: ...


async def test_a_task_is_added_rescheduled_and_removed() -> None:
    """The handle that `add_periodic_task` returns does the rest."""
    probed: list[str] = []

    async def probe_sda(context: object) -> None:
        probed.append("sda")

    with time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False) as clock:
        disks = Disks()
        handle = disks.add_periodic_task(probe_sda, spacing=10)
        assert [task.full_name for task in disks.task_status()] == ["Disks.discover", "Disks.probe_sda"]
        clock.shift(10)
        assert await disks.periodic_tasks(context=None) == 10.0
        handle.reschedule(spacing=5)
        assert await disks.periodic_tasks(context=None) == 5.0
        handle.remove()
        assert await disks.periodic_tasks(context=None) == 50.0
    assert probed == ["sda"]


def test_settings_change_a_schedule_without_code() -> None:
    """From the environment, from a file, or given to the manager as here."""
    settings = Settings(tasks={"Disks.discover": {"spacing": "5m"}})
    assert [task.spacing for task in Disks(settings=settings).task_status()] == [300.0]
