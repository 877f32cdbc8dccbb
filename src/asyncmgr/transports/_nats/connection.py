"""One connection to one NATS server, from its handshake to its loss; never used again after that.

Of nats-py it takes the handshake (credentials, TLS), the parser and the pings. What nats-py does above them
goes through a queue, a future and a task for each message, keeps what is published during an outage, and waits
for ever on a server that stopped; so messages go from the parser to their handler and from their publisher
to the socket without it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import nats.aio.client
from nats import errors

from asyncmgr._common.log import log
from asyncmgr.errors import TransportError
from asyncmgr.transports._nats.options import Options, Server

if TYPE_CHECKING:
    from collections.abc import Mapping

PING_INTERVAL = 5.0
"""Seconds between pings. A server that leaves two of them without an answer is lost when a third is due."""

WRITE_LIMIT = 64 * 1024
"""Bytes that publishers may leave unwritten before they wait for the socket."""

GOODBYE_WITHIN = 1.0
"""Seconds that the server gets to take note of the end."""

_CANCEL_AGAIN_AFTER = 0.05

Handler: TypeAlias = Callable[[bytes, bytes, bytes, "bytes | None"], object]
"""Called with subject, reply subject, data and raw headers of a message; never waits."""

_endings: set[asyncio.Task[None]] = set()
"""Of connections that did not come about; the loop itself holds tasks weakly."""

# What is overridden; where nats-py would no longer call it, messages were lost and TLS not asked for.
_HOOKS = (
    "_process_msg",
    "_process_pong",
    "_process_info",
    "_process_err",
    "_process_op_err",
    "_connect_command",
)
_missing = [hook for hook in _HOOKS if not hasattr(nats.aio.client.Client, hook)]
if _missing:
    raise ImportError(
        f"nats-py {nats.aio.client.__version__} has no {', '.join(_missing)}, install another 2.x"
    )


class Client(nats.aio.client.Client):
    """A connection.

    Parameters
    ----------
    handlers
        By the number of the subscription; looked up for each message.
    lost
        Called once, in the event loop, when the connection is lost.
    refused
        Called with what the server does not permit.
    """

    def __init__(
        self,
        server: Server,
        options: Options,
        handlers: Mapping[int, Handler],
        *,
        lost: Callable[[Client, Exception], object],
        refused: Callable[[str], object],
    ) -> None:
        super().__init__()
        self.server = server
        self.alive: bool = False
        self._options = options
        self._handlers = handlers
        self._on_lost, self._on_refused = lost, refused
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._out_size = 0

    async def open(self) -> None:
        """Connect, or leave nothing behind and raise `TransportError` with the cure."""
        shaking = asyncio.create_task(self._shake_hands())
        try:
            await asyncio.wait({shaking}, timeout=self._options.connect_timeout)
            if not shaking.done():
                raise TimeoutError(f"not within {self._options.connect_timeout:g} s")
            shaking.result()
            if not self.is_connected:
                raise errors.Error("the server ended the connection")
        except BaseException as exc:
            # By a task of its own, as whoever opens may be cancelled once more.
            ending = asyncio.create_task(self._abandon(shaking))
            _endings.add(ending)
            ending.add_done_callback(_endings.discard)
            await asyncio.shield(ending)
            if isinstance(exc, Exception):
                raise TransportError(_refusal(self.server, self._options, exc)) from exc
            raise
        self.alive = True

    async def _abandon(self, shaking: asyncio.Task[None]) -> None:
        try:
            await _ended(shaking)
        finally:
            await self.discard()

    async def _shake_hands(self) -> None:
        await self.connect(
            servers=[f"{'tls' if self._options.tls else 'nats'}://{self.server}"],
            name="asyncmgr",
            error_cb=self._give_up,
            allow_reconnect=False,
            connect_timeout=self._options.connect_timeout,  # type: ignore[arg-type]
            ping_interval=PING_INTERVAL,  # type: ignore[arg-type]
            tls=self._options.tls,
            tls_hostname=self.server.tls_hostname,
            **self._options.credentials,  # type: ignore[arg-type]
        )

    async def _give_up(self, exc: Exception) -> None:
        if self._reading_task is None:  # still connecting, which nats-py would go on with
            raise exc

    def publish_now(self, subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Send within this turn of the event loop."""
        if headers:
            size = len(headers)
            line = f"HPUB {subject} {reply} {size} {size + len(data)}\r\n".encode()
            self._send(b"%b%b%b\r\n" % (line, headers, data))
        else:
            self._send(b"%b%b\r\n" % (f"PUB {subject} {reply} {len(data)}\r\n".encode(), data))

    def subscribe_now(self, number: int, subject: str, group: str | None) -> None:
        self._send(f"SUB {subject} {group or ''} {number}\r\n".encode())

    def unsubscribe_now(self, number: int) -> None:
        self._send(f"UNSUB {number}\r\n".encode())

    @property
    def is_behind(self) -> bool:
        """Whether publishers are ahead of the socket by more than they should; `catch_up` waits for it."""
        return self._out_size > WRITE_LIMIT

    async def catch_up(self) -> None:
        """Wait until the socket has taken what was sent; raises `OSError` where it is lost."""
        self._write_out()
        await asyncio.sleep(0)  # draining does not pass the loop while the socket takes all
        if self.alive and self._transport is not None:
            await self._transport.drain()  # type: ignore[no-untyped-call]

    async def round_trip(self) -> bool:
        """Whether the server has seen all that was sent, and this side all that it sent before; False once lost."""
        if not self.alive or self._transport is None:
            return False
        self._write_out()
        answered: asyncio.Future[bool] = self._loop.create_future()
        self._pongs.append(answered)
        self._transport.write(b"PING\r\n")
        return await answered

    async def leave(self) -> None:
        """Have the server know that this is the end, as far as it listens, and disconnect."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_WITHIN):
                    for number in self._handlers:
                        self.unsubscribe_now(number)
                    await self.round_trip()
        finally:
            await self.discard()

    async def discard(self) -> None:
        """Disconnect at once, and end the tasks of the connection."""
        self._end(errors.ConnectionClosedError())
        tasks = [
            task
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Aborting takes a turn of the loop. Waiting for the writer would never end after a handshake that failed.
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
            self._transport.writelines(self._out)
        self._out, self._out_size = [], 0

    def _end(self, cause: Exception) -> None:
        """Nobody waits any longer for this connection, nor is told of it."""
        was_alive, self.alive = self.alive, False
        self._status = self.CLOSED
        # Not closed in order: that would wait until the server has read all, which a stopped one never does.
        if self._writer:
            self._writer.transport.abort()
        for pong in self._pongs:
            if not pong.done():
                pong.set_result(False)
        if was_alive and not isinstance(cause, errors.ConnectionClosedError):
            self._on_lost(self, cause)

    @property
    def _writer(self) -> Any:
        """Of the socket, encrypted or not; None before there is one."""
        return getattr(self._transport, "_io_writer", None)

    # What nats-py calls

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        if handler := self._handlers.get(sid):
            try:
                handler(subject, reply, data, headers)
            except Exception:  # nats-py would never read again
                log.error("message.failed", exc_info=True)

    async def _process_pong(self) -> None:
        # nats-py's own dies of a future that was cancelled, and its reading with it.
        if self._pongs and not (pong := self._pongs.pop(0)).done():
            pong.set_result(True)
        self._pings_outstanding = 0

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._options.tls and info.get("tls_available"):
            info["tls_required"] = True  # nats-py encrypts only then
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        if self._options.tls and self._writer.get_extra_info("ssl_object") is None:
            raise errors.SecureConnWantedError  # before the credentials are sent
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg:
            self._on_refused(err_msg.strip("'"))
        else:
            self._end(errors.Error(err_msg.strip("'")))

    async def _process_op_err(self, e: Exception) -> None:
        self._end(e)


async def _ended(task: asyncio.Task[None]) -> None:
    while not task.done():
        task.cancel()  # again and again, as wait_for of Python 3.11 may lose it
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_AFTER)
    if not task.cancelled():
        task.exception()  # is known, or came too late


def _refusal(server: Server, options: Options, exc: Exception) -> str:
    text = str(exc) or type(exc).__name__
    if isinstance(exc, errors.SecureConnWantedError):
        return f"{server} offers no TLS, which tls:// or a tls_ setting asks for; enable it there, or use nats://"
    if isinstance(exc, ssl.SSLError):
        return f"{server}: no TLS comes about ({text}); see tls_ca_file, tls_cert_file and tls_hostname of [nats]"
    if "authorization" in text.lower() or "authentication" in text.lower():
        fact = "refuses the credentials given" if options.credentials else "asks for credentials"
        return f"{server} {fact}; set user and password, token, nkey_seed_file or credentials_file in [nats]"
    if isinstance(exc, OSError | TimeoutError | errors.TimeoutError):
        return f"no NATS server answers at {server} ({text}); start it, or correct the transport URL"
    return f"{server} does not accept the connection ({text}); see its log"
