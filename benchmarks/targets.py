"""What is measured and what is promised: nine workloads, who takes part in each, and the targets.

A target's value is taken inside each round, so that a ratio is one of two processes that ran one after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.competitors import COMPETITORS
from benchmarks.workloads import Measurement, Result

Round = dict[str, Result]
"""The results of one round by the measurement's name."""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise about a value of a round."""

    text: str
    value: Callable[[Round], float]
    limit: float
    unit: Literal["x", "%", "ms", "us"] = "x"
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def missed_by(self, value: float) -> str:
        """By how much a value misses the limit: a share of it where it is a ratio or a cost."""
        if self.unit in ("x", "us"):
            return f"{abs(value / self.limit - 1):.1%}"
        return f"{abs(value - self.limit):.2f} {'points' if self.unit == '%' else self.unit}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a workload's table."""

    title: str
    metric: str
    digits: int = 1
    against: str = ""
    """Shown as a multiple of this measurement's value."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One table of the report."""

    number: int
    title: str
    columns: tuple[Column, ...]
    needed: tuple[Measurement, ...]
    """What the targets need."""
    others: tuple[Measurement, ...] = ()
    """More peers; left out of a quick run."""
    targets: tuple[Target, ...] = ()
    rounds: int | None = None
    """Where it is another number than the run's."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. Times are seconds."""

    rounds: int
    warmup: float
    cycle: float
    """The warm-up where a spacing is 10 s: all of it, where there is time."""
    window: float
    marking: float
    many: int
    """The largest number of tasks."""
    many_spacing: float
    idle_rounds: int
    churn_rounds: int
    imports: int
    declared_rounds: int


FULL = Scale(
    rounds=5,
    warmup=2,
    cycle=10,
    window=10,
    marking=1,
    many=100_000,
    many_spacing=10,
    idle_rounds=5,
    churn_rounds=3,
    imports=30,
    declared_rounds=5,
)
QUICK = Scale(
    rounds=2,
    warmup=0.4,
    cycle=0.8,
    window=1.0,
    marking=0.4,
    many=20_000,
    many_spacing=2,
    idle_rounds=1,
    churn_rounds=1,
    imports=6,
    declared_rounds=1,
)
"""Spacing goes down with the number of tasks, so that there are 10,000 runs a second either way."""


def workloads(scale: Scale) -> list[Workload]:
    """All of them, in order."""
    makers = (_dispatch, _spread, _many, _lateness, _idle, _waiting, _churn, _imports, _declared)
    return [make(scale) for make in makers]


# Values of a round


def figure(name: str, metric: str) -> Callable[[Round], float]:
    return lambda results: results[name][metric]


def ratio(name: str, other: str, metric: str = "cpu_us") -> Callable[[Round], float]:
    return lambda results: results[name][metric] / results[other][metric]


def difference(name: str, other: str, metric: str) -> Callable[[Round], float]:
    return lambda results: results[name][metric] - results[other][metric]


def _enough_runs() -> Target:
    return Target(">= 99.5 % of the runs", figure("asyncmgr", "achieved"), 99.5, "%", at_least=True)


def _no_op() -> Target:
    """A Task for each run is what isolation costs; from Python 3.12 on it is made eagerly, which is cheaper."""
    limit = 1.4 if sys.version_info >= (3, 12) else 1.6
    return Target(f"CPU <= {limit} x c", ratio("asyncmgr", "c"), limit)


def _all(base: Measurement, *names: str) -> tuple[Measurement, ...]:
    return tuple(replace(base, competitor=name) for name in names)


def _on_uvloop(base: Measurement, *names: str) -> tuple[Measurement, ...]:
    return tuple(replace(base, competitor=name, loop="uvloop", variant="on uvloop") for name in names)


_CPU = (
    Column("achieved %", "achieved"),
    Column("CPU us/run", "cpu_us", 2),
    Column("x c", "cpu_us", 2, against="c"),
    Column("x A3", "cpu_us", 3, against="a3"),
    Column("as measured, us", "cpu_raw_us", 2),
    Column("wake-ups/s", "wakeups", 0),
    Column("starved %", "starved", 1),
)
_REGISTRATION = (
    Column("registration us/task", "registration_us"),
    Column("x A3", "registration_us", 3, against="a3"),
    Column("memory bytes/task", "memory_bytes", 0),
    Column("x A3", "memory_bytes", 2, against="a3"),
)


# The workloads


def _load(scale: Scale, tasks: int, spacing: float, **rest: Any) -> Measurement:
    return Measurement(
        kind="load",
        competitor="asyncmgr",
        tasks=tasks,
        spacing=spacing,
        warmup=rest.pop("warmup", scale.warmup),
        window=scale.window,
        marking=scale.marking,
        **rest,
    )


def _dispatch(scale: Scale) -> Workload:
    base = _load(scale, 1000, 0.1)
    return Workload(
        1,
        "Dispatch: 1,000 tasks every 0.1 s, phases spread",
        _CPU,
        needed=_all(base, "asyncmgr", "c", "a3"),
        others=_all(base, "b", "a", "a4") + _on_uvloop(base, "asyncmgr", "c"),
        targets=(
            _no_op(),
            Target("CPU <= 0.25 x APScheduler 3", ratio("asyncmgr", "a3"), 0.25),
            _enough_runs(),
        ),
        note="aiocron and taskiq cannot start a task more often than once a second.",
    )


def _spread(scale: Scale) -> Workload:
    base = _load(scale, 10_000, 10, warmup=scale.cycle)
    twice = replace(base, tasks=20_000, variant="with 20,000")
    return Workload(
        2,
        "Sparse: 10,000 tasks every 10 s, phases spread",
        _CPU + _REGISTRATION,
        needed=(*_all(base, "asyncmgr", "c", "a3"), twice),
        others=_all(base, "b", "a", "a4", "aiocron", "taskiq") + _on_uvloop(base, "asyncmgr", "c"),
        targets=(
            _no_op(),
            Target("CPU <= 0.10 x APScheduler 3", ratio("asyncmgr", "a3"), 0.10),
            Target(
                "wake-ups independent of N: with 20,000 tasks <= 1.1 x those with 10,000",
                ratio(twice.name, "asyncmgr", "wakeups"),
                1.1,
            ),
        ),
    )


def _many(scale: Scale) -> Workload:
    base = _load(scale, scale.many, scale.many_spacing, warmup=scale.cycle)
    return Workload(
        3,
        f"Many: {scale.many:,} tasks every {scale.many_spacing:g} s, phases spread",
        _CPU + _REGISTRATION,
        needed=_all(base, "asyncmgr", "c", "a3"),
        others=_all(base, "b", "a", "a4", "taskiq"),
        targets=(
            _enough_runs(),
            _no_op(),
            Target("CPU <= 0.20 x APScheduler 3", ratio("asyncmgr", "a3"), 0.20),
            Target("registration <= 0.4 x APScheduler 3", ratio("asyncmgr", "a3", "registration_us"), 0.4),
            Target("memory per task <= 0.6 x APScheduler 3", ratio("asyncmgr", "a3", "memory_bytes"), 0.6),
        ),
        note=""
        if scale.many == FULL.many
        else f"A full run has {FULL.many:,} every {FULL.many_spacing:g} s.",
    )


def _lateness(scale: Scale) -> Workload:
    base = Measurement(
        kind="lateness",
        competitor="asyncmgr",
        tasks=1000,
        spacing=1,
        warmup=scale.warmup,
        window=max(3, 3 * scale.window),
    )
    exact = replace(base, tolerance=0, variant="tolerance=0")
    drift = figure(exact.name, "drift_ms")
    return Workload(
        4,
        "Lateness: 1,000 tasks every 1 s, phases 1 ms apart",
        (
            Column("min ms", "min_ms", 2),
            Column("p50 ms", "p50_ms", 2),
            Column("p99 ms", "p99_ms", 2),
            Column("max ms", "max_ms", 2),
            Column("drift ms", "drift_ms", 2),
            Column("achieved %", "achieved"),
            Column("CPU us/run", "cpu_us", 2),
            Column("x b", "cpu_us", 2, against="b"),
            Column("wake-ups/s", "wakeups", 0),
            Column("starved %", "starved", 1),
        ),
        needed=(exact, *_all(base, "asyncmgr", "b")),
        others=_all(base, "c", "a", "a3", "a4", "aiocron", "taskiq"),
        targets=(
            Target("exact: p99 <= 1.2 x b's", ratio(exact.name, "b", "p99_ms"), 1.2),
            Target(
                "exact: no drift: median of the last fifth within 1 ms of the first's",
                lambda results: abs(drift(results)),
                1.0,
                "ms",
            ),
            # A tenth of a millisecond is left to the reading of two clocks that tells where the slots are.
            Target(
                "window: never more than 200 ms early",
                figure("asyncmgr", "min_ms"),
                -200.1,
                "ms",
                at_least=True,
            ),
            Target("window: p99 - b's p99 <= 0", difference("asyncmgr", "b", "p99_ms"), 0.0, "ms"),
            Target("window: CPU <= 0.2 x b", ratio("asyncmgr", "b"), 0.2),
        ),
        note="Drift is the median lateness of the last fifth of the slots minus that of the first; where runs start in "
        "batches it moves with the batches' phase. aiocron and taskiq start tasks on whole seconds: "
        "their slots are the whole seconds here.",
    )


def _idle(scale: Scale) -> Workload:
    base = Measurement(
        kind="idle", competitor="asyncmgr", tasks=10_000, spacing=3600, delay=3600, window=10, warmup=1
    )
    return Workload(
        5,
        "Idle: 10,000 tasks due in an hour, watched for 10 s",
        (
            Column("CPU ms", "cpu_raw_ms", 2),
            Column("x empty", "cpu_raw_ms", 2, against="null"),
            Column("voluntary switches", "switches", 0),
            Column("wake-ups", "wakeups", 0),
        ),
        needed=_all(base, "asyncmgr", "null"),
        others=_all(base, "b", "c", "a", "a3", "a4", "taskiq"),
        targets=(
            Target("CPU <= 2 x an empty process", ratio("asyncmgr", "null", "cpu_raw_ms"), 2.0),
            Target("<= 2 voluntary context switches", figure("asyncmgr", "switches"), 2.0),
        ),
        rounds=scale.idle_rounds,
        note="CPU as measured: an idle process has no window in which to calibrate. The end of the watch is itself a "
        "wake-up and a switch. aiocron has no phase of an hour.",
    )


def _waiting(scale: Scale) -> Workload:
    base = _load(scale, 1000, 0.5, body="sleep")
    limited = replace(base, timeout=1.0, variant="with timeout=")
    return Workload(
        6,
        "Runs that wait: `await asyncio.sleep(0.005)`, 1,000 tasks every 0.5 s",
        _CPU,
        needed=(*_all(base, "asyncmgr", "c"), limited),
        others=_all(base, "b", "a3"),
        targets=(
            Target("CPU <= 1.2 x c", ratio("asyncmgr", "c"), 1.2),
            Target("with timeout= on all, CPU <= 1.3 x c, which has none", ratio(limited.name, "c"), 1.3),
        ),
    )


def _churn(scale: Scale) -> Workload:
    base = Measurement(
        kind="churn",
        competitor="asyncmgr",
        spacing=60,
        warmup=scale.warmup,
        window=scale.window,
        churned=scale.many,
    )
    sizes = (1_000, 10_000, scale.many)
    few, some, many = (replace(base, tasks=size, variant=f"among {size:,}") for size in sizes)
    operations = ("add_us", "reschedule_us", "remove_us")
    dearer = [ratio(many.name, few.name, operation) for operation in operations]
    return Workload(
        7,
        "Churn: 1,000 add, reschedule and remove a second among many tasks",
        (
            Column("add us", "add_us", 1),
            Column("reschedule us", "reschedule_us", 1),
            Column("remove us", "remove_us", 1),
            Column("sustained, us each", "sustained_us", 1),
            Column("slowest 10 together, ms", "slowest_ms", 1),
            Column("memory at most, x before", "memory_most", 3),
            Column("x over the first half", "memory_growth", 3),
        ),
        needed=(few, many),
        others=(some, *(replace(measurement, competitor="a3") for measurement in (few, some, many))),
        targets=(
            Target(
                f"O(log n): each operation among {scale.many:,} <= 4 x that among 1,000",
                lambda results: max(value(results) for value in dearer),
                4.0,
            ),
            Target(
                "O(log n) sustained, with all that is put off: <= 4 x",
                ratio(many.name, few.name, "sustained_us"),
                4.0,
            ),
            Target(
                f"memory flat over {scale.many:,} of them: at most 1.02 x that over as many before",
                figure(many.name, "memory_growth"),
                1.02,
            ),
        ),
        rounds=scale.churn_rounds,
        note=f"The tasks have a spacing of 60 s. Memory and the sustained cost are of {scale.many:,} triples and as "
        "many again, as fast as they can: the second half shows whether memory grows.",
    )


IMPORTS = {
    "asyncmgr": "import asyncmgr",
    "libraries": "import asyncio, anyio, pydantic, structlog\nclass Model(pydantic.BaseModel):\n    a: int\n    b: str",
    "asyncio": "import asyncio",
}
"""What a whole process does that is timed."""


def _imports(scale: Scale) -> Workload:
    base = Measurement(kind="import", competitor="asyncmgr")
    return Workload(
        8,
        "Import in a clean environment: a whole process",
        (
            Column("CPU ms", "cpu_ms", 1),
            Column("wall ms", "wall_ms", 1),
            Column("x libraries, CPU", "cpu_ms", 2, against="libraries"),
            Column("x libraries, wall", "wall_ms", 2, against="libraries"),
        ),
        needed=_all(base, *IMPORTS),
        targets=(
            Target(
                "CPU <= 1.10 x its libraries and one model", ratio("asyncmgr", "libraries", "cpu_ms"), 1.1
            ),
        ),
        rounds=scale.imports,
        note="As measured. Libraries: asyncio, anyio, pydantic and structlog, and one BaseModel of two fields.",
    )


def _declared(scale: Scale) -> Workload:
    base = Measurement(kind="declare", competitor="asyncmgr")
    sizes = (100, 1_000, 5_000)
    few, thousand, many = (replace(base, tasks=size, variant=f"with {size:,}") for size in sizes)
    return Workload(
        9,
        "Declared tasks: a class statement with its decorators, and an instance",
        (
            Column("decorators us/task", "decorators_us"),
            Column("class us/task", "class_us"),
            Column("instance us/task", "instance_us"),
            Column("together us/task", "total_us"),
        ),
        needed=(few, thousand, many),
        targets=(
            Target("together <= 20 us a task with 1,000", figure(thousand.name, "total_us"), 20.0, "us"),
            Target(
                "linear: a task with 5,000 <= 1.5 x one with 1,000",
                ratio(many.name, thousand.name, "total_us"),
                1.5,
            ),
        ),
        rounds=scale.declared_rounds,
        note="The instance is asked for one task more, since its own are made at first use.",
    )


def title_of(measurement: Measurement) -> str:
    """What a measurement is called in the report."""
    if measurement.kind == "import":
        return measurement.competitor
    return f"{COMPETITORS[measurement.competitor].title} {measurement.variant}".strip()
