"""The one place where the command line reaches into managers, services and settings.

What it needs has no public name yet; everything else here works with `Task`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter

from asyncmgr._common.clock import Moment, to_us
from asyncmgr._service.manager import Manager, ManagerState
from asyncmgr._service.service import Service
from asyncmgr._settings.model import Settings
from asyncmgr._tasks.agenda import Entry
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr.transports import Transport


@dataclass(frozen=True)
class Task:
    """One task of a manager, switched on or not."""

    _entry: Entry
    _runs_here: bool

    @property
    def full_name(self) -> str:
        return self._entry.full_name

    @property
    def name(self) -> str:
        """The second half of the full name."""
        return self._entry.name

    @property
    def options(self) -> PeriodicTask:
        """What is in force."""
        return self._entry.options

    @property
    def is_overridden(self) -> bool:
        """The settings say something else than the code."""
        return self._entry.options != self._entry.declared

    @property
    def off(self) -> str | None:
        """Why it does not run here; `None` = it runs."""
        return None if self._runs_here else self._entry.options.switched_off or _ELSEWHERE

    def window(self, start: Moment) -> int:
        """Microseconds by which it may start early, in a service that starts at this moment."""
        return self._planned(start).window

    def slots(self, start: Moment) -> Iterator[datetime]:
        """The slots to come in a service that starts at this moment; ends where the calendar does."""
        planned = self._planned(start)
        slot = planned.slot
        while True:
            try:
                yield planned.slot_datetime(slot, start)
                slot = planned.grid.first(slot)
            except (OverflowError, StopIteration):  # after the year 9999; no such date within decades
                return

    def switch_off(self, reason: str) -> None:
        """Keep it from running, whatever the settings say of it."""
        for attribute in ("declared", "options"):
            options: PeriodicTask = getattr(self._entry, attribute)
            setattr(self._entry, attribute, replace(options, switched_off=reason))

    def _planned(self, start: Moment) -> Entry:
        # A copy: looking at a task must not move its slots.
        entry = self._entry
        copy = Entry(
            entry.owner,
            entry.body,
            entry.full_name,
            entry.options,
            tolerance=entry.tolerance,
            initial_delay=entry.initial_delay,
        )
        copy.spread = entry.spread
        copy.plan(start, by_service=True)
        return copy


_ELSEWHERE = "left to another process"
"""Declared with `external_process_ok`, and the setting `run_external_periodic_tasks` is false."""


def tasks_of_manager(manager: Manager) -> list[Task]:
    """All of its tasks, those that are switched off too, in definition order."""
    state = _state(manager)
    return [Task(entry, state.runs_here(entry)) for entry in state.entries().values()]


def tasks_of(service: Service) -> list[Task]:
    """The tasks of all of its managers."""
    for manager in service.managers:
        _place(manager, service)
    return [task for manager in service.managers for task in tasks_of_manager(manager)]


def _place(manager: Manager, service: Service) -> None:
    """Give the tasks what the start of the service would give them: its host decides where `phase="auto"` begins."""
    state = _state(manager)
    state._host = state._own_host or service.host  # noqa: SLF001 - as `ManagerState.join` does
    for entry in state.entries().values():
        entry.tolerance = to_us(state.settings.tolerance)
        state._set_spread(entry)  # noqa: SLF001 - as `ManagerState.start` does


def has_log_level(service: Service, full_name: str) -> bool:
    """The settings give this task a level of its own, at which the service logs each of its runs."""
    found = [_state(manager).entries().get(full_name) for manager in service.managers]
    return any(entry is not None and entry.log_level is not None for entry in found)


def hand_out_settings(service: Service) -> None:
    """Give the managers the settings of their service, as its start would."""
    for manager in service.managers:
        _state(manager).give(service.settings)


@dataclass(frozen=True, slots=True)
class Drain:
    """What a stop waits for."""

    runs: list[tuple[str, float]]
    """Full names of the tasks whose runs are in progress, with the seconds since they began, the oldest first."""
    calls: list[str]
    """Full names of the methods whose calls are."""
    seconds: float
    """How long they may go on from now."""


def drain_of(service: Service) -> Drain:
    """What the stop of this service, which has begun, waits for."""
    now = asyncio.get_running_loop().time()
    runner, server = service._runner, service._server  # noqa: SLF001 - a service does not tell what is in progress
    runs = [(run.full_name, now - run.started) for run in (runner.waiting if runner is not None else ())]
    calls = [call.full_name for call in (server.waiting if server is not None else ())]
    left = service._drain._until - now  # noqa: SLF001 - nor until when it waits for that
    return Drain(sorted(runs, key=itemgetter(1), reverse=True), sorted(calls), max(0.0, left))


def given_transport(service: Service) -> str | Transport:
    """The transport as the service was given it: a URL, or an open one."""
    return service._given_transport  # noqa: SLF001 - `service.transport` is there only while it runs


def with_argument(settings: Settings, **more: object) -> Settings:
    """The settings with one more explicit argument, which a reload does not forget."""
    explicit = settings._explicit  # noqa: SLF001 - there is no public way to add an argument
    return type(settings)(**{**explicit, **more})


def _state(manager: Manager) -> ManagerState:
    return manager._asyncmgr  # noqa: SLF001 - there is no public way to tasks that are switched off
