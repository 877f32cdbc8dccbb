"""Chapter 1: a manager groups the periodic tasks of one aspect of a system."""

from __future__ import annotations

from asyncmgr import Manager, periodic_task


class Volumes(Manager):
    """Everything that has to be done for volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.synced = 0

    @periodic_task
    async def heartbeat(self, context: object) -> None:
        """Due on every pass."""

    @periodic_task(spacing=30)
    async def sync(self, context: object) -> None:
        """Due every 30 seconds, for the first time 30 seconds after the start."""
        self.synced += 1

    @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
    async def trim(self, context: object) -> None:
        """Due every night at half past two."""

    @periodic_task(spacing=60, enabled=False)
    async def experiment(self, context: object) -> None:
        """Switched off: as if it were not there."""


def test_a_manager_knows_its_tasks() -> None:
    """In the order in which they are written; what is switched off is left out."""
    volumes = Volumes()
    assert [(task.full_name, task.spacing, task.schedule) for task in volumes.task_status()] == [
        ("Volumes.heartbeat", 0.0, "every pass"),
        ("Volumes.sync", 30.0, "every 30s"),
        ("Volumes.trim", None, "30 2 * * *"),
    ]


async def test_a_task_is_still_a_method() -> None:
    """It can be awaited like any other; that is a plain call, and no run of the task."""
    volumes = Volumes()
    await volumes.sync(context=None)
    assert volumes.synced == 1
    assert [task.last_run for task in volumes.task_status()] == [None, None, None]
