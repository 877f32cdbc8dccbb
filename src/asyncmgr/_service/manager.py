"""`Manager`, the class that users derive from: it owns one aspect of a system and has its tasks and methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from asyncmgr._rpc.declare import check_methods
from asyncmgr._service.gather import RESERVED, check_hooks, gather, log_switched_off
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.manager_state import ManagerState
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.status import TaskStatus
from asyncmgr.errors import ManagerNotInitialised

if TYPE_CHECKING:
    from asyncmgr._service.service import Service
    from asyncmgr._settings.model import Settings


class _ClassName:
    """The default of `Manager.name`: the name of the class on which it is looked up."""

    def __get__(self, instance: object, owner: type) -> str:
        return owner.__name__


class _Uninitialised:
    """Takes the place of an instance's state until `Manager.__init__` sets it, and raises at first use.

    The error tells the user that ``super().__init__()`` was forgotten.
    """

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise ManagerNotInitialised(
            f"{owner.__qualname__}.__init__ does not call super().__init__(); call it first"
        )


class Manager:
    """Groups the periodic tasks (and RPC methods) of one aspect of a system.

    A subclass that has its own `__init__` calls ``super().__init__()``. The constructor does no I/O.

    Parameters
    ----------
    host
        The name under which this instance is known. Default: the setting `host`, then the machine's name.
    settings
        Default: the settings of the service that runs this manager; without a service they are read at first use.
    """

    name: str = _ClassName()  # type: ignore[assignment] # a descriptor that gives a str
    """The first half of the tasks' full names, and the manager's name in the service."""
    RPC_API_VERSION: str = "1.0"
    """Version of the methods with `@rpc`: a new minor where callers can do more, a new major where old calls break."""
    RPC_API_NAMESPACE: str | None = None
    """Distinguishes the interfaces of several managers in one service; `None` = the interface has no namespace."""

    _asyncmgr_tasks: ClassVar[tuple[tuple[str, PeriodicTask], ...]] = ()
    _asyncmgr: ManagerState = _Uninitialised()  # type: ignore[assignment] # a descriptor that only raises

    def __init__(self, host: str | None = None, settings: Settings | None = None) -> None:
        self._asyncmgr = ManagerState(self, host, settings)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._asyncmgr_tasks = gather(cls)
        check_hooks(cls)
        check_methods(cls, RESERVED)
        log_switched_off(cls, cls._asyncmgr_tasks)

    @property
    def host(self) -> str:
        """The name under which the service instance is known."""
        return self._asyncmgr.host

    @property
    def settings(self) -> Settings:
        """The settings in force; they are read now where neither constructor nor service gave any."""
        return self._asyncmgr.settings

    @property
    def service(self) -> Service | None:
        """The service that runs this manager now; `None` = no service does."""
        return self._asyncmgr.service

    async def periodic_tasks(self, context: Any = None, raise_on_error: bool = False) -> float:
        """Make one pass: run the tasks that are due or nearly due, one after the other, in definition order.

        Every task gets `context`; where it is `None`, each gets a `RunContext` of its own, as under a service. A task
        that raises is logged, and the pass goes on. With `raise_on_error` the first exception ends the pass and is
        raised unchanged; tasks that have not started stay due.

        Returns
        -------
        float
            Seconds for which the caller may idle: to the nearest slot, 0 to 60 (`DEFAULT_INTERVAL`).

        Raises
        ------
        ManagerInUse
            Another pass is in progress, or a service runs this manager.
        TaskFailed
            With `raise_on_error`: a task raised a `CancelledError` although nothing had cancelled it.
        TimeoutError
            With `raise_on_error`: a task ran longer than its `timeout`.
        """
        state = self._asyncmgr
        with state.driven_by("a pass"):
            return await state.passes.make_one(context, raise_on_error=raise_on_error)

    def task_status(self) -> tuple[TaskStatus, ...]:
        """Return the tasks that are switched on here, in definition order, with last run and next slot in wall time."""
        return self._asyncmgr.status()

    def add_periodic_task(self, function: Callable[..., Any], /, **options: Any) -> TaskHandle:
        """Add a task to this instance, before, while or after a service runs it.

        Parameters
        ----------
        function
            A coroutine function that is called with the context, or one with `@periodic_task` on it.
        options
            The options of `@periodic_task`; only `name` for a function that has `@periodic_task` on it.

        Raises
        ------
        InvalidPeriodicTaskArg
            The function or an option is not accepted, or the name is taken.
        """
        return self._asyncmgr.add(function, options)

    async def init_host(self) -> None:
        """Prepare the host. The service calls this first in a start, before it connects the transport."""

    async def pre_start_hook(self) -> None:
        """Called after the transport is connected and before RPC is served."""

    async def post_start_hook(self) -> None:
        """Called after RPC is served, and before the host is announced and the tasks start."""

    async def cleanup_host(self) -> None:
        """Undo `init_host`. The service calls this in a stop, after the last run and call have ended."""

    async def reload(self) -> None:
        """Called when new settings are in force, after SIGHUP or `Service.reload`."""


def state_of(manager: Manager) -> ManagerState:
    """Return the manager's state; for the modules of asyncmgr, not for users."""
    return manager._asyncmgr  # noqa: SLF001 - the one door to it


def pause_by_policy(task: ManagedTask, why: str) -> None:
    """Pause a task of any manager, since it has failed too often in a row."""
    assert isinstance(task.manager, Manager)
    state_of(task.manager).verbs.pause_by_policy(task, why)
