"""Hosts of a simulated cluster: clocks, pauses, deaths, and the faulty way to their store."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.testing.simulation._cluster import Cluster, Machine, Process
from asyncmgr.testing.simulation._hosts import Clocks
from asyncmgr.testing.simulation._server import EPOCH
from asyncmgr.transports import SNAPSHOT_DONE, Entry

Main = Callable[[Process], Awaitable[None]]


def one_machine(main: Main, clock: Clocks | None = None, seed: int = 1) -> tuple[Cluster, Machine]:
    cluster = Cluster(seed)
    machine = cluster.add_machine("h", clock)
    cluster.start(machine, main)
    return cluster, machine


def test_each_host_has_clocks_of_its_own() -> None:
    """Loop time, wall clock and `datetime.now()` are those of the host whose code runs."""
    seen: dict[str, tuple[float, float, datetime]] = {}

    async def main(process: Process) -> None:
        await asyncio.sleep(90)
        loop = asyncio.get_running_loop()
        seen[process.machine.name] = loop.time(), time.time(), datetime.now(UTC)

    cluster = Cluster()
    cluster.start(cluster.add_machine("slow", Clocks(0.9, 1000.0)), main)
    cluster.start(cluster.add_machine("fast", Clocks(1.1, 5.0, EPOCH + 3_600_000_000)), main)
    with cluster.running():
        cluster.run_for(101)
    assert seen["slow"][0] == pytest.approx(1090, abs=1e-5)
    assert seen["slow"][1] == pytest.approx(EPOCH / 1e6 + 90, abs=1e-5)
    assert seen["fast"][0] == pytest.approx(95, abs=1e-5)
    assert seen["fast"][1] == pytest.approx(EPOCH / 1e6 + 3690, abs=1e-5)
    assert seen["fast"][2].timestamp() == pytest.approx(seen["fast"][1], abs=1e-5)
    assert abs(time.time() - EPOCH / 1e6) > 1e6, "the wall clock is given back"


def test_equal_moments_keep_their_order() -> None:
    """Timers of one moment ring in the order in which they were set."""
    order: list[int] = []

    async def main(process: Process) -> None:
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_at(loop.time() + 1 - number * 1e-9, order.append, number)

    cluster, _ = one_machine(main)
    with cluster.running():
        cluster.run_for(2)
    assert order == list(range(50))


async def tick(process: Process, ticks: list[float]) -> None:
    while True:
        ticks.append(process.loop.timeline.now / 1e6)
        await asyncio.sleep(1)


def test_a_paused_host_takes_its_turns_later() -> None:
    """While a host is paused nothing runs there, its clocks go on, and afterwards its timer rings once."""
    ticks: list[float] = []
    cluster, machine = one_machine(lambda process: tick(process, ticks))
    assert machine.process is not None
    with cluster.running():
        cluster.run_for(2.5)
        machine.process.loop.pause()
        before = machine.process.loop.time()
        cluster.run_for(10)
        assert machine.process.loop.time() == pytest.approx(before + 10)
        machine.process.loop.resume()
        cluster.run_for(1.2)
    assert [round(moment, 3) for moment in ticks] == [0, 1, 2, 12.5, 13.5]


def test_a_suspended_machine_stands_still() -> None:
    """In a suspend the monotonic clock stands too, boot time and wall go on, and timers ring that much later."""
    ticks: list[float] = []
    cluster, machine = one_machine(lambda process: tick(process, ticks))
    assert machine.process is not None
    loop = machine.process.loop
    with cluster.running():
        cluster.run_for(2.5)
        before = loop.clock_readings()
        loop.pause(suspend=True)
        cluster.run_for(10)
        after = loop.clock_readings()
        loop.resume()
        cluster.run_for(0.7)
    assert after[0] == before[0]
    assert after[1] - before[1] == pytest.approx(10)
    assert after[2] - before[2] == pytest.approx(10)
    assert [round(moment, 3) for moment in ticks] == [0, 1, 2, 13]


async def stubborn(process: Process, done: list[str]) -> None:
    for _ in range(1000):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            done.append("refused")
        except GeneratorExit:
            done.append("closed")
            raise


@pytest.mark.parametrize("paused", [False, True])
def test_a_dead_host_leaves_nothing(paused: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The tasks of a killed process are cleared away, also one that refuses to end, and nothing is said of them."""
    done: list[str] = []

    async def main(process: Process) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(5000))
                group.create_task(stubborn(process, done))
                store = await process.connection.store("s", ttl=None)
                async with store.watch() as changes:
                    async for _ in changes:
                        pass
        finally:
            await asyncio.sleep(3)
            done.append("unwound")

    cluster, machine = one_machine(main)
    process = machine.process
    assert process is not None
    with cluster.running():
        cluster.run_for(5)
        if paused:
            process.loop.pause()
            cluster.run_for(5)
        cluster.kill(machine)
        assert not asyncio.all_tasks(process.loop)
        cluster.run_for(5)
    assert "closed" in done
    assert not process.loop.errors
    del process, machine, cluster
    gc.collect()
    assert not caplog.records


def test_a_dead_host_has_no_effect() -> None:
    """What a process tries while it is cleared away does not reach the store."""

    async def main(process: Process) -> None:
        store = await process.connection.store("s", ttl=None)
        try:
            await asyncio.sleep(1000)
        finally:
            await store.put("key", b"from the grave")

    cluster, machine = one_machine(main)
    with cluster.running():
        cluster.run_for(5)
        cluster.kill(machine)
        cluster.run_for(50)
        assert not cluster.server.tables["s"].records


def outcomes(shape: Callable[[Cluster, Machine], Any], seed: int = 1) -> list[str]:
    """What twenty creations of twenty keys tell their caller, under faults that `shape` sets."""
    told: list[str] = []

    async def create(process: Process, number: int) -> None:
        store = await process.connection.store("s", ttl=None)
        try:
            await store.create(f"k{number}", b"")
            told.append("yes")
        except RevisionConflict:
            told.append("conflict")
        except TransportError:
            told.append("doubt")

    async def main(process: Process) -> None:
        await asyncio.gather(*(create(process, number) for number in range(20)))

    cluster, machine = one_machine(main, seed=seed)
    shape(cluster, machine)
    with cluster.running():
        cluster.run_for(30)
    told.append(str(len(cluster.server.tables["s"].records)))
    return told


def test_calls_are_lost_before_or_after_their_effect() -> None:
    """A lost request has no effect, a lost reply has one; the caller cannot tell. A doubled write has one effect."""
    assert outcomes(lambda c, m: None) == ["yes"] * 20 + ["20"]
    assert outcomes(lambda c, m: setattr(c.weather, "lose_request", 1.0)) == ["doubt"] * 20 + ["0"]
    assert outcomes(lambda c, m: setattr(c.weather, "lose_reply", 1.0)) == ["doubt"] * 20 + ["20"]
    assert outcomes(lambda c, m: setattr(c.weather, "double", 1.0)) == ["yes"] * 20 + ["20"]
    assert outcomes(lambda c, m: m.process.connection.cut() if m.process else None) == ["doubt"] * 20 + ["0"]


def test_reads_are_old_but_never_older_than_the_own_write() -> None:
    """Stale reads show another host's past, and at least what this host itself wrote."""
    seen: list[bytes] = []
    own: list[bytes] = []

    async def write(process: Process) -> None:
        store = await process.connection.store("s", ttl=None)
        for number in range(100):
            await store.put("key", b"%d" % number)
            found = await store.get("key")
            assert found is not None
            own.append(found.value)
            await asyncio.sleep(0.1)

    async def read(process: Process) -> None:
        store = await process.connection.store("s", ttl=None)
        await asyncio.sleep(5)
        for _ in range(30):
            found = await store.get("key")
            assert found is not None
            seen.append(found.value)

    cluster = Cluster(3)
    cluster.weather.staleness = 3.0
    cluster.start(cluster.add_machine("a"), write)
    cluster.start(cluster.add_machine("b"), read)
    with cluster.running():
        cluster.run_for(30)
    assert own == [b"%d" % number for number in range(100)]
    assert len(set(seen)) > 10


@pytest.mark.parametrize("loss", ["wipe", "restore"])
def test_a_store_that_lost_its_data_goes_on_with_greater_revisions(loss: str) -> None:
    """Watches break, the snapshot shows the store as it is now, and revisions grow."""
    told: list[str] = []
    revisions: list[int] = []

    async def main(process: Process) -> None:
        store = await process.connection.store("s", ttl=None)
        revisions.append(await store.put("old", b""))
        while True:
            try:
                async with store.watch() as changes:
                    async for change in changes:
                        if isinstance(change, Entry):
                            told.append(change.key)
                            revisions.append(change.revision)
                        elif change is SNAPSHOT_DONE:
                            told.append("done")
            except TransportError:
                told.append("broken")
                revisions.append(await store.put("newest", b""))

    async def later(process: Process) -> None:
        store = await process.connection.store("s", ttl=None)
        await asyncio.sleep(2)
        await store.put("new", b"")

    cluster, _ = one_machine(main)
    cluster.start(cluster.add_machine("b"), later)
    with cluster.running():
        cluster.run_for(1)
        saved = cluster.server.save()
        cluster.run_for(4)
        if loss == "wipe":
            cluster.server.wipe()
        else:
            cluster.server.restore(saved)
        cluster.run_for(4)
    kept = [] if loss == "wipe" else ["old"]
    assert told == ["old", "done", "new", "broken", *kept, "newest", "done"]
    assert revisions[-1] == max(revisions)


def test_randomness_comes_from_the_seed() -> None:
    """What hosts draw is the same in each run of a seed, and another in other seeds."""

    def drawn(seed: int) -> list[float]:
        values: list[float] = []

        async def main(process: Process) -> None:
            values.append(random.random())

        cluster, _ = one_machine(main, seed=seed)
        with cluster.running():
            cluster.run_for(1)
        return values

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("rate", [0.9, 0.95, 1.0, 1.0371, 1.1])
def test_a_timer_never_rings_early(rate: float) -> None:
    """At its moment the host's own clock has reached it, and no more than 2 us more."""
    clock = Clocks(rate, 123456.789)
    chance = random.Random(1)
    for _ in range(1000):
        when = clock.uptime + chance.uniform(0, 1000)
        late = clock.monotonic(clock.moment_of(when)) - when
        assert 0 <= late < 2e-6
