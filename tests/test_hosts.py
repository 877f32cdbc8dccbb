"""The reader's live view: what it shows of announcements made by hand, how it ages, and what it tells its readers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import gc
import json
import math
import random
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine

from asyncmgr import (
    HostChange,
    Hosts,
    HostState,
    InvalidName,
    ServiceStateError,
    TransportClosed,
    TransportError,
)
from asyncmgr.capabilities._ageing import CATCH_UP
from asyncmgr.capabilities._announcement import STORE, STORE_TTL
from asyncmgr.capabilities._hosts import AT_ONCE, HELD_FOR, RETURN_WITHIN
from asyncmgr.capabilities._malformed import KEYS_KEPT
from asyncmgr.transports._retries import RESUME_WITHIN
from tests.announcements import Agent, Link, Sender, captured, count, make_service, memory, now, stand_still

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


@pytest.fixture
async def fabric() -> AsyncIterator[Link]:
    """What the senders of a test write through; its views have connections of their own."""
    async with memory() as transport:
        yield transport


@contextlib.asynccontextmanager
async def viewing(service: str | None = "compute") -> AsyncIterator[Hosts]:
    async with memory() as transport, Hosts(transport, service) as hosts:
        yield hosts


async def settle() -> None:
    """Let what was written reach its readers; no time passes."""
    for _ in range(10):
        await asyncio.sleep(0)


def shown(hosts: Hosts) -> dict[str, Any]:
    """Capabilities by host and node, without slash for the nameless node."""
    return {_label(state): dict(state.capabilities) for state in hosts.snapshot()}


def _label(state: HostState) -> str:
    return "/".join(filter(None, [state.host, state.node]))


class Told:
    """All changes so far, as ``kind host/node``."""

    def __init__(self, hosts: Hosts) -> None:
        self.changes: list[HostChange] = []
        self._reader = hosts.changes()

    async def read(self) -> list[str]:
        """What came since the last call."""
        before = len(self.changes)
        with contextlib.suppress(TimeoutError, StopAsyncIteration):
            while True:
                async with asyncio.timeout(1e-5):
                    self.changes.append(await anext(self._reader))
        return [f"{change.kind} {_label(change.host)}" for change in self.changes[before:]]


def nodes(*names: str) -> Any:
    return tuple((name, {"node": name}) for name in names)


# What is shown


async def test_view_is_complete_when_entered(fabric: Link) -> None:
    """The first snapshot has all that stands in the store, by service, host and node."""
    await Sender(fabric, "n2").say({"ram": 2})
    await Sender(fabric, "n1").say(nodes=nodes("b", "a"))
    await Sender(fabric, "n1", "other").say()
    async with viewing() as hosts:
        assert list(shown(hosts)) == ["n1/a", "n1/b", "n2"]
        assert shown(hosts)["n2"] == {"ram": 2}
    async with viewing(None) as hosts:
        assert [(state.service, state.host) for state in hosts.snapshot()] == [
            ("compute", "n1"),
            ("compute", "n1"),
            ("compute", "n2"),
            ("other", "n1"),
        ]


async def test_view_follows(fabric: Link) -> None:
    """What is announced later is shown, replaced, and gone when it is withdrawn."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        assert hosts.snapshot() == ()
        await sender.say({"ram": 1, "disk": 1})
        await settle()
        assert shown(hosts) == {"n1": {"ram": 1, "disk": 1}}
        await sender.say({"ram": 2})
        await settle()
        assert shown(hosts) == {"n1": {"ram": 2}}
        await sender.withdraw()
        await settle()
        assert shown(hosts) == {}


async def test_announcement_replaces_all_nodes_of_its_host(fabric: Link) -> None:
    """Entries are not merged: a node that is not in the latest announcement is gone."""
    sender, other = Sender(fabric), Sender(fabric, "n2")
    async with viewing() as hosts:
        await sender.say(nodes=nodes("a", "b"))
        await other.say(nodes=nodes("a"))
        await sender.say(nodes=nodes("b", "c"))
        await settle()
        assert list(shown(hosts)) == ["n1/b", "n1/c", "n2/a"]
        await sender.say(nodes=())
        await settle()
        assert list(shown(hosts)) == ["n2/a"]


async def test_state_says_where_it_is_from(fabric: Link) -> None:
    """Every field of a state."""
    await Sender(fabric, "host.example org", incarnation=5, sequence=6).say({"ram": 1})
    async with viewing() as hosts:
        await asyncio.sleep(2)
        assert hosts.snapshot() == (
            HostState("compute", "host.example org", "", {"ram": 1}, "fresh", 2.0, incarnation=5, sequence=7),
        )


async def test_many_hosts_leave_others_their_turns(fabric: Link) -> None:
    """A thousand hosts are not taken in at one go, neither as a snapshot nor as changes."""
    for index in range(1000):
        await Sender(fabric, f"n{index}").say()
    shelf = fabric._fabric.shelves[STORE]
    async with memory() as transport:
        hosts = Hosts(transport)
        entering = asyncio.create_task(hosts.__aenter__())
        turns = 0
        while not entering.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 1000 / AT_ONCE
        for key, record in list(shelf._records.items()):
            shelf.write(key, record.value.replace(b'"sequence":1', b'"sequence":2'))
        turns = 0
        while {state.sequence for state in hosts.snapshot()} != {2}:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 1000 / AT_ONCE - 1
        await hosts.__aexit__(None, None, None)


async def test_services_with_a_common_beginning_are_kept_apart(fabric: Link) -> None:
    """A service's name is a whole token of the key."""
    await Sender(fabric, "n1", "compute2").say()
    await Sender(fabric, "n1", "compute.x").say()
    async with viewing() as hosts:
        assert hosts.snapshot() == ()


async def test_name_that_fits_no_key_is_refused() -> None:
    """Where it is written."""
    async with memory() as transport:
        with pytest.raises(InvalidName, match="service name"):
            Hosts(transport, "x" * 129)


async def test_snapshot_cannot_be_changed(fabric: Link) -> None:
    """One reader's request cannot empty another's view: neither the tuple nor anything in it can be changed."""
    await Sender(fabric).say({"disks": [{"free": 1}]})
    async with viewing() as hosts:
        snapshot: Any = hosts.snapshot()
        for change in (
            lambda: snapshot[0].capabilities.update(x=1),
            lambda: snapshot[0].capabilities["disks"].append(1),
            lambda: snapshot[0].capabilities["disks"][0].clear(),
            lambda: setattr(snapshot[0], "age", 0),
            lambda: snapshot.__setitem__(0, 1),
        ):
            with pytest.raises((TypeError, AttributeError)):
                change()
        await Sender(fabric, sequence=5).say({"disks": []})
        await settle()
        assert snapshot[0].capabilities == {"disks": [{"free": 1}]}
        assert hosts.snapshot()[0].capabilities == {"disks": []}


async def test_states_are_plain_values(fabric: Link) -> None:
    """They go through json, asdict, copies and sets."""
    await Sender(fabric).say({"disks": [{"free": 1}], "zone": "ä"})
    async with viewing() as hosts:
        (state,) = hosts.snapshot()
        assert json.loads(json.dumps(dataclasses.asdict(state)))["capabilities"] == state.capabilities
        assert copy.deepcopy(state) == state
        assert {state, copy.copy(state)} == {state}
        assert isinstance(state.capabilities, dict)


async def test_url_is_opened_and_closed_with_the_view(fabric: Link) -> None:
    """Given a URL, the view owns the connection."""
    await Sender(fabric).say()
    users = fabric._fabric.users
    async with Hosts("memory://fabric", service="compute") as hosts:
        assert fabric._fabric.users == users + 1
        assert list(shown(hosts)) == ["n1"]
    assert fabric._fabric.users == users


async def test_given_transport_stays_open() -> None:
    """An open transport is shared."""
    async with memory() as transport:
        async with Hosts(transport):
            pass
        assert transport.connected
        assert transport._listeners == []
        assert transport._watches == set()


async def test_view_that_is_not_open_says_so(fabric: Link) -> None:
    """Before and after the block there is nothing to read; it can be entered again, empty, but not twice at once."""
    hosts = Hosts("memory://fabric")
    for _ in range(2):
        for read in (hosts.snapshot, hosts.changes, hosts.select):
            with pytest.raises(ServiceStateError, match=r"async with Hosts\(\.\.\.\) as hosts"):
                read()
        async with hosts:
            assert hosts.snapshot() == ()
            with pytest.raises(ServiceStateError, match="open already"):
                await hosts.__aenter__()
            told = Told(hosts)
            await Sender(fabric).say()
            assert await told.read() == ["joined n1"]
            await Sender(fabric).withdraw()


# Age


async def test_host_goes_stale_then_gone(fabric: Link) -> None:
    """Without a refresh: stale after half the TTL, gone after all of it, to the microsecond."""
    await asyncio.sleep(0.1)
    await Sender(fabric).say()
    async with viewing() as hosts:
        for wait, state in ((0, "fresh"), (29.999999, "fresh"), (1e-6, "stale"), (29.999999, "stale")):
            await asyncio.sleep(wait)
            await settle()
            assert [host.state for host in hosts.snapshot()] == [state]
        await asyncio.sleep(1e-6)
        await settle()
        assert hosts.snapshot() == ()


@pytest.mark.parametrize("ttl", [0.3, 7.0, 3000.0])
async def test_ttl_is_the_senders(fabric: Link, ttl: float) -> None:
    """It travels in the message."""
    async with viewing() as hosts:
        told = Told(hosts)
        await Sender(fabric, ttl=ttl).say()
        assert await told.read() == ["joined n1"]
        await asyncio.sleep(ttl * 0.51)
        assert await told.read() == ["stale n1"]
        await asyncio.sleep(ttl * 0.48)
        assert list(shown(hosts)) == ["n1"]
        await asyncio.sleep(ttl * 0.02)
        assert await told.read() == ["left n1"]


async def test_refreshed_host_stays_fresh(fabric: Link) -> None:
    """For as long as it is refreshed every third of its TTL, and no change is told."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        told = Told(hosts)
        for _ in range(200):
            await sender.say({"ram": 1})
            await asyncio.sleep(20)
            assert [state.state for state in hosts.snapshot()] == ["fresh"]
        assert await told.read() == ["joined n1"]
        assert hosts.snapshot()[0].sequence == 200


async def test_refresh_makes_a_stale_host_fresh(fabric: Link) -> None:
    """That is told as an update."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        told = Told(hosts)
        await sender.say()
        await asyncio.sleep(31)
        await sender.say()
        await asyncio.sleep(1)
        assert hosts.snapshot()[0].state == "fresh"
        await asyncio.sleep(31)
    assert await told.read() == ["joined n1"]  # all of it unread: the net difference
    assert told.changes[0].host.state == "stale"


async def test_changes_of_state_are_told_as_they_happen(fabric: Link) -> None:
    """Stale, fresh again, stale and gone, each at its time and once."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        told = Told(hosts)
        await sender.say(nodes=nodes("a", "b"))
        assert await told.read() == ["joined n1/a", "joined n1/b"]
        await asyncio.sleep(31)
        assert await told.read() == ["stale n1/a", "stale n1/b"]
        await sender.say()
        assert await told.read() == ["updated n1/a", "updated n1/b"]
        await asyncio.sleep(59.9)
        assert await told.read() == ["stale n1/a", "stale n1/b"]
        await asyncio.sleep(0.1)
        assert await told.read() == ["left n1/a", "left n1/b"]
        assert hosts.snapshot() == ()


async def test_late_reader_takes_the_age_from_the_store(fabric: Link) -> None:
    """A dead host does not look fresh to a reader that has just begun."""
    await Sender(fabric, "dead").say()
    await asyncio.sleep(15)
    await Sender(fabric, "stale").say()
    await asyncio.sleep(45)
    await Sender(fabric, "alive").say()
    await asyncio.sleep(5)
    async with viewing() as hosts:
        told = Told(hosts)
        assert {state.host: (state.state, state.age) for state in hosts.snapshot()} == {
            "alive": ("fresh", 5.0),
            "stale": ("stale", 50.0),
        }
        assert await told.read() == []
        await asyncio.sleep(10)
        assert await told.read() == ["left stale"]


@pytest.mark.parametrize("year", [1970, 2001, 2100])
async def test_senders_wall_clock_changes_nothing(fabric: Link, year: int) -> None:
    """A host whose clock is decades off is announced, ages and is gone like any other."""
    with time_machine.travel(datetime(year, 1, 1, tzinfo=UTC), tick=False):
        service = make_service(Agent(), transport=fabric)
        await service.start()
    async with viewing() as hosts:
        assert [(state.state, state.age) for state in hosts.snapshot()] == [("fresh", 0.0)]
        await asyncio.sleep(100)
        assert hosts.snapshot()[0].age <= 22
        await service.stop()
        await settle()
        assert hosts.snapshot() == ()


async def test_readers_wall_clock_changes_nothing(fabric: Link) -> None:
    """A reader ages by its monotonic clock; the wall may jump."""
    await Sender(fabric).say()
    async with viewing() as hosts:
        await asyncio.sleep(10)
        with time_machine.travel(datetime(2100, 1, 1, tzinfo=UTC), tick=False):
            await asyncio.sleep(10)
            assert hosts.snapshot()[0].age == 20
        await asyncio.sleep(9)
        assert hosts.snapshot()[0].state == "fresh"


async def test_crashed_host_goes_stale_then_gone(fabric: Link) -> None:
    """With a real service whose announcer ends without a word."""
    async with viewing() as hosts, memory() as transport:
        service = make_service(Agent(), transport=transport)
        await service.start()
        await asyncio.sleep(100)
        with transport.outage():
            died = now() - hosts.snapshot()[0].age
            await asyncio.sleep(died + 30 - now())
            await settle()
            assert hosts.snapshot()[0].state == "stale"
            await asyncio.sleep(30)
            await settle()
            assert hosts.snapshot() == ()
            await service.stop()


# A reader that stood still


@pytest.mark.parametrize("seconds", [31, 90, 3600])
async def test_paused_reader_declares_nobody_dead(fabric: Link, seconds: int) -> None:
    """What has arrived meanwhile is read before anybody is judged by age (42)."""
    alive, dead = Sender(fabric, "alive"), Sender(fabric, "dead")
    await alive.say()
    await dead.say()
    async with viewing() as hosts:
        told = Told(hosts)
        await told.read()
        stand_still(seconds)
        await asyncio.sleep(0.5)
        await alive.say()  # as if it had come meanwhile, and could be read only now
        await dead.say(ttl=1.0)
        assert [state.state for state in hosts.snapshot()] == ["fresh", "fresh"]
        await asyncio.sleep(3)
        assert [_label(state) for state in hosts.snapshot()] == ["alive"]
        assert await told.read() == ["left dead"]


async def test_paused_reader_that_hears_nothing_judges_a_little_later(fabric: Link) -> None:
    """Who is dead is told dead, once the reader had the time to read what might have come."""
    await Sender(fabric).say()
    async with viewing() as hosts:
        told = Told(hosts)
        stand_still(100)
        assert await told.read() == []
        await asyncio.sleep(CATCH_UP)
        assert await told.read() == ["left n1"]


async def test_what_waits_to_be_read_is_read_first(fabric: Link) -> None:
    """The timer is hardly late, and news of its hosts wait in the buffer: they are read, then it judges (42)."""
    senders = [Sender(fabric, f"n{index}") for index in range(5 * AT_ONCE)]
    for sender in senders:
        await sender.say()
    shelf = fabric._fabric.shelves[STORE]
    async with viewing() as hosts:
        told = Told(hosts)
        await asyncio.sleep(29.5)
        for key, record in list(shelf._records.items()):
            shelf.write(key, record.value.replace(b'"sequence":1', b'"sequence":2'))
        stand_still(0.55)
        assert await told.read() == []
        await asyncio.sleep(20)
        assert {state.sequence for state in hosts.snapshot()} == {2}
        assert await told.read() == []


async def test_old_news_show_that_more_is_to_come(fabric: Link) -> None:
    """A reader that reads what was written long ago is behind: it judges nobody until it has caught up (42)."""
    first, second = Sender(fabric, "n1"), Sender(fabric, "n2")
    await first.say()
    await second.say()
    shelf = fabric._fabric.shelves[STORE]
    async with viewing() as hosts:
        told = Told(hosts)
        await asyncio.sleep(5)
        values = {
            key: record.value.replace(b'"sequence":1', b'"sequence":2')
            for key, record in shelf._records.items()
        }
        shelf.write(first.key, values[first.key])
        stand_still(24.95)
        await asyncio.sleep(0.2)
        shelf.write(second.key, values[second.key])  # as if it had waited in the socket too
        await settle()
        assert await told.read() == []
        await asyncio.sleep(6)
        assert await told.read() == ["stale n1"]


async def test_flood_of_changes_does_not_put_off_judgement_for_ever(fabric: Link) -> None:
    """A key that is written all the time leaves no quiet turn: after `CATCH_UP` hosts are judged all the same."""
    await Sender(fabric).say()
    shelf = fabric._fabric.shelves[STORE]
    async with viewing() as hosts:
        await asyncio.sleep(29.9)
        while now() < 30 + CATCH_UP + 0.05:
            shelf.write("compute.noise", b"{")
            stand_still(0.002)
            await asyncio.sleep(0)
        assert [state.state for state in hosts.snapshot()] == ["stale"]


async def test_blocked_loop_with_service_and_view() -> None:
    """A service and a view in one blocked process: the service announces itself before it is judged (42)."""
    async with memory() as transport, Hosts(transport) as hosts, make_service(Agent(), transport=transport):
        told = Told(hosts)
        for _ in range(10):
            await asyncio.sleep(40)
            await told.read()
            stand_still(70)
        await asyncio.sleep(5)
        assert {change.kind for change in told.changes} <= {"joined", "updated"}


# Evidence


async def test_silent_feed_is_no_evidence(fabric: Link) -> None:
    """Where a transport knows when it last heard anything, hosts are judged up to that moment only (42)."""
    await Sender(fabric).say()
    async with memory() as transport, Hosts(transport) as hosts:
        told = Told(hosts)
        (watch,) = transport._watches
        await asyncio.sleep(20)
        watch.note_heard()
        await asyncio.sleep(60)
        assert hosts.snapshot()[0].state == "fresh"
        watch.note_heard()
        await asyncio.sleep(1)
        assert hosts.snapshot() == ()
        assert await told.read() == ["left n1"]


async def test_hosts_that_were_cut_off_too_are_not_told_gone(fabric: Link) -> None:
    """An engine that was away for all, for longer than the TTL, empties no view: hosts get time to come back (42)."""
    hosts_there = [Sender(fabric, f"n{index}") for index in range(5)]
    for sender in hosts_there:
        await sender.say()
    async with memory() as transport, Hosts(transport) as hosts:
        told = Told(hosts)
        with transport.outage():
            await asyncio.sleep(300)
        for sender in hosts_there[1:]:
            await asyncio.sleep(8)
            await sender.say()
            assert len(hosts.select(count=9)) == 5
        assert await told.read() == []
        await asyncio.sleep(HELD_FOR)
        assert [change for change in await told.read() if change.startswith("left")] == ["left n0"]


async def test_feed_that_fails_again_before_it_is_back_holds_on(fabric: Link) -> None:
    """Several losses in a row are one time without evidence."""
    await Sender(fabric).say()
    async with memory() as transport, Hosts(transport) as hosts:
        told = Told(hosts)
        for _ in range(10):
            with transport.outage():
                await asyncio.sleep(30)
            await asyncio.sleep(RESUME_WITHIN + 1)
            assert hosts.live
        assert await told.read() == []
        assert [state.state for state in hosts.snapshot()] == ["fresh"]
        await asyncio.sleep(HELD_FOR)
        assert await told.read() == ["left n1"]


async def test_transport_closed_during_an_outage_lets_the_view_age(fabric: Link) -> None:
    """Nothing will ever be heard again: what is known goes by its age."""
    await Sender(fabric).say()
    async with memory() as transport, Hosts(transport) as hosts:
        with transport.outage():
            await asyncio.sleep(100)
            assert len(hosts.snapshot()) == 1
            await transport.aclose()
            await asyncio.sleep(40)
            assert hosts.snapshot() == ()


# Order


async def test_older_incarnation_and_sequence_are_ignored(fabric: Link) -> None:
    """What was said before, and arrives again or late, changes nothing and makes nothing younger."""
    sender = Sender(fabric, incarnation=5, sequence=10)
    await sender.say({"x": 1})
    async with viewing() as hosts:
        told = Told(hosts)
        await asyncio.sleep(10)
        for old in ({"sequence": 8}, {"sequence": 11}, {"incarnation": 4, "sequence": 50}):
            await sender.say({"x": 2}, **old)
            await settle()
            assert shown(hosts) == {"n1": {"x": 1}}
        assert hosts.snapshot()[0].age == 10
        assert await told.read() == []


async def test_newer_incarnation_replaces(fabric: Link) -> None:
    """A restarted host counts from the beginning; that is told, also where its capabilities are the same."""
    sender = Sender(fabric, incarnation=5, sequence=10)
    await sender.say(nodes=nodes("a", "b"))
    async with viewing() as hosts:
        told = Told(hosts)
        await sender.say(nodes=nodes("b", "c"), incarnation=6, sequence=1)
        await settle()
        assert [(state.node, state.incarnation, state.sequence) for state in hosts.snapshot()] == [
            ("b", 6, 1),
            ("c", 6, 1),
        ]
        assert await told.read() == ["updated n1/b", "joined n1/c", "left n1/a"]


async def test_withdrawn_host_may_begin_again_with_any_incarnation(fabric: Link) -> None:
    """A withdrawal forgets the incarnation: a clock that was set back keeps no host out."""
    sender = Sender(fabric, incarnation=5)
    await sender.say()
    async with viewing() as hosts:
        await sender.withdraw()
        await settle()
        await sender.say({"x": 1}, incarnation=3)
        await settle()
        assert shown(hosts) == {"n1": {"x": 1}}


async def test_announcement_that_comes_when_it_has_expired_is_none(fabric: Link) -> None:
    """One that stands in the store but is over is not shown, and not told of.

    One that is stale by then is told of once. A host that was known before is held for a while, then gone.
    """
    old, new, late = (Sender(fabric, host) for host in ("old", "new", "late"))
    await old.say({"x": 1})
    async with memory() as transport, Hosts(transport) as hosts:
        told: list[str] = []

        async def tell() -> None:
            async for change in hosts.changes():
                told.append(f"{change.kind} {change.host.host}")  # noqa: PERF401 - seen as it comes

        telling = asyncio.create_task(tell())
        with transport.outage():
            await old.say({"x": 2}, ttl=1.0)
            await new.say({"x": 1}, ttl=1.0)
            await late.say({"x": 1}, ttl=7.0)
            await asyncio.sleep(4)
        await asyncio.sleep(RESUME_WITHIN)
        assert [(state.host, state.state) for state in hosts.snapshot()] == [
            ("late", "stale"),
            ("old", "fresh"),
        ]
        assert sorted(told) == ["joined late", "updated old"]
        await asyncio.sleep(HELD_FOR)
        assert hosts.snapshot() == ()
        assert sorted(told) == ["joined late", "left late", "left old", "updated old"]
    await telling


async def test_values_that_json_tells_apart_are_updates(fabric: Link) -> None:
    """True is no 1."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        told = Told(hosts)
        for value in (1, True, 1.0, 1.0):
            await sender.say({"x": value})
            await told.read()
        assert [change.host.capabilities["x"] for change in told.changes] == [1, True, 1.0]


# What is malformed


async def test_malformed_values_are_ignored_with_one_line(fabric: Link) -> None:
    """One line for each key, however often it is written, and one more if it is malformed after it was good."""
    bad, good = Sender(fabric, "bad"), Sender(fabric, "good")
    with captured() as logs:
        await bad.write(b"{")
        async with viewing() as hosts:
            for value in (b"", b"null", b'{"v":2}', b"[" * 100_000):
                await bad.write(value)
                await settle()
            await good.say({"x": 1})
            await settle()
            assert shown(hosts) == {"good": {"x": 1}}
            assert count(logs, "announcement.malformed") == 1
            await good.write(b"\xff")
            await settle()
            assert shown(hosts) == {"good": {"x": 1}}
            await bad.say({"x": 2})
            await settle()
            assert list(shown(hosts)) == ["bad", "good"]
            await asyncio.sleep(61)
            assert hosts.snapshot() == ()
    assert [entry["key"] for entry in logs] == ["compute.bad", "compute.good"]


async def test_many_malformed_keys_fill_neither_log_nor_memory(fabric: Link) -> None:
    """Beyond those that are remembered, the 1st, 2nd, 4th, 8th ... is logged (40, 43)."""
    with captured() as logs:
        async with viewing() as hosts:
            for index in range(1000):
                await Sender(fabric, f"n{index}").write(b"\x1b[2J" + b"x" * 100_000)
                await settle()
            assert len(hosts._malformed._told) == KEYS_KEPT
    assert KEYS_KEPT < len(logs) <= KEYS_KEPT + 10
    assert max(len(str(entry)) for entry in logs) < 1000
    assert str(logs[0]).isprintable()


async def test_malformed_key_is_an_episode(fabric: Link) -> None:
    """Good again, or deleted: what is malformed later is told again (43)."""
    sender = Sender(fabric)
    with captured() as logs:
        async with viewing():
            for end in (sender.say, sender.withdraw):
                for _ in range(3):
                    await sender.write(b"{")
                    await settle()
                await end()
                await settle()
            await sender.write(b"{")
            await settle()
    assert count(logs, "announcement.malformed") == 3


async def test_too_large_announcement_is_malformed(fabric: Link) -> None:
    """An engine may take more than we do (35)."""
    await Sender(fabric).say()
    shelf = fabric._fabric.shelves[STORE]
    with captured() as logs:
        async with viewing() as hosts:
            shelf.write("compute.n1", b" " * 8_000_000)
            await settle()
            assert len(hosts.snapshot()) == 1
    assert "8000000 bytes" in logs[0]["error"]


async def test_endless_ttl_is_capped(fabric: Link) -> None:
    """Who asks for a century is gone when the store forgets it (43)."""
    await Sender(fabric, ttl=3e9).say()
    async with viewing() as hosts:
        await asyncio.sleep(STORE_TTL / 2 + 1)
        assert hosts.snapshot()[0].state == "stale"
        await asyncio.sleep(STORE_TTL / 2)
        assert hosts.snapshot() == ()


async def test_last_incarnation_hides_no_host(fabric: Link) -> None:
    """Nothing is greater than 2^63 - 1, so everything follows it (43)."""
    sender = Sender(fabric, incarnation=2**63 - 1, ttl=3600.0)
    await sender.say({"x": 0})
    async with viewing() as hosts:
        assert shown(hosts) == {"n1": {"x": 0}}
        await sender.say({"x": 1}, incarnation=7, sequence=0)
        await settle()
        assert shown(hosts) == {"n1": {"x": 1}}
        await sender.say({"x": 2}, incarnation=6)
        await settle()
        assert shown(hosts) == {"n1": {"x": 1}}


async def test_announcement_under_another_hosts_key_is_malformed(fabric: Link) -> None:
    """Nobody speaks for another host."""
    with captured() as logs:
        sender = Sender(fabric, "n1")
        sender.fields["host"] = "n2"
        await sender.say()
        async with viewing() as hosts:
            assert hosts.snapshot() == ()
    assert "under another key" in logs[0]["error"]


# Readers of changes


async def test_several_readers_get_every_change(fabric: Link) -> None:
    """Each from its own call on, at its own pace."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        first = Told(hosts)
        await sender.say({"x": 1})
        await settle()
        second = Told(hosts)
        assert await first.read() == ["joined n1"]
        await sender.say({"x": 2})
        assert await first.read() == await second.read() == ["updated n1"]
        await sender.withdraw()
        assert await first.read() == await second.read() == ["left n1"]


async def test_nothing_is_missed_between_changes_and_snapshot(fabric: Link) -> None:
    """`changes()`, then `snapshot()`, with nothing awaited between: together they are the whole truth."""
    sender = Sender(fabric)
    async with viewing() as hosts:
        for x in range(20):
            await sender.say({"x": x})
            reader = hosts.changes()
            (seen,) = hosts.snapshot() or (None,)
            known = None if seen is None else seen.capabilities["x"]
            await sender.say({"x": x + 100})
            await settle()
            change = await anext(reader)
            assert change.kind == ("joined" if known is None else "updated")
            assert change.host.capabilities["x"] == x + 100


async def test_leaving_ends_the_readers(fabric: Link) -> None:
    """One that waits and one that has something left to read: its iteration ends, after what had come."""
    waited: list[str] = []
    async with viewing() as hosts:
        behind = hosts.changes()

        async def wait() -> None:
            async for change in hosts.changes():
                waited.append(change.kind)  # noqa: PERF401 - seen as it comes

        task = asyncio.create_task(wait())
        await settle()
        await Sender(fabric).say()
        await settle()
    async with asyncio.timeout(1):
        await task
        assert waited == ["joined"]
        assert [change.kind async for change in behind] == ["joined"]
        assert [change async for change in behind] == []


async def test_view_can_be_left_inside_its_own_iteration(fabric: Link) -> None:
    """Leaving while a change is handled ends the loop at its next step."""
    await Sender(fabric).say()
    async with contextlib.AsyncExitStack() as stack:
        hosts = await stack.enter_async_context(viewing())
        await Sender(fabric, "n2").say()
        async for _ in hosts.changes():
            await stack.aclose()
    assert now() == 0


async def test_cancelled_reader_loses_nothing(fabric: Link) -> None:
    """Waiting for a change with a timeout can be repeated on the same iterator."""
    async with viewing() as hosts:
        reader = hosts.changes()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(reader)
        await Sender(fabric).say()
        assert (await anext(reader)).kind == "joined"


async def test_slow_reader_gets_the_net_difference(fabric: Link) -> None:
    """At most one change of each node waits: memory is bounded by the nodes, not by what happens to them."""
    stays, comes, goes, flickers, back = (
        Sender(fabric, host) for host in ("stays", "comes", "goes", "flickers", "back")
    )
    for sender in (stays, goes, back):
        await sender.say({"x": 0})
    async with viewing() as hosts:
        reader: Any = hosts.changes()
        for x in range(1000):
            await stays.say({"x": x + 1})
            await comes.say({"x": x})
            await flickers.say({"x": x})
            await settle()
            await flickers.withdraw()
        await goes.say({"x": 1})
        await goes.withdraw()
        await back.withdraw()
        await settle()
        await back.say({"x": 9})
        await settle()
        assert len(reader._pending) == 4
        told = {
            change.host.host: (change.kind, change.host.capabilities["x"])
            for change in [await anext(reader) for _ in range(4)]
        }
        assert told == {
            "stays": ("updated", 1000),
            "comes": ("joined", 999),
            "goes": ("left", 1),
            "back": ("updated", 9),
        }


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (["other", "stale"], "updated"),
        (["stale", "other"], "updated"),
        (["stale", "same"], "updated"),
        (["stale", "gone"], "left"),
        (["other", "gone"], "left"),
        (["gone", "other"], "updated"),
        (["gone", "other", "gone"], "left"),
        (["gone", "other", "stale"], "updated"),
    ],
)
async def test_net_difference(fabric: Link, steps: list[str], kind: str) -> None:
    """Of what happened to a node that the reader knew as fresh, one change is left; its state is the latest."""
    sender = Sender(fabric)
    await sender.say({"x": 0})
    async with viewing() as hosts:
        told = Told(hosts)
        for step in steps:
            if step == "gone":
                await sender.withdraw()
            elif step == "stale":
                await asyncio.sleep(31)
            else:
                await sender.say({"x": 1 if step == "other" else 0})
            await settle()
        assert await told.read() == [f"{kind} n1"]
        for latest in hosts.snapshot():
            assert dataclasses.replace(told.changes[0].host, age=latest.age) == latest


async def test_reader_that_nobody_holds_is_forgotten(fabric: Link) -> None:
    """An iterator that was dropped keeps no buffer."""
    async with viewing() as hosts:
        for _ in range(10):
            hosts.changes()
        gc.collect()
        assert len(hosts._readers) == 0


class Folded:
    """A view that knows nothing but the changes that it was told."""

    def __init__(self, hosts: Hosts) -> None:
        self._reader: Any = hosts.changes()
        self.known: dict[str, HostState] = {_label(state): state for state in hosts.snapshot()}

    async def read(self) -> dict[str, Any]:
        while self._reader._has_items():
            change = await anext(self._reader)
            label = _label(change.host)
            assert (label in self.known) == (change.kind != "joined")
            self.known[label] = change.host
            if change.kind == "left":
                del self.known[label]
        return comparable(self.known.values())


def comparable(states: Iterable[HostState]) -> dict[str, Any]:
    """All of the states but what changes without a word: age and sequence."""
    return {_label(state): (state.capabilities, state.state, state.incarnation) for state in states}


async def happen(what: str, sender: Sender, chance: random.Random) -> None:
    """Something that may happen to a host."""
    if what == "report":
        await sender.say(
            nodes=tuple((node, {"x": chance.randrange(2)}) for node in "abc" if chance.random() < 0.5)
        )
    elif what == "refresh":
        await sender.say()
    elif what == "restart":
        await sender.say(incarnation=sender.fields["incarnation"] + 1, sequence=0)
    elif what == "withdraw":
        await sender.withdraw()
    elif what == "garble":
        await sender.write(b"garbled")
    else:
        await asyncio.sleep(chance.choice([0, 0.1, 5, 20, 31]))


@pytest.mark.parametrize("seed", range(30))
async def test_changes_add_up_to_the_snapshot(fabric: Link, seed: int) -> None:
    """Whatever happens, who reads each change, who reads now and then, and who looks at snapshots see the same."""
    chance = random.Random(seed)
    senders = [Sender(fabric, f"n{index}", ttl=chance.choice([10.0, 60.0])) for index in range(3)]
    kinds = ["report", "refresh", "restart", "withdraw", "garble", "wait", "wait"]
    async with memory() as transport, Hosts(transport) as hosts:
        quick, slow = Folded(hosts), Folded(hosts)
        outage = contextlib.ExitStack()
        for _ in range(300):
            await happen(chance.choice(kinds), chance.choice(senders), chance)
            if transport.connected and chance.random() < 0.05:
                outage.enter_context(transport.outage())
            elif chance.random() < 0.3:
                outage.close()
            await settle()
            assert await quick.read() == comparable(hosts.snapshot())
            if chance.random() < 0.1:
                assert await slow.read() == comparable(hosts.snapshot())
        outage.close()
        await asyncio.sleep(RESUME_WITHIN)
        for sender in senders:
            await sender.say(nodes=nodes("end"), incarnation=1000)
        await settle()
        assert list(shown(hosts)) == ["n0/end", "n1/end", "n2/end"]
        assert await quick.read() == await slow.read() == comparable(hosts.snapshot())


# Outages


async def test_silence_of_a_lost_feed_proves_nothing(fabric: Link) -> None:
    """While the view hears nothing, nobody is told stale or left, and its snapshot stays; one log event a change."""
    sender = Sender(fabric)
    await sender.say()
    with captured() as logs:
        async with memory() as transport, Hosts(transport, "compute") as hosts:
            told = Told(hosts)
            assert hosts.live
            with transport.outage():
                for _ in range(100):
                    await asyncio.sleep(60)
                    await sender.say()
                assert not hosts.live
                assert [(state.state, state.age) for state in hosts.snapshot()] == [("fresh", 6000)]
            await asyncio.sleep(RESUME_WITHIN)
            assert hosts.live
            assert hosts.snapshot()[0].age <= RESUME_WITHIN
            assert await told.read() == []
            await asyncio.sleep(100)
            assert await told.read() == ["left n1"]
    assert count(logs, "hosts.interrupted") == count(logs, "hosts.resumed") == 1
    assert {entry["service"] for entry in logs} == {"compute"}


async def test_outage_shows_nothing_twice(fabric: Link) -> None:
    """After it, readers are told what is different, and that only."""
    senders = {host: Sender(fabric, host) for host in ("same", "refreshed", "changed", "left", "restarted")}
    for sender in senders.values():
        await sender.say({"x": 0})
    async with memory() as transport, Hosts(transport) as hosts:
        told = Told(hosts)
        with transport.outage():
            await asyncio.sleep(5)
            await senders["refreshed"].say()
            await senders["changed"].say({"x": 1})
            await senders["left"].withdraw()
            await senders["restarted"].say(incarnation=2, sequence=0)
            await Sender(fabric, "new").say()
        await asyncio.sleep(RESUME_WITHIN)
        assert sorted(await told.read()) == ["joined new", "updated changed", "updated restarted"]
        await asyncio.sleep(RETURN_WITHIN)
        assert await told.read() == ["left left"]
        assert list(shown(hosts)) == ["changed", "new", "refreshed", "restarted", "same"]


async def test_store_that_came_back_empty_empties_no_view(fabric: Link) -> None:
    """Hosts that announce themselves again within moments were never gone; the others are, after `RETURN_WITHIN`."""
    alive, dead = Sender(fabric, "alive"), Sender(fabric, "dead")
    await alive.say()
    await dead.say()
    async with memory() as transport, Hosts(transport) as hosts:
        told = Told(hosts)
        with transport.outage():
            fabric._fabric.shelves[STORE]._records.clear()
        await asyncio.sleep(RESUME_WITHIN)
        assert list(shown(hosts)) == ["alive", "dead"]
        await alive.say()
        await asyncio.sleep(RETURN_WITHIN)
        assert await told.read() == ["left dead"]
        assert list(shown(hosts)) == ["alive"]
        await asyncio.sleep(20)
        assert list(shown(hosts)) == ["alive"]


async def test_host_restarted_unseen_is_taken_whatever_its_incarnation(fabric: Link) -> None:
    """A deletion may have been missed during an outage: then the store is believed."""
    sender = Sender(fabric, incarnation=5, sequence=9)
    await sender.say({"x": 0})
    async with memory() as transport, Hosts(transport) as hosts:
        with transport.outage():
            await sender.withdraw()
            await sender.say({"x": 1}, incarnation=3, sequence=0)
        await asyncio.sleep(RESUME_WITHIN)
        assert shown(hosts) == {"n1": {"x": 1}}


async def test_age_is_corrected_after_an_outage(fabric: Link) -> None:
    """The monotonic clock of a machine that sleeps stands still; the store's stamps tell what has passed."""
    await Sender(fabric).say()
    async with memory() as transport, Hosts(transport) as hosts:
        told = Told(hosts)
        with transport.outage():
            (record,) = fabric._fabric.shelves[STORE]._records.items()
            fabric._fabric.shelves[STORE]._records[record[0]] = dataclasses.replace(
                record[1], written=now() - 45
            )
        await asyncio.sleep(RESUME_WITHIN)
        assert hosts.snapshot()[0].age == pytest.approx(45 + RESUME_WITHIN)
        assert await told.read() == []
        await asyncio.sleep(HELD_FOR)
        assert await told.read() == ["left n1"]


async def test_lost_store_is_looked_for_patiently(fabric: Link) -> None:
    """In an hour there are tries with a growing pause, not one each second."""
    async with memory() as transport, Hosts(transport):
        tries = 0
        opened = transport.store

        async def store(*args: Any, **kwargs: Any) -> Any:
            nonlocal tries
            tries += 1
            return await opened(*args, **kwargs)

        transport.store = store  # type: ignore[method-assign]
        with transport.outage():
            await asyncio.sleep(3600)
        assert 100 < tries < 260


async def test_whatever_a_transport_raises_is_survived(fabric: Link) -> None:
    """An exception that no transport should raise interrupts the view and does not end it."""
    await Sender(fabric).say()
    with captured() as logs:
        async with memory() as transport, Hosts(transport) as hosts:
            for watch in transport._watches:
                watch.end(RuntimeError("what a transport should not raise"))
            await asyncio.sleep(5)
            await Sender(fabric, sequence=4).say({"x": 1})
            await settle()
            assert shown(hosts) == {"n1": {"x": 1}}
    assert [entry["event"] for entry in logs] == ["hosts.interrupted", "hosts.resumed"]
    assert isinstance(logs[0]["exc_info"], RuntimeError)


async def test_entering_without_the_store_raises() -> None:
    """There is no snapshot to show; whoever enters decides what then. It may be tried again."""
    async with memory() as transport:
        hosts = Hosts(transport)
        with transport.outage(), pytest.raises(TransportError, match="not connected"):
            await hosts.__aenter__()
        async with hosts:
            assert hosts.snapshot() == ()
        await transport.aclose()
        with pytest.raises(TransportClosed):
            await hosts.__aenter__()


async def test_closed_transport_ends_the_readers_and_lets_the_view_age(fabric: Link) -> None:
    """Nothing more can be learnt: iterations end, new ones too, and what is known goes at its time."""
    await Sender(fabric).say()
    with captured() as logs:
        async with memory() as transport, Hosts(transport) as hosts:
            reader = hosts.changes()
            await transport.aclose()
            assert [change async for change in reader] == []
            assert [change async for change in hosts.changes()] == []
            assert list(shown(hosts)) == ["n1"]
            await asyncio.sleep(61)
            assert hosts.snapshot() == ()
    assert logs == []


@pytest.mark.parametrize("given", ["transport", "url"])
@pytest.mark.parametrize("turns", range(10))
async def test_entering_cancelled_anywhere_leaves_nothing(fabric: Link, turns: int, given: str) -> None:
    """Whichever await it is cut off at, no task, watch, listener or connection stays."""
    await Sender(fabric).say()
    async with memory() as transport:
        users = fabric._fabric.users
        hosts = Hosts(transport if given == "transport" else "memory://fabric")
        entering = asyncio.create_task(hosts.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entered = entering.done()
        entering.cancel()
        await asyncio.wait({entering})
        if entered:
            await hosts.__aexit__(None, None, None)
        assert entered or entering.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert transport._listeners == []
        assert transport._watches == set()
        assert fabric._fabric.shelves[STORE].watches == {}
        assert fabric._fabric.users == users
        assert not entered or (not hosts._ageing._timer.is_set and hosts._ageing._turn is None)
    assert not entered or turns > 3


@pytest.mark.parametrize("turns", range(6))
async def test_entering_cancelled_while_it_fails_is_quiet(turns: int) -> None:
    """An error that nobody waits for any more is not left for asyncio to complain of."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with memory() as transport:
        with transport.outage():
            entering = asyncio.create_task(Hosts(transport).__aenter__())
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait({entering})
            assert entering.cancelled() or isinstance(entering.exception(), TransportError)
            del entering
            gc.collect()
            await asyncio.sleep(0)
    assert complaints == []


# Choosing


async def choose(
    fabric: Link, hosts: dict[str, Any], *weighers: Any, filters: Any = (), count: int = 10
) -> list[str]:
    for host, capabilities in hosts.items():
        await Sender(fabric, host).say(capabilities)
    async with viewing() as view:
        return [state.host for state in view.select(filters=filters, weighers=weighers, count=count)]


def ram(state: HostState) -> float:
    return state.capabilities["ram"]  # type: ignore[no-any-return]


def disk(state: HostState) -> float:
    return state.capabilities["disk"]  # type: ignore[no-any-return]


class Times:
    """A weigher that counts `multiplier` times."""

    def __init__(self, weigher: Any, multiplier: float) -> None:
        self._weigher = weigher
        self.multiplier = multiplier

    def __call__(self, state: HostState) -> float:
        weight: float = self._weigher(state)
        return weight


async def test_best_come_first(fabric: Link) -> None:
    """By weight, most first."""
    assert await choose(fabric, {"a": {"ram": 1}, "b": {"ram": 3}, "c": {"ram": 2}}, ram) == ["b", "c", "a"]


async def test_count_limits_and_fewer_may_come(fabric: Link) -> None:
    """One by default; none of none."""
    hosts = {"a": {"ram": 1}, "b": {"ram": 3}}
    assert await choose(fabric, hosts, ram, count=1) == ["b"]
    assert await choose(fabric, hosts, ram, count=0) == []
    assert await choose(fabric, hosts, ram, count=5) == ["b", "a"]
    assert await choose(fabric, hosts, ram, filters=[lambda state: False]) == []
    async with viewing() as view:
        assert len(view.select()) == 1
        with pytest.raises(ValueError, match="count is -1"):
            view.select(count=-1)


async def test_every_filter_has_to_pass(fabric: Link) -> None:
    """Weighers see only what passed, so that a filter protects them from what they cannot read."""
    filters = [lambda state: "ram" in state.capabilities, lambda state: state.host != "b"]
    assert await choose(fabric, {"a": {"ram": 1}, "b": {"ram": 9}, "c": {}}, ram, filters=filters) == ["a"]


async def test_filters_and_weighers_may_be_iterators(fabric: Link) -> None:
    """Each is gone through once."""
    await Sender(fabric, "a").say({"ram": 1})
    await Sender(fabric, "b").say({"ram": 2})
    async with viewing() as view:
        chosen = view.select(filters=iter([lambda state: True]), weighers=iter([ram]), count=2)
        assert [state.host for state in chosen] == ["b", "a"]


async def test_only_fresh_hosts_are_chosen(fabric: Link) -> None:
    """A stale one is not, however good it was."""
    await Sender(fabric, "stale").say({"ram": 9})
    await asyncio.sleep(31)
    assert await choose(fabric, {"a": {"ram": 1}}, ram) == ["a"]


async def test_weights_are_normalised(fabric: Link) -> None:
    """A weigher in bytes does not outweigh one in cores: each is worth 0 to 1."""
    hosts = {
        "a": {"ram": 1_000_000, "disk": 1},
        "b": {"ram": 2_000_000, "disk": 4},
        "c": {"ram": 3_000_000, "disk": 2},
    }
    assert await choose(fabric, hosts, ram, disk) == ["b", "c", "a"]
    assert await choose(fabric, hosts, ram) == ["c", "b", "a"]


async def test_multipliers_say_how_much_a_weigher_counts(fabric: Link) -> None:
    """After the normalisation; a negative one prefers the least."""
    hosts = {"a": {"ram": 1, "disk": 3}, "b": {"ram": 3, "disk": 1}, "c": {"ram": 2, "disk": 2.5}}
    assert await choose(fabric, hosts, Times(ram, 2), disk) == ["b", "c", "a"]
    assert await choose(fabric, hosts, Times(ram, 0.5), disk) == ["a", "c", "b"]
    assert await choose(fabric, hosts, Times(ram, -1)) == ["a", "c", "b"]
    assert await choose(fabric, hosts, Times(ram, 0)) == ["a", "b", "c"]


async def test_equals_keep_their_order(fabric: Link) -> None:
    """Ties, and everything without weighers, come as in the snapshot."""
    hosts = {f"h{index}": {"ram": index % 2} for index in (4, 2, 0, 3, 1)}
    assert await choose(fabric, hosts, ram) == ["h1", "h3", "h0", "h2", "h4"]
    assert await choose(fabric, hosts) == ["h0", "h1", "h2", "h3", "h4"]


@pytest.mark.parametrize("weight", [None, "much", math.nan, math.inf, [], 10**400])
async def test_weight_that_is_no_number_is_refused(fabric: Link, weight: Any) -> None:
    """The error names the weigher, what it gave, and for which node."""
    with pytest.raises(ValueError, match=r"the weigher .* gave .* for compute/a/; give a finite number"):
        await choose(fabric, {"a": {}}, lambda state: weight)


async def test_presence_is_chosen_only_if_filters_let_it(fabric: Link) -> None:
    """A host that has reported nothing is a node without capabilities; one that reported no node is none."""
    assert await choose(fabric, {"a": {}}) == ["a"]
    await Sender(fabric, "a", sequence=5).say(nodes=())
    assert await choose(fabric, {}) == []


# Together


async def test_services_and_view_in_one_process() -> None:
    """Three services, one view: presence, capabilities, updates, withdrawal."""
    agents = {host: Agent() for host in ("n1", "n2", "n3")}
    async with memory() as transport, Hosts(transport, service="compute") as hosts:
        told = Told(hosts)
        async with contextlib.AsyncExitStack() as stack:
            for host, agent in agents.items():
                await stack.enter_async_context(make_service(agent, transport=transport, host=host))
            assert sorted(await told.read()) == ["joined n1", "joined n2", "joined n3"]
            for free, agent in enumerate(agents.values()):
                agent.update_service_capabilities({"ram": free})
            await asyncio.sleep(1)
            assert [state.host for state in hosts.select(weighers=[ram], count=2)] == ["n3", "n2"]
            assert sorted(await told.read()) == ["updated n1", "updated n2", "updated n3"]
            agents["n1"].update_service_capabilities([{"node": "a"}, {"node": "b"}])
            await asyncio.sleep(1)
            assert await told.read() == ["joined n1/a", "joined n1/b", "left n1"]
            agents["n1"].update_service_capabilities([])
            await asyncio.sleep(1)
            assert await told.read() == ["left n1/a", "left n1/b"]
            await asyncio.sleep(600)
            assert await told.read() == []
        assert sorted(await told.read()) == ["left n2", "left n3"]


async def test_outage_of_everything_is_over_when_it_is_over() -> None:
    """Services and readers on one connection: an hour without it, then all is as before, with one event each."""
    agent = Agent()
    with captured() as logs:
        async with (
            memory() as transport,
            Hosts(transport) as hosts,
            make_service(agent, transport=transport),
        ):
            with transport.outage():
                for x in range(3600):
                    agent.update_service_capabilities({"x": x})
                    await asyncio.sleep(1)
                assert shown(hosts) == {"n1": {}}
            await asyncio.sleep(2 * RESUME_WITHIN)
            assert shown(hosts) == {"n1": {"x": 3599}}
    events = [
        entry["event"] for entry in logs if entry["event"].split(".")[0] in ("announcement", "hosts", "host")
    ]
    assert sorted(events) == [
        "announcement.failed",
        "announcement.resumed",
        "hosts.interrupted",
        "hosts.resumed",
    ]
