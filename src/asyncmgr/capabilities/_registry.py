"""What one reader knows of hosts, and how that ages. Pure: moments are arguments, changes are results.

A host is judged by its age alone: stale after half of its TTL without an announcement, gone after all of it. After a
time in which the reader could hear nothing, silence proves nothing: each host is then held in the state that it had,
until it has had the time to announce itself again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from asyncmgr.capabilities._announcement import LAST_INCARNATION, Announcement
from asyncmgr.capabilities._states import HostChange, HostState, Kind
from asyncmgr.capabilities._values import same

NEVER = math.inf


class HostAge(NamedTuple):
    """A host without its capabilities."""

    service: str
    host: str
    state: Literal["fresh", "stale"]
    age: float
    """Seconds since it was announced, on the reader's clock."""


class _Known:
    """An announcement, and its times on the reader's clock."""

    __slots__ = ("announcement", "born", "held_until", "is_stale", "lost_at")

    def __init__(self, announcement: Announcement, born: float) -> None:
        self.announcement = announcement
        self.born = born
        self.held_until = -NEVER
        """Before this moment its age says nothing."""
        self.lost_at = NEVER
        """When it is gone whatever its age: the store does not have it any more."""
        self.is_stale = False
        """As the readers were told."""

    @property
    def stale_at(self) -> float:
        return max(self.born + self.announcement.lifetime / 2, self.held_until)

    @property
    def gone_at(self) -> float:
        return max(min(self.born + self.announcement.lifetime, self.lost_at), self.held_until)

    @property
    def changes_at(self) -> float:
        """When its readers are to be told something."""
        return self.gone_at if self.is_stale else min(self.stale_at, self.gone_at)

    def states(self, now: float) -> Iterator[HostState]:
        said = self.announcement
        state: Literal["fresh", "stale"] = "stale" if self.is_stale else "fresh"
        for node, values in said.nodes:
            yield HostState(
                said.service,
                said.host,
                node,
                values,
                state,
                max(0.0, now - self.born),
                said.incarnation,
                said.sequence,
            )


class Registry:
    """The hosts that one reader knows, by the keys of their announcements."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def states(self, now: float) -> list[HostState]:
        """All nodes, by service, host and node."""
        states = [state for known in self._known.values() for state in known.states(now)]
        return sorted(states, key=lambda state: (state.service, state.host, state.node))

    def ages(self, now: float) -> Iterator[HostAge]:
        """Yield the hosts with the ages of their announcements, in no order."""
        for known in self._known.values():
            said = known.announcement
            state: Literal["fresh", "stale"] = "stale" if known.is_stale else "fresh"
            yield HostAge(said.service, said.host, state, max(0.0, now - known.born))

    @property
    def changes_at(self) -> float:
        """When the next host becomes stale or is gone."""
        return min((known.changes_at for known in self._known.values()), default=NEVER)

    def changes_of(self, key: str) -> float:
        """When this host becomes stale or is gone."""
        known = self._known.get(key)
        return NEVER if known is None else known.changes_at

    def take(self, key: str, announcement: Announcement, born: float, now: float) -> list[HostChange]:
        """Take in what was announced while the reader listened; older announcements than the known one are ignored."""
        before = self._known.get(key)
        if before is None or _follows(announcement, before.announcement):
            return self._put(key, _Known(announcement, born), now)
        if announcement.order == before.announcement.order:
            before.born = min(born, before.born)
        return []

    def take_snapshot(
        self, key: str, announcement: Announcement, born: float, now: float
    ) -> list[HostChange]:
        """Take in what stands in the store, whatever was known before: a deletion may have been missed.

        A host that was known is held until `release`. One that was not known begins with its age.
        """
        before = self._known.get(key)
        known = _Known(announcement, born)
        if before is not None:
            known.held_until = NEVER
            known.is_stale = before.is_stale and now >= born + announcement.lifetime / 2
            if announcement.order == before.announcement.order:
                # The reader's clock may have stood still while its machine slept.
                known.born, known.is_stale = min(born, before.born), before.is_stale
        return self._put(key, known, now)

    def hold(self) -> None:
        """Tell nothing of the hosts by their age until `release`: the reader hears nothing."""
        for known in self._known.values():
            known.held_until = NEVER

    def release(self, seen: set[str], *, seen_until: float, unseen_until: float) -> None:
        """The reader hears again. Hosts that were held are held until a moment, those not `seen` are gone then."""
        for key, known in self._known.items():
            if key not in seen:
                known.lost_at = known.held_until = unseen_until
            elif known.held_until == NEVER:
                known.held_until = seen_until

    def free(self) -> None:
        """Judge all hosts by their age again, held or not."""
        for known in self._known.values():
            known.held_until = -NEVER

    def drop(self, key: str, now: float) -> list[HostChange]:
        """Forget a host."""
        known = self._known.pop(key, None)
        return [] if known is None else _changes("left", known.states(now))

    def clear(self) -> None:
        self._known.clear()

    def age(self, heard_until: float, now: float) -> list[HostChange]:
        """Judge the hosts by the age that they had when the reader last heard anything."""
        changes = []
        for key, known in tuple(self._known.items()):
            if heard_until >= known.gone_at:
                changes += self.drop(key, now)
            elif heard_until >= known.changes_at:
                known.is_stale = True
                changes += _changes("stale", known.states(now))
        return changes

    def _put(self, key: str, known: _Known, now: float) -> list[HostChange]:
        if now >= known.gone_at:
            return self.drop(key, now)
        known.is_stale = known.is_stale or now >= known.stale_at
        before = self._known.get(key)
        self._known[key] = known
        return _differences([] if before is None else before.states(now), known.states(now))


def _follows(announcement: Announcement, before: Announcement) -> bool:
    # Nothing is greater than the last incarnation, which no host has: anything follows it.
    return announcement.order > before.order or before.incarnation == LAST_INCARNATION


def _differences(before: Iterable[HostState], after: Iterable[HostState]) -> list[HostChange]:
    old = {state.node: state for state in before}
    changes = []
    for state in after:
        kind = _difference(old.pop(state.node, None), state)
        if kind is not None:
            changes.append(HostChange(kind, state))
    return changes + _changes("left", old.values())


def _difference(before: HostState | None, after: HostState) -> Kind | None:
    """What became different about a node, apart from its age."""
    if before is None:
        return "joined"
    if before.incarnation != after.incarnation or not same(before.capabilities, after.capabilities):
        return "updated"
    if before.state == after.state:
        return None
    return "updated" if after.state == "fresh" else "stale"


def _changes(kind: Kind, states: Iterable[HostState]) -> list[HostChange]:
    return [HostChange(kind, state) for state in states]
