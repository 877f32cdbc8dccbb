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

_ELSEWHERE = "left to another process"
"""Declared with `external_process_ok`, and the setting `run_external_periodic_tasks` is false."""


@dataclass(frozen=True)
class Task:
    """One task of a manager, switched on or not."""

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
        """What is in force."""
        return self.managed.options

    @property
    def is_overridden(self) -> bool:
        """The settings say something else than the code."""
        return self.managed.options != self.managed.declared

    @property
    def off(self) -> str | None:
        """Why it does not run here; `None` = it runs."""
        return None if self.is_on else self.managed.options.switched_off or _ELSEWHERE

    def window(self, start: Moment) -> int:
        """Microseconds by which it may start early, in a service that starts at this moment."""
        return self.managed.plan.anew(start, by_service=True).window

    def slots(self, start: Moment) -> Iterator[datetime]:
        """The slots to come in a service that starts at this moment; ends where the calendar does."""
        plan = self.managed.plan.anew(start, by_service=True)
        slot = plan.slot
        while slot is not None:
            try:
                yield plan.datetime_of(slot, start)
                slot = plan.grid.first(slot)
            except (OverflowError, StopIteration):  # after the year 9999; no such date within decades
                return

    def switch_off(self, reason: str) -> None:
        """Keep it from running, whatever the settings say of it."""
        self.managed.declared = replace(self.managed.declared, switched_off=reason)
        self.managed.plan.adopt(replace(self.managed.options, switched_off=reason))


def tasks_of_manager(manager: Manager) -> list[Task]:
    """All of its tasks, those that are switched off too, in definition order."""
    state = state_of(manager)
    return [Task(managed, state.is_on(managed)) for managed in state.tasks().values()]


def tasks_of(service: Service) -> list[Task]:
    """The tasks of all of its managers, as a start of the service would plan them."""
    for manager in service.managers:
        state_of(manager).place(service.host)
    return [task for manager in service.managers for task in tasks_of_manager(manager)]


def has_log_level(service: Service, full_name: str) -> bool:
    """The settings give this task a level of its own, at which the service logs each of its runs."""
    found = [state_of(manager).tasks().get(full_name) for manager in service.managers]
    return any(managed is not None and managed.log_level is not None for managed in found)


def hand_out_settings(service: Service) -> None:
    """Give the managers the settings of their service, as its start would."""
    for manager in service.managers:
        state_of(manager).give(service.settings)
