"""`Service`: runs managers on one host, with a runner for their tasks, a server for their calls and a transport.

`Service._steps` lists all that a start and a stop do. `lifecycle` takes these steps in a task of its own. So `start`
and `stop` may be called in different tasks, and a cancelled caller leaves nothing half started or half stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from asyncmgr._common.clock import read_wall, to_us
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text, printable, safe_repr
from asyncmgr._common.spans import without_spans
from asyncmgr._history.explain import Explanation
from asyncmgr._history.journal import Journal
from asyncmgr._history.keeper import Asked, History
from asyncmgr._history.slots import Record
from asyncmgr._rpc.context import Caller, served, speaking_as
from asyncmgr._service.capability_manager import write_reports
from asyncmgr._service.connections import Connections
from asyncmgr._service.drain import CANCEL_GRACE, Drain, Pending
from asyncmgr._service.drain import StopReport as StopReport
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.health import Health as Health
from asyncmgr._service.health import HealthReport, judge, missed_timer
from asyncmgr._service.health import State as State
from asyncmgr._service.insight import Insight
from asyncmgr._service.lifecycle import Life
from asyncmgr._service.loop_watch import LoopWatch, entry_of
from asyncmgr._service.manager import Manager, pause_by_policy, state_of
from asyncmgr._service.naming import check_manager, service_name
from asyncmgr._service.plugins import call_plugins
from asyncmgr._service.presence import Presence
from asyncmgr._service.reload import Reload
from asyncmgr._service.scopes import Scopes
from asyncmgr._service.steps import Hook, Step
from asyncmgr._tasks.blame import current_run
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Site
from asyncmgr._tasks.schedules import load_zone
from asyncmgr._tasks.status import TaskStatus
from asyncmgr.capabilities._announcer import Announcer
from asyncmgr.capabilities._board import Board
from asyncmgr.errors import AsyncmgrError, InvalidHook, ServiceStateError, ServiceStopped, WrongThread
from asyncmgr.events import Event, Listener, LoopBlocked, ServiceStarted, ServiceStopping, SettingsReloaded
from asyncmgr.transports import StoreEngine, Transport
from asyncmgr.transports._tokens import encode_token

if TYPE_CHECKING:
    from asyncmgr._rpc.server import CallServer
    from asyncmgr._service.control import Control
    from asyncmgr._service.control_socket import ControlSocket
    from asyncmgr._settings.model import Settings

_inside: ContextVar[tuple[Service, ...]] = ContextVar("asyncmgr services", default=())
"""The services whose run or hook the current code belongs to. This code cannot wait for the end of these services."""


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
        The name under which this instance is known. Default: the setting `host`, then the machine's name.
    transport
        A URL, or an open `Transport`, which the service uses and does not close. Default: the setting `transport`,
        ``memory://``.
    store
        Where capabilities, leases and slots are kept: a URL of `open_store`, or an open store engine, which the service
        uses and does not close. Default: the setting `store`, and without it the transport.
    settings
        Default: the settings are read now, see `Settings`.

    Raises
    ------
    AsyncmgrError
        Two managers have one name, or two service names; or a name is one that no transport can carry.
    """

    def __init__(
        self,
        *managers: Manager,
        name: str | None = None,
        host: str | None = None,
        transport: str | Transport | None = None,
        store: str | StoreEngine | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings: Settings = _read_settings() if settings is None else settings
        self.name: str = name or service_name(managers)
        self.host: str = host or self.settings.resolved_host
        encode_token(self.name, what="service name")
        encode_token(self.host, what="host name")
        self._connections = Connections(transport, store, self.settings)
        self.board: Board = Board()
        """The capabilities that managers report; the announcer sends them."""
        self.journal: Journal = Journal()
        """What people did to tasks by the verbs of handles, what ended by itself, and what befell the service."""
        self._reporter = Reporter(self.host)
        self._history = History(self.name, self.host, self.journal, lambda: load_zone(self.settings.timezone))
        self._reporter.recorder = self._history.ledger
        self._incarnation = ""
        self._stop_cause = ""
        self._state = State.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._life: Life | None = None
        self._drain = Drain()
        self._report = StopReport()
        self._asked_at: float | None = None
        self._stop_began = 0.0
        self._entered: list[Step] = []
        self._managers: list[Manager] = []
        self._joined: list[Manager] = []
        self._presence = Presence(
            make_server=self._make_server,
            make_announcer=self._make_announcer,
            transport=lambda: self._connections.transport,
            on_server=lambda server: self._insight.calls_begin(server),
            drain=self._drain,
        )
        self._control: Control | None = None
        self._control_socket: ControlSocket | None = None
        self._runner: Runner | None = None
        self._loop_watch = LoopWatch(self.host, self._tell_block)
        """Notices when the event loop is blocked."""
        self._scopes = Scopes(
            self.settings.application or self.name,
            self.host,
            self.settings,
            self._connections,
            store=lambda: self.store,
            listeners=self._reporter.listeners,
            journal=self.journal,
        )
        self._reload = Reload(
            self.name,
            read=self._read_settings_again,
            put_in_force=self._put_in_force,
            managers=self._initialised_managers,
            on_exit=self._end_with,
        )
        self._insight = Insight(
            self._reporter,
            self._scopes.cluster,
            self._history,
            self._connections,
            states=lambda: [state_of(manager) for manager in self._managers],
            settings=lambda: self.settings,
            basic=lambda: self.health,
            lost_routes=self._presence.lost_routes,
            blocked=self._loop_watch.blockage,
        )
        self.failed_plugins: tuple[str, ...] = ()
        """Names of the plugins that could not be loaded, or that raised."""
        for manager in managers:
            self.add_manager(manager)

    # Facts and parts

    @property
    def managers(self) -> tuple[Manager, ...]:
        return tuple(self._managers)

    @property
    def given_transport(self) -> str | Transport:
        """A URL, or an open transport, which the service does not close."""
        return self._connections.given_transport

    @property
    def given_store(self) -> str | StoreEngine | None:
        """A URL, or an open store engine, which the service does not close; `None` = the transport."""
        return self._connections.given_store

    @property
    def transport(self) -> Transport:
        """The open transport.

        Raises
        ------
        ServiceStateError
            The service is not connected.
        """
        if self._connections.transport is None:
            raise ServiceStateError(f"the service {self.name} has no transport while it is {self._state}")
        return self._connections.transport

    @property
    def store(self) -> StoreEngine:
        """The open store engine, which keeps capabilities; the transport where no other one is set.

        Raises
        ------
        ServiceStateError
            The service is not connected.
        """
        if self._connections.store is None:
            raise ServiceStateError(f"the service {self.name} has no store while it is {self._state}")
        return self._connections.store

    @property
    def state(self) -> State:
        return self._state

    @property
    def health(self) -> Health:
        """Whether the schedule makes progress and calls arrive, and why not; ``service.health()`` tells everything."""
        ok, reason = self._basic_health()
        return Health(ok, self._state, reason, self._report_health)

    def _basic_health(self) -> tuple[bool, str]:
        if self._error is not None:
            return False, f"failed: {error_text(self._error)}"
        if self._state is not State.RUNNING:
            return False, f"the service is {self._state}"
        if self._runner is None or not self._runner.lookout.is_alive:
            return False, missed_timer(self._loop_watch.blockage())
        lost = self._presence.lost_routes()
        if lost:
            return False, f"calls do not arrive: {printable(lost)}"
        return True, "the scheduler keeps its time"

    def _report_health(self) -> HealthReport:
        return judge(self._insight.facts(), self._insight.survey())

    @property
    def _error(self) -> BaseException | None:
        return None if self._life is None else self._life.error

    def add_manager(self, manager: Manager) -> None:
        """Add a manager before the start; for plugins.

        Raises
        ------
        AsyncmgrError
            The object is no manager instance, its name is taken, or it has another `service_name`.
        ServiceStateError
            The start has begun.
        """
        if self._joined:
            raise ServiceStateError(f"the service {self.name} runs already; add managers before it starts")
        check_manager(manager, self._managers, self.name)
        self._managers.append(manager)

    def add_listener(self, callback: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call `callback` with every event (see `asyncmgr.events`), or only with events of these kinds.

        The service calls it synchronously, in the event loop. Where it raises, the error is logged and nothing else
        happens. Returns a function that removes the callback.

        Raises
        ------
        InvalidHook
            The callback is ``async def``, and nothing would await it.
        """
        return self._reporter.listeners.add(callback, *kinds)

    def pending(self) -> Pending:
        """List the runs and calls in progress, and how long they may go on once a stop has begun."""
        return self._drain.pending(runs=self._runner, calls=self._presence.server)

    # Tasks

    @property
    def tasks(self) -> tuple[TaskHandle, ...]:
        """Handles of all tasks, declared and added, in definition order; those that are switched off too."""
        return tuple(handle for manager in self._managers for handle in state_of(manager).handles())

    def task(self, task: str | Callable[..., Any]) -> TaskHandle:
        """Find the handle of one task, by its full name or by its bound method: ``service.task(volumes.sync)``.

        Raises
        ------
        AsyncmgrError
            No manager of this service has such a task.
        """
        for manager in self._managers:
            state = state_of(manager)
            if isinstance(task, str):
                managed = state.tasks().get(task)
                found = None if managed is None else TaskHandle(state, managed)
            else:
                found = state.handle_of(task)
            if found is not None:
                return found
        known = ", ".join(handle.full_name for handle in self.tasks[:20]) or "none"
        raise AsyncmgrError(f"the service {self.name} has no task {safe_repr(task)}; it has {known}")

    def status(self) -> tuple[TaskStatus, ...]:
        """Return the status of every task that is switched on here, in definition order."""
        return tuple(status for manager in self._managers for status in manager.task_status())

    @property
    def blocks(self) -> tuple[LoopBlocked, ...]:
        """The newest 64 blocks of the event loop that were longer than `block_threshold`, the oldest first."""
        return tuple(self._loop_watch.blocks)

    def dump_where_stuck(self) -> None:
        """Have Python itself write all stacks to stderr where a call never gives the interpreter back.

        Call it before the start. It is for programs that own their process, as `asyncmgr run` does.
        """
        self._loop_watch.dumps = True

    # Leases

    def lease(
        self,
        name: str,
        *,
        on_lost: Literal["cancel", "tell"] = "cancel",
        scope: Literal["cluster", "host"] = "cluster",
    ) -> AbstractAsyncContextManager[Any]:
        """Make a lease: the right to be the only one that does something, while an ``async with`` block lasts.

        Entering waits until nobody else holds a lease of this name: no process of the application (`cluster`), or none
        of this machine and user (`host`), and no other task of this process. What is entered has `fencing_token` and
        `lost`.

        Parameters
        ----------
        on_lost
            What happens where the lease is lost, since the store is out of reach for too long: `cancel` cancels the
            block, which then raises `LostLease`; `tell` only makes ``lease.lost`` true.

        Raises
        ------
        InvalidName
            The name takes more than 128 bytes.
        ServiceStateError
            The service is not connected, or not any more.
        """
        encode_token(name, what="lease")
        if scope == "host":
            return self._scopes.host_lease(name)
        if self._state in (State.NEW, State.STOPPED):
            raise ServiceStateError(
                f"the service {self.name} is {self._state} and can hold no lease; start it first"
            )
        return self._scopes.cluster.lease(name, on_lost)

    def status_page(self, after: int, most: int) -> tuple[TaskStatus, ...]:
        """Return the status of up to `most` tasks from number `after` on, in definition order.

        Those that are switched off count too.
        """
        page: list[TaskStatus] = []
        for manager in self._managers:
            state = state_of(manager)
            count = len(state.tasks())
            if after < count and len(page) < most:
                page += state.status_page(after, most - len(page))
            after = max(0, after - count)
        return tuple(page)

    @property
    def task_count(self) -> int:
        """The number of tasks, of those that are switched off too."""
        return sum(len(state_of(manager).tasks()) for manager in self._managers)

    # History

    def explain(
        self, task: str | Callable[..., Any], at: datetime | None = None, *, key: str | int | None = None
    ) -> Explanation:
        """Explain in one or two sentences what became of the slot of a task at a moment, and why.

        Parameters
        ----------
        task
            The full name, or the bound method.
        at
            An aware moment, up to a minute from the slot. Default: the state of the task at present.
        key
            One key of a task with `each=`, as the manager gave it or by its text. Each key has slots of its own.

        Raises
        ------
        UnknownKey
            The task has no such key, and had none of which something is kept.
        AsyncmgrError
            No manager of this service has such a task, the task has no keys, or the moment has no time zone.
        """
        if at is not None and at.utcoffset() is None:
            raise AsyncmgrError(f"at={at!r} has no time zone; write e.g. datetime(..., tzinfo=UTC)")
        return self._history.explain(self._asked(self.task(task).full_name, key), at)

    def history(
        self,
        task: str | Callable[..., Any] | None = None,
        *,
        key: str | int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[Record]:
        """List what became of the slots of a task, or of all tasks, newest first; from memory and the history file.

        With a task that has keys, its keys are listed too, or the one of `key`: from memory only.

        Raises
        ------
        UnknownKey
            The task has no such key, and had none of which something is kept.
        AsyncmgrError
            There is no such task, it has no keys, or `key` is given without it.
        """
        if task is None and key is not None:
            raise AsyncmgrError(f"key={key!r} is given without a task; say whose key it is")
        names = [one.full_name for one in self.tasks] if task is None else [self.task(task).full_name]
        return self._history.records(
            [self._asked(name, key) for name in names],
            None if task is None else names[0],
            since=None if since is None else to_us(since.timestamp()),
            until=None if until is None else to_us(until.timestamp()),
            limit=limit,
        )

    def _asked(self, full_name: str, key: str | int | None = None) -> Asked:
        for manager in self._managers:
            state = state_of(manager)
            managed = state.tasks().get(full_name)
            if managed is not None:
                moment, off = state.read_clock(), state.off(managed) or ""
                absence = state.absence(managed)
                if key is not None:
                    return state.keys_of(managed).asked(key, self._history.ledger, absence, off)
                run = None if self._runner is None else self._runner.oldest(managed.standing)
                holding = self._scopes.gates.holding(managed)
                holder = "" if holding is None else holding.owner
                return Asked(managed, moment, absence=absence, why_off=off, run=run, holder=holder)
        raise AsyncmgrError(f"the service {self.name} has no task {safe_repr(full_name)}")

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
        """Start the service; return when its tasks run.

        Hooks, runs and calls have the context variables of the caller, without those that hold a tracing span: those
        of OpenTelemetry, Sentry, ddtrace and Elastic APM, and every other one that has the word ``span`` in its name
        or an object of a class ``...Span`` as its value. All later hooks see a variable that a start hook sets; each
        run and each call gets a copy of the context that the hooks have left.

        Raises
        ------
        ServiceStateError
            The service was started before: a service runs once.
        ServiceStopped
            The service was stopped before its start was complete.
        Exception
            The error of the step that failed; the steps before it were undone.
        """
        if self._state is State.STOPPED and self._life is None:
            raise ServiceStopped(f"the service {self.name} was stopped before it was started")
        if self._state is not State.NEW:
            raise ServiceStateError(
                f"the service {self.name} is {self._state}; a service runs once, build another"
            )
        self._state = State.STARTING
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        # Not in the constructor: processes that fork afterwards would draw the same numbers.
        self._random = random.Random(self.settings.seed)
        self._context = without_spans(contextvars.copy_context())
        self._context.run(_inside.set, (*_inside.get(), self))
        self._context.run(speaking_as.set, Caller(self.name, self.host))
        self._context.run(current_run.set, None)  # nor is it the work of a run that starts it
        self._context.run(served.set, None)  # a service that a call starts outlives the call
        life = self._life = Life(
            # The context itself and no copy: runs and calls get copies of what the hooks set in it.
            self._start_steps,
            self._next_stop_step,
            name=self.name,
            context=self._context,
        )
        await self._reach(life, life.running)
        if not life.running.done():
            raise life.error or ServiceStopped(f"the service {self.name} was stopped while it started")

    async def stop(self, timeout: float | None = None) -> StopReport:
        """Stop the service in any state: start nothing new, drain runs and calls, undo the hooks, close the transport.

        Parameters
        ----------
        timeout
            Seconds that runs and calls in progress get before they are cancelled. Default: the timeout of an earlier
            call, else the setting `drain_timeout`, 30. Of several timeouts the one that ends first counts.

        If the caller is cancelled meanwhile, runs and calls are cancelled at once, and `cleanup_host` gets one second.

        A run or hook of this service, and a task that it started, gets an empty report at once: the service cannot end
        before it does.

        Raises
        ------
        WrongThread
            The service runs in another event loop.
        """
        self._check_loop("stop()")
        self._ask(timeout)
        if self._life is not None and self not in _inside.get():
            await self._reach(self._life, self._life.over)
        return self._report

    async def wait(self) -> None:
        """Wait until the service has stopped.

        Raises
        ------
        BaseException
            The error that ended the service: the scheduler's own, or the `SystemExit` or `KeyboardInterrupt` of a run.
        """
        if self._state is State.NEW:
            raise ServiceStateError(f"the service {self.name} is new; start it first")
        self._check_loop("wait()")
        if self._life is not None:
            await asyncio.wait({self._life.over})
        if self._error is not None:
            raise self._error

    def request_stop(self, *, at_once: bool = False, because: str = "") -> None:
        """Ask for a stop and do not wait for it. Any thread may call this.

        With `at_once`, runs and calls are cancelled now, and each hook gets one second. `because` is a word for
        explanations of skipped slots, such as ``SIGTERM``.
        """
        self._stop_cause = self._stop_cause or because
        self._on_loop(self._hurry if at_once else partial(self._ask, None))

    def _on_loop(self, call: Callable[[], object]) -> None:
        """Make a call in the thread of the service's loop: now where this is that thread, else soon."""
        if self._loop is None or threading.get_ident() == self._thread:
            call()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _check_loop(self, call: str) -> None:
        if (
            self._loop is not None
            and self._loop is not asyncio.get_running_loop()
            and not self._loop.is_closed()
        ):
            raise WrongThread(
                f"{call} of the service {self.name} was called in another event loop than the one that it runs in; "
                "from there use request_stop(), or asyncio.run_coroutine_threadsafe() with the service's loop"
            )

    async def _reach(self, life: Life, moment: asyncio.Future[None]) -> None:
        """Wait for the moment or the end. If the caller is cancelled, hurry the end and still wait for it."""
        try:
            await asyncio.wait({moment, life.over}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._hurry()
            await life.wait_out()
            raise

    def _ask(self, timeout: float | None) -> None:
        """Ask for the stop. Runs get `timeout` seconds; `None` = the limit of an earlier request, else the setting."""
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
        """Stop because a run asked for the process to end, or because the scheduler died; keep the error for `wait`."""
        if self._life is not None and not self._life.over.done():
            self._life.error = self._life.error or error
            if isinstance(error, KeyboardInterrupt) and self._asked_at is not None:
                self._hurry()  # the second Ctrl-C: asyncio raises it in the code that runs just then
            else:
                self._ask(None)

    # The steps

    def _steps(self) -> Iterator[Step]:
        """Yield every step of the start, in order, with what undoes it. A new part of the service adds a step here."""
        yield Step("load plugins", enter=self._load_plugins)
        yield Step("release managers", leave=self._release_managers)
        yield Step("join managers", enter=self._join_managers)
        yield Step("history", enter=self._open_history, leave=self._close_history, leaving="close history")
        # Before all hooks, and after them at the stop: so it answers while one of them hangs, and during the drain.
        yield Step("open control", enter=self._open_control, leave=self._close_control)
        yield from self._insight.steps
        yield self._connections.leaving
        # After `cleanup_host`, which may still need a lease that `pre_start_hook` has entered.
        yield Step("end session", leave=self._scopes.cluster.stop)
        for manager in self._managers:
            yield Step(
                _init_step(manager),
                enter=_hook(manager, "init_host"),
                leave=_hook(manager, "cleanup_host"),
                leaving=f"{manager.name}.cleanup_host",
            )
        yield from self._connections.entering()
        for manager in self._managers:
            yield Step(f"{manager.name}.pre_start_hook", enter=_hook(manager, "pre_start_hook"))
        yield Step("write slots", leave=self._scopes.persist.close)
        yield Step("close gates", leave=self._scopes.close_gates)
        yield Step("unwatch loop", leave=self._unwatch_loop)
        yield Step("cancel", leave=self._drain.cancel)
        yield Step("drain", leave=self._drain.wait)
        yield from self._presence.serving()
        for manager in self._managers:
            yield Step(f"{manager.name}.post_start_hook", enter=_hook(manager, "post_start_hook"))
        yield from self._presence.announcing()
        yield Step("start delay", enter=self._start_delay)
        yield Step("end reload", leave=self._reload.end)
        yield Step("refuse runs", leave=self._refuse_runs)
        yield Step("read slots", enter=self._read_slots)
        yield Step("start tasks", enter=self._start_tasks)

    async def _start_steps(self, life: Life) -> None:
        for step in self._steps():
            if step.enter is not None:
                await life.step(step.name, step.enter)
            self._entered.append(step)
        life.running.set_result(None)
        await life.asked.wait()

    def _next_stop_step(self) -> tuple[str, Hook] | None:
        """Name the next step of the stop and its hook; `None` once all steps are taken."""
        if self._state not in (State.STOPPING, State.STOPPED):
            self._begin_stop()
        while self._entered:
            step = self._entered.pop()
            if step.leave is not None:
                return step.leaving or step.name, step.leave
        self._end_stop()
        return None

    def _begin_stop(self) -> None:
        self._state = State.STOPPING
        self._stop_began = asyncio.get_running_loop().time() if self._asked_at is None else self._asked_at
        if self._asked_at is None:  # a start that failed
            self._drain.limit(self.settings.drain_timeout)

    def _end_stop(self) -> None:
        report = self._report = self._drain.report(asyncio.get_running_loop().time() - self._stop_began)
        self._state = State.STOPPED
        log.info("service.stopped", service=self.name, host=self.host, **report.counts())

    # What the steps do

    async def _load_plugins(self) -> None:
        self.failed_plugins = call_plugins(self, disabled=self.settings.plugins.disabled)

    async def _join_managers(self) -> None:
        for manager in self._managers:
            state_of(manager).join(self, self.settings, self.host)
            self._joined.append(manager)
        write_reports(self._managers, self.board)

    async def _release_managers(self) -> None:
        while self._joined:
            manager = self._joined.pop(0)
            try:
                state_of(manager).leave()
            except Exception as exc:
                log.error(
                    "service.step_failed", service=self.name, step=f"release {manager.name}", exc_info=exc
                )

    async def _open_history(self) -> None:
        self._incarnation = secrets.token_hex(4)
        self._history.open(self.settings.history, self._incarnation, read_wall())

    async def _close_history(self) -> None:
        for manager in self._joined:
            state_of(manager).settle_all("draining")
        await self._history.close()

    @property
    def control(self) -> Control:
        """The verbs of this service as data; other rooms add theirs."""
        if self._control is None:
            from asyncmgr._service.control import Control  # loads what only few services need
            from asyncmgr._service.control_history import add_history
            from asyncmgr._service.control_watch import add_watch

            self._control = Control(self)
            add_history(self._control, self)
            add_watch(self._control, self, self._insight)
        return self._control

    async def _open_control(self) -> None:
        if self.settings.control:
            from asyncmgr._service.control_socket import ControlSocket

            self._control_socket = ControlSocket(self.control, context=self._context)
            await self._control_socket.open()

    async def _close_control(self) -> None:
        if self._control_socket is not None:
            await self._control_socket.close()

    def _make_server(self) -> CallServer:
        from asyncmgr._rpc.server import (  # this module and the next load pydantic, which is slow to import
            CallServer,
            builtin_endpoint_of,
            endpoint_of,
        )
        from asyncmgr._service.builtin_rpc import Inside

        endpoints = [endpoint_of(manager) for manager in self._managers]
        this = Caller(self.name, self.host)
        inside = Inside(
            this,
            zip(self._managers, endpoints, strict=True),
            control=self.control,
            may_steer=lambda: self.settings.rpc_control,
        )
        return CallServer(
            self.transport,
            this,
            endpoints,
            builtin_endpoint_of(inside),
            places=self.settings.rpc_concurrency,
            context=self._context,
            on_exit=self._end_with,
        )

    def _make_announcer(self) -> Announcer:
        return Announcer(
            self.store,
            self.name,
            self.host,
            ttl=self.settings.capability_ttl,
            board=self.board,
            listeners=self._reporter.listeners,
        )

    async def _start_delay(self) -> None:
        if self.settings.start_delay:
            await asyncio.sleep(self._random.uniform(0, self.settings.start_delay))

    async def _read_slots(self) -> None:
        await self._scopes.read_slots(self._tasks())

    async def _start_tasks(self) -> None:
        # Not before, since the start hooks may have added tasks.
        matches = self.settings.match_tasks([task.full_name for task in self._tasks()])
        matches.raise_problems()
        for foreign in matches.foreign:
            log.debug("settings.foreign", service=self.name, setting=str(foreign))
        self._scopes.host.check(self._tasks())
        runner = Runner(
            Site(self.host, self.name, self._incarnation),
            self._reporter,
            random_source=self._random,
            context=self._context,
            on_exit=self._end_with,
            on_death=self._end_with,
            max_runs=self.settings.max_runs,
            pause=pause_by_policy,
        )
        self._scopes.gates.open(runner)
        for manager in self._managers:
            state_of(manager).start(runner, self.journal, self._scopes.gates)
        self._history.begin(self._tasks(), runner.lookout.read())
        self._insight.tasks_begin(runner)
        runner.open()
        self._runner = runner
        self._loop_watch.begin(runner, self.settings.block_threshold)
        self._state = State.RUNNING
        log.info("service.started", service=self.name, host=self.host, tasks=len(runner.lookout.agenda))
        self._reporter.listeners.tell(ServiceStarted(self.name, self.host))

    def _tell_block(self, block: LoopBlocked) -> None:
        """Note a block of the event loop that is over, for `explain` and the page, and tell the listeners."""
        self.journal.stall(**entry_of(block))
        self._reporter.blocked(block)

    async def _unwatch_loop(self) -> None:
        self._loop_watch.end()

    async def _refuse_runs(self) -> None:
        if self._runner is None:
            return
        try:
            self._runner.close()
        finally:  # an interrupt may land in a listener
            self._drain.meet(self._runner)
            self._scopes.gates.stopping()
        self.journal.add("stopping", note=self._stop_cause)
        log.info("service.stopping", service=self.name, host=self.host, runs=len(self._runner.waiting))
        self._reporter.listeners.tell(ServiceStopping(self.name, self.host))

    # New settings while it runs

    async def reload(self) -> None:
        """Read the settings again, put their changes to tasks in force, and call the managers' `reload` hooks.

        Where the new settings are wrong, the error is logged and the old ones stay in force. The error of a hook is
        logged.

        Raises
        ------
        ServiceStateError
            The service is neither starting nor running.
        """
        if self._state not in (State.STARTING, State.RUNNING):
            raise ServiceStateError(f"the service {self.name} is {self._state} and has nothing to reload")
        self._check_loop("reload()")
        await asyncio.wait({self._reload.begin(self._context.copy())})

    def request_reload(self) -> None:
        """Ask for a reload and do not wait for it. Any thread may call this; without a running service it is void."""
        self._on_loop(self._begin_reload)

    def _begin_reload(self) -> None:
        if self._state in (State.STARTING, State.RUNNING):
            self._reload.begin(self._context.copy())

    def _read_settings_again(self) -> Settings:
        """Read new settings and check them against the tasks."""
        settings = self.settings.reload()
        overrides = settings.overrides_for([task.full_name for task in self._tasks()])
        for task in self._tasks():
            if task.full_name in overrides:
                settings.put_over(task.declared, task.full_name, overrides[task.full_name])
        return settings

    def _initialised_managers(self) -> list[Manager]:
        """Return the managers whose `init_host` is done and not undone."""
        entered = {step.name for step in self._entered}
        return [manager for manager in self._managers if _init_step(manager) in entered]

    def _put_in_force(self, settings: Settings) -> None:
        self.settings = settings
        self._loop_watch.set_threshold(settings.block_threshold)
        for manager in self._joined:
            state_of(manager).give(settings)
        log.info("settings.reloaded", service=self.name)
        self._reporter.listeners.tell(SettingsReloaded(self.name, self.host))

    def _tasks(self) -> Iterator[ManagedTask]:
        for manager in self._managers:
            yield from state_of(manager).tasks().values()


def insight_of(service: Service) -> Insight:
    """Return the inside of a service, for the rooms above this one."""
    return service._insight  # noqa: SLF001 - its own class


def _read_settings() -> Settings:
    from asyncmgr._settings.model import Settings

    return Settings()


def _init_step(manager: Manager) -> str:
    return f"{manager.name}.init_host"


def _hook(manager: Manager, name: str) -> Hook:
    """Wrap a hook of a manager, so that one which returns nothing to await raises an error that names it."""

    async def call() -> None:
        awaited: Awaitable[object] | None = getattr(manager, name)()
        if awaited is None:
            raise InvalidHook(
                f"{manager.name}.{name} returned nothing to await; write 'async def {name}(self)'"
            )
        await awaited

    return call
