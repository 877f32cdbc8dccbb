"""The tasks of a service that has not been started, as the commands show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from asyncmgr._common.clock import Moment
from asyncmgr._service.manager import Manager, state_of
from asyncmgr._service.service import Service
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import PeriodicTask

_LEFT_TO_OTHERS = "left to another process"
"""Why a task does not run: it has `external_process_ok`, and the setting `run_external_periodic_tasks` is false."""


@dataclass(frozen=True)
class Task:
    """One task of a manager, switched on or off."""

    managed: ManagedTask
    is_on: bool

    @property
    def full_name(self) -> str:
        return self.managed.full_name

    @property
    def name(self) -> str:
        """The second half of the full name."""
        return self.managed.name

    @property
    def options(self) -> PeriodicTask:
        """The options in force."""
        return self.managed.options

    @property
    def is_overridden(self) -> bool:
        """Whether the settings change what the code declares."""
        return self.managed.options != self.managed.declared

    @property
    def off(self) -> str | None:
        """Why the task does not run here; `None` = it runs."""
        return None if self.is_on else self.managed.options.switched_off or _LEFT_TO_OTHERS

    def window(self, start: Moment) -> int:
        """Microseconds by which the task may start early, in a service that starts at this moment."""
        return self.managed.plan.anew(start, by_service=True).window

    def slots(self, start: Moment) -> Iterator[datetime]:
        """Yield the slots to come in a service that starts at this moment; ends at the calendar's last year."""
        plan = self.managed.plan.anew(start, by_service=True)
        slot = plan.slot
        while slot is not None:
            try:
                yield plan.datetime_of(slot, start)
                slot = plan.grid.first(slot)
            except (OverflowError, StopIteration):  # after the year 9999; no such date within decades
                return

    def switch_off(self, reason: str) -> None:
        """Keep the task from running, whatever the settings say."""
        self.managed.declared = replace(self.managed.declared, switched_off=reason)
        self.managed.plan.adopt(replace(self.managed.options, switched_off=reason))


def tasks_of_manager(manager: Manager) -> list[Task]:
    """List all tasks of a manager, also those that are off, in definition order."""
    state = state_of(manager)
    return [Task(managed, state.is_on(managed)) for managed in state.tasks().values()]


def tasks_of(service: Service) -> list[Task]:
    """List the tasks of all managers, as a start of the service would plan them."""
    for manager in service.managers:
        state_of(manager).place(service.host)
    return [task for manager in service.managers for task in tasks_of_manager(manager)]


def has_log_level(service: Service, full_name: str) -> bool:
    """Whether the settings give this task a log level, at which the service logs each of its runs."""
    found = [state_of(manager).tasks().get(full_name) for manager in service.managers]
    return any(managed is not None and managed.log_level is not None for managed in found)


def hand_out_settings(service: Service) -> None:
    """Give the managers the settings of their service, as its start would."""
    for manager in service.managers:
        state_of(manager).give(service.settings)
