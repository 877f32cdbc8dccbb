"""The heap with places that can be given up: against a plain sorted list."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncmgr._common.heap import NO_PLACE, LazyHeap, Place

STRETCH = 1 << 17
"""Keys of one bucket."""

keys = st.integers(0, 20) | st.integers(-2, 3).map(lambda stretches: stretches * STRETCH)


class Item:
    """Something with a place."""

    def __init__(self, name: int = 0) -> None:
        self.name = name
        self.place: Place | None = NO_PLACE


def drain(heap: LazyHeap[Item]) -> list[tuple[int, int]]:
    """Take everything out: (key, name) in the order of the heap."""
    taken = []
    while (head := heap.head()) is not None:
        taken.append((head[0], head[2].name))
        heap.pop()
    return taken


def test_an_empty_heap_has_no_head() -> None:
    """Asking is no error."""
    heap: LazyHeap[Item] = LazyHeap()
    assert heap.head() is None
    assert len(heap) == 0
    assert list(heap) == []


def test_items_come_by_key_and_then_in_the_order_of_their_places() -> None:
    """Items are never compared with each other."""
    heap: LazyHeap[Item] = LazyHeap()
    for name, key in enumerate([5, 1, 5, 3, 5]):
        heap.push(key, Item(name))
    assert drain(heap) == [(1, 1), (3, 3), (5, 0), (5, 2), (5, 4)]


def test_a_head_that_is_looked_at_stays() -> None:
    """Only `pop` takes it out, and then it has no place."""
    heap: LazyHeap[Item] = LazyHeap()
    item = Item()
    heap.push(7, item)
    assert heap.head() == heap.head() == item.place
    heap.pop()
    assert item.place is NO_PLACE
    assert heap.head() is None


def test_a_removed_item_is_neither_found_nor_counted() -> None:
    """Wherever in the heap it was."""
    heap: LazyHeap[Item] = LazyHeap()
    items = [Item(name) for name in range(5)]
    for item in items:
        heap.push(item.name, item)
    heap.remove(items[0])
    heap.remove(items[3])
    assert items[0].place is NO_PLACE
    assert (len(heap), sorted(item.name for item in heap)) == (3, [1, 2, 4])
    assert drain(heap) == [(1, 1), (2, 2), (4, 4)]


def test_a_removed_item_can_have_a_new_place() -> None:
    """Its old place does not come back with it."""
    heap: LazyHeap[Item] = LazyHeap()
    item = Item(1)
    heap.push(3, item)
    heap.remove(item)
    heap.push(9, item)
    heap.push(5, Item(2))
    assert len(heap) == 2
    assert drain(heap) == [(5, 2), (9, 1)]


def test_the_head_can_be_given_a_new_key() -> None:
    """It sinks to its place, behind what was there before under the same key."""
    heap: LazyHeap[Item] = LazyHeap()
    for name in range(3):
        heap.push(name, Item(name))
    heap.head()
    heap.replace_head(2)
    assert drain(heap) == [(1, 1), (2, 2), (2, 0)]


def test_churn_keeps_memory_flat() -> None:
    """Places that were given up are cleared out before they outnumber the others by much."""
    heap: LazyHeap[Item] = LazyHeap()
    kept = [Item(name) for name in range(10)]
    for item in kept:
        heap.push(10**9 + item.name, item)
    for round_ in range(10_000):
        item = kept[round_ % 10]
        heap.remove(item)
        heap.push(10**9 + round_, item)
        assert heap.places <= 2 * len(kept) + LazyHeap.FEW
    assert len(heap) == 10


@pytest.mark.parametrize("way", ["pop", "remove"])
def test_a_place_that_was_given_up_keeps_nothing_alive(way: str) -> None:
    """A call that has ended is freed at once, with all its arguments, and not when its deadline would have been."""
    heap: LazyHeap[Item] = LazyHeap()
    heap.push(2, Item())
    item = Item(1)
    heap.push(1, item)
    reference = weakref.ref(item)
    heap.head()
    heap.pop() if way == "pop" else heap.remove(item)
    del item
    assert reference() is None


def test_near_and_far_keys_keep_one_order() -> None:
    """Also where something nearer than all the rest comes after they were looked at."""
    heap: LazyHeap[Item] = LazyHeap()
    for name, stretches in enumerate([20, 10, 10]):
        heap.push(stretches * STRETCH, Item(name))
    assert heap.head() is not None
    heap.push(-STRETCH, Item(3))
    heap.push(10 * STRETCH - 1, Item(4))
    heap.push(10 * STRETCH, Item(5))
    assert heap.head() is not None
    heap.replace_head(20 * STRETCH)
    names = [name for _, name in drain(heap)]
    assert names == [4, 1, 2, 5, 0, 3]


class HeapMachine(RuleBasedStateMachine):
    """Any sequence of operations, against a dict of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.heap: LazyHeap[Item] = LazyHeap()
        self.keys: dict[Item, tuple[int, int]] = {}
        self.order = 0
        self.idle: list[Item] = []

    def place(self, item: Item, key: int) -> None:
        self.order += 1
        self.keys[item] = (key, self.order)

    @rule(key=keys, times=st.integers(1, 40))
    def push(self, key: int, times: int) -> None:
        for _ in range(times):
            item = self.idle.pop() if self.idle else Item(self.order)
            self.heap.push(key, item)
            self.place(item, key)

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), times=st.integers(1, 60))
    def remove(self, data: st.DataObject, times: int) -> None:
        for _ in range(min(times, len(self.keys))):
            item = list(self.keys)[data.draw(st.integers(0, len(self.keys) - 1)) if times == 1 else 0]
            self.heap.remove(item)
            del self.keys[item]
            self.idle.append(item)

    @precondition(lambda self: self.keys)
    @rule()
    def pop(self) -> None:
        self.head_is_right()
        item = min(self.keys, key=self.keys.__getitem__)
        self.heap.pop()
        del self.keys[item]

    @precondition(lambda self: self.keys)
    @rule(key=keys)
    def replace_head(self, key: int) -> None:
        self.head_is_right()
        self.place(min(self.keys, key=self.keys.__getitem__), key)
        self.heap.replace_head(key)

    @invariant()
    def head_is_right(self) -> None:
        head = self.heap.head()
        if not self.keys:
            assert head is None
            return
        assert head is not None
        item = min(self.keys, key=self.keys.__getitem__)
        assert (head[0], head[2]) == (self.keys[item][0], item)

    @invariant()
    def contents_are_right(self) -> None:
        assert len(self.heap) == len(self.keys)
        assert set(self.heap) == set(self.keys)
        assert self.heap.places <= 2 * len(self.keys) + LazyHeap.FEW + 1


TestAnySequenceOfOperations = HeapMachine.TestCase
TestAnySequenceOfOperations.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
