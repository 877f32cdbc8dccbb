"""``python -m benchmarks.keys``: what 100,000 keys of one task cost, beside an `asyncio.sleep` loop for each.

Figures: CPU beyond the bodies (as a share of one core), bytes a key beyond the key, seconds to the first full ring, and
the longest turn of the event loop while one key in a hundred changes. Where hosts share the keys out: the seconds until
a host that joins has its half, the longest turn of the loop of both meanwhile, and how evenly ten hosts share. All of
it takes three and a half minutes; each part is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Literal

from asyncmgr import Manager, RunContext, Service, Settings

QUICK = (10_000, 10.0)
FULL = (100_000, 60.0)

WARM = 5.0
"""Seconds before the CPU is measured."""

MEASURED = 30.0
"""Seconds for which it is, at most."""


class Poller(Manager):
    """Counts the runs of its keys; a body does nothing else."""

    def __init__(
        self, keys: list[str], spacing: float, scope: Literal["process", "cluster"] = "process"
    ) -> None:
        super().__init__(settings=Settings())
        self.keys = keys
        self.runs = 0
        self.add_periodic_task(self.poll, name="poll", spacing=spacing, each="keys", scope=scope)

    async def poll(self, context: RunContext, key: str) -> None:
        self.runs += 1


async def with_keys(keys: list[str], spacing: float) -> dict[str, Any]:
    """Measure one task with keys."""
    began = time.perf_counter()
    poller = Poller(keys, spacing)
    async with Service(poller, name="bench", settings=Settings()) as service:
        handle = service.task("Poller.poll")
        await handle.refresh()
        started = time.perf_counter() - began
        share, runs = await _cpu(lambda: poller.runs, spacing)
        longest = await _longest_turn(lambda: _change(poller, handle))
    return {"cpu": share, "seconds_to_start": started, "runs": runs, "longest_turn_of_a_refresh": longest}


async def memory_of_keys(keys: list[str], spacing: float) -> dict[str, Any]:
    """Measure the bytes of a key that has run."""
    tracemalloc.start(1)
    before, poller = _memory(), Poller(keys, spacing)
    async with Service(poller, name="bench", settings=Settings()) as service:
        await service.task("Poller.poll").refresh()
        await asyncio.sleep(spacing + 1)
        return {"bytes_a_key": (_memory() - before) / len(keys), "ran": poller.runs / len(keys)}


async def _cpu(runs: Callable[[], int], spacing: float) -> tuple[float, int]:
    """Return the share of a core that is used for some time, and the number of runs meanwhile."""
    await asyncio.sleep(WARM)
    seconds = min(MEASURED, spacing)
    cpu, before = time.process_time(), runs()
    await asyncio.sleep(seconds)
    done = runs() - before
    return (time.process_time() - cpu - await bodies(done)) / seconds, done


async def with_hosts(keys: list[str], spacing: float) -> dict[str, Any]:
    """Measure how two hosts share out the keys, and then ten. They run nothing meanwhile."""
    async with AsyncExitStack() as stack:
        team = [await _join(stack, keys, 0)]
        await _shared(team, len(keys))
        began = time.perf_counter()
        team.append(await _join(stack, keys, 1))

        async def move() -> None:
            await _shared(team, len(keys))

        longest = await _longest_turn(move)
        moved = time.perf_counter() - began
        team += [await _join(stack, keys, number) for number in range(2, 10)]
        counts = await _shared(team, len(keys))
    return {
        "seconds_to_move_half": moved,
        "longest_turn_of_a_move": longest,
        "max_to_mean_at_10_hosts": max(counts) * len(counts) / sum(counts),
    }


async def _join(stack: AsyncExitStack, keys: list[str], number: int) -> Service:
    poller = Poller(keys, 3600.0, "cluster")
    settings = Settings(transport="memory://keys")
    return await stack.enter_async_context(
        Service(poller, name="bench", host=f"h{number}", transport="memory://keys", settings=settings)
    )


async def _shared(team: list[Service], count: int) -> list[int]:
    """Wait until every host has its share; return the number of keys of each."""
    while True:
        held = [status.known for one in team if (status := one.task("Poller.poll").status.keys) is not None]
        if len(held) == len(team) and sum(held) == count and max(held) < 1.3 * count / len(team):
            return held
        await asyncio.sleep(0.02)


async def _change(poller: Poller, handle: Any) -> None:
    few = len(poller.keys) // 100
    poller.keys = [*poller.keys[few:], *(f"new {number}" for number in range(few))]
    await handle.refresh()


async def _longest_turn(work: Callable[[], Awaitable[None]]) -> float:
    """Return the longest time for which the event loop was kept while `work` goes on, seconds."""
    longest, is_over = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not is_over:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(watch())
    await work()
    is_over = True
    await watching
    return longest


async def with_loops(keys: list[str], spacing: float) -> dict[str, Any]:
    """Measure a hand-written loop for each key."""
    runs = 0

    async def poll(key: str) -> None:
        nonlocal runs
        runs += 1

    async def loop(key: str, phase: float) -> None:
        await asyncio.sleep(phase)
        while True:
            await poll(key)
            await asyncio.sleep(spacing)

    before, began = _memory(), time.perf_counter()
    tasks = [asyncio.create_task(loop(key, number * spacing / len(keys))) for number, key in enumerate(keys)]
    await asyncio.sleep(0)
    started = time.perf_counter() - began
    found: dict[str, Any] = {"seconds_to_start": started}
    if tracemalloc.is_tracing():
        found = {"bytes_a_key": (_memory() - before) / len(keys)}
    else:
        found["cpu"], found["runs"] = await _cpu(lambda: runs, spacing)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def memory_of_loops(keys: list[str], spacing: float) -> dict[str, Any]:
    tracemalloc.start(1)
    return await with_loops(keys, spacing)


async def bodies(runs: int) -> float:
    """Return the CPU seconds that so many bodies take by themselves."""
    poller = Poller([], 1.0)
    began = time.process_time()
    for _ in range(runs):
        await poller.poll(None, "")  # type: ignore[arg-type]
    return time.process_time() - began


def _memory() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0


PARTS: dict[str, Callable[[list[str], float], Coroutine[Any, Any, dict[str, Any]]]] = {
    "keys": with_keys,
    "memory of keys": memory_of_keys,
    "loops": with_loops,
    "memory of loops": memory_of_loops,
    "hosts": with_hosts,
}
"""What is measured, each in a process of its own: tracing memory would cost the others their time."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 keys at 10 s, in under two minutes")
    parser.add_argument("--one", choices=PARTS, metavar="PART", help=f"only one of: {', '.join(PARTS)}")
    options = parser.parse_args()
    count, spacing = QUICK if options.quick else FULL
    if options.one:
        keys = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]
        print(json.dumps(asyncio.run(PARTS[options.one](keys, spacing))))
        return
    print(f"{count} keys at {spacing:g} s; load {os.getloadavg()[0]:.1f}")
    for part in PARTS:
        row = _child(part, quick=options.quick)
        print(f"{part:16}", ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)


def _child(part: str, *, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.keys", "--one", part, *(["--quick"] if quick else [])]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


if __name__ == "__main__":
    main()
