"""`Insight`: what monitoring sees of a service, and the places where it joins in. The service fills it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from asyncmgr._common.clock import SECOND, Moment, read_wall, to_datetime
from asyncmgr._service.health import (
    NEEDING,
    SHOWN,
    Blockage,
    Facts,
    Health,
    Promise,
    Survey,
    connection_of,
    need_of,
)
from asyncmgr._tasks.recorder import Recorder
from asyncmgr._tasks.status import left_fresh
from asyncmgr._tasks.whereabouts import Place, chain_of

if TYPE_CHECKING:
    from asyncmgr._history.keeper import History
    from asyncmgr._rpc.server import CallServer
    from asyncmgr._service.cluster_scope import ClusterScope
    from asyncmgr._service.connections import Connections
    from asyncmgr._service.manager_state import ManagerState
    from asyncmgr._service.steps import Step
    from asyncmgr._settings.model import Settings
    from asyncmgr._tasks.managed import ManagedTask
    from asyncmgr._tasks.reporting import Reporter
    from asyncmgr._tasks.runner import Runner
    from asyncmgr.transports import StoreEngine, Transport

R = TypeVar("R", bound=Recorder)

AT_ONCE = 250
"""Tasks that are looked at before other code gets its turn."""

MOST_WAITS = 12
"""Lines in which a run waits that are told, the innermost ones."""


class Insight:
    """The inside of one service, for the rooms above it.

    Parameters
    ----------
    states
        Returns the states of the managers.
    settings
        Returns the settings in force.
    basic
        Returns the short health.
    lost_routes
        Says why calls do not arrive although the transport is connected; empty where they do.
    blocked
        Describes the block of the event loop that is worth a word.
    """

    def __init__(
        self,
        reporter: Reporter,
        cluster: ClusterScope,
        history: History,
        connections: Connections,
        *,
        states: Callable[[], Sequence[ManagerState]],
        settings: Callable[[], Settings],
        basic: Callable[[], Health],
        lost_routes: Callable[[], str],
        blocked: Callable[[], Blockage | None],
    ) -> None:
        self.reporter = reporter
        self.cluster = cluster
        self.history = history
        self._connections = connections
        self._states = states
        self._settings = settings
        self._basic = basic
        self._lost_routes = lost_routes
        self._blocked = blocked
        self.steps: list[Step] = []
        """Steps of the start that other rooms add before it: they begin before all hooks, and end after them."""
        self.runner: Runner | None = None
        self.server: CallServer | None = None
        self.started: int | None = None
        """When the tasks began: wall time, microseconds; `None` = they have not."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.parts: dict[str, object] = {}
        """What other rooms keep for this service, by a name of theirs."""
        self.on_tasks: list[Callable[[Runner], object]] = []
        """Called with the runner right before its tasks begin."""
        self.on_calls: list[Callable[[CallServer], object]] = []
        """Called with the server right before it gets calls."""

    @property
    def settings(self) -> Settings:
        return self._settings()

    @property
    def transport(self) -> Transport | None:
        return self._connections.transport

    @property
    def store(self) -> StoreEngine | None:
        return self._connections.store

    # Called by the service

    def calls_begin(self, server: CallServer) -> None:
        self.server = server
        for callback in self.on_calls:
            callback(server)

    def tasks_begin(self, runner: Runner) -> None:
        self.runner, self.loop = runner, asyncio.get_running_loop()
        for callback in self.on_tasks:
            callback(runner)
        self.started = read_wall()

    # Joining in

    def with_runner(self, callback: Callable[[Runner], object]) -> None:
        """Call `callback` with the runner: right before its tasks begin, or now where they have begun."""
        self.on_tasks.append(callback)
        if self.runner is not None:
            callback(self.runner)

    def with_server(self, callback: Callable[[CallServer], object]) -> None:
        """Call `callback` with the server of calls: right before it gets calls, or now where it does."""
        self.on_calls.append(callback)
        if self.server is not None:
            callback(self.server)

    def record_by(self, make: Callable[[Recorder | None], R]) -> R:
        """Put a recorder around the present one, which it has to tell everything. Tasks are enrolled anew."""
        recorder = make(self.reporter.recorder)
        self.reporter.recorder = recorder
        if self.runner is not None:
            recorder.follow(self.runner.oldest)
            for task in self.tasks():
                recorder.add(task)
        return recorder

    # Tasks

    def tasks(self) -> Iterator[ManagedTask]:
        """Yield every task, also those that are switched off."""
        for state in self._states():
            yield from tuple(state.tasks().values())

    def find(self, full_name: str) -> tuple[ManagerState, ManagedTask] | None:
        """Find a task and the state of its manager; `None` = the service has no such task."""
        for state in self._states():
            found = state.tasks().get(full_name)
            if found is not None:
                return state, found
        return None

    def surveys(self, *, with_needs: bool = True) -> Iterator[Survey]:
        """Look at all tasks, `AT_ONCE` at a time; yield the one survey after each of these steps.

        Of the tasks that need somebody it describes `SHOWN` in each state, and none without `with_needs`.
        """
        survey, seen = Survey(), 0
        now = to_datetime(read_wall())
        for state in self._states():
            for task, found in state.states():
                survey.states[found] += 1
                if with_needs and found in NEEDING and survey.states[found] <= SHOWN:
                    need = need_of(state.status_of(task), now)
                    if need is not None:
                        survey.needs.append(need)
                seen += 1
                if seen % AT_ONCE == 0:
                    yield survey
        yield survey

    def survey(self, *, with_needs: bool = True) -> Survey:
        """Look at all tasks at once."""
        *_, survey = self.surveys(with_needs=with_needs)
        return survey

    def needing(self) -> Iterator[list[str]]:
        """Name the tasks that need somebody, after each `AT_ONCE` tasks that were looked at."""
        names: list[str] = []
        for seen, (task, found) in enumerate(
            (one for state in self._states() for one in state.states()), start=1
        ):
            if found in NEEDING:
                names.append(task.full_name)
            if seen % AT_ONCE == 0:
                yield names
                names = []
        yield names

    def places_of(self, full_name: str) -> list[Place]:
        """List the lines in which the oldest run of a task waits, the outermost first."""
        found = self.find(full_name)
        run = None if found is None or self.runner is None else self.runner.oldest(found[1].standing)
        get = None if run is None else getattr(run.future, "get_coro", None)
        return [] if get is None else chain_of(get())[-MOST_WAITS:]

    def waits_of(self, full_name: str) -> list[dict[str, str]]:
        """List the same lines as `function` and `place`."""
        return [
            {"function": one.function, "place": f"{one.file.rpartition('/')[2]}:{one.line}"}
            for one in self.places_of(full_name)
        ]

    def paused(self) -> set[ManagedTask]:
        """Return the tasks that are paused."""
        return {task for state in self._states() for task in state.verbs.pauses}

    def moments(self) -> dict[int, Moment]:
        """Read the clocks of the managers whose tasks start by themselves, by the identity of the manager."""
        if self.runner is None or not self.runner.lookout.is_open:
            return {}
        moment = self.runner.lookout.clock.read()
        return {id(state.manager): moment for state in self._states()}

    # Facts

    def facts(self) -> Facts:
        """Gather what the service knows of itself, without its tasks."""
        lookout = None if self.runner is None else self.runner.lookout
        age = None if self.runner is None else self.runner.now() - self.runner.lookout.looked_at
        lost = self._lost_routes()
        return Facts(
            self._basic(),
            lookout is None or not lookout.is_open or lookout.is_alive,
            self._promises(),
            connection_of(self.transport, [lost] if lost else []),
            connection_of(self.store),
            self.cluster.leases(),
            age,
            frozenset(self.settings.monitoring.ready_needs),
            self._blocked(),
        )

    def _promises(self) -> list[Promise]:
        found: list[Promise] = []
        for state in self._states():
            critical = [task for task in state.tasks().values() if task.plan.options.critical]
            if critical:
                moment = state.read_clock()
                found += [self._promise(state, task, moment) for task in critical]
        return found

    def _promise(self, state: ManagerState, task: ManagedTask, moment: Moment) -> Promise:
        freshness, left = task.plan.options.freshness, left_fresh(task, moment)
        run = None if self.runner is None else self.runner.oldest(task.standing)
        return Promise(
            task.full_name,
            None if freshness is None else freshness / SECOND,
            None if run is None or self.runner is None else self.runner.age(run),
            0.0 if freshness is None or left is None else max(0.0, (freshness - left) / SECOND),
            not state.is_on(task),
        )
