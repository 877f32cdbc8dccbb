"""Periodic work inside async Python services.

Managers declare coroutine tasks with `@periodic_task`; a `Service` runs them, or the service awaits
`manager.periodic_tasks(context)` itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncmgr.agenda import TaskStatus
from asyncmgr.capabilities import SchedulerDependentManager
from asyncmgr.errors import (
    AsyncmgrError,
    InvalidCapabilities,
    InvalidName,
    InvalidPeriodicTaskArg,
    InvalidSettings,
    InvalidTarget,
    ManagerInUse,
    ManagerNotInitialised,
    MessageTooLarge,
    RevisionConflict,
    ServiceStateError,
    ServiceStopped,
    TaskFailed,
    TransportClosed,
    TransportError,
)
from asyncmgr.hosts import HostChange, Hosts, HostState
from asyncmgr.manager import Manager, TaskHandle
from asyncmgr.runs import RunContext
from asyncmgr.schedules import DEFAULT_INTERVAL
from asyncmgr.service import Health, Service, StopReport
from asyncmgr.signals import run
from asyncmgr.task import Outcome, periodic_task
from asyncmgr.transports import Transport, open_transport

if TYPE_CHECKING:
    from asyncmgr.settings import Settings

__all__ = [
    "DEFAULT_INTERVAL",
    "AsyncmgrError",
    "Health",
    "HostChange",
    "HostState",
    "Hosts",
    "InvalidCapabilities",
    "InvalidName",
    "InvalidPeriodicTaskArg",
    "InvalidSettings",
    "InvalidTarget",
    "Manager",
    "ManagerInUse",
    "ManagerNotInitialised",
    "MessageTooLarge",
    "Outcome",
    "RevisionConflict",
    "RunContext",
    "SchedulerDependentManager",
    "Service",
    "ServiceStateError",
    "ServiceStopped",
    "Settings",
    "StopReport",
    "TaskFailed",
    "TaskHandle",
    "TaskStatus",
    "Transport",
    "TransportClosed",
    "TransportError",
    "open_transport",
    "periodic_task",
    "run",
]

_LOADED_AT_FIRST_USE = {"Settings": "asyncmgr.settings"}
"""Names whose module needs a library that `import asyncmgr` does not load."""


def __getattr__(name: str) -> Any:
    module = _LOADED_AT_FIRST_USE.get(name)
    if module is None:
        raise AttributeError(f"module 'asyncmgr' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value
