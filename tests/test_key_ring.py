"""The ring of keys, driven at random against a naive model: every key of every moment has its slots, once."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asyncmgr._tasks.key_ring import KeyRing, KeySlot

SPACING = 10_000_000
KEYS = st.one_of(st.integers(0, 30), st.sampled_from(["a", "b", "10.0.0.7"]))


class Rings(RuleBasedStateMachine):
    """A key's slots: its phase plus every multiple of the spacing, from the moment of its coming on."""

    @initialize(anchor=st.integers(-SPACING, SPACING))
    def begin(self, anchor: int) -> None:
        self.anchor = anchor
        self.ring = KeyRing("Poller.poll", SPACING, anchor)
        self.now = self.latest = anchor
        """`latest`: the latest moment for which a look has asked."""
        self.seen_to: dict[Hashable, int] = {}
        """By key: the moment up to which its slots are handed out, or are not its own."""

    @rule(seconds=st.floats(0, 4), most=st.integers(1, 40))
    def look_soon(self, seconds: float, most: int) -> None:
        self.look(round(seconds * 1_000_000), most)

    @rule(turns=st.floats(0.9, 50), most=st.integers(1, 40))
    def look_late(self, turns: float, most: int) -> None:
        self.look(round(turns * SPACING), most)

    @rule(turns=st.floats(0, 3))
    def pass_time(self, turns: float) -> None:
        self.now += round(turns * SPACING)

    @rule(early=st.integers(0, SPACING // 2))
    def look_ahead(self, early: int) -> None:
        """A look may take slots that are only nearly due."""
        self.look(0, 40, early)

    def look(self, passed: int, most: int, early: int = 0) -> None:
        self.now += passed
        limit = self.now + early
        self.latest = max(self.latest, limit)
        while found := self.ring.take(limit, most):
            assert len(found) <= most
            for slot in found:
                self.check(slot)
        for key, seen in self.seen_to.items():
            assert self.next_after(key, seen) > limit, (key, "a slot is lost")

    def check(self, slot: KeySlot) -> None:
        seen = self.seen_to[slot.key]
        first = self.next_after(slot.key, seen)
        assert slot.planned <= self.latest
        assert slot.missed >= 0
        assert slot.planned - slot.missed * SPACING == first, "a slot comes twice, or is lost"
        self.seen_to[slot.key] = slot.planned

    def next_after(self, key: Hashable, moment: int) -> int:
        slot = self.anchor + self.ring.phase_of(key)
        while slot > moment:
            slot -= SPACING
        while slot <= moment:
            slot += SPACING
        return slot

    @rule(add=st.sets(KEYS, max_size=10), drop=st.sets(KEYS, max_size=10))
    def change(self, add: set[Hashable], drop: set[Hashable]) -> None:
        self.ring.change([(key, key) for key in add - drop], drop, self.now)
        self.note(set(self.seen_to) - drop | add - drop)

    @rule(keys=st.sets(KEYS, max_size=30))
    def rebuild(self, keys: set[Hashable]) -> None:
        for _ in self.ring.rebuild(dict.fromkeys(keys), lambda: self.now):
            pass
        self.note(keys)

    def note(self, keys: set[Hashable]) -> None:
        """Keys that come have their slots from now on; keys that stay keep those that they are owed."""
        self.seen_to = {key: self.seen_to.get(key, self.now) for key in keys}

    @invariant()
    def the_next_slot_is_the_nearest(self) -> None:
        slots = [self.next_after(key, seen) for key, seen in self.seen_to.items()]
        said = self.ring.next_slot()
        assert (said is None) == (not slots) or said == self.anchor
        if slots and said is not None:
            assert said <= min(slots)

    @invariant()
    def it_has_these_keys(self) -> None:
        assert set(self.ring.known) == set(self.seen_to)
        assert len(self.ring) == len(self.seen_to)


TestRings = Rings.TestCase
TestRings.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_phases_are_spread_and_stay() -> None:
    """A thousand keys in sixty parts of a minute: no part is empty or crowded; another run computes the same."""
    ring = KeyRing("Poller.poll", 60_000_000, 0)
    phases = [ring.phase_of(f"10.0.{number // 250}.{number % 250}") for number in range(1000)]
    counts = [sum(1 for phase in phases if phase // 1_000_000 == second) for second in range(60)]
    assert min(counts) >= 4
    assert max(counts) <= 33
    assert ring.phase_of("10.0.0.7") == KeyRing("Poller.poll", 60_000_000, 99).phase_of("10.0.0.7")
    assert ring.phase_of("7") != ring.phase_of(7)


@pytest.mark.parametrize("count", [1, 1000])
def test_a_round_hands_out_each_key_once(count: int) -> None:
    ring = KeyRing("a", SPACING, 0)
    ring.change([(key, key) for key in range(count)], [], 0)
    found: list[Hashable] = []
    now = 0
    while now < SPACING:
        now = min(SPACING, now + random.Random(now).randint(1, 900_000))
        while more := ring.take(now, 64):
            found += [slot.key for slot in more]
    assert sorted(map(str, found)) == sorted(map(str, range(count)))


def test_a_place_in_a_turn_is_found_again_whatever_the_clock_says() -> None:
    """By a host that learns of it late, and whose turns begin at another moment."""
    ring, other = KeyRing("a", SPACING, 3_000_000), KeyRing("a", SPACING, 71_234_567)
    for stopped in (3_000_000, 8_500_000, 12_999_999):
        place = ring.place_of(stopped)
        there = other.anchor + 3 * SPACING + place
        for error in (-SPACING // 4 + 1, -5, 0, 5, SPACING // 2, 3 * SPACING // 4 - 1):
            assert other.moment_of(place, there + error) == there


def test_a_change_behind_slots_that_were_set_aside_brings_no_slot_again() -> None:
    """What waits to be handed out, as after a block of the loop, makes no turn of the ring look passed."""
    ring = KeyRing("a", SPACING, 0)
    ring.change([(key, key) for key in range(100)], [], 0)
    now = 3 * SPACING
    while ring.take(now, 64):
        pass
    ring.run_at_once([3], now)
    for key in range(100, 110):
        ring.change([(key, key)], [], now)
    assert ring.take(now, 64) == [KeySlot(3, now, 0)]


def test_slots_that_were_set_aside_are_not_handed_out_yet() -> None:
    """What a key is owed is known, unless very many slots were set aside."""
    ring = KeyRing("a", SPACING, 0)
    ring.change([(key, key) for key in range(100)], [], 0)
    assert ring.handed_out(0, {3}) == 0
    ring.take(3 * SPACING, 1)  # one slot of each key is set aside, and one of them handed out
    owed = ring.owed_to({3, 4})
    assert owed is not None
    assert {slot.key for slot in owed} <= {3, 4}
    first = ring.next_slot_of(3, 0)
    assert ring.handed_out(3 * SPACING, {3}) == first - 1
    while ring.take(3 * SPACING, 64):
        pass
    assert ring.owed_to({3, 4}) == []
    assert ring.handed_out(3 * SPACING, {3}) == 3 * SPACING
    ring.change([(f"k{key}", key) for key in range(11_000)], [], 3 * SPACING)
    ring.take(9 * SPACING, 1)
    assert ring.owed_to({3}) is None
    assert ring.handed_out(9 * SPACING, {3}) is None
