"""Mixes of tasks of which one blocks the event loop, beside others that work a little: nobody else may be blamed.

``python -m tests.mixes FIRST COUNT`` plays the mixes of these seeds on one real loop and prints those that went wrong.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

from asyncmgr import Manager, RunContext, Service, Settings
from asyncmgr.events import Event, LoopBlocked

THRESHOLD = 0.1
TASKS = 6


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100))


class Mixed(Manager):
    """Tasks that are told by a mix what to do, and where in their runs."""

    def __init__(self) -> None:
        super().__init__()
        self.does: dict[str, tuple[str, str, float]] = {}
        for number in range(TASKS):
            self.add_periodic_task(self._run, name=f"t{number}", spacing=3600)

    async def _run(self, context: RunContext) -> None:
        where, how, seconds = self.does[context.task]
        work = time.sleep if how == "sleep" else compute
        loop = asyncio.get_running_loop()
        if where == "waited":
            await asyncio.sleep(0.005)
        if where == "child":
            await asyncio.create_task(self._child(work, seconds))
        elif where == "callback":
            loop.call_soon(work, seconds)
        elif where == "timer":
            loop.call_later(0.005, work, seconds)
        else:
            work(seconds)

    async def _child(self, work: Any, seconds: float) -> None:
        await asyncio.sleep(0)
        work(seconds)


async def play(first: int, count: int) -> list[str]:
    """Play so many mixes; return what is wrong, one line a mix."""
    manager, wrong = Mixed(), []
    service = Service(manager, settings=Settings(block_threshold=THRESHOLD))
    told: asyncio.Queue[LoopBlocked] = asyncio.Queue()

    def note(event: Event) -> None:
        if isinstance(event, LoopBlocked):
            told.put_nowait(event)

    service.add_listener(note, LoopBlocked)
    async with service:
        for seed in range(first, first + count):
            blames, guilty = await _play_one(service, manager, told, random.Random(seed))
            others = [one for one in blames if one not in (guilty, None)]
            if others or guilty not in blames:
                wrong.append(f"seed {seed}: {guilty} blocked, and {blames} were told")
    return wrong


async def _play_one(
    service: Service, manager: Mixed, told: asyncio.Queue[LoopBlocked], source: random.Random
) -> tuple[list[str | None], str]:
    names = [task.full_name for task in service.tasks]
    guilty = source.choice(names)
    for name in names:
        where = source.choice(["inline", "waited", "child", "callback", "timer"])
        seconds = source.uniform(0.25, 0.4) if name == guilty else source.uniform(0, 0.006)
        manager.does[name] = where, source.choice(["sleep", "compute"]), seconds
    for name in source.sample(names, len(names)):
        await service.task(name).trigger(wait=False)
    blames = [(await asyncio.wait_for(told.get(), 20)).task]
    await asyncio.sleep(0.05)
    while not told.empty():
        blames.append(told.get_nowait().task)
    return blames, guilty


if __name__ == "__main__":
    found = asyncio.run(play(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.write("\n".join(found) or "none went wrong\n")
    sys.exit(bool(found))
