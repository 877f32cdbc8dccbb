"""``python -m benchmarks.cluster``: what leases cost, with all hosts in this one process over a real store.

Fifty hosts share a thousand tasks, each once a minute: calls of the store a second and CPU, steady (``--only steady``)
and while all hosts start anew (``restart``). Then how often an idle service wakes up (``idle``), with a task of one
machine and with one of the cluster.

One core does what fifty machines would. So the hosts of the steady part start one after another, and a restart of so
many says how long one core takes for it; ``--hosts 20 --tasks 400`` is less than its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import selectors
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asyncmgr import Manager, RunContext, Service, Settings
from asyncmgr._leases.calls import Calls
from asyncmgr.transports import Watch
from benchmarks.failover import server_of

CALLS: Counter[str] = Counter()


class Size(NamedTuple):
    """How much is measured."""

    hosts: int
    tasks: int
    spacing: float
    settle: float
    """Seconds in which the hosts share the tasks out, at most, before anything is measured."""
    seconds: float


class Counting(selectors.DefaultSelector):
    """Counts how often the event loop waits."""

    waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waits += timeout is None or timeout > 0
        return super().select(timeout)


class Work(Manager):
    """Tasks that only count their runs."""

    name = "M"

    def __init__(self, tasks: int, spacing: float, scope: str) -> None:
        super().__init__()
        self.runs = 0
        for number in range(tasks):
            self.add_periodic_task(self.work, name=f"t{number}", spacing=spacing, scope=scope)

    async def work(self, context: RunContext) -> None:
        self.runs += 1


def count_calls() -> None:
    """Count what leases ask of their store, and what watches bring, of leases and of presence."""
    deliver = Watch.deliver

    def brought(self: Watch, change: Any) -> None:
        CALLS["watched"] += 1
        deliver(self, change)

    Watch.deliver = brought  # type: ignore[method-assign]
    for verb in ("get", "write", "now"):
        asked: Callable[..., Any] = getattr(Calls, verb)

        def counted(
            self: Calls, *words: Any, verb: str = verb, asked: Callable[..., Any] = asked, **options: Any
        ) -> Any:
            CALLS[verb] += 1
            return asked(self, *words, **options)

        setattr(Calls, verb, counted)


def options_of(store: str, url: str) -> dict[str, str]:
    """Options of a service that opens the store by itself, as a process does."""
    return {"transport": url} if store == "nats" else {"store": url, "transport": "memory://"}


class Team:
    """The hosts of one application."""

    def __init__(self, options: dict[str, Any], hosts: int, tasks: int, spacing: float) -> None:
        self.options, self.hosts, self.tasks, self.spacing = options, hosts, tasks, spacing
        self.services: list[Service] = []

    async def start(self) -> None:
        self.services = [self._service(number) for number in range(self.hosts)]
        await asyncio.gather(*(service.start() for service in self.services))

    async def start_in_turn(self) -> None:
        for number in range(self.hosts):
            service = self._service(number)
            await service.start()
            self.services.append(service)
            await asyncio.sleep(0.5)

    async def until_shared(self, within: float) -> None:
        """Wait until each host has about its share."""
        began = time.monotonic()
        while time.monotonic() - began < within:
            shares = self.owned()
            if len(shares) == self.hosts and max(shares.values()) - min(shares.values()) <= 2:
                break
            await asyncio.sleep(2)

    def _service(self, number: int) -> Service:
        work = Work(self.tasks, self.spacing, "cluster")
        settings = Settings(connect="wait")
        return Service(work, name="bench", host=f"h{number}", settings=settings, **self.options)

    async def stop(self) -> None:
        await asyncio.gather(*(service.stop(timeout=5) for service in self.services))

    def owned(self) -> Counter[str]:
        statuses = self.services[0].status()
        return Counter(status.owner for status in statuses if status.owner is not None)

    async def until_owned(self) -> float:
        """Return the seconds until every task has a holder."""
        began = time.monotonic()
        while sum(self.owned().values()) < self.tasks:
            await asyncio.sleep(1)
            if time.monotonic() - began > 120:
                break
        return time.monotonic() - began

    def runs(self) -> int:
        return sum(service.managers[0].runs for service in self.services)  # type: ignore[attr-defined]


class Interval:
    """Calls, runs and CPU from one moment to another."""

    def __init__(self, runs: Callable[[], int]) -> None:
        CALLS.clear()
        self._runs, self._before = runs, runs()
        self._began, self._cpu = time.monotonic(), time.process_time()

    def told(self) -> str:
        took = time.monotonic() - self._began
        cpu = (time.process_time() - self._cpu) / took
        verbs = ", ".join(
            f"{verb} {count / took:.1f}" for verb, count in sorted(CALLS.items()) if verb != "watched"
        )
        runs = (self._runs() - self._before) / took
        calls = (sum(CALLS.values()) - CALLS["watched"]) / took
        return (
            f"{calls:.1f} calls a second ({verbs}), {CALLS['watched'] / took:.0f} changes brought a second, "
            f"{runs:.1f} runs a second, CPU {cpu:.0%} of a core in all"
        )


async def cost(store: str, size: Size, part: str) -> None:
    """Measure one part: ``steady``, or ``restart`` of all hosts at once."""
    with tempfile.TemporaryDirectory() as home, server_of(store, Path(home)) as server:
        team = Team(options_of(store, server.url), size.hosts, size.tasks, size.spacing)
        if part == "steady":
            await team.start_in_turn()
            await team.until_shared(size.settle)
            shares = team.owned().values()
            interval = Interval(team.runs)
            await asyncio.sleep(size.seconds)
            what = f"steady, {size.hosts} hosts with {min(shares)} to {max(shares)} of {size.tasks} tasks"
            say(store, what, interval)
        else:
            interval = Interval(lambda: 0)
            await team.start()
            took = await team.until_owned()
            say(store, f"first start: all {size.tasks} tasks held after {took:.1f} s", interval)
            await team.until_shared(size.settle)
            interval = Interval(lambda: 0)
            await team.stop()
            stopped = time.monotonic()
            say(store, "mass stop", interval)
            interval = Interval(lambda: 0)
            await team.start()
            await team.until_owned()
            say(store, f"mass restart: all held {time.monotonic() - stopped:.1f} s after the stop", interval)
        await team.stop()


def say(store: str, what: str, interval: Interval) -> None:
    print(f"{store}: {what}; {interval.told()} (load {os.getloadavg()[0]:.0f})", flush=True)


async def idle(store: str, scope: str, seconds: float, selector: Counting) -> None:
    """Count how often the loop of a service wakes that has one task, due much later."""
    with tempfile.TemporaryDirectory() as home, server_of(store, Path(home)) as server:
        options: dict[str, Any] = options_of(store, server.url)
        async with Service(Work(1, 3600, scope), name="idle", **options):
            await asyncio.sleep(3)
            waits, began, cpu = selector.waits, time.monotonic(), time.process_time()
            await asyncio.sleep(seconds)
            took, count = time.monotonic() - began, selector.waits - waits
            share = (time.process_time() - cpu) / took
            print(
                f'{store}: an idle service with scope="{scope}" wakes {count / took:.2f} times a second, '
                f"CPU {share:.2%} of a core",
                flush=True,
            )


PARTS = ("steady", "restart", "idle")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 hosts, 100 tasks, 10 s")
    parser.add_argument("--stores", default="nats,postgresql")
    parser.add_argument("--only", choices=PARTS, help="this part; for one store it takes less than 4 minutes")
    parser.add_argument("--seconds", type=float, help="length of the steady part")
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    count_calls()
    gc.disable()  # one process holds what fifty do elsewhere: to collect it would stop all of them for seconds
    size = (
        Size(10, 100, 60, 20, options.seconds or 10)
        if options.quick
        else Size(options.hosts, options.tasks, 60, 120, options.seconds or 60)
    )
    for store in options.stores.split(","):
        for part in PARTS:
            if options.only not in (None, part):
                continue
            if part == "idle":
                count_wake_ups(store, 10 if options.quick else 20)
            else:
                asyncio.run(cost(store, size, part))


def count_wake_ups(store: str, seconds: float) -> None:
    for scope in ("process", "host", "cluster"):
        selector = Counting()
        with asyncio.Runner(
            loop_factory=lambda selector=selector: asyncio.SelectorEventLoop(selector)
        ) as runner:  # type: ignore[misc]
            runner.run(idle(store, scope, seconds, selector))


if __name__ == "__main__":
    main()
