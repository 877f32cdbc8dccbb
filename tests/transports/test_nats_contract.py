"""nats:// keeps the contract of transports, with a real server that is killed for an outage."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.nats_servers import killed

from asyncmgr.testing.conformance import TransportConformance
from asyncmgr.transports import open_transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from asyncmgr.testing.nats import NatsServer
    from asyncmgr.transports import Transport


class TestNats(TransportConformance):
    """Every connection of a test is to the same server."""

    @pytest.fixture(autouse=True)
    def _server(self, nats_server: NatsServer) -> None:
        self.server = nats_server

    def connect(self) -> AbstractAsyncContextManager[Transport]:
        return open_transport(self.server.url)

    @asynccontextmanager
    async def freeze(self) -> AsyncIterator[None]:
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()

    async def wipe(self) -> None:
        await asyncio.to_thread(self.server.restart, empty=True)

    def outage(self, transport: Transport) -> AbstractAsyncContextManager[None]:
        return killed(self.server, transport)
