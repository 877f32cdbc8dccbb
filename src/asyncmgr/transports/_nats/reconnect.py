"""A link to NATS that outlives its connections: subscriptions and requests in flight move from one to the next."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import printable
from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.transports._given import MESSAGE_LIMIT
from asyncmgr.transports._nats.connection import Connection, Handler
from asyncmgr.transports._nats.options import Options, Server, is_address
from asyncmgr.transports._nats.protocol import Msg
from asyncmgr.transports._nats.questions import Questions, not_permitted
from asyncmgr.transports._nats.routes import Overlap, Route, Routes, read_refusal

RECONNECT_FIRST, RECONNECT_MOST = 0.5, 8.0
"""Seconds within which a lost connection is sought again, at random, so that many clients do not come back at
once: doubled from the first to the most."""

RETAKE_FIRST, RETAKE_MOST = 1.0, 30.0
"""Seconds between tries to have a subscription again that the server took away: likewise."""

CONFIRM_WITHIN = 5.0
"""Seconds that the server gets to confirm that a subscription was made."""

LEAVE_WITHIN = 5.0
"""Seconds that the server gets to confirm that a subscription was left."""

OVERLAP = 1.0
"""Seconds for which two connections are subscribed while one takes over, as a cluster learns of it bit by bit."""

_INBOX = 1
_REFUSALS_KEPT = 100
_SHOWN = 200


class Link:
    """Keeps one connection, to whichever of the servers there is.

    Parameters
    ----------
    changed
        Called with False when the connection was lost, with True when there is another one.
    troubled
        Called when `problems` has changed.
    """

    def __init__(
        self, options: Options, changed: Callable[[bool], object], troubled: Callable[[], object]
    ) -> None:
        self.message_limit: int = MESSAGE_LIMIT
        """Bytes; less than ours where the server takes less."""
        self.options: Options = options
        self._servers: list[Server] = list(options.servers)
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._client: Connection | None = None
        self._leaving: list[Connection] = []
        """Still subscribed, while the next connection takes over."""
        self._connected = self._closed = False
        self._wanted = asyncio.Event()
        """Set when the connection was lost, or soon will be."""
        self._numbers = itertools.count(_INBOX + 1)
        self._inbox = f"{self.new_inbox()}."
        self._questions = Questions(self._inbox)
        self._routes = Routes(troubled)
        self._routes.add(_INBOX, Route(f"{self._inbox}*"), self._questions.receive)
        self._refused: list[tuple[Connection, set[int]]] = []
        """The subscriptions that a connection may not have, for each who looks at the moment."""
        self._suspects: Counter[str] = Counter()
        """Subjects to which this connection may not publish, as far as is known; how often it was told."""
        self._told: set[str] = set()
        """The refusals of this connection that were logged."""
        self._one_inbox = re.compile(f'"{re.escape(options.inbox_prefix)}\\.[^"]*"', re.IGNORECASE)
        self._too_large = self._unreadable = 0
        self._keeper: asyncio.Task[None] | None = None
        self._retaker: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()
        """Of connections that another one has taken over from."""

    @property
    def server(self) -> Server:
        """The one that is connected, or was last."""
        return self._client.server if self._client else self.options.servers[0]

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return f"{self.options.inbox_prefix}.{secrets.token_hex(8)}"

    def problems(self) -> dict[str, str]:
        """The subjects that are subscribed to and that nothing comes by, with the reason."""
        return {route.subject: _not_let(route.subject) for route in self._routes.lost.values()}

    async def open(self) -> None:
        """Connect, or raise `TransportError`, unless the options say that a server may come later."""
        try:
            async with asyncio.timeout(self.options.connect_timeout if self.options.wait else None):
                self._use(await self._connect_any())
        except (TransportError, TimeoutError) as exc:
            if not self.options.wait:
                raise
            self._changed(False)
            error = printable(str(exc)) or f"not within {self.options.connect_timeout:g} s"
            log.warning("transport.disconnected", server=str(self.server), error=error)
            self._wanted.set()
        self._keeper = asyncio.create_task(self._keep_connected(), name="asyncmgr NATS connection")

    async def close(self) -> None:
        """Let all who wait or iterate know, then the server. Idempotent."""
        if self._closed:
            return
        self._closed, self._connected = True, False
        self._questions.fail(TransportClosed("the transport was closed before the answer; open a new one"))
        self._routes.end()
        tasks = [task for task in (self._keeper, self._retaker, *self._endings) if task]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            if self._client:
                await self._client.leave()

    def check(self) -> Connection:
        """The connection, where there is one."""
        if self._closed:
            raise TransportClosed("this transport was closed; open a new one")
        if not self._connected or self._client is None:
            raise TransportError("not connected; try again once `connected` is true")
        return self._client

    # Messages

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send; where the server refused this subject before, find out whether it still does."""
        client, refusals = self.check(), self._suspects.get(subject)
        client.publish_now(subject, data, reply)
        if client.is_behind:
            await self._catch_up(client)
        if refusals is not None:
            await client.round_trip()
            if self._suspects[subject] > refusals:
                raise not_permitted(subject)
            del self._suspects[subject]

    async def ask(
        self, subject: str, data: bytes, timeout: float, *, headers: bytes = b"", until_lost: bool = False
    ) -> Msg:
        """Publish a request and return what comes first; raises `TimeoutError` without a text.

        The answer may come by a later connection, but for `until_lost`: then the loss is a `TransportError`.
        """
        client = self.check()
        if self._routes.is_lost(_INBOX):
            raise TransportError(self._no_inbox(client.server))
        token = str(next(self._numbers))
        question = self._questions.put(token.encode(), subject, timeout, until_lost=until_lost)
        try:
            client.publish_now(subject, data, self._inbox + token, headers)
            if client.is_behind:
                async with asyncio.timeout(timeout):
                    await self._catch_up(client)
            return await question.answer
        finally:
            self._questions.remove(token.encode())

    def note_too_large(self, subject: str, size: int) -> None:
        """A message came whose data is left out."""
        self._too_large += 1
        if is_reminder(self._too_large):
            log.warning(
                "message.too_large",
                subject=printable(subject),
                size=size,
                limit=MESSAGE_LIMIT,
                count=self._too_large,
            )

    def note_unreadable(self, subject: bytes) -> None:
        """A message came whose subject is no text."""
        self._unreadable += 1
        if is_reminder(self._unreadable):
            log.warning("message.unreadable", subject=repr(subject)[:_SHOWN], count=self._unreadable)

    async def _catch_up(self, client: Connection) -> None:
        try:
            await client.catch_up()
        except OSError as exc:
            self.check()
            raise TransportError(f"the connection was lost ({exc}); try again") from exc

    # Subscriptions

    def attach(self, route: Route, handler: Handler) -> int:
        """Subscribe; the number is for `detach`. Effective after `confirm`."""
        client = self.check()
        number = next(self._numbers)
        self._routes.add(number, route, handler)
        client.subscribe_now(number, route.subject, route.group)
        return number

    async def confirm(self, number: int, subject: str) -> None:
        """Return when the server has done all that was sent; raises where it refused to subscribe to `subject`."""
        client = self.check()
        with self._refusals(client) as refused:
            try:
                async with asyncio.timeout(CONFIRM_WITHIN):
                    alive = await client.round_trip()
            except TimeoutError:
                raise TransportError(
                    f"{subject}: the server did not confirm the subscription within {CONFIRM_WITHIN:g} s; see its log"
                ) from None
            if not alive:
                self.check()
                raise TransportError(f"{subject}: the connection was lost meanwhile; try again")
            if number in refused:
                raise TransportError(_not_let(subject))
        self._routes.confirm(number)

    def drop(self, number: int) -> None:
        """Unsubscribe at once; what the server sends until it knows reaches nobody. Never raises."""
        if self._routes.remove(number):
            for client in (*self._leaving, self._client):
                if client and client.alive:
                    client.unsubscribe_now(number)
        self._routes.forget(number)

    async def detach(self, number: int) -> None:
        """Unsubscribe; what the server had sent by then still reaches the handler. Never raises."""
        still_routed = self._routes.remove(number)
        try:
            if still_routed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_WITHIN):
                        await self._unsubscribe([number], *self._leaving, self._client)
        finally:
            self._routes.forget(number)

    async def _unsubscribe(self, numbers: Iterable[int], *clients: Connection | None) -> None:
        alive = [client for client in clients if client and client.alive]
        for client in alive:
            for number in numbers:
                client.unsubscribe_now(number)
        for client in alive:
            await client.round_trip()

    @contextlib.contextmanager
    def _refusals(self, client: Connection) -> Iterator[set[int]]:
        """The numbers that this connection is refused, inside the block."""
        refused = (client, set[int]())
        self._refused.append(refused)
        try:
            yield refused[1]
        finally:
            self._refused = [other for other in self._refused if other is not refused]

    # The connection

    def _use(self, client: Connection) -> None:
        self._client = client
        self._connected = True
        self._told.clear()
        self._suspects.clear()
        self.message_limit = min(MESSAGE_LIMIT, client.max_payload)

    async def _keep_connected(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._client:
                self._servers = self._known_servers(self._client)
            if self._connected and self._client:
                await self._move_from(self._client)
            elif not self._connected:
                await self._return()

    async def _return(self) -> None:
        since = self._loop.time()
        for task in self._endings:
            task.cancel()
        if self._client:
            await self._client.discard()
        self._use(await self._reconnect())
        away = round(self._loop.time() - since, 3)
        log.info("transport.reconnected", server=str(self.server), after_seconds=away)
        self._changed(True)

    async def _reconnect(self) -> Connection:
        refused = False
        for wait in _waits(RECONNECT_FIRST, RECONNECT_MOST):
            await asyncio.sleep(wait)
            try:
                return await self._connect_any()
            except TransportError as exc:
                if not refused and not isinstance(exc.__cause__, OSError | TimeoutError):
                    refused = True
                    log.warning("transport.refused", error=str(exc))
        raise AssertionError("unreachable")

    async def _move_from(self, old: Connection) -> None:
        """The server is about to hang up: connect elsewhere first, then let go of it."""
        for wait in _waits(RECONNECT_FIRST, RECONNECT_MOST):
            await asyncio.sleep(wait)
            if not old.alive:
                break
            overlap = Overlap(self._routes)
            old.handlers = overlap.side()
            try:
                new = await self._connect_any(overlap)
            except TransportError:
                continue
            await self._take_over(old, new)
            break

    async def _take_over(self, old: Connection, new: Connection) -> None:
        if not self._connected:  # the old one was lost before it was needed no more
            return await new.discard()
        log.info("transport.moved", server=str(new.server), left=str(old.server))
        self._leaving.append(old)
        self._use(new)
        task = _spawn(self._let_go(old, new), "asyncmgr NATS connection that ends")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return None

    async def _let_go(self, old: Connection, new: Connection) -> None:
        asked = self._questions.answers()
        try:
            try:
                await asyncio.sleep(OVERLAP)
                await self._unsubscribe(
                    [number for number, _ in self._routes.items() if number != _INBOX], old
                )
            finally:
                self._leaving.remove(old)
                new.handlers = self._routes.handlers
            if asked:  # by it, so that the answers may come by it too
                await asyncio.wait(asked)
        finally:
            await old.discard()

    async def _connect_any(self, overlap: Overlap | None = None) -> Connection:
        problems: list[TransportError] = []
        for server in random.sample(self._servers, len(self._servers)):
            try:
                return await self._connect_to(server, overlap)
            except TransportError as exc:
                problems.append(exc)
        if len(problems) == 1:
            raise problems[0]
        raise TransportError("; ".join(map(str, problems))) from problems[0].__cause__

    async def _connect_to(self, server: Server, overlap: Overlap | None = None) -> Connection:
        client = Connection(
            server,
            self.options,
            overlap.side() if overlap else self._routes.handlers,
            lost=self._note_loss,
            refused=self._note_refusal,
            leaving=self._note_leaving,
        )
        await client.open()
        try:
            async with asyncio.timeout(self.options.connect_timeout):
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

    async def _resume(self, client: Connection) -> None:
        routes = dict(self._routes.items())
        with self._refusals(client) as refused:
            for number, route in routes.items():
                client.subscribe_now(number, route.subject, route.group)
            if not await client.round_trip() or not client.alive:
                raise TransportError(f"{client.server} ended the connection; see its log")
            if _INBOX in refused:
                raise TransportError(self._no_inbox(client.server))
            self._routes.confirm(_INBOX)
            for number in routes.keys() - dict(self._routes.items()).keys():  # left meanwhile
                client.unsubscribe_now(number)
            self._regain(routes.keys() - refused)
            self._lose(refused)

    def _no_inbox(self, server: Server) -> str:
        prefix = self.options.inbox_prefix
        return (
            f"{server} lets this user not subscribe to {prefix}.>, where answers come; permit it there, "
            "or set inbox_prefix in [nats] to what is permitted"
        )

    def _known_servers(self, client: Connection) -> list[Server]:
        """The servers of the URL, and those of the cluster that `client` was told of."""
        servers = {(server.host, server.port): server for server in self.options.servers}
        if not self.options.ignore_discovered:
            for host, port in client.discovered:
                name = client.server.tls_hostname or (client.server.host if is_address(host) else None)
                servers.setdefault((host, port), Server(host, port, name))
        return list(servers.values())

    # What a connection tells

    def _note_loss(self, client: Connection, cause: Exception) -> None:
        if not self._connected or client is not self._client:
            return
        self._connected = False
        error = printable(str(cause)) or type(cause).__name__
        log.warning("transport.disconnected", server=str(client.server), error=error)
        self._routes.end(
            TransportError("the connection was lost, changes may be missed; watch again"), lasting=False
        )
        self._questions.fail(
            TransportError("the connection was lost before the answer; try again"), until_lost=True
        )
        self._wanted.set()
        self._changed(False)

    def _note_leaving(self, client: Connection) -> None:
        if client is self._client and self._connected:
            log.info("transport.leaving", server=str(client.server))
            self._wanted.set()

    def _note_refusal(self, client: Connection, text: str) -> None:
        refusal = read_refusal(text)
        if refusal and refusal.of_publishing:
            self._questions.fail(not_permitted(refusal.subject), subject=refusal.subject)
            if len(self._suspects) < _REFUSALS_KEPT or refusal.subject in self._suspects:
                self._suspects[refusal.subject] += 1
        elif refusal:
            numbers = self._routes.refused_by(refusal)
            for refuser, refused in self._refused:
                if refuser is client:
                    refused |= numbers
            if client is self._client:
                self._lose(numbers)
            if numbers and numbers <= self._routes.lost.keys():
                return  # is told
        # Each answer has a subject of its own.
        fact = self._one_inbox.sub(f'"{self.options.inbox_prefix}.>"', text)
        if fact not in self._told and len(self._told) < _REFUSALS_KEPT:
            self._told.add(fact)
            log.warning("transport.refused", server=str(client.server), error=fact)

    # Subscriptions that the server took away

    def _lose(self, numbers: set[int]) -> None:
        had = self._routes.lost.keys()
        self._routes.lose(numbers)
        for number, route in self._routes.lost.items():
            if not route.lasting:
                self._routes.remove(number)
                if route.stream:
                    route.stream.end(TransportError(_not_let(route.subject)))
            elif number not in had:
                log.warning("subscription.lost", subject=route.subject, error=_not_let(route.subject))
        if self._routes.lost and (self._retaker is None or self._retaker.done()):
            self._retaker = _spawn(self._retake(), "asyncmgr NATS subscriptions that were lost")

    async def _retake(self) -> None:
        for wait in _waits(RETAKE_FIRST, RETAKE_MOST):
            await asyncio.sleep(wait)
            if self._connected and self._client:
                await self._try_again(self._client)
            if not self._routes.lost:
                return

    async def _try_again(self, client: Connection) -> None:
        lost = self._routes.lost
        with self._refusals(client) as refused:
            for number, route in lost.items():
                client.subscribe_now(number, route.subject, route.group)
            if await client.round_trip():
                self._regain(lost.keys() - refused)

    def _regain(self, numbers: set[int]) -> None:
        for number, route in self._routes.lost.items():
            if number in numbers:
                log.info("subscription.regained", subject=route.subject)
        self._routes.regain(numbers)


def _spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(work, name=name)


def _waits(first: float, most: float) -> Iterator[float]:
    """Seconds between tries, without end."""
    for doublings in itertools.count():
        yield random.uniform(0, min(most, first * 2.0 ** min(doublings, 16)))


def _not_let(subject: str) -> str:
    return f"{subject}: the server lets this user not subscribe to it; permit it there"
