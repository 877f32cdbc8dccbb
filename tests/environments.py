"""One service's life, case by case, to be run in whatever loop and interpreter there is. No pytest: it runs alone too.

``python -X dev -W error -m tests.environments`` runs every case in a plain loop of asyncio's.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asyncmgr import (
    Manager,
    Outcome,
    RemoteError,
    RpcClient,
    Service,
    ServiceStateError,
    ServiceStopped,
    Settings,
    StopReport,
    current_call,
    periodic_task,
    rpc,
)
from asyncmgr._service.service import State
from asyncmgr.events import Event, RunFinished, ServiceStarted, ServiceStopping, SlotSkipped

PATIENCE = 30.0
"""Seconds after which a case has failed; none of them takes any time worth mentioning."""

SOON = 0.02
"""Seconds of a spacing or a timeout that is waited for."""


class Noting(Manager):
    """Notes its hooks, and has the tasks that a case adds."""

    name = "M"

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    async def init_host(self) -> None:
        self.notes.append("init_host")

    async def pre_start_hook(self) -> None:
        self.notes.append("pre_start_hook")

    async def post_start_hook(self) -> None:
        self.notes.append("post_start_hook")

    async def cleanup_host(self) -> None:
        self.notes.append("cleanup_host")


class Life:
    """A service, its one manager, its events, and a way to wait for them."""

    def __init__(self, manager: Noting | None = None) -> None:
        self.manager = manager or Noting()
        self.service = Service(self.manager, name="s", host="h", settings=Settings(drain_timeout=PATIENCE))
        self.events: list[Event] = []
        self._told = asyncio.Event()
        self.service.add_listener(self._note)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._told.set()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[Event], count: int = 1) -> list[Any]:
        """Wait for so many events of a kind."""
        while len(found := self.of(kind)) < count:
            self._told.clear()
            await self._told.wait()
        return found


async def raised(kind: type[BaseException], call: Callable[[], Awaitable[object]]) -> BaseException:
    """The error of this kind that the call raises."""
    try:
        await call()
    except kind as exc:
        return exc
    raise AssertionError(f"it raised no {kind.__name__}")


# The cases


async def starts_and_stops() -> None:
    """Hooks in their order, and nothing is left."""
    life = Life()
    assert life.service.state is State.NEW
    async with life.service as service:
        assert service.state is State.RUNNING
        assert service.health.ok
        assert life.manager.service is service
        assert life.manager.notes == ["init_host", "pre_start_hook", "post_start_hook"]
    assert life.manager.notes[-1] == "cleanup_host"
    assert life.manager.service is None
    assert str(service.state) == "stopped"
    assert [type(event) for event in life.events] == [ServiceStarted, ServiceStopping]


async def runs_never_wait() -> None:
    """Many at once, again and again."""
    life, ran = Life(), dict[str, int]()

    async def count(context: Any) -> None:
        ran[context.task] = ran.get(context.task, 0) + 1

    for number in range(50):
        life.manager.add_periodic_task(count, spacing=SOON, run_immediately=True, name=f"t{number}")
    async with life.service:
        await life.until(RunFinished, 150)
    assert len(ran) == 50
    assert min(ran.values()) >= 2
    assert {event.outcome for event in life.of(RunFinished)} == {Outcome.SUCCEEDED}


async def runs_wait() -> None:
    """Each in a Task of its own, side by side."""
    life, tasks = Life(), set[Any]()
    together = asyncio.Event()

    async def meet(context: Any) -> None:
        tasks.add(asyncio.current_task())
        if len(tasks) == 20:
            together.set()
        await together.wait()
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0.001)

    for number in range(20):
        life.manager.add_periodic_task(meet, spacing=1000, run_immediately=True, name=f"t{number}")
    async with life.service:
        await life.until(RunFinished, 20)
    assert {event.outcome for event in life.of(RunFinished)} == {Outcome.SUCCEEDED}


async def a_run_fails() -> None:
    """Before and after it has waited; the task goes on, and so do its siblings."""
    life = Life()
    errors = [ValueError("at once"), KeyError("later"), asyncio.CancelledError("stray")]

    async def fail(context: Any) -> None:
        if not errors:
            return
        error = errors.pop(0)
        if isinstance(error, KeyError):
            await asyncio.sleep(0.001)
        raise error

    life.manager.add_periodic_task(fail, spacing=SOON, run_immediately=True)
    async with life.service as service:
        runs = await life.until(RunFinished, 4)
        assert service.health.ok
    outcomes = [Outcome.FAILED, Outcome.FAILED, Outcome.CANCELLED, Outcome.SUCCEEDED]
    assert [run.outcome for run in runs[:4]] == outcomes
    assert [type(run.error) for run in runs[:4]] == [ValueError, KeyError, asyncio.CancelledError, type(None)]


async def a_run_times_out() -> None:
    """Whatever the body makes of its cancellation; the next run starts clean."""
    life, left = Life(), list[int]()

    async def hang(context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        left.append(task.cancelling())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("while it ended") from None

    life.manager.add_periodic_task(hang, spacing=SOON, run_immediately=True, timeout=SOON)
    async with life.service as service:
        runs = await life.until(RunFinished, 2)
        await service.stop(timeout=0)
    assert [run.outcome for run in runs[:2]] == [Outcome.TIMED_OUT] * 2
    assert isinstance(runs[0].error, TimeoutError)
    assert isinstance(runs[0].error.__cause__, OSError)
    assert set(left) == {0}


async def a_slot_meets_its_own_run() -> None:
    """It is refused, queued or started, as the task says."""
    life, ended = Life(), asyncio.Event()
    at_once: dict[str, int] = {}
    most: dict[str, int] = {}

    async def overlap(context: Any) -> None:
        now = at_once[context.task] = at_once.get(context.task, 0) + 1
        most[context.task] = max(now, most.get(context.task, 0))
        await ended.wait()
        at_once[context.task] -= 1

    for mode in ("skip", "queue", "allow"):
        life.manager.add_periodic_task(
            overlap, spacing=SOON, run_immediately=True, overlap=mode, tolerance=0, name=mode
        )
    async with life.service:
        skipped = await life.until(SlotSkipped, 6)
        while at_once["M.allow"] < 3:  # noqa: ASYNC110 - no event tells of a start
            await asyncio.sleep(0.001)
        ended.set()
        await life.until(RunFinished, 8)
    assert {event.reason for event in skipped} == {"overlap"}
    assert (most["M.skip"], most["M.queue"]) == (1, 1)
    assert most["M.allow"] >= 3


async def a_stop_drains() -> None:
    """Runs in progress end by themselves, and nothing new begins."""
    life, stopping = Life(), asyncio.Event()

    async def work(context: Any) -> None:
        await stopping.wait()
        await asyncio.sleep(SOON)

    life.service.add_listener(lambda event: stopping.set(), ServiceStopping)
    for name in ("a", "b"):
        life.manager.add_periodic_task(work, spacing=1000, run_immediately=True, name=name)
    await life.service.start()
    await begun(life, "M.a", "M.b")
    report = await life.service.stop()
    assert (report.drained, report.cancelled, report.leaked) == (("M.a", "M.b"), (), ())
    assert [run.outcome for run in life.of(RunFinished)] == [Outcome.SUCCEEDED] * 2


async def a_stop_cancels() -> None:
    """What has no time left is cancelled, and its cleanup is awaited."""
    life, cleaned = Life(), list[str]()

    async def work(context: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(context.task)

    life.manager.add_periodic_task(work, spacing=1000, run_immediately=True, name="a")
    await life.service.start()
    await begun(life, "M.a")
    assert (await life.service.stop(timeout=0)).cancelled == ("M.a",)
    assert cleaned == ["M.a"]
    assert [run.outcome for run in life.of(RunFinished)] == [Outcome.CANCELLED]


async def begun(life: Life, *names: str) -> None:
    """Wait until these tasks have been started."""
    while {status.full_name for status in life.manager.task_status() if status.last_run} < set(names):  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(SOON)


class Answering(Noting):
    """Serves calls."""

    @rpc
    async def double(self, number: int) -> int:
        assert current_call().method == "double"
        await asyncio.sleep(0)
        return 2 * number

    @rpc
    async def fail(self) -> None:
        raise ValueError("no disk")


async def calls_are_served() -> None:
    """Side by side, results and errors."""
    life = Life(Answering())
    async with life.service as service:
        client = RpcClient(service.transport, "s", timeout=PATIENCE)
        results = await asyncio.gather(*(client.call("double", number=number) for number in range(20)))
        assert results == [2 * number for number in range(20)]
        assert "no disk" in str(await raised(RemoteError, lambda: client.call("fail")))


class Stopping(Noting):
    """Stops its service in a hook."""

    async def post_start_hook(self) -> None:
        await super().post_start_hook()
        assert self.service is not None
        assert await self.service.stop() == StopReport()


async def a_hook_stops_the_service() -> None:
    """The start is undone, and says why it has not come about."""
    life = Life(Stopping())
    await raised(ServiceStopped, life.service.start)
    assert life.manager.notes == ["init_host", "pre_start_hook", "post_start_hook", "cleanup_host"]
    assert life.service.state is State.STOPPED


async def a_run_stops_the_service() -> None:
    """The run is drained like any other, and need not wait for its own end."""
    life = Life()

    async def leave(context: Any) -> None:
        assert await life.service.stop() == StopReport()
        await asyncio.sleep(0.001)

    life.manager.add_periodic_task(leave, spacing=1000, run_immediately=True)
    async with life.service as service:
        await service.wait()
    assert (await life.service.stop()).drained == ("M.leave",)


async def a_run_ends_the_process() -> None:
    """Its `SystemExit` never reaches the loop; whoever waits for the service raises it."""
    life = Life()

    async def leave(context: Any) -> None:
        raise SystemExit(3)

    life.manager.add_periodic_task(leave, spacing=1000, run_immediately=True)
    await life.service.start()
    assert str(await raised(SystemExit, life.service.wait)) == "3"
    assert life.of(RunFinished)[0].outcome is Outcome.FAILED


class Failing(Noting):
    """Cannot start."""

    async def post_start_hook(self) -> None:
        raise OSError("no disk")


async def a_start_fails() -> None:
    """What was done before is undone."""
    life = Life(Failing())
    await raised(OSError, life.service.start)
    assert life.manager.notes[-1] == "cleanup_host"


async def a_second_start_is_refused() -> None:
    """While it runs and afterwards."""
    life = Life()
    async with life.service:
        assert "runs once" in str(await raised(ServiceStateError, life.service.start))
    assert "runs once" in str(await raised(ServiceStateError, life.service.start))


async def a_start_is_cancelled() -> None:
    """The caller gives up: what was begun is undone before the cancellation is passed on."""

    class Slow(Noting):
        async def post_start_hook(self) -> None:
            reached.set()
            await asyncio.Event().wait()

    reached = asyncio.Event()
    life = Life(Slow())
    starting = asyncio.create_task(life.service.start())
    await reached.wait()
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert life.manager.notes[-1] == "cleanup_host"


async def tasks_come_and_go() -> None:
    """Added, rescheduled and removed while it runs."""
    life = Life()

    async def work(context: Any) -> None:
        await asyncio.sleep(0)

    async with life.service:
        handle = life.manager.add_periodic_task(work, spacing=1000, run_immediately=True)
        await life.until(RunFinished)
        handle.reschedule(spacing=SOON)
        await life.until(RunFinished, 3)
        handle.remove()
        life.manager.add_periodic_task(work, spacing=SOON, name="again")
        while life.of(RunFinished)[-1].task != "M.again":
            await life.until(RunFinished, len(life.of(RunFinished)) + 1)


async def a_task_comes_in_the_turn_of_the_start() -> None:
    """The timer is set for the present moment then, for which uvloop gives another kind of handle."""
    life = Life()

    async def work(context: Any) -> None: ...

    def add(event: Event) -> None:
        assert life.service.health.ok
        for name, spacing in (("often", SOON), ("once", 1000), ("single", 2000)):
            life.manager.add_periodic_task(work, spacing=spacing, run_immediately=True, name=name)

    life.service.add_listener(add, ServiceStarted)
    async with life.service as service:
        await life.until(RunFinished, 4)
        assert service.health.ok


CASES: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    case.__name__: case
    for case in (
        starts_and_stops,
        runs_never_wait,
        runs_wait,
        a_run_fails,
        a_run_times_out,
        a_slot_meets_its_own_run,
        a_stop_drains,
        a_stop_cancels,
        calls_are_served,
        a_hook_stops_the_service,
        a_run_stops_the_service,
        a_run_ends_the_process,
        a_start_fails,
        a_second_start_is_refused,
        a_start_is_cancelled,
        tasks_come_and_go,
        a_task_comes_in_the_turn_of_the_start,
    )
}


# The environments


class Busy(Manager):
    """The manager of a neighbour in the same loop."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = 0

    @periodic_task(spacing=0.005, run_immediately=True)
    async def short(self, context: Any) -> None:
        self.ran += 1

    @periodic_task(spacing=1000, run_immediately=True)
    async def long(self, context: Any) -> None:
        await asyncio.Event().wait()

    @rpc
    async def double(self, number: int) -> int:
        raise AssertionError("a call of another service")


async def observe(case: Callable[[], Coroutine[Any, Any, None]], *, beside: bool = False) -> None:
    """Run a case, perhaps beside another service; no Task is left, and the loop has nothing to complain of."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with asyncio.timeout(PATIENCE):
        await (next_to_another(case) if beside else case())
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert complaints == [], complaints


async def next_to_another(case: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a case beside a service which is none the worse for it."""
    busy = Busy()
    async with Service(busy, name="neighbour", host="h", settings=Settings(drain_timeout=0)) as neighbour:
        await case()
        ran = busy.ran
        while busy.ran < ran + 3:  # noqa: ASYNC110 - no event for a single manager's runs
            await asyncio.sleep(0.001)
        assert neighbour.health.ok
    assert (await neighbour.stop()).cancelled == ("Busy.long",)


class OwnTask(asyncio.Task[Any]):
    """A Task of the application's own class."""


def own_factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return OwnTask(coro, loop=loop, **options)


def run_plain(
    main: Coroutine[Any, Any, None], *, debug: bool | None = None, factory: Any = None, new: Any = None
) -> None:
    """Run in a loop of asyncio's, or of `new`, with a task factory."""
    with asyncio.Runner(debug=debug, loop_factory=new) as runner:
        runner.get_loop().set_task_factory(factory)
        runner.run(main)


def run_in_thread(main: Coroutine[Any, Any, None]) -> None:
    """Run in a loop that lives in a thread of its own."""
    errors: list[BaseException] = []

    def live() -> None:
        try:
            run_plain(main)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def main() -> int:
    """Run every case in a plain loop; the exit code is how many failed."""
    import structlog

    structlog.configure(processors=[drop])
    failed = 0
    for name, case in CASES.items():
        try:
            run_plain(observe(case))
        except Exception:
            failed += 1
            sys.stderr.write(f"{name}: {traceback.format_exc()}\n")
    return failed


def drop(*_: object) -> Any:
    import structlog

    raise structlog.DropEvent


if __name__ == "__main__":
    raise SystemExit(main())
