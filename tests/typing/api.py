"""The decorators as users write them. Never run: type checkers read it, and find nothing to say.

`assert_type` proves what a checker infers; a `type: ignore` proves what it refuses, since an unused one is an error.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, assert_type
from zoneinfo import ZoneInfo

from asyncmgr import (
    Manager,
    Retry,
    RunContext,
    SchedulerDependentManager,
    TaskHandle,
    TaskStatus,
    periodic_task,
)


class Volumes(Manager):
    """Every spelling of the decorator, on every kind of task."""

    name = "volumes"

    def __init__(self, host: str | None = None) -> None:
        super().__init__(host=host)
        self.count = 0

    @periodic_task
    async def bare(self, context: RunContext) -> None:
        assert_type(context.slot, datetime)
        assert_type(context.lateness, float)

    @periodic_task()
    async def brackets(self, context: RunContext) -> int:
        self.count += 1
        return self.count

    @periodic_task(spacing=30, run_immediately=True)
    async def spaced(self, context: RunContext, depth: int = 1) -> str:
        """Sync as deep as `depth`."""
        return "x" * depth

    @periodic_task(spacing=timedelta(minutes=5), jitter=10, tolerance=0, timeout=60.5, overlap="queue")
    async def careful(self, context: RunContext) -> None: ...

    @periodic_task(cron="30 2 * * *", tz="Europe/Berlin", name="nightly-trim", enabled=False)
    async def trim(self, context: RunContext) -> None: ...

    @periodic_task(cron="@daily", tz=ZoneInfo("Europe/Berlin"), misfire_grace=60)
    async def zoned(self, context: RunContext) -> None: ...

    @periodic_task(
        spacing=60, retry=Retry(3, on=(OSError, KeyError)), backoff=True, pause_after=3, freshness=600
    )
    async def stubborn(self, context: RunContext) -> None: ...

    @periodic_task(spacing=60, retry=3, freshness=timedelta(minutes=9), critical=True)
    async def fresh(self, context: RunContext) -> int:
        return context.attempt

    @periodic_task(at=datetime(2027, 1, 1, tzinfo=UTC), misfire_grace=timedelta(minutes=5))
    async def once(self, context: RunContext) -> None: ...

    @periodic_task(at=[datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)])
    async def twice(self, context: RunContext) -> None: ...

    @periodic_task(initial_delay=timedelta(seconds=5), external_process_ok=True)
    async def elsewhere(self, context: object) -> None: ...


class LocalVolumes(Volumes):
    """Overrides with and without the decorator."""

    async def bare(self, context: RunContext) -> None:
        await super().bare(context)

    @periodic_task(spacing=60)
    async def brackets(self, context: RunContext) -> int:
        return assert_type(await super().brackets(context), int)

    @periodic_task
    async def spaced(self, context: RunContext, depth: int = 2, *, fast: bool = False) -> str:
        return await super().spaced(context, depth)

    @periodic_task(enabled=False)
    async def careful(self, context: object) -> None: ...


class Wrong(Volumes):
    """An override that does not fit is seen through the decorator."""

    @periodic_task
    async def brackets(self, context: RunContext) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return ""


class Mixin:
    """Tasks on a class that is no manager."""

    @periodic_task(spacing=5)
    async def mixed(self, context: RunContext) -> None: ...


class Agent(Mixin, SchedulerDependentManager):
    """Several bases, one of them with a service name."""

    service_name = "agent"


class Syncs(Protocol):
    """What a decorated method fits: the plain method that it is."""

    async def spaced(self, context: RunContext, depth: int = 1) -> str: ...


async def use(volumes: LocalVolumes, context: RunContext) -> None:
    """Direct awaits keep parameters and result."""
    assert_type(await volumes.bare(context), None)
    assert_type(await volumes.brackets(context), int)
    assert_type(await volumes.spaced(context, depth=3, fast=True), str)
    waiting: Awaitable[int] = volumes.brackets(context)
    assert_type(await waiting, int)
    await volumes.spaced(context, depth="3")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await volumes.spaced()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    syncs: Syncs = volumes
    assert_type(await syncs.spaced(context), str)


async def drive(volumes: Volumes) -> None:
    """The manager's own methods."""
    assert_type(await volumes.periodic_tasks(None, raise_on_error=True), float)
    assert_type(volumes.task_status(), tuple[TaskStatus, ...])
    assert_type(volumes.task_status()[0].next_due, datetime | None)
    assert_type(volumes.host, str)
    assert_type(volumes.name, str)
    assert_type(Volumes.name, str)
    volumes.hosst  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnusedExpression] # noqa: B018


async def added(context: RunContext) -> None: ...


def add(volumes: Volumes) -> None:
    """Tasks of one instance."""
    handle = volumes.add_periodic_task(added, spacing=10)
    assert_type(handle, TaskHandle)
    volumes.add_periodic_task(volumes.spaced, name="again")
    handle.reschedule(spacing=timedelta(minutes=1))
    handle.reschedule(cron="@daily", tz="Europe/Berlin")
    handle.remove()


def traced(
    function: Callable[[Any, RunContext], Awaitable[int]],
) -> Callable[[Any, RunContext], Awaitable[int]]:
    """A user's own decorator."""
    return function


class Stacked(Manager):
    """Under and over another decorator."""

    @periodic_task(spacing=1)
    @traced
    async def under(self, context: RunContext) -> int:
        return 1

    @traced
    @periodic_task
    async def over(self, context: RunContext) -> int:
        return 1


every_minute = periodic_task(spacing=60)


class Shared(Manager):
    """One decorator object for many methods, each of its own type."""

    @every_minute
    async def first(self, context: RunContext) -> int:
        return 1

    @every_minute
    async def second(self, context: RunContext, path: str = "/") -> str:
        return path


async def use_shared(shared: Shared, context: RunContext) -> None:
    """Neither method took the other's type."""
    assert_type(await shared.first(context), int)
    assert_type(await shared.second(context, path="/"), str)


def refused() -> None:
    """What a checker sees before the program runs."""
    periodic_task(10)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    periodic_task(spacing="30s")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    periodic_task(spacing=None)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    periodic_task(ticks_between_runs=3)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    periodic_task(overlap="drop")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    periodic_task(at=5)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    periodic_task(tz=1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    periodic_task(enabled=None)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
