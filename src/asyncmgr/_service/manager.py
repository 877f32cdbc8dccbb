"""Managers: a class that owns one aspect of a system and gathers the periodic tasks declared on it."""

from __future__ import annotations

import inspect
import socket
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

from asyncmgr._common.clock import Clock, Moment, WallClock, to_us
from asyncmgr._common.heap import NO_TICKET
from asyncmgr._common.log import log
from asyncmgr._rpc.declare import check_methods
from asyncmgr._tasks.agenda import Entry, TaskStatus, status_of
from asyncmgr._tasks.declare import Addition, check_function, declare, declare_addition, declared
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.overrides import override_options
from asyncmgr._tasks.passes import run_pass
from asyncmgr.errors import InvalidPeriodicTaskArg, ManagerInUse, ManagerNotInitialised

if TYPE_CHECKING:
    from asyncmgr._service.service import Service
    from asyncmgr._settings.model import Settings

RESERVED = frozenset(
    [
        "name",
        "host",
        "settings",
        "service",
        "periodic_tasks",
        "task_status",
        "add_periodic_task",
        "init_host",
        "pre_start_hook",
        "post_start_hook",
        "cleanup_host",
        "reload",
        "RPC_API_VERSION",
        "RPC_API_NAMESPACE",
    ]
)
"""Names that belong to `Manager` and may not be used for a task."""


class Scheduler(Protocol):
    """What drives a manager's tasks while a service runs it."""

    @property
    def clock(self) -> Clock: ...  # pragma: no cover
    def add(self, entry: Entry) -> None: ...  # pragma: no cover
    def remove(self, entry: Entry) -> None: ...  # pragma: no cover
    def reschedule(self, entry: Entry, options: PeriodicTask) -> None: ...  # pragma: no cover


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
        cls._asyncmgr_tasks = tuple(_gather(cls))
        _refuse_doubles(cls)
        check_methods(cls, RESERVED)
        _tell_what_is_off(cls)

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

    async def periodic_tasks(self, context: Any, raise_on_error: bool = False) -> float:
        """Make one pass: start what is due or nearly due, in definition order, each awaited to its end.

        `context` is handed to every task. A task that raises is logged, and the pass goes on; with `raise_on_error`
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
        state.claim("a pass")
        try:
            return await run_pass(
                state.running_entries, state.read_clock, context, raise_on_error=raise_on_error
            )
        finally:
            state.release()

    def task_status(self) -> tuple[TaskStatus, ...]:
        """The tasks that are switched on here, in definition order, with their last run and next slot in wall time."""
        state = self._asyncmgr
        moment = state.read_clock()
        return tuple(status_of(entry, moment) for entry in state.running_entries())

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


class TaskHandle:
    """A task that was added to one manager instance."""

    __slots__ = ("_entry", "_state")

    def __init__(self, state: ManagerState, entry: Entry) -> None:
        self._state = state
        self._entry = entry

    @property
    def full_name(self) -> str:
        return self._entry.full_name

    def remove(self) -> None:
        """Start it no more; a run in progress is not touched. Calling it again does nothing."""
        self._state.remove(self._entry)

    def reschedule(
        self, *, spacing: float | timedelta | None = None, cron: str | None = None, tz: str | None = None
    ) -> None:
        """Change its schedule: the next slot is the last one plus the new spacing, or now if that is past.

        Raises
        ------
        InvalidPeriodicTaskArg
            Neither or both are given, or a value cannot be meant.
        ManagerInUse
            The task was removed.
        """
        if (spacing is None) == (cron is None):
            raise InvalidPeriodicTaskArg("reschedule() takes either spacing= or cron=")
        given = {"spacing": spacing, "cron": cron, "tz": tz}
        new = declare({keyword: value for keyword, value in given.items() if value is not None})
        options = replace(self._entry.options, schedule=new.schedule, switched_off=new.switched_off)
        self._state.reschedule(self._entry, options)


class ManagerState:
    """All that changes of one manager instance: its tasks, its clock, who drives it. The service's side of it."""

    def __init__(self, manager: Manager, host: str | None, settings: Settings | None) -> None:
        self._manager = manager
        self._host = self._own_host = host
        self._settings = settings
        self._own_settings = settings is not None
        self._driver: object | None = None
        self._entries: dict[str, Entry] | None = None
        self.clock: Clock = WallClock()
        self._born = self._last = self.clock.read()
        self.service: Service | None = None
        self._scheduler: Scheduler | None = None

    # Settings and host

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            from asyncmgr._settings.model import Settings

            self._settings = Settings()
        return self._settings

    @property
    def host(self) -> str:
        return self._host or self.settings.host or socket.gethostname()

    # One driver at a time

    def claim(self, driver: object) -> None:
        """Become the driver, or say who is."""
        if self._driver is not None:
            raise ManagerInUse(
                f"{self._manager.name} is already driven by {self._driver}; a manager has one driver at a time"
            )
        self._driver = driver

    def release(self) -> None:
        self._driver = None

    # Tasks

    def entries(self) -> dict[str, Entry]:
        """All tasks of this instance by full name, those that are switched off too."""
        if self._entries is None:
            records = type(self._manager)._asyncmgr_tasks  # noqa: SLF001 - its own class
            made = [self._make(attribute, record.name or attribute, record) for attribute, record in records]
            self._apply_overrides(made)
            for entry in made:
                entry.plan(self._born)
            self._entries = {entry.full_name: entry for entry in made}
        return self._entries

    def running_entries(self) -> list[Entry]:
        """The tasks that are switched on here, in definition order."""
        return [entry for entry in self.entries().values() if self.runs_here(entry)]

    def runs_here(self, entry: Entry) -> bool:
        options = entry.options
        if options.switched_off is not None:
            return False
        return self.settings.run_external_periodic_tasks or not options.external_process_ok

    def _make(
        self,
        body: str | Callable[..., Any],
        name: str,
        record: PeriodicTask,
        initial_delay: int | None = None,
    ) -> Entry:
        full_name = f"{self._manager.name}.{name}"
        tolerance = to_us(self.settings.tolerance)
        entry = Entry(
            self._manager, body, full_name, record, tolerance=tolerance, initial_delay=initial_delay
        )
        self._set_spread(entry)
        return entry

    def _set_spread(self, entry: Entry) -> None:
        spread = "auto" in (entry.options.phase, self.settings.phase)
        entry.spread = zlib.crc32(f"{self.host}/{entry.full_name}".encode()) if spread else None

    def _apply_overrides(self, entries: Sequence[Entry]) -> None:
        if not self.settings.tasks:
            return
        overrides = self.settings.overrides_for([entry.full_name for entry in entries], strict=False)
        for entry in entries:
            override = overrides.get(entry.full_name)
            if override is not None:
                entry.adopt(override_options(entry.options, override))
                entry.log_level = override.log_level

    def add(self, function: Callable[..., Any], options: dict[str, Any]) -> TaskHandle:
        body, (record, name, initial_delay) = self._read_addition(function, options)
        name = name or str(getattr(function, "__name__", "task"))
        entry = self._make(body, name, record, initial_delay)
        entries = self.entries()
        _refuse_reserved(entry.full_name, name)
        if entry.full_name in entries:
            raise InvalidPeriodicTaskArg(
                f"{entry.full_name} is there already; give name= or remove the other first"
            )
        self._apply_overrides([entry])
        entry.plan(self.read_clock(), by_service=self._scheduler is not None)
        entries[entry.full_name] = entry
        self._schedule(entry)
        _tell_if_off(self._manager.name, name, entry.options)
        return TaskHandle(self, entry)

    def _read_addition(self, function: Any, options: dict[str, Any]) -> tuple[Callable[..., Any], Addition]:
        record = declared(function)
        if record is None:
            check_function(function, takes="context")
            return function, declare_addition(options)
        if options.keys() - {"name"}:
            raise InvalidPeriodicTaskArg(
                f"{function.__qualname__} has its options from @periodic_task; only name= may be given here"
            )
        if not inspect.ismethod(function):
            function = types.MethodType(function, self._manager)
        return function, Addition(record, declare(options).name or record.name, None)

    def remove(self, entry: Entry) -> None:
        if self.entries().get(entry.full_name) is entry:
            del self.entries()[entry.full_name]
            # A pass may have it on its list.
            entry.adopt(replace(entry.options, switched_off="it was removed"))
            if self._scheduler is not None:
                self._scheduler.remove(entry)

    def reschedule(self, entry: Entry, options: PeriodicTask) -> None:
        if self.entries().get(entry.full_name) is not entry:
            raise ManagerInUse(f"{entry.full_name} was removed; add it again instead of rescheduling it")
        if self._scheduler is None:
            entry.reschedule(options, self.read_clock(), by_service=False)
        else:
            self._scheduler.reschedule(entry, options)
            self._schedule(entry)

    def apply(self, settings: Settings) -> None:
        """Put new settings in force: only tasks that they say something else of are touched."""
        entries = list(self.entries().values())
        names = [entry.full_name for entry in entries]
        before = self.settings.overrides_for(names, strict=False)
        after = settings.overrides_for(names, strict=False)
        self._settings = settings
        for entry in entries:
            old, new = before.get(entry.full_name), after.get(entry.full_name)
            if old != new:
                options = entry.declared if new is None else override_options(entry.declared, new)
                entry.log_level = None if new is None else new.log_level
                self._change(entry, options)

    def _change(self, entry: Entry, options: PeriodicTask) -> None:
        same = (options.schedule, options.switched_off) == (
            entry.options.schedule,
            entry.options.switched_off,
        )
        if same or self._scheduler is None:
            entry.adopt(options)
        else:
            self._scheduler.reschedule(entry, options)
            self._schedule(entry)

    def _schedule(self, entry: Entry) -> None:
        if self._scheduler is not None and self.runs_here(entry):
            self._scheduler.add(entry)

    # Under a service

    def join(self, service: Service, settings: Settings, host: str) -> None:
        """Come under a service: it is the one driver, its settings and host are in force."""
        self.claim(f"the service {service.name}")
        self.service = service
        self._host = self._own_host or host
        self.give(settings)

    def give(self, settings: Settings) -> None:
        """Take over a service's settings, where the constructor was given none; what was read before is forgotten."""
        if self._own_settings:
            return
        if self._entries is not None:
            self.apply(settings)
        self._settings = settings

    def start(self, scheduler: Scheduler) -> None:
        """Make now every task's start and hand the tasks to the service's scheduler."""
        self._scheduler = scheduler
        self.clock = scheduler.clock
        moment = self.clock.read()
        tolerance = to_us(self.settings.tolerance)
        for entry in self.entries().values():
            entry.tolerance = tolerance
            self._set_spread(entry)
            entry.plan(moment, by_service=True)
            self._schedule(entry)

    def leave(self) -> None:
        """Leave the service; its tasks start over from now if passes go on."""
        self.service = None
        self.release()
        if self._scheduler is not None:
            self._scheduler = None
            self.clock = WallClock()
            self._last = self.clock.read()
            for entry in self.entries().values():
                entry.ticket = NO_TICKET
                self._plan_for_passes(entry)

    def _plan_for_passes(self, entry: Entry) -> None:
        try:
            entry.plan(self._last)
        except Exception as exc:  # the next pass asks the schedule again, and says so too
            log.error("schedule.failed", task=entry.full_name, exc_info=exc)

    # Time of a pass

    def read_clock(self) -> Moment:
        """The present moment. Plans wall-clock slots anew if the wall went back by over a minute since the last one."""
        before, self._last = self._last, self.clock.read()
        if self._scheduler is None and self._last.wall < before.wall - to_us(60):
            for entry in self.entries().values():
                entry.set_back(self._last)
        return self._last


def _gather(cls: type) -> Iterator[tuple[str, PeriodicTask]]:
    """The tasks of a class: inherited first, in definition order; an override keeps the place of what it overrides."""
    for attribute in _attributes(cls):
        values = [vars(base)[attribute] for base in cls.__mro__ if attribute in vars(base)]
        _refuse_hidden(cls, attribute, values)
        # `= None` deletes a task, for the classes further down too.
        kept = takewhile(lambda value: value is not None, values)
        record = next((record for value in kept if (record := declared(value))), None)
        if record is None:
            continue
        if declared(values[0]) is None:
            check_function(values[0], takes="self, context", name=f"{cls.__qualname__}.{attribute}")
        _refuse_reserved(f"{cls.__name__}.{attribute}", attribute, record.name)
        yield attribute, record


def _attributes(cls: type) -> dict[str, None]:
    """Names of a class and its bases that may be tasks, as an ordered set: each base's before the class's own."""
    names: dict[str, None] = {}
    for base in cls.__bases__:
        names |= _attributes(base)
    own = (name for name, value in vars(cls).items() if declared(_unwrap(value)) is not None)
    return names | dict.fromkeys(own)


def _unwrap(value: object) -> object:
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _refuse_hidden(cls: type, attribute: str, values: list[Any]) -> None:
    if isinstance(values[0], staticmethod | classmethod):
        raise InvalidPeriodicTaskArg(
            f"{cls.__name__}.{attribute} is a {type(values[0]).__name__}; "
            f"write 'async def {attribute}(self, context)'"
        )


def _refuse_reserved(task: str, *names: str | None) -> None:
    for name in names:
        if name in RESERVED:
            raise InvalidPeriodicTaskArg(f"{task}: {name!r} belongs to Manager; give the task another name")


def _refuse_doubles(cls: type[Manager]) -> None:
    seen: dict[str, str] = {}
    for attribute, record in cls._asyncmgr_tasks:
        name = record.name or attribute
        if name in seen:
            raise InvalidPeriodicTaskArg(
                f"{cls.__name__} has two tasks named {name!r}: {seen[name]} and {attribute}; give one another name="
            )
        seen[name] = attribute


def _tell_what_is_off(cls: type[Manager]) -> None:
    told = [task for base in cls.__bases__ for task in getattr(base, "_asyncmgr_tasks", ())]
    for attribute, record in cls._asyncmgr_tasks:
        if (attribute, record) not in told:
            _tell_if_off(cls.__name__, record.name or attribute, record)


def _tell_if_off(manager: str, task: str, record: PeriodicTask) -> None:
    if record.switched_off is not None:
        log.info("task.disabled", manager=manager, task=task, reason=record.switched_off)
