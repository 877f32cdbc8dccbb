"""Chapter 5: inheritance follows Python."""

from __future__ import annotations

from asyncmgr import Manager, periodic_task


class Volumes(Manager):
    """The general case."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    @periodic_task(spacing=30, run_immediately=True)
    async def sync(self, context: object) -> None:
        self.ran.append("sync")

    @periodic_task(spacing=60, run_immediately=True)
    async def sweep(self, context: object) -> None:
        self.ran.append("sweep")


class Metered:
    """A mixin need not be a manager."""

    ran: list[str]

    @periodic_task(run_immediately=True)
    async def measure(self, context: object) -> None:
        self.ran.append("measure")


class LocalVolumes(Volumes, Metered):
    """The special case: tasks of all bases, some of them changed."""

    async def sync(self, context: object) -> None:
        """Another body for the same schedule."""
        await super().sync(context)
        self.ran.append("and fsync")

    @periodic_task(spacing=-1)
    async def sweep(self, context: object) -> None:
        """Switched off here; in the parent it runs."""


async def test_what_runs_is_what_python_would_call() -> None:
    """Inherited tasks first, an override in its parent's place."""
    volumes = LocalVolumes()
    await volumes.periodic_tasks(context=None, raise_on_error=True)
    assert volumes.ran == ["sync", "and fsync", "measure"]


def test_schedules_are_inherited_with_the_methods() -> None:
    """Only a decorator of its own gives an override another one."""
    assert [(task.full_name, task.spacing) for task in LocalVolumes().task_status()] == [
        ("LocalVolumes.sync", 30.0),
        ("LocalVolumes.measure", 0.0),
    ]
    assert [task.full_name for task in Volumes().task_status()] == ["Volumes.sync", "Volumes.sweep"]
