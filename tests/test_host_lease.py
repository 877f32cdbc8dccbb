"""Leases of one machine: one task of all processes holds one, the others wait for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asyncmgr._leases import host_lease as module
from asyncmgr._leases.host_lease import holder_of_lease, host_lease
from asyncmgr._leases.host_lock import HostLock
from asyncmgr._leases.host_locks import HostLocks
from asyncmgr.errors import LockUnavailable


def waiting_threads() -> int:
    return sum(thread.name == "asyncmgr lease" for thread in threading.enumerate())


async def settle() -> None:
    """Until no thread waits for a lock."""
    while waiting_threads():  # noqa: ASYNC110 - a thread tells nobody of its end
        await asyncio.sleep(0.001)


def doors() -> int:
    return len(module._doors.get(asyncio.get_running_loop(), {}))


def file_of(locks: HostLocks, name: str) -> HostLock:
    """The lock as another process has it."""
    return locks.file("lease", name)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


async def test_one_task_holds_it(directory: Path) -> None:
    """The others come in the order in which they asked, and one thread waits for all of them."""
    locks = HostLocks("app", directory)
    order: list[int] = []
    inside = 0

    async def work(number: int) -> None:
        nonlocal inside
        async with host_lease(locks, "index") as lease:
            inside += 1
            assert (inside, lease.lost, lease.fencing_token) == (1, False, None)
            assert waiting_threads() <= 2  # of which one is about to end
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(number) for number in range(100)))
    assert order == list(range(100))
    assert doors() == 0
    await settle()


@pytest.mark.virtual_time
async def test_virtual_time_has_leases_of_its_own() -> None:
    """No file and no thread: tasks of one loop wait for each other, however many services there are."""
    order: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()

    async def work(number: int) -> None:
        async with host_lease(HostLocks("app"), "index"):
            order.append((number, loop.time()))
            await asyncio.sleep(10)

    async with host_lease(HostLocks("other"), "index"):
        await asyncio.gather(*(work(number) for number in range(3)))
    assert order == [(0, 0), (1, 10), (2, 20)]
    assert doors() == 0


async def test_another_process_has_it(directory: Path) -> None:
    """Whoever waits has it soon after the other one gives it up, however it does."""
    locks = HostLocks("app", directory)
    other = file_of(locks, "index")
    assert other.acquire()
    waiting = asyncio.create_task(host_lease(locks, "index").__aenter__())
    await asyncio.sleep(0)
    assert waiting_threads() == 1
    assert not waiting.done()
    other.close()
    async with asyncio.timeout(60):
        lease = await waiting
    assert not lease.lost
    assert holder_of_lease(locks, "index") == f"pid {os.getpid()}"
    assert not other.acquire()
    module._door(locks, "index").leave()
    assert other.acquire()
    other.close()


async def test_who_is_cancelled_while_waiting_leaves_nothing_locked(directory: Path) -> None:
    """The thread waits on, and gives the lock back when it comes; whoever asks meanwhile gets it from that thread."""
    locks = HostLocks("app", directory)
    other = file_of(locks, "index")
    other.acquire()
    for _ in range(5):
        waiting = asyncio.create_task(host_lease(locks, "index").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert waiting_threads() == 1
    other.close()
    async with asyncio.timeout(60):
        await settle()
    await asyncio.sleep(0)
    assert doors() == 0
    assert other.acquire()
    waiting = asyncio.create_task(host_lease(locks, "index").__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    later = asyncio.create_task(host_lease(locks, "index").__aenter__())
    await asyncio.sleep(0)
    other.close()
    async with asyncio.timeout(60):
        await later
    assert not other.acquire()
    module._door(locks, "index").leave()
    await settle()
    other.close()


async def test_who_is_cancelled_as_the_lock_comes_passes_it_on(directory: Path) -> None:
    """It is the next one's."""
    locks = HostLocks("app", directory)
    door = module._door(locks, "index")
    await door.enter()
    first, second = (asyncio.create_task(door.enter()) for _ in range(2))
    await asyncio.sleep(0)
    door._waiting[0].set_result(None)  # as when the lock has come
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(60):
        await second
    door.leave()
    assert doors() == 0
    await settle()


async def test_a_loop_that_closes_leaves_nothing_locked(directory: Path) -> None:
    """The thread that waits for it gives the lock back."""
    locks = HostLocks("app", directory)
    other = file_of(locks, "index")
    other.acquire()

    def run() -> None:
        async def ask() -> None:
            async with asyncio.timeout(0.01), host_lease(HostLocks("app", directory), "index"):
                pass

        with pytest.raises(TimeoutError):
            asyncio.run(ask())

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110 - a thread tells nobody of its end
        await asyncio.sleep(0.001)
    assert waiting_threads() == 1
    other.close()
    await settle()
    assert other.acquire()
    other.close()


async def test_a_lock_that_fails_is_told_to_all_who_wait(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is wrong."""
    locks = HostLocks("app", directory)
    other = file_of(locks, "index")
    other.acquire()
    acquire = HostLock.acquire

    def fail(self: HostLock, *, wait: bool = False) -> bool:
        if wait:
            raise LockUnavailable("no locks here")
        return acquire(self)

    monkeypatch.setattr(HostLock, "acquire", fail)
    waiting = [asyncio.create_task(host_lease(locks, "index").__aenter__()) for _ in range(2)]
    for one in waiting:
        with pytest.raises(LockUnavailable, match="no locks here"):
            await one
    other.close()
    assert doors() == 0


@pytest.mark.skipif(os.name == "nt", reason="locked files cannot be removed there")
async def test_a_lease_whose_file_was_exchanged_is_lost(directory: Path) -> None:
    """Another process may hold it."""
    locks = HostLocks("app", directory)
    other = file_of(locks, "index")
    async with host_lease(locks, "index") as lease:
        assert repr(lease) == "<HostLease index>"
        other.path.unlink()
        assert other.acquire()
        assert lease.lost
    other.close()


HOLDS = """
import sys, time
from pathlib import Path
from asyncmgr._leases.host_lock import HostLock
lock = HostLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.close()
print(time.monotonic_ns(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.real
async def test_who_waits_has_it_at_once(directory: Path) -> None:
    """Within a millisecond, in the best of some tries: nothing looks at intervals."""
    locks = HostLocks("app", directory)
    took: list[float] = []
    for _ in range(20):
        holder = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
            [sys.executable, "-c", HOLDS, str(file_of(locks, "index").path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        waiting = asyncio.create_task(host_lease(locks, "index").__aenter__())
        await asyncio.sleep(0.05)  # until the thread is in `flock`
        holder.stdin.write("\n")
        holder.stdin.flush()
        await waiting
        at = time.monotonic_ns()
        took.append((at - int(await asyncio.to_thread(holder.stdout.readline))) / 1e6)
        module._door(locks, "index").leave()
        holder.communicate("\n")
        if min(took) < 1:
            break
    assert min(took) < 1, took
