"""The interface that every transport implements: messages between services, and a store of keys beside them.

Bytes in, bytes out: envelopes, RPC and capabilities are built once, above. `asyncmgr.testing.conformance._checks`
holds the checks that an implementation must pass.

Rules for the whole interface:

* Every call may raise `TransportClosed` once the transport is closed, also one that was waiting when it was
  closed, and plain `TransportError` while it is not `connected` or where the engine gives no answer. Nothing
  is queued for later and nothing is tried again: whoever calls decides.
* After a `TransportError` or a cancellation, whether a message was sent or a key written is *not* known.
* Subjects and keys are tokens (`tokens.encode_token`) joined by dots, at most 1,024 characters; anything else
  raises `InvalidName`. There are no wildcards.
* A transport belongs to the event loop that it was opened in.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import reprlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import safe_repr
from asyncmgr.errors import InvalidName, MessageTooLarge, TransportClosed, TransportError
from asyncmgr.transports._streams import PENDING_LIMIT, SNAPSHOT_DONE, Entry, Subscription, Watch

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

MESSAGE_LIMIT = 1024 * 1024
"""Bytes of one message."""

VALUE_LIMIT = MESSAGE_LIMIT - 1024
"""Bytes of one value: engines send it as a message with headers (what it replaces), and count those too."""

REPLY_KEPT = 3600.0
"""Seconds that an answer waits at most for a lost connection."""

NAME_LIMIT = 1024
"""Characters of a subject or key."""

Data: TypeAlias = bytes | bytearray | memoryview
"""What may be sent. It is copied where it is mutable: changing it after the call changes no message."""

StateListener: TypeAlias = Callable[[bool], object]
"""Called with True when the connection is there again, with False when it was lost."""

TroubleListener: TypeAlias = Callable[[], object]
"""Called when `Transport.problems` has changed."""

_NAME = re.compile(r"[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]+)*")
_REPLY_NAME = re.compile(r"(?!\$)[^\s.\0-\x1f\x7f]+(?:\.[^\s.\0-\x1f\x7f]+)*")
_STORE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Transport(ABC):
    """A connection to the fabric that carries messages between services.

    Messages are delivered at most once: what is published while nobody listens, during an outage, or to a
    reader that is too slow, is lost. *Not* promised: any order between subjects or between publishers.
    """

    def __init__(self) -> None:
        self._connected = True
        self._listeners: list[StateListener] = []
        self._opened_in = _running_loop()
        self._trouble_listeners: list[TroubleListener] = []
        self._waiting: set[asyncio.Event] = set()
        """Of who waits for the connection."""

    @property
    def connected(self) -> bool:
        """Whether the fabric can be reached, as far as is known; False once closed."""
        return self._connected

    def check_loop(self) -> None:
        """Raises `TransportError` in another event loop than the one that this was opened in, where it would hang."""
        if self._opened_in is not None and _running_loop() is not self._opened_in:
            raise TransportError(
                "this transport was opened in another event loop; open one in this loop, or hand the call over with "
                "asyncio.run_coroutine_threadsafe()"
            )

    def new_inbox(self) -> str:
        """A subject that nobody else uses, for answers."""
        return f"_INBOX.{secrets.token_hex(8)}"

    def add_state_listener(self, listener: StateListener) -> Callable[[], None]:
        """Have `listener` called in the event loop at each change of `connected`; returns what removes it.

        Not called for the state at the moment, nor for closing. What it raises is logged.
        """
        return _added(self._listeners, listener)

    def problems(self) -> Mapping[str, str]:
        """The subscribed subjects whose messages do not come although `connected`; each with why, and the cure.

        Empty where all is well. A subscription is lost so where the engine takes it away, because permissions
        were narrowed; the transport tries to have it back, and its iteration then goes on.
        """
        return {}

    def add_trouble_listener(self, listener: TroubleListener) -> Callable[[], None]:
        """Have `listener` called in the event loop at each change of `problems`; returns what removes it.

        What it raises is logged.
        """
        return _added(self._trouble_listeners, listener)

    @abstractmethod
    async def publish(self, subject: str, data: Data, *, reply_to: str | None = None) -> None:
        """Send `data` to every subscription of `subject`, and to one member of each group, own ones included.

        Messages of one transport on one subject arrive in the order of the calls. Never waits for subscribers
        and never runs them. Nobody listening is no error. `reply_to` is the subject that an answer goes to.

        Raises `MessageTooLarge` above 1 MiB. Where the engine is known to refuse `subject` from this user, a
        `TransportError`; the first time is only logged, as nothing waits for the engine.
        """

    async def reply(self, reply_to: str, data: Data, *, within: float = 0.0) -> None:
        """Send `data` as the answer to a message, to its `Message.reply_to`; otherwise like `publish`.

        While the connection is lost this waits up to `within` seconds, an hour at most, for its return: somebody
        waits for the answer. Other programs name their subjects as they like (``_INBOX.a+b``, ``user@corp``),
        which is good enough here. Raises `InvalidName` for what begins with ``$``, by which engines are told
        what to do.
        """
        check_reply(reply_to)
        if within > 0 and not self._connected:
            await self._wait_for_connection(within)
        await self._send_reply(reply_to, data)

    async def _send_reply(self, reply_to: str, data: Data) -> None:
        """For implementations that send to subjects which `publish` refuses."""
        await self.publish(reply_to, data)

    async def _wait_for_connection(self, seconds: float) -> None:
        """Return when it is there, this was closed, or the time is over."""
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
        """Receive what is published to `subject` from the moment on that the context manager was entered.

        Of the subscriptions with the same `group` (named like a subject), whoever's they are, each message
        reaches one; which one is not promised. A slow reader keeps the latest `pending_limit` messages, of
        at most 64 MiB; what it lost is counted as `dropped`. A subscription outlives an outage, without the
        messages of it.

        Once left, it gets no further message, and its group none through it; what had come can still be
        read, then the iteration ends. So a server drains: it leaves, and its reader finishes. Closing the
        transport ends the iteration likewise. Leaving never raises.
        """

    @abstractmethod
    async def request(self, subject: str, data: Data, *, timeout: float) -> bytes:
        """Publish with a subject to reply to and return the first answer; later ones are dropped.

        Raises `NoResponders` at once where nobody subscribes to `subject`, `TransportError` where the engine
        refuses it from this user, `TimeoutError` after `timeout` seconds (also where the subscriber or the
        connection went away meanwhile), `MessageTooLarge` above 1 MiB, of the answer too.
        Where several subscribe, all get the request; *not* promised is whose answer is first. Cancelling it
        tells the responder nothing.
        """

    @abstractmethod
    async def store(self, name: str, *, ttl: float) -> Store:
        """Open the store of this name, made where it is missing, whose keys live `ttl` seconds.

        The name is at most 64 of ``A-Za-z0-9_-``. `ttl` is at least 1 and the same for all who open the
        store: another one raises `TransportError`. *Not* promised: that a store outlives a restart of the
        engine. Its keys and revisions are then gone, and whoever holds a key writes it again.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection: calls that wait raise `TransportClosed`, iterations end. Idempotent."""

    def _set_connected(self, connected: bool) -> None:
        """For implementations: note the state; listeners are told of a change."""
        if connected == self._connected:
            return
        self._connected = connected
        _tell(self._listeners, connected)

    def _note_closed(self) -> None:
        """For implementations: the end, of which listeners are not told."""
        self._connected = False
        for back in self._waiting:
            back.set()

    def _note_trouble(self) -> None:
        """For implementations: what `problems` returns has changed."""
        _tell(self._trouble_listeners)


def _added(listeners: list[Any], listener: Any) -> Callable[[], None]:
    listeners.append(listener)

    def remove() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return remove


def _tell(listeners: list[Any], *args: object) -> None:
    for listener in tuple(listeners):
        try:
            listener(*args)
        except Exception:
            log.error("listener.failed", listener=safe_repr(listener), exc_info=True)


class Store(ABC):
    """Keys with values, revisions and one TTL, which starts again at each write of a key.

    An expired key is as if it had never been, save that revisions go on; it is gone after its TTL, not before
    and possibly a second later. Writes of one key are seen in one order by all. A store lives as long as its
    transport.
    """

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None where there is none. What this transport wrote before is seen."""

    @abstractmethod
    async def put(self, key: str, value: Data) -> int:
        """Write `key` whatever it holds; returns its new revision.

        Raises `MessageTooLarge` above `VALUE_LIMIT`.
        """

    @abstractmethod
    async def create(self, key: str, value: Data) -> int:
        """Write `key` where there is none (never was, was deleted, is expired); returns its new revision.

        Raises `RevisionConflict` where there is one, `MessageTooLarge` above `VALUE_LIMIT`.
        """

    @abstractmethod
    async def update(self, key: str, value: Data, revision: int) -> int:
        """Write `key` where its revision is `revision`; returns the new one.

        Raises `RevisionConflict` where it has another or none, so always for 0; `MessageTooLarge` above
        `VALUE_LIMIT`.
        """

    @abstractmethod
    async def delete(self, key: str, revision: int | None = None) -> None:
        """Delete `key`; with a `revision` only where it has that one, else raises `RevisionConflict`.

        Without one, deleting what is not there is no error; whether watchers see that is *not* promised.
        """

    @abstractmethod
    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[Watch]:
        """Follow the keys below `prefix`, or all: entries, `SNAPSHOT_DONE`, then `Entry` or `Deleted`.

        `prefix` is whole tokens: ``a.b`` covers ``a.b.c`` and ``a.b.c.d``, not ``a.bc`` nor ``a.b``. The
        snapshot is of the moment of entering. Revisions of one key only grow; *not* promised is an order
        between keys, that every one of several quick changes of a key is seen (the last one is), and **any
        sign of expiry**: readers age entries themselves, beginning with `Entry.age`.

        After a loss of the connection the iteration raises `TransportError`, as changes may have been missed:
        watch again once connected. Leaving, or closing the transport, ends it, after what had come.
        """

    def rest(self, key: str, wake: Callable[[], object]) -> bool:
        """Let `key` not age, without being written again, for as long as nobody watches it.

        For keys that are written over and over only to stay fresh. `wake` is called once, in the event loop, when a
        watch begins that covers the key, or when somebody else writes or deletes it; the key ages from then on.
        Another call replaces the one before. False where this cannot be told, as by any engine outside of the
        process: then the key has to be written as before.
        """
        return False

    async def keys(self, prefix: str = "") -> list[str]:
        """The keys below `prefix` (see `watch`), or all, in no promised order."""
        found: list[str] = []
        async with self.watch(prefix) as changes:
            async for change in changes:
                if change is SNAPSHOT_DONE:
                    return found
                if isinstance(change, Entry):
                    found.append(change.key)
        raise TransportClosed("the transport was closed before all keys were read; open a new one")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def check_name(name: str, what: str = "subject") -> str:
    """`name` itself where it is a legal subject (or other `what`, for the error); else raises `InvalidName`."""
    if len(name) > NAME_LIMIT:
        raise InvalidName(f"{what} {reprlib.repr(name)} has {len(name)} characters, at most {NAME_LIMIT} fit")
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{what} {reprlib.repr(name)} is not tokens joined by dots; build it with encode_token()"
        )
    return name


def check_reply(name: str) -> str:
    """`name` itself where an answer may be sent there; else raises `InvalidName`."""
    if len(name) <= NAME_LIMIT and _NAME.fullmatch(name):
        return name
    is_name = len(name) <= NAME_LIMIT and _REPLY_NAME.fullmatch(name) and name.isprintable()
    # The last stands for bytes that were no text.
    if not is_name or not {"*", ">"}.isdisjoint(name.split(".")) or "\ufffd" in name:
        raise InvalidName(
            f"no answer can be sent to {reprlib.repr(name)}; give a subject without blanks and wildcards, "
            "and not one that begins with '$'"
        )
    return name


def check_optional(name: str | None, what: str) -> str | None:
    """`check_name`, for a name that may be None."""
    return None if name is None else check_name(name, what)


def check_prefix(prefix: str) -> str:
    """What the keys that `Store.watch` covers begin with: empty, or `prefix` and a dot."""
    return check_name(prefix, "prefix") + "." if prefix else ""


def check_store(name: str, ttl: float) -> None:
    """Raises `InvalidName` or `ValueError` where these do not make a store."""
    if not _STORE_NAME.fullmatch(name):
        raise InvalidName(f"store name {reprlib.repr(name)} is not 1 to 64 of A-Za-z0-9_-; choose another")
    if not 1 <= ttl < float("inf"):
        raise ValueError(f"store {name}: ttl is {ttl}; give a finite number of seconds, at least 1")


def to_bytes(data: Data, name: str, limit: int = MESSAGE_LIMIT) -> bytes:
    """`data` as bytes that nobody can change; `name` is the subject or key that it is for.

    Raises `MessageTooLarge` above `limit`, `TypeError` for what is not binary.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"{name}: data is {type(data).__name__}; transports carry bytes, so encode it first")
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size > limit:
        raise MessageTooLarge(f"{name}: {size} bytes, at most {limit} fit; send less, or where to find it")
    return bytes(data)
