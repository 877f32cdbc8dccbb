"""The RPC interface of every service, in the namespace ``asyncmgr``: what it is, how its tasks stand, and verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from asyncmgr._common.safe_text import printable
from asyncmgr._rpc.context import Caller, current_call
from asyncmgr._rpc.declare import rpc
from asyncmgr._rpc.versions import Endpoint
from asyncmgr._service.control import LONGEST_TEXT, Control
from asyncmgr._service.manager import Manager
from asyncmgr._service.version import own_version
from asyncmgr._tasks.actions import Actor
from asyncmgr._tasks.status import TaskStatus
from asyncmgr.errors import InvalidRpcMethod, NotAllowed

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
    control
        Performs the verbs.
    may_steer
        Whether callers may use verbs that change something.

    Raises
    ------
    InvalidRpcMethod
        A manager has the namespace ``asyncmgr``, which belongs to this interface.
    """

    name = "asyncmgr"
    RPC_API_VERSION = "1.2"
    RPC_API_NAMESPACE = NAMESPACE

    def __init__(
        self,
        this: Caller,
        interfaces: Iterable[tuple[Manager, Endpoint[Method]]],
        *,
        control: Control,
        may_steer: Callable[[], bool],
    ) -> None:
        self._this = this
        self._control = control
        self._may_steer = may_steer
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

    @rpc
    async def status(self, task: str | None = None, after: int = 0, key: str | None = None) -> dict[str, Any]:
        """Tell how one task stands, or all: 50 at a time, from number `after` on; ``next`` is the next number.

        ``key`` tells how that key of a task with `each=` stands.
        """
        given = {"task": task, "after": after, "key": key}
        return await self._control.perform("status", given, self._caller(None))

    @rpc
    async def health(self) -> dict[str, Any]:
        """Report in ``health`` what needs somebody, on transport, store and leases, and the verdicts of probes."""
        return await self._control.perform("health", {}, self._caller(None))

    @rpc
    async def explain(self, task: str, at: str | None = None, key: str | None = None) -> dict[str, Any]:
        """Explain in ``text`` what became of the slot at a moment in ISO 8601; default: how the task stands."""
        given = {"task": task, "at": at, "key": key}
        return await self._control.perform("explain", given, self._caller(None))

    @rpc
    async def history(
        self,
        task: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int = 100,
        key: str | None = None,
    ) -> dict[str, Any]:
        """List what became of the slots of one task or key, or of all tasks, in ``records``, the newest first."""
        given = {"task": task, "key": key, "since": since, "until": until, "limit": limit}
        return await self._control.perform("history", given, self._caller(None))

    @rpc
    async def journal(
        self, task: str | None = None, since: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """List in ``entries`` what befell the service and who did what to tasks, the oldest first."""
        given = {"task": task, "since": since, "limit": limit}
        return await self._control.perform("journal", given, self._caller(None))

    @rpc
    async def hello(self) -> dict[str, Any]:
        """Say who answers: ``pid``, ``version``, ``state``, ``since`` and the number of ``tasks``."""
        return await self._control.perform("hello", {}, self._caller(None))

    @rpc
    async def changes(self, since: str | None = None, look: bool = False) -> dict[str, Any]:
        """Tell what has changed since the ``place`` of an earlier answer; ``anew`` = all has to be read."""
        return await self._control.perform("changes", {"since": since, "look": look}, self._caller(None))

    @rpc
    async def fates(self, span: int = 3600, bins: int = 240, after: int = 0) -> dict[str, Any]:
        """Tell what became of the slots of the last `span` seconds, of 250 tasks from number `after` on."""
        given = {"span": span, "bins": bins, "after": after}
        return await self._control.perform("fates", given, self._caller(None))

    @rpc
    async def waits(self, task: str) -> dict[str, Any]:
        """List in ``waits`` the lines in which the oldest run of the task waits, the outermost first."""
        return await self._control.perform("waits", {"task": task}, self._caller(None))

    # Verbs, only with the setting `rpc_control`. `by` is the caller's word for who asks; nothing proves it.

    @rpc
    async def trigger(
        self, task: str, wait: bool = False, by: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Run the task, or one key of it, now. With `wait` the answer comes with the end of the run, and its record."""
        return await self._steer("trigger", by, task=task, key=key, wait=wait)

    @rpc
    async def pause(
        self,
        task: str,
        seconds: float | None = None,
        until: str | None = None,
        ever: bool = False,
        note: str | None = None,
        by: str | None = None,
    ) -> dict[str, Any]:
        """Start no run for so many seconds, until a moment in ISO 8601, or until `resume`. Default: for an hour."""
        length = {"for": seconds, "until": until, "ever": ever}
        return await self._steer("pause", by, task=task, note=note, **length)

    @rpc
    async def resume(self, task: str, by: str | None = None) -> dict[str, Any]:
        """End a pause. ``changed`` says whether there was one."""
        return await self._steer("resume", by, task=task)

    @rpc
    async def reschedule(
        self,
        task: str,
        spacing: float | None = None,
        cron: str | None = None,
        tz: str | None = None,
        by: str | None = None,
    ) -> dict[str, Any]:
        """Change the schedule until the restart; `spacing` is in seconds."""
        return await self._steer("reschedule", by, task=task, spacing=spacing, cron=cron, tz=tz)

    @rpc
    async def enable(self, task: str, by: str | None = None) -> dict[str, Any]:
        """Switch the task on. ``changed`` says whether it was off."""
        return await self._steer("enable", by, task=task)

    @rpc
    async def disable(self, task: str, note: str | None = None, by: str | None = None) -> dict[str, Any]:
        """Switch the task off."""
        return await self._steer("disable", by, task=task, note=note)

    @rpc
    async def cancel(
        self, task: str, run_id: str | None = None, by: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Cancel the task's runs in progress, or the one of this id, or those of one key.

        ``run_ids`` are those that were cancelled.
        """
        return await self._steer("cancel", by, task=task, key=key, run_id=run_id)

    async def _steer(self, verb: str, by: str | None, /, **arguments: Any) -> dict[str, Any]:
        if not self._may_steer():
            raise NotAllowed(
                f"{verb}: the verbs of {self._this.service} are closed to callers; set rpc_control = true there"
            )
        return await self._control.perform(verb, arguments, self._caller(by))

    def _caller(self, by: str | None) -> Actor:
        """Name who calls, by the word of the caller."""
        caller = current_call().caller
        name = by or (caller.service if caller is not None else None) or "nobody"
        where = "" if caller is None else f" on {caller.host}"
        return Actor(printable(f"said to be {name}{where}", LONGEST_TEXT), "rpc")


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
