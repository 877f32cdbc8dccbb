"""``redis://host:6379``: stores in Redis or Valkey (extra ``asyncmgr[redis]``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncmgr.transports._given import check_store
from asyncmgr.transports._stores import StoreEngine
from asyncmgr.transports._valkey.feed import Feed
from asyncmgr.transports._valkey.link import Link
from asyncmgr.transports._valkey.options import Options, read_options
from asyncmgr.transports._valkey.records import Records
from asyncmgr.transports._valkey.store import ValkeyStore

if TYPE_CHECKING:
    from asyncmgr._settings.model import Settings


@asynccontextmanager
async def open_valkey(url: str, settings: Settings | None = None) -> AsyncIterator[ValkeyEngine]:
    """The opener of ``redis``, ``valkey`` and, with TLS, ``rediss``, ``valkeys``.

    The URL has the database's number as its path, user and password, and as parameters: ``prefix``, with which all
    keys begin (``asyncmgr``); ``sentinel``, the name of the primary where the servers are sentinels; ``ssl_ca_certs``,
    ``ssl_certfile``, ``ssl_keyfile``. Several servers are sentinels, or nodes of one cluster.
    """
    settings = settings or _read_settings()
    engine = ValkeyEngine(read_options(url, wait=settings.connect == "wait"))
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


class ValkeyEngine(StoreEngine):
    """A connection to a server, and one more for each watch; `open` it first.

    A lost connection is sought again for ever. Calls that were in flight raise `TransportError`.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._link = Link(options, self._set_connected)
        self._feeds: set[Feed] = set()

    async def open(self) -> None:
        """Connect; raises `TransportError` where no server takes writes, unless `connect` is ``wait``."""
        await self._link.open()

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> ValkeyStore:
        check_store(name, ttl)
        records = Records(self._link, name, ttl, watched=watched, check=self.check_loop)
        await records.open()
        return ValkeyStore(records, self._feeds)

    async def now(self) -> int:
        self.check_loop()
        seconds, micro = await self._link.check().ask("TIME")
        return int(seconds) * 1_000_000 + int(micro)

    async def aclose(self) -> None:
        self._note_closed()
        for feed in tuple(self._feeds):
            feed.end()
        await self._link.close()


def _read_settings() -> Settings:
    from asyncmgr._settings.model import Settings  # not needed where a service has read them

    return Settings()
