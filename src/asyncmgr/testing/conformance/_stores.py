"""Checks of the store: keys, revisions, TTLs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING

import pytest

from asyncmgr.errors import InvalidName, MessageTooLarge, RevisionConflict, TransportError
from asyncmgr.testing.conformance._checks import BAD_NAMES, BINARY, SLACK, TTL, Checks, E, soon
from asyncmgr.transports._given import VALUE_LIMIT

if TYPE_CHECKING:
    from asyncmgr.transports._stores import Store


class StoreChecks(Checks[E]):
    """Keys, revisions and their expiry."""

    @pytest.mark.parametrize("value", BINARY)
    async def test_store_put_and_get(self, value: bytes) -> None:
        """One connection reads what another wrote, byte for byte, with its revision."""
        async with self.stores() as (one, other):
            revision = await one.put("a.key=2E", value)
            entry = await other.get("a.key=2E")
            assert entry is not None
            assert (entry.key, entry.value, entry.revision) == ("a.key=2E", value, revision)

    async def test_store_no_such_key(self) -> None:
        """A key that never existed, or was deleted, is None."""
        async with self.stores() as (one, other):
            assert await one.get("key") is None
            await one.put("key", b"x")
            await other.delete("key")
            assert await one.get("key") is None

    async def test_store_value_is_copied(self) -> None:
        """Later changes of the writer's buffer do not change the value."""
        async with self.stores() as (one, other):
            buffer = bytearray(b"before")
            await one.put("key", buffer)
            buffer[:] = b"later!"
            entry = await other.get("key")
            assert entry is not None
            assert entry.value == b"before"

    async def test_store_revisions_grow(self) -> None:
        """Each write in a store has a greater revision than any before, on any connection and key, deleted or not."""
        async with self.stores() as (one, other):
            revisions = [await one.put("a", b""), await other.put("b", b""), await other.put("a", b"")]
            await one.delete("a")
            revisions.append(await other.create("a", b""))
            revisions.append(await one.update("a", b"", revisions[-1]))
            assert revisions == sorted(set(revisions))

    async def test_store_create(self) -> None:
        """A key is created if it does not exist or was deleted; else RevisionConflict, and nothing changes."""
        async with self.stores() as (one, other):
            await one.create("key", b"first")
            with pytest.raises(RevisionConflict, match="key"):
                await other.create("key", b"second")
            assert await self._value(other, "key") == b"first"
            await one.delete("key")
            await other.create("key", b"second")
            assert await self._value(one, "key") == b"second"

    async def test_store_update(self) -> None:
        """Only a writer that knows the present revision succeeds; a stale one, 0 or no key is RevisionConflict."""
        async with self.stores() as (one, other):
            for revision in (0, 1):
                with pytest.raises(RevisionConflict, match="key"):
                    await one.update("key", b"x", revision)
            first = await one.put("key", b"first")
            second = await other.update("key", b"second", first)
            for revision in (0, first, second + 1):
                with pytest.raises(RevisionConflict, match="key"):
                    await one.update("key", b"third", revision)
            assert await self._value(one, "key") == b"second"
            await one.delete("key")
            with pytest.raises(RevisionConflict, match="key"):
                await other.update("key", b"fourth", second)

    async def test_store_delete(self) -> None:
        """With a revision only this revision is deleted; without one, any, or a missing key."""
        async with self.stores() as (one, other):
            first = await one.put("key", b"first")
            second = await one.put("key", b"second")
            for revision in (0, first):
                with pytest.raises(RevisionConflict, match="key"):
                    await other.delete("key", revision)
            await other.delete("key", second)
            assert await one.get("key") is None
            with pytest.raises(RevisionConflict, match="key"):
                await other.delete("key", second)
            await other.delete("key")

    async def test_store_one_creator_wins(self) -> None:
        """If many create one key at the same time, exactly one succeeds."""
        async with self.stores() as (one, other):
            attempts = [store.create("key", b"") for store in (one, other) * 10]
            results = await soon(asyncio.gather(*attempts, return_exceptions=True))
            assert sum(isinstance(result, int) for result in results) == 1
            assert sum(isinstance(result, RevisionConflict) for result in results) == 19

    async def test_store_no_update_is_lost(self) -> None:
        """Counters that two connections raise by compare-and-set come out right."""
        async with self.stores() as (one, other):
            await one.put("counter", b"0")
            await soon(asyncio.gather(*(self._count_up(store, 10) for store in (one, other, one))))
            assert await self._value(other, "counter") == b"30"

    async def _count_up(self, store: Store, times: int) -> None:
        while times:
            entry = await store.get("counter")
            assert entry is not None
            try:
                await store.update("counter", str(int(entry.value) + 1).encode(), entry.revision)
            except RevisionConflict:
                continue
            times -= 1

    async def test_store_expiry(self) -> None:
        """A key expires its TTL after the last write, and can be created again, at a greater revision."""
        async with self.stores() as (one, other):
            revision = await one.put("key", b"x")
            await self.pass_time(0.6 * TTL)
            revision = await one.update("key", b"y", revision)
            await self.pass_time(0.6 * TTL)
            assert await self._value(other, "key") == b"y"
            await self.pass_time(0.4 * TTL + SLACK)
            assert await other.get("key") is None
            with pytest.raises(RevisionConflict):
                await one.update("key", b"y", revision)
            with pytest.raises(RevisionConflict):
                await one.delete("key", revision)
            assert await other.create("key", b"z") > revision

    async def test_store_age(self) -> None:
        """Every reader counts an entry's age from its last write."""
        async with self.stores() as (one, other):
            await one.put("key", b"x")
            await self.pass_time(0.5 * TTL)
            for store in (one, other):
                entry = await store.get("key")
                assert entry is not None
                assert 0.4 * TTL <= entry.age < TTL + SLACK
            await one.put("key", b"x")
            entry = await other.get("key")
            assert entry is not None
            assert 0 <= entry.age < 0.4 * TTL

    async def test_store_keys(self) -> None:
        """Keys are listed, all or those below a prefix of whole tokens, without deleted ones."""
        async with self.stores() as (one, other):
            for key in ("a", "a.b", "a.b.c", "a.bc", "b.a", "gone"):
                await one.put(key, b"")
            await one.delete("gone")
            assert sorted(await other.keys()) == ["a", "a.b", "a.b.c", "a.bc", "b.a"]
            assert sorted(await other.keys("a")) == ["a.b", "a.b.c", "a.bc"]
            assert await other.keys("a.b") == ["a.b.c"]
            assert await other.keys("c") == []

    async def test_store_largest_value(self) -> None:
        """Every way of writing takes `VALUE_LIMIT` bytes, and refuses one more."""
        async with self.stores() as (one, other):
            value = bytes(VALUE_LIMIT)
            for write in (one.put, one.create):
                with pytest.raises(MessageTooLarge, match="key"):
                    await write("key", value + b"x")
            revision = await one.create("key", value)
            with pytest.raises(MessageTooLarge, match="key"):
                await one.update("key", value + b"x", revision)
            await one.update("key", value, revision)
            await one.put("key", value)
            assert await self._value(other, "key") == value

    @pytest.mark.parametrize("name", BAD_NAMES)
    async def test_store_bad_key(self, name: str) -> None:
        """Keys that are not tokens joined by dots are refused everywhere."""
        async with self.stores() as (one, _):
            calls: Iterable[Awaitable[object]] = (
                one.get(name),
                one.put(name, b""),
                one.create(name, b""),
                one.update(name, b"", 1),
                one.delete(name),
            )
            for call in calls:
                with pytest.raises(InvalidName):
                    await call

    async def test_stores_are_separate(self) -> None:
        """Stores of different names share nothing, and a store can be opened many times."""
        async with self.peers() as (one, other):
            names = self.fresh(), self.fresh()
            left, right = [await one.store(name, ttl=TTL) for name in names]
            await left.put("key", b"left")
            assert await right.get("key") is None
            again = await other.store(names[0], ttl=TTL)
            assert await self._value(again, "key") == b"left"

    async def test_bad_store(self) -> None:
        """A malformed name, a senseless TTL, and a TTL that differs from the store's are refused."""
        async with self.peers() as (one, other):
            name = self.fresh()
            await one.store(name, ttl=TTL)
            with pytest.raises(TransportError, match=name):
                await other.store(name, ttl=TTL + 1)
            for ttl in (0.0, -1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="ttl"):
                    await one.store(name, ttl=ttl)
            for bad in ("", "a.b", "a=2E", "ä", "x" * 65):
                with pytest.raises(InvalidName):
                    await one.store(bad, ttl=TTL)

    async def _value(self, store: Store, key: str) -> bytes | None:
        entry = await soon(store.get(key))
        return entry.value if entry else None
