"""A program that blocks its event loop in one way, at four places of a run, and prints what the watch has told of it.

``python -m tests.blocking KIND [uvloop]`` prints one line of JSON a place. With uvloop the loop is watched while runs
are in progress, so the callbacks that a run leaves behind are left out.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr.events import Event, LoopBlocked

THRESHOLD = 0.2
LENGTH = 0.6
PLACES = ("inline", "after_a_wait", "in_a_child", "in_a_callback", "in_a_late_callback")


def sleep() -> None:
    time.sleep(LENGTH)


def compute() -> None:
    until, count = time.monotonic() + LENGTH, 0
    while time.monotonic() < until:
        for _ in range(1000):
            count += 1


def hold() -> None:
    """One call of C code that keeps the interpreter."""
    sum(range(35_000_000))


def release() -> None:
    """One call of C code that lets others have the interpreter."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000)


def collect() -> None:
    until = time.monotonic() + LENGTH
    while time.monotonic() < until:
        gc.collect()


def wait() -> None:
    subprocess.run(["sleep", str(LENGTH)], check=True)


def stop() -> None:
    """Another process stops this one."""
    me = os.getpid()
    subprocess.run(["sh", "-c", f"kill -STOP {me}; sleep {LENGTH}; kill -CONT {me}"], check=True)


KINDS: dict[str, tuple[Callable[[], None], str]] = {
    "sleep": (sleep, "waiting"),
    "compute": (compute, "computing"),
    "hold": (hold, "computing in C"),
    "release": (release, "computing in C"),
    "collect": (collect, "garbage collection"),
    "wait": (wait, "waiting"),
    "stop": (stop, "stopped"),
}


class Blocking(Manager):
    """Each task blocks the loop at another place."""

    block: Callable[[], None]

    @periodic_task(spacing=3600)
    async def inline(self, context: RunContext) -> None:
        self.block()

    @periodic_task(spacing=3600)
    async def after_a_wait(self, context: RunContext) -> None:
        await asyncio.sleep(0.01)
        self.block()

    @periodic_task(spacing=3600)
    async def in_a_child(self, context: RunContext) -> None:
        async def child() -> None:
            await asyncio.sleep(0.01)
            self.block()

        await asyncio.create_task(child())

    @periodic_task(spacing=3600)
    async def in_a_callback(self, context: RunContext) -> None:
        asyncio.get_running_loop().call_soon(self.block)

    @periodic_task(spacing=3600)
    async def in_a_late_callback(self, context: RunContext) -> None:
        asyncio.get_running_loop().call_later(0.02, self.block)


class Ticking(Manager):
    """Comes due while the loop is blocked."""

    @periodic_task(spacing=0.05)
    async def tick(self, context: RunContext) -> None: ...


async def main(kind: str, places: tuple[str, ...] = PLACES) -> None:
    blocking = Blocking()
    blocking.block = KINDS[kind][0]
    heap = [[index] for index in range(1_000_000)] if kind == "collect" else []
    service = Service(blocking, Ticking(), settings=Settings(block_threshold=THRESHOLD), host="h")
    told: asyncio.Queue[LoopBlocked] = asyncio.Queue()

    def note(event: Event) -> None:
        if isinstance(event, LoopBlocked):
            told.put_nowait(event)

    service.add_listener(note, LoopBlocked)
    async with service:
        for place in places:
            await asyncio.sleep(0.05)
            await service.task(f"Blocking.{place}").trigger()
            block = await asyncio.wait_for(told.get(), 20)
            sys.stdout.write(json.dumps({"at": place, **shown(block)}) + "\n")
    del heap


def shown(block: LoopBlocked) -> dict[str, Any]:
    return {
        "task": block.task,
        "run_id": block.run_id,
        "kind": block.kind,
        "where": block.where,
        "seconds": block.seconds,
        "cpu": block.cpu,
        "slots": block.slots,
        "delayed": [slot.task for slot in block.delayed],
    }


if __name__ == "__main__":
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        uvloop.run(main(sys.argv[1], PLACES[:3]))
    else:
        asyncio.run(main(sys.argv[1]))
