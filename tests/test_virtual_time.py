"""The loop on which time jumps: what jumps, what does not, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
import time_machine

from asyncmgr import Manager, RunContext, Service, periodic_task
from asyncmgr._common.clock import LoopClock, MovesWall
from asyncmgr.events import RunFinished
from asyncmgr.testing import (
    DeadlockError,
    VirtualTime,
    VirtualTimeError,
    VirtualTimeLoop,
    run_for,
    run_virtual,
)
from asyncmgr.testing import _virtual as virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

START = datetime(2024, 1, 1, tzinfo=UTC)
FROZEN = datetime(2000, 2, 29, 12, tzinfo=UTC)
HOUR = 3600.0
REAL = 0.02  # seconds that the real waits of these tests last

posix = pytest.mark.skipif(sys.platform == "win32", reason="asyncio's selector loop lacks it on Windows")


@pytest.fixture(autouse=True)
def _wall_given_back() -> Iterator[None]:
    """No test of this file leaves the wall clock moved."""
    yield
    assert not time_machine.escape_hatch.is_travelling()


@contextlib.contextmanager
def takes_less_than(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer in real time."""
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < seconds


async def virtual_seconds(waiting: Awaitable[object]) -> float:
    """Return how much virtual time passes while something is awaited."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await waiting
    return loop.time() - began


async def beside_a_timer(waiting: Awaitable[object]) -> float:
    """Return the same, with a timer pending to which an idle loop would jump."""
    timer = asyncio.create_task(asyncio.sleep(HOUR))
    try:
        return await virtual_seconds(waiting)
    finally:
        timer.cancel()


def is_real(seconds: float) -> bool:
    """Whether a short wait took no more than its real time; a jump to the pending timer takes an hour."""
    return seconds < HOUR / 2


# --- what jumps


def test_a_sleep_jumps() -> None:
    """A day of sleep takes no real time, and the loop's time has moved by exactly a day."""
    with takes_less_than(1):
        assert run_virtual(virtual_seconds(asyncio.sleep(86_400))) == 86_400


def test_wall_clock_moves_along() -> None:
    """Every reading of the wall clock shows the start plus the loop's time."""

    async def main() -> None:
        for elapsed in (0.0, 0.1, 0.3, HOUR, 3 * 86_400.0):
            await asyncio.sleep(elapsed - asyncio.get_running_loop().time())
            now = START + timedelta(seconds=elapsed)
            assert datetime.now(UTC) == now
            assert time.time() == now.timestamp()
            assert time.time_ns() == int(now.timestamp()) * 10**9 + now.microsecond * 1000

    run_virtual(main(), start=START)


def test_monotonic_clocks_stay_real() -> None:
    """`time.monotonic` and `time.perf_counter` do not jump."""

    async def main() -> None:
        clocks: list[Callable[[], float]] = [time.monotonic, time.perf_counter]
        before = [clock() for clock in clocks]
        await asyncio.sleep(86_400)
        assert all(clock() - then < 60 for clock, then in zip(clocks, before, strict=True))

    run_virtual(main())


def test_timeouts_expire_in_virtual_time() -> None:
    """Timeouts of asyncio and anyio are timers like any other."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 600)
        with anyio.move_on_after(600):
            await anyio.sleep_forever()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 1200


def test_order_of_timers_is_kept() -> None:
    """Timers fire at their own instants, in order, whoever set them."""
    fired: list[tuple[str, float]] = []

    async def wait(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        fired.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(wait("c", 3), wait("a", 1), wait("b", 1.5), wait("d", 86_400))

    run_virtual(main())
    assert fired == [("a", 1), ("b", 1.5), ("c", 3), ("d", 86_400)]


def test_no_drift_over_a_year() -> None:
    """After a year of uneven steps the wall clock, the loop's time and the sum of the steps are equal."""
    step = timedelta(hours=1, seconds=7, microseconds=123_457)
    count = timedelta(days=366) // step

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for done in range(1, count + 1):
            await asyncio.sleep(step.total_seconds())
            assert datetime.now(UTC) == START + done * step
            assert abs(loop.time() - (done * step).total_seconds()) < 1e-7

    run_virtual(main(), start=START)


def test_short_steps_do_not_drift_late_in_a_simulation() -> None:
    """Tenths of a second add up exactly even where a float of seconds has little room for them."""

    async def main() -> None:
        await asyncio.sleep(3000 * 86_400)
        began = datetime.now(UTC)
        for _ in range(1000):
            await asyncio.sleep(0.1)
        assert datetime.now(UTC) - began == timedelta(seconds=100)

    run_virtual(main())


def test_a_century_passes() -> None:
    """Timers are still found due after a hundred years, a day at a time."""

    async def main() -> None:
        await asyncio.sleep(100 * 365 * 86_400 + 0.000_001)
        for _ in range(100):
            await asyncio.sleep(0.000_3)

    run_virtual(main())


@pytest.mark.parametrize("delay", [1e-6, 4e-7, 1e-9])
def test_the_shortest_sleep_lets_time_pass(delay: float) -> None:
    """Polling with a tiny sleep reaches its deadline, a microsecond at a time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < 0.001:  # noqa: ASYNC110 - polling is the point
            await asyncio.sleep(delay)

    run_virtual(main())


def test_uuids_carry_virtual_time() -> None:
    """Time-based UUIDs are made from the virtual wall clock."""

    async def main() -> uuid.UUID:
        await asyncio.sleep(HOUR)
        return uuid.uuid1()

    since_1582 = timedelta(microseconds=run_virtual(main(), start=START).time // 10)
    assert datetime(1582, 10, 15, tzinfo=UTC) + since_1582 == START + timedelta(hours=1)


def test_a_day_of_seconds_is_fast() -> None:
    """86,400 steps take seconds, not minutes (measured: about one; the limit is for slow machines)."""

    async def main() -> None:
        asyncio.get_running_loop().set_debug(False)  # which records a traceback for every timer
        for _ in range(86_400):
            await asyncio.sleep(1)

    with takes_less_than(20):
        run_virtual(main())


# --- the start


def test_start_is_any_aware_instant() -> None:
    """The start may carry any zone and microseconds; the machine's own zone stays as it is."""
    start = datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=1)))
    zone = time.tzname, os.environ.get("TZ")

    async def main() -> tuple[datetime, datetime]:
        assert (time.tzname, os.environ.get("TZ")) == zone
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return loop.start, datetime.now(UTC)

    assert run_virtual(main(), start=start) == (start, start)


def test_naive_start_is_refused() -> None:
    """A start without a time zone names no instant."""
    with pytest.raises(ValueError, match="has no time zone"):
        VirtualTimeLoop(start=datetime(2024, 1, 1))


# --- a test's own travel


def test_a_travel_is_told_to_those_who_follow_the_wall() -> None:
    """Wall and loop move together unless a `travel` shows another wall; its begin and end are told (51)."""
    told: list[tuple[float, bool]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        assert isinstance(loop, MovesWall)
        remove = loop.add_wall_listener(lambda: told.append((loop.time(), loop.moves_wall)))
        await asyncio.sleep(HOUR)
        assert told == []
        with time_machine.travel(FROZEN, tick=False):
            assert not loop.moves_wall
            await asyncio.sleep(HOUR)
        await asyncio.sleep(HOUR)
        assert told == [(HOUR, False), (2 * HOUR, True)]
        remove()
        remove()
        with time_machine.travel(FROZEN, tick=False):
            await asyncio.sleep(HOUR)
        assert len(told) == 2

    run_virtual(main(), start=START)


def test_the_clock_looks_seldom_where_nothing_can_step_the_wall() -> None:
    """A scheduler's clock asks for a look each nine seconds only where the wall may be stepped unseen (51)."""

    async def main() -> None:
        looks: list[float] = []
        loop = asyncio.get_running_loop()
        clock = LoopClock(loop)
        unfollow = clock.follow(lambda: looks.append(loop.time()))
        assert clock.check == LoopClock.SELDOM
        await asyncio.sleep(HOUR)
        with time_machine.travel(FROZEN, tick=False):
            await asyncio.sleep(1)
            assert (looks, clock.check) == ([HOUR], LoopClock.CHECK)
            step = clock.notice_steps()
            assert step is not None
            assert step.kind == "back"
        unfollow()

    run_virtual(main(), start=START)
    with asyncio.Runner() as runner:
        clock = LoopClock(runner.get_loop())
        assert clock.check == LoopClock.CHECK
        clock.follow(pytest.fail)()


def test_idle_days_cost_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 400 days of a nightly task, whose service nobody watches, time stops a few times a day (51)."""
    waits = 0
    wait = VirtualTimeLoop._wait

    def count(loop: VirtualTimeLoop, timeout: float | None) -> Any:
        nonlocal waits
        waits += 1
        return wait(loop, timeout)

    monkeypatch.setattr(VirtualTimeLoop, "_wait", count)

    class Nightly(Manager):
        runs = 0

        @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
        async def run(self, context: Any) -> None:
            self.runs += 1

    nightly = Nightly()
    run_virtual(run_for(Service(nightly), days=400), start=START)
    assert nightly.runs == 400
    assert waits < 5 * 400


def test_own_travel_hides_the_virtual_wall() -> None:
    """Inside the test's `travel` the wall is the test's; afterwards it is the loop's again, up to date."""

    async def main() -> None:
        with time_machine.travel(FROZEN, tick=False) as traveller:
            await asyncio.sleep(HOUR)
            assert datetime.now(UTC) == FROZEN
            traveller.shift(60)
            assert datetime.now(UTC) == FROZEN + timedelta(minutes=1)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualTimeLoop)
            assert loop.now() == START + timedelta(hours=1)
        assert datetime.now(UTC) == START + timedelta(hours=1)

    run_virtual(main(), start=START)


def test_loop_inside_a_travel() -> None:
    """A loop that runs inside a `travel` shows its own time, and the `travel` is untouched afterwards."""
    with time_machine.travel(FROZEN, tick=False):
        run_virtual(asyncio.sleep(HOUR))
        assert datetime.now(UTC) == FROZEN


def test_travel_may_outlive_the_loop() -> None:
    """A `travel` from inside the loop may end after the loop was closed, and nothing is left."""
    travel = time_machine.travel(FROZEN, tick=False)
    zone = os.environ.get("TZ")

    async def main() -> None:
        travel.start()

    run_virtual(main())
    assert datetime.now(UTC) == FROZEN
    travel.stop()
    assert os.environ.get("TZ") == zone


def test_wall_is_held_between_the_runs_of_a_loop() -> None:
    """Plain code between two runs of one loop sees the loop's wall clock, which stands still."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start=START)) as runner:
        runner.run(asyncio.sleep(HOUR))
        assert datetime.now(UTC) == START + timedelta(hours=1)
        runner.run(asyncio.sleep(HOUR))
        assert datetime.now(UTC) == START + timedelta(hours=2)


# --- what does not jump


def test_executor_call_takes_real_time() -> None:
    """While a call in an executor runs, time passes at its real speed and a timer far ahead stays there."""
    assert is_real(run_virtual(beside_a_timer(asyncio.to_thread(time.sleep, REAL))))


def test_own_executor_takes_real_time() -> None:
    """An executor of the test's own counts like the default one."""

    async def main() -> float:
        with ThreadPoolExecutor(1) as pool:
            call = asyncio.get_running_loop().run_in_executor(pool, time.sleep, REAL)
            return await beside_a_timer(call)

    assert is_real(run_virtual(main()))


def test_short_timer_fires_during_an_executor_call() -> None:
    """A timer that is nearer than the end of the call fires at its exact virtual instant."""

    async def main() -> float:
        done = threading.Event()
        call = asyncio.create_task(asyncio.to_thread(done.wait))
        took = await virtual_seconds(asyncio.sleep(0.005))
        done.set()
        await call
        return took

    assert run_virtual(main()) == 0.005


def test_wall_passes_with_real_waits() -> None:
    """The wall clock and the loop's time stay equal over real waits too."""

    async def main() -> None:
        await asyncio.to_thread(time.sleep, REAL)
        await asyncio.sleep(HOUR)
        elapsed = timedelta(seconds=asyncio.get_running_loop().time())
        assert datetime.now(UTC) - START == elapsed

    run_virtual(main(), start=START)


def test_jumps_again_after_an_executor_call() -> None:
    """A finished call, and the idle worker thread that it leaves, hold nothing up."""

    async def main() -> float:
        await asyncio.to_thread(int)
        return await virtual_seconds(asyncio.sleep(HOUR))

    with takes_less_than(10):
        assert run_virtual(main()) == pytest.approx(HOUR)


def test_abandoned_executor_call_does_not_hold_time_up() -> None:
    """A call that nobody awaits any more lets time jump, although its thread still works."""

    async def main() -> float:
        done = threading.Event()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(done.wait), 0.005)
        took = await virtual_seconds(asyncio.sleep(HOUR))
        done.set()
        return took

    with takes_less_than(10):
        assert run_virtual(main()) == pytest.approx(HOUR)


def test_closing_waits_for_executor_threads_in_real_time() -> None:
    """The end of the loop waits for its worker threads, and its own timeout does not jump to its end."""
    began, done = threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> None:
        began.set()
        done.wait()
        time.sleep(REAL)
        finished.append(True)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(None, work)
        await loop.run_in_executor(None, began.wait)
        call.cancel()
        done.set()

    run_virtual(main())
    assert finished == [True]


@pytest.mark.parametrize("limiter", [None, 1])
def test_anyio_thread_takes_real_time(limiter: int | None) -> None:
    """A call by `anyio.to_thread` counts like one in an executor, whichever limiter it uses."""

    async def main() -> float:
        own = None if limiter is None else anyio.CapacityLimiter(limiter)
        return await beside_a_timer(anyio.to_thread.run_sync(time.sleep, REAL, limiter=own))

    assert is_real(run_virtual(main()))


def test_jumps_again_after_an_anyio_thread() -> None:
    """The idle worker thread that anyio keeps, or retires, holds nothing up."""

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(anyio.to_thread.run_sync, time.sleep, 0.001)
        for _ in range(3):
            assert await virtual_seconds(asyncio.sleep(HOUR)) == pytest.approx(HOUR)
            await anyio.to_thread.run_sync(int)

    with takes_less_than(10):
        run_virtual(main())


def test_anyio_thread_that_lingers_after_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the loop has a result, time jumps even if the thread has not gone idle yet: nobody would tell it."""
    task_done = queue.Queue.task_done

    def linger(self: queue.Queue[Any]) -> None:
        time.sleep(REAL)
        task_done(self)

    async def main() -> float:
        await anyio.to_thread.run_sync(int)
        return await virtual_seconds(asyncio.sleep(HOUR))

    monkeypatch.setattr(queue.Queue, "task_done", linger)
    with takes_less_than(10):
        assert run_virtual(main()) == pytest.approx(HOUR)


@posix
@pytest.mark.parametrize("pipes", [{}, {"stdout": subprocess.PIPE}], ids=["plain", "pipes"])
def test_subprocess_takes_real_time(pipes: dict[str, Any]) -> None:
    """From its start to its exit a subprocess is waited for in real time, with and without pipes.

    Without pipes Python 3.11 waits in a thread, later versions on a descriptor of the process.
    """

    async def main() -> float:
        process = await asyncio.create_subprocess_exec("sleep", str(REAL), **pipes)
        took = await beside_a_timer(process.communicate())
        assert process.returncode == 0
        assert await virtual_seconds(asyncio.sleep(HOUR)) == pytest.approx(HOUR)
        return took

    assert is_real(run_virtual(main()))


@posix
def test_shell_takes_real_time() -> None:
    """A subprocess by way of the shell counts like any other."""

    async def main() -> float:
        process = await asyncio.create_subprocess_shell(f"exec sleep {REAL}")
        return await beside_a_timer(process.wait())

    assert is_real(run_virtual(main()))


@contextlib.contextmanager
def answered_later() -> Iterator[socket.socket]:
    """Give one end of a pair of sockets, to which a thread writes after a real while."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    thread = threading.Timer(REAL, theirs.sendall, [b"x"])
    thread.start()
    with ours, theirs:
        yield ours
        thread.join()


def test_foreign_socket_takes_real_time() -> None:
    """While the loop watches a socket, time passes at its real speed."""

    async def main() -> float:
        with answered_later() as ours:
            return await beside_a_timer(asyncio.get_running_loop().sock_recv(ours, 1))

    assert is_real(run_virtual(main()))


def test_open_connection_takes_real_time() -> None:
    """A stream counts for as long as it is open, and no longer."""

    async def main() -> float:
        with answered_later() as ours:
            reader, writer = await asyncio.open_connection(sock=ours)
            took = await beside_a_timer(reader.readexactly(1))
            writer.close()
            await writer.wait_closed()
        assert await virtual_seconds(asyncio.sleep(HOUR)) == pytest.approx(HOUR)
        return took

    assert is_real(run_virtual(main()))


def test_reader_takes_real_time() -> None:
    """A callback of `add_reader` counts from its registration to its removal."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        with answered_later() as ours:
            readable = asyncio.Event()
            loop.add_reader(ours, readable.set)
            took = await beside_a_timer(readable.wait())
            loop.remove_reader(ours)
        assert await virtual_seconds(asyncio.sleep(HOUR)) == pytest.approx(HOUR)
        return took

    assert is_real(run_virtual(main()))


def test_own_thread_takes_real_time_on_request() -> None:
    """For a thread that the loop cannot see, `real_time()` keeps time from jumping."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with ThreadPoolExecutor(1) as pool, loop.real_time():
            return await beside_a_timer(asyncio.wrap_future(pool.submit(time.sleep, REAL)))

    assert is_real(run_virtual(main()))


def test_wake_up_by_a_thread_is_noticed_while_time_jumps() -> None:
    """A thread may call the loop at any time: jumping never starves it."""

    async def main() -> None:
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Timer(REAL, loop.call_soon_threadsafe, [called.set])
        thread.start()
        while not called.is_set():  # noqa: ASYNC110 - jumping is the point
            await asyncio.sleep(60)
        thread.join()

    run_virtual(main())


@posix
def test_signal_is_handled_before_time_jumps() -> None:
    """What has come in already is handled at its own instant, not after the next jump."""
    handled: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: handled.append(loop.time()))
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(HOUR)

    run_virtual(main())
    assert handled == [0.0]


# --- a program that waits for ever


def test_deadlock_is_an_error() -> None:
    """With nothing scheduled and nothing real awaited the loop raises, and tells who waits where."""

    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(wait_for_nobody(), name="the-one")

    with pytest.raises(DeadlockError) as caught:
        run_virtual(main())
    text = str(caught.value)
    assert "nothing is scheduled and nothing real is awaited: the program waits for ever" in text
    assert "the-one waits in " in text
    assert "wait_for_nobody (test_virtual_time.py:" in text


def test_deadlock_is_found_beside_idle_workers() -> None:
    """Pool threads without work cannot end a deadlock and do not delay its report."""

    async def main() -> None:
        await asyncio.to_thread(int)
        await anyio.to_thread.run_sync(int)
        await asyncio.Event().wait()

    with takes_less_than(VirtualTimeLoop.patience / 2), pytest.raises(DeadlockError):
        run_virtual(main())


def test_unknown_thread_may_end_the_wait() -> None:
    """With nothing scheduled, a thread of the test's own is waited for, in real time."""

    async def main() -> float:
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Timer(REAL, loop.call_soon_threadsafe, [called.set])
        thread.start()
        took = await virtual_seconds(called.wait())
        thread.join()
        return took

    assert is_real(run_virtual(main()))


def test_plain_futures_of_a_pool_are_waited_for() -> None:
    """`wrap_future` of work just given to an idle pool is no deadlock."""

    async def main() -> float:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
            return await virtual_seconds(asyncio.wrap_future(pool.submit(time.sleep, 5 * REAL)))

    assert is_real(run_virtual(main()))


def test_a_thread_that_calls_right_before_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call is heard, though nobody is found busy a moment later."""

    async def main() -> None:
        called, loop = asyncio.Event(), asyncio.get_running_loop()

        def call_and_be_idle() -> list[str]:
            loop.call_soon_threadsafe(called.set)
            return []

        monkeypatch.setattr(virtual, "_busy_threads", call_and_be_idle)
        await called.wait()

    run_virtual(main())


def test_patience_with_unknown_threads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never calls back is named in the error once patience is exhausted."""
    monkeypatch.setattr(VirtualTimeLoop, "patience", REAL)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="the-silent-one")
    thread.start()
    try:
        with pytest.raises(DeadlockError, match="gave no sign: the-silent-one"):
            run_virtual(asyncio.wait_for(asyncio.Event().wait(), None))
    finally:
        done.set()
        thread.join()


@posix
def test_signal_handlers_may_end_the_wait() -> None:
    """With a signal handler in place the loop waits for the signal, as long as it takes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        loop.add_signal_handler(signal.SIGALRM, called.set)
        signal.setitimer(signal.ITIMER_REAL, 0.1)  # longer than the loop takes to find a deadlock
        await called.wait()

    try:
        run_virtual(main())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_loop_can_be_used_after_a_deadlock() -> None:
    """A deadlock ends one run of the loop; the next one works, and tasks can be cancelled."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        with pytest.raises(DeadlockError):
            runner.run(asyncio.wait_for(asyncio.Event().wait(), None))
        assert runner.run(virtual_seconds(asyncio.sleep(HOUR))) == pytest.approx(HOUR)


# --- what it leaves behind


def test_wall_is_given_back_after_an_error() -> None:
    """An exception out of the program gives the wall clock back like a normal end."""

    async def main() -> None:
        await asyncio.sleep(HOUR)
        raise LookupError

    with pytest.raises(LookupError):
        run_virtual(main())
    assert not time_machine.escape_hatch.is_travelling()


def test_loop_that_never_ran_takes_nothing() -> None:
    """Making and closing a loop touches no clock."""
    loop = VirtualTimeLoop()
    assert not time_machine.escape_hatch.is_travelling()
    loop.close()
    loop.close()


def test_closed_loop_takes_nothing() -> None:
    """Running a closed loop fails as in asyncio and leaves the wall clock alone."""
    loop = VirtualTimeLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()


def test_two_loops_one_after_the_other() -> None:
    """Each loop begins at its own start and at time zero."""

    async def main() -> tuple[datetime, float]:
        await asyncio.sleep(HOUR)
        return datetime.now(UTC), asyncio.get_running_loop().time()

    later = START + timedelta(days=400)
    assert run_virtual(main(), start=later) == (later + timedelta(hours=1), HOUR)
    assert run_virtual(main(), start=START) == (START + timedelta(hours=1), HOUR)


def test_loops_take_turns() -> None:
    """Of several loops alive the one that runs has the wall clock, whatever the order of their runs and ends."""
    a, b, c = (VirtualTimeLoop(start=START + timedelta(days=days)) for days in (0, 10, 20))
    for loop in (a, b, c, a, c, b, a):
        loop.run_until_complete(asyncio.sleep(HOUR, loop))
        assert datetime.now(UTC) == loop.now() == loop.start + timedelta(seconds=loop.time())
    for loop in (c, a, b):
        loop.close()


def test_threads_are_refused() -> None:
    """A loop in another thread would move everybody's wall clock: refused when made, and when run."""
    loop = VirtualTimeLoop()
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(VirtualTimeError, match="main thread only"):
            pool.submit(VirtualTimeLoop).result()
        with pytest.raises(VirtualTimeError, match="main thread only"):
            pool.submit(loop.run_forever).result()
    loop.close()


def test_ordinary_loops_stay_ordinary() -> None:
    """After a virtual loop an ordinary one waits for real, under the real wall clock."""
    run_virtual(asyncio.sleep(HOUR))
    began = time.perf_counter()
    asyncio.run(asyncio.sleep(REAL))
    assert time.perf_counter() - began > REAL / 2
    assert datetime.now(UTC) > datetime(2025, 1, 1, tzinfo=UTC)


def test_missing_time_machine_names_the_extra() -> None:
    """Without time-machine the import fails with the command that installs it."""
    code = "import sys; sys.modules['time_machine'] = None; from asyncmgr.testing import VirtualTime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: asyncmgr.testing needs time-machine" in done.stderr
    assert "asyncmgr[testing]" in done.stderr


# --- run_for


class _Ticker:
    """Stands for a service: something that ticks every hour and counts, from its start to its stop."""

    def __init__(self) -> None:
        self.ticks: list[datetime] = []
        self.stops = 0
        self.left_by: type[BaseException] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Ticker:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.left_by = kind
        await self.stop()

    async def stop(self) -> str:
        assert self._task is not None
        self.stops += 1
        self._task.cancel()
        await asyncio.wait([self._task])
        return "stopped"

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(HOUR)
            self.ticks.append(datetime.now(UTC))


def test_run_for_runs_a_service_for_a_while() -> None:
    """The service starts, lives that long, the last instant included, and stops; its report is returned."""
    ticker = _Ticker()

    async def main() -> tuple[str, float]:
        report = await run_for(ticker, hours=24)
        return report.stop, asyncio.get_running_loop().time()

    assert run_virtual(main(), start=START) == ("stopped", 86_400.0)
    assert ticker.ticks == [START + timedelta(hours=n) for n in range(1, 25)]


class Shaky(Manager):
    """Fails, is late, or goes well."""

    @periodic_task(spacing=3600)
    async def fail(self, context: RunContext) -> None:
        raise ValueError("no such row")

    @periodic_task(spacing=7200, timeout=5)
    async def hang(self, context: RunContext) -> None:
        await asyncio.sleep(60)

    @periodic_task(spacing=3600)
    async def work(self, context: RunContext) -> None: ...

    @periodic_task(spacing=3600)
    async def slow(self, context: RunContext) -> None:
        await asyncio.sleep(3601)


def test_the_report_says_what_became_of_the_runs() -> None:
    """Failures are in it one by one, with their task, slot and error; refused slots are counted (52)."""
    report = run_virtual(run_for(Service(Shaky()), hours=4, seconds=10), start=START)
    assert [(failure.task, type(failure.error)) for failure in report.failures] == [
        ("Shaky.fail", ValueError),
        ("Shaky.fail", ValueError),
        ("Shaky.hang", TimeoutError),
        ("Shaky.fail", ValueError),
        ("Shaky.fail", ValueError),
        ("Shaky.hang", TimeoutError),
    ]
    first = report.failures[0]
    assert isinstance(first, RunFinished)
    assert first.slot == START + timedelta(hours=1)
    assert (report.failed, report.skipped, report.missed) == (6, 2, 0)
    assert report.runs == 12
    assert report.stop.leaked == ()
    with pytest.raises(ExceptionGroup, match=r"6 of 12 runs failed:\n  Shaky.fail at 2024-01-01T01:00:00"):
        report.raise_failures()


def test_run_for_can_fail_on_failures() -> None:
    """With `fail_on_error` a test fails by what its tasks raised; without failures it does not (52)."""
    with pytest.raises(ExceptionGroup) as caught:
        run_virtual(run_for(Service(Shaky()), hours=1, fail_on_error=True), start=START)
    (error,) = caught.value.exceptions
    assert str(error) == "no such row"
    assert run_virtual(run_for(Service(Shaky()), hours=0.5, fail_on_error=True)).failures == ()


def test_a_report_keeps_so_many_failures() -> None:
    """A year of failures does not fill the memory; all are counted (52)."""
    report = run_virtual(run_for(Service(Shaky()), hours=150))
    assert (len(report.failures), report.failed) == (100, 150 + 75)
    with pytest.raises(ExceptionGroup, match="and 125 more"):
        report.raise_failures()


@pytest.mark.parametrize("order", ["before", "after"])
def test_end_is_inclusive_whoever_set_the_timer_first(order: str) -> None:
    """What is due at the last instant, and what follows at once, has happened when `run_for` returns."""
    seen: list[float] = []

    async def wait() -> None:
        await asyncio.sleep(60)
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop().time())

    async def main() -> None:
        passing = [run_for(seconds=60)]
        coroutines = [wait(), *passing] if order == "before" else [*passing, wait()]
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        await tasks[order == "before"]
        assert seen == [60]
        await asyncio.gather(*tasks)

    run_virtual(main())


def test_run_for_adds_its_units() -> None:
    """Days, hours, minutes and seconds add up; without a service nothing but time passes."""

    async def main() -> float:
        await run_for(days=1, hours=1, minutes=1, seconds=1.5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 86_400 + 3600 + 60 + 1.5


def test_run_for_nothing_lets_ready_tasks_run() -> None:
    """A duration of zero runs what is ready now and moves no clock."""

    async def main() -> float:
        task = asyncio.create_task(asyncio.sleep(0))
        await run_for()
        assert task.done()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_run_for_refuses_to_go_back() -> None:
    """Time does not run backwards."""
    with pytest.raises(ValueError, match="backwards"):
        run_virtual(run_for(seconds=-1))


async def test_run_for_needs_a_virtual_loop() -> None:
    """On an ordinary loop the helper says what to use instead of waiting for real."""
    with pytest.raises(VirtualTimeError, match=r"needs a VirtualTimeLoop.*run_virtual"):
        await run_for(hours=1)


def test_error_inside_a_service_leaves_it() -> None:
    """A cancelled `run_for` leaves the service as `async with` does."""
    ticker = _Ticker()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_for(ticker, hours=24), 2.5 * HOUR)

    run_virtual(main())
    assert (len(ticker.ticks), ticker.stops, ticker.left_by) == (2, 1, asyncio.CancelledError)


def test_virtual_time_object_counts_from_its_making() -> None:
    """`elapsed` counts from where the object was made; `now()` from the loop's start."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        await asyncio.sleep(60)
        virtual_time = VirtualTime(loop)
        await virtual_time.advance(30)
        assert virtual_time.elapsed == 30
        assert virtual_time.start == START
        assert virtual_time.now() == START + timedelta(seconds=90)
        assert (await virtual_time.run_for(_Ticker(), hours=1)).stop == "stopped"

    run_virtual(main(), start=START)


def test_async_generators_are_finalised_in_virtual_time() -> None:
    """An async generator that sleeps while it is closed at the end of the run does not wait for real."""
    closed: list[float] = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(HOUR)
            closed.append(asyncio.get_running_loop().time())

    generators = []

    async def main() -> None:
        generators.append(endless())
        await anext(generators[0])

    with takes_less_than(10):
        run_virtual(main())
    assert closed == [HOUR]
