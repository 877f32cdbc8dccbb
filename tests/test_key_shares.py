"""Hosts share out the keys of a task: each key has one host, whoever comes, goes, dies or loses the store."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from asyncmgr import NotOwner, RunContext
from asyncmgr._leases.key_shard import _Closing
from asyncmgr._leases.key_shares import KeyShares
from asyncmgr._leases.records import CLAIMS
from asyncmgr._leases.rules import Rules
from asyncmgr._leases.shards import choose_excess, choose_free, shard_of
from asyncmgr._service.manager import state_of
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr.events import LeaseReleased, SlotSkipped
from asyncmgr.testing._virtual import START
from tests.workers import Fault, Worker

pytestmark = pytest.mark.usefixtures("virtual_time")

SPACING = 10.0
KEYS = [f"10.0.{number // 250}.{number % 250}" for number in range(400)]


class Poll(NamedTuple):
    """One run of a key."""

    at: float
    host: str
    key: Hashable
    token: int | None
    trigger: str
    slot: float


class Net:
    """What the devices see: who polls them when, and whether two hosts do so at once."""

    def __init__(self) -> None:
        self.polls: list[Poll] = []
        self.active: dict[Hashable, str] = {}
        self.twice: list[tuple[Hashable, str, str]] = []

    def check_slots(self, since: float) -> None:
        """Every key has each of its slots, once."""
        slots: dict[Hashable, list[float]] = defaultdict(list)
        for poll in self.polls:
            if poll.at >= since:
                slots[poll.key].append(poll.slot)
        for key, found in slots.items():
            assert [round(late - early, 2) for early, late in pairwise(found)] == [SPACING] * (
                len(found) - 1
            ), key

    def of(self, key: Hashable) -> list[float]:
        return [poll.at for poll in self.polls if poll.key == key]

    def gaps(self, since: float = 0.0, until: float = 1e9) -> dict[Hashable, float]:
        """The longest time between two polls of each key, or from `since` to the first one."""
        seen: dict[Hashable, list[float]] = defaultdict(list)
        for poll in self.polls:
            if since <= poll.at <= until:
                seen[poll.key].append(poll.at)
        return {
            key: max(late - early for early, late in pairwise([since, *moments]))
            for key, moments in seen.items()
        }


class Poller(Worker):
    """One host that polls."""

    def __init__(
        self, host: str, net: Net, *, lasts: float = 0.05, keys: Iterable[str] = KEYS, **options: Any
    ) -> None:
        super().__init__(
            host, [], **{name: options.pop(name) for name in ("ttl", "settings") if name in options}
        )
        self.net, self.lasts, self.keys = net, lasts, list(keys)
        self.slow: dict[Hashable, float] = {}
        self.add("poll", spacing=SPACING, each=lambda: self.keys, **options)

    async def work(self, context: RunContext, key: str) -> None:  # type: ignore[override]
        net, loop = self.net, asyncio.get_running_loop()
        if key in net.active:
            net.twice.append((key, net.active[key], self.host))
        net.active[key] = self.host
        net.polls.append(
            Poll(
                round(loop.time(), 3),
                self.host,
                context.key,
                context.fencing_token,
                context.trigger,
                context.slot.timestamp(),
            )
        )
        try:
            await asyncio.sleep(self.slow.get(key, self.lasts))
        finally:
            net.active.pop(key, None)

    @property
    def task(self) -> KeyedTask:
        task = state_of(self.manager).tasks()["M.poll"]
        assert isinstance(task, KeyedTask)
        return task

    @property
    def shares(self) -> KeyShares:
        assert isinstance(self.task.share, KeyShares)
        return self.task.share

    @property
    def shards(self) -> set[int]:
        return {shard.number for shard in self.shares.shards if shard.is_active}


@asynccontextmanager
async def pollers(
    *hosts: str, settle: float = 5.0, **options: Any
) -> AsyncIterator[tuple[Net, list[Poller]]]:
    net = Net()
    async with AsyncExitStack() as stack:
        team = [Poller(host, net, **options) for host in hosts]
        for poller in team:
            await stack.enter_async_context(poller)
        await asyncio.sleep(settle)
        yield net, team


def claims_after(delay: float) -> Fault:
    """Make each change of a claim take some seconds."""
    return lambda verb, store, key: delay if verb in ("create", "update") and store == CLAIMS else None


def check_shares(team: list[Poller]) -> None:
    """Every shard has one host, and each host no more than its quota."""
    held = Counter(shard for poller in team for shard in poller.shards)
    assert set(held) == set(range(256))
    assert set(held.values()) == {1}
    quota = Rules().shard_quota(256, len(team))
    assert max(len(poller.shards) for poller in team) <= quota
    assert {key for poller in team for key in poller.task.keys.ring.known} == set(KEYS)


async def test_hosts_share_out_the_keys() -> None:
    """Each key is polled once in each spacing, by one host."""
    async with pollers("a", "b", "c") as (net, team):
        check_shares(team)
        before = len(net.polls)
        await asyncio.sleep(2 * SPACING)
        assert len(net.polls) - before == 2 * len(KEYS)
        assert not net.twice
        by_host = Counter(poll.host for poll in net.polls[before:])
        assert max(by_host.values()) / (2 * len(KEYS) / 3) < 1.2
        assert all(not poller.of(SlotSkipped) for poller in team)
        assert all(poll.token for poll in net.polls)


async def test_a_host_that_joins_takes_its_own_share_only() -> None:
    """No key moves between two hosts that were there before; none waits for longer than a second."""
    async with pollers("a", "b", "c", settle=25.0) as (net, team):
        before = {poller.host: poller.shards for poller in team}
        joined = asyncio.get_running_loop().time()
        d = Poller("d", net)
        async with d:
            await asyncio.sleep(5)
            check_shares([*team, d])
            for poller in team:
                assert poller.shards <= before[poller.host]
            await asyncio.sleep(2 * SPACING)
            assert not net.twice
            gaps = net.gaps(joined - SPACING)
            assert len(gaps) == len(KEYS)
            assert max(gaps.values()) <= SPACING + 1
            net.check_slots(0)


async def test_a_host_that_leaves_moves_its_share_only() -> None:
    """At a SIGTERM the others have its keys at once; no slot is lost or doubled."""
    async with pollers("a", "b", "c", settle=25.0) as (net, team):
        gone, rest = team[0], team[1:]
        before = {poller.host: poller.shards for poller in rest}
        left = asyncio.get_running_loop().time()
        await gone.service.stop()
        await asyncio.sleep(3)
        check_shares(rest)
        for poller in rest:
            assert poller.shards >= before[poller.host]
        await asyncio.sleep(2 * SPACING)
        assert not net.twice
        assert max(net.gaps(left - SPACING).values()) <= SPACING + 1
        net.check_slots(0)


async def test_the_keys_of_a_dead_host_are_caught_up() -> None:
    """The others have them within TTL + 1 s; a key that had a slot meanwhile gets one run for it."""
    async with pollers("a", "b", "c", settle=25.0) as (net, team):
        dead, *rest = team
        died = asyncio.get_running_loop().time()
        dead.vanish()
        await asyncio.sleep(11.2)
        check_shares(rest)
        assert not dead.shards
        await asyncio.sleep(2 * SPACING)
        assert not net.twice
        assert max(net.gaps(died - SPACING).values()) <= SPACING + 11
        tokens: dict[Hashable, int] = {}
        for poll in net.polls:
            assert poll.token is not None
            assert poll.token >= tokens.get(poll.key, 0)
            tokens[poll.key] = poll.token
        late = [poll for poll in net.polls if poll.trigger == "catch_up" and poll.at > died]
        assert late
        assert max(Counter(poll.key for poll in late).values()) == 1


async def test_a_run_that_goes_on_keeps_its_shard_and_no_other() -> None:
    """A shard is handed over when its runs have ended; a key that hangs holds up its own shard only."""
    async with pollers("a", "b", settle=25.0) as (net, team):
        hung = {shard_of("M.poll", key, 256) for key in KEYS[:5]}
        for poller in team:
            poller.slow = dict.fromkeys(KEYS[:5], 1000.0)
        await asyncio.sleep(SPACING)
        joined = asyncio.get_running_loop().time()
        c = Poller("c", net)
        async with c:
            await asyncio.sleep(5)
            assert len(c.shards) >= 80
            assert not c.shards & hung
            await asyncio.sleep(3 * SPACING)
            assert not net.twice
            others = [gap for key, gap in net.gaps(joined - SPACING).items() if key not in KEYS[:5]]
            assert max(others) <= SPACING + 1


async def test_a_host_without_the_store_stops_and_comes_back() -> None:
    """Its runs are cancelled at the end of its trust; it has its share again when the store is back."""
    async with pollers("a", "b", lasts=3.0, settle=25.0) as (net, (a, b)):
        a.vanish()
        await asyncio.sleep(12)
        assert a.ended == []
        assert not a.shards
        assert len(b.shards) == 256
        a.return_()
        await asyncio.sleep(20)
        check_shares([a, b])
        await asyncio.sleep(2 * SPACING)
        assert not net.twice


async def test_a_key_is_triggered_where_it_runs() -> None:
    async with pollers("a", "b") as (net, (a, b)):
        key = next(iter(a.task.keys.ring.known))
        with pytest.raises(NotOwner, match=r"a~[0-9a-f]{8} holds it"):
            await b.service.task("M.poll").key(str(key)).trigger()
        before = sum(poll.key == key for poll in net.polls)
        await a.service.task("M.poll").key(str(key)).trigger()
        assert sum(poll.key == key for poll in net.polls) == before + 1  # others run meanwhile


async def test_a_trigger_meets_a_shard_that_starts_no_run() -> None:
    """It is about to be handed over: its holder does not send the caller to itself."""
    async with pollers("a", settle=15.0) as (_net, (a,)):
        key = str(KEYS[0])
        shard = a.shares._shard_of_key(key)
        shard._closing = _Closing(shard._reached(), [])
        with pytest.raises(NotOwner, match="this process is about to take it over, or to give it up"):
            await a.service.task("M.poll").key(key).trigger()
        shard._open_again()
        assert shard.runs == 0
        await a.service.task("M.poll").key(key).trigger()


async def test_a_new_key_runs_on_one_host() -> None:
    """With `run_immediately` at its coming, and once, whoever holds its shard."""
    async with pollers("a", "b", "c", run_immediately=True) as (net, team):
        ring = team[0].task.keys.ring
        for key, runs in Counter(poll.key for poll in net.polls if poll.at < 1).items():
            assert runs <= 1 + (ring.phase_of(key) < 1_200_000), key  # its first slot may come as soon
        for poller in team:
            poller.keys = [*KEYS, "new"]
        await asyncio.sleep(3 * SPACING)
        assert len(net.of("new")) in (3, 4)
        assert len({poll.host for poll in net.polls if poll.key == "new"}) == 1


async def test_a_key_that_moves_does_not_run_at_once_again() -> None:
    """Hosts that start together, join and leave: each key runs at its first coming, and then for its slots only."""
    async with pollers("a", "b", "c", run_immediately=True, settle=25.0) as (net, team):
        d = Poller("d", net, run_immediately=True)
        async with d:
            await asyncio.sleep(12)
        await team[0].service.stop()
        await asyncio.sleep(25)
        assert not net.twice
        ring = team[1].task.keys.ring
        for key in KEYS:
            polls = [poll for poll in net.polls if poll.key == key]
            late = [(poll.slot - ring.phase_of(key) / 1e6) % SPACING for poll in polls]
            beside = [
                poll for poll, passed in zip(polls, late, strict=True) if 0.01 < passed < SPACING - 0.01
            ]
            assert beside in ([], polls[:1]), (key, polls)  # its coming may be its slot


async def test_a_shard_that_was_claimed_and_never_run_begins_where_its_last_runner_stopped() -> None:
    """A host that stops while its claims are on their way passes on what it learnt; it has run none of these keys."""
    async with pollers("a", "b", "c", settle=25.0) as (net, (a, b, c)):
        a.wire.fault, c.wire.fault = claims_after(0.3), claims_after(0.5)
        before = len(a.shards)
        await b.service.stop()
        a.wire.calls.clear()
        await asyncio.sleep(0.1)
        await a.service.stop()
        released = [key for verb, store, key in a.wire.calls if verb == "update" and store == CLAIMS]
        assert len(released) > before == len(a.of(LeaseReleased))  # also some on which it never acted
        await asyncio.sleep(SPACING + 2)
        assert c.shards == set(range(256))
        net.check_slots(0)


async def test_a_host_catches_up_slots_from_before_its_own_start() -> None:
    """It starts a second into a turn of the grid; the last holder stopped two seconds before that turn."""
    async with pollers("a", settle=28.0) as (net, (a,)):
        await a.service.stop()
        await asyncio.sleep(3)
        async with Poller("b", net):
            await asyncio.sleep(2 * SPACING)
            assert len({poll.key for poll in net.polls if poll.host == "b"}) == len(KEYS)
            net.check_slots(0)


async def test_hosts_that_begin_together_run_no_slot_from_before() -> None:
    """A shard that goes from one to the other before anybody has run it owes nothing."""
    await asyncio.sleep(3)
    async with AsyncExitStack() as stack:
        net = Net()
        slow = [Poller(host, net) for host in "abc"]
        for poller in slow:
            poller.wire.fault = claims_after(0.3)
        for poller in slow:
            await stack.enter_async_context(poller)
            await asyncio.sleep(0.1)
        await asyncio.sleep(2 * SPACING)
        check_shares(slow)
        began = START.timestamp() + 3.0
        assert min(poll.slot for poll in net.polls) >= began


@pytest.mark.slow
@pytest.mark.parametrize("stay", [0.02, 0.3, 1.0, 4.0])
async def test_no_slot_comes_twice_when_two_hosts_leave_at_once(stay: float) -> None:
    """The one that leaves last may have claimed what the other gave up."""
    for apart in (0.0, 0.05):
        async with pollers("a", "b", "c", settle=12.0 + stay) as (net, team):
            async with Poller("d", net):
                await asyncio.sleep(stay)
            await asyncio.sleep(apart)
            await team[0].service.stop()
            await asyncio.sleep(SPACING + 1)
            assert not net.twice
            net.check_slots(0)


async def test_the_number_of_shards_is_agreed_on() -> None:
    """The first host writes it down; others take it over whatever their settings say."""
    async with pollers("a", settings={}) as (net, (a,)):
        b = Poller("b", net)
        b.service.settings.lease.__dict__["shards"] = 7
        async with b:
            await asyncio.sleep(3)
            assert len(b.shares.shards) == 256
            check_shares([a, b])


async def test_quotas_and_choices() -> None:
    assert [Rules().shard_quota(256, hosts) for hosts in (1, 3, 10, 300)] == [256, 86, 26, 1]
    assert len(choose_free(range(10), 3, 8, "a")) == 5
    assert choose_free(range(10), 9, 8, "a") == []
    assert choose_excess({1, 2, 3}, 3, "a", (), ()) == []
    assert choose_excess({1, 2, 3}, 2, "a", {3}, {3}) == [3]  # it is on its way already
    assert choose_excess({1, 2}, 1, "a", (), {1}) == [2]
