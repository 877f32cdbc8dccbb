"""The RPC interface that every service serves: `ping` and `info`, in the namespace ``asyncmgr``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from asyncmgr._rpc.context import Caller
from asyncmgr._rpc.declare import rpc
from asyncmgr._rpc.versions import Endpoint
from asyncmgr._service.manager import Manager
from asyncmgr._tasks.managed import TaskStatus
from asyncmgr.errors import InvalidRpcMethod

if TYPE_CHECKING:
    from asyncmgr._rpc.validation import Method

NAMESPACE = "asyncmgr"


class Inside:
    """Answers questions of any caller about the service.

    Parameters
    ----------
    this
        The service and its host.
    interfaces
        Each manager with the RPC interface that it serves.

    Raises
    ------
    InvalidRpcMethod
        A manager has the namespace ``asyncmgr``, which belongs to this interface.
    """

    name = "asyncmgr"
    RPC_API_VERSION = "1.0"
    RPC_API_NAMESPACE = NAMESPACE

    def __init__(self, this: Caller, interfaces: Iterable[tuple[Manager, Endpoint[Method]]]) -> None:
        self._this = this
        self._interfaces = tuple(interfaces)
        for manager, endpoint in self._interfaces:
            if endpoint.namespace == NAMESPACE:
                raise InvalidRpcMethod(
                    f"{manager.name}.RPC_API_NAMESPACE: {NAMESPACE!r} is every service's own; choose another"
                )

    @rpc
    async def ping(self) -> dict[str, Any]:
        """Answer with ``service`` and ``host``."""
        return {"service": self._this.service, "host": self._this.host}

    @rpc
    async def info(self) -> dict[str, Any]:
        """Describe the service.

        Returns
        -------
        dict
            ``service``, ``host``, ``version`` (of asyncmgr) and ``managers``: for each its ``name``, ``namespace``,
            ``version`` (of its interface), ``tasks`` (``name``, ``schedule``, ``spacing`` in seconds, ``tz`` of a cron
            expression, ``last_run``, ``next_due``; ``owner``, ``owner_since`` and ``fencing_token`` of a task that only
            one process may run) and ``methods`` (``name``, ``summary``, JSON Schemas of
            ``arguments`` and ``result``).
        """
        return {
            "service": self._this.service,
            "host": self._this.host,
            "version": own_version(),
            "managers": [_describe(manager, endpoint) for manager, endpoint in self._interfaces],
        }


def _describe(manager: Manager, endpoint: Endpoint[Method]) -> Mapping[str, Any]:
    return {
        "name": manager.name,
        "namespace": endpoint.namespace,
        "version": endpoint.version,
        "tasks": [_describe_task(status) for status in manager.task_status()],
        "methods": [{"name": name, **method.describe()} for name, method in endpoint.methods.items()],
    }


def _describe_task(status: TaskStatus) -> Mapping[str, Any]:
    return {
        "name": status.full_name,
        "schedule": status.schedule,
        "spacing": status.spacing,
        "tz": status.tz,
        "last_run": status.last_run,
        "next_due": status.next_due,
        "owner": status.owner,
        "owner_since": status.owner_since,
        "fencing_token": status.fencing_token,
    }


def own_version() -> str:
    """Return the version of asyncmgr, or ``(not installed)`` where it runs from a bare tree."""
    try:
        return version("asyncmgr")
    except PackageNotFoundError:
        return "(not installed)"
