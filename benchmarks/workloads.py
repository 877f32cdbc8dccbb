"""What is run inside a measured process, and what is read off the instruments. One function for each kind of workload.

CPU is in microseconds at the reference speed, see `gauges`; figures that end in ``_raw`` are as measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from statistics import median, quantiles
from types import CodeType
from typing import Any, Literal, NamedTuple

from benchmarks.competitors import COMPETITORS, Body, Competitor, Task
from benchmarks.gauges import Calibration, Gauges, Mark, Stopwatch, Window, mark, resident_bytes

Result = dict[str, float]
"""Figures by name."""

Kind = Literal["load", "lateness", "idle", "churn", "declare", "import"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one process is told to do. Times are seconds."""

    kind: Kind
    competitor: str
    variant: str = ""
    """What sets it apart from another measurement of the same competitor."""
    tasks: int = 0
    spacing: float = 1.0
    delay: float = 0.0
    """From the start to the first slot of the first task."""
    body: Literal["return", "sleep"] = "return"
    timeout: float | None = None
    tolerance: float | None = None
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    warmup: float = 1.0
    marking: float = 0.0
    """How long the count of runs is looked at, before and after the window, for the share that was achieved."""
    window: float = 1.0
    churned: int = 0
    """How many tasks are added, rescheduled and removed while memory is watched, and then again as many."""

    @property
    def name(self) -> str:
        return f"{self.competitor} {self.variant}".strip()


# The tasks --------------------------------------------------------------------------------------------------------


class Tally:
    """Counts runs."""

    def __init__(self) -> None:
        self.count = 0

    def body(self, kind: Literal["return", "sleep"]) -> Body:
        """One coroutine function for all tasks; a plain one, as a bound method costs each call a little more."""

        async def returns(context: object = None) -> None:
            self.count += 1

        async def sleeps(context: object = None) -> None:
            self.count += 1
            await asyncio.sleep(0.005)

        return returns if kind == "return" else sleeps


class Stamps:
    """Notes which task was started when, in loop time."""

    def __init__(self) -> None:
        self._tasks = array("l")
        self._times = array("d")

    def body(self, number: int) -> Body:
        note_task, note_time = self._tasks.append, self._times.append
        now = asyncio.get_running_loop().time

        async def run(context: object = None) -> None:
            note_time(now())
            note_task(number)

        return run

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """The starts in order: (task, loop time)."""
        return zip(self._tasks, self._times, strict=True)


def spread(measurement: Measurement, body: Callable[[int], Body]) -> Iterator[Task]:
    """The tasks, made one by one; phases spread evenly over the spacing, in an order that says nothing of them."""
    numbers = array("l", range(measurement.tasks))  # lean: it must not be seen in the memory of tasks
    random.Random(1).shuffle(numbers)
    return (
        Task(body(number), measurement.spacing, phase_of(measurement, number), measurement.timeout)
        for number in numbers
    )


def phase_of(measurement: Measurement, number: int) -> float:
    """Whole microseconds, the finest that datetimes know."""
    return measurement.delay + round(number * measurement.spacing / measurement.tasks, 6)


def _slicing(tasks: Iterable[Task], stopwatch: Stopwatch) -> Iterator[Task]:
    """The tasks, with a slice of the calibration loop after each 1,000 of them."""
    for number, task in enumerate(tasks, start=1):
        yield task
        if number % 1000 == 0:
            stopwatch.slice()


@dataclass(frozen=True, slots=True)
class Started:
    """A competitor with its tasks taken in."""

    competitor: Competitor
    registration: float
    """CPU of taking them in and starting, microseconds each."""
    memory: float
    """Bytes each."""


@contextlib.asynccontextmanager
async def started(measurement: Measurement, body: Callable[[int], Body]) -> AsyncIterator[Started]:
    """Set a competitor up, give it the tasks, let it warm up."""
    competitor = COMPETITORS[measurement.competitor](tolerance=measurement.tolerance)
    each = max(1, measurement.tasks)
    tasks = spread(measurement, body)
    async with contextlib.AsyncExitStack() as stack:
        gc.collect()
        before = resident_bytes()
        with Stopwatch() as registration:
            await stack.enter_async_context(competitor.running(_slicing(tasks, registration)))
            await asyncio.sleep(0)  # some put their start off to the loop's next turn
        gc.collect()
        memory = resident_bytes() - before
        await asyncio.sleep(measurement.warmup)
        yield Started(competitor, registration.us / each, memory / each)


# The workloads ----------------------------------------------------------------------------------------------------


async def load(measurement: Measurement, gauges: Gauges) -> Result:
    """Many short runs: CPU of each, the share that was achieved, wake-ups; what registration takes."""
    tally = Tally()
    body = tally.body(measurement.body)
    async with started(measurement, lambda number: body) as begun:
        first = await mark(lambda: tally.count, measurement.marking)
        before = tally.count
        window = await gauges.observe(measurement.window)
        runs = tally.count - before
        last = await mark(lambda: tally.count, measurement.marking)
    return _per_run(window, runs) | {
        "achieved": _achieved(measurement, first, last),
        "registration_us": begun.registration,
        "memory_bytes": begun.memory,
    }


def _achieved(measurement: Measurement, first: Mark, last: Mark) -> float:
    """Percent of the runs that were planned between two marks."""
    planned = (last.at - first.at) * measurement.tasks / measurement.spacing
    return 100 * (last.level - first.level) / planned


def _per_run(window: Window, runs: int) -> Result:
    runs = max(1, runs)
    return {
        "cpu_us": window.scaled_cpu * 1e6 / runs,
        "cpu_raw_us": window.cpu * 1e6 / runs,
        "busy": 100 * window.cpu / window.seconds,
        "wakeups": window.wakeups / window.seconds,
        "speed": window.speed,
        "starved": 100 * window.starved / window.seconds,
    }


async def lateness(measurement: Measurement, gauges: Gauges) -> Result:
    """When runs start, against their slots."""
    stamps = Stamps()
    async with started(measurement, stamps.body) as begun:
        window = await gauges.observe(measurement.window)
        grid = _grid(measurement, begun.competitor)
    runs = sum(window.began <= at < window.ended for _, at in stamps)
    starts = [_nearest(grid[number], measurement.spacing, at) for number, at in stamps]
    # Of slots that are half a spacing away from the window's ends, so that early and late starts are seen alike.
    slots = int(window.seconds / measurement.spacing) - 1
    first = window.began + measurement.spacing / 2
    last = first + slots * measurement.spacing
    late = [start.late * 1000 for start in sorted(starts) if first <= start.slot < last]
    achieved = 100 * len(late) / (slots * measurement.tasks)
    return _per_run(window, runs) | _distribution(late) | {"achieved": achieved}


class _Start(NamedTuple):
    slot: float
    late: float
    """Seconds; negative if it was early."""


def _grid(measurement: Measurement, competitor: Competitor) -> list[float]:
    """A slot of each task, in loop time."""
    origin = competitor.origin
    phases = (phase_of(measurement, number) for number in range(measurement.tasks))
    return [origin + (int(phase) if competitor.whole_seconds else phase) for phase in phases]


def _nearest(slot: float, spacing: float, at: float) -> _Start:
    """A start seen from the slot that it is nearest to."""
    late = (at - slot + spacing / 2) % spacing - spacing / 2
    return _Start(at - late, late)


def _distribution(late: list[float]) -> Result:
    """Of lateness in milliseconds, in the order of the slots."""
    fifth = len(late) // 5
    return {
        "min_ms": min(late),
        "p50_ms": median(late),
        "p99_ms": quantiles(late, n=100)[-1],
        "max_ms": max(late),
        # Over the window: a scheduler that adds its own lateness to each spacing shows it here.
        "drift_ms": median(late[-fifth:]) - median(late[:fifth]),
    }


async def idle(measurement: Measurement, gauges: Gauges) -> Result:
    """Nothing is due."""
    tally = Tally()
    body = tally.body("return")
    async with started(measurement, lambda number: body):
        window = await gauges.observe(measurement.window)
    assert tally.count == 0, "tasks ran in a window that was meant to be idle"
    return {
        "cpu_ms": window.scaled_cpu * 1000,
        "cpu_raw_ms": window.cpu * 1000,
        # The end of the window is one wait that ends, in an empty process too.
        "wakeups": window.wakeups,
        "switches": window.switches,
        "speed": window.speed,
    }


AT_ONCE = 10
"""Operations of each kind between two looks at the clock."""
EVERY = 0.01
"""Seconds between two such batches: 1,000 operations of each kind a second."""


class Churn:
    """Adds tasks, reschedules the newest and removes the oldest; 1,000 of them are there at any time."""

    def __init__(self, competitor: Competitor, body: Body) -> None:
        self._competitor = competitor
        self._body = body
        self._random = random.Random(2)
        self._alive: deque[Any] = deque()
        self._add(1000)

    def turn(self) -> _Turn:
        """One batch of each kind."""
        now = time.process_time_ns
        began = now()
        self._add(AT_ONCE)
        added = now()
        self._reschedule(AT_ONCE)
        rescheduled = now()
        self._remove(AT_ONCE)
        return _Turn(added - began, rescheduled - added, now() - rescheduled)

    def _add(self, count: int) -> None:
        draw = self._random.uniform
        for _ in range(count):
            self._alive.append(self._competitor.add(Task(self._body, draw(30, 60), draw(0, 60))))

    def _reschedule(self, count: int) -> None:
        for number in range(count):
            self._competitor.reschedule(self._alive[number - count], self._random.uniform(30, 60))

    def _remove(self, count: int) -> None:
        for _ in range(count):
            self._competitor.remove(self._alive.popleft())


class _Turn(NamedTuple):
    """CPU of one batch of each kind, nanoseconds as measured."""

    add: int
    reschedule: int
    remove: int


async def churn(measurement: Measurement, gauges: Gauges) -> Result:
    """Tasks come, change and go among many that run: CPU of each operation, and memory over many of them."""
    body = Tally().body("return")
    async with started(measurement, lambda number: body) as begun:
        churned = Churn(begun.competitor, body)
        turns: list[_Turn] = []
        paced = asyncio.create_task(_paced(churned, turns))
        window = await gauges.observe(measurement.window)
        paced.cancel()
        operations = _operations(turns, window.speed)
        return operations | await _many(churned, measurement.churned) | {"speed": window.speed}


async def _paced(churned: Churn, turns: list[_Turn]) -> None:
    """1,000 operations of each kind a second."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        turns.append(churned.turn())
        due += EVERY
        await asyncio.sleep(max(0.0, due - loop.time()))


def _operations(turns: list[_Turn], speed: float) -> Result:
    sums = dict(
        zip(("add_us", "reschedule_us", "remove_us"), map(sum, zip(*turns, strict=True)), strict=True)
    )
    return {name: spent / 1000 * speed / AT_ONCE / len(turns) for name, spent in sums.items()}


async def _many(churned: Churn, count: int) -> Result:
    """As fast as they can: what an operation costs with all that is put off until many are there, and memory."""
    gc.collect()
    before = resident_bytes()
    first = await _fast(churned, count)
    second = await _fast(churned, count)
    return {
        "sustained_us": second.us / (3 * count),
        "slowest_ms": max(first.slowest_ms, second.slowest_ms),
        # What is put off until many are there takes its room once; what is lost takes more each time.
        "memory_most": second.memory / before,
        "memory_growth": second.memory / first.memory,
    }


class _Fast(NamedTuple):
    us: float
    slowest_ms: float
    memory: int
    """The most that was held, bytes."""


async def _fast(churned: Churn, count: int) -> _Fast:
    calibration = Calibration()
    spent = slowest = memory = 0  # and no list of all turns, which would be seen as memory
    for number in range(count // AT_ONCE):
        turn = churned.turn()
        spent += sum(turn)
        slowest = max(slowest, *turn)
        if number % 10 == 0:
            memory = max(memory, resident_bytes())
            await asyncio.sleep(0)
        if number % 100 == 0:
            calibration.slice()
    return _Fast(spent / 1000 * calibration.speed, slowest / 1e6, memory)


async def declare(measurement: Measurement, gauges: Gauges) -> Result:
    """A class with many declared tasks: its body with the decorators, the class, an instance with its tasks made."""
    declaration = "@periodic_task(spacing=10)\nasync def task{}(self, context): ...\n"
    body = compile("".join(map(declaration.format, range(measurement.tasks))), "<class body>", "exec")
    costs = [_declare_once(body) for _ in range(max(3, 5000 // measurement.tasks))]
    each = [median(part) / measurement.tasks for part in zip(*costs, strict=True)]
    return dict(zip(("decorators_us", "class_us", "instance_us"), each, strict=True)) | {
        "total_us": sum(each)
    }


def _declare_once(body: CodeType) -> tuple[float, float, float]:
    import asyncmgr

    settings = asyncmgr.Settings(host="bench")
    one_more = Tally().body("return")
    names: dict[str, Any] = {}
    gc.collect()
    with Stopwatch() as of_body:
        exec(body, {"periodic_task": asyncmgr.periodic_task, "__name__": __name__}, names)
    with Stopwatch() as of_class:
        many = type("Many", (asyncmgr.Manager,), names)
    with Stopwatch() as of_instance:
        # Tasks are made at first use; one more makes the instance's own too.
        many(settings=settings).add_periodic_task(one_more, name="one_more")
    return of_body.us, of_class.us, of_instance.us


WORKLOADS: dict[str, Callable[[Measurement, Gauges], Coroutine[Any, Any, Result]]] = {
    "load": load,
    "lateness": lateness,
    "idle": idle,
    "churn": churn,
    "declare": declare,
}
