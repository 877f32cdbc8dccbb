"""Handles of tasks: what can be done with one task of one manager instance."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, overload

from asyncmgr._tasks.managed import TaskStatus
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.overrides import reschedule_options
from asyncmgr.events import RunFinished


class Task(Protocol):
    """What a handle reads of a `ManagedTask`."""

    @property
    def full_name(self) -> str: ...  # pragma: no cover
    @property
    def options(self) -> PeriodicTask: ...  # pragma: no cover


class Owner(Protocol):
    """What a handle asks of the `ManagerState` that made it, and that it therefore cannot import."""

    def describe(self, task: Any) -> str: ...  # pragma: no cover
    def status_of(self, task: Any) -> TaskStatus: ...  # pragma: no cover
    def trigger(
        self, task: Any, *, wait: bool
    ) -> tuple[Any, Awaitable[RunFinished] | None]: ...  # pragma: no cover
    def pause(
        self, task: Any, *, for_: Any, until: datetime | None, note: str | None
    ) -> None: ...  # pragma: no cover
    def resume(self, task: Any) -> None: ...  # pragma: no cover
    def remove(self, task: Any) -> None: ...  # pragma: no cover
    def reschedule(self, task: Any, options: PeriodicTask) -> None: ...  # pragma: no cover


class TaskHandle:
    """One task of one manager instance, declared or added. Belongs to the event loop of the service that runs it."""

    __slots__ = ("_managed", "_state")

    def __init__(self, state: Owner, managed: Task) -> None:
        self._state = state
        self._managed = managed

    def __repr__(self) -> str:
        return f"<TaskHandle {self.full_name}: {self._state.describe(self._managed)}>"

    @property
    def full_name(self) -> str:
        """``manager.task``."""
        return self._managed.full_name

    @property
    def status(self) -> TaskStatus:
        """How it stands at this moment."""
        return self._state.status_of(self._managed)

    @overload
    async def trigger(self, *, wait: Literal[True] = True) -> RunFinished: ...
    @overload
    async def trigger(self, *, wait: Literal[False]) -> str: ...
    async def trigger(self, *, wait: bool = True) -> RunFinished | str:
        """Run it now, beside the grid: its next slot stays. It works while the task is paused.

        Returns
        -------
        RunFinished
            The record of the run, once it has ended. A caller that is cancelled meanwhile does not cancel the run.
        str
            With ``wait=False``, at once: the run's id.

        Raises
        ------
        AlreadyRunning
            A run is in progress, and its `overlap` allows no other.
        ServiceStateError
            No service runs it, or it is switched off.
        TaskFailed
            The service stopped, or the task was removed, before the run could start.
        WrongThread
            It is called from another thread than the service's.
        """
        run, record = self._state.trigger(self._managed, wait=wait)
        return run.run_id if record is None else await record

    def pause(
        self,
        *,
        for_: float | timedelta | None = None,
        until: datetime | None = None,
        note: str | None = None,
    ) -> None:
        """Start it no more until `resume`, or for `for_` seconds, or `until` a moment. A run in progress goes on.

        Raises
        ------
        InvalidPeriodicTaskArg
            Both are given, or one cannot be meant.
        TaskRemoved
            The task was removed.
        WrongThread
            It is called from another thread than the service's.
        """
        self._state.pause(self._managed, for_=for_, until=until, note=note)

    def resume(self) -> None:
        """End a pause. Nothing is caught up: the next slot of the grid is the next to run."""
        self._state.resume(self._managed)

    def remove(self) -> None:
        """Start it no more; a run in progress is not touched. Calling it again does nothing.

        Raises
        ------
        InvalidPeriodicTaskArg
            The task is declared in the class: only added ones can be removed.
        WrongThread
            It is called from another thread than the service's.
        """
        self._state.remove(self._managed)

    def reschedule(
        self, *, spacing: float | timedelta | None = None, cron: str | None = None, tz: Any = None
    ) -> None:
        """Change its schedule: the next slot is the last one plus the new spacing, or now if that is past.

        What is not said stays: the time zone, and whether the task is switched on.

        Raises
        ------
        InvalidPeriodicTaskArg
            Nothing or too much is given, or a value cannot be meant.
        TaskRemoved
            The task was removed.
        WrongThread
            It is called from another thread than the service's.
        """
        options = reschedule_options(self._managed.options, spacing=spacing, cron=cron, tz=tz)
        self._state.reschedule(self._managed, options)
