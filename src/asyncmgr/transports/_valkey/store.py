"""A store in Redis or Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asyncmgr.transports._given import VALUE_LIMIT, Data, check_name, check_prefix, to_bytes
from asyncmgr.transports._stores import Store
from asyncmgr.transports._streams import Entry, Watch
from asyncmgr.transports._valkey.feed import Feed
from asyncmgr.transports._valkey.records import Records
from asyncmgr.transports._valkey.scripts import ANY, NONE


class ValkeyStore(Store):
    """The store that one engine has opened.

    Parameters
    ----------
    feeds
        Those of all watches of the engine, which ends them.
    """

    def __init__(self, records: Records, feeds: set[Feed]) -> None:
        self._records, self._feeds = records, feeds

    async def get(self, key: str) -> Entry | None:
        entries = await self._records.read([check_name(key, "key")])
        return entries[0] if entries else None

    async def put(self, key: str, value: Data) -> int:
        return await self._write(key, value, ANY)

    async def create(self, key: str, value: Data) -> int:
        return await self._write(key, value, NONE)

    async def update(self, key: str, value: Data, revision: int) -> int:
        return await self._write(key, value, str(revision))

    async def delete(self, key: str, revision: int | None = None) -> None:
        await self._records.delete(check_name(key, "key"), ANY if revision is None else str(revision))

    async def keys(self, prefix: str = "") -> list[str]:
        _, names = await self._records.names(check_prefix(prefix))
        return names

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        feed = Feed(self._records, check_prefix(prefix))
        self._feeds.add(feed)
        try:
            await self._records.link.until_closed(feed.begin())
            yield feed.watch
        finally:
            self._feeds.discard(feed)
            await feed.close()

    async def _write(self, key: str, value: Data, expected: str) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        return await self._records.write(key, expected, raw)
