"""`Rules`: every decision of the protocol by which one process of many holds a name. Pure, and without state.

Each method is one rule, and the code of the protocol asks it in one place. A simulation takes a rule away by a subclass
that overrides one method, and must then see a promise broken. Seconds are floats. The sections below follow the
numbers of the design: 1 identity, 2 trust, 3 renewal, 4 death, 5 claims, 6 tokens, 7 and 8 slots, 9 loss, 10 release,
11 fairness.

The promises that these rules keep: a slot starts at most once in the cluster, whatever clocks and pauses do, while the
store keeps acknowledged writes; two hosts do not run a task at once while their clock rates differ by less than a
quarter and bodies end within a quarter of the TTL after they are cancelled.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import NamedTuple

from asyncmgr._leases.records import LARGEST, VERSION, ClaimRecord, SessionRecord, SlotRecord


class Readings(NamedTuple):
    """One reading of the clocks of this host, in seconds. A clock that the host does not have reads 0."""

    monotonic: float
    """The event loop's time. It may stand still while the machine sleeps."""
    boot: float
    """The time since the machine started, its sleep included."""
    wall: float
    """The wall clock, which anybody may set."""


class Rules:
    """The rules of one process.

    Parameters
    ----------
    source
        Draws identities and jitter. Default: the system's generator, so that processes that forked never draw alike.
    """

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source or random.SystemRandom()

    # 1 Identity

    def identity(self, host: str) -> str:
        """Draw the identity of a session: never the mere host name, which two processes may share."""
        return f"{host}~{self._source.getrandbits(32):08x}"

    # Versions

    def knows(self, version: object) -> bool:
        """Whether a record of this version may be acted on, changed or deleted."""
        return version == VERSION and not isinstance(version, bool)

    # 2 Trust

    def elapsed(self, then: Readings, now: Readings) -> float:
        """Return the time passed here: the most that any clock says, since each may stand still or be set back."""
        # Not by a loop over the clocks: it is asked at every step.
        return max(0.0, now.monotonic - then.monotonic, now.boot - then.boot, now.wall - then.wall)

    def trust_begins(self, attempt: Readings, answer: Readings) -> Readings:
        """Choose from when a confirmed renewal counts: from its start, as the store may have written it then."""
        return attempt

    def trust_lasts(self, ttl: float) -> float:
        """Return the seconds for which a session trusts itself; what is left of the TTL is for bodies to unwind."""
        return 0.75 * ttl

    def unwinding_lasts(self, ttl: float) -> float:
        """Return the seconds that cancelled bodies get before others may take over what a session held."""
        return ttl - self.trust_lasts(ttl)

    def is_trusted(self, elapsed: float, ttl: float) -> bool:
        """Whether a session that was renewed `elapsed` seconds ago may act on what it holds."""
        return elapsed < self.trust_lasts(ttl)

    def must_cancel(self, *, trusted: bool) -> bool:
        """Whether runs in progress are cancelled now."""
        return not trusted

    def check_every(self, ttl: float) -> float:
        """Return the seconds between two looks at trust, since a clock may have jumped and no timer rings then."""
        return min(1.0, ttl / 10)

    # 3 Renewal

    def renew_in(self, ttl: float) -> float:
        """Draw the seconds from one renewal to the next: a third of the TTL, less up to 10 %, so that hosts spread."""
        return ttl / 3 * (1 - self._source.uniform(0, 0.1))

    def call_deadline(self, ttl: float) -> float | None:
        """Return the seconds that one call of the store gets."""
        return ttl / 10

    def retry_in(self) -> float:
        """Draw the seconds from a call that failed to its repetition."""
        return self._source.uniform(0.2, 0.6)

    def renewal_condition(self, seen: int) -> int | None:
        """Choose the revision on which a renewal depends; `None` = it is written in any case."""
        return seen

    def adopts(self, record: SessionRecord, inc: str, doubtful: Collection[int]) -> bool:
        """Whether a record read after a conflict is a renewal of ours whose answer got lost."""
        return record.inc == inc and record.state == "live" and record.n in doubtful

    # 4 Death

    def observed_at(self, now: Readings) -> float:
        """Choose the clock by which the silence of others is measured: one that nobody sets."""
        return now.monotonic

    def silence_at_sight(self, age: float) -> float:
        """Return how long a session counts as silent that is seen for the first time; the store's clock says `age`."""
        return 0.0

    def patience(self, record_ttl: float, own_ttl: float) -> float:
        """Choose the seconds of silence after which a session may be killed: those that it asked for itself."""
        return record_ttl

    def is_dead(self, record: SessionRecord | None) -> bool:
        """Whether a session has ended for good; `None` = the store has no record of it, which proves nothing."""
        return record is not None and record.state == "dead"

    def kill_condition(self, seen: int) -> int | None:
        """Choose the revision on which the death of a session depends: the one that was silent; 0 = it is absent."""
        return seen

    def stagger(self, rank: int) -> float:
        """Return the seconds that the observer or claimant of this rank waits, so that few try at once."""
        return 0.05 * rank

    # 5 Claims

    def may_claim(self, *, known: bool, trusted: bool, unwinding: bool) -> bool:
        """Whether this process may claim a free name, or begin to act on it: it is trusted, and no body unwinds."""
        return known and trusted and not unwinding

    def is_free(self, record: ClaimRecord | None, *, owner_dead: bool) -> bool:
        """Whether a name may be claimed: it was never claimed, it was released, or its owner is seen dead."""
        return record is None or record.owner is None or owner_dead

    def claim_condition(self, seen: int) -> int | None:
        """Choose the revision on which a claim depends; 0 = there must be none."""
        return seen

    def is_ours(self, record: ClaimRecord | None, inc: str) -> bool:
        """Whether a claim names this very session."""
        return record is not None and record.owner == inc

    def answer_counts(self, *, same_session: bool, trusted: bool) -> bool:
        """Whether a confirmed claim gives the right to act: not where the answer came after trust had ended."""
        return same_session and trusted

    def claims_at_once(self) -> int:
        """Return the number of free names that one process claims at a time.

        Hosts that start in one moment do not know one another yet, and each finds all names free and itself the first
        in turn. Were all claimed at once, 50 hosts would make 200,000 calls for 1,000 names. So each begins with those
        that it comes first for among many, and has learnt who holds the others by the time it comes to them.
        """
        return 32

    def back_off(self) -> float:
        """Return the seconds to wait after a conflict, which proves that the view was old."""
        return 1.0

    # 6 Tokens

    def next_token(self, old: int, highest_seen: int, store_clock: int) -> int:
        """Choose the token to write: more than any seen, and no less than the store's clock, to grow over a wipe."""
        return min(LARGEST, max(old, highest_seen, store_clock) + 1)

    def token_of(self, record: ClaimRecord, revision: int) -> int:
        """Read the token of a written claim: its revision counts too, since a wipe may come before the write."""
        return max(record.token, revision)

    # 7, 8 Slots

    def takes_slots(self, record: SlotRecord | None, token: int) -> bool:
        """Whether a new holder writes its token over the slot record first, so that no earlier holder writes more."""
        return record is None or record.token != token

    def slot_condition(self, seen: int) -> int | None:
        """Choose the revision on which the claim of a slot depends; 0 = there must be no record."""
        return seen

    def is_new_slot(self, number: int, last: int) -> bool:
        """Whether a slot was not claimed before, by whichever holder."""
        return number > last

    def remembered(self, found: int, own: int) -> int:
        """Choose the last slot: the store's, or a later one that this process claimed before the store went back."""
        return max(found, own)

    def may_start(self, *, slot_written: bool, trusted: bool) -> bool:
        """Whether a run may be admitted: its slot is claimed for sure, and trust has not ended meanwhile."""
        return slot_written and trusted

    def still_starts(self, *, trusted: bool) -> bool:
        """Whether a run that was admitted may make its first step, which may be long after."""
        return trusted

    # 9 Loss

    def must_stop(self, record: ClaimRecord | None, inc: str) -> bool:
        """Whether a holder stops at once: its claim is gone, or names another session."""
        return record is None or record.owner != inc

    def went_back(self, before: Mapping[str, int], snapshot: Mapping[str, int]) -> bool:
        """Whether the store lost acknowledged writes: a key has a lower revision than was seen before, or is gone."""
        return any(snapshot.get(key, 0) < revision for key, revision in before.items())

    # 10 Release

    def release_condition(self, seen: int) -> int | None:
        """Choose the revision on which a release depends: that of our own claim."""
        return seen

    def release_is_over(self, *, known: bool) -> bool:
        """Whether a release need not be repeated."""
        return known

    # Shards of keys

    def shard_quota(self, shards: int, hosts: int) -> int:
        """Return the number of shards that each of so many hosts may hold."""
        return -(-shards // max(1, hosts))

    def may_hand_over(self, *, busy: bool) -> bool:
        """Whether a shard may be given up: when no run of its keys goes on."""
        return not busy

    def stopped_at(self, about: int, exact: int) -> int:
        """Choose where the last holder stopped: by its place in the turn, not by when this host learnt of it."""
        return exact

    def resumes_at(self, stopped: int, now: int) -> int:
        """Choose the moment after which the keys of a shard are run: where its last holder stopped."""
        return stopped

    # 11 Fairness

    def look_every(self) -> float:
        """Return the seconds between two looks at all that could be done, whatever the watches tell."""
        return 2.0

    def rank(self, name: str, inc: str, live: Collection[str]) -> int:
        """Count the live sessions that come before this one for a name, by a hash that spreads names evenly."""
        own = self.eagerness(name, inc)
        return sum(self.eagerness(name, other) > own for other in live if other != inc)

    def eagerness(self, name: str, inc: str) -> int:
        """Return by what the sessions rank for one name, and by what one session chooses among names: most first."""
        return _weight(name, inc)

    def asks(self, own: int, owners: int, *, sessions: int, names: int) -> bool:
        """Whether a session that holds `own` names asks one that holds `owners` for one of its names."""
        return own < names // max(1, sessions) and owners > own + 1

    def hands_over(self, own: int, askers: int) -> bool:
        """Whether an owner gives a name to a session that asks for it."""
        return own > askers + 1


def _weight(name: str, inc: str) -> int:
    text = f"{name}/{inc}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8, usedforsecurity=False).digest())
