"""`BareService`: a service that reaches nothing outside of its process, for rehearsals of a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from asyncmgr._service.manager import Manager
from asyncmgr._service.service import Service
from asyncmgr._service.steps import Step
from asyncmgr._settings.model import Settings
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import PeriodicTask

_BARE: dict[str, Any] = {
    "transport": "memory://",
    "store": None,
    "history": None,
    "control": False,
    "block_threshold": 0.0,
}
"""The settings of a service that nobody sees."""

_NEVER = {"open control", "read slots", "write slots"}
"""Steps that touch files of the real service."""

_NEEDED = {
    "release managers",
    "join managers",
    "close gates",
    "cancel",
    "drain",
    "start delay",
    "refuse runs",
    "start tasks",
}
"""The steps without which no task runs."""


class BareService(Service):
    """Runs the tasks of managers as the only process of their application, and tells nobody of it.

    It has a transport in memory, and neither a store, a history file, a control socket nor locks: a task of a scope is
    its own.

    Parameters
    ----------
    settings
        Those of the real service.
    with_hooks
        Whether the managers' hooks and the plugins are called; without them nothing is connected or announced either.
    amend
        Returns the options that a task gets in place of those in force.
    """

    def __init__(
        self,
        *managers: Manager,
        name: str,
        host: str,
        settings: Settings,
        with_hooks: bool,
        amend: Callable[[ManagedTask], PeriodicTask],
    ) -> None:
        super().__init__(*managers, name=name, host=host, settings=settings.model_copy(update=_BARE))
        self._with_hooks = with_hooks
        self._amend = amend
        self._scopes.gates.makers.clear()

    def _steps(self) -> Iterator[Step]:
        for step in super()._steps():
            if step.name in _NEEDED or (self._with_hooks and step.name not in _NEVER):
                yield step

    async def _start_tasks(self) -> None:
        for task in self._tasks():
            task.plan.adopt(replace(self._amend(task), scope="process", persist=False))
        await super()._start_tasks()
