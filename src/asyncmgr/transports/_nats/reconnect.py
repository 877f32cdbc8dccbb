"""A link to NATS that outlives its connections: subscriptions and requests in flight move from one to the next."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import random
import re
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from asyncmgr._common.deadlines import Deadlines
from asyncmgr._common.heap import NO_TICKET
from asyncmgr._common.log import log
from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.transports._base import MESSAGE_LIMIT
from asyncmgr.transports._nats.connection import Client, Handler
from asyncmgr.transports._nats.options import Options, Server
from asyncmgr.transports._streams import Stream

RECONNECT_FIRST, RECONNECT_MOST = 0.5, 8.0
"""Seconds within which a lost connection is sought again, at random, so that many clients do not come back at
once: doubled from the first to the most."""

LEAVE_WITHIN = 5.0
"""Seconds that the server gets to confirm that a subscription was left."""

_INBOX = 1
_REFUSALS_KEPT = 100
_ONE_INBOX = re.compile(r'"_inbox\.[^"]*"')


class Reply(NamedTuple):
    """The answer to a request."""

    data: bytes
    headers: bytes | None
    """As on the wire, with the status line."""

    @property
    def status(self) -> bytes:
        """What a server says instead of an answer: ``503``, ``404``; empty where somebody answered."""
        return self.headers[9:12] if self.headers and self.headers.startswith(b"NATS/1.0 ") else b""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A subject that is subscribed to."""

    subject: str
    group: str | None = None
    stream: Stream[Any] | None = None
    """Ends when the link is closed."""
    lasting: bool = True
    """Else the stream fails with the connection, instead of going on with the next."""


class Question:
    """A request in flight."""

    __slots__ = ("answer", "ticket", "until_lost")

    def __init__(self, answer: asyncio.Future[Reply], *, until_lost: bool) -> None:
        self.answer: asyncio.Future[Reply] = answer
        self.until_lost: bool = until_lost
        """Whether it fails with the connection, instead of waiting for an answer by the next."""
        self.ticket: int = NO_TICKET
        """Of its deadline."""

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Link:
    """Keeps one connection, to whichever of the servers there is.

    Parameters
    ----------
    changed
        Called with False when the connection was lost, with True when there is another one.
    """

    def __init__(self, options: Options, changed: Callable[[bool], object]) -> None:
        self.message_limit: int = MESSAGE_LIMIT
        """Bytes; less than ours where the server takes less."""
        self._options = options
        self._servers: list[Server] = list(options.servers)
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._connected = self._closed = False
        self._lost = asyncio.Event()
        self._numbers = itertools.count(_INBOX + 1)
        self._inbox = f"{self.new_inbox()}."
        self._waiting: dict[bytes, Question] = {}
        """By the last token of the subject that the answer goes to."""
        self._deadlines: Deadlines[Question] = Deadlines(lambda question: question.fail(TimeoutError()))
        self._routes: dict[int, Route] = {_INBOX: Route(f"{self._inbox}*")}
        self._handlers: dict[int, Handler] = {_INBOX: self._answered}
        self._refusals: deque[str] = deque(maxlen=_REFUSALS_KEPT)
        """Of subscriptions, for `confirm`."""
        self._told: set[str] = set()
        """The refusals of this connection that were logged."""

    @property
    def server(self) -> Server:
        """The one that is connected, or was last."""
        return self._client.server

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return f"_INBOX.{secrets.token_hex(8)}"

    async def open(self) -> None:
        """Connect, or raise `TransportError`."""
        self._use(await self._connect_any())
        self._keeper = asyncio.create_task(self._keep_connected(), name="asyncmgr NATS connection")

    async def close(self) -> None:
        """Let all who wait or iterate know, then the server. Idempotent."""
        if self._closed:
            return
        self._closed, self._connected = True, False
        for question in self._waiting.values():
            question.fail(TransportClosed("the transport was closed before the answer; open a new one"))
        for route in self._routes.values():
            if route.stream:
                route.stream.end()
        self._routes.clear()
        self._keeper.cancel()
        try:
            await asyncio.gather(self._keeper, return_exceptions=True)
        finally:
            await self._client.leave()

    def check(self) -> Client:
        """The connection, where there is one."""
        if self._closed:
            raise TransportClosed("this transport was closed; open a new one")
        if not self._connected:
            raise TransportError("not connected; try again once `connected` is true")
        return self._client

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        client = self.check()
        client.publish_now(subject, data, reply)
        if client.is_behind:
            await self._catch_up(client)

    async def ask(
        self, subject: str, data: bytes, timeout: float, *, headers: bytes = b"", until_lost: bool = False
    ) -> Reply:
        """Publish a request and return what comes first; raises `TimeoutError` without a text.

        The answer may come by a later connection, but for `until_lost`: then the loss is a `TransportError`.
        """
        client = self.check()
        reply = f"{self._inbox}{next(self._numbers)}"
        token = self._token(reply.encode())
        question = self._waiting[token] = Question(self._loop.create_future(), until_lost=until_lost)
        try:
            self._deadlines.add(question, self._loop.time() + timeout)
            client.publish_now(subject, data, reply, headers)
            return await question.answer
        finally:
            if question.ticket != NO_TICKET:
                self._deadlines.remove(question)
            del self._waiting[token]

    def attach(self, route: Route, handler: Handler) -> int:
        """Subscribe; the number is for `detach`. Effective after `confirm`."""
        client = self.check()
        number = next(self._numbers)
        self._routes[number] = route
        self._handlers[number] = handler
        client.subscribe_now(number, route.subject, route.group)
        return number

    async def confirm(self, subject: str) -> None:
        """Return when the server has done all that was sent; raises where it refused to subscribe to `subject`."""
        if not await self.check().round_trip():
            self.check()
            raise TransportError(f"{subject}: the connection was lost meanwhile; try again")
        refusal = f'subscription to "{subject.lower()}"'
        for text in [text for text in self._refusals if refusal in text]:
            self._refusals.remove(text)
            raise TransportError(f"{subject}: the server lets this user not subscribe to it; permit it there")

    async def detach(self, number: int) -> None:
        """Unsubscribe; what the server had sent by then still reaches the handler. Never raises."""
        still_routed = self._routes.pop(number, None)
        try:
            if still_routed and self._connected:
                self._client.unsubscribe_now(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_WITHIN):
                        await self._client.round_trip()
        finally:
            self._handlers.pop(number, None)

    def _answered(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        question = self._waiting.get(self._token(subject))
        if question and not question.answer.done():
            question.answer.set_result(Reply(data, headers))

    def _token(self, subject: bytes) -> bytes:
        return subject[len(self._inbox) :]

    async def _catch_up(self, client: Client) -> None:
        try:
            await client.catch_up()
        except OSError as exc:
            self.check()
            raise TransportError(f"the connection was lost ({exc}); try again") from exc

    # The connection

    def _use(self, client: Client) -> None:
        self._client = client
        self._connected = True
        self._told.clear()
        self.message_limit = min(MESSAGE_LIMIT, client.max_payload)

    async def _keep_connected(self) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            since = self._loop.time()
            self._servers = _with_discovered(self._options.servers, self._client)
            await self._client.discard()
            self._use(await self._reconnect())
            away = round(self._loop.time() - since, 3)
            log.info("transport.reconnected", server=str(self.server), after_seconds=away)
            self._changed(True)

    async def _reconnect(self) -> Client:
        refused = False
        for doublings in itertools.count():
            wait = min(RECONNECT_MOST, RECONNECT_FIRST * 2.0 ** min(doublings, 16))
            await asyncio.sleep(random.uniform(0, wait))
            try:
                client = await self._connect_any()
            except TransportError as exc:
                if not refused and not isinstance(exc.__cause__, OSError | TimeoutError):
                    refused = True
                    log.warning("transport.refused", error=str(exc))
            else:
                if client.alive:
                    return client
        raise AssertionError("unreachable")

    async def _connect_any(self) -> Client:
        problems: list[TransportError] = []
        for server in random.sample(self._servers, len(self._servers)):
            try:
                return await self._connect_to(server)
            except TransportError as exc:
                problems.append(exc)
        if len(problems) == 1:
            raise problems[0]
        raise TransportError("; ".join(map(str, problems))) from problems[0].__cause__

    async def _connect_to(self, server: Server) -> Client:
        client = Client(
            server, self._options, self._handlers, lost=self._note_loss, refused=self._note_refusal
        )
        await client.open()
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await self._resume(client)
        except TimeoutError as exc:
            await client.discard()
            raise TransportError(
                f"{server} accepted the connection and then said nothing; see its log"
            ) from exc
        except BaseException:
            await client.discard()
            raise
        return client

    async def _resume(self, client: Client) -> None:
        routes = dict(self._routes)
        for number, route in routes.items():
            client.subscribe_now(number, route.subject, route.group)
        if not await client.round_trip():
            raise TransportError(f"{client.server} ended the connection; see its log")
        for number in routes.keys() - self._routes.keys():  # left meanwhile
            client.unsubscribe_now(number)

    def _note_loss(self, client: Client, cause: Exception) -> None:
        if not self._connected or client is not self._client:
            return
        self._connected = False
        log.warning("transport.disconnected", server=str(client.server), error=str(cause) or repr(cause))
        for number, route in [(number, route) for number, route in self._routes.items() if not route.lasting]:
            del self._routes[number]
            if route.stream:
                route.stream.end(
                    TransportError("the connection was lost, changes may be missed; watch again")
                )
        for question in self._waiting.values():
            if question.until_lost:
                question.fail(TransportError("the connection was lost before the answer; try again"))
        self._lost.set()
        self._changed(False)

    def _note_refusal(self, text: str) -> None:
        if "subscription to" in text and text not in self._refusals:
            self._refusals.append(text)
        fact = _ONE_INBOX.sub('"_inbox.>"', text)  # each answer goes to a subject of its own
        if fact not in self._told and len(self._told) < _REFUSALS_KEPT:
            self._told.add(fact)
            log.warning("transport.refused", server=str(self.server), error=fact)


def _with_discovered(known: tuple[Server, ...], client: Client) -> list[Server]:
    """The servers of the URL, and those of the cluster that `client` was told of."""
    servers = {(server.host, server.port): server for server in known}
    for uri in client.discovered_servers:
        host, port = uri.hostname or "", uri.port or 0
        name = client.server.tls_hostname or (client.server.host if _is_address(host) else None)
        servers.setdefault((host, port), Server(host, port, name))
    return list(servers.values())


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
