"""What is compared: asyncmgr, three loops written by hand (the floors), and peers, each set up at its best.

Each takes the same tasks and runs them until it is left. Libraries are imported by the one who uses them: peers need
not be installed, and nothing else shall be in a measured process.
"""

# Peers without type hints, and two versions of one package that cannot be installed together:
# mypy: disable-error-code="import-not-found,import-untyped,attr-defined,no-any-return"

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, NamedTuple

Body = Callable[..., Awaitable[None]]
"""A coroutine function that may be called with one argument or with none."""

WINDOW = 0.2
"""Seconds: the nearly-due window, asyncmgr's default and that of floor c."""


class Task(NamedTuple):
    """One periodic task, as every competitor gets it."""

    body: Body
    spacing: float
    """Seconds between two starts."""
    phase: float
    """Seconds from the start of all to this task's first slot."""
    timeout: float | None = None


class Competitor(ABC):
    """Something that runs periodic tasks on the running event loop."""

    title: ClassVar[str]
    """What it is called in the report."""
    whole_seconds: ClassVar[bool] = False
    """It starts tasks on the wall clock's whole seconds only, so phases are rounded down to one."""

    def __init__(self, *, tolerance: float | None = None) -> None:
        self.tolerance = tolerance
        """The nearly-due window in seconds, where there is one; `None` = its default."""

    @abstractmethod
    def running(self, tasks: Iterable[Task]) -> AbstractAsyncContextManager[None]:
        """Take in the tasks and start; the body of the context runs beside them."""

    @property
    @abstractmethod
    def origin(self) -> float:
        """The loop time that the tasks' phases count from."""

    # Only for those whose tasks can be changed while they run:

    def add(self, task: Task) -> Any:
        """Add a task; returns what `reschedule` and `remove` take."""
        raise NotImplementedError

    def reschedule(self, handle: Any, spacing: float) -> None:
        raise NotImplementedError

    def remove(self, handle: Any) -> None:
        raise NotImplementedError


def loop_time_of(wall: float) -> float:
    """The loop time of a moment of the wall clock."""
    return asyncio.get_running_loop().time() - time.time() + wall


class Asyncmgr(Competitor):
    """As a user has it: every feature on, default settings, structlog at info. A run that succeeds logs nothing."""

    title = "asyncmgr"

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__(tolerance=tolerance)
        import structlog

        from asyncmgr import Manager, Service, Settings

        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )

        class Bench(Manager):
            pass

        window = {} if tolerance is None else {"tolerance": tolerance}
        settings = Settings(host="bench", **window)
        self._manager = Bench(settings=settings)
        self._service = Service(self._manager, settings=settings)
        self._first_phase: float | None = None
        self._names = map("t{}".format, itertools.count())

    @asynccontextmanager
    async def running(self, tasks: Iterable[Task]) -> AsyncIterator[None]:
        for task in tasks:
            if self._first_phase is None:
                self._first_phase = task.phase
            self.add(task)
        async with self._service:
            yield

    @property
    def origin(self) -> float:
        due = self._manager.task_status()[0].next_due
        assert due is not None
        assert self._first_phase is not None
        return loop_time_of(due.timestamp()) - self._first_phase

    def add(self, task: Task) -> Any:
        options = {} if task.timeout is None else {"timeout": task.timeout}
        return self._manager.add_periodic_task(
            task.body, name=next(self._names), spacing=task.spacing, initial_delay=task.phase, **options
        )

    def reschedule(self, handle: Any, spacing: float) -> None:
        handle.reschedule(spacing=spacing)

    def remove(self, handle: Any) -> None:
        handle.remove()


# The floors: what a user would write, without any feature ---------------------------------------------------------


class Floor(Competitor):
    """A loop written by hand."""

    @asynccontextmanager
    async def running(self, tasks: Iterable[Task]) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()
        self._start_run: Callable[[Any], object] = self._loop.create_task
        self.start(tasks)
        yield
        # The loop goes on for some turns while it is closed: a Task begun then would complain that it was not ended.
        self._start_run = Coroutine.close

    @abstractmethod
    def start(self, tasks: Iterable[Task]) -> None: ...

    @property
    def origin(self) -> float:
        return self._origin


class Nothing(Floor):
    """An asyncio process that waits."""

    title = "an empty process"

    def start(self, tasks: Iterable[Task]) -> None:
        pass


class TaskPerJob(Floor):
    """a: an asyncio.Task per job that sleeps between two runs. It drifts."""

    title = "a: a Task per job"

    def start(self, tasks: Iterable[Task]) -> None:
        self._tasks = [self._loop.create_task(self._repeat(task)) for task in tasks]

    async def _repeat(self, task: Task) -> None:
        await asyncio.sleep(task.phase)
        while True:
            await task.body()
            await asyncio.sleep(task.spacing)


class CallAtPerJob(Floor):
    """b: a `call_at` chain per job with a Task per run. Exact."""

    title = "b: call_at per job"

    def start(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._plan(task, self._origin + task.phase)

    def _plan(self, task: Task, due: float) -> None:
        self._loop.call_at(due, self._fire, task, due)

    def _fire(self, task: Task, due: float) -> None:
        self._start_run(task.body())
        self._plan(task, due + task.spacing)


class OneHeap(Floor):
    """c: one heap, one timer, a bare Task per run; what is due within the window starts together.

    The window is capped at half the spacing, as asyncmgr's is.
    """

    title = "c: one heap, one timer"

    def start(self, tasks: Iterable[Task]) -> None:
        self._heap: list[tuple[float, int, Task]] = []
        for number, task in enumerate(tasks):
            heapq.heappush(self._heap, (self._origin + task.phase, number, task))
        self._window = min(WINDOW, self._heap[0][2].spacing / 2)
        self._set_timer()

    def _set_timer(self) -> None:
        self._loop.call_at(self._heap[0][0], self._wake)

    def _wake(self) -> None:
        heap, start_run = self._heap, self._start_run
        limit = self._loop.time() + self._window
        while heap[0][0] <= limit:
            due, number, task = heap[0]
            heapq.heapreplace(heap, (due + task.spacing, number, task))
            start_run(task.body())
        self._set_timer()


# The peers --------------------------------------------------------------------------------------------------------


class APScheduler3(Competitor):
    """Tasks are added before the start, which spares it a wake-up for each."""

    title = "APScheduler 3"

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__(tolerance=tolerance)
        from apscheduler.schedulers.asyncio import AsyncIOScheduler
        from apscheduler.triggers.interval import IntervalTrigger

        # By default it drops every run that is more than one second late; nothing else is to be tuned. Its log lines
        # for each run are below the level of an unconfigured logger.
        self._scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None})
        self._make_trigger = IntervalTrigger
        # Without an id it draws a UUID for each job.
        self._ids = map("t{}".format, itertools.count())
        self._start = datetime.now(UTC)

    @asynccontextmanager
    async def running(self, tasks: Iterable[Task]) -> AsyncIterator[None]:
        for task in tasks:
            self.add(task)
        self._scheduler.start()
        yield
        # A shutdown cancels the runs in progress, each with a traceback on stderr: let them end first.
        self._scheduler.pause()
        await asyncio.sleep(0.05)
        self._scheduler.shutdown(wait=False)

    @property
    def origin(self) -> float:
        return loop_time_of(self._start.timestamp())

    def add(self, task: Task) -> str:
        name = next(self._ids)
        self._scheduler.add_job(task.body, self._trigger(task.spacing, task.phase), id=name)
        return name

    def reschedule(self, handle: str, spacing: float) -> None:
        self._scheduler.reschedule_job(handle, trigger=self._trigger(spacing, 0))

    def remove(self, handle: str) -> None:
        self._scheduler.remove_job(handle)

    def _trigger(self, spacing: float, phase: float) -> Any:
        return self._make_trigger(
            seconds=spacing, start_date=self._start + timedelta(seconds=phase), timezone=UTC
        )


class APScheduler4(Competitor):
    """Its data store and event broker in memory; one definition for all schedules of one body."""

    title = "APScheduler 4"

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__(tolerance=tolerance)
        from apscheduler import AsyncScheduler
        from apscheduler.triggers.interval import IntervalTrigger

        # The defaults stop at 100 jobs in progress, and at one for each definition.
        self._scheduler = AsyncScheduler(max_concurrent_jobs=100_000)
        self._make_trigger = IntervalTrigger
        self._defined: set[str] = set()

    @asynccontextmanager
    async def running(self, tasks: Iterable[Task]) -> AsyncIterator[None]:
        self._start = datetime.now(UTC)
        async with self._scheduler as scheduler:
            for number, task in enumerate(tasks):
                await self._add(scheduler, number, task)
            await scheduler.start_in_background()
            yield

    async def _add(self, scheduler: Any, number: int, task: Task) -> None:
        definition = f"body{id(task.body)}"
        if definition not in self._defined:
            self._defined.add(definition)
            await scheduler.configure_task(definition, func=task.body, max_running_jobs=None)
        start = self._start + timedelta(seconds=task.phase)
        trigger = self._make_trigger(seconds=task.spacing, start_time=start)
        await scheduler.add_schedule(definition, trigger, id=f"t{number}")

    @property
    def origin(self) -> float:
        return loop_time_of(self._start.timestamp())


class WholeSeconds(Competitor):
    """A scheduler that knows whole seconds of the wall clock only."""

    whole_seconds = True

    @property
    def origin(self) -> float:
        return loop_time_of(0)


class Aiocron(WholeSeconds):
    """Cron expressions with a field for seconds are the finest that it has."""

    title = "aiocron"

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__(tolerance=tolerance)
        import aiocron

        # In UTC: a local zone makes each step of its cron iterator dearer.
        self._crontab = partial(aiocron.crontab, loop=asyncio.get_running_loop(), tz=UTC)

    @asynccontextmanager
    async def running(self, tasks: Iterable[Task]) -> AsyncIterator[None]:
        crons = [self._crontab(self._expression(task), func=task.body) for task in tasks]
        yield
        for cron in crons:
            cron.stop()

    @staticmethod
    def _expression(task: Task) -> str:
        seconds = range(int(task.phase), 60, int(task.spacing))
        return f"{','.join(map(str, seconds))} * * * * *"


class Taskiq(WholeSeconds):
    """Broker and results in memory, runs in place of the Task that sends them, arguments not converted.

    All tasks share one body's definition; each has a schedule of its own, as tasks with labels have.
    """

    title = "taskiq"

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__(tolerance=tolerance)
        from taskiq import InMemoryBroker, ScheduledTask, ScheduleSource, TaskiqScheduler
        from taskiq.cli.scheduler.run import SchedulerLoop

        schedules: list[Any] = []

        class Source(ScheduleSource):
            async def get_schedules(self) -> list[Any]:
                return schedules

        self._schedules = schedules
        self._make_schedule = ScheduledTask
        self._broker = InMemoryBroker(await_inplace=True, cast_types=False)
        self._scheduler = TaskiqScheduler(self._broker, [Source()])
        self._loop = SchedulerLoop(self._scheduler)

    @asynccontextmanager
    async def running(self, tasks: Iterable[Task]) -> AsyncIterator[None]:
        now = datetime.now(UTC).replace(microsecond=0)
        for task in tasks:
            self._add(task, now)
        await self._scheduler.startup()
        # Reading the schedules anew each minute is its default and part of what it costs.
        running = asyncio.create_task(self._loop.run())
        yield
        running.cancel()
        await self._scheduler.shutdown()

    def _add(self, task: Task, now: datetime) -> None:
        definition, spacing = f"body{id(task.body)}", int(task.spacing)
        if self._broker.find_task(definition) is None:
            self._broker.register_task(task.body, task_name=definition)
        name = f"t{len(self._schedules)}"
        self._schedules.append(
            self._make_schedule(
                task_name=definition, schedule_id=name, labels={}, args=[], kwargs={}, interval=spacing
            )
        )
        # Otherwise all intervals begin at once: a phase can be told only as the run before.
        before = now + timedelta(seconds=int(task.phase) - spacing)
        self._loop.interval_tasks_last_run[name] = before


COMPETITORS: dict[str, type[Competitor]] = {
    "asyncmgr": Asyncmgr,
    "null": Nothing,
    "a": TaskPerJob,
    "b": CallAtPerJob,
    "c": OneHeap,
    "a3": APScheduler3,
    "a4": APScheduler4,
    "aiocron": Aiocron,
    "taskiq": Taskiq,
}
"""By the names that the command line takes."""

PACKAGES = {
    "asyncmgr": "asyncmgr",
    "a3": "APScheduler",
    "a4": "APScheduler",
    "aiocron": "aiocron",
    "taskiq": "taskiq",
}
"""The distributions whose versions the report names."""
