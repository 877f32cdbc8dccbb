"""`Metrics`: counts what befalls the tasks and calls of one service, and makes families of metrics at a scrape."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._monitoring.counting import Counting
from asyncmgr._monitoring.counts import (
    CODES,
    OTHERS,
    OUTCOMES,
    RESULTS,
    ManagerCounts,
    MethodCounts,
    TaskCounts,
)
from asyncmgr._monitoring.exposition import Column, Family, Labels, Table, write
from asyncmgr._rpc.server import UNKNOWN, CallServer, Code
from asyncmgr._service.health import State, Survey
from asyncmgr._service.service import Service, insight_of
from asyncmgr._service.version import own_version
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.status import TaskState, left_fresh
from asyncmgr.capabilities._hosts import ages_seen
from asyncmgr.events import Event, LeaseAcquired, LeaseLost, LeaseReleased, LoopBlocked
from asyncmgr.transports._operations import OPERATIONS, Operation, Operations
from asyncmgr.transports._operations import RESULTS as STORE_RESULTS

if TYPE_CHECKING:
    from asyncmgr._service.insight import Insight
    from asyncmgr._tasks.managed import ManagedTask
    from asyncmgr.transports import StoreEngine

_NONE = Labels()
_SUM_AND_COUNT = (Column("_sum"), Column("_count"))
_STEPS = {kind: Labels(kind=kind) for kind in ("forward", "back", "stopped")}
_TRANSITIONS = {result: Labels(result=result) for result in ("acquired", "lost", "released")}
_OPERATIONS: dict[Operation, Labels] = {operation: Labels(operation=operation) for operation in OPERATIONS}
_HOST_STATES: dict[str, Labels] = {state: Labels(state=state) for state in ("fresh", "stale")}
_STATES = {state: Labels(state=str(state)) for state in TaskState}


def metrics_of(service: Service) -> Metrics:
    """Return the metrics of a service, which begin to count at the first call: best before the start."""
    insight = insight_of(service)
    found = insight.parts.get("metrics")
    if not isinstance(found, Metrics):
        found = insight.parts["metrics"] = Metrics(service, insight)
    return found


class Metrics:
    """The metrics of one service."""

    def __init__(self, service: Service, insight: Insight) -> None:
        self._service = service
        self._insight = insight
        self._version = own_version()  # reads a file
        self._limit = insight.settings.monitoring.task_series
        self._managers: dict[str, ManagerCounts] = {}
        self._tasks: dict[str, TaskCounts] = {}
        self._own = 0
        """How many tasks have series of their own."""
        self._methods: dict[str, MethodCounts] = {UNKNOWN: MethodCounts(UNKNOWN)}
        self._transitions: Counter[str] = Counter()
        self._counting = insight.record_by(lambda inner: Counting(inner, self.counts_of))
        insight.with_server(self._observe)
        self._blocked: dict[str, float] = {"": 0.0}
        """Seconds, by the name of the task to blame; empty = none is known."""
        service.add_listener(self._note_block, LoopBlocked)
        service.add_listener(self._note_lease, LeaseAcquired, LeaseLost, LeaseReleased)

    # Counting

    def counts_of(self, task: ManagedTask) -> TaskCounts:
        """Find the counts of a task, or make them; above the limit, tasks of a manager share theirs."""
        found = self._tasks.get(task.full_name)
        if found is None:
            found = self._tasks[task.full_name] = self._new_counts(task)
        return found

    def _new_counts(self, task: ManagedTask) -> TaskCounts:
        name = task.full_name.removesuffix(f".{task.name}")
        manager = self._managers.get(name)
        if manager is None:
            manager = self._managers[name] = ManagerCounts(name)
        if self._own < self._limit:
            self._own += 1
            return TaskCounts(manager, task.name)
        if manager.others is None:
            manager.others = TaskCounts(manager, OTHERS)
        return manager.others

    def _observe(self, server: CallServer) -> None:
        for method in server.methods:
            self._methods.setdefault(method, MethodCounts(method))
        server.observe = self._note_call

    def _note_call(self, method: str, code: Code, duration: float | None) -> None:
        (self._methods.get(method) or self._methods[UNKNOWN]).note(code, duration)

    def _note_lease(self, event: Event) -> None:
        self._transitions[type(event).__name__.removeprefix("Lease").lower()] += 1

    def _note_block(self, event: Event) -> None:
        if isinstance(event, LoopBlocked):
            counts = self._tasks.get(event.task or "")
            name = OTHERS if counts is not None and counts is counts.manager.others else event.task or ""
            self._blocked[name] = self._blocked.get(name, 0.0) + event.seconds

    # Reading

    async def chunks(self, *, openmetrics: bool = False) -> AsyncIterator[str]:
        """Write all metrics as text; other code gets its turn between two chunks."""
        survey = await self.survey()
        for chunk in write(self.families(survey), openmetrics=openmetrics):
            yield chunk
            await asyncio.sleep(0)

    async def survey(self) -> Survey:
        """Count all tasks by state; other code gets its turn meanwhile."""
        survey = Survey()
        for survey in self._insight.surveys(with_needs=False):  # noqa: B007 - the last one counts
            await asyncio.sleep(0)
        return survey

    def families(self, survey: Survey | None = None) -> Iterator[Family | Table]:
        """Make all families. They read the counts as they are iterated over, in the thread of the event loop."""
        survey = survey or self._insight.survey(with_needs=False)
        rows, others = self._rows()
        yield from self._of_service(survey)
        yield from _of_runs([*(counts for _, counts in rows), *others])
        yield from self._of_tasks(rows)
        yield from self._of_managers()
        yield from self._of_calls()
        yield from self._of_leases(rows)
        yield from _of_store(self._insight.store)
        yield from _of_hosts(self._limit)

    def _rows(self) -> tuple[list[tuple[ManagedTask, TaskCounts]], list[TaskCounts]]:
        """List the tasks that have series of their own, and the series that others share; forget removed tasks."""
        if len(self._tasks) != self._service.task_count:
            self._learn_tasks()
        rows: list[tuple[ManagedTask, TaskCounts]] = []
        for task in self._insight.tasks():
            if len(rows) == self._own:  # nearly always the first ones: the others need not be looked at
                break
            counts = self.counts_of(task)
            if counts is not counts.manager.others:
                rows.append((task, counts))
        return rows, [manager.others for manager in self._managers.values() if manager.others is not None]

    def _learn_tasks(self) -> None:
        """Forget the tasks that were removed, and make counts of those that are not enrolled yet."""
        present = {task.full_name: task for task in self._insight.tasks()}
        for name in [name for name in self._tasks if name not in present]:
            if self._tasks.pop(name).labels.pairs["task"] != OTHERS:
                self._own -= 1
        for task in present.values():
            self.counts_of(task)

    def _of_service(self, survey: Survey) -> Iterator[Family]:
        insight = self._insight
        runner = insight.runner
        lookout = None if runner is None else runner.lookout
        info = Labels(
            version=self._version,
            python=platform.python_version(),
            service=self._service.name,
            host=self._service.host,
        )
        yield _gauge("build_info", "The version of asyncmgr and where it runs; always 1.", 1, info)
        yield _gauge(
            "service_running",
            "Whether the service has started and does not stop.",
            _is_running(self._service),
        )
        yield Family(
            "asyncmgr_tasks",
            "gauge",
            "Tasks by the word of their status.",
            [("", labels, survey.states[state]) for state, labels in _STATES.items()],
        )
        looks = 0 if lookout is None else lookout.looks
        yield _counter("scheduler_wakeups", "Looks at the agenda.", [("", _NONE, looks)])
        age = 0.0 if lookout is None or runner is None else runner.now() - lookout.looked_at
        yield _gauge("scheduler_tick_age_seconds", "Seconds since the last look at the agenda.", age)
        lag = 0.0 if lookout is None else lookout.lag
        yield _gauge("loop_lag_seconds", "Seconds by which the last look came late.", lag)
        yield _counter(
            "loop_blocked_seconds",
            "Seconds for which the event loop was blocked, by the task to blame; empty = none is known.",
            [("", Labels(task=task), seconds) for task, seconds in tuple(self._blocked.items())],
        )
        yield _counter(
            "clock_steps",
            "Jumps of the wall clock.",
            [("", labels, self._counting.steps[kind]) for kind, labels in _STEPS.items()],
        )
        yield _gauge("transport_up", "Whether the transport can be reached.", _is_up(insight.transport))
        yield _gauge("store_up", "Whether the store can be reached.", _is_up(insight.store))

    def _of_tasks(self, rows: list[tuple[ManagedTask, TaskCounts]]) -> Iterator[Family | Table]:
        paused = self._insight.paused()
        moments = self._insight.moments()
        yield _per_task(
            "running",
            "Runs in progress.",
            ((counts.labels, (_running(task),)) for task, counts in rows),
        )
        yield _per_task(
            "last_success_timestamp_seconds",
            "The end of the last run that succeeded or had nothing to do; 0 = there was none.",
            ((counts.labels, ((task.standing.last_success or 0) / SECOND,)) for task, counts in rows),
        )
        yield _per_task(
            "next_due_timestamp_seconds",
            "The next slot; 0 = nothing is going to start the task by itself.",
            ((counts.labels, (_next_due(task, moments),)) for task, counts in rows),
        )
        yield _per_task(
            "consecutive_failures",
            "Failures in a row.",
            ((counts.labels, (_failures(task),)) for task, counts in rows),
        )
        yield _per_task(
            "paused",
            "Whether the task is paused.",
            ((counts.labels, (int(task in paused),)) for task, counts in rows),
        )
        yield Family(
            "asyncmgr_task_keys",
            "gauge",
            "Keys of a task with each=: those that it has, those whose last run failed, and runs by their place.",
            chain.from_iterable(_keys(task, counts) for task, counts in rows if isinstance(task, KeyedTask)),
        )
        promising = [
            (task, counts, freshness)
            for task, counts in rows
            if (freshness := task.plan.options.freshness) is not None
        ]
        yield _per_task(
            "freshness_ratio",
            "The age of the last success by the freshness that the task promises: above 1 the promise is broken.",
            ((counts.labels, (_ratio(task, moments, length),)) for task, counts, length in promising),
        )

    def _of_managers(self) -> Iterator[Family]:
        managers = list(self._managers.values())
        yield Family(
            "asyncmgr_run_duration_seconds",
            "histogram",
            "Durations of the runs of a manager's tasks.",
            chain.from_iterable(manager.durations.samples() for manager in managers),
        )
        yield Family(
            "asyncmgr_run_lateness_seconds",
            "histogram",
            "From a slot to the start of its run, of a manager's tasks; a nearly due start is no lateness.",
            chain.from_iterable(manager.latenesses.samples() for manager in managers),
        )

    def _of_calls(self) -> Iterator[Table]:
        methods = list(self._methods.values())
        yield Table(
            "asyncmgr_rpc_requests",
            "counter",
            "Calls that were served or refused.",
            [Column("", "code", code) for code in CODES],
            ((method.labels, method.by_code()) for method in methods),
        )
        yield Table(
            "asyncmgr_rpc_duration_seconds",
            "summary",
            "Durations of served calls, without their wait for a place.",
            _SUM_AND_COUNT,
            ((method.labels, (method.duration, method.count)) for method in methods),
        )

    def _of_leases(self, rows: list[tuple[ManagedTask, TaskCounts]]) -> Iterator[Family]:
        held = set(self._insight.cluster.leases().held)
        shared = [task.full_name for task, _ in rows if task.plan.options.scope == "cluster"]
        names = [*shared, *sorted(held.difference(shared))][: self._limit]
        yield Family(
            "asyncmgr_lease_held",
            "gauge",
            "Whether this process holds a cluster-scoped task or a lease.",
            [("", Labels(name=name), int(name in held)) for name in names],
        )
        yield _counter(
            "lease_transitions",
            "Cluster-scoped tasks and leases that this process acquired, lost or released.",
            [("", labels, self._transitions[result]) for result, labels in _TRANSITIONS.items()],
        )


def _of_runs(rows: list[TaskCounts]) -> Iterator[Table]:
    yield Table(
        "asyncmgr_task_runs",
        "counter",
        "Runs that ended, by outcome.",
        [Column("", "outcome", outcome.value) for outcome in OUTCOMES],
        ((counts.labels, counts.outcomes()) for counts in rows),
    )
    yield Table(
        "asyncmgr_task_slots",
        "counter",
        "Slots by what became of them. Those of a pause count when it ends.",
        [Column("", "result", result) for result in RESULTS],
        ((counts.labels, counts.results()) for counts in rows),
    )
    yield Table(
        "asyncmgr_task_duration_seconds",
        "summary",
        "Durations of runs.",
        _SUM_AND_COUNT,
        ((counts.labels, (counts.duration, counts.runs)) for counts in rows),
    )
    yield Table(
        "asyncmgr_task_lateness_seconds",
        "summary",
        "From a slot to the start of its run; a nearly due start is no lateness.",
        _SUM_AND_COUNT,
        ((counts.labels, (counts.lateness, counts.runs)) for counts in rows),
    )


def _of_store(engine: StoreEngine | None) -> Iterator[Table]:
    done = Operations() if engine is None else engine.operations
    yield Table(
        "asyncmgr_store_operations",
        "counter",
        "What the service asked of its store, by how it ended.",
        [Column("", "result", result) for result in STORE_RESULTS],
        (
            (labels, [done.counts[operation, result] for result in STORE_RESULTS])
            for operation, labels in _OPERATIONS.items()
        ),
    )
    yield Table(
        "asyncmgr_store_duration_seconds",
        "summary",
        "How long the store took.",
        _SUM_AND_COUNT,
        (
            (
                labels,
                (done.seconds[operation], sum(done.counts[operation, result] for result in STORE_RESULTS)),
            )
            for operation, labels in _OPERATIONS.items()
        ),
    )


def _of_hosts(limit: int) -> Iterator[Family]:
    hosts = list(ages_seen())
    states: Counter[str] = Counter(one.state for one in hosts)
    yield Family(
        "asyncmgr_hosts",
        "gauge",
        "Hosts that the views of this process show, by what they are taken for.",
        [("", labels, states[state]) for state, labels in _HOST_STATES.items()],
    )
    yield Family(
        "asyncmgr_capability_age_seconds",
        "gauge",
        "Seconds since a host that the views of this process show was announced.",
        [("", Labels(service=one.service, host=one.host), one.age) for one in hosts[:limit]],
    )


def _per_task(name: str, text: str, rows: Iterable[tuple[Labels, tuple[float]]]) -> Table:
    return Table(f"asyncmgr_task_{name}", "gauge", text, (Column(),), rows)


def _counter(name: str, text: str, samples: Iterable[tuple[str, Labels, float]]) -> Family:
    return Family(f"asyncmgr_{name}", "counter", text, samples)


def _gauge(name: str, text: str, value: float, labels: Labels = _NONE) -> Family:
    return Family(f"asyncmgr_{name}", "gauge", text, [("", labels, value)])


def _is_running(service: Service) -> int:
    return int(service.state is State.RUNNING)


def _is_up(engine: object) -> int:
    return int(bool(getattr(engine, "connected", False)))


def _running(task: ManagedTask) -> int:
    return task.running if isinstance(task, KeyedTask) else task.standing.running


def _keys(task: KeyedTask, counts: TaskCounts) -> Iterator[tuple[str, Labels, float]]:
    found = task.count()
    for name in ("known", "running", "waiting", "failing"):
        yield "", counts.labels.with_(state=name), getattr(found, name)


def _failures(task: ManagedTask) -> int:
    trouble = task.standing.trouble
    return 0 if trouble is None else trouble.failures


def _ratio(task: ManagedTask, moments: dict[int, Moment], freshness: int) -> float:
    moment = moments.get(id(task.manager))
    left = None if moment is None else left_fresh(task, moment)
    return 0.0 if left is None else max(0.0, (freshness - left) / freshness)


def _next_due(task: ManagedTask, moments: dict[int, Moment]) -> float:
    moment = moments.get(id(task.manager))
    remaining = None if moment is None or task.lane is None else task.plan.remaining(moment)
    return 0 if moment is None or remaining is None else (moment.wall + max(0, remaining)) / SECOND
