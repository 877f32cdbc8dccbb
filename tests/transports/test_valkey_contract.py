"""redis:// keeps the contract of stores, with a real server that is killed for an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.valkey_servers import killed, paused

from asyncmgr.testing.conformance import StoreConformance
from asyncmgr.transports import open_store

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.valkey_servers import ValkeyServer

    from asyncmgr.transports import StoreEngine


class TestValkey(StoreConformance):
    """Every connection of a test is to the same server."""

    @pytest.fixture(autouse=True)
    def _server(self, valkey_server: ValkeyServer) -> None:
        self.server = valkey_server

    def connect(self) -> AbstractAsyncContextManager[StoreEngine]:
        return open_store(self.server.url)

    def outage(self, engine: StoreEngine) -> AbstractAsyncContextManager[None]:
        return killed(self.server, engine)

    @asynccontextmanager
    async def freeze(self) -> AsyncIterator[None]:
        async with paused(self.server):
            yield

    async def wipe(self) -> None:
        await asyncio.to_thread(self.server.restart, empty=True)
