"""One connection to one NATS server, from its handshake to its loss; never used again after that."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import printable
from asyncmgr.errors import TransportError
from asyncmgr.transports._given import MESSAGE_LIMIT
from asyncmgr.transports._nats import protocol
from asyncmgr.transports._nats.credentials import connect_fields, expiry
from asyncmgr.transports._nats.options import Options, Server, is_address, parse_address
from asyncmgr.transports._nats.protocol import Err, Event, Info, Msg, Parser, Ping, Pong, ProtocolError

PING_INTERVAL = 5.0
"""Seconds between pings. A server that leaves two of them without an answer is lost when a third is due."""

WRITE_LIMIT = 64 * 1024
"""Bytes that publishers may leave unwritten before they wait for the socket."""

GOODBYE_WITHIN = 1.0
"""Seconds that the server gets to take note of the end."""

_HARMLESS = ("permissions violation", "invalid subject", "invalid publish subject")
"""How the errors begin after which a server keeps the connection."""

Handler: TypeAlias = Callable[[Msg], object]
"""Called with each message; never waits."""


class ServerRefused(Exception):
    """The server said so and then, mostly, hung up."""


class NoTls(Exception):
    """The server has no TLS, and TLS was asked for."""


class Connection(asyncio.Protocol):
    """A connection.

    Parameters
    ----------
    handlers
        By the number of the subscription; looked up for each message.
    lost
        Called once, in the event loop, when the connection is lost.
    refused
        Called with what the server does not permit.
    leaving
        Called when the server is about to end its connections (lame duck mode).
    """

    def __init__(
        self,
        server: Server,
        options: Options,
        handlers: Mapping[int, Handler],
        *,
        lost: Callable[[Connection, Exception], object],
        refused: Callable[[Connection, str], object],
        leaving: Callable[[Connection], object],
    ) -> None:
        self.server = server
        self.handlers: Mapping[int, Handler] = handlers
        self.alive: bool = False
        self.discovered: list[tuple[str, int]] = []
        """Host and port of the other servers of the cluster, as this one tells."""
        self.max_payload: int = MESSAGE_LIMIT
        """Bytes of headers and data that the server takes."""
        self._options = options
        self._on_lost, self._on_refused, self._on_leaving = lost, refused, leaving
        self._loop = asyncio.get_running_loop()
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._accepted: asyncio.Future[bool] = self._loop.create_future()
        self._deaf = False
        """Whether nothing is read: between the greeting and TLS anybody may have written it."""
        self._ended = False
        self._out: list[bytes] = []
        self._out_size = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._pongs: deque[asyncio.Future[bool]] = deque()
        self._unanswered = 0
        self._pinging: asyncio.TimerHandle | None = None

    # The handshake

    async def open(self) -> None:
        """Connect, or leave nothing behind and raise `TransportError` with the cure."""
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await self._shake_hands()
        except Exception as exc:
            await self.discard()
            raise TransportError(_refusal(self.server, self._options, exc)) from exc
        except BaseException:
            self._end(None)  # at once, as whoever opens may be cancelled once more
            raise

    async def _shake_hands(self) -> None:
        await self._connect()
        info = await self._greeting
        if self._deaf:
            await self._encrypt()
        self._write_at_once(protocol.connect(self._introduction(info)) + protocol.PING)
        self._pongs.append(self._accepted)
        await self._accepted
        self.alive = True
        self._pinging = self._loop.call_later(PING_INTERVAL, self._ping)

    async def _connect(self) -> None:
        context = self._options.tls if self._options.tls_first else None
        name = (self.server.tls_hostname or self.server.host) if context else None
        await self._loop.create_connection(
            lambda: self, self.server.host, self.server.port, ssl=context, server_hostname=name
        )

    async def _encrypt(self) -> None:
        context = self._options.tls or ssl.create_default_context()
        name = self.server.tls_hostname or self.server.host
        assert self._transport
        encrypted = await self._loop.start_tls(self._transport, self, context, server_hostname=name)
        if encrypted is None or self._ended:
            raise ConnectionError("the server ended the connection")
        self._use(encrypted)
        # A name that came in clear may be anybody's, who can have a certificate for it.
        self.discovered = [(host, port) for host, port in self.discovered if is_address(host)]
        self._deaf = False

    def _introduction(self, info: dict[str, Any]) -> dict[str, Any]:
        who = connect_fields(self._options.credentials, str(info.get("nonce", "")))
        return {
            "name": "asyncmgr",
            "lang": "python",
            "version": "asyncmgr",
            "protocol": 1,
            "verbose": False,
            "pedantic": False,
            "echo": True,
            "headers": True,
            "no_responders": True,
            **who,
        }

    def _greet(self, info: dict[str, Any]) -> None:
        is_encrypted = self._transport is not None and self._transport.get_extra_info("ssl_object")
        if not is_encrypted and (self._options.tls or info.get("tls_required")):
            if not (info.get("tls_required") or info.get("tls_available")):
                return self._end(NoTls())  # before the credentials are sent
            # What else came in clear, and what still comes, is nobody's word.
            self._deaf = True
            self._parser.clear()
            if self._transport is not None:
                self._transport.pause_reading()
        if info.get("ldm") is True:
            return self._end(ServerRefused("it is about to stop, in lame duck mode"))
        if not self._greeting.done():
            self._greeting.set_result(info)
        return None

    # Sending

    def publish_now(self, subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Send within this turn of the event loop."""
        self._send(protocol.publish(subject, data, reply, headers))

    def subscribe_now(self, number: int, subject: str, group: str | None) -> None:
        self._send(protocol.subscribe(number, subject, group))

    def unsubscribe_now(self, number: int) -> None:
        self._send(protocol.unsubscribe(number))

    @property
    def is_behind(self) -> bool:
        """Whether publishers are ahead of the socket by more than they should; `catch_up` waits for it."""
        return self._out_size > WRITE_LIMIT or not self._writable.is_set()

    async def catch_up(self) -> None:
        """Wait until the socket has taken what was sent; raises `OSError` where it is lost."""
        self._write_out()
        await asyncio.sleep(0)  # others get their turn, also while the socket takes all
        await self._writable.wait()
        if not self.alive:
            raise ConnectionError("the connection was lost")

    async def round_trip(self) -> bool:
        """Whether the server has seen all that was sent, and this side all that it sent before; False once lost."""
        if not self.alive:
            return False
        answered: asyncio.Future[bool] = self._loop.create_future()
        self._pongs.append(answered)
        self._send(protocol.PING)
        self._write_out()
        return await answered

    async def leave(self) -> None:
        """Have the server know that this is the end, as far as it listens, and disconnect."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_WITHIN):
                    for number in self.handlers:
                        self.unsubscribe_now(number)
                    await self.round_trip()
        finally:
            await self.discard()

    async def discard(self) -> None:
        """Disconnect at once, whatever is unwritten."""
        self._end(None)
        # Aborting takes a turn of the loop, and two with TLS.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _send(self, command: bytes) -> None:
        if not self.alive:
            return
        if not self._out:
            self._loop.call_soon(self._write_out)
        self._out.append(command)
        self._out_size += len(command)

    def _write_out(self) -> None:
        if self._out and self.alive and self._transport is not None:
            # Not by writelines, which in Python 3.12 and 3.13 tells nobody that the socket takes no more.
            self._transport.write(b"".join(self._out))
        self._out, self._out_size = [], 0

    def _write_at_once(self, command: bytes) -> None:
        if self._transport is not None:
            self._transport.write(command)

    def _ping(self) -> None:
        if self._unanswered >= 2:
            return self._end(TimeoutError("the server leaves pings without an answer"))
        self._unanswered += 1
        self._pongs.append(self._loop.create_future())
        self._send(protocol.PING)
        self._pinging = self._loop.call_later(PING_INTERVAL, self._ping)
        return None

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._use(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        if self._deaf or self._ended:
            return None
        try:
            events = self._parser.feed(data)
        except ProtocolError as exc:
            return self._end(exc)
        for event in events:
            if type(event) is Msg and self.alive:
                self._deliver(event)
            else:
                self._handle(event)
            if self._deaf or self._ended:
                break
        return None

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("the server ended the connection"))

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_LIMIT)
        if self._ended:
            transport.abort()

    # What the server says

    def _deliver(self, message: Msg) -> None:
        if handler := self.handlers.get(message.number):
            try:
                handler(message)
            except Exception:  # one message must not cost those after it
                log.error("message.failed", exc_info=True)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Info):
            self._note_info(event.fields)
        elif not self._greeting.done() and not isinstance(event, Err):
            self._end(ProtocolError("it does not begin with INFO"))
        elif isinstance(event, Ping):
            self._write_out()
            self._write_at_once(protocol.PONG)
        elif isinstance(event, Pong):
            self._unanswered = 0
            if self._pongs and not (pong := self._pongs.popleft()).done():
                pong.set_result(True)
        elif isinstance(event, Err):
            self._note_error(printable(event.text))

    def _note_info(self, info: dict[str, Any]) -> None:
        limit = info.get("max_payload")
        if isinstance(limit, int) and limit > 0:
            self.max_payload = limit
        urls = info.get("connect_urls")
        if isinstance(urls, list):
            self.discovered = [address for url in urls if (address := parse_address(url)) is not None]
        if not self._greeting.done():
            self._greet(info)
        elif info.get("ldm") is True:
            self._on_leaving(self)

    def _note_error(self, text: str) -> None:
        if not text.lower().startswith(_HARMLESS):
            self._end(ServerRefused(text))
        else:
            self._on_refused(self, text)

    def _end(self, cause: Exception | None) -> None:
        """Nobody waits any longer for this connection; who uses it is told of a `cause`."""
        was_alive, self.alive = self.alive, False
        if not self._ended:
            self._ended = True
            self._let_go(cause or ConnectionError("the connection was closed"))
        if was_alive and cause is not None:
            self._on_lost(self, cause)

    def _let_go(self, cause: Exception) -> None:
        if self._pinging:
            self._pinging.cancel()
        # Not closed in order: that would wait until the server has read all, which a stopped one never does.
        if self._transport is not None:
            self._transport.abort()
        for step in (self._greeting, self._accepted):
            if not step.done():
                step.set_exception(cause)
                step.exception()  # is known, also where nobody waits for this step
        for pong in self._pongs:
            if not pong.done():
                pong.set_result(False)
        self._writable.set()


def _refusal(server: Server, options: Options, exc: Exception) -> str:
    text = printable(str(exc)) or f"not within {options.connect_timeout:g} s"
    if isinstance(exc, NoTls):
        return f"{server} offers no TLS, which tls:// or a tls_ setting asks for; enable it there, or use nats://"
    if isinstance(exc, ssl.SSLError):
        return f"{server}: no TLS comes about ({text}); see tls_ca_file, tls_cert_file and tls_hostname of [nats]"
    if isinstance(exc, ServerRefused) and any(
        word in text.lower() for word in ("authorization", "authentication")
    ):
        return f"{server} {_why_refused(options, text)}"
    if isinstance(exc, TransportError):
        return str(exc)
    if isinstance(exc, OSError | TimeoutError):
        return f"no NATS server answers at {server} ({text}); start it, or correct the transport URL"
    return f"{server} does not accept the connection ({text}); see its log"


def _why_refused(options: Options, text: str) -> str:
    if expired := expiry(options.credentials):
        return f"refuses the credentials given: {expired}"
    fact = "refuses the credentials given" if options.credentials else "asks for credentials"
    return f"{fact}; set user and password, token, nkey_seed_file or credentials_file in [nats]"
