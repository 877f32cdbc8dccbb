"""Transports carry messages between services and keep keys beside them; `open_transport` opens one by its URL.

Store engines only keep keys; `open_store` opens one, and every transport is one too. A URL's scheme selects the
implementation: a scheme comes from `register_scheme`, or from an entry point of the groups ``asyncmgr.transports`` and
``asyncmgr.stores`` (its name is the scheme, its value an `Opener`).

Read the modules in this order. `_stores` is the interface of stores, with its rules, and `_base` that of transports.
`_streams` has the subscriptions and watches that all implementations fill, `_given` checks what callers give, and
`_tokens` writes names as tokens of subjects and keys. `_memory` implements both interfaces inside one process (its keys
are in `_shelf`), and `_nats` for NATS servers. `_retries` schedules retries for other packages. This
package may import `_common`, `errors`, `wire`, `events`, `_tasks` and `_settings`; it knows nothing of calls and
capabilities.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncmgr.errors import InvalidSettings
from asyncmgr.transports._base import Transport
from asyncmgr.transports._given import MESSAGE_LIMIT, VALUE_LIMIT, Data
from asyncmgr.transports._memory import open_memory
from asyncmgr.transports._stores import StateListener, Store, StoreEngine
from asyncmgr.transports._streams import SNAPSHOT_DONE, Change, Deleted, Entry, Message, Subscription, Watch
from asyncmgr.transports._tokens import TOKEN_LIMIT, decode_token, encode_token

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = [
    "ENTRY_POINTS",
    "MESSAGE_LIMIT",
    "SNAPSHOT_DONE",
    "STORE_ENTRY_POINTS",
    "TOKEN_LIMIT",
    "VALUE_LIMIT",
    "Change",
    "Data",
    "Deleted",
    "Entry",
    "Message",
    "Opener",
    "StateListener",
    "Store",
    "StoreEngine",
    "StoreOpener",
    "Subscription",
    "Transport",
    "Watch",
    "decode_token",
    "encode_token",
    "open_store",
    "open_transport",
    "register_scheme",
]

ENTRY_POINTS = "asyncmgr.transports"
"""The group of entry points that add schemes of transports."""

STORE_ENTRY_POINTS = "asyncmgr.stores"
"""The group of entry points that add schemes of stores that are no transports."""

Opener: TypeAlias = Callable[[str, Any], AbstractAsyncContextManager[Transport]]
"""Called with the URL and the settings (or None). The context manager connects on entering and closes on leaving.

Entering raises `TransportError` where the connection fails, and `InvalidSettings` for a wrong URL. Where the setting
`connect` is ``wait``, a connection that fails is no error: `connected` is false then, and the engine is sought.
"""

StoreOpener: TypeAlias = Callable[[str, Any], AbstractAsyncContextManager[StoreEngine]]
"""Like `Opener`, for an engine that keeps stores and carries no messages."""

_openers: dict[str, Opener] = {"memory": open_memory}
_EXTRAS = {
    "nats": "asyncmgr[nats]",
    "postgresql": "asyncmgr[postgresql]",
    "postgres": "asyncmgr[postgresql]",
    "redis": "asyncmgr[redis]",
    "rediss": "asyncmgr[redis]",
    "valkey": "asyncmgr[redis]",
    "valkeys": "asyncmgr[redis]",
}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def open_transport(url: str, settings: Any = None) -> AbstractAsyncContextManager[Transport]:
    """Connect to `url` for the length of an ``async with``, and close at its end.

    ``memory://`` is private to this transport; all transports of ``memory://name`` in one event loop share messages and
    keys. No error quotes the URL, since it may hold a password.

    Raises
    ------
    InvalidSettings
        The URL has no scheme, or one that is unknown or cannot be loaded.
    """
    return _opener(_scheme_of(url, "transport", "memory:// or nats://host:4222"))(url, settings)


def open_store(url: str, settings: Any = None) -> AbstractAsyncContextManager[StoreEngine]:
    """Connect to a store engine for the length of an ``async with``, and close at its end.

    `url` is that of a transport (see `open_transport`), or ``postgresql://``, ``redis://``, ``valkey://``,
    ``sqlite:///path``. No error quotes the URL, since it may hold a password.

    Raises
    ------
    InvalidSettings
        The URL has no scheme, or one that is unknown or cannot be loaded.
    """
    scheme = _scheme_of(url, "store", "postgresql://user@host/database or sqlite:///path")
    if scheme not in _openers and scheme in (found := _entry_points(STORE_ENTRY_POINTS)).names:
        opener: StoreOpener = _load(scheme, found)
        return opener(url, settings)
    return _opener(scheme, "store", STORE_ENTRY_POINTS)(url, settings)


def register_scheme(scheme: str, opener: Opener) -> None:
    """Make `open_transport` use `opener` for URLs that begin with ``scheme://``; replace an earlier opener."""
    if not _SCHEME.fullmatch(scheme):
        raise InvalidSettings(f"scheme {scheme!r} cannot begin a URL; write it in lower case, as 'nats'")
    _openers[scheme] = opener


def _scheme_of(url: str, what: str, examples: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise InvalidSettings(f"the {what} URL has no scheme; write it like {examples}")
    return scheme.lower()


def _opener(scheme: str, what: str = "transport", *more: str) -> Opener:
    if opener := _openers.get(scheme):
        return opener
    found = _entry_points(ENTRY_POINTS)
    if scheme not in found.names:
        names = {*_openers, *found.names, *(name for group in more for name in _entry_points(group).names)}
        known = ", ".join(f"{name}://" for name in sorted(names))
        raise InvalidSettings(f"no {what} for {scheme}://; known are {known}; {_cure(scheme, what)}")
    loaded: Opener = _load(scheme, found)
    return loaded


def _entry_points(group: str) -> EntryPoints:
    from importlib.metadata import entry_points  # slow to import, and memory:// never needs it

    return entry_points(group=group)


def _load(scheme: str, found: EntryPoints) -> Any:
    try:
        return found[scheme].load()
    except Exception as exc:  # a plugin's import may raise anything
        cause = f"{type(exc).__name__}: {exc}"
        raise InvalidSettings(f"{scheme}:// cannot be loaded ({cause}); {_cure(scheme)}") from exc


def _cure(scheme: str, what: str = "transport") -> str:
    if extra := _EXTRAS.get(scheme):
        if what == "transport" and scheme != "nats":
            return f"{scheme}:// is a store and carries no messages: give it as the setting 'store'"
        return f"pip install '{extra}'"
    group = ENTRY_POINTS if what == "transport" else STORE_ENTRY_POINTS
    return f"install the package that adds it (entry points {group!r})"
