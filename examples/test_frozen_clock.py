"""Testing periodic tasks without waiting: a frozen clock for one pass, virtual time for a whole service.

The second test needs ``pytest_plugins = ["asyncmgr.testing.plugin"]`` in a ``conftest.py`` beside this file.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import time_machine

from asyncmgr import Manager, Service, periodic_task
from asyncmgr.testing import VirtualTime

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


class Backups(Manager):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[datetime] = []

    @periodic_task(spacing=3600)
    async def make(self, context: Any) -> None:
        self.made.append(datetime.now(UTC))


def test_a_backup_is_made_an_hour_after_the_start() -> None:
    """A pass needs nothing but a frozen clock, and no plugin of pytest."""
    with time_machine.travel(NEW_YEAR, tick=False) as clock:
        backups = Backups()
        assert asyncio.run(backups.periodic_tasks()) == 60.0
        clock.shift(3600)
        asyncio.run(backups.periodic_tasks())
    assert backups.made == [datetime(2026, 1, 1, 1, tzinfo=UTC)]


async def test_a_day_of_backups(virtual_time: VirtualTime) -> None:
    """A whole service lives through a day in milliseconds."""
    backups = Backups()
    await virtual_time.run_for(Service(backups), hours=24)
    assert len(backups.made) == 24
