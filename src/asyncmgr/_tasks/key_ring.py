"""`KeyRing`: the keys of one task in the order of their slots. Pure: it gets moments as arguments.

All keys of a task share its spacing, and each has a phase of its own: a part of the spacing that depends on the task
and the key only. So their order never changes: sorted by phase they are a ring, around which a cursor goes once in each
spacing. A look costs the keys that are due, however many others there are, and a key costs its place in the ring.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from operator import length_hint
from typing import NamedTuple

from asyncmgr._tasks.schedules import Gap, share_of

_AT_ONCE = 200
"""The number of keys that one step of `rebuild` works on: about a millisecond."""

_MOST_OWED = 10_000
"""Slots that were set aside among which is looked for those of some keys."""

_PARTS = 1024
"""The number of parts into which `rebuild` sorts the keys before it sorts each part."""


class KeySlot(NamedTuple):
    """One slot of one key."""

    key: Hashable
    planned: int
    """The slot, in microseconds of scheduling time."""
    missed: int
    """The number of older slots of this key that it stands for too."""


class KeyGrid:
    """The slots of the keys of one task.

    Parameters
    ----------
    name
        The full name of the task. It goes into the phases, so that the keys of two tasks do not run together.
    spacing
        Microseconds between two slots of one key.
    anchor
        A moment from which the phases count, in scheduling time, microseconds.
    """

    __slots__ = ("_name", "anchor", "spacing")

    def __init__(self, name: str, spacing: int, anchor: int) -> None:
        self._name = name
        self.spacing = spacing
        self.anchor = anchor

    def alone(self) -> KeyGrid:
        """Copy the grid, without keys."""
        return KeyGrid(self._name, self.spacing, self.anchor)

    def phase_of(self, key: Hashable) -> int:
        """Compute the phase of a key, microseconds: always the same for one task, key and spacing."""
        return self.spacing * share_of(f"{self._name}/{key!r}") >> 32

    def next_slot_of(self, key: Hashable, after: int) -> int:
        """Return the first slot of a key that is later than `after`."""
        first = self.anchor + self.phase_of(key)
        return first + ((after - first) // self.spacing + 1) * self.spacing

    def gap_of(self, key: Hashable, after: int, until: int) -> Gap | None:
        """Return the slots of a key that are later than `after` and not later than `until`; `None` = there are none."""
        first = self.next_slot_of(key, after)
        if first > until:
            return None
        more = (until - first) // self.spacing
        return Gap(first, first + more * self.spacing, more + 1)


class KeyRing(KeyGrid):
    """The keys of one task, and the cursor."""

    __slots__ = ("_at", "_keys", "_late", "_phases", "_turn", "dropped", "known")

    def __init__(self, name: str, spacing: int, anchor: int) -> None:
        super().__init__(name, spacing, anchor)
        self.known: dict[Hashable, object] = {}
        """What a run gets for each key."""
        self._keys: list[Hashable] = []
        self._phases = array("q")
        """The phase of each key in `_keys`, microseconds, ascending."""
        self._turn = anchor
        """The moment at which the present turn of the cursor began."""
        self._at = 0
        """The place of the next key, or the number of keys: the turn is over."""
        self._late: deque[Iterator[KeySlot]] = deque()
        """Slots that are due and were set aside."""
        self.dropped: list[KeySlot] = []
        """Such slots of keys that have gone since."""

    def __len__(self) -> int:
        return len(self._keys)

    # Looking

    def take(self, limit: int, most: int) -> list[KeySlot]:
        """Hand out up to `most` slots that are not later than `limit`; for each key only the latest one."""
        found = self._take_late(most)
        if len(found) < most:
            self._settle_turns(limit)
            found += self._take_late(most - len(found))
        found += itertools.islice(self._due(limit), most - len(found))
        return found

    def next_slot(self) -> int | None:
        """Return the nearest slot; `None` = there are no keys. A slot that was set aside counts as long past."""
        return self.anchor if self._late else self._following()

    def _following(self) -> int | None:
        """Return the slot at the cursor, whatever was set aside before it; `None` = there are no keys."""
        if not self._keys:
            return None
        if self._at == len(self._keys):
            return self._turn + self.spacing + self._phases[0]
        return self._turn + self._phases[self._at]

    def gap(self, until: int) -> Gap | None:
        """Return the slots of all keys from the cursor to `until`; `None` = there are none."""
        if not self._keys:
            return None
        first = self._turn + (
            self._phases[self._at] if self._at < len(self._keys) else self.spacing + self._phases[0]
        )
        if first > until:
            return None
        turns, offset = divmod(until - self._turn, self.spacing)
        at = bisect_right(self._phases, offset)
        last = (
            (turns * self.spacing + self._phases[at - 1])
            if at
            else ((turns - 1) * self.spacing + self._phases[-1])
        )
        return Gap(first, self._turn + last, turns * len(self._keys) + at - self._at)

    def take_late(self) -> list[KeySlot]:
        """Take the slots that were set aside and not handed out."""
        found: list[KeySlot] = [slot for slots in self._late for slot in slots]
        self._late.clear()
        return found

    def _take_late(self, most: int) -> list[KeySlot]:
        found: list[KeySlot] = []
        while self._late and len(found) < most:
            more = list(itertools.islice(self._late[0], most - len(found)))
            if not more:
                self._late.popleft()
            found += more
        return found

    def _due(self, limit: int) -> Iterator[KeySlot]:
        """Yield the slots from the cursor to `limit`, less than a turn, and move the cursor."""
        while (slot := self.next_slot()) is not None and slot <= limit and not self._late:
            if self._at == len(self._keys):
                self._at, self._turn = 0, self._turn + self.spacing
            key = self._keys[self._at]
            self._at += 1
            yield KeySlot(key, slot, 0)

    def _settle_turns(self, limit: int) -> None:
        """Set aside one slot of every key where the cursor is a whole turn behind, and move the cursor."""
        slot = self._following()
        if slot is None or limit - slot < self.spacing:
            return
        self._late.append(
            _overdue(self._keys.copy(), self._phases[:], self._at, self._turn, self.spacing, limit)
        )
        self._seek(limit)

    def _settle(self, limit: int) -> None:
        """Set aside all slots up to `limit`, so that the cursor is a function of this moment only."""
        self._settle_turns(limit)
        late = list(self._without_late(limit))
        if late:
            self._late.append(iter(late))

    def _without_late(self, limit: int) -> Iterator[KeySlot]:
        kept, self._late = self._late, deque()
        try:
            yield from self._due(limit)
        finally:
            self._late = kept

    def _seek(self, limit: int) -> None:
        """Put the cursor before the first slot later than `limit`."""
        self._turn += (limit - self._turn) // self.spacing * self.spacing
        self._at = bisect_right(self._phases, limit - self._turn)

    def reached(self, now: int) -> int:
        """Return the moment up to which the slots of all keys have been handed out: nearly due ones come early."""
        if self._at:
            return max(now, self._turn + self._phases[self._at - 1])
        return max(now, self._turn - self.spacing + self._phases[-1]) if self._phases else now

    def handed_out(self, now: int, keys: Container[Hashable]) -> int | None:
        """Return the moment up to which all slots of these keys have been handed out.

        `None` = so many slots were set aside that nobody looks whose they are.
        """
        following = self._following()
        reached = self.reached(now) if following is None or following > now else following - 1
        owed = self.owed_to(keys)
        if owed is None:
            return None
        return min([reached, *(slot.planned - slot.missed * self.spacing - 1 for slot in owed)])

    def owed_to(self, keys: Container[Hashable]) -> list[KeySlot] | None:
        """List the slots of these keys that were set aside; `None` = there are too many to look at."""
        if not self._late:
            return []
        if sum(map(length_hint, self._late)) > _MOST_OWED:
            return None
        late = [list(slots) for slots in self._late]
        self._late = deque(map(iter, late))
        if sum(map(len, late)) > _MOST_OWED:
            return None
        return [slot for slots in late for slot in slots if slot.key in keys]

    def place_of(self, moment: int) -> int:
        """Compute how long after the beginning of its turn a moment is."""
        return (moment - self.anchor) % self.spacing

    def moment_of(self, place: int, around: int) -> int:
        """Find the moment of a place in its turn that is about `around`, or up to three quarters of a turn before."""
        return around + self.spacing // 4 - (around + self.spacing // 4 - self.anchor - place) % self.spacing

    def catch_up(self, keys: Iterable[tuple[Hashable, int]], now: int) -> None:
        """Hand out soon the latest slot up to `now` of each key that has one after the moment given with it."""
        self._late.append(iter([slot for key, since in keys if (slot := self._latest(key, since, now))]))

    def _latest(self, key: Hashable, since: int, now: int) -> KeySlot | None:
        first = self.next_slot_of(key, since)
        missed, _ = divmod(now - first, self.spacing)
        return KeySlot(key, first + missed * self.spacing, missed) if first <= now else None

    # Keys that come and go

    def change(
        self,
        add: Iterable[tuple[Hashable, object]],
        drop: Iterable[Hashable],
        now: int,
        *,
        keeps_dropped: bool = False,
    ) -> None:
        """Add and drop a few keys; none of them is in both.

        The slots of an added key begin after `now`; those of other keys stay. `keeps_dropped` puts the slots that a
        dropped key had up to now into `dropped`, sooner or later.
        """
        reached = self.reached(now)
        self._settle(reached)
        gone = {key for key in drop if key in self.known}
        for key in gone:
            del self.known[key]
            self._cut(key)
        if gone:
            self._forget_late(lambda slot: slot.key not in gone, keeps_dropped=keeps_dropped)
        new: set[Hashable] = set()
        for key, given in add:
            if key not in self.known:
                self._insert(key)
                new.add(key)
            self.known[key] = given
        self._go_on(now, reached, new.__contains__)

    def _go_on(self, now: int, reached: int, is_new: Callable[[Hashable], bool]) -> None:
        """Put the cursor to `reached`, and set aside the slots after `now` that new keys have before that."""
        self._seek(now)
        early = [slot for slot in self._without_late(reached) if is_new(slot.key)]
        if early:
            self._late.append(iter(early))
        self._seek(reached)

    def run_at_once(self, keys: Iterable[Hashable], now: int) -> None:
        """Hand out a slot of these keys at the next look, beside their grid."""
        self._late.append(iter([KeySlot(key, now, 0) for key in keys]))

    def skip_past(self, limit: int) -> None:
        """Drop all slots up to `limit` that were not handed out."""
        self._late.clear()
        self._seek(self.reached(limit))

    def rebuild(
        self, known: dict[Hashable, object], read: Callable[[], int], *, keeps_dropped: bool = False
    ) -> Iterator[None]:
        """Make `known` the keys, in steps of about a millisecond: let others work in between.

        The ring changes in the last step; `read` tells the moment then, see `change`. Until then, nobody may change
        `known`.
        """
        # Not as pairs: 100,000 of them would have the garbage collector look at everything in between.
        parts: list[tuple[array[int], list[Hashable]]] = [(array("q"), []) for _ in range(_PARTS)]
        for number, key in enumerate(known):
            phase = self.phase_of(key)
            part_phases, part_keys = parts[phase * _PARTS // self.spacing]
            part_phases.append(phase)
            part_keys.append(key)
            if number % _AT_ONCE == _AT_ONCE - 1:
                yield
        keys: list[Hashable] = []
        phases = array("q")
        for part_phases, part_keys in parts:
            order = sorted(range(len(part_keys)), key=part_phases.__getitem__)
            phases.extend([part_phases[place] for place in order])
            keys.extend([part_keys[place] for place in order])
            part_keys.clear()
            yield
        now = read()
        reached, before = self.reached(now), self.known
        self._settle(reached)
        if self._late:
            # Not the mapping itself: a key may come again before these slots are handed out.
            stay = frozenset(known)
            self._forget_late(lambda slot: slot.key in stay, keeps_dropped=keeps_dropped)
        self._keys, self._phases, self.known = keys, phases, known
        self._go_on(now, reached, lambda key: key not in before)

    def _forget_late(self, keep: Callable[[KeySlot], bool], *, keeps_dropped: bool) -> None:
        """Drop slots that were set aside. Lazily: after a long sleep each key has one."""
        if keeps_dropped:
            self._late = deque(self._sort_out(slots, keep) for slots in self._late)
        else:
            self._late = deque(filter(keep, slots) for slots in self._late)

    def _sort_out(self, slots: Iterator[KeySlot], keep: Callable[[KeySlot], bool]) -> Iterator[KeySlot]:
        for slot in slots:
            if keep(slot):
                yield slot
            else:
                self.dropped.append(slot)

    def _insert(self, key: Hashable) -> None:
        phase = self.phase_of(key)
        place = bisect_right(self._phases, phase)
        self._phases.insert(place, phase)
        self._keys.insert(place, key)

    def _cut(self, key: Hashable) -> None:
        place = bisect_left(self._phases, self.phase_of(key))
        while self._keys[place] != key:
            place += 1
        del self._phases[place], self._keys[place]


def _overdue(
    keys: list[Hashable], phases: array[int], at: int, turn: int, spacing: int, limit: int
) -> Iterator[KeySlot]:
    """Yield the latest slot of every key up to `limit`, in the order of the cursor at `at`."""
    for place in itertools.chain(range(at, len(keys)), range(at)):
        slot = turn + phases[place] + (spacing if place < at else 0)
        missed = (limit - slot) // spacing
        yield KeySlot(keys[place], slot + missed * spacing, missed)
