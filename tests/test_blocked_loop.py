"""Blocks of real event loops: who is blamed, what for, and what the watch costs while nothing happens."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._common.clock import to_datetime
from asyncmgr._tasks.watchdog import _watches
from asyncmgr.events import LoopBlocked, RunFinished
from tests import mixes
from tests.blocking import KINDS, PLACES
from tests.helpers import Recorded, task
from tests.lives import logged, logs

__all__ = ["logs"]

WATCH = "asyncmgr watch"


def blocks_of(kind: str, *more: str) -> list[dict[str, Any]]:
    """Run the program that blocks its loop in this way, and read what was told of each block."""
    command = [sys.executable, "-m", "tests.blocking", kind, *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def check(block: dict[str, Any], kind: str, expected: str) -> None:
    assert block["kind"] == expected, block
    if expected == "stopped":  # by somebody else, whatever the loop did just then
        assert (block["task"], block["where"]) == (None, "")
    else:
        assert block["task"] == f"Blocking.{block['at']}"
        assert block["where"].startswith(f"{kind} at blocking.py:")
    assert block["slots"] > 0
    assert block["delayed"] == ["Ticking.tick"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells less of a thread")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_block_is_told(kind: str) -> None:
    """With the run, the line, the kind and the slots, at each place of a run."""
    told = blocks_of(kind)
    assert [block["at"] for block in told] == list(PLACES)
    for block in told:
        check(block, kind, KINDS[kind][1])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells less of a thread")
@pytest.mark.parametrize("kind", ["sleep", "compute", "hold"])
def test_a_loop_without_a_selector_is_watched_while_runs_are_in_progress(kind: str) -> None:
    """By a heartbeat. A Task that a run starts is known by its context, which Python 3.11 does not show."""
    pytest.importorskip("uvloop")
    for block in blocks_of(kind, "uvloop"):
        if block["at"] != "in_a_child" or sys.version_info >= (3, 12):
            check(block, kind, KINDS[kind][1])


async def test_nobody_else_is_blamed() -> None:
    """In mixes of six tasks of which one blocks; `nox -s mixes` plays ten times as many."""
    assert await mixes.play(0, 20) == []


def blocks_told(recorded: Recorded) -> asyncio.Queue[Any]:
    """The blocks that are told to a listener, as they come."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    recorded.service.add_listener(told.put_nowait, LoopBlocked)
    return told


def switches(thread: int) -> int:
    """How often a thread has gone to sleep so far."""
    status = Path(f"/proc/self/task/{thread}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary"))


class Idle(Manager):
    @periodic_task(spacing=3600)
    async def nightly(self, context: RunContext) -> None: ...


def watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == WATCH]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_watch_of_an_idle_loop_sleeps() -> None:
    """Its thread does not wake up in 20 s, also where the service's own timer rings to look at the clock."""
    async with Service(Idle()):
        (thread,) = watching()
        assert thread.native_id is not None
        assert await asyncio.to_thread(slept_meanwhile, thread.native_id) == 0


def slept_meanwhile(thread: int) -> int:
    """How often the thread goes to sleep in 20 s, from when it has done so after a start."""
    time.sleep(2)
    before = switches(thread)
    time.sleep(20)
    return switches(thread) - before


async def test_a_block_is_logged_twice(logs: list[Any]) -> None:
    """Once while it lasts, and once when it is over; of many blocks by one task in one place the 1st, 2nd, 4th."""
    recorded = Recorded(task(_block, name="t", spacing=3600), block_threshold=0.05)
    told = blocks_told(recorded)
    async with recorded.service as service:
        for count in range(1, 4):
            await service.task("M.t").trigger()
            assert (await told.get()).task == "M.t"
            assert len(recorded.of(LoopBlocked)) == count
    blocked, resumed = logged(logs, "loop.blocked"), logged(logs, "loop.resumed")
    assert [(entry["task"], entry["count"]) for entry in blocked] == [("M.t", 1), ("M.t", 2)]
    assert [(entry["task"], entry["count"]) for entry in resumed] == [("M.t", 1), ("M.t", 2)]
    assert blocked[0]["log_level"] == resumed[0]["log_level"] == "warning"
    assert blocked[0]["seconds"] < resumed[0]["seconds"]
    assert len(service.blocks) == 3


async def _block(context: RunContext) -> None:
    time.sleep(0.3)  # noqa: ASYNC251  it is what the tests are about


async def test_a_listener_that_blocks_is_not_the_run() -> None:
    """It is called at the end of a run, and is not the run's code."""
    recorded = Recorded(task(_nothing, name="t", spacing=3600), block_threshold=0.05)
    told = blocks_told(recorded)

    def listen(event: object) -> None:
        time.sleep(0.3)

    recorded.service.add_listener(listen, RunFinished)
    async with recorded.service as service:
        await service.task("M.t").trigger()
        block = await told.get()
    assert (block.task, block.kind) == (None, "waiting")
    assert block.where.startswith("test_a_listener_that_blocks_is_not_the_run.listen at test_blocked_loop.py")


async def test_health_names_who_blocks_the_loop() -> None:
    """While it lasts, for whoever asks from another thread, and for an hour after it. The report is good again."""
    during: list[Any] = []

    async def sync(context: RunContext) -> None:
        assert context.service is not None
        thread = threading.Thread(target=_ask_blocked, args=(service, during))
        thread.start()
        thread.join()

    recorded = Recorded(task(sync, name="sync", spacing=3600), block_threshold=0.05)
    told = blocks_told(recorded)
    async with recorded.service as service:
        assert service.health().blocked is None
        await service.task("M.sync").trigger()
        block = await told.get()
        report = service.health()
    assert report.blocked is not None
    for one in (during[0], report.blocked):
        assert (one.task, one.kind) == ("M.sync", "waiting")
        assert one.where.startswith("test_health_names_who_blocks_the_loop.sync at test_blocked_loop.py:")
    assert during[0].ago is None
    assert report.ok
    assert report.blocked.seconds == pytest.approx(block.seconds, abs=1e-5)
    assert report.blocked.ago is not None


def _ask_blocked(service: Service, during: list[Any]) -> None:
    """Wait until the watch has seen the block that this thread is the cause of."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = service._loop_watch.blockage()
        if found is not None:
            during.append(found)
            return
        time.sleep(0.01)


async def _nothing(context: RunContext) -> None: ...


async def test_a_thread_that_holds_the_interpreter_is_not_the_run() -> None:
    """The run of that moment only waits for the interpreter."""
    recorded = Recorded(task(_spin, name="t", spacing=3600), block_threshold=0.2)
    told = blocks_told(recorded)
    async with recorded.service as service:
        await service.task("M.t").trigger()
        block = await told.get()
    assert (block.task, block.kind, block.where) == (None, "another thread", ""), block


async def _spin(context: RunContext) -> None:
    thread = threading.Thread(target=lambda: sum(range(30_000_000)))
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)  # noqa: ASYNC251  it gives the interpreter away


async def test_services_of_a_loop_share_one_watch() -> None:
    """Both are told of a block, the run of one of them being to blame; the thread ends with the last of them."""
    one = Recorded(task(_block, name="t", spacing=3600), block_threshold=0.1)
    two = Recorded(block_threshold=0.2)
    told = blocks_told(one), blocks_told(two)
    async with two.service:
        async with one.service as service:
            assert len(watching()) == 1
            await service.task("M.t").trigger()
            await asyncio.gather(*(queue.get() for queue in told))
        assert len(watching()) == 1
    assert watching() == []
    assert [block.task for block in two.of(LoopBlocked)] == ["M.t"]


async def test_zero_switches_it_off() -> None:
    """And a reload on and off again."""
    recorded = Recorded(block_threshold=0)
    async with recorded.service as service:
        assert watching() == []
        service._put_in_force(Settings(block_threshold=1))
        assert len(watching()) == 1
        service._put_in_force(Settings(block_threshold=0))
        assert watching() == []


def test_a_loop_that_is_closed_ends_its_watch() -> None:
    """Also where the service was not stopped; the selector is left as it was, and nothing is kept alive."""
    loop = asyncio.new_event_loop()
    selector, service = getattr(loop, "_selector", loop), Service(Idle())
    loop.run_until_complete(service.start())
    assert len(watching()) == 1
    for left in asyncio.all_tasks(loop):
        left.cancel()
    loop.run_until_complete(asyncio.sleep(0.5))
    loop.close()
    assert watching() == []
    assert _watches == {}
    assert "select" not in vars(selector)


def test_a_loop_that_does_not_run_is_not_blocked() -> None:
    """Between two calls of `run_until_complete`."""
    loop = asyncio.new_event_loop()
    recorded = Recorded(block_threshold=0.05)
    loop.run_until_complete(recorded.service.start())
    time.sleep(0.3)
    loop.run_until_complete(asyncio.sleep(0.3))
    loop.run_until_complete(recorded.service.stop())
    loop.close()
    assert recorded.of(LoopBlocked) == []


async def test_runs_are_freed_at_once() -> None:
    """No Task is kept alive by its own context or by the record of its end, nor is it garbage for a collection."""
    seen: list[weakref.ref[Any]] = []

    async def waits(context: RunContext) -> None:
        current = asyncio.current_task()
        assert current is not None
        seen.append(weakref.ref(current))
        await asyncio.sleep(0)

    recorded = Recorded(task(waits, name="t", spacing=3600))
    async with recorded.service as service:
        gc.collect()
        gc.disable()
        try:
            await service.task("M.t").trigger()
            await asyncio.sleep(0.01)
            assert len(recorded.of(RunFinished)) == 1
            assert seen[0]() is None
        finally:
            gc.enable()


FORKING = """
import asyncio, os, threading, time
from asyncmgr import Manager, Service, Settings, periodic_task
from asyncmgr.events import LoopBlocked, RunFinished

class Forks(Manager):
    @periodic_task(spacing=3600)
    async def block(self, context):
        time.sleep(0.3)

async def serve():
    told = asyncio.Queue()
    service = Service(Forks(), settings=Settings(block_threshold=0.05))
    service.add_listener(told.put_nowait, LoopBlocked)
    async with service:
        await service.task("Forks.block").trigger()
        print((await asyncio.wait_for(told.get(), 30)).task, flush=True)

loop = asyncio.new_event_loop()
parent = Service(Forks())
loop.run_until_complete(parent.start())
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    loop.run_until_complete(parent.stop())
    loop.close()
else:
    asyncio.run(serve())
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
def test_a_fork_is_watched_anew() -> None:
    """A child has no thread of its parent: its own service starts one."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "Forks.block\n"), ended.stderr


def test_the_interpreter_ends_with_a_watch() -> None:
    """Without a word, where nobody stops the service or closes the loop."""
    program = FORKING.partition("loop = ")[0] + (
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(Service(Forks()).start())\n"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0
    assert "watch" not in ended.stderr


STUCK = """
import asyncio
from asyncmgr import Manager, Service, Settings, periodic_task
from asyncmgr._tasks import watchdog

watchdog.STUCK = 0.5

class Stuck(Manager):
    @periodic_task(spacing=3600)
    async def hold(self, context):
        sum(range(40_000_000))

async def main():
    service = Service(Stuck())
    service.dump_where_stuck()
    async with service:
        await service.task("Stuck.hold").trigger()

asyncio.run(main())
"""


def test_a_call_that_never_gives_the_interpreter_back_is_dumped() -> None:
    """By Python's own thread, as under ``asyncmgr run``: no other one can run."""
    ended = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "Timeout (0:00:00.5" in ended.stderr
    assert "line 11 in hold" in ended.stderr


async def test_explain_names_who_blocked_the_loop() -> None:
    """The slots that a block delayed are explained by it, and by nobody's guess."""

    async def block(context: RunContext) -> None:
        time.sleep(0.4)  # noqa: ASYNC251 - that is the fault

    async def tick(context: RunContext) -> None: ...

    tasks = task(block, name="block", spacing=3600), task(tick, name="tick", spacing=0.1)
    recorded = Recorded(*tasks, block_threshold=0.1)
    async with recorded.service as service:
        await service.task("M.block").trigger()
        async with asyncio.timeout(60):
            while not recorded.of(LoopBlocked):  # noqa: ASYNC110 - told from another thread
                await asyncio.sleep(0.01)
        (entry,) = [entry for entry in service.journal if entry.kind == "blocked"]
        assert (entry.data["blame"], entry.data["doing"]) == ("M.block", "waiting")
        slots = [to_datetime(record.slot) for record in service.history("M.tick", limit=40)]
        said = [str(service.explain("M.tick", slot)) for slot in slots]
    assert any("M.block blocked the event loop" in text for text in said), said
