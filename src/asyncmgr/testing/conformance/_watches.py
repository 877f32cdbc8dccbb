"""Checks of a watch: the snapshot, then the changes."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from asyncmgr.errors import InvalidName
from asyncmgr.testing.conformance._checks import (
    BAD_NAMES,
    SLACK,
    TTL,
    Checks,
    E,
    as_coroutine,
    ends,
    enter,
    interrupted,
    snapshot,
    soon,
    take,
)
from asyncmgr.transports._streams import Change, Deleted, Entry


class WatchChecks(Checks[E]):
    """Snapshot, then changes."""

    LAST: ClassVar[dict[str, list[int]]] = {"key-0": [297], "key-1": [298], "key-2": [299]}

    async def test_watch_empty(self) -> None:
        """The watch of an empty store says at once that its snapshot is complete."""
        async with self.stores() as (one, _), one.watch() as watch:
            assert await snapshot(watch) == []

    async def test_watch_snapshot_then_changes(self) -> None:
        """A watch gives the snapshot, then `SNAPSHOT_DONE`, then each change, in order for one key."""
        async with self.stores() as (one, other):
            before = {key: await one.put(key, key.encode()) for key in ("a", "b.c", "d")}
            async with other.watch() as watch:
                found = await snapshot(watch)
                assert {entry.key: entry.revision for entry in found} == before
                assert {entry.key: entry.value for entry in found} == {"a": b"a", "b.c": b"b.c", "d": b"d"}
                revision = await one.update("a", b"new", before["a"])
                assert self._plain(await take(watch, 1)) == [("a", b"new", revision)]
                await one.delete("a")
                (deleted,) = await take(watch, 1)
                assert isinstance(deleted, Deleted)
                assert (deleted.key, deleted.revision > revision) == ("a", True)
                revision = await one.create("e", b"")
                assert self._plain(await take(watch, 1)) == [("e", b"", revision)]

    async def test_watch_snapshot_without_the_dead(self) -> None:
        """Deleted and expired keys are in no snapshot."""
        async with self.stores() as (one, other):
            await one.put("expired", b"")
            await self.pass_time(TTL + SLACK)
            for key in ("deleted", "living", "deleted too"):
                await one.put(key.replace(" ", "-"), b"")
            await one.delete("deleted")
            await one.delete("deleted-too")
            async with other.watch() as watch:
                assert [entry.key for entry in await snapshot(watch)] == ["living"]

    async def test_watch_all_is_deleted(self) -> None:
        """A snapshot of deleted keys only is complete and empty."""
        async with self.stores() as (one, other):
            await one.put("key", b"")
            await one.delete("key")
            async with other.watch() as watch:
                assert await snapshot(watch) == []

    async def test_watch_prefix(self) -> None:
        """Only keys below the prefix are seen, in the snapshot and in changes."""
        async with self.stores() as (one, other):
            for key in ("a", "a.b", "a.b.c", "ab.c"):
                await one.put(key, b"")
            async with other.watch("a") as watch:
                assert sorted(entry.key for entry in await snapshot(watch)) == ["a.b", "a.b.c"]
                for key in ("a", "ab.c", "a.d"):
                    await one.put(key, b"")
                await one.delete("a")
                await one.delete("a.b")
                assert {getattr(change, "key", "") for change in await take(watch, 2)} == {"a.d", "a.b"}

    @pytest.mark.parametrize("name", [name for name in BAD_NAMES if name])
    async def test_watch_bad_prefix(self, name: str) -> None:
        """A prefix is whole tokens; anything else is refused."""
        async with self.stores() as (one, _):
            with pytest.raises(InvalidName):
                await enter(one.watch(name))

    async def test_watch_age(self) -> None:
        """Entries of a snapshot have an age, which grows while they wait for the reader."""
        async with self.stores() as (one, other):
            await one.put("key", b"")
            await self.pass_time(0.4 * TTL)
            async with other.watch() as watch:
                await self.pass_time(0.4 * TTL)
                (entry,) = await snapshot(watch)
                assert 0.7 * TTL <= entry.age < TTL + SLACK
                await one.put("key", b"")
                (change,) = await take(watch, 1)
                assert isinstance(change, Entry)
                assert change.age < 0.4 * TTL

    async def test_watch_slow_reader(self) -> None:
        """A slow reader may miss states of a key, but not the last one, and sees no older state after a newer one."""
        async with self.stores() as (one, other), other.watch() as watch:
            for number in range(300):
                await one.put(f"key-{number % 3}", str(number).encode())
            seen: dict[str, list[int]] = {"key-0": [], "key-1": [], "key-2": []}
            while {key: states[-1:] for key, states in seen.items()} != self.LAST:
                (change,) = await take(watch, 1)
                if isinstance(change, Entry):
                    seen[change.key].append(int(change.value))
            for states in seen.values():
                assert states == sorted(set(states))

    async def test_watch_many_keys(self) -> None:
        """A snapshot of many keys is complete."""
        async with self.stores() as (one, other):
            expected = {f"host.{number}" for number in range(300)}
            await soon(asyncio.gather(*(one.put(key, b"") for key in expected)))
            async with other.watch("host") as watch:
                assert {entry.key for entry in await snapshot(watch)} == expected

    async def test_two_watches(self) -> None:
        """Two watches do not take changes from each other."""
        async with self.stores() as (one, other), one.watch() as here, other.watch() as there:
            revision = await one.put("key", b"x")
            for watch in (here, there):
                assert await snapshot(watch) == []
                assert self._plain(await take(watch, 1)) == [("key", b"x", revision)]

    async def test_watch_leaving_ends_the_iteration(self) -> None:
        """A waiting reader sees the end when the watch is left, and no change after it."""
        async with self.stores() as (one, other):
            async with other.watch() as watch:
                assert await snapshot(watch) == []
                reader = asyncio.ensure_future(as_coroutine(anext(watch)))
                await asyncio.sleep(0)
            with pytest.raises(StopAsyncIteration):
                await soon(reader)
            await one.put("key", b"too late")
            await ends(watch)

    async def test_watch_cancelled_reader_loses_nothing(self) -> None:
        """A change that comes while its reader is cancelled stays for the next reader."""
        async with self.stores() as (one, other), other.watch() as watch:
            assert await snapshot(watch) == []
            keys = [f"key-{number}" for number in range(9)]
            got: list[Change] = []
            for key in keys:
                got += await interrupted(watch, one.put(key, b""))
            got += await take(watch, len(keys) - len(got))
            assert sorted(getattr(change, "key", "") for change in got) == keys

    def _plain(self, changes: list[Change]) -> list[tuple[str, bytes, int]]:
        entries = [change for change in changes if isinstance(change, Entry)]
        return [(entry.key, entry.value, entry.revision) for entry in entries]
