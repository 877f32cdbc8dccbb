"""``python -m benchmarks.failover``: how long a task of the cluster stands still when its holder dies or stops.

Real processes over real stores on this one machine, each store's one after another: three processes share a task every
second; the one that holds it is killed with ``kill -9``, or gets SIGTERM, and another one starts for it. Then ten
processes share a thousand tasks, of which every slot is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.cluster_site import Database, Server, Site
from tests.postgres_servers import PostgresServer
from tests.valkey_servers import ValkeyServer

from asyncmgr.testing.nats import NatsServer

ONE = {"one": {"spacing": 1}}
STORES = ("nats", "postgresql", "valkey", "sqlite")


@contextmanager
def server_of(store: str, home: Path) -> Iterator[Server]:
    """A store that runs."""
    makers: dict[str, Callable[[], NatsServer | PostgresServer | ValkeyServer]] = {
        "nats": NatsServer,
        "postgresql": lambda: PostgresServer("max_connections = 400"),
        "valkey": ValkeyServer,
    }
    if store == "sqlite":
        yield Database(home / "store.db")
        return
    server = makers[store]()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def site_over(store: str, ttl: float) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as home, server_of(store, Path(home)) as server:
        site = Site(Path(home) / "site", server, ttl=ttl)
        try:
            yield site
        finally:
            site.end()


def fail_over(store: str, ttl: float, times: int, *, is_killed: bool) -> list[float]:
    """Let the holder go so many times; return the seconds to the next run of the task, wherever that is."""
    draw, took = random.Random(1), []
    with site_over(store, ttl) as site:
        for host in "abc":
            site.start(host, ONE)
        site.until_noted("started", 3)
        for number in range(times):
            site.until_more(task="one")
            time.sleep(draw.uniform(0, 1))
            holder = site.holder("one")
            before = len(site.notes("ran", task="one"))
            began = time.time()
            if is_killed:
                site.kill(holder)
            else:
                holder.terminate()
            # A run that began while the signal was on its way is not the next one.
            runs = site.until(
                lambda before=before, pid=holder.pid: [  # type: ignore[misc]
                    run for run in site.notes("ran", task="one")[before:] if run["pid"] != pid
                ]
            )
            took.append(runs[0]["at"] - began)
            site.start(f"n{number}", ONE)
            site.until_noted("started", 4 + number)
        site.stop()
        site.assert_each_slot_once("one", cut_off=times if is_killed else 0)
        if not is_killed:
            assert not site.notes("missed", reason="lease_lost")
            numbers = [run["number"] for run in site.notes("ran", task="one")]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return took


def many(store: str, processes: int, tasks: int, seconds: float) -> str:
    """Share many tasks out, and count their slots while processes come and go."""
    names = {f"t{number}": {"spacing": 20} for number in range(tasks)}
    with site_over(store, 10.0) as site:
        for number in range(processes):
            site.start(f"h{number}", names)
        site.until_noted("started", processes)
        began = time.monotonic()
        site.until_each(names)
        first = time.monotonic() - began
        time.sleep(seconds / 3)
        site.terminate(site.processes[0])
        site.start("late", names)
        site.until_noted("started", processes + 1)
        time.sleep(seconds / 3)
        site.kill(site.processes[1])
        time.sleep(seconds / 3)
        site.until_each(names)
        site.stop()
        for name in names:
            site.assert_each_slot_once(name, cut_off=1)
        runs = site.notes("ran")
        missed = sum(note["count"] for note in site.notes("missed", reason="lease_lost"))
        refused = len(site.notes("skipped", reason="lease_lost"))
        untrusted = len({note["pid"] for note in site.notes("lost", reason="trust_ended")})
        late = sorted(run["at"] - run["slot"] for run in runs)
        counts = {process.pid: 0 for process in site.processes}
        for run in runs:
            counts[run["pid"]] += 1
        return (
            f"{len(runs)} slots once each, {missed} missed after the kill, {refused} refused without trust, which "
            f"{untrusted} processes lost; "
            f"all tasks ran {first:.0f} s after the start; "
            f"lateness median {median(late):.3f} s, 99 % {late[len(late) * 99 // 100]:.2f} s; "
            f"runs a process {sorted(counts.values())}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 times at a TTL of 2 s, 100 tasks")
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--ttl", type=float)
    parser.add_argument("--times", type=int)
    parser.add_argument(
        "--only", choices=("kill", "term", "many"), help="this part; for one store less than 4 minutes"
    )
    options = parser.parse_args()
    ttl = options.ttl or (2.0 if options.quick else 10.0)
    times = options.times or (5 if options.quick else 20)
    for store in options.stores.split(","):
        for how in ("kill", "term"):
            if options.only in (None, how):
                took = fail_over(store, ttl, times, is_killed=how == "kill")
                load = os.getloadavg()[0]
                print(
                    f"{store}: {how} {times} times at a TTL of {ttl:g} s: median {median(took):.2f} s, "
                    f"most {max(took):.2f} s (load {load:.0f})",
                    flush=True,
                )
        if options.only in (None, "many"):
            result = many(store, 10, 100 if options.quick else 1000, 20 if options.quick else 60)
            print(f"{store}: {result} (load {os.getloadavg()[0]:.0f})", flush=True)


if __name__ == "__main__":
    main()
