"""postgresql:// keeps the contract of stores, with a real server that is killed, frozen and emptied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.nats_servers import eventually
from tests.postgres_servers import PostgresServer

from asyncmgr.testing.conformance import StoreConformance
from asyncmgr.transports import StoreEngine, open_store

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class TestPostgres(StoreConformance):
    """Every engine of a test is connected to the same server."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.server = postgres_server

    def connect(self) -> AbstractAsyncContextManager[StoreEngine]:
        return open_store(self.server.url)

    @asynccontextmanager
    async def outage(self, engine: StoreEngine) -> AsyncIterator[None]:
        await asyncio.to_thread(self.server.kill)
        await eventually(lambda: not engine.connected)
        try:
            yield
        finally:
            await asyncio.to_thread(self.server.start)
        await eventually(lambda: engine.connected or engine._link.calls.closed)  # type: ignore[attr-defined]

    @asynccontextmanager
    async def freeze(self) -> AsyncIterator[None]:
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()

    async def wipe(self) -> None:
        await asyncio.to_thread(self.server.run, "TRUNCATE asyncmgr_store")
