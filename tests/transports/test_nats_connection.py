"""One NATS connection: what a server, or who is in its place, may say at which step; and a peer that reads nothing."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.nats_servers import PATIENCE, eventually
from tests.transports.nats_identities import Certificates
from tests.transports.nats_peers import SECRET, Pretender, at, client_of, refusal, works

from asyncmgr._settings.model import NatsSettings
from asyncmgr.errors import TransportError
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import Transport, open_transport
from asyncmgr.transports._nats import connection as nats_client
from asyncmgr.transports._nats.connection import Connection
from asyncmgr.transports._nats.options import read_options
from asyncmgr.transports._nats.protocol import Msg

INFO: dict[str, Any] = {"server_id": "x", "max_payload": 1048576, "headers": True}


def greeting(**more: Any) -> bytes:
    return b"INFO " + json.dumps(INFO | more).encode() + b"\r\n"


class Speaker(Pretender):
    """Greets, hears the introduction, and answers it; with `certificates` it goes over to TLS in between."""

    def __init__(
        self, hello: bytes, answer: bytes = b"PONG\r\n", certificates: Certificates | None = None
    ) -> None:
        super().__init__(hello)
        self._answer = answer
        self._certificates = certificates

    def say(self, data: bytes) -> None:
        """To who is connected."""
        self._writer.write(data)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._greeting)
        if self._certificates:
            await writer.start_tls(context_of(self._certificates))
        self.received += await reader.readuntil(b"PING\r\n")
        self._writer = writer
        writer.write(self._answer)
        while data := await reader.read(100):
            self.received.extend(data)


def context_of(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    return context


class Opened:
    """A connection to a pretender, and what became of it."""

    def __init__(self, server: Pretender, **table: Any) -> None:
        options = read_options(f"nats://{server}", NatsSettings(**table))
        self.got: list[bytes] = []
        self.lost: list[str] = []
        self.refused: list[str] = []
        self.left = 0
        self.connection = Connection(
            options.servers[0],
            options,
            {1: self._receive},
            lost=lambda _, cause: self.lost.append(str(cause)),
            refused=lambda _, text: self.refused.append(text),
            leaving=lambda _: self._leave(),
        )

    def _receive(self, message: Msg) -> None:
        if message.data == b"raise":
            raise ValueError("raise")
        self.got.append(message.data)

    def _leave(self) -> None:
        self.left += 1


@asynccontextmanager
async def opened(server: Speaker, **table: Any) -> AsyncIterator[Opened]:
    it = Opened(server, **table)
    await it.connection.open()
    try:
        yield it
    finally:
        await it.connection.discard()


MESSAGE = b"MSG s 1 8\r\ninjected\r\n"
GENUINE = b"MSG s 1 4\r\ntrue\r\n"


@pytest.fixture
def tls_table(certificates: Certificates) -> dict[str, Any]:
    return {"tls_ca_file": certificates.ca, "tls_hostname": "nats.test"}


@pytest.mark.parametrize(
    ("injected", "rest"),
    [
        (MESSAGE, b""),
        (b"PONG\r\n" + MESSAGE, b""),
        (b"INFO {}\r\n", b""),
        (b"PING\r\n-ERR 'Authorization Violation'\r\n", b""),
        (MESSAGE[:-5], MESSAGE[-5:]),
    ],
    ids=["message", "pong", "info", "error", "half"],
)
async def test_what_came_in_clear_before_tls(
    certificates: Certificates, tls_table: dict[str, Any], injected: bytes, rest: bytes
) -> None:
    """Whoever sits in between may add to the greeting; it is never read, nor joined with what comes encrypted."""
    hello = greeting(tls_required=True) + injected
    async with Speaker(hello, rest + b"PONG\r\n", certificates) as server:
        if rest:
            assert "a line begins" in await refusal(f"nats://{server}", **tls_table)
            return
        async with opened(server, **tls_table) as it:
            server.say(GENUINE)
            await eventually(lambda: bool(it.got))
            assert it.got == [b"true"]


async def test_names_that_came_in_clear_before_tls(
    certificates: Certificates, tls_table: dict[str, Any]
) -> None:
    """A name could be anybody's who has a certificate for it; an address has to show the certificate of this server."""
    hello = greeting(tls_required=True, connect_urls=["evil.test:4222", "10.0.0.2:4222"])
    async with Speaker(hello, certificates=certificates) as server, opened(server, **tls_table) as it:
        assert it.connection.discovered == [("10.0.0.2", 4222)]


@pytest.mark.parametrize("said", [MESSAGE, b"PING\r\n", b"PONG\r\n", b"+OK\r\n"])
async def test_anything_before_the_greeting(said: bytes) -> None:
    """A server greets first; who does not is none."""
    async with Pretender(said + greeting()) as server:
        assert "does not accept the connection (it does not begin with INFO)" in await refusal(
            f"nats://{server}"
        )


async def test_messages_before_the_introduction_is_answered() -> None:
    """Nothing is subscribed to by then."""
    async with Speaker(greeting() + MESSAGE, MESSAGE + b"PONG\r\n") as server, opened(server) as it:
        server.say(GENUINE)
        await eventually(lambda: bool(it.got))
        assert it.got == [b"true"]


async def test_credentials_wait_for_tls(certificates: Certificates) -> None:
    """Where TLS does not come about nothing of them was sent, whoever asked for TLS."""
    for hello in (greeting(tls_required=True), greeting(tls_available=True)):
        async with Speaker(hello, certificates=certificates) as server:
            await refusal(f"tls://me:{SECRET}@{server}")
            await server.left.wait()
            assert not server.received


async def test_tls_first(certificates: Certificates, tls_table: dict[str, Any]) -> None:
    """Not even the greeting is in clear; a server that greets in clear is refused, and gets nothing."""
    config = certificates.config(handshake_first="true")
    async with NatsServer(config, jetstream=False) as server:
        assert await works(server.url, tls_first=True, **tls_table)
    async with Pretender(greeting(tls_available=True)) as clear:
        assert "no TLS comes about" in await refusal(f"nats://me:{SECRET}@{clear}", tls_first=True)
        await clear.left.wait()
        assert b"CONNECT" not in clear.received


async def test_server_that_is_about_to_stop() -> None:
    """It is not worth a connection."""
    async with Pretender(greeting(ldm=True)) as server:
        assert "lame duck" in await refusal(f"nats://{server}")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"-ERR 'Stale Connection'\r\n", "Stale Connection"),
        (b"-ERR 'User Authentication Expired'\r\n", "User Authentication Expired"),
        (b"nonsense\r\n", "a line begins b'nonsense'"),
        (b"MSG s 1 1\r\nabc\r\n", "longer than was announced"),
        (b"INFO {\r\n", "INFO holds no JSON object"),
    ],
)
async def test_what_ends_a_connection(said: bytes, cause: str) -> None:
    """An error, or what no server says: whoever uses the connection is told, once, and of nothing after it."""
    async with Speaker(greeting()) as server, opened(server) as it:
        server.say(said + MESSAGE)
        await eventually(lambda: bool(it.lost))
        (text,) = it.lost
        assert cause in text
        assert not it.got
        assert not it.connection.alive


async def test_what_ends_no_connection() -> None:
    """Pings are answered, refusals passed on, and a handler that raises loses no message but its own."""
    said = (
        b"PING\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n+OK\r\n"
        b"MSG s 1 5\r\nraise\r\nMSG s 9 1\r\nx\r\nMSG \xff\xfe 1 4\r\ntrue\r\n"
        b'INFO {"max_payload": 10, "connect_urls": ["a:1", "[::1]:2", 7, "b", "c:x"], "ldm": true}\r\n'
    )
    async with Speaker(greeting()) as server, opened(server) as it:
        with capture_logs() as logged:
            server.say(said)
            await eventually(lambda: bool(it.left))
        await eventually(lambda: server.received.endswith(b"PONG\r\n"))
        assert it.connection.alive
        assert (it.got, it.left) == ([b"true"], 1)
        assert it.refused == ['Permissions Violation for Publish to "x"']
        assert [event["event"] for event in logged] == ["message.failed"]
        assert it.connection.max_payload == 10
        assert it.connection.discovered == [("a", 1), ("::1", 2)]


async def test_introduction() -> None:
    """It asks for headers and for a word where nobody subscribes, and not for an answer to every command."""
    async with Speaker(greeting()) as server, opened(server, user="me", password=SECRET):
        said = json.loads(server.received.split(b"\r\n")[0].removeprefix(b"CONNECT "))
        assert (said["user"], said["pass"]) == ("me", SECRET)
        assert (said["headers"], said["no_responders"], said["verbose"]) == (True, True, False)


# A peer that reads nothing


async def test_eight_publishers_and_a_stopped_server(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the socket, holding one message, and gets an error once the server is given up."""
    monkeypatch.setattr(nats_client, "PING_INTERVAL", 0.1)

    async def publish_without_end(transport: Transport) -> None:
        while True:
            await transport.publish("full", bytes(1_000_000))

    async with open_transport(nats_server.url) as transport:
        client = client_of(transport)
        nats_server.pause()
        try:
            publishers = [asyncio.create_task(publish_without_end(transport)) for _ in range(8)]
            socket = client._transport
            assert socket
            await eventually(lambda: client.is_behind)
            assert socket.get_write_buffer_size() < 9_000_000
            done, waiting = await asyncio.wait(publishers, timeout=PATIENCE)
            assert not waiting
            assert {type(each.exception()) for each in done} == {TransportError}
        finally:
            nats_server.resume()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_ending_with_full_buffers(certificates: Certificates, encrypted: bool) -> None:
    """A peer that has stopped reading keeps nobody: not who publishes, nor who disconnects."""
    table = {"tls_ca_file": certificates.ca, "tls_hostname": "nats.test"} if encrypted else {}
    config = certificates.config() if encrypted else ""
    async with NatsServer(config, jetstream=False) as server:
        peer = Pretender()
        peer.port = server.port
        it = Opened(peer, **table)
        await it.connection.open()
        server.pause()
        try:
            while it.connection._writable.is_set():
                it.connection.publish_now("full", bytes(1_000_000))
                await asyncio.sleep(0)
            waiting = asyncio.create_task(it.connection.catch_up())
            await asyncio.sleep(0)
            await asyncio.wait_for(it.connection.discard(), PATIENCE)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(waiting, PATIENCE)
            assert it.connection._transport
            assert it.connection._transport.is_closing()
            assert it.lost == []
        finally:
            server.resume()


async def test_a_request_waits_for_the_socket_no_longer_than_for_its_answer(nats_server: NatsServer) -> None:
    """Large requests to a stopped server end by their own timeouts."""
    async with open_transport(nats_server.url) as transport:
        nats_server.pause()
        try:
            asking = [transport.request("full", bytes(1_000_000), timeout=0.2) for _ in range(8)]
            ends = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), PATIENCE)
            assert {type(end) for end in ends} == {TimeoutError}
        finally:
            nats_server.resume()


async def test_leaving_a_group_under_a_flood(nats_server: NatsServer) -> None:
    """Five hundred leaves lose nothing: what the server had sent by then is delivered, the rest goes to who stays."""
    sent, got = 0, 0

    async def flood(transport: Transport) -> None:
        nonlocal sent
        while True:
            await transport.publish("flood", b"x")
            sent += 1
            if sent % 20 == 0:
                await asyncio.sleep(0)

    async def count(messages: AsyncIterator[object]) -> None:
        nonlocal got
        async for _ in messages:
            got += 1

    async with (
        open_transport(nats_server.url) as one,
        open_transport(nats_server.url) as other,
        open_transport(nats_server.url) as publisher,
        one.subscribe("flood", group="g", pending_limit=10**7) as stays,
    ):
        staying = asyncio.create_task(count(stays))
        flooding = asyncio.create_task(flood(publisher))
        for _ in range(500):
            async with other.subscribe("flood", group="g", pending_limit=10**7) as comes_and_goes:
                pass
            await count(comes_and_goes)
        flooding.cancel()
        await client_of(publisher).round_trip()
        await eventually(lambda: got == sent)
        staying.cancel()
    assert sent > 5_000


async def test_two_servers_of_one_url(certificates: Certificates) -> None:
    """A TLS server without the name that is asked for is passed over for one that has it."""
    async with NatsServer(certificates.config(), jetstream=False) as server:
        url = f"tls://127.0.0.1:1,127.0.0.1:{server.port}"
        assert await works(url, tls_ca_file=certificates.ca, tls_hostname="nats.test")
        assert "no TLS comes about" in await refusal(at(server, scheme="tls"), tls_ca_file=certificates.ca)
