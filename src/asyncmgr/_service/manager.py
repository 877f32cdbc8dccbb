"""Managers: a class that owns one aspect of a system and gathers the periodic tasks declared on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from asyncmgr._rpc.declare import check_methods
from asyncmgr._service.gather import RESERVED, check_hooks, gather, tell_what_is_off
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.manager_state import ManagerState
from asyncmgr._tasks.managed import TaskStatus
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr.errors import ManagerNotInitialised

if TYPE_CHECKING:
    from asyncmgr._service.service import Service
    from asyncmgr._settings.model import Settings


class _ClassName:
    """The default of `Manager.name`: the name of the class that is asked."""

    def __get__(self, instance: object, owner: type) -> str:
        return owner.__name__


class _Uninitialised:
    """Stands where an instance's state will be, so that a forgotten ``super().__init__()`` is told at first use."""

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise ManagerNotInitialised(
            f"{owner.__qualname__}.__init__ does not call super().__init__(); call it first"
        )


class Manager:
    """Groups the periodic tasks (and RPC methods) of one aspect of a system.

    A subclass with an `__init__` of its own calls ``super().__init__()``. Constructing does no I/O.

    Parameters
    ----------
    host
        The name under which this instance is known. Default: the setting `host`, then the machine's name.
    settings
        Default: those of the service that runs it, else read at first use.
    """

    name: str = _ClassName()  # type: ignore[assignment] # a descriptor that gives a str
    """The first half of the tasks' full names."""
    RPC_API_VERSION: str = "1.0"
    """Of the methods with `@rpc`: a new minor where callers can do more, a new major where old calls break."""
    RPC_API_NAMESPACE: str | None = None
    """Tells several interfaces of one service apart."""

    _asyncmgr_tasks: ClassVar[tuple[tuple[str, PeriodicTask], ...]] = ()
    _asyncmgr: ManagerState = _Uninitialised()  # type: ignore[assignment] # a descriptor that only raises

    def __init__(self, host: str | None = None, settings: Settings | None = None) -> None:
        self._asyncmgr = ManagerState(self, host, settings)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._asyncmgr_tasks = gather(cls)
        check_hooks(cls)
        check_methods(cls, RESERVED)
        tell_what_is_off(cls, cls._asyncmgr_tasks)

    @property
    def host(self) -> str:
        """The name under which the service instance is known."""
        return self._asyncmgr.host

    @property
    def settings(self) -> Settings:
        """The settings in force; read now if nobody gave any."""
        return self._asyncmgr.settings

    @property
    def service(self) -> Service | None:
        """The service that runs this manager now."""
        return self._asyncmgr.service

    async def periodic_tasks(self, context: Any = None, raise_on_error: bool = False) -> float:
        """Make one pass: start what is due or nearly due, in definition order, each awaited to its end.

        `context` is handed to every task; `None`: each gets a `RunContext` of its own, as under a service. A task that
        raises is logged, and the pass goes on; with `raise_on_error`
        the first exception leaves the pass as it is, and tasks not yet started stay due.

        Returns
        -------
        float
            Seconds for which the caller may idle: to the nearest slot, 0 to 60 (`DEFAULT_INTERVAL`).

        Raises
        ------
        ManagerInUse
            During another pass, or while a service runs this manager.
        TaskFailed
            With `raise_on_error`, where a task raised a `CancelledError` that nobody asked for.
        TimeoutError
            With `raise_on_error`, where a task ran longer than its `timeout`.
        """
        state = self._asyncmgr
        with state.driven_by("a pass"):
            return await state.passes.make_one(context, raise_on_error=raise_on_error)

    def task_status(self) -> tuple[TaskStatus, ...]:
        """The tasks that are switched on here, in definition order, with their last run and next slot in wall time."""
        return self._asyncmgr.status()

    def add_periodic_task(self, function: Callable[..., Any], /, **options: Any) -> TaskHandle:
        """Add a task to this instance, running or not.

        Parameters
        ----------
        function
            A coroutine function that is called with the context, or one with `@periodic_task` on it.
        options
            As for `@periodic_task`; none for a function that has them already, but `name`.

        Raises
        ------
        InvalidPeriodicTaskArg
            The function or an option cannot be meant, or the name is taken.
        """
        return self._asyncmgr.add(function, options)

    async def init_host(self) -> None:
        """First step of a start: before the transport is connected."""

    async def pre_start_hook(self) -> None:
        """After the transport is connected, before RPC is served."""

    async def post_start_hook(self) -> None:
        """After RPC is served, before the host is announced and the tasks start."""

    async def cleanup_host(self) -> None:
        """Undo `init_host`: after the last run and call have ended."""

    async def reload(self) -> None:
        """After SIGHUP, when new settings are in force."""


def state_of(manager: Manager) -> ManagerState:
    """What a manager keeps; for the packages here, not for users."""
    return manager._asyncmgr  # noqa: SLF001 - the one door to it
