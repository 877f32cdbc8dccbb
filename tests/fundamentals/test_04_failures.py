"""Chapter 4: a task that fails is reported and hurts no other."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from asyncmgr import Manager, TaskFailed, periodic_task
from asyncmgr.testing import VirtualTime


class Disks(Manager):
    """A task that fails, one that hangs and one that works."""

    def __init__(self) -> None:
        super().__init__()
        self.swept = 0

    @periodic_task
    async def probe(self, context: str) -> None:
        if context == "broken":
            raise OSError("no such disk")
        if context == "confused":
            raise asyncio.CancelledError

    @periodic_task(timeout=5)
    async def mount(self, context: str) -> None:
        if context == "hanging":
            await asyncio.Event().wait()

    @periodic_task
    async def sweep(self, context: str) -> None:
        self.swept += 1


async def test_the_pass_goes_on() -> None:
    """The error is logged with the task's full name and its traceback."""
    disks = Disks()
    with structlog.testing.capture_logs() as logs:
        await disks.periodic_tasks("broken")
    assert disks.swept == 1
    assert [(log["event"], log["task"], log["outcome"]) for log in logs] == [
        ("task.failed", "Disks.probe", "failed")
    ]


async def test_a_test_wants_to_see_the_error() -> None:
    """`raise_on_error` lets it out as it is; what was not started stays due."""
    disks = Disks()
    with pytest.raises(OSError, match="no such disk"):
        await disks.periodic_tasks("broken", raise_on_error=True)
    assert disks.swept == 0


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    """It is not taken for one of the pass."""
    with pytest.raises(TaskFailed):
        await Disks().periodic_tasks("confused", raise_on_error=True)


async def test_a_timeout_ends_a_task_that_hangs(virtual_time: VirtualTime) -> None:
    """The fixture brings an event loop that jumps over the five seconds instead of waiting."""
    disks = Disks()
    await disks.periodic_tasks("hanging")
    assert disks.swept == 1
    assert virtual_time.elapsed == 5
