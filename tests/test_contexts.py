"""A `RunContext` in a unit test."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from asyncmgr import Manager, RunContext, periodic_task
from asyncmgr.testing import VirtualTime, context

NOON = datetime(2026, 3, 27, 12, tzinfo=UTC)


class Volumes(Manager):
    """Keeps what it is told."""

    name = "Vol"
    told: RunContext

    @periodic_task(spacing=60)
    async def sync(self, context: RunContext) -> None:
        self.told = context

    @periodic_task(spacing=60, name="clean")
    async def sweep(self, context: RunContext) -> None: ...

    async def plain(self) -> None: ...


async def test_a_task_is_called_with_what_a_service_would_give_it() -> None:
    """All facts of a run can be chosen; the slot is in UTC (52)."""
    volumes = Volumes()
    slot = NOON.astimezone(timezone(timedelta(hours=2)))
    await volumes.sync(context(volumes.sync, slot=slot, lateness=1.5, trigger="catch_up", host="n1"))
    told = volumes.told
    assert isinstance(told, RunContext)
    assert (told.task, told.slot, told.slot.tzinfo, told.lateness) == ("Vol.sync", NOON, UTC, 1.5)
    assert (told.trigger, told.host, told.service, told.run_id) == ("catch_up", "n1", "test", "test-1")
    assert repr(told) == "<RunContext Vol.sync slot=2026-03-27T12:00:00+00:00 run_id=test-1>"


async def test_what_is_not_said_is_sensible(virtual_time: VirtualTime) -> None:
    """The slot is now, in the time of the test; names are those of the declaration (52)."""
    assert context("Volumes.sync").slot == virtual_time.start
    assert context(Volumes().sweep).task == "Vol.clean"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"slot": datetime(2026, 1, 1)}, "has no time zone"),
        ({"task": Volumes.sync}, "is no bound method with @periodic_task"),
        ({"task": Volumes().plain}, "is no bound method with @periodic_task"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], said: str) -> None:
    """The error says what to write (52)."""
    with pytest.raises(ValueError, match=said):
        context(**arguments)


def test_it_needs_no_extra() -> None:
    """A unit test needs neither time-machine nor pytest-asyncio for it (52)."""
    code = (
        "import sys; sys.modules.update(time_machine=None, pytest=None); "
        "from asyncmgr.testing import context, RunReport; context('A.b')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
