"""``nats://host:4222``: messages by NATS, keys by its JetStream (extra ``asyncmgr[nats]``).

``nats://a,b:4333`` names servers of one cluster; ``tls://`` refuses those without TLS. Credentials and
certificates are in the settings' table ``[nats]``; or the URL has ``user:password@`` or ``token@``.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncmgr.errors import NoResponders
from asyncmgr.transports._base import Transport
from asyncmgr.transports._given import Data, check_name, check_optional, check_store, to_bytes
from asyncmgr.transports._nats.options import Options, read_options
from asyncmgr.transports._nats.protocol import Msg
from asyncmgr.transports._nats.reconnect import Link
from asyncmgr.transports._nats.routes import Route
from asyncmgr.transports._nats.store import NatsStore, server_clock
from asyncmgr.transports._streams import PENDING_LIMIT, Message, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncmgr._settings.model import Settings

_NOBODY = b"503"


@asynccontextmanager
async def open_nats(url: str, settings: Settings | None = None) -> AsyncIterator[NatsTransport]:
    """The opener of the schemes ``nats`` and ``tls``; without `settings` they are read from their places."""
    settings = settings or _read_settings()
    transport = NatsTransport(read_options(url, settings.nats, wait=settings.connect == "wait"))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.aclose()


class NatsTransport(Transport):
    """A connection to a NATS server or cluster; `open` it first.

    A lost connection is sought again for ever. Requests in flight stay so, as their answer may come by the next.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._link = Link(options, self._set_connected, self._note_trouble)
        self._latest: NatsStore | None = None
        """The store that was opened last."""

    async def open(self) -> None:
        """Connect; raises `TransportError` where no server of the URL accepts, unless `connect` is ``wait``."""
        await self._link.open()

    def problems(self) -> dict[str, str]:
        return self._link.problems()

    async def publish(self, subject: str, data: Data, *, reply_to: str | None = None) -> None:
        raw = to_bytes(data, check_name(subject), self._link.message_limit)
        await self._link.publish(subject, raw, check_optional(reply_to, "reply_to") or "")

    def new_inbox(self) -> str:
        """A subject that nobody else uses, for answers."""
        return self._link.new_inbox()

    async def _send_reply(self, reply_to: str, data: Data) -> None:
        raw = to_bytes(data, reply_to, self._link.message_limit)
        await self._link.publish(reply_to, raw)

    @asynccontextmanager
    async def subscribe(
        self, subject: str, *, group: str | None = None, pending_limit: int = PENDING_LIMIT
    ) -> AsyncIterator[Subscription]:
        subscription = Subscription(check_name(subject), pending_limit)

        def receive(message: Msg) -> None:
            if message.left_out:
                self._link.note_too_large(subject, message.left_out)
            reply_to = message.reply.decode(errors="replace") or None
            subscription.deliver(Message(subject, message.data, reply_to))

        number = self._link.attach(Route(subject, check_optional(group, "group"), subscription), receive)
        try:
            await self._link.confirm(number, subject)
        except BaseException:  # also of a caller that is cancelled, who does not wait for the server
            self._link.drop(number)
            subscription.end()
            raise
        try:
            yield subscription
        finally:
            try:
                await self._link.detach(number)
            finally:
                subscription.end()

    async def request(self, subject: str, data: Data, *, timeout: float) -> bytes:
        raw = to_bytes(data, check_name(subject), self._link.message_limit)
        try:
            reply = await self._link.ask(subject, raw, timeout)
        except TimeoutError:
            raise TimeoutError(f"{subject}: no answer within {timeout:g} s") from None
        if reply.status == _NOBODY:
            raise NoResponders(f"{subject}: nobody subscribes to it; is the service running?")
        return reply.data

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> NatsStore:
        check_store(name, ttl)
        store = NatsStore(self._link, name, ttl)
        await store.make()
        self._latest = store
        return store

    async def now(self) -> int:
        # A cluster's servers have a clock each: that of a bucket's leader stamps what is written.
        if self._latest:
            return await self._latest.now()
        return await server_clock(self._link)

    async def aclose(self) -> None:
        self._note_closed()
        await self._link.close()


def _read_settings() -> Settings:
    from asyncmgr._settings.model import Settings  # not needed where a service has read them

    return Settings()
