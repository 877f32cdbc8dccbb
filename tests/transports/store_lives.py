"""What tests of several engines do with their stores; `count` and `hammer` run in processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from asyncmgr.errors import RevisionConflict
from asyncmgr.transports import Entry, Store, Watch, open_store

PATIENCE = 20.0
"""Seconds after which something that should happen did not."""


async def until_seen(watch: Watch, key: str, value: bytes | None = None, revision: int = 0) -> Entry:
    """The entry of `key`, once the watch tells one with this value and at least this revision."""
    async with asyncio.timeout(PATIENCE):
        async for change in watch:
            if (
                isinstance(change, Entry)
                and change.key == key
                and value in (None, change.value)
                and change.revision >= revision
            ):
                return change
    raise AssertionError("the watch ended")


async def contend(stores: Sequence[Store], rounds: int, writers: int) -> list[int]:
    """Update one key many times at once, for some rounds; returns the revisions that won, one for each round."""
    won = []
    revision = await stores[0].put("contended", b"")
    for _ in range(rounds):
        calls = (
            stores[number % len(stores)].update("contended", b"%d" % number, revision)
            for number in range(writers)
        )
        results = await asyncio.gather(*calls, return_exceptions=True)
        winners = [result for result in results if isinstance(result, int)]
        assert len(winners) == 1, winners
        assert all(isinstance(result, int | RevisionConflict) for result in results), results
        entry = await stores[-1].get("contended")
        assert entry is not None
        assert entry.revision == winners[0] > revision
        assert entry.value == b"%d" % results.index(winners[0])
        revision = winners[0]
        won.append(revision)
    return won


async def count(url: str, times: str) -> None:
    """Add 1 to the number in a key, as often as told, whoever else does it too."""
    async with open_store(url) as engine:
        store = await engine.store("claims", ttl=60)
        for _ in range(int(times)):
            while not await _counted(store):
                pass


async def hammer(url: str) -> None:
    """Count in a key without end; say each number once it is written."""
    async with open_store(url) as engine:
        store = await engine.store("claims", ttl=60)
        while True:
            if await _counted(store) and (entry := await store.get("count")):
                print(entry.value.decode(), flush=True)  # noqa: T201 - for the test that reads it


async def _counted(store: Store) -> bool:
    entry = await store.get("count")
    try:
        if entry is None:
            await store.create("count", b"1")
        else:
            await store.update("count", b"%d" % (int(entry.value) + 1), entry.revision)
    except RevisionConflict:
        return False
    return True
