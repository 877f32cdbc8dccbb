"""`Transport` and `Store`, the interface that every transport implements: messages, and keys with values.

A transport carries bytes and does not read them: the packages above build envelopes, calls and capabilities of them.
`asyncmgr.testing.conformance._checks` has the checks that an implementation must pass.

Rules for the whole interface:

* Once the transport is closed, every call raises `TransportClosed`, also a call that was waiting at that moment. While
  the transport is not `connected`, or where the engine gives no answer, a call raises plain `TransportError`. The
  transport queues nothing for later and tries nothing again: the caller decides.
* After a `TransportError` or a cancellation it is *not* known whether the message was sent or the key written.
* Subjects and keys are tokens (`encode_token`) joined by dots, at most 1,024 characters; anything else raises
  `InvalidName`. There are no wildcards.
* A transport belongs to the event loop in which it was opened.
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
"""The largest number of bytes of one message."""

VALUE_LIMIT = MESSAGE_LIMIT - 1024
"""The largest number of bytes of one value. Engines send it with headers (such as the revision it replaces), and
count these too."""

REPLY_KEPT = 3600.0
"""Seconds: the longest time that an answer waits for a lost connection."""

NAME_LIMIT = 1024
"""The largest number of characters of a subject or key."""

Data: TypeAlias = bytes | bytearray | memoryview
"""Types of data to send. Mutable data is copied: a change after the call changes no message."""

StateListener: TypeAlias = Callable[[bool], object]
"""Called with True when the connection is back, and with False when it is lost."""

TroubleListener: TypeAlias = Callable[[], object]
"""Called when `Transport.problems` has changed."""

_NAME = re.compile(r"[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]+)*")
_REPLY_NAME = re.compile(r"(?!\$)[^\s.\0-\x1f\x7f]+(?:\.[^\s.\0-\x1f\x7f]+)*")
_STORE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Transport(ABC):
    """A connection to the fabric that carries messages between services.

    A message is delivered at most once: it is lost where it has no subscriber, during an outage, or where its reader is
    too slow. *Not* promised: any order between subjects or between publishers.
    """

    def __init__(self) -> None:
        self._connected = True
        self._listeners: list[StateListener] = []
        self._opened_in = _running_loop()
        self._trouble_listeners: list[TroubleListener] = []
        self._waiting: set[asyncio.Event] = set()
        """One event for each call that waits for the connection."""

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached, as far as this transport knows; False once it is closed."""
        return self._connected

    def check_loop(self) -> None:
        """Raise `TransportError` in another event loop than the one of the opening, since a call would hang there."""
        if self._opened_in is not None and _running_loop() is not self._opened_in:
            raise TransportError(
                "this transport was opened in another event loop; open one in this loop, or hand the call over with "
                "asyncio.run_coroutine_threadsafe()"
            )

    def new_inbox(self) -> str:
        """Make a subject for answers that is used nowhere else."""
        return f"_INBOX.{secrets.token_hex(8)}"

    def add_state_listener(self, listener: StateListener) -> Callable[[], None]:
        """Call `listener` in the event loop at each change of `connected`; return a function that removes it.

        It is called neither for the present state nor for closing. An error that it raises is logged.
        """
        return _added(self._listeners, listener)

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
        return _added(self._trouble_listeners, listener)

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

    @abstractmethod
    async def store(self, name: str, *, ttl: float) -> Store:
        """Open the store of this name, whose keys live `ttl` seconds; make it where it is missing.

        The name has at most 64 characters of ``A-Za-z0-9_-``. `ttl` is at least 1, and every process opens the store
        with the same one. *Not* promised: that a store outlives a restart of the engine. Its keys and revisions are
        then lost, and the owner of a key writes it again.

        Raises
        ------
        TransportError
            The store has another `ttl`.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection: waiting calls raise `TransportClosed`, iterations end. A second call does nothing."""

    def _set_connected(self, connected: bool) -> None:
        """Note the state, and call the listeners where it has changed. Implementations call this."""
        if connected == self._connected:
            return
        self._connected = connected
        _tell(self._listeners, connected)

    def _note_closed(self) -> None:
        """Note that the transport is closed; no listener is called. Implementations call this."""
        self._connected = False
        for back in self._waiting:
            back.set()

    def _note_trouble(self) -> None:
        """Call the trouble listeners, since `problems` has changed. Implementations call this."""
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
    """Keys with values and revisions. All keys of a store have one TTL, which starts again at each write of a key.

    A key expires after its TTL, not before and possibly a second later. An expired key is like one that never existed,
    except that revisions go on. All readers see the writes of one key in the same order. The object is usable as long
    as its transport is open.
    """

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """Return the entry of `key`; None = there is none. Earlier writes of this transport are seen."""

    @abstractmethod
    async def put(self, key: str, value: Data) -> int:
        """Write `key`, whatever its present value is; return its new revision.

        Raises `MessageTooLarge` for a value larger than `VALUE_LIMIT`.
        """

    @abstractmethod
    async def create(self, key: str, value: Data) -> int:
        """Write `key` where it does not exist (it is new, deleted or expired); return its new revision.

        Raises `RevisionConflict` where it exists, `MessageTooLarge` for a value larger than `VALUE_LIMIT`.
        """

    @abstractmethod
    async def update(self, key: str, value: Data, revision: int) -> int:
        """Write `key` where its revision is `revision`; return the new revision.

        Raises `RevisionConflict` where the key has another revision or does not exist, so always for revision 0;
        `MessageTooLarge` for a value larger than `VALUE_LIMIT`.
        """

    @abstractmethod
    async def delete(self, key: str, revision: int | None = None) -> None:
        """Delete `key`. With a `revision`, raise `RevisionConflict` unless the key has this revision.

        Without `revision` it is no error if the key does not exist; whether watchers see that is *not* promised.
        """

    @abstractmethod
    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[Watch]:
        """Follow the keys below `prefix`, or all keys: entries, `SNAPSHOT_DONE`, then each `Entry` or `Deleted`.

        `prefix` is whole tokens: ``a.b`` covers ``a.b.c`` and ``a.b.c.d``, and neither ``a.bc`` nor ``a.b``. The
        snapshot shows the moment of entering. Revisions of one key only grow. *Not* promised are an order between
        keys, every one of several quick changes of a key (the last one is seen), and **any sign of expiry**: readers
        age entries themselves, beginning with `Entry.age`.

        After a loss of the connection the iteration raises `TransportError`, since it may have missed changes: watch
        again once connected. When the watch is left or the transport closed, the iteration ends after the changes that
        had arrived.
        """

    def rest(self, key: str, wake: Callable[[], object]) -> bool:
        """Stop the ageing of `key` until it is watched or written.

        This saves the repeated writes of a key that must not expire. `wake` is called once, in the event loop, when a
        watch begins that covers the key, or when another client writes or deletes it; from then on the key ages again.
        A second call replaces the first. Returns False where the engine cannot do this, such as any engine outside of
        the process: the caller then has to go on writing the key.
        """
        return False

    async def keys(self, prefix: str = "") -> list[str]:
        """Return the keys below `prefix` (see `watch`), or all keys, in no promised order."""
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
    """Return `name` where it is a legal subject or key, else raise `InvalidName`; `what` is the word in the error."""
    if len(name) > NAME_LIMIT:
        raise InvalidName(f"{what} {reprlib.repr(name)} has {len(name)} characters, at most {NAME_LIMIT} fit")
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{what} {reprlib.repr(name)} is not tokens joined by dots; build it with encode_token()"
        )
    return name


def check_reply(name: str) -> str:
    """Return `name` where an answer may be sent to it, else raise `InvalidName`."""
    if len(name) <= NAME_LIMIT and _NAME.fullmatch(name):
        return name
    is_name = len(name) <= NAME_LIMIT and _REPLY_NAME.fullmatch(name) and name.isprintable()
    # U+FFFD stands for bytes that were no text.
    if not is_name or not {"*", ">"}.isdisjoint(name.split(".")) or "\ufffd" in name:
        raise InvalidName(
            f"no answer can be sent to {reprlib.repr(name)}; give a subject without blanks and wildcards, "
            "and not one that begins with '$'"
        )
    return name


def check_optional(name: str | None, what: str) -> str | None:
    """Check a name that may be None, like `check_name`."""
    return None if name is None else check_name(name, what)


def check_prefix(prefix: str) -> str:
    """Return the first characters of all keys that `Store.watch` covers: none, or `prefix` and a dot."""
    return check_name(prefix, "prefix") + "." if prefix else ""


def check_store(name: str, ttl: float) -> None:
    """Raise `InvalidName` for a wrong store name, and `ValueError` for a wrong TTL."""
    if not _STORE_NAME.fullmatch(name):
        raise InvalidName(f"store name {reprlib.repr(name)} is not 1 to 64 of A-Za-z0-9_-; choose another")
    if not 1 <= ttl < float("inf"):
        raise ValueError(f"store {name}: ttl is {ttl}; give a finite number of seconds, at least 1")


def to_bytes(data: Data, name: str, limit: int = MESSAGE_LIMIT) -> bytes:
    """Copy `data` to immutable bytes; `name` is its subject or key, for errors.

    Raises `MessageTooLarge` for more bytes than `limit`, `TypeError` for data that is not binary.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"{name}: data is {type(data).__name__}; transports carry bytes, so encode it first")
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size > limit:
        raise MessageTooLarge(f"{name}: {size} bytes, at most {limit} fit; send less, or where to find it")
    return bytes(data)
