"""``python -m benchmarks.keys``: what 100,000 keys of one task cost, beside an `asyncio.sleep` loop for each.

Figures: CPU beyond the bodies (as a share of one core), bytes a key beyond the key, seconds to the first full ring, and
the longest turn of the event loop while one key in a hundred changes.
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
from collections.abc import Awaitable, Callable
from typing import Any

from asyncmgr import Manager, RunContext, Service, Settings

QUICK = (10_000, 10.0)
FULL = (100_000, 60.0)


class Poller(Manager):
    """Counts the runs of its keys; a body does nothing else."""

    def __init__(self, keys: list[str], spacing: float) -> None:
        super().__init__(settings=Settings())
        self.keys = keys
        self.runs = 0
        self.add_periodic_task(self.poll, name="poll", spacing=spacing, each="keys")

    async def poll(self, context: RunContext, key: str) -> None:
        self.runs += 1


async def with_keys(keys: list[str], spacing: float, seconds: float) -> dict[str, Any]:
    """Measure one task with keys."""
    before, began = _memory(), time.perf_counter()
    poller = Poller(keys, spacing)
    async with Service(poller, name="bench", settings=Settings()) as service:
        handle = service.task("Poller.poll")
        await handle.refresh()
        started = time.perf_counter() - began
        await asyncio.sleep(spacing)  # every key has run once
        used = (_memory() - before) / len(keys)
        cpu, runs = time.process_time(), poller.runs
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu) / seconds
        runs = poller.runs - runs
        longest = await _longest_turn(lambda: _change(poller, handle))
    return {
        "cpu": share,
        "bytes_a_key": used,
        "seconds_to_start": started,
        "runs": runs,
        "longest_turn_of_a_refresh": longest,
    }


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


async def with_loops(keys: list[str], spacing: float, seconds: float) -> dict[str, Any]:
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
    await asyncio.sleep(spacing)
    used = (_memory() - before) / len(keys)
    cpu, runs = time.process_time(), 0
    await asyncio.sleep(seconds)
    share = (time.process_time() - cpu) / seconds
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"cpu": share, "bytes_a_key": used, "seconds_to_start": started, "runs": runs}


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


def _measure(kind: str, count: int, spacing: float, seconds: float, *, memory: bool) -> dict[str, Any]:
    keys = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]
    if memory:
        tracemalloc.start()
    measure = with_keys if kind == "keys" else with_loops
    found = asyncio.run(measure(keys, spacing, seconds))
    found["cpu"] -= asyncio.run(bodies(found["runs"])) / seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 keys at 10 s, in under two minutes")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "MEMORY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    count, spacing = QUICK if options.quick else FULL
    if options.one:
        kind, memory = options.one
        print(json.dumps(_measure(kind, count, spacing, spacing, memory=memory == "1")))
        return
    print(f"{count} keys at {spacing:g} s; load {os.getloadavg()[0]:.1f}")
    for kind in ("keys", "loops"):
        row = _child(kind, "0", quick=options.quick)
        row["bytes_a_key"] = _child(kind, "1", quick=options.quick)["bytes_a_key"]
        print(kind, ", ".join(f"{name} {value:.4g}" for name, value in row.items()))


def _child(kind: str, memory: str, *, quick: bool) -> dict[str, Any]:
    """Measure in a process of its own: memory is traced in another one than CPU."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.keys",
        "--one",
        kind,
        memory,
        *(["--quick"] if quick else []),
    ]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


if __name__ == "__main__":
    main()
