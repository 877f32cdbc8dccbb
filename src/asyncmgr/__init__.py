"""Periodic work inside async Python services.

Managers declare coroutine tasks with `@periodic_task`. A `Service` runs them, or the application awaits
`manager.periodic_tasks(context)` itself. This module only gathers the names that users import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncmgr._rpc.client import RpcClient
from asyncmgr._rpc.context import Call, Caller, current_call
from asyncmgr._rpc.declare import rpc
from asyncmgr._service.capability_manager import SchedulerDependentManager
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.health import HealthReport
from asyncmgr._service.key_verbs import KeyHandle, KeyStatus
from asyncmgr._service.manager import Manager
from asyncmgr._service.service import Health, Service, StopReport
from asyncmgr._service.signals import run
from asyncmgr._tasks.declare import periodic_task
from asyncmgr._tasks.keys import KeyCounts
from asyncmgr._tasks.runs import RunContext
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL
from asyncmgr._tasks.status import TaskStatus
from asyncmgr.capabilities import HostChange, Hosts, HostState
from asyncmgr.errors import (
    AlreadyRunning,
    AsyncmgrError,
    InvalidArguments,
    InvalidCapabilities,
    InvalidHook,
    InvalidKeys,
    InvalidName,
    InvalidPeriodicTaskArg,
    InvalidProgress,
    InvalidRpcMethod,
    InvalidSettings,
    InvalidTarget,
    ManagerInUse,
    ManagerNotInitialised,
    MessageTooLarge,
    NoResponders,
    NoSuchMethod,
    NotOwner,
    RemoteError,
    RevisionConflict,
    RpcError,
    RpcTimeout,
    ServiceBusy,
    ServiceStateError,
    ServiceStopped,
    Skip,
    TaskFailed,
    TaskRemoved,
    TransportClosed,
    TransportError,
    UnknownKey,
    UnsupportedVersion,
    WrongThread,
)
from asyncmgr.events import Outcome
from asyncmgr.transports import Transport, open_transport

if TYPE_CHECKING:
    from asyncmgr._monitoring.collector import Collector
    from asyncmgr._monitoring.tracing import trace
    from asyncmgr._monitoring.web import web
    from asyncmgr._settings.model import Settings

__all__ = [
    "DEFAULT_INTERVAL",
    "AlreadyRunning",
    "AsyncmgrError",
    "Call",
    "Caller",
    "Collector",
    "Health",
    "HealthReport",
    "HostChange",
    "HostState",
    "Hosts",
    "InvalidArguments",
    "InvalidCapabilities",
    "InvalidHook",
    "InvalidKeys",
    "InvalidName",
    "InvalidPeriodicTaskArg",
    "InvalidProgress",
    "InvalidRpcMethod",
    "InvalidSettings",
    "InvalidTarget",
    "KeyCounts",
    "KeyHandle",
    "KeyStatus",
    "Manager",
    "ManagerInUse",
    "ManagerNotInitialised",
    "MessageTooLarge",
    "NoResponders",
    "NoSuchMethod",
    "NotOwner",
    "Outcome",
    "RemoteError",
    "RevisionConflict",
    "RpcClient",
    "RpcError",
    "RpcTimeout",
    "RunContext",
    "SchedulerDependentManager",
    "Service",
    "ServiceBusy",
    "ServiceStateError",
    "ServiceStopped",
    "Settings",
    "Skip",
    "StopReport",
    "TaskFailed",
    "TaskHandle",
    "TaskRemoved",
    "TaskStatus",
    "Transport",
    "TransportClosed",
    "TransportError",
    "UnknownKey",
    "UnsupportedVersion",
    "WrongThread",
    "current_call",
    "open_transport",
    "periodic_task",
    "rpc",
    "run",
    "trace",
    "web",
]

_LOADED_AT_FIRST_USE = {
    "Collector": "asyncmgr._monitoring.collector",
    "Settings": "asyncmgr._settings.model",
    "trace": "asyncmgr._monitoring.tracing",
    "web": "asyncmgr._monitoring.web",
}
"""By name: the module that is imported at the name's first use, since it loads a library that is slow to import."""


def __getattr__(name: str) -> Any:
    module = _LOADED_AT_FIRST_USE.get(name)
    if module is None:
        raise AttributeError(f"module 'asyncmgr' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value
