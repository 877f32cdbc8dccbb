"""One connection to one server, which any number of calls share: commands go out in order, answers come in order.

The driver's connection does the handshake, TLS and the protocol. Its pool is not used: with it 200 calls at once are
200 connections, each cancelled call costs one, and its pub/sub client subscribes again by itself after a loss, so
that nobody learns what was missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio import Connection as Driver
from redis.asyncio import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError

from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.transports._valkey.options import Options, Server
from asyncmgr.transports._valkey.problems import is_known, passes, refusal, shown
from asyncmgr.transports._valkey.scripts import PROBE, Script

CONNECT_WITHIN = 5.0
"""Seconds that a connection may take until the server accepts commands."""

ANSWER_WITHIN = 5.0
"""Seconds that the server has for an answer."""

_MESSAGE = b"message"


class Connection:
    """A connection that ends at its first failure, with everything that waits for an answer.

    Parameters
    ----------
    lost
        Called once when an open connection has failed, with the reason.
    published
        Called with each message of the channels that are subscribed to.
    """

    def __init__(
        self,
        server: Server,
        options: Options,
        *,
        lost: Callable[[Connection, TransportError], object] = lambda *_: None,
        published: Callable[[bytes], object] | None = None,
    ) -> None:
        self.server: Server = server
        self.alive: bool = False
        self._options = options
        self._lost, self._published = lost, published
        self._driver = _driver(server, options)
        self._answers: deque[asyncio.Future[Any]] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._closed: TransportClosed | None = None

    async def open(self) -> None:
        """Connect and log in; raises `TransportError` with the cure, and leaves nothing behind then."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await self._driver.connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await self._driver.disconnect(nowait=True)
            raise TransportError(
                f"{self.server} said nothing within {CONNECT_WITHIN:g} s; see its log, and whether it wants TLS"
            ) from None
        except (RedisError, OSError) as exc:
            await self._driver.disconnect(nowait=True)
            raise self._failure(exc) from exc
        except BaseException:
            await self._driver.disconnect(nowait=True)
            raise
        self.alive = True
        self._reader = asyncio.create_task(self._read(), name="asyncmgr store connection")

    async def probe(self) -> None:
        """Raise `TransportError` where the server takes no writes at the moment."""
        key = f"{{{self._options.prefix}:}}:probe"
        try:
            await self._run(PROBE, [key], [])
        except RedisError as exc:
            if not isinstance(exc, MovedError):  # else another node has that key, which is as good
                raise refusal(self.server, self._options, exc) from exc

    async def ask(self, *command: str | bytes | int) -> Any:
        """Send a command and return its answer; raises `TransportError`."""
        try:
            return await self._ask(*command)
        except RedisError as exc:
            raise self._refusal(exc) from exc

    async def run(self, script: Script, keys: list[str], args: list[str | bytes]) -> Any:
        """Run a script, which is sent where the server does not have it; raises `TransportError`."""
        try:
            return await self._run(script, keys, args)
        except RedisError as exc:
            raise self._refusal(exc) from exc

    async def _run(self, script: Script, keys: list[str], args: list[str | bytes]) -> Any:
        try:
            return await self._ask("EVALSHA", script.digest, len(keys), *keys, *args)
        except NoScriptError:  # restarted, flushed, or another server by now; nothing was done
            return await self._ask("EVAL", script.text, len(keys), *keys, *args)

    def fail(self, error: TransportError) -> None:
        """End the connection; whatever waits for an answer raises the same."""
        if not self.alive:
            return
        self.alive = False
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(type(error)(*error.args))
        if self._reader:
            self._reader.cancel()
        self._lost(self, error)

    async def close(self, error: TransportError) -> None:
        """End the connection without a word to who made it; calls raise `error`, later ones too where it is closed."""
        if isinstance(error, TransportClosed):
            self._closed = error
        self._lost = lambda *_: None
        self.fail(error)
        if self._reader:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.gather(self._reader, return_exceptions=True))

    async def _ask(self, *command: str | bytes | int) -> Any:
        if self._closed:
            raise TransportClosed(*self._closed.args)
        if not self.alive:
            raise TransportError(
                f"the connection to {self.server} was lost; try again once `connected` is true"
            )
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._driver.send_command(*command)
                return await answer
        except TimeoutError:
            error = TransportError(
                f"{self.server} gave no answer within {ANSWER_WITHIN:g} s, so it is not known what it did; try again"
            )
            self.fail(error)
            raise error from None
        finally:
            self._give_up(answer)

    def _give_up(self, answer: asyncio.Future[Any]) -> None:
        if answer.done() and not answer.cancelled():
            answer.exception()  # it is known by another way
        answer.cancel()
        if self.alive and not self._driver.is_connected:  # sending failed, or was cancelled in the middle
            self.fail(self._failure(ConnectionError("sending failed")))

    async def _read(self) -> None:
        try:
            while True:
                try:
                    answer = await self._driver.read_response(disconnect_on_error=False)
                except ResponseError as exc:
                    answer = exc
                self._take(answer)
        except Exception as exc:  # whatever it is: a connection that is not read is dead
            self.fail(self._failure(exc))
        finally:
            with suppress(RedisError, OSError):
                await self._driver.disconnect(nowait=True)

    def _take(self, answer: Any) -> None:
        if self._published and isinstance(answer, list) and answer and answer[0] == _MESSAGE:
            self._published(answer[2])
        elif self._answers:
            waiting = self._answers.popleft()
            if waiting.done():
                return
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

    def _refusal(self, exc: RedisError) -> TransportError:
        error = refusal(self.server, self._options, exc)
        if passes(error):
            self.fail(error)
        return error

    def _failure(self, exc: BaseException) -> TransportError:
        """Of the connection: the server said why, or it cannot be reached."""
        error = refusal(self.server, self._options, exc)
        if isinstance(exc, ResponseError) or is_known(exc, self._options):
            return error
        said = shown(exc, self._options)
        return TransportError(f"{self.server} cannot be reached ({said}); does it run? Else its log says why")


def _driver(server: Server, options: Options) -> Driver:
    # Retries are off: a command whose answer was lost must not be sent twice. No socket_timeout: it would end idle
    # connections, and each call has a deadline here.
    given: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "db": options.database,
        "username": options.user,
        "password": options.password,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_WITHIN,
        "socket_keepalive": True,
        "decode_responses": False,
        "protocol": 2,
        **options.tls_files,
    }
    if not options.tls:
        return Driver(**given)
    return SSLConnection(**given, ssl_cert_reqs="required", ssl_check_hostname=True)
