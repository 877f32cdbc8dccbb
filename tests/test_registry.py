"""What a reader knows of hosts, as a table of moments: no loop, no transport."""

from __future__ import annotations

from typing import Any

import pytest

from asyncmgr.capabilities._announcement import Announcement
from asyncmgr.capabilities._registry import NEVER, Registry
from asyncmgr.capabilities._states import HostChange

KEY = "compute.n1"


def said(sequence: int = 1, *, incarnation: int = 5, ttl: float = 60.0, **capabilities: Any) -> Announcement:
    return Announcement("compute", "n1", incarnation, sequence, ttl, (("", capabilities),))


def kinds(changes: list[HostChange]) -> list[str]:
    return [change.kind for change in changes]


def states(registry: Registry, now: float = 0.0) -> list[tuple[str, float]]:
    return [(state.state, state.age) for state in registry.states(now)]


def test_a_host_from_its_first_announcement_to_its_last() -> None:
    """Joined, stale after half of its TTL, updated when it is heard again, gone after all of it."""
    registry = Registry()
    assert registry.changes_at == NEVER
    assert kinds(registry.take(KEY, said(1), born=0, now=0)) == ["joined"]
    assert registry.changes_at == registry.changes_of(KEY) == 30
    assert registry.age(29.999, 29.999) == []
    assert kinds(registry.age(30, 30)) == ["stale"]
    assert registry.changes_at == 60
    assert kinds(registry.take(KEY, said(2), born=40, now=40)) == ["updated"]
    assert kinds(registry.age(100, 100)) == ["left"]
    assert registry.states(100) == []
    assert registry.changes_of(KEY) == NEVER


@pytest.mark.parametrize(
    ("announcement", "born", "age"),
    [
        (said(3), 10.0, 0.0),
        (said(2), 10.0, 10.0),  # the same once more makes nothing younger
        (said(2), -5.0, 15.0),  # and older, where the store says so
        (said(1), 10.0, 10.0),
        (said(9, incarnation=4), 10.0, 10.0),
        (said(0, incarnation=6), 10.0, 0.0),
    ],
)
def test_only_what_was_said_later_is_taken(announcement: Announcement, born: float, age: float) -> None:
    """By incarnation, then by sequence."""
    registry = Registry()
    registry.take(KEY, said(2), born=0, now=0)
    registry.take(KEY, announcement, born=born, now=10)
    assert states(registry, 10) == [("fresh", age)]


def test_hosts_are_judged_by_the_time_that_was_heard() -> None:
    """Not by the present: what is shown as its age is the truth all the same."""
    registry = Registry()
    registry.take(KEY, said(), born=0, now=0)
    assert registry.age(heard_until=20, now=500) == []
    assert states(registry, 500) == [("fresh", 500)]


def test_held_hosts_stay_as_they_are_until_they_had_time_to_come_back() -> None:
    """Seen in the store again or not: each is judged at its moment, by its age."""
    registry = Registry()
    registry.take(KEY, said(), born=0, now=0)
    registry.take("compute.n2", said(), born=0, now=0)
    registry.hold()
    assert registry.changes_at == NEVER
    assert registry.age(1000, 1000) == []
    assert registry.take_snapshot(KEY, said(), born=0, now=1000) == []
    registry.release({KEY}, seen_until=1035, unseen_until=1010)
    assert (registry.changes_of(KEY), registry.changes_of("compute.n2")) == (1035, 1010)
    assert registry.age(1009, 1009) == []
    assert kinds(registry.age(1010, 1010)) == ["left"]
    assert kinds(registry.age(1035, 1035)) == ["left"]


def test_held_host_that_is_heard_again_is_held_no_longer() -> None:
    """It begins anew with its announcement."""
    registry = Registry()
    registry.take(KEY, said(), born=0, now=0)
    registry.hold()
    registry.release(set(), seen_until=1035, unseen_until=1010)
    assert registry.take(KEY, said(2), born=1005, now=1005) == []
    assert registry.changes_at == 1035
    assert kinds(registry.age(1035, 1035)) == ["stale"]


def test_host_that_was_stale_before_an_outage_stays_so() -> None:
    """What was announced during the outage, and is old by now, does not make it fresh."""
    registry = Registry()
    registry.take(KEY, said(), born=0, now=0)
    registry.age(30, 30)
    registry.hold()
    assert registry.take_snapshot(KEY, said(2), born=40, now=200) == []
    registry.release({KEY}, seen_until=235, unseen_until=210)
    assert states(registry, 200) == [("stale", 160)]
    assert kinds(registry.take_snapshot(KEY, said(3), born=199, now=200)) == ["updated"]


def test_new_hosts_of_a_later_snapshot_begin_with_their_age() -> None:
    """They were not known before, so nothing is held: the dead do not look fresh."""
    registry = Registry()
    registry.hold()
    assert registry.take_snapshot(KEY, said(), born=-70, now=0) == []
    assert kinds(registry.take_snapshot(KEY, said(), born=-40, now=0)) == ["joined"]
    assert states(registry) == [("stale", 40)]
    registry.release({KEY}, seen_until=35, unseen_until=10)
    assert registry.changes_at == 20


def test_freed_hosts_go_by_their_age() -> None:
    """Where nothing will be heard any more."""
    registry = Registry()
    registry.take(KEY, said(), born=0, now=0)
    registry.hold()
    registry.free()
    assert kinds(registry.age(60, 60)) == ["left"]
