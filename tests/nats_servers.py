"""The NATS server that tests share, and what they do to it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import Transport
from asyncmgr.transports._nats import reconnect as nats_link
from tests.transports.nats_identities import Certificates

PATIENCE = 20.0
"""Seconds after which something that should happen did not."""


@pytest.fixture(scope="session")
def shared_nats_server() -> Iterator[NatsServer]:
    """One server for all tests of a process; ask for `nats_server`."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def nats_server(shared_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> NatsServer:
    """A server that runs, with what other tests stored: use names of your own. Who lost it comes back soon."""
    monkeypatch.setattr(nats_link, "RECONNECT_FIRST", 0.02)
    monkeypatch.setattr(nats_link, "RECONNECT_MOST", 0.1)
    shared_nats_server.start()
    return shared_nats_server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def killed(server: NatsServer, transport: Transport) -> AsyncIterator[None]:
    """Kill the server; at the end it is there again, and `transport` connected where it was not closed."""
    await asyncio.to_thread(server.kill)
    await eventually(lambda: not transport.connected)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)
    await eventually(lambda: transport.connected or _is_closed(transport))


async def eventually(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of what is outside no event tells
            await asyncio.sleep(0.002)


def _is_closed(transport: Transport) -> bool:
    link = getattr(transport, "_link", None)
    return link is not None and link._closed
