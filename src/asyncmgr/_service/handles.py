"""`TaskHandle`: the door through which users see and change one task of one manager instance."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, overload

from asyncmgr._service.key_verbs import KeyHandle, KeyVerbs
from asyncmgr._service.steering import Steering
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.overrides import reschedule_options
from asyncmgr._tasks.status import TaskStatus
from asyncmgr.events import RunFinished


class Owner(Protocol):
    """The part of `ManagerState` that a handle reads; a Protocol, since `manager_state` imports this module."""

    @property
    def verbs(self) -> Any: ...  # pragma: no cover
    def describe(self, task: Any) -> str: ...  # pragma: no cover
    def status_of(self, task: Any) -> TaskStatus: ...  # pragma: no cover
    def keys_of(self, task: Any) -> Any: ...  # pragma: no cover


class TaskHandle:
    """One task of one manager instance, declared or added.

    The handle belongs to the event loop of the service that runs the task.
    """

    __slots__ = ("_managed", "_state")

    def __init__(self, state: Owner, managed: Any) -> None:
        self._state = state
        self._managed: ManagedTask = managed

    def __repr__(self) -> str:
        return f"<TaskHandle {self.full_name}: {self._state.describe(self._managed)}>"

    @property
    def full_name(self) -> str:
        """``manager.task``."""
        return self._managed.full_name

    @property
    def status(self) -> TaskStatus:
        """The task's status at this moment."""
        return self._state.status_of(self._managed)

    @overload
    async def trigger(self, *, wait: Literal[True] = True) -> RunFinished: ...
    @overload
    async def trigger(self, *, wait: Literal[False]) -> str: ...
    async def trigger(self, *, wait: bool = True) -> RunFinished | str:
        """Run the task now, outside its grid: the next slot stays. This works while the task is paused too.

        A process that is about to become the holder of a task that only one may run becomes that first. The options of
        the task apply, such as `timeout`. A run of another task that waits for this one here needs no
        place of `max_runs` meanwhile.

        Returns
        -------
        RunFinished
            The record of the run, when the run has ended. A caller that is cancelled meanwhile does not cancel the
            run.
        str
            The run's id, at once, with ``wait=False``.

        Raises
        ------
        AlreadyRunning
            A run is in progress, and the task's `overlap` allows no second one. Or the caller is a run that would wait
            for one that is queued behind it.
        ServiceStateError
            No service runs the task, or the service stops, or the task is switched off.
        NotOwner
            Only one process may run the task, and it is not this one.
        TaskFailed
            The service stopped, or the task was removed or disabled, before the run could start.
        TaskRemoved
            The task was removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        await self._verbs.until_settled(self._managed)
        run, record = self._verbs.trigger(self._managed, wait=wait)
        return run.run_id if record is None else await record

    # Keys

    def key(self, key: str | int) -> KeyHandle:
        """Find one key of a task with `each=`, as the manager gave it or by its text.

        Raises
        ------
        ServiceStateError
            The task has no keys.
        UnknownKey
            It has no such key now.
        """
        found = self._keys().find(key)
        return KeyHandle(self._keys, self.full_name, found)

    async def refresh(self) -> int:
        """Ask the manager for the task's keys now; return how many there are, when they are in force.

        Raises
        ------
        InvalidKeys
            The manager gave none, and the keys of before stay; the log says why.
        ServiceStateError
            The task has no keys, or no service runs it.
        """
        return await self._keys().refresh()

    @property
    def _verbs(self) -> Steering:
        verbs: Steering = self._state.verbs
        return verbs

    def _keys(self) -> KeyVerbs:
        verbs: KeyVerbs = self._state.keys_of(self._managed)
        return verbs

    def pause(
        self,
        *,
        for_: float | timedelta | None = None,
        until: datetime | None = None,
        note: str | None = None,
    ) -> None:
        """Start no run until `resume`, for `for_` seconds, or `until` a moment. A run in progress goes on.

        A queued slot is skipped, with the reason `paused`. A length is measured by the time that schedules follow; a
        moment is one of the wall clock, wherever that is set. A new pause replaces the one before.

        Raises
        ------
        InvalidPeriodicTaskArg
            Both `for_` and `until` are given, or a value is not accepted.
        TaskRemoved
            The task was removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        self._verbs.pause(self._managed, for_=for_, until=until, note=note)

    def resume(self) -> None:
        """End a pause. Slots that passed meanwhile are not caught up: the next run is for the next slot of the grid."""
        self._verbs.resume(self._managed)

    def enable(self) -> None:
        """Switch the task on, until the restart, or a reload of settings that say otherwise about `enabled`.

        It fires nothing: the next run is for the next slot of the grid. A task that is on stays so.

        Raises
        ------
        ServiceStateError
            The task has a negative spacing, or is left to another process by the settings.
        TaskRemoved
            The task was removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        self._verbs.enable(self._managed)

    def disable(self, *, note: str | None = None) -> None:
        """Switch the task off, until `enable`, the restart, or a reload of settings that say otherwise about `enabled`.

        It has no slots then, and cannot be triggered. A run in progress goes on.

        Raises
        ------
        TaskRemoved
            The task was removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        self._verbs.disable(self._managed, note)

    def cancel(self, run_id: str | None = None) -> tuple[str, ...]:
        """Cancel the task's runs in progress, or only the one of this id.

        The outcome of each is `cancelled`, whatever its body then does, and is no failure. One that still goes on 10 s
        later is reported as `task.leaked`, and overlap still counts it as running.

        Returns
        -------
        tuple of str
            The ids of the runs that were cancelled; empty = none was in progress.

        Raises
        ------
        TaskRemoved
            The task was removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        return self._verbs.cancel(self._managed, run_id)

    def remove(self) -> None:
        """Remove the task from its manager; a run in progress goes on. A second call does nothing.

        Raises
        ------
        InvalidPeriodicTaskArg
            The task is declared in the class: only added tasks can be removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        self._verbs.remove(self._managed)

    def reschedule(
        self, *, spacing: float | timedelta | None = None, cron: str | None = None, tz: Any = None
    ) -> None:
        """Change the schedule: the next slot is the last one plus the new spacing, or now if that is past.

        Options that are not given stay: the time zone, and whether the task is switched on. The new schedule holds
        until the restart, or a reload of settings that say otherwise about this task's schedule.

        Raises
        ------
        InvalidPeriodicTaskArg
            Neither or too many of the options are given, or a value is not accepted.
        TaskRemoved
            The task was removed.
        WrongThread
            The call comes from another thread than the service's.
        """
        options = reschedule_options(self._managed.options, spacing=spacing, cron=cron, tz=tz)
        self._verbs.reschedule(self._managed, options)
