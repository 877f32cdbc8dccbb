"""A heap whose places can be given up in O(1): a place is valid while the heap knows an item by its ticket."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, Protocol, TypeAlias, TypeVar

_tickets = itertools.count()
NO_TICKET = -1

_STRETCH = 17
"""Keys that differ only in so many low bits share a bucket: 0.13 s, where they are microseconds."""


class Ticketed(Protocol):
    """An item of a heap: it carries the ticket of its one valid place, or `NO_TICKET`."""

    ticket: int


T = TypeVar("T", bound=Ticketed)

# The ticket is unique and names the item. A place that was given up so keeps nothing alive, however long it stays.
Place: TypeAlias = tuple[int, int]


class LazyHeap(Generic[T]):
    """Items by an integer key. Places that were given up are dropped when they reach the head, or in bulk.

    Each stretch of keys has a bucket, and only the first bucket is kept as a heap; the others are sorted when their
    turn comes. So a place far from the head costs one append, and one near it a walk through few places that are in
    the cache, where a heap of them all would cost a miss of the cache at each of its levels.
    """

    __slots__ = ("_buckets", "_heaped", "_items", "_numbers", "_stale")

    FEW = 64
    """So many stale places are not worth clearing out."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Place]] = {}
        self._numbers: list[int] = []
        """The buckets' numbers, as a heap."""
        self._heaped: int | None = None
        """The number of the bucket that is in the order of a heap."""
        self._items: dict[int, T] = {}
        """By ticket."""
        self._stale = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.values())

    @property
    def places(self) -> int:
        """How many places are kept, those that were given up too."""
        return len(self._items) + self._stale

    def push(self, key: int, item: T) -> None:
        ticket = item.ticket = next(_tickets)
        self._items[ticket] = item
        self._put((key, ticket))

    def head(self) -> tuple[int, int, T] | None:
        """The valid place with the smallest key, and its item: (key, ticket, item)."""
        while self._numbers:
            number = self._numbers[0]
            bucket = self._buckets[number]
            if number != self._heaped:
                bucket.sort()  # a sorted list is a heap
                self._heaped = number
            while bucket:
                key, ticket = bucket[0]
                item = self._items.get(ticket)
                if item is not None:
                    return key, ticket, item
                heapq.heappop(bucket)
                self._stale -= 1
            del self._buckets[heapq.heappop(self._numbers)]
        return None

    def pop(self) -> None:
        """Take out the head, which `head()` has just returned."""
        _, ticket = heapq.heappop(self._buckets[self._numbers[0]])
        self._items.pop(ticket).ticket = NO_TICKET

    def replace_head(self, key: int) -> None:
        """Give the head, which `head()` has just returned, a new key: at most one operation on a heap."""
        bucket = self._buckets[self._numbers[0]]
        item = self._items.pop(bucket[0][1])
        ticket = item.ticket = next(_tickets)
        self._items[ticket] = item
        if key >> _STRETCH == self._heaped:
            heapq.heapreplace(bucket, (key, ticket))
        else:
            heapq.heappop(bucket)
            self._put((key, ticket))

    def remove(self, item: T) -> None:
        """Give up the place of an item that is in this heap, and let go of it."""
        del self._items[item.ticket]
        item.ticket = NO_TICKET
        self._stale += 1
        if self._stale > self.FEW and self._stale > len(self._items):
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
        return [place for place in self._buckets[number] if place[1] in self._items]
