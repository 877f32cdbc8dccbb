"""Whom a NATS connection meets in tests, and how to look inside it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import traceback
from typing import Any, Self

import pytest
from structlog.testing import capture_logs
from tests.nats_servers import PATIENCE

from asyncmgr._settings.model import Settings
from asyncmgr.errors import TransportError
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import Transport, open_transport
from asyncmgr.transports._nats import connection as nats_client
from asyncmgr.transports._nats import reconnect as nats_link
from asyncmgr.transports._nats.transport import NatsTransport

SECRET = "hunter2"


def at(server: NatsServer, userinfo: str = "", scheme: str = "nats") -> str:
    """The URL of `server`, with something before its host."""
    return f"{scheme}://{userinfo}127.0.0.1:{server.port}"


async def works(url: str, **nats_table: Any) -> bool:
    """Whether a message gets through and back."""
    async with (
        open_transport(url, Settings(nats=nats_table)) as transport,
        transport.subscribe("s") as messages,
    ):
        await transport.publish("s", b"x")
        return (await anext(messages)).data == b"x"


async def refusal(url: str, **nats_table: Any) -> str:
    """The text of the `TransportError` that connecting ends with; no secret is in it, its causes or the log."""
    with capture_logs() as logged, pytest.raises(TransportError) as caught:
        await works(url, **nats_table)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(logged)
    return str(caught.value)


class Pretender:
    """Something that listens like a server, says `greeting` to whoever comes, and hears until they leave."""

    def __init__(self, greeting: bytes = b"") -> None:
        self._greeting = greeting
        self.received = bytearray()
        self.reached, self.left = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.left.wait()
        self._server.close()
        await self._server.wait_closed()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What it does with one who comes."""
        writer.write(self._greeting)
        while data := await reader.read(100):
            self.received.extend(data)

    def __str__(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.set()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.left.set()


def client_of(transport: Transport) -> nats_client.Connection:
    client = link_of(transport)._client
    assert client
    return client


def link_of(transport: Transport) -> nats_link.Link:
    assert isinstance(transport, NatsTransport)
    return transport._link


def count_calls(thing: Any, method: str) -> list[None]:
    """A list that grows with each call."""
    calls: list[None] = []
    called = getattr(thing, method)

    def counting(*args: Any) -> Any:
        calls.append(None)
        return called(*args)

    setattr(thing, method, counting)
    return calls
