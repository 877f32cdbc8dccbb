"""Judges how a service stands, from facts: is it well, does it live, is it ready. Pure: no clock, no await."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from asyncmgr._common.safe_text import printable
from asyncmgr._history.words import length
from asyncmgr._tasks.status import TaskState, TaskStatus
from asyncmgr.events import BlockKind

NEEDING = (TaskState.HUNG, TaskState.FAILING, TaskState.STALE, TaskState.HELD)
"""The states of tasks that need somebody, the most urgent first. A pause needs nobody: somebody made it."""

SHOWN = 20
"""Tasks that need somebody which a report describes; the rest is counted."""

MISSED_TIMER = "the scheduler missed its own timer: "
"""What a reason begins with where the event loop does not turn; the rest says what blocks it."""

_TEXT = 200
"""Characters of an error that a sentence has."""


class State(StrEnum):
    """Where a service is in its one life."""

    NEW = "new"
    """The service is built and not started."""
    STARTING = "starting"
    """The steps of the start are in progress."""
    RUNNING = "running"
    """The tasks run."""
    STOPPING = "stopping"
    """No run and no call begins; those in progress are drained."""
    STOPPED = "stopped"
    """The service has ended, for good."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something holds, and why not. True where it holds."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class Connection:
    """The transport or the store of a service."""

    ok: bool
    """Whether it can be reached, as far as the service knows."""
    reason: str = ""
    """What is the matter; empty = nothing."""


@dataclass(frozen=True, slots=True)
class Leases:
    """What this process holds alone in its application."""

    held: tuple[str, ...] = ()
    trusted: bool = True
    """Whether it may act on that now; False = the store could not be reached for three quarters of the TTL."""


@dataclass(frozen=True, slots=True)
class Blockage:
    """A time for which the event loop was blocked, or is."""

    task: str | None
    """Whose run blocked it; `None` = no run did, or that is not known."""
    where: str
    """The innermost line of the application's code, as ``render at reports.py:212``; empty = there is none."""
    kind: BlockKind
    seconds: float
    ago: float | None
    """Seconds since its end; `None` = it lasts."""

    @property
    def text(self) -> str:
        """One sentence without a full stop."""
        if self.kind == "stopped":
            return f"the process got no CPU for {length(self.seconds)}"
        by = "" if self.task is None else f" by {self.task}"
        where = f", in {printable(self.where, _TEXT)}" if self.where else ""
        return f"the event loop was blocked for {length(self.seconds)}{by} ({self.kind}{where})"


@dataclass(frozen=True, slots=True)
class Need:
    """A task that needs somebody."""

    task: str
    state: TaskState
    text: str
    """One sentence without a full stop: ``Backups.nightly hangs, 47 min``."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How a service stands: everything that somebody has to know before looking further."""

    ok: bool
    """Whether the schedule makes progress, calls arrive, and no task needs somebody."""
    state: State
    reason: str
    """One sentence without a full stop."""
    live: Verdict
    """Whether a restart would not help: the scheduler keeps its time, and no critical task is stuck."""
    ready: Verdict
    """Whether it should get requests: it has started, is not draining, and its critical tasks are fresh."""
    tasks: tuple[Need, ...]
    """Tasks that need somebody, the most urgent first; `SHOWN` at most."""
    states: Mapping[TaskState, int]
    """The number of tasks in each state."""
    transport: Connection
    store: Connection
    leases: Leases
    tick_age: float | None
    """Seconds since the scheduler's last look at the agenda; `None` = it has not begun."""
    blocked: Blockage | None = None
    """The block of the event loop that lasts, else the longest one of the last hour; `None` = there was none."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the schedule makes progress and calls arrive. Called, it makes the full `HealthReport`.

    The answer depends on the runner's own timer: a process whose event loop is blocked is not healthy. A task that
    fails changes nothing here; it does in the report.
    """

    ok: bool
    state: State
    reason: str
    _report: Callable[[], HealthReport] | None = field(default=None, compare=False, repr=False)

    def __call__(self) -> HealthReport:
        """Report on everything: tasks that need somebody, transport, store, leases, and the verdicts of probes."""
        assert self._report is not None
        return self._report()


@dataclass(frozen=True, slots=True)
class Promise:
    """A `critical` task, as far as liveness and readiness depend on it."""

    task: str
    freshness: float | None
    """Seconds: how old its last success may be; `None` = it promises nothing."""
    run_age: float | None
    """Seconds since the start of its oldest run in progress; `None` = no run is in progress."""
    success_age: float
    """Seconds since its last success, or since the promise counts; where it promises nothing, 0."""
    is_off: bool = False
    """Whether it is switched off here: its freshness is not judged."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a service knows of itself at one moment, without its tasks."""

    basic: Health
    keeps_time: bool
    """Whether the scheduler's timer is set and not overdue; True before it begins and after it has ended."""
    promises: Sequence[Promise]
    transport: Connection
    store: Connection
    leases: Leases
    tick_age: float | None
    needed: frozenset[Literal["transport", "store"]]
    """The connections without which the service is not ready; the setting `[monitoring] ready_needs`."""
    blocked: Blockage | None = None
    """The block of the event loop that lasts, else the longest one of the last hour."""


@dataclass(slots=True)
class Survey:
    """The tasks of a service, counted by state, and those that need somebody."""

    states: Counter[TaskState] = field(default_factory=Counter)
    needs: list[Need] = field(default_factory=list)
    """Up to `SHOWN` of each state."""


def judge(facts: Facts, survey: Survey) -> HealthReport:
    """Make the report."""
    needs = sorted(survey.needs, key=lambda need: NEEDING.index(need.state))
    count = sum(survey.states[state] for state in NEEDING)
    trouble = _trouble(facts, needs, count)
    return HealthReport(
        not trouble,
        facts.basic.state,
        "; ".join(trouble) or "all is well",
        live(facts),
        ready(facts),
        tuple(needs[:SHOWN]),
        survey.states,
        facts.transport,
        facts.store,
        facts.leases,
        facts.tick_age,
        facts.blocked,
    )


def _trouble(facts: Facts, needs: Sequence[Need], count: int) -> list[str]:
    """Say what is wrong: first what is the matter with the service itself, then the worst of `count` tasks."""
    said = [] if facts.basic.ok else [facts.basic.reason]
    for what, connection in (("the transport", facts.transport), ("the store", facts.store)):
        if not connection.ok and facts.basic.state in (State.RUNNING, State.STOPPING):
            said.append(f"{what}: {connection.reason}")
    if not facts.leases.trusted:
        said.append("no lease is trusted: the store has not answered for too long")
    if needs:
        others = count - 1
        said.append(needs[0].text + (f", and {others} more {_tasks(others)} somebody" if others else ""))
    return said


def _tasks(count: int) -> str:
    return "task needs" if count == 1 else "tasks need"


def missed_timer(blocked: Blockage | None) -> str:
    """Say that the event loop does not turn, and who keeps it from that where it is known."""
    return MISSED_TIMER + ("the event loop was blocked" if blocked is None else blocked.text)


def live(facts: Facts) -> Verdict:
    """Judge whether the process should go on. A task that raises never ends it: a restart does not help."""
    state = facts.basic.state
    if not facts.keeps_time:
        return Verdict(False, missed_timer(facts.blocked))
    for promise in facts.promises:
        if (
            promise.freshness is not None
            and promise.run_age is not None
            and promise.run_age > 2 * promise.freshness
        ):
            return Verdict(
                False,
                f"the run of the critical task {promise.task} is {length(promise.run_age)} old, "
                f"more than twice its freshness of {length(promise.freshness)}",
            )
    return Verdict(
        True, "the scheduler keeps its time" if state is State.RUNNING else f"the service is {state}"
    )


def ready(facts: Facts) -> Verdict:
    """Judge whether the process should get requests."""
    if facts.basic.state is not State.RUNNING:
        return Verdict(False, facts.basic.reason)
    for what, connection in (("transport", facts.transport), ("store", facts.store)):
        if what in facts.needed and not connection.ok:
            return Verdict(False, f"the {what}: {connection.reason}")
    for promise in facts.promises:
        if promise.freshness is not None and not promise.is_off and promise.success_age > promise.freshness:
            return Verdict(
                False,
                f"the critical task {promise.task} has had no success for {length(promise.success_age)}; "
                f"it promises one every {length(promise.freshness)}",
            )
    return Verdict(True, "it takes requests")


def need_of(status: TaskStatus, now: datetime) -> Need | None:
    """Describe a task that needs somebody; `None` = it needs nobody."""
    if status.state not in NEEDING:
        return None
    return Need(status.full_name, status.state, f"{status.full_name} {_says(status, now)}")


def _says(status: TaskStatus, now: datetime) -> str:
    error = f": {printable(status.error, _TEXT)}" if status.error else ""
    if status.state is TaskState.HUNG and status.running is not None:
        where = "" if status.running.where is None else f", in {printable(status.running.where, _TEXT)}"
        return f"hangs, {length((now - status.running.since).total_seconds())}{where}"
    if status.state is TaskState.FAILING:
        if not status.failures and status.keys is not None:
            return f"fails for {status.keys.failing} of {status.keys.known} keys{error}"
        if status.failures == 1:
            return f"failed{error}"
        return f"has failed {status.failures} times in a row{error}"
    if status.state is TaskState.HELD:
        return f"is held back after {status.failures} failures in a row{error}"
    if status.last_success is None:
        return "has had no success yet, and promises a younger one"
    return f"has had no success for {length((now - status.last_success).total_seconds())}"


def as_json(report: HealthReport) -> dict[str, Any]:
    """Write a report as JSON values."""
    return {
        "ok": report.ok,
        "state": str(report.state),
        "reason": report.reason,
        "live": {"ok": report.live.ok, "reason": report.live.reason},
        "ready": {"ok": report.ready.ok, "reason": report.ready.reason},
        "tasks": [{"task": need.task, "state": str(need.state), "text": need.text} for need in report.tasks],
        "states": {str(state): report.states.get(state, 0) for state in TaskState},
        "transport": {"ok": report.transport.ok, "reason": report.transport.reason},
        "store": {"ok": report.store.ok, "reason": report.store.reason},
        "leases": {"held": list(report.leases.held), "trusted": report.leases.trusted},
        "tick_age": None if report.tick_age is None else round(report.tick_age, 3),
        "blocked": None if report.blocked is None else _blockage_as_json(report.blocked),
    }


def _blockage_as_json(blocked: Blockage) -> dict[str, Any]:
    return {
        "text": blocked.text,
        "task": blocked.task,
        "where": blocked.where,
        "kind": blocked.kind,
        "seconds": round(blocked.seconds, 3),
        "ago": None if blocked.ago is None else round(blocked.ago, 3),
    }


def connection_of(engine: Any, lost: Iterable[str] = ()) -> Connection:
    """Describe a transport or store engine; `None` = it is not open."""
    if engine is None:
        return Connection(False, "it is not open")
    if not engine.connected:
        return Connection(False, "it cannot be reached")
    text = printable("; ".join(lost))
    return Connection(not text, text and f"calls do not arrive: {text}")
