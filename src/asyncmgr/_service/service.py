"""A service: managers, the runner, the transport and the life cycle that wraps them, on one host.

What a start and a stop do stands here, step by step; `life` takes the steps, in a task of its own, so that entering
and leaving may happen in different tasks and a cancelled caller leaves nothing half started or half stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.log import log
from asyncmgr._common.spans import without_spans
from asyncmgr._rpc.context import Caller, served, speaking_as
from asyncmgr._service.capability_manager import nodes_of
from asyncmgr._service.drain import CANCEL_GRACE, Drain
from asyncmgr._service.drain import StopReport as StopReport
from asyncmgr._service.lifecycle import Hook, Life
from asyncmgr._service.manager import Manager, ManagerState
from asyncmgr._service.plugins import Plugin, load_plugins
from asyncmgr._tasks.agenda import Entry
from asyncmgr._tasks.overrides import override_options
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Site
from asyncmgr.capabilities._announcer import Announcer
from asyncmgr.errors import AsyncmgrError, ServiceStateError, ServiceStopped
from asyncmgr.events import Event, Listener, ServiceStarted, ServiceStopping, SettingsReloaded
from asyncmgr.transports import Transport, open_transport
from asyncmgr.transports._tokens import encode_token

if TYPE_CHECKING:
    from asyncmgr._rpc.server import CallServer
    from asyncmgr._settings.model import Settings

_inside: ContextVar[tuple[Service, ...]] = ContextVar("asyncmgr services", default=())
"""The services whose runs and hooks the present code belongs to: in there nobody can wait for their end."""


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
        self.settings: Settings = _read_settings() if settings is None else settings
        self.name: str = name or _service_name(managers)
        self.host: str = host or self.settings.resolved_host
        encode_token(self.name, what="service name")
        encode_token(self.host, what="host name")
        self._given_transport = self.settings.transport if transport is None else transport
        self._reporter = Reporter(self.host)
        self._state = State.NEW
        self._life: Life | None = None
        self._drain = Drain()
        self._report = StopReport()
        self._asked_at: float | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        # What the start has done so far, and the stop has to undo.
        self._managers: list[Manager] = []
        self._joined: list[Manager] = []
        self._initialised: list[Manager] = []
        self._transports = AsyncExitStack()
        self._transport: Transport | None = None
        self._server: CallServer | None = None
        self._announcer: Announcer | None = None
        self._runner: Runner | None = None
        self.failed_plugins: tuple[str, ...] = ()
        """Names of the plugins that could not be loaded or raised."""
        for manager in managers:
            self.add_manager(manager)

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
    def _error(self) -> BaseException | None:
        return None if self._life is None else self._life.error

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
        if self._joined:
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

        Hooks, runs and calls have the context variables of the caller, but for those that hold a tracing span: of
        OpenTelemetry, Sentry, ddtrace and Elastic APM, and every other with the word ``span`` in its name or an
        object of a class ``...Span`` as its value. What a start hook sets, all later hooks see, and each run and call
        gets a copy of what they left.

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
        # Not at construction: processes that fork after it would draw the same numbers.
        self._random = random.Random(self.settings.seed)
        self._context = without_spans(contextvars.copy_context())
        self._context.run(_inside.set, (*_inside.get(), self))
        self._context.run(speaking_as.set, Caller(self.name, self.host))
        self._context.run(served.set, None)  # what a call starts outlives it
        life = self._life = Life(
            # No copy: what the hooks set is what runs and calls get copies of.
            self._start_steps,
            self._stop_steps(),
            name=self.name,
            context=self._context,
        )
        await self._reach(life, life.running)
        if not life.running.done():
            raise life.error or ServiceStopped(f"the service {self.name} was stopped while it started")

    async def stop(self, timeout: float | None = None) -> StopReport:
        """Stop: nothing new begins, runs are drained, hooks undone, the transport closed. Legal in every state.

        Parameters
        ----------
        timeout
            Seconds that runs and calls in progress get before they are cancelled. Default: what an earlier call
            said, else the setting `drain_timeout`, 30. Of several calls the one that ends first counts.

        If the caller is cancelled meanwhile, runs are cancelled at once and `cleanup_host` gets one second.

        Runs and hooks of this service, and tasks that they started, get an empty report at once: the service cannot
        end before they do.
        """
        self._ask(timeout)
        if self._life is not None and self not in _inside.get():
            await self._reach(self._life, self._life.over)
        return self._report

    async def wait(self) -> None:
        """Wait until the service has stopped.

        Raises
        ------
        BaseException
            What ended it: the scheduler's own death, or the `SystemExit` or `KeyboardInterrupt` of a run.
        """
        if self._state is State.NEW:
            raise ServiceStateError(f"the service {self.name} is new; start it first")
        if self._life is not None:
            await asyncio.wait({self._life.over})
        if self._error is not None:
            raise self._error

    def request_stop(self, *, at_once: bool = False) -> None:
        """Ask for a stop without waiting for it. `at_once` cancels runs now and gives each hook one second."""
        if at_once:
            self._hurry()
        else:
            self._ask(None)

    async def _reach(self, life: Life, moment: asyncio.Future[None]) -> None:
        """Wait for the moment or the end; a cancelled caller makes the end come at once, and still waits for it."""
        try:
            await asyncio.wait({moment, life.over}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._hurry()
            await life.wait_out()
            raise

    def _ask(self, timeout: float | None) -> None:
        """Have it stop; runs get `timeout` seconds, or what they were given before, or what the settings say."""
        if self._life is None:
            self._state = State.STOPPED
        if self._life is None or self._life.over.done():
            return
        if self._asked_at is None:
            self._asked_at = asyncio.get_running_loop().time()
            timeout = self.settings.drain_timeout if timeout is None else timeout
        if timeout is not None:
            self._drain.limit(timeout)
            self._life.ask(patience=max(0.0, timeout) + CANCEL_GRACE)

    def _hurry(self) -> None:
        self._ask(0)
        if self._life is not None:
            self._life.hurry()

    def _end_with(self, error: BaseException) -> None:
        """A run wants the process to end, or the scheduler died: stop, and let whoever waits know why."""
        if self._life is not None and not self._life.over.done():
            self._life.error = self._life.error or error
            if isinstance(error, KeyboardInterrupt) and self._asked_at is not None:
                self._hurry()  # the second Ctrl-C, which asyncio raises in whatever runs just then
            else:
                self._ask(None)

    # The start. Each step notes what it has done, so that the stop undoes exactly that.

    async def _start_steps(self, life: Life) -> None:
        self._load_plugins()
        self._join_managers()
        for manager in self._managers:
            await life.step(f"{manager.name}.init_host", manager.init_host)
            self._initialised.append(manager)
        await life.step("connect transport", self._connect)
        for manager in self._managers:
            await life.step(f"{manager.name}.pre_start_hook", manager.pre_start_hook)
        await life.step("serve calls", self._serve_calls)
        for manager in self._managers:
            await life.step(f"{manager.name}.post_start_hook", manager.post_start_hook)
        await life.step("announce host", self._announce)
        await life.step("start delay", self._start_delay)
        await life.step("start tasks", self._start_tasks)
        life.running.set_result(None)
        await life.asked.wait()

    def _load_plugins(self) -> None:
        for plugin in load_plugins(disabled=self.settings.plugins.disabled):
            error = plugin.error or self._call_plugin(plugin)
            if error is not None:
                self.failed_plugins += (plugin.name,)
                log.error("plugin.failed", plugin=plugin.name, target=plugin.target, exc_info=error)

    def _call_plugin(self, plugin: Plugin) -> BaseException | None:
        """Hand it the service; what it raised, if it did."""
        assert plugin.hook is not None
        try:
            result = plugin.hook(self)
        except (Exception, SystemExit) as exc:  # SystemExit too: no plugin may stop a service
            return exc
        if inspect.iscoroutine(result):
            result.close()
            return TypeError(f"{plugin.target} is 'async def'; a plugin is a plain function")
        return None

    def _join_managers(self) -> None:
        for manager in self._managers:
            _state(manager).join(self, self.settings, self.host)
            self._joined.append(manager)
        self.settings.overrides_for(self._task_names())

    async def _connect(self) -> None:
        if isinstance(self._given_transport, str):
            opened = open_transport(self._given_transport, settings=self.settings)
            self._transport = await self._transports.enter_async_context(opened)
        else:
            self._transport = self._given_transport

    async def _serve_calls(self) -> None:
        from asyncmgr._rpc.server import CallServer, endpoint_of
        from asyncmgr._service.builtin_rpc import Inside  # these two load pydantic, which is slow to import

        endpoints = [endpoint_of(manager) for manager in self._managers]
        this = Caller(self.name, self.host)
        self._server = CallServer(
            self.transport,
            this,
            endpoints,
            endpoint_of(Inside(this, zip(self._managers, endpoints, strict=True))),
            places=self.settings.rpc_concurrency,
            context=self._context,
            on_exit=self._end_with,
        )
        await self._server.start()

    async def _announce(self) -> None:
        self._announcer = Announcer(
            self.transport,
            self.name,
            self.host,
            ttl=self.settings.capability_ttl,
            nodes=lambda: nodes_of(self._managers),
            listeners=self._reporter.listeners,
        )
        await self._announcer.start()

    async def _start_delay(self) -> None:
        if self.settings.start_delay:
            await asyncio.sleep(self._random.uniform(0, self.settings.start_delay))

    async def _start_tasks(self) -> None:
        runner = Runner(
            Site(self.host, self.name, secrets.token_hex(4)),
            self._reporter,
            random_source=self._random,
            context=self._context,
            on_exit=self._end_with,
            on_death=self._end_with,
        )
        for manager in self._managers:
            _state(manager).start(runner)
        runner.open()
        self._runner = runner
        self._state = State.RUNNING
        log.info("service.started", service=self.name, host=self.host, tasks=len(runner.agenda))
        self._reporter.listeners.tell(ServiceStarted(self.name, self.host))

    # The stop. What the start did not come to is not undone.

    def _stop_steps(self) -> Iterator[tuple[str, Hook]]:
        self._state = State.STOPPING
        began = asyncio.get_running_loop().time() if self._asked_at is None else self._asked_at
        if self._asked_at is None:  # a start that failed
            self._drain.limit(self.settings.drain_timeout)
        runner = self._runner
        if runner is not None:
            yield "refuse runs", partial(self._refuse_runs, runner)
        if self._reloading is not None:
            yield "end reload", self._end_reload
        if self._announcer is not None:
            yield "withdraw host", self._announcer.stop
        if self._server is not None:
            yield "refuse calls", partial(self._refuse_calls, self._server)
        yield "drain", self._drain.wait
        yield "cancel", self._drain.cancel
        while self._initialised:
            manager = self._initialised.pop()
            yield f"{manager.name}.cleanup_host", manager.cleanup_host
        yield "close transport", self._close_transport
        for manager in self._joined:
            yield f"release {manager.name}", partial(self._release, manager)
        report = self._report = self._drain.report(asyncio.get_running_loop().time() - began)
        self._state = State.STOPPED
        log.info("service.stopped", service=self.name, host=self.host, **_counts(report))

    async def _refuse_runs(self, runner: Runner) -> None:
        runner.close()
        self._drain.meet(runner)
        log.info("service.stopping", service=self.name, host=self.host, runs=len(runner.waiting))
        self._reporter.listeners.tell(ServiceStopping(self.name, self.host))

    async def _refuse_calls(self, server: CallServer) -> None:
        self._drain.meet(server)
        await server.close()
        self._drain.meet(server)

    async def _close_transport(self) -> None:
        self._transport = None
        await self._transports.aclose()

    async def _release(self, manager: Manager) -> None:
        _state(manager).leave()

    # New settings while it runs

    async def reload(self) -> None:
        """Read the settings again; schedules, timeouts and log levels of tasks take effect, then the managers' hooks.

        Wrong settings are logged, and the old ones stay in force. A hook that raises is logged.

        Raises
        ------
        ServiceStateError
            The service does not run.
        """
        if self._state not in (State.STARTING, State.RUNNING):
            raise ServiceStateError(f"the service {self.name} is {self._state} and has nothing to reload")
        await asyncio.wait({self._begin_reload()})

    def request_reload(self) -> None:
        """Have the settings read again, without waiting for it; nothing happens unless the service runs."""
        if self._state in (State.STARTING, State.RUNNING):
            self._begin_reload()

    def _begin_reload(self) -> asyncio.Task[None]:
        """Only one at a time; what changes while one is under way is read by another one right after it."""
        self._reload_again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(
                self._reload_while_asked(), name=f"{self.name} reload", context=self._context.copy()
            )
        return self._reloading

    async def _reload_while_asked(self) -> None:
        while self._reload_again:
            self._reload_again = False
            if self._put_in_force():
                for manager in tuple(self._initialised):
                    await self._reload_manager(manager)

    def _put_in_force(self) -> bool:
        """Read the settings and, if nothing is wrong with them, hand them to the managers."""
        try:
            settings = self.settings.reload()
            self._check_overrides(settings)
        except Exception as exc:
            log.error("settings.rejected", service=self.name, error=str(exc))
            return False
        self.settings = settings
        for manager in self._joined:
            _state(manager).give(settings)
        log.info("settings.reloaded", service=self.name)
        self._reporter.listeners.tell(SettingsReloaded(self.name, self.host))
        return True

    def _check_overrides(self, settings: Settings) -> None:
        overrides = settings.overrides_for(self._task_names())
        for entry in self._entries():
            if entry.full_name in overrides:
                override_options(entry.declared, overrides[entry.full_name])

    async def _reload_manager(self, manager: Manager) -> None:
        try:
            await manager.reload()
        except (SystemExit, KeyboardInterrupt) as exc:  # from a task asyncio lets them tear down the loop
            self._end_with(exc)
        except (Exception, asyncio.CancelledError) as exc:
            if is_cancelled():
                raise
            log.error("reload.failed", service=self.name, manager=manager.name, exc_info=exc)

    async def _end_reload(self) -> None:
        assert self._reloading is not None
        self._reloading.cancel()
        await asyncio.wait({self._reloading})

    def _entries(self) -> Iterator[Entry]:
        for manager in self._managers:
            yield from _state(manager).entries().values()

    def _task_names(self) -> list[str]:
        return [entry.full_name for entry in self._entries()]


def _state(manager: Manager) -> ManagerState:
    return manager._asyncmgr  # noqa: SLF001 - a service is the manager's other half


def _read_settings() -> Settings:
    from asyncmgr._settings.model import Settings

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
