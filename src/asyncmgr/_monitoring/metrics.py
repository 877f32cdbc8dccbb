"""`Metrics`: counts what befalls the tasks and calls of one service, and makes families of metrics at a scrape."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from asyncmgr._common.clock import SECOND, Moment, read_wall
from asyncmgr._monitoring.counting import Counting
from asyncmgr._monitoring.counts import OTHERS, ManagerCounts, MethodCounts, TaskCounts
from asyncmgr._monitoring.exposition import Family, Labels, write
from asyncmgr._rpc.server import UNKNOWN, CallServer, Code
from asyncmgr._service.health import State, Survey
from asyncmgr._service.insight import promise_of
from asyncmgr._service.service import Service, insight_of
from asyncmgr._service.version import own_version
from asyncmgr._tasks.status import TaskState
from asyncmgr.events import Event, LeaseAcquired, LeaseLost, LeaseReleased

if TYPE_CHECKING:
    from asyncmgr._service.insight import Insight
    from asyncmgr._tasks.managed import ManagedTask

_NONE = Labels()
_STEPS = {kind: Labels(kind=kind) for kind in ("forward", "back", "stopped")}
_STALLS = {kind: Labels(kind=kind) for kind in ("blocked", "stopped")}
_TRANSITIONS = {result: Labels(result=result) for result in ("acquired", "lost", "released")}
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
        self._limit = insight.settings.monitoring.task_series
        self._managers: dict[str, ManagerCounts] = {}
        self._tasks: dict[str, TaskCounts] = {}
        self._own = 0
        """How many tasks have series of their own."""
        self._methods: dict[str, MethodCounts] = {UNKNOWN: MethodCounts(UNKNOWN)}
        self._transitions: Counter[str] = Counter()
        self._counting = insight.record_by(lambda inner: Counting(inner, self.counts_of))
        insight.with_server(self._observe)
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

    def families(self, survey: Survey | None = None) -> Iterator[Family]:
        """Make all families. They read the counts as they are iterated over, in the thread of the event loop."""
        survey = survey or self._insight.survey(with_needs=False)
        rows, others = self._rows()
        yield from self._of_service(survey)
        yield from _of_runs([*(counts for _, counts in rows), *others])
        yield from self._of_tasks(rows)
        yield from self._of_managers()
        yield from self._of_calls()
        yield from self._of_leases(rows)

    def _rows(self) -> tuple[list[tuple[ManagedTask, TaskCounts]], list[TaskCounts]]:
        """List the tasks that have series of their own, and the series that others share; forget removed tasks."""
        present = {task.full_name: task for task in self._insight.tasks()}
        for name in [name for name in self._tasks if name not in present]:
            if self._tasks.pop(name).labels.pairs["task"] != OTHERS:
                self._own -= 1
        rows = []
        for task in present.values():
            counts = self.counts_of(task)
            if counts is not counts.manager.others:
                rows.append((task, counts))
        return rows, [manager.others for manager in self._managers.values() if manager.others is not None]

    def _of_service(self, survey: Survey) -> Iterator[Family]:
        insight = self._insight
        runner = insight.runner
        lookout = None if runner is None else runner.lookout
        info = Labels(
            version=own_version(),
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
            "Seconds by which looks came late, of those that were late by a second.",
            [("", labels, self._counting.stalls[kind]) for kind, labels in _STALLS.items()],
        )
        yield _counter(
            "clock_steps",
            "Jumps of the wall clock.",
            [("", labels, self._counting.steps[kind]) for kind, labels in _STEPS.items()],
        )
        yield _gauge("transport_up", "Whether the transport can be reached.", _is_up(insight.transport))
        yield _gauge("store_up", "Whether the store can be reached.", _is_up(insight.store))

    def _of_tasks(self, rows: list[tuple[ManagedTask, TaskCounts]]) -> Iterator[Family]:
        paused = self._insight.paused()
        moments = self._insight.moments()
        yield Family(
            "asyncmgr_task_running",
            "gauge",
            "Runs in progress.",
            (("", counts.labels, task.standing.running) for task, counts in rows),
        )
        yield Family(
            "asyncmgr_task_last_success_timestamp_seconds",
            "gauge",
            "The end of the last run that succeeded or had nothing to do; 0 = there was none.",
            (("", counts.labels, (task.standing.last_success or 0) / SECOND) for task, counts in rows),
        )
        yield Family(
            "asyncmgr_task_next_due_timestamp_seconds",
            "gauge",
            "The next slot; 0 = nothing is going to start the task by itself.",
            (("", counts.labels, _next_due(task, moments)) for task, counts in rows),
        )
        yield Family(
            "asyncmgr_task_consecutive_failures",
            "gauge",
            "Failures in a row.",
            (("", counts.labels, _failures(task)) for task, counts in rows),
        )
        yield Family(
            "asyncmgr_task_paused",
            "gauge",
            "Whether the task is paused.",
            (("", counts.labels, int(task in paused)) for task, counts in rows),
        )
        since = self._insight.started or read_wall()
        promising = [
            (task, counts, freshness)
            for task, counts in rows
            if (freshness := promise_of(task.plan.options)[1])
        ]
        yield Family(
            "asyncmgr_task_freshness_ratio",
            "gauge",
            "The age of the last success, or of the service, by the freshness that the task promises.",
            (("", counts.labels, _age(task, since) / freshness) for task, counts, freshness in promising),
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

    def _of_calls(self) -> Iterator[Family]:
        methods = list(self._methods.values())
        yield _counter(
            "rpc_requests",
            "Calls that were served or refused.",
            chain.from_iterable(method.by_code() for method in methods),
        )
        yield Family(
            "asyncmgr_rpc_duration_seconds",
            "summary",
            "Durations of served calls, without their wait for a place.",
            chain.from_iterable(
                (("_sum", method.labels, method.duration), ("_count", method.labels, method.count))
                for method in methods
            ),
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


def _of_runs(rows: list[TaskCounts]) -> Iterator[Family]:
    yield _counter(
        "task_runs",
        "Runs that ended, by outcome.",
        chain.from_iterable(counts.outcomes() for counts in rows),
    )
    yield _counter(
        "task_slots",
        "Slots by what became of them. Those of a pause count when it ends.",
        chain.from_iterable(counts.results() for counts in rows),
    )
    yield Family(
        "asyncmgr_task_duration_seconds",
        "summary",
        "Durations of runs.",
        chain.from_iterable(
            (("_sum", counts.labels, counts.duration), ("_count", counts.labels, counts.runs))
            for counts in rows
        ),
    )
    yield Family(
        "asyncmgr_task_lateness_seconds",
        "summary",
        "From a slot to the start of its run; a nearly due start is no lateness.",
        chain.from_iterable(
            (("_sum", counts.labels, counts.lateness), ("_count", counts.labels, counts.runs))
            for counts in rows
        ),
    )


def _counter(name: str, text: str, samples: Iterable[tuple[str, Labels, float]]) -> Family:
    return Family(f"asyncmgr_{name}", "counter", text, samples)


def _gauge(name: str, text: str, value: float, labels: Labels = _NONE) -> Family:
    return Family(f"asyncmgr_{name}", "gauge", text, [("", labels, value)])


def _is_running(service: Service) -> int:
    return int(service.state is State.RUNNING)


def _is_up(engine: object) -> int:
    return int(bool(getattr(engine, "connected", False)))


def _failures(task: ManagedTask) -> int:
    trouble = task.standing.trouble
    return 0 if trouble is None else trouble.failures


def _age(task: ManagedTask, since: int) -> int:
    """Microseconds since the last success, or since `since` where there was none."""
    return max(0, read_wall() - (task.standing.last_success or since))


def _next_due(task: ManagedTask, moments: dict[int, Moment]) -> float:
    moment = moments.get(id(task.manager))
    remaining = None if moment is None or task.lane is None else task.plan.remaining(moment)
    return 0 if moment is None or remaining is None else (moment.wall + max(0, remaining)) / SECOND
