"""Chapter 2: a pass starts what is due, and says how long there is nothing to do.

A service that owns its loop awaits one pass after the other::

    while True:
        await asyncio.sleep(await volumes.periodic_tasks(context))

A test does the same with a wall clock of its own; it needs no other tool than time-machine.
"""

from __future__ import annotations

from datetime import UTC, datetime

import time_machine

from asyncmgr import Manager, periodic_task


class Volumes(Manager):
    """Notes what ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    @periodic_task
    async def heartbeat(self, context: object) -> None:
        self.ran.append("heartbeat")

    @periodic_task(spacing=30, run_immediately=True)
    async def sync(self, context: object) -> None:
        self.ran.append("sync")

    @periodic_task(spacing=40)
    async def sweep(self, context: object) -> None:
        self.ran.append("sweep")

    async def runs_of_a_pass(self) -> tuple[list[str], float]:
        """Make one pass: what ran, and the seconds to the next slot."""
        self.ran.clear()
        idle = await self.periodic_tasks(context=None)
        return self.ran, idle


async def test_passes_under_a_frozen_clock() -> None:
    """Nothing waits: the test moves the clock to the next slot itself."""
    with time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False) as clock:
        volumes = Volumes()
        assert await volumes.runs_of_a_pass() == (["heartbeat", "sync"], 30.0)
        clock.shift(30)
        assert await volumes.runs_of_a_pass() == (["heartbeat", "sync"], 10.0)
        clock.shift(10)
        assert await volumes.runs_of_a_pass() == (["heartbeat", "sweep"], 20.0)
        clock.shift(5)
        assert await volumes.runs_of_a_pass() == (["heartbeat"], 15.0)


async def test_the_idle_time_is_a_minute_at_most() -> None:
    """So that tasks of every pass run at least once a minute."""

    class Nightly(Manager):
        @periodic_task(spacing=86_400)
        async def trim(self, context: object) -> None: ...

    with time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False):
        assert await Nightly().periodic_tasks(context=None) == 60.0
