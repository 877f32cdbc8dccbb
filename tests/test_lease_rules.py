"""The rules and records of leases, each by itself."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from typing import Any

import pytest

from asyncmgr._leases.elapsed import HostClock
from asyncmgr._leases.keys import kept_key, lease_key, session_key, session_of, task_key, title_of
from asyncmgr._leases.records import ClaimRecord, Foreign, SessionRecord, SlotRecord, decode
from asyncmgr._leases.rules import Readings, Rules
from asyncmgr.errors import InvalidName

rules = Rules(random.Random(1))


def test_an_identity_is_drawn() -> None:
    """Two processes of one name are two; without a source it is the system that draws."""
    assert len({rules.identity("web") for _ in range(100)}) == 100
    assert rules.identity("web").startswith("web~")
    assert len(Rules().identity("a")) == 10


@pytest.mark.parametrize(
    ("then", "now", "elapsed"),
    [
        ((10, 100, 1000), (15, 105, 1005), 5),
        ((10, 100, 1000), (15, 135, 1035), 35),  # the machine slept
        ((10, 100, 1000), (15, 105, 400), 5),  # the wall was set back
        ((10, 100, 1000), (15, 105, 1100), 100),  # or forward: in doubt
        ((10, 100, 1000), (10, 100, 900), 0),
    ],
)
def test_time_passed_is_the_most_that_any_clock_says(then: Any, now: Any, elapsed: float) -> None:
    assert rules.elapsed(Readings(*then), Readings(*now)) == elapsed


def test_trust_counts_from_the_start_of_the_attempt() -> None:
    """It ends after three quarters of the TTL; the rest is for bodies to unwind."""
    assert rules.trust_begins(Readings(1, 1, 1), Readings(2, 2, 2)) == Readings(1, 1, 1)
    assert rules.is_trusted(7.49, 10)
    assert not rules.is_trusted(7.5, 10)
    assert rules.unwinding_lasts(10) == 2.5


def test_renewals_are_spread() -> None:
    drawn = [rules.renew_in(10) for _ in range(1000)]
    assert 3.0 <= min(drawn) < 3.02
    assert 3.31 < max(drawn) <= 10 / 3
    assert all(0.2 <= rules.retry_in() <= 0.6 for _ in range(100))
    assert rules.call_deadline(10) == 1


def test_a_renewal_of_ours_is_adopted() -> None:
    """The record after a conflict is ours where its number is that of a doubtful attempt."""
    record = SessionRecord("a~1", "a", 10, 4)
    assert rules.adopts(record, "a~1", {4, 5})
    assert not rules.adopts(record, "a~1", {5})
    assert not rules.adopts(record, "a~2", {4})
    assert not rules.adopts(SessionRecord("a~1", "a", 10, 4, "dead"), "a~1", {4})


def test_only_a_written_death_is_one() -> None:
    assert not rules.is_dead(None)
    assert not rules.is_dead(SessionRecord("a~1", "a", 10, 4))
    assert rules.is_dead(SessionRecord("a~1", "a", 10, 4, "dead"))


def test_tokens_grow_over_a_wipe() -> None:
    """By the store's clock, and by the revision of the claim."""
    assert rules.next_token(5, 9, 7) == 10
    assert rules.next_token(5, 9, 1000) == 1001
    assert rules.next_token(2**53, 0, 0) == 2**53 - 1
    assert rules.token_of(ClaimRecord("a~1", 10, 10), 7) == 10
    assert rules.token_of(ClaimRecord("a~1", 10, 10), 12) == 12


def test_the_store_went_back() -> None:
    """A key that has a lower revision than was seen, or that is gone."""
    assert not rules.went_back({"a": 3}, {"a": 3, "b": 1})
    assert rules.went_back({"a": 3}, {"a": 2})
    assert rules.went_back({"a": 3}, {})


def test_ranks_are_a_permutation_and_spread_evenly() -> None:
    live = [f"h~{number:08x}" for number in range(10)]
    first = dict.fromkeys(live, 0)
    for number in range(1000):
        ranks = {inc: rules.rank(f"task{number}", inc, live) for inc in live}
        assert sorted(ranks.values()) == list(range(10))
        first[min(ranks, key=ranks.__getitem__)] += 1
    assert 60 < min(first.values()) <= max(first.values()) < 140


@pytest.mark.parametrize(
    "record",
    [
        SessionRecord("a~1", "a", 10.0, 4),
        SessionRecord("a~1", "a", 10.0, 4, "dead"),
        SessionRecord("a~1", "a", 10.0, 4, wants="s.t.M.job"),
        ClaimRecord(None, 4, 10.0),
        ClaimRecord("a~1", 2**53 - 1, 10.0),
        SlotRecord(1, 2, -3, 0, "claimed", "a~1"),
        SlotRecord(1, 9, -3, 1_000_000, "missed", "a~1", oldest=4),
    ],
)
def test_records_are_json_and_come_back(record: Any) -> None:
    assert decode(type(record), record.encode(), rules.knows) == record
    assert json.loads(record.encode())["v"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": None},
        {"token": "4"},
        {"token": True},
        {"token": 2**53},
        {"ttl": 0},
        {"ttl": float("inf")},
        {"owner": 4},
    ],
)
def test_what_is_not_understood_is_foreign(change: dict[str, Any]) -> None:
    """Another version, and whatever is malformed."""
    fields = {"v": 1, "owner": "a~1", "token": 4, "ttl": 10, **change}
    assert isinstance(decode(ClaimRecord, json.dumps(fields).encode(), rules.knows), Foreign)


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b"\xff", b"1", b'{"v":1}', None])
def test_garbage_is_foreign(value: bytes | None) -> None:
    assert isinstance(decode(ClaimRecord, value, rules.knows), Foreign)


def test_unknown_fields_change_nothing() -> None:
    fields = {"v": 1, "owner": "a~1", "token": 4, "ttl": 10, "colour": "red"}
    assert decode(ClaimRecord, json.dumps(fields).encode(), rules.knows) == ClaimRecord("a~1", 4, 10)


def test_keys() -> None:
    """Names may hold anything; keys of applications do not meet."""
    assert session_of(session_key("my app", "web.1~0a0b0c0d")) == "web.1~0a0b0c0d"
    assert session_of("s.t.M.job") is None
    assert title_of(task_key("s", "Pool.eu.sync")) == ("task", "Pool.eu.sync")
    assert title_of(lease_key("s", "nightly report")) == ("lease", "nightly report")
    assert title_of("x") == ("unknown", "x")
    assert kept_key("s", "h", "M.job") == "s.p.h.M.job"
    with pytest.raises(InvalidName):
        lease_key("s", "x" * 129)


async def test_in_virtual_time_no_real_clock_is_read(virtual_time: Any) -> None:
    """Else no run of a simulation would repeat."""
    clock = HostClock(rules)
    before = clock.read()
    assert before.boot == 0
    await asyncio.sleep(5)
    assert clock.since(before) == 5
    assert clock.read() == (before.monotonic + 5, 0, before.wall + 5)


async def test_a_real_loop_shows_real_clocks() -> None:
    clock = HostClock(rules)
    assert clock.read().boot > 0
    assert clock.since(clock.read()) < 60


def test_without_a_scope_nothing_of_this_is_imported() -> None:
    """A service whose tasks every process runs pays nothing."""
    program = """
import asyncio, sys
from asyncmgr import Manager, Service, periodic_task

class M(Manager):
    @periodic_task(spacing=60)
    async def work(self, context): ...

async def main():
    async with Service(M()):
        await asyncio.sleep(0)

asyncio.run(main())
sys.exit(int(any(name.startswith("asyncmgr._leases") for name in sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
