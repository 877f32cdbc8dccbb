"""`StoreEngine` and `Store`, the interface of everything that keeps small values under keys.

Every transport is a store engine too. Other engines only keep values: a service that has one beside its transport puts
its capabilities, leases and slots there. `asyncmgr.testing.conformance` has the checks that an engine must pass.

Rules for the whole interface:

* Once the engine is closed, every call raises `TransportClosed`, also a call that was waiting at that moment. While it
  is not `connected`, or where it gives no answer in time, a call raises plain `TransportError`. Each call has a
  deadline of its own; a caller may set a shorter one by `asyncio.timeout`. The engine tries nothing again: the caller
  decides. Errors of a driver never leave it: they become `TransportError`.
* After a `TransportError`, a `TimeoutError` or a cancellation it is *not* known whether the key was written.
* **Whoever decides something decides on the answer of a conditional write** (`create`, `update`, `delete` with a
  revision), never on a read: what `get` and `watch` tell may be old.
* Keys are tokens (`encode_token`) joined by dots, at most 1,024 characters; anything else raises `InvalidName`.
* An engine belongs to the event loop in which it was opened.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import safe_repr
from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.transports._given import Data
from asyncmgr.transports._operations import Operations
from asyncmgr.transports._streams import SNAPSHOT_DONE, Entry, Watch

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

StateListener: TypeAlias = Callable[[bool], object]
"""Called with True when the connection is back, and with False when it is lost."""


class StoreEngine(ABC):
    """A connection to an engine that keeps stores."""

    def __init__(self) -> None:
        self._connected = True
        self._listeners: list[StateListener] = []
        self._opened_in = _running_loop()
        self.operations: Operations = Operations()
        """What this process has asked of it, for metrics."""

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached, as far as this connection knows; False once it is closed."""
        return self._connected

    def check_loop(self) -> None:
        """Raise `TransportError` in another event loop than the one of the opening, since a call would hang there."""
        if self._opened_in is not None and _running_loop() is not self._opened_in:
            raise TransportError(
                "this transport was opened in another event loop; open one in this loop, or hand the call over with "
                "asyncio.run_coroutine_threadsafe()"
            )

    def add_state_listener(self, listener: StateListener) -> Callable[[], None]:
        """Call `listener` in the event loop at each change of `connected`; return a function that removes it.

        It is called neither for the present state nor for closing. An error that it raises is logged.
        """
        return added(self._listeners, listener)

    @abstractmethod
    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> Store:
        """Open the store of this name, whose keys live `ttl` seconds; make it where it is missing.

        The name has at most 64 characters of ``A-Za-z0-9_-``. `ttl` is at least 1, or `None`: keys are kept until they
        are deleted. Every process opens the store with the same `ttl`. With ``watched=False`` the engine may skip the
        work that `Store.watch` needs, and a watch may see a change late, or raise `TransportError` when it is entered.

        *Not* promised: that a store outlives a restart of the engine. Its keys are then lost, and the owner of a key
        writes it again; revisions go on to grow.

        Raises
        ------
        TransportError
            The store has another `ttl`.
        """

    @abstractmethod
    async def now(self) -> int:
        """Return the engine's clock: microseconds since 1970. It may be wrong, and is the same for all processes."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection: waiting calls raise `TransportClosed`, iterations end. A second call does nothing."""

    def _set_connected(self, connected: bool) -> None:
        """Note the state, and call the listeners where it has changed. Implementations call this."""
        if connected == self._connected:
            return
        self._connected = connected
        tell(self._listeners, connected)

    def _note_closed(self) -> None:
        """Note that the engine is closed; no listener is called. Implementations call this."""
        self._connected = False


class Store(ABC):
    """Keys with values and revisions. All keys of a store have one TTL, which starts again at each write of a key.

    A key expires after its TTL, not before and possibly a second later. An expired key is like one that never existed,
    except that revisions go on. All readers see the writes of one key in the same order. The object is usable as long
    as its engine is open.

    A revision is at least the last revision of the store plus one, and by the engine's clock (microseconds since 1970)
    no older than the making of the store. So revisions grow also when the engine has lost its data, as long as its
    clock is not set back past them. They stay below 2^53.
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
        again once connected. A loss that nobody reports is noticed within 15 s. There is no order between two
        watches. When the watch is left or the engine closed, the iteration ends after the changes that had arrived.
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


def added(listeners: list[Any], listener: Any) -> Callable[[], None]:
    """Add a listener; return a function that removes it."""
    listeners.append(listener)

    def remove() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return remove


def tell(listeners: list[Any], *args: object) -> None:
    """Call each listener; log the error of one that raises, and go on."""
    for listener in tuple(listeners):
        try:
            listener(*args)
        except Exception:
            log.error("listener.failed", listener=safe_repr(listener), exc_info=True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
