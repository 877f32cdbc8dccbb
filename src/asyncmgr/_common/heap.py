"""A heap that removes an item in O(1): it empties the item's place, and drops the empty place later."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

Place: TypeAlias = list[Any]
"""Key, serial number, and item; `None` in place of the item = the place is stale, because its item was removed.

The serial number is unique, so that two items are never compared. A place is a list and not a tuple: so a stale one
keeps no item alive, and one with a new key stays the same object.
"""

NO_PLACE: Place | None = None

_serials = itertools.count()

_STRETCH = 17
"""Number of low bits in which the keys of one bucket may differ: 0.13 s where the keys are microseconds."""


class Placed(Protocol):
    """An item of a heap: it carries its one valid place, or `NO_PLACE`."""

    place: Place | None


T = TypeVar("T", bound=Placed)


class LazyHeap(Generic[T]):
    """Items by an integer key. Stale places are dropped when they reach the head, or in bulk.

    Each range of keys has a bucket. Only the first bucket is kept as a heap; the others are sorted when they become
    the first. A push far from the head therefore costs one append, and a push near it touches few places, which are in
    the processor's cache. One heap of all places would miss the cache at each of its levels.
    """

    __slots__ = ("_buckets", "_heaped", "_numbers", "_stale", "_valid")

    FEW = 64
    """Up to this number of stale places the heap does not clear them out in bulk."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Place]] = {}
        self._numbers: list[int] = []
        """The buckets' numbers, as a heap."""
        self._heaped: int | None = None
        """The number of the bucket that is kept as a heap."""
        self._valid = 0
        self._stale = 0

    def __len__(self) -> int:
        return self._valid

    def __iter__(self) -> Iterator[T]:
        return (place[2] for bucket in self._buckets.values() for place in bucket if place[2] is not None)

    @property
    def places(self) -> int:
        """The number of places in memory, stale ones included."""
        return self._valid + self._stale

    def push(self, key: int, item: T) -> None:
        place = item.place = [key, next(_serials), item]
        self._valid += 1
        self._put(place)

    def head(self) -> Place | None:
        """Return the valid place with the smallest key; `None` = the heap is empty."""
        while self._numbers:
            number = self._numbers[0]
            bucket = self._buckets[number]
            if number != self._heaped:
                bucket.sort()  # a sorted list is a heap
                self._heaped = number
            while bucket:
                if bucket[0][2] is not None:
                    return bucket[0]
                heapq.heappop(bucket)
                self._stale -= 1
            del self._buckets[heapq.heappop(self._numbers)]
        return None

    def pop(self) -> None:
        """Take out the head, which `head()` has just returned."""
        place = heapq.heappop(self._buckets[self._numbers[0]])
        place[2].place, place[2] = NO_PLACE, None
        self._valid -= 1

    def replace_head(self, key: int) -> None:
        """Give the head, which `head()` has just returned, a new key: at most one operation on a heap."""
        bucket = self._buckets[self._numbers[0]]
        place = bucket[0]
        if key >> _STRETCH == self._heaped:
            place[0], place[1] = key, next(_serials)
            heapq.heapreplace(bucket, place)
        else:
            heapq.heappop(bucket)  # before the key changes, since the heap's order depends on it
            place[0], place[1] = key, next(_serials)
            self._put(place)

    def remove(self, item: T) -> None:
        """Remove an item that is in this heap; its place becomes stale."""
        place, item.place = item.place, NO_PLACE
        assert place is not None
        place[2] = None
        self._valid -= 1
        self._stale += 1
        if self._stale > self.FEW and self._stale > self._valid:
            self._clear_out()

    def _put(self, place: Place) -> None:
        number = place[0] >> _STRETCH
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [place]
            heapq.heappush(self._numbers, number)
        elif number == self._heaped:
            heapq.heappush(bucket, place)
        else:
            bucket.append(place)

    def _clear_out(self) -> None:
        self._buckets = {number: valid for number in self._buckets if (valid := self._valid_places(number))}
        self._numbers = list(self._buckets)
        heapq.heapify(self._numbers)
        self._heaped = None
        self._stale = 0

    def _valid_places(self, number: int) -> list[Place]:
        return [place for place in self._buckets[number] if place[2] is not None]
