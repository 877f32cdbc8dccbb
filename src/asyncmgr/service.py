"""A service: managers, the runner, the transport and the life cycle that wraps them, on one host.

The whole life is one owned asyncio task, so that entering and leaving may happen in different tasks, and so that a
cancelled caller can never leave a service half started or half stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asyncmgr.announcer import Announcer
from asyncmgr.capabilities import nodes_of
from asyncmgr.errors import AsyncmgrError, ServiceStateError, ServiceStopped
from asyncmgr.events import Event, Listener, ServiceStarted, ServiceStopping
from asyncmgr.log import log
from asyncmgr.manager import Manager, ManagerState
from asyncmgr.plugins import load_plugins
from asyncmgr.reporting import Reporter
from asyncmgr.runner import Runner, wait_for_runs
from asyncmgr.runs import Site
from asyncmgr.transports import Transport, open_transport
from asyncmgr.transports.tokens import encode_token

if TYPE_CHECKING:
    from asyncmgr.settings import Settings

CANCEL_GRACE = 5.0
"""Seconds that cancelled runs and calls get to end before they are reported as leaked."""

HURRIED_GRACE = 1.0
"""Seconds for the same, and for `cleanup_host`, once somebody asked twice or was cancelled while waiting."""

ABANDONED_AFTER = 5.0
"""Seconds after which even a hurried stop is given up on, where a hook swallows its cancellation."""


class State(StrEnum):
    """Where a service is in its one life."""

    NEW = "new"
    """Built; nothing has been started."""
    STARTING = "starting"
    """The steps of the start are under way."""
    RUNNING = "running"
    """Its tasks run."""
    STOPPING = "stopping"
    """Nothing new begins; what runs is drained."""
    STOPPED = "stopped"
    """Over, for good."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop did with the runs that it met. Full names of tasks, one per run."""

    drained: tuple[str, ...] = ()
    """Ended by themselves in time."""
    cancelled: tuple[str, ...] = ()
    """Ended when they were cancelled."""
    leaked: tuple[str, ...] = ()
    """Go on although they were cancelled."""
    duration: float = 0.0
    """Seconds from the request to the end."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the schedule makes progress; bound to the runner's own timer, not to the process being there."""

    ok: bool
    state: State
    reason: str


class Service:
    """Runs managers on one host. Used as ``async with Service(...)``, or by `start` and `stop`.

    Parameters
    ----------
    managers
        Instances of `Manager`, each with a name of its own.
    name
        The service's name on the wire. Default: the first `service_name` among the managers, else the first
        manager's class name in lower case.
    host
        The name under which this instance is known. Default: the setting, then the machine's name.
    transport
        A URL, or an open `Transport`, which is shared and not closed. Default: the setting, ``memory://``.
    settings
        Default: read now, see `Settings`.

    Raises
    ------
    AsyncmgrError
        Two managers of one name, two service names, a name that no transport can carry.
    """

    def __init__(
        self,
        *managers: Manager,
        name: str | None = None,
        host: str | None = None,
        transport: str | Transport | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = _read_settings() if settings is None else settings
        self._managers: list[Manager] = []
        self.name = name or _service_name(managers)
        self.host: str = host or self.settings.resolved_host
        for manager in managers:
            self.add_manager(manager)
        encode_token(self.name, what="service name")
        encode_token(self.host, what="host name")
        self._given_transport = self.settings.transport if transport is None else transport
        self._transport: Transport | None = None
        self._reporter = Reporter(self.host)
        self._runner: Runner | None = None
        self._state = State.NEW
        self._life: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stop_requested = asyncio.Event()
        self._drain_over = asyncio.Event()
        self._drain_timer: asyncio.TimerHandle | None = None
        self._step_limit: asyncio.Timeout | None = None
        self._transports = AsyncExitStack()
        self._joined: list[Manager] = []
        self._initialised: list[Manager] = []
        self._announcer: Announcer | None = None
        self._random = random.Random(self.settings.seed)
        self._context = contextvars.Context()
        self._hurried = False
        self._stopper: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None
        self._report = StopReport()
        self.failed_plugins: tuple[str, ...] = ()
        """Names of the plugins that could not be loaded or raised."""

    # What it is

    @property
    def managers(self) -> tuple[Manager, ...]:
        return tuple(self._managers)

    @property
    def transport(self) -> Transport:
        """The open transport.

        Raises
        ------
        ServiceStateError
            The service is not connected.
        """
        if self._transport is None:
            raise ServiceStateError(f"the service {self.name} has no transport while it is {self._state}")
        return self._transport

    @property
    def state(self) -> State:
        return self._state

    @property
    def health(self) -> Health:
        """Whether the schedule makes progress, and why not."""
        if self._error is not None:
            return Health(False, self._state, f"failed: {self._error!r}")
        if self._state is not State.RUNNING:
            return Health(False, self._state, f"the service is {self._state}")
        if self._runner is None or not self._runner.is_alive:
            return Health(
                False, self._state, "the scheduler missed its own timer: the event loop was blocked"
            )
        return Health(True, self._state, "the scheduler keeps its time")

    @property
    def announcer(self) -> Announcer | None:
        """What keeps this host announced; `None` before that step of the start. For managers."""
        return self._announcer

    def add_manager(self, manager: Manager) -> None:
        """Add a manager before the start; for plugins.

        Raises
        ------
        AsyncmgrError
            It is no manager instance, its name is taken, or it names another service.
        ServiceStateError
            The managers have been started already.
        """
        if getattr(self, "_runner", None) is not None:
            raise ServiceStateError(f"the service {self.name} runs already; add managers before it starts")
        _check_manager(manager, self._managers, self.name)
        self._managers.append(manager)

    def add_listener(self, callback: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Have `callback` called with every event (see `asyncmgr.events`), or with those of these kinds.

        It is called synchronously, between two steps of the loop. One that raises is logged and stops nothing.
        Returns a function that takes it off again.
        """
        return self._reporter.listeners.add(callback, *kinds)

    # Life cycle

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if exc is None and self._error is not None:
            raise self._error

    async def start(self) -> None:
        """Start; returns when the tasks run.

        Raises
        ------
        ServiceStateError
            It was started before: a service runs once.
        ServiceStopped
            It was stopped before it had started.
        Exception
            What the failing step raised; the steps before it were undone.
        """
        if self._state is State.STOPPED and self._life is None:
            raise ServiceStopped(f"the service {self.name} was stopped before it was started")
        if self._state is not State.NEW:
            raise ServiceStateError(
                f"the service {self.name} is {self._state}; a service runs once, build another"
            )
        self._state = State.STARTING
        self._context = contextvars.copy_context()
        self._life = asyncio.create_task(self._live(), name=f"asyncmgr service {self.name}")
        started = asyncio.create_task(self._started.wait())
        try:
            await asyncio.wait({self._life, started}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._hurry()
            await self._wait_for_end()
            raise
        finally:
            started.cancel()
        if self._started.is_set():
            return
        if self._error is not None:
            raise self._error
        raise ServiceStopped(f"the service {self.name} was stopped while it started")

    async def stop(self, timeout: float | None = None) -> StopReport:
        """Stop: nothing new begins, runs are drained, hooks undone, the transport closed. Legal in every state.

        Parameters
        ----------
        timeout
            Seconds that runs and calls in progress get before they are cancelled. Default: the setting
            `drain_timeout`, 30.

        If the caller is cancelled meanwhile, runs are cancelled at once and `cleanup_host` gets one second.
        """
        if self._life is None:
            self._state = State.STOPPED
            return self._report
        self._request_stop(timeout)
        if asyncio.current_task() is self._life:
            return self._report  # called by a hook: this very step has to end first
        self._stopper = asyncio.current_task()
        await self._wait_for_end()
        return self._report

    async def wait(self) -> None:
        """Wait until the service has stopped.

        Raises
        ------
        BaseException
            What ended it: the scheduler's own death, or the `SystemExit` or `KeyboardInterrupt` of a run.
        """
        if self._life is None:
            raise ServiceStateError(f"the service {self.name} is {self._state}; start it first")
        await asyncio.wait({self._life})
        if self._error is not None:
            raise self._error

    async def reload(self) -> None:
        """Read the settings again; schedules, timeouts and log levels of tasks take effect, then the managers' hooks.

        Wrong settings are logged, and the old ones stay in force.
        """
        try:
            settings = self.settings.reload()
            settings.overrides_for(self._task_names())
        except AsyncmgrError as exc:
            log.error("settings.rejected", service=self.name, error=str(exc))
            return
        self.settings = settings
        for manager in self._managers:
            _state(manager).apply(settings)
        log.info("settings.reloaded", service=self.name)
        for manager in self._managers:
            await self._undo("reload", manager.reload())

    # Asking for the end

    def request_stop(self) -> None:
        """Ask for a stop without waiting for it; a second request cuts the drain short. For signal handlers."""
        if self._stop_requested.is_set():
            self._hurry()
        else:
            self._request_stop(None)

    def _request_stop(self, timeout: float | None) -> None:
        first = not self._stop_requested.is_set()
        self._stop_requested.set()
        if first and self._state is State.STARTING and asyncio.current_task() is not self._life:
            self._life.cancel() if self._life is not None else None
        self._limit_drain(self.settings.drain_timeout if timeout is None else timeout)

    def _limit_drain(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._drain_timer is not None:
            if self._drain_timer.when() <= loop.time() + seconds:
                return
            self._drain_timer.cancel()
        self._drain_timer = loop.call_later(seconds, self._drain_over.set)

    def _hurry(self) -> None:
        """Cut everything short: cancel what runs, give every step that is left one second."""
        self._hurried = True
        self._request_stop(0)
        self._drain_over.set()
        if self._step_limit is not None:
            self._step_limit.reschedule(asyncio.get_running_loop().time() + HURRIED_GRACE)

    def _end_with(self, error: BaseException) -> None:
        """A run wants the process to end, or the scheduler died: stop, and let whoever waits know why."""
        self._error = self._error or error
        self._request_stop(None)

    async def _wait_for_end(self) -> None:
        """Wait for the end of the life; a cancelled caller makes it come at once, and still waits for it."""
        assert self._life is not None
        cancelled: asyncio.CancelledError | None = None
        while not self._life.done():
            try:
                await asyncio.wait({self._life}, timeout=ABANDONED_AFTER if self._hurried else None)
            except asyncio.CancelledError as exc:
                cancelled = exc
                self._hurry()
            else:
                if self._hurried and not self._life.done():
                    log.critical(
                        "service.abandoned", service=self.name, host=self.host, state=str(self._state)
                    )
                    break
        if cancelled is not None:
            raise cancelled

    # The life

    async def _live(self) -> None:
        try:
            await self._start_steps()
            self._state = State.RUNNING
            self._started.set()
            await self._stop_requested.wait()
        except asyncio.CancelledError:
            if not self._stop_requested.is_set():
                self._hurry()  # the loop itself is being shut down
        except BaseException as exc:  # also SystemExit of a hook: whoever waits raises it, not this task
            self._error = self._error or exc
        self._state = State.STOPPING
        self._stop_requested.set()
        began = asyncio.get_running_loop().time()
        report = await self._unwind()
        self._report = replace(report, duration=asyncio.get_running_loop().time() - began)
        self._state = State.STOPPED
        log.info("service.stopped", service=self.name, host=self.host, **_counts(report))

    async def _start_steps(self) -> None:
        """Each step notes what it began, so that `_unwind` undoes exactly that."""
        self._load_plugins()
        for manager in self._managers:
            _state(manager).join(self, self.settings, self.host)
            self._joined.append(manager)
        self.settings.overrides_for(self._task_names())
        for manager in self._managers:
            await self._step(manager.init_host())
            self._initialised.append(manager)
        await self._connect()
        for manager in self._managers:
            await self._step(manager.pre_start_hook())
        for manager in self._managers:
            await self._step(manager.post_start_hook())
        await self._announce()
        await self._start_delay()
        self._start_tasks()

    async def _step(self, hook: Awaitable[object]) -> None:
        """Await a hook; a stop that was asked for meanwhile ends the start even where the hook swallowed it."""
        await hook
        if self._stop_requested.is_set():
            raise asyncio.CancelledError

    def _load_plugins(self) -> None:
        for plugin in load_plugins(disabled=self.settings.plugins.disabled):
            error = plugin.error
            if plugin.hook is not None:
                try:
                    plugin.hook(self)
                except Exception as exc:
                    error = exc
            if error is not None:
                self.failed_plugins += (plugin.name,)
                log.error("plugin.failed", plugin=plugin.name, target=plugin.target, exc_info=error)

    async def _connect(self) -> None:
        if isinstance(self._given_transport, str):
            opened = open_transport(self._given_transport, settings=self.settings)
            self._transport = await self._transports.enter_async_context(opened)
        else:
            self._transport = self._given_transport

    async def _announce(self) -> None:
        self._announcer = Announcer(
            self.transport,
            self.name,
            self.host,
            ttl=self.settings.capability_ttl,
            nodes=lambda: nodes_of(self._managers),
            listeners=self._reporter.listeners,
        )
        await self._step(self._announcer.start())

    async def _start_delay(self) -> None:
        if self.settings.start_delay:
            await asyncio.sleep(self._random.uniform(0, self.settings.start_delay))

    def _start_tasks(self) -> None:
        self._runner = Runner(
            Site(self.host, self.name, secrets.token_hex(4)),
            self._reporter,
            random_source=self._random,
            context=self._context,
            on_exit=self._end_with,
            on_death=self._end_with,
        )
        for manager in self._managers:
            _state(manager).start(self._runner)
        self._runner.open()
        log.info("service.started", service=self.name, host=self.host, tasks=len(self._runner.agenda))
        self._reporter.listeners.tell(ServiceStarted(self.name, self.host))

    # Undoing it: nothing new begins, what runs ends, the hooks are undone, the connection is closed

    async def _unwind(self) -> StopReport:
        report = StopReport()
        if self._runner is not None:
            self._reporter.listeners.tell(ServiceStopping(self.name, self.host))
            log.info("service.stopping", service=self.name, host=self.host, runs=len(self._runner.waiting))
            self._runner.close()
        if self._announcer is not None:
            await self._undo("withdraw", self._announcer.stop())
        if self._runner is not None:
            report = await self._end_runs(self._runner)
        for manager in reversed(self._initialised):
            await self._undo(f"{manager.name}.cleanup_host", manager.cleanup_host())
        await self._undo("close transport", self._transports.aclose())
        self._transport = None
        for manager in self._joined:
            _state(manager).leave()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        return report

    async def _undo(self, step: str, hook: Awaitable[object]) -> None:
        """Await one step of the stop: what it raises is logged, and once hurried it has one second."""
        limit = asyncio.get_running_loop().time() + HURRIED_GRACE if self._hurried else None
        try:
            async with asyncio.timeout_at(limit) as self._step_limit:
                await hook
        except asyncio.CancelledError:
            self._hurry()
        except Exception as exc:
            log.error("service.step_failed", service=self.name, step=step, exc_info=exc)
        finally:
            self._step_limit = None

    async def _end_runs(self, runner: Runner) -> StopReport:
        met = {run: run.entry.full_name for run in runner.waiting}
        await self._patiently(self._drain(runner))
        drained = [name for run, name in met.items() if run not in runner.waiting]
        left = runner.waiting
        runner.cancel(left)
        grace = HURRIED_GRACE if self._hurried else CANCEL_GRACE
        await self._patiently(wait_for_runs(left, grace))
        leaked = runner.give_up()
        return StopReport(
            tuple(drained),
            tuple(run.entry.full_name for run in left - leaked),
            tuple(run.entry.full_name for run in leaked),
        )

    async def _drain(self, runner: Runner) -> None:
        # A run that waits for this stop cannot be waited for.
        runs = [run for run in runner.waiting if run.task is not self._stopper]
        drained = asyncio.create_task(wait_for_runs(runs, None))
        over = asyncio.create_task(self._drain_over.wait())
        try:
            await asyncio.wait({drained, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
            over.cancel()

    async def _patiently(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Await it; if the loop is being shut down, go on to the next step instead."""
        try:
            await waiting
        except asyncio.CancelledError:
            self._hurry()

    def _task_names(self) -> list[str]:
        return [entry.full_name for manager in self._managers for entry in _state(manager).entries().values()]


def _state(manager: Manager) -> ManagerState:
    return manager._asyncmgr  # noqa: SLF001 - a service is the manager's other half


def _read_settings() -> Settings:
    from asyncmgr.settings import Settings

    return Settings()


def _service_name(managers: Sequence[Manager]) -> str:
    """The first `service_name` among the managers, else the first class name in lower case."""
    for manager in managers:
        name = getattr(manager, "service_name", None)
        if name is not None:
            return str(name)
    if not managers:
        raise AsyncmgrError(
            "Service() has neither a manager nor a name; give it a manager, or name= for plugins to fill"
        )
    return type(managers[0]).__name__.lower()


def _check_manager(manager: object, others: Iterable[Manager], service: str) -> None:
    if isinstance(manager, type):
        raise AsyncmgrError(
            f"{manager.__name__} is a class; give the service an instance: {manager.__name__}()"
        )
    if not isinstance(manager, Manager):
        raise AsyncmgrError(f"{manager!r} is no Manager; give the service instances of asyncmgr.Manager")
    if any(other.name == manager.name for other in others):
        raise AsyncmgrError(
            f"two managers are named {manager.name!r}; give one of the classes another name ="
        )
    named = getattr(manager, "service_name", None)
    if named is not None and any(
        getattr(other, "service_name", None) not in (None, named) for other in others
    ):
        raise AsyncmgrError(
            f"{manager.name} has service_name {named!r}, and another manager has another; "
            f"one service has one name (here {service!r}): make two services"
        )


def _counts(report: StopReport) -> dict[str, int]:
    return {
        "drained": len(report.drained),
        "cancelled": len(report.cancelled),
        "leaked": len(report.leaked),
    }
