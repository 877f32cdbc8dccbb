"""A heap whose places can be given up in O(1): a place is valid while its item carries the place's ticket."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

_tickets = itertools.count()
NO_TICKET = -1


class Ticketed(Protocol):
    """An item of a heap: it carries the ticket of its one valid place, or `NO_TICKET`."""

    ticket: int


T = TypeVar("T", bound=Ticketed)


class LazyHeap(Generic[T]):
    """Items by an integer key. Places that were given up are dropped when they reach the head, or in bulk."""

    __slots__ = ("_places", "_stale")

    FEW = 64
    """So many stale places are not worth clearing out."""

    def __init__(self) -> None:
        # The ticket is unique, so two items are never compared.
        self._places: list[tuple[int, int, T]] = []
        self._stale = 0

    def __len__(self) -> int:
        return len(self._places) - self._stale

    def __iter__(self) -> Iterator[T]:
        return (item for _, ticket, item in self._places if item.ticket == ticket)

    def push(self, key: int, item: T) -> None:
        ticket = item.ticket = next(_tickets)
        heapq.heappush(self._places, (key, ticket, item))

    def head(self) -> tuple[int, int, T] | None:
        """The valid place with the smallest key: (key, ticket, item)."""
        places = self._places
        while places:
            if places[0][1] == places[0][2].ticket:
                return places[0]
            heapq.heappop(places)
            self._stale -= 1
        return None

    def pop(self) -> None:
        """Take out the head, which `head()` has just returned."""
        heapq.heappop(self._places)[2].ticket = NO_TICKET

    def replace_head(self, key: int) -> None:
        """Give the head, which `head()` has just returned, a new key: one operation instead of two."""
        item = self._places[0][2]
        ticket = item.ticket = next(_tickets)
        heapq.heapreplace(self._places, (key, ticket, item))

    def remove(self, item: T) -> None:
        """Give up the place of an item that is in this heap."""
        item.ticket = NO_TICKET
        self._stale += 1
        if self._stale > self.FEW and self._stale * 2 > len(self._places):
            self._places = [place for place in self._places if place[1] == place[2].ticket]
            heapq.heapify(self._places)
            self._stale = 0
