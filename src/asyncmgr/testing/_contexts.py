"""Builds a `RunContext` for unit tests that call a task as a plain method."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._tasks.declare import declared
from asyncmgr._tasks.progress import Progress, read_progress
from asyncmgr._tasks.runs import RunContext, Trigger


def context(
    task: str | Callable[..., Any] = "Manager.task",
    *,
    slot: datetime | None = None,
    lateness: float = 0.0,
    run_id: str = "test-1",
    trigger: Trigger = "schedule",
    host: str = "localhost",
    service: str = "test",
    fencing_token: int | None = None,
    slot_number: int | None = None,
    key: str | int | None = None,
    attempt: int = 1,
) -> RunContext:
    """Build the context that a service hands to a run: ``await volumes.sync(context(volumes.sync))``.

    Parameters
    ----------
    task
        The full name, ``"Volumes.sync"``, or the bound method that has this name.
    slot
        The planned moment, aware. Default: now, as `datetime.now` says, also in virtual time.
    lateness
        Seconds from the slot to the start.

    Raises
    ------
    ValueError
        `slot` has no time zone.
    """
    if slot is not None and slot.tzinfo is None:
        raise ValueError(f"slot={slot!r} has no time zone; write e.g. datetime(2026, 1, 1, tzinfo=UTC)")
    name = task if isinstance(task, str) else _full_name(task)
    planned = to_datetime(read_wall()) if slot is None else slot.astimezone(UTC)
    return _Facts(
        task=name,
        slot=planned,
        lateness=lateness,
        run_id=run_id,
        trigger=trigger,
        host=host,
        service=service,
        fencing_token=fencing_token,
        slot_number=slot_number,
        key=key,
        attempt=attempt,
    )


def _full_name(task: Callable[..., Any]) -> str:
    owner = getattr(task, "__self__", None)
    record = declared(task)
    if owner is None or record is None:
        raise ValueError(
            f"{getattr(task, '__qualname__', task)!r} is no bound method with @periodic_task; "
            "write context(volumes.sync), or the full name: context('Volumes.sync')"
        )
    return f"{owner.name}.{record.name or task.__name__}"


class _Facts(RunContext):
    """The facts of a run that never took place."""

    # They take the place of the properties, and of the abstract ones too.
    task = slot = lateness = run_id = trigger = host = service = cast("Any", None)
    fencing_token = slot_number = key = cast("Any", None)
    fencing_token = slot_number = attempt = cast("Any", None)

    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)
        self.reported: list[Progress] = []
        """What the task told by `progress`, in its order."""

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self.reported.append(read_progress(done, total, message))
