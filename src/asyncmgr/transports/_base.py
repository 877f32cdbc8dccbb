"""`Transport`, the interface that every transport implements: messages, beside the stores of `_stores`.

A transport carries bytes and does not read them: the packages above build envelopes, calls and capabilities of them.
`asyncmgr.testing.conformance._checks` has the checks that an implementation must pass.

The rules of `_stores` hold for messages too: what a closed or unconnected transport raises, and that nothing is queued
for later or tried again. After a `TransportError` or a cancellation it is *not* known whether the message was sent.
Subjects are named like keys. There are no wildcards.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from asyncmgr.transports._given import Data, check_reply
from asyncmgr.transports._stores import StoreEngine, added, tell
from asyncmgr.transports._streams import PENDING_LIMIT, Subscription

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

REPLY_KEPT = 3600.0
"""Seconds: the longest time that an answer waits for a lost connection."""

TroubleListener: TypeAlias = Callable[[], object]
"""Called when `Transport.problems` has changed."""


class Transport(StoreEngine):
    """A connection to the fabric that carries messages between services.

    A message is delivered at most once: it is lost where it has no subscriber, during an outage, or where its reader is
    too slow. *Not* promised: any order between subjects or between publishers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trouble_listeners: list[TroubleListener] = []
        self._waiting: set[asyncio.Event] = set()
        """One event for each call that waits for the connection."""

    def new_inbox(self) -> str:
        """Make a subject for answers that is used nowhere else."""
        return f"_INBOX.{secrets.token_hex(8)}"

    def problems(self) -> Mapping[str, str]:
        """Return the subjects whose messages do not arrive although `connected`; each with the reason and the cure.

        It is empty while all subscriptions work. The engine may take a subscription away, because permissions were
        narrowed. The transport then tries to get it back, and afterwards its iteration goes on.
        """
        return {}

    def add_trouble_listener(self, listener: TroubleListener) -> Callable[[], None]:
        """Call `listener` in the event loop at each change of `problems`; return a function that removes it.

        An error that it raises is logged.
        """
        return added(self._trouble_listeners, listener)

    @abstractmethod
    async def publish(self, subject: str, data: Data, *, reply_to: str | None = None) -> None:
        """Send `data` to every subscription of `subject`, and to one member of each group; also to this transport's.

        Messages of one transport on one subject arrive in the order of the calls. The call never waits for subscribers
        and never runs them. It is no error if there is no subscriber. `reply_to` is the subject that an answer goes to.

        Raises
        ------
        MessageTooLarge
            `data` is larger than 1 MiB.
        TransportError
            The engine is known to refuse `subject` from this user. The first refusal is only logged, since this call
            does not wait for the engine.
        """

    async def reply(self, reply_to: str, data: Data, *, within: float = 0.0) -> None:
        """Send `data` as the answer to a message, to its `Message.reply_to`; otherwise like `publish`.

        While the connection is lost this waits for its return, up to `within` seconds and at most an hour, because a
        caller waits for the answer. Names of other programs are accepted here, such as ``_INBOX.a+b`` or ``user@corp``.

        Raises
        ------
        InvalidName
            The name begins with ``$`` (engines take commands by such names), or has blanks or wildcards.
        """
        check_reply(reply_to)
        if within > 0 and not self._connected:
            await self._wait_for_connection(within)
        await self._send_reply(reply_to, data)

    async def _send_reply(self, reply_to: str, data: Data) -> None:
        """Send to a checked `reply_to`. Implementations override this, since `publish` refuses some of these names."""
        await self.publish(reply_to, data)

    async def _wait_for_connection(self, seconds: float) -> None:
        """Wait until the connection is back, the transport is closed, or `seconds` are over."""
        back = asyncio.Event()
        self._waiting.add(back)
        remove = self.add_state_listener(lambda _: back.set())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, REPLY_KEPT)):
                    await back.wait()
        finally:
            remove()
            self._waiting.discard(back)

    @abstractmethod
    def subscribe(
        self, subject: str, *, group: str | None = None, pending_limit: int = PENDING_LIMIT
    ) -> AbstractAsyncContextManager[Subscription]:
        """Receive the messages that are published to `subject` after the context manager was entered.

        Of all subscriptions with the same `group` (named like a subject), in any process, one gets each message; which
        one is *not* promised. A slow reader keeps the latest `pending_limit` messages, 64 MiB at most; `dropped` counts
        the messages that it lost. A subscription outlives an outage, and misses the messages of the outage.

        After it is left, a subscription gets no message. Messages that had arrived can still be read, then the
        iteration ends. A server drains in this way: it leaves, and its reader finishes. Closing the transport ends the
        iteration likewise. Leaving never raises.
        """

    @abstractmethod
    async def request(self, subject: str, data: Data, *, timeout: float) -> bytes:
        """Publish `data` with a subject to reply to, and return the first answer; later answers are dropped.

        All subscribers get the request; which answer comes first is *not* promised. If the caller is cancelled, the
        responder does not learn of it.

        Raises
        ------
        NoResponders
            `subject` has no subscriber; this is raised at once.
        TransportError
            The engine refuses `subject` from this user.
        TimeoutError
            No answer came within `timeout` seconds, also because the subscriber or the connection was lost meanwhile.
        MessageTooLarge
            The request or the answer is larger than 1 MiB.
        """

    def _note_closed(self) -> None:
        super()._note_closed()
        for back in self._waiting:
            back.set()

    def _note_trouble(self) -> None:
        """Call the trouble listeners, since `problems` has changed. Implementations call this."""
        tell(self._trouble_listeners)
