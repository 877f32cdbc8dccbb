"""Checks of stores without expiry, of unwatched stores, of the engine's clock, and of revisions that follow it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.testing.conformance._checks import (
    PATIENCE,
    SLACK,
    TTL,
    Checks,
    E,
    connected,
    snapshot,
    soon,
)

SECOND = 1_000_000
"""Microseconds in a second."""

REVISION_LIMIT = 2**53
"""Revisions stay below this, since JSON readers keep numbers as floats."""

YEAR_2000 = 946_684_800 * SECOND


class KeptChecks(Checks[E]):
    """Stores that keep their keys, stores that nobody watches, and the clock."""

    async def test_kept_keys_stay(self) -> None:
        """With ``ttl=None`` keys are kept until they are deleted, and their age goes on growing."""
        async with self.stores(ttl=None) as (one, other):
            revision = await one.create("key", b"x")
            await self.pass_time(TTL + SLACK)
            entry = await other.get("key")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"x", revision)
            assert TTL <= entry.age < TTL + SLACK + PATIENCE
            async with other.watch() as watch:
                assert [entry.key for entry in await snapshot(watch)] == ["key"]
            with pytest.raises(RevisionConflict):
                await other.create("key", b"y")
            await other.delete("key", revision)
            assert await one.get("key") is None

    async def test_kept_and_expiring_are_two(self) -> None:
        """A store without a TTL is not opened with one, and the other way round; the same TTL is no matter."""
        async with self.peers() as (one, other):
            kept, expiring = self.fresh(), self.fresh()
            for name, ttl, wrong in ((kept, None, TTL), (expiring, TTL, None)):
                await one.store(name, ttl=ttl)
                with pytest.raises(TransportError, match=name):
                    await other.store(name, ttl=wrong)
                await (await other.store(name, ttl=ttl)).put("key", b"")

    async def test_store_opened_at_once_by_many(self) -> None:
        """Processes that start at the same time all get the store; those with another TTL are refused."""
        async with self.peers() as (one, other):
            name = self.fresh()
            opened = await soon(asyncio.gather(*(engine.store(name, ttl=TTL) for engine in (one, other) * 5)))
            revision = await opened[0].create("key", b"x")
            for store in opened:
                entry = await store.get("key")
                assert entry is not None
                assert entry.revision == revision

    async def test_store_opened_at_once_with_two_ttls(self) -> None:
        """Where two open a store at the same time with two TTLs, one is refused."""
        async with self.peers() as (one, other):
            name = self.fresh()
            calls = (one.store(name, ttl=TTL), other.store(name, ttl=None))
            results = await soon(asyncio.gather(*calls, return_exceptions=True))
            assert sorted(isinstance(result, TransportError) for result in results) == [False, True]

    @pytest.mark.parametrize("ttl", [TTL, None])
    async def test_unwatched_store(self, ttl: float | None) -> None:
        """With ``watched=False`` every call but a watch works as ever."""
        async with self.stores(ttl=ttl, watched=False) as (one, other):
            first = await one.create("key", b"1")
            with pytest.raises(RevisionConflict):
                await other.create("key", b"2")
            second = await other.update("key", b"2", first)
            with pytest.raises(RevisionConflict):
                await one.update("key", b"3", first)
            entry = await one.get("key")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"2", second)
            with pytest.raises(RevisionConflict):
                await one.delete("key", first)
            await one.delete("key", second)
            assert await other.get("key") is None
            assert await other.create("key", b"4") > second

    async def test_watch_of_an_unwatched_store(self) -> None:
        """It works, perhaps late, or says that it does not."""
        async with self.stores(watched=False) as (one, _):
            await one.put("key", b"")
            with suppress(TransportError):
                async with one.watch() as watch:
                    assert [entry.key for entry in await snapshot(watch)] == ["key"]
            await one.put("key", b"")

    async def test_clock(self) -> None:
        """The engine's clock counts microseconds since 1970, and is the same for all connections."""
        async with self.peers() as (one, other):
            readings = [await soon(engine.now()) for engine in (one, other, one)]
            assert readings == sorted(readings)
            assert all(YEAR_2000 < reading < REVISION_LIMIT for reading in readings)
            assert all(type(reading) is int for reading in readings)
            await self.pass_time(TTL)
            assert TTL * SECOND * 0.9 <= await other.now() - readings[-1] < (TTL + PATIENCE) * SECOND

    async def test_revisions_follow_the_clock(self) -> None:
        """The first revision of a store is no older than its making by the engine's clock, and all are below 2^53."""
        async with self.peers() as (one, other):
            before = await one.now()
            store = await one.store(self.fresh(), ttl=None)
            first = await store.create("key", b"")
            later = await store.put("key", b"")
            assert before <= first < later < REVISION_LIMIT
            await self.pass_time(TTL)
            before = await other.now()
            assert await (await other.store(self.fresh(), ttl=TTL)).put("key", b"") >= before

    @pytest.mark.parametrize("ttl", [TTL, None])
    async def test_revisions_grow_over_a_wipe(self, ttl: float | None) -> None:
        """An engine that has lost its data gives greater revisions than before, in stores opened before and after."""
        async with self.peers() as (one, other):
            name = self.fresh()
            store = await one.store(name, ttl=ttl)
            last = max([await store.put(f"key-{number}", b"") for number in range(50)])
            await self.pass_time(SLACK)  # in virtual time all these were written in one microsecond
            await self.wipe()
            for engine in (one, other):
                await connected(engine)
            again = await soon(other.store(name, ttl=ttl))
            assert await soon(again.get("key-0")) is None
            first = await soon(again.create("key-0", b""))
            assert first > last
            assert await soon(store.create("key-1", b"")) > first

    async def test_one_condition_wins(self) -> None:
        """Of an update and a deletion under one revision at the same time, exactly one succeeds."""
        async with self.stores() as (one, other):
            for number in range(10):
                key = f"key-{number}"
                revision = await one.put(key, b"")
                calls = (one.update(key, b"x", revision), other.delete(key, revision))
                results = await soon(asyncio.gather(*calls, return_exceptions=True))
                assert sorted(isinstance(result, RevisionConflict) for result in results) == [False, True]
                assert (await one.get(key) is None) == isinstance(results[0], RevisionConflict)
