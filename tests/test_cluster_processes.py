"""``scope="cluster"`` with real processes over each real store: killed, frozen and stopped; lost and wiped stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncmgr._leases.keys import kept_key, task_key
from asyncmgr._leases.records import CLAIMS, SLOTS
from asyncmgr.transports import encode_token, open_store
from tests.cluster_site import Database, Note, Server, Site
from tests.postgres_servers import PostgresServer

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked at in /proc"),
]

SERVERS = {
    "nats": "shared_nats_server",
    "postgres": "shared_postgres_server",
    "valkey": "shared_valkey_server",
}
STORES = [*SERVERS, "sqlite"]

TASKS: dict[str, dict[str, Any]] = {"half": {"spacing": 0.5}, "one": {"spacing": 1}, "two": {"spacing": 2}}
ONE: dict[str, dict[str, Any]] = {"one": {"spacing": 1}}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A store that runs."""
    server: Server
    if request.param == "sqlite":
        server = Database(tmp_path / "store.db")
    else:
        server = request.getfixturevalue(SERVERS[request.param])
    server.start()
    yield server
    server.resume()
    server.start()


@pytest.fixture
def site(store: Server, tmp_path: Path) -> Iterator[Site]:
    """Processes with a TTL of 2 s."""
    site = Site(tmp_path, store)
    yield site
    site.end()


needs_server = pytest.mark.parametrize("store", list(SERVERS), indirect=True)


def start_all(site: Site, *hosts: str) -> None:
    for host in hosts:
        site.start(host, TASKS)
    site.until_noted("started", len(hosts))
    site.until_each(TASKS)


def next_after(site: Site, before: Note) -> Note:
    """The first run of another process after this one."""
    return (
        site.until(
            lambda: next(
                (
                    run
                    for run in site.notes("ran", task=before["task"])
                    if run["pid"] != before["pid"] and run["at"] > before["at"]
                ),
                None,
            )
        )
        or {}
    )


def test_the_holder_is_killed(site: Site) -> None:
    """Another process of the same host name goes on; one that does not know the tasks never owns them."""
    stranger = site.start("old", {"other": {"spacing": 1}})
    start_all(site, "twin", "twin")
    holder = site.holder("one")
    site.until(lambda: site.notes("ran", task="one")[-1]["pid"] == holder.pid)
    site.kill(holder)
    last = site.notes("ran", task="one", pid=holder.pid)[-1]
    first = next_after(site, last)
    assert first["trigger"] == "catch_up" or first["number"] == last["number"] + 1
    site.until_each(TASKS, 2)
    site.stop()
    for task in TASKS:
        site.assert_each_slot_once(task, cut_off=1, unknown=task == "half")
    assert {note["task"] for note in site.notes("ran", pid=stranger.pid)} == {"other"}


def test_a_frozen_holder(site: Site) -> None:
    """Its effect after the freeze is refused by its old token, its run is cancelled, and the others have gone on."""
    for host in "ab":
        site.start(host, ONE)
    site.until_more(task="one")
    holder = site.holder("one")
    frozen = site.freeze(holder)
    next_after(site, frozen)
    site.until_noted("applied", 1 + len(site.notes("applied")))
    site.thaw(holder)
    site.until_noted("refused", pid=holder.pid, token=frozen["token"])
    site.until_noted("ended", pid=holder.pid, outcome="cancelled")
    site.until_noted("lost", pid=holder.pid)
    site.until_more(2)
    assert not [note for note in site.notes("applied", pid=holder.pid) if note["at"] > frozen["at"]]
    assert not site.notes("missed", pid=holder.pid), "what others ran meanwhile is not missed"
    site.stop()
    site.assert_each_slot_once("one", cut_off=1)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_hosts_with_different_ttls(site: Site) -> None:
    """A host with a TTL of 2 s waits for the 6 s of the holder that it watches; the other one need not wait so long."""
    site.ttl = 6.0
    slow = site.start("slow", ONE)
    site.until_more(task="one")
    site.ttl = 2.0
    fast = site.start("fast", ONE)
    site.until_noted("started", 2)
    run = site.until_more(task="one")[0]
    assert run["pid"] == slow.pid
    site.stop_at_once(slow)
    stopped = time.time()
    first = next_after(site, run)
    assert first["pid"] == fast.pid
    # The silence may have begun a renewal before the stop, a third of the TTL; a busy machine only makes it longer.
    assert first["at"] - stopped > 6.0 - 6.0 / 3 - 0.1
    site.thaw(slow)
    site.until_noted("lost", pid=slow.pid)
    run = site.until_more(task="one")[-1]
    site.stop_at_once(fast)
    assert next_after(site, run)["pid"] == slow.pid
    site.thaw(fast)
    site.until_noted("lost", pid=fast.pid)
    site.until_more(task="one")
    site.stop()
    site.assert_each_slot_once("one", cut_off=2)


def test_a_frozen_holder_of_a_lease(site: Site) -> None:
    """Another block has it; the old one is cancelled, and can do no harm with its token."""
    first = site.start("a", {}, leases=["mutex"])
    site.until_noted("entered")
    second = site.start("b", {}, leases=["mutex"])
    site.until_noted("started", 2)
    site.stop_at_once(first)
    later = site.until_noted("entered", pid=second.pid)[0]
    site.thaw(first)
    site.until_noted("left", pid=first.pid)
    assert later["token"] > site.notes("entered", pid=first.pid)[0]["token"]
    site.terminate(second)
    site.until_noted("entered", 2, pid=first.pid)
    site.stop()
    tokens = [note["token"] for note in site.notes("entered")]
    assert tokens == sorted(set(tokens))


@needs_server
def test_the_store_is_killed_and_comes_back(site: Site) -> None:
    """Runs stop where it is away for longer than trust; nothing is lost or doubled afterwards."""
    start_all(site, "a", "b")
    site.server.kill()
    site.until_noted("lost", len(TASKS))
    site.server.start()
    site.until_each(TASKS, 2)
    site.stop()
    for task in TASKS:
        site.assert_each_slot_once(task, cut_off=2, unknown=task == "half")


def test_the_store_is_wiped(site: Site) -> None:
    """Sessions begin anew; slots and tokens go on to grow over the loss."""
    start_all(site, "a", "b")
    site.server.restart(empty=True)
    wiped = len(site.notes())
    site.until(lambda: [note for note in site.notes()[wiped:] if note["what"] == "acquired"])
    site.until_each(TASKS, 3)
    site.stop()
    for task in TASKS:
        site.assert_tokens_grow(task)
    assert not site.notes("refused")


def test_a_rolling_restart(site: Site) -> None:
    """Three processes get SIGTERM in turn, and another one starts for each: no slot is lost, none doubled."""
    hosts = ["a", "b", "c"]
    start_all(site, *hosts)
    for number, host in enumerate(hosts):
        site.terminate(site.processes[number])
        site.start(host, TASKS)
        site.until_noted("started", len(hosts) + number + 1)
    site.until_each(TASKS, 2)
    site.stop()
    for task in TASKS:
        site.assert_each_slot_once(task)
    assert not site.notes("missed", reason="lease_lost", task="M.one")


def delete_by_hand(site: Site) -> None:
    """Delete the claim of the task from the store, as somebody who cleans up does."""
    if isinstance(site.server, Database):
        site.server.run("DELETE FROM asyncmgr_entries WHERE store = 'asyncmgr-claims' AND key LIKE '%.one'")
    elif isinstance(site.server, PostgresServer):
        key = task_key(site.application, "M.one")
        site.server.run(f"DELETE FROM asyncmgr_store WHERE store = 'asyncmgr-claims' AND key = '{key}'")
    else:
        asyncio.run(_delete(site.server.url, task_key(site.application, "M.one")))


async def _delete(url: str, key: str) -> None:
    async with open_store(url) as engine:
        await (await engine.store(CLAIMS, ttl=None)).delete(key)


def test_the_claim_of_the_holder_is_deleted_by_hand(site: Site) -> None:
    """The holder notices it by itself, and one of the processes claims the task anew, with a higher token."""
    for host in "ab":
        site.start(host, ONE)
    site.until_more(task="one")
    holder, before = site.holder("one"), site.notes("acquired")
    delete_by_hand(site)
    assert site.until_noted("lost", reason="taken")[0]["pid"] == holder.pid
    assert site.until_noted("acquired", len(before) + 1)[-1]["token"] > before[-1]["token"]
    site.until_more(2, task="one")
    site.stop()
    site.assert_each_slot_once("one", cut_off=1)


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_the_table_is_truncated(site: Site) -> None:
    """All rows are gone by SQL, and the server lives on: sessions begin anew, and slots and tokens go on to grow."""
    start_all(site, "a", "b")
    assert isinstance(site.server, PostgresServer)
    acquired = len(site.notes("acquired"))
    site.server.run("TRUNCATE asyncmgr_store")
    site.until_noted("lost", 1)
    site.until_noted("acquired", acquired + len(TASKS))
    site.until_each(TASKS)
    site.stop()
    for task in TASKS:
        site.assert_tokens_grow(task)
    assert not site.notes("refused")


@needs_server
def test_the_store_answers_nothing_for_a_while(site: Site) -> None:
    """For less than trust lasts nothing is lost; for longer, the holder stops by itself, and goes on afterwards."""
    site.ttl = 4.0
    for host in "ab":
        site.start(host, ONE, lasts=60.0)
    run = site.until_more(task="one")[0]
    site.server.pause()
    until = time.time() + 0.8
    site.until(lambda: time.time() >= until)
    site.server.resume()
    renewed = time.time()
    site.until(lambda: time.time() >= renewed + 3.5)  # trust would have ended by now
    assert not site.notes("lost")
    assert not site.notes("ended")
    site.server.pause()
    lost = site.until_noted("lost", reason="trust_ended")[0]
    ended = site.until_noted("ended", outcome="cancelled")[0]
    assert ended["pid"] == lost["pid"] == run["pid"]
    assert len(site.notes("ran")) == 1
    site.server.resume()
    assert site.until_more(task="one")[0]["token"] > run["token"]
    site.end()


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
@pytest.mark.parametrize("is_default", [True, False], ids=["file-of-the-user", "store"])
def test_slots_survive_a_restart(site: Site, store: Server, *, is_default: bool) -> None:
    """Killed in mid-run, and down over two slots: one run at the start stands for them, and the cut-off one is told."""
    if is_default and not isinstance(store, Database):
        pytest.skip("the file of the user is not in this store")
    kept = {"kept": {"spacing": 1, "scope": "process", "persist": True}}
    options: dict[str, Any] = {"store": None} if is_default else {}
    first = site.start("a", kept, lasts=60.0, **options)
    run = site.until_noted("ran")[0]
    of_the_user = f"sqlite:///{site.path}/state/asyncmgr/{encode_token(site.application)}.sqlite"
    until_kept(site, of_the_user if is_default else store.url)
    site.kill(first)
    site.until(lambda: time.time() > run["slot"] + 3)
    site.start("a", kept, **options)
    site.until_noted("ran", 3)
    site.stop()
    again, later = site.notes("ran")[1:3]
    assert (again["trigger"], later["trigger"]) == ("catch_up", "schedule")
    steps = round(again["slot"] - run["slot"], 3)
    assert steps == pytest.approx(round(steps), abs=0.05)
    assert steps >= 3
    missed = site.notes("missed", reason="down")
    assert [note["count"] for note in missed] == [
        1,
        round(steps) - 1,
    ]  # the cut-off one; those until the catch-up


def until_kept(site: Site, url: str) -> None:
    """Return once the slot of the run is written down."""
    key = kept_key(site.application, "a", "M.kept")
    site.until(lambda: asyncio.run(_read(url, SLOTS, key, watched=False)))


async def _read(url: str, store: str, key: str, *, watched: bool = True) -> object:
    async with open_store(url) as engine:
        return await (await engine.store(store, ttl=None, watched=watched)).get(key)
