"""An event loop in which time jumps instead of passing, and the wall clock with it.

The code under test does not know that it runs here: no other module of the package imports this one, except its
neighbours in `testing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, TypeVarTuple, overload

from asyncmgr.errors import AsyncmgrError
from asyncmgr.testing._reports import RunReport, Tally

try:
    import time_machine
except ImportError as _missing:
    raise ImportError(
        "asyncmgr.testing needs time-machine, which is not installed: pip install 'asyncmgr[testing]'"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Executor
    from types import FrameType, TracebackType

    _Events = list[tuple[selectors.SelectorKey, int]]

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")
_Report_co = TypeVar("_Report_co", covariant=True)

START = datetime(2024, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)


class VirtualTimeError(AsyncmgrError, RuntimeError):
    """Virtual time is used where it cannot work; the text says where it can."""


class DeadlockError(VirtualTimeError):
    """Nothing is scheduled and nothing real is awaited: the program would wait for ever.

    The text lists what every task waits for.
    """


class _Wall:
    """The wall clock of the process. One loop holds it from its first run until it is closed.

    time-machine keeps its travellers on a stack, and the last one sets the clock. A loop keeps its traveller on the
    stack between its runs too. So the stack stays in order when a fixture opens a `travel` in one run and ends it in
    another, and plain fixtures see the same clock as the loop.
    """

    _held: ClassVar[list[_Wall]] = []

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError(f"start={start!r} has no time zone; write e.g. datetime(2024, 1, 1, tzinfo=UTC)")
        self.start = start.astimezone(UTC)
        # Not a datetime: time-machine would set the TZ of the process from it. Not a float, which is inexact.
        since_epoch, self._fraction = divmod(self.start - _EPOCH, _SECOND)
        self._travel = time_machine.travel(since_epoch, tick=False)

    def hold(self) -> None:
        """Show the time of this loop, which is about to run."""
        if self not in self._held:
            self.traveller = self._travel.start()
            self.traveller.shift(self._fraction)
        elif self._held[-1] is not self:  # loops of different fixture scopes take turns
            _swap(time_machine.traveller_stack, self.traveller, self._held[-1].traveller)
            self._held.remove(self)
        else:
            return
        self._held.append(self)

    def shift(self, microseconds: int) -> None:
        # A float, because a timedelta costs twice as much. time-machine rounds it to whole nanoseconds,
        # which is exact below 26 days, and asyncio never waits for more than one day at a time.
        self.traveller.shift(microseconds / 1e6)

    @property
    def is_shown(self) -> bool:
        """Whether the process shows this clock, and no test has put a `travel` of its own on top."""
        return (
            bool(self._held) and self._held[-1] is self and time_machine.traveller_stack[-1] is self.traveller
        )

    def release(self) -> None:
        if self not in self._held:
            return
        self._held.remove(self)
        stack = time_machine.traveller_stack
        if self.traveller in stack[:-1]:  # below a `travel` that outlives the loop
            stack.remove(self.traveller)
        elif stack:
            self._travel.stop()


def _swap(
    stack: list[time_machine.Traveller], one: time_machine.Traveller, other: time_machine.Traveller
) -> None:
    first, second = stack.index(one), stack.index(other)
    stack[first], stack[second] = other, one


class _Selector(selectors.DefaultSelector):
    """A selector that calls the loop wherever asyncio would wait."""

    really_select = selectors.DefaultSelector.select

    def __init__(self, wait: Callable[[float | None], _Events]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> _Events:
        if timeout is not None and timeout <= 0:
            return self.really_select(0)
        return self._wait(timeout)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that jumps to the next timer instead of waiting for it.

    `loop.time()` starts at 0.0. `datetime.now()`, `time.time()` and `time.time_ns()` show `start` plus
    `loop.time()`, exact to the microsecond however long the simulation; the smallest step is 1 us.
    `time.monotonic`, `time.perf_counter` and the time zone of the machine stay real. Computing takes no
    time, so no time passes while a task awaits only `sleep(0)`.

    Time passes at its real speed, in one step at the end of each wait, while one of these is pending:

    * a call in an executor (`run_in_executor`, `asyncio.to_thread`, `getaddrinfo`) or by `anyio.to_thread`;
    * a subprocess, from its start to its exit;
    * a file descriptor that the loop watches: an open connection, a server, a pipe, `add_reader`;
    * anything inside ``with loop.real_time():``, which is how to wait for threads of your own and for
      `asyncio.wrap_future`, because a loop cannot see those.

    If nothing is scheduled and none of these is pending, the run of the loop raises `DeadlockError`.
    Other living threads might still call back: the loop first waits for them, for `patience` real
    seconds. With signal handlers in place (`add_signal_handler`) the loop waits for the signal.

    The wall clock belongs to the process: a loop takes it at its first run and gives it back when it is
    closed. So the loop works in the main thread only, and all threads see its time. Of several loops, the
    one that ran last is shown. A `time_machine.travel` that begins inside the loop hides the loop's wall
    clock until it ends; then the clock is up to date again.

    Works wherever asyncio's selector loop does; on Windows that loop has no subprocesses. Needs CPython,
    because time-machine does.
    """

    patience: ClassVar[float] = 5.0
    _closed = True  # until asyncio's own __init__: a loop that is refused before it has nothing to close

    def __init__(self, *, start: datetime = START) -> None:
        """Begin at `start`.

        Raises
        ------
        ValueError
            `start` has no time zone.
        VirtualTimeError
            This is not the main thread.
        """
        _refuse_threads()
        self._wall = _Wall(start)
        self._io = _Selector(self._wait)
        super().__init__(self._io)
        self._microseconds = 0
        self._seconds = 0.0
        # Timers this near are due. Must exceed the spacing of floats at `_seconds` (0.5 us after 100
        # years), or else a timer is neither due nor ahead, and the loop spins on it.
        self._clock_resolution = 1e-6
        self._real = 0
        self._processes: list[asyncio.SubprocessTransport] = []
        self._resting: list[asyncio.Future[None]] = []
        self._wall_listeners: list[Callable[[], object]] = []
        self._moved_wall = True

    @property
    def start(self) -> datetime:
        """The instant of `loop.time()` 0.0, in UTC."""
        return self._wall.start

    def now(self) -> datetime:
        """Return the virtual instant in UTC, even if a `travel` hides it from `datetime.now()`."""
        return self._wall.start + self._microseconds * _MICROSECOND

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._seconds

    @property
    def moves_wall(self) -> bool:
        """Whether wall and loop move together. False while a `travel` inside the loop shows another wall clock."""
        return self._wall.is_shown

    def add_wall_listener(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call `listener` after each change of `moves_wall`, before time passes. Returns a function that removes it.

        With it, a scheduler learns that somebody has stepped the wall clock, without reading the clock repeatedly.
        """
        self._wall_listeners.append(listener)

        def remove() -> None:
            if listener in self._wall_listeners:
                self._wall_listeners.remove(listener)

        return remove

    async def let_pass(self, seconds: float) -> None:
        """Wait until `seconds` have passed *and* everything that is due at the last instant has started."""
        await asyncio.sleep(seconds)
        rest: asyncio.Future[None] = self.create_future()
        self._resting.append(rest)
        await rest

    @contextlib.contextmanager
    def real_time(self) -> Iterator[None]:
        """Let time pass at its real speed in this block, which awaits something that the loop cannot see."""
        self._real += 1
        try:
            yield
        finally:
            self._real -= 1

    def run_forever(self) -> None:
        """As in asyncio; the first run takes the wall clock.

        Raises
        ------
        VirtualTimeError
            This is not the main thread.
        """
        _refuse_threads()
        if not self.is_closed():
            self._wall.hold()
        super().run_forever()

    def close(self) -> None:
        """As in asyncio; gives the wall clock back."""
        if not self.is_running():
            self._wall.release()
        super().close()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Args], _Result], *args: *_Args
    ) -> asyncio.Future[_Result]:
        """As in asyncio; time is real until the call has ended or is no longer awaited."""
        future = super().run_in_executor(executor, func, *args)
        self._real += 1
        future.add_done_callback(self._end_call)
        return future

    def _end_call(self, _future: asyncio.Future[Any]) -> None:
        self._real -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As in asyncio; waits for real threads, with a timeout in real seconds."""
        with self.real_time():
            await super().shutdown_default_executor(*args)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """As in asyncio; time is real until the process has exited."""
        with self.real_time():
            return self._watch(await super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """As in asyncio; time is real until the process has exited."""
        with self.real_time():
            return self._watch(await super().subprocess_shell(*args, **kwargs))

    def _watch(self, started: tuple[asyncio.SubprocessTransport, _Result]) -> Any:
        # Python 3.11 waits for the exit in a thread, with no file descriptor that would show it.
        self._processes.append(started[0])
        return started

    def _wait(self, timeout: float | None) -> _Events:
        """Do what asyncio does by waiting. All ready callbacks have run; `timeout` is positive or `None`."""
        if self.moves_wall is not self._moved_wall:
            return self._tell_of_wall()
        if self._resting:
            return self._end_rest()
        if self._awaits_reality():
            return self._wait_really(timeout)
        if timeout is None:
            return self._wait_for_strangers()
        # After the pending calls: a thread posts its result here before it counts as idle.
        events = self._io.really_select(0)
        if not events:
            self._advance(_microseconds(timeout))
        return events

    def _tell_of_wall(self) -> _Events:
        self._moved_wall = self.moves_wall
        for listener in self._wall_listeners:
            self.call_soon(listener)
        return self._io.really_select(0)

    def _end_rest(self) -> _Events:
        resting, self._resting = self._resting, []
        for rest in resting:
            if not rest.done():
                rest.set_result(None)
        return self._io.really_select(0)

    def _awaits_reality(self) -> bool:
        return (
            self._real > 0
            or len(self._io.get_map()) > 1  # more than the loop's own self-pipe
            or self._runs_processes()
            or self._runs_anyio_threads()
        )

    def _runs_processes(self) -> bool:
        if self._processes:
            self._processes = [process for process in self._processes if process.get_returncode() is None]
        return bool(self._processes)

    def _runs_anyio_threads(self) -> bool:
        if threading.active_count() == 1:
            return False
        return any(
            _is_anyio_worker(thread) and getattr(thread, "loop", None) is self and _has_anyio_call(thread)
            for thread in threading.enumerate()
        )

    def _wait_really(self, timeout: float | None) -> _Events:
        began = time.monotonic_ns()
        events = self._io.really_select(timeout)
        passed = (time.monotonic_ns() - began) // 1000
        if timeout is not None:
            # The selector's timer may end early by less than its resolution: nothing came, so the wait is over.
            passed = min(passed, _microseconds(timeout)) if events else _microseconds(timeout)
        self._advance(passed)
        return events

    def _wait_for_strangers(self) -> _Events:
        """Wait for the call of a thread or a signal; raise if none can come.

        Waits at least 50 ms: a worker that has just got a call looks idle until it begins.
        """
        if getattr(self, "_signal_handlers", None):  # absent on Windows
            return self._wait_really(None)
        give_up = time.monotonic() + self.patience
        while not (events := self._wait_really(0.05)):
            strangers = _busy_threads()
            if not strangers or time.monotonic() >= give_up:
                if events := self._wait_really(0):
                    break  # a thread that has just become idle, or has ended, called right before that
                raise DeadlockError(_explain(self, strangers))
        return events

    def _advance(self, microseconds: int) -> None:
        self._microseconds += microseconds
        self._seconds = self._microseconds / 1e6
        self._wall.shift(microseconds)


def _refuse_threads() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise VirtualTimeError(
            f"a VirtualTimeLoop moves the wall clock of the whole process and works in the main thread only, "
            f"not in {threading.current_thread().name!r}; use an ordinary loop there"
        )


def _microseconds(timeout: float) -> int:
    # Rounded, so that 0.1 + 0.2 ends at 0.3; but never 0, so that the shortest sleeps still let time pass.
    return max(1, round(timeout * 1e6))


def _is_anyio_worker(thread: threading.Thread) -> bool:
    return type(thread).__name__ == "WorkerThread" and hasattr(thread, "idle_workers")


def _has_anyio_call(thread: Any) -> bool:
    """Whether an anyio worker thread has a call whose result its loop has not got yet.

    anyio has no public list of busy workers, and the count of its default limiter misses calls that bring a limiter of
    their own; so this reads the thread objects. The loop itself lists a worker as idle when it takes the result: the
    thread alone would look busy for a moment longer, and nothing would tell the loop when that moment is over. Nobody
    awaits a worker that is asked to stop.
    """
    return not thread.stopping and thread not in thread.idle_workers and thread.queue.unfinished_tasks > 0


def _busy_threads() -> list[str]:
    """Names of the other threads that might call the loop: all except pool workers without work."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, in spite of its name
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and not _is_idle(thread, frames.get(thread.ident or 0))
    ]


def _is_idle(thread: threading.Thread, frame: FrameType | None) -> bool:
    """Whether this is a worker thread that waits for work; `frame` is the innermost frame of the thread."""
    if _is_anyio_worker(thread):
        return not _has_anyio_call(thread)
    return (
        frame is not None
        and frame.f_code.co_name == "_worker"
        and frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )


def _explain(loop: asyncio.AbstractEventLoop, strangers: list[str]) -> str:
    lines = ["nothing is scheduled and nothing real is awaited: the program waits for ever"]
    if strangers:
        lines.append(f"  threads that gave no sign: {', '.join(strangers)}")
    lines += sorted(f"  {task.get_name()} waits in {_whereabouts(task)}" for task in asyncio.all_tasks(loop))
    lines.append("set what they wait for, or wait for a thread of your own inside 'with loop.real_time():'")
    return "\n".join(lines)


def _whereabouts(task: asyncio.Task[Any]) -> str:
    """Return the chain of coroutines that a task waits in, outermost first."""
    places = []
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        code = frame.f_code
        places.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        coroutine = coroutine.cr_await
    return " > ".join(places) or repr(coroutine)


def run_virtual(main: Coroutine[Any, Any, _Result], *, start: datetime = START) -> _Result:
    """Run a coroutine in virtual time that begins at `start`: the `asyncio.run` of `VirtualTimeLoop`.

    Raises
    ------
    ValueError
        `start` has no time zone.
    VirtualTimeError
        This is not the main thread.
    DeadlockError
        Nothing is scheduled and nothing real is awaited.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start=start)) as runner:
        return runner.run(main)


class _Service(Protocol[_Report_co]):
    """The part of a service that `run_for` uses."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...

    async def stop(self) -> _Report_co: ...


@overload
async def run_for(
    service: None = None,
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    fail_on_error: bool = False,
) -> None: ...


@overload
async def run_for(
    service: _Service[_Result],
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    fail_on_error: bool = False,
) -> RunReport[_Result]: ...


async def run_for(
    service: _Service[Any] | None = None,
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    fail_on_error: bool = False,
) -> Any:
    """Start a service, let virtual time pass for that long, and stop the service. Returns a report of its runs.

    The end is inclusive: a run whose slot is the last instant is started, and drained like the others. Without a
    service only time passes, and the result is `None`. With `fail_on_error`, failures are raised when the service has
    stopped; without it, they are in the report.

    Raises
    ------
    ValueError
        The duration is negative.
    VirtualTimeError
        The running loop is not a `VirtualTimeLoop`.
    ExceptionGroup
        `fail_on_error` is set, and runs failed or timed out.
    """
    loop = _running_loop()
    duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    if duration < 0:
        raise ValueError(f"run_for was asked for {duration} s; time does not run backwards")
    if service is None:
        return await loop.let_pass(duration)
    report = await _report(loop, service, duration)
    if fail_on_error:
        report.raise_failures()
    return report


async def _report(loop: VirtualTimeLoop, service: _Service[_Result], duration: float) -> RunReport[_Result]:
    tally = Tally()
    tally.follow(service)
    async with service:
        await loop.let_pass(duration)
        stopped = await service.stop()
    return tally.report(stopped)


def _running_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise VirtualTimeError(
            f"virtual time needs a VirtualTimeLoop, but this runs on {type(loop).__name__}: use the fixture "
            "'virtual_time' (asyncmgr.testing.plugin) in an async test, or run_virtual(main()) elsewhere"
        )
    return loop


class VirtualTime:
    """The virtual time of one test, as the fixture `virtual_time` gives it."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        """Count `elapsed` from now."""
        self._loop = loop
        self._began = loop.time()

    @property
    def start(self) -> datetime:
        """The instant at which the loop of the test began, in UTC."""
        return self._loop.start

    @property
    def elapsed(self) -> float:
        """Seconds of virtual time since the test began."""
        return self._loop.time() - self._began

    def now(self) -> datetime:
        """Return the virtual instant in UTC, even if a `travel` hides it from `datetime.now()`."""
        return self._loop.now()

    async def advance(self, seconds: float) -> None:
        """Let time pass; what is due at the last instant is started."""
        await self.run_for(seconds=seconds)

    @overload
    async def run_for(
        self,
        service: None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        fail_on_error: bool = False,
    ) -> None: ...

    @overload
    async def run_for(
        self,
        service: _Service[_Result],
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        fail_on_error: bool = False,
    ) -> RunReport[_Result]: ...

    async def run_for(self, service: _Service[Any] | None = None, **options: Any) -> Any:
        """Run a service as `asyncmgr.testing.run_for` does."""
        if _running_loop() is not self._loop:
            raise VirtualTimeError(
                "virtual_time belongs to another loop than the one that runs; give the test and its fixtures "
                "one loop scope (asyncio_default_fixture_loop_scope and asyncio_default_test_loop_scope)"
            )
        return await run_for(service, **options)
