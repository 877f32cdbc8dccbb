"""Transports carry messages between services and keep keys beside them; `open_transport` opens one by its URL.

A URL's scheme selects the implementation: a scheme comes from `register_scheme`, or from an entry point of the group
``asyncmgr.transports`` (its name is the scheme, its value an `Opener`).

Read the modules in this order. `_base` is the interface, with its rules. `_streams` has the subscriptions and watches
that all implementations fill, and `_tokens` writes names as tokens of subjects and keys. `_memory` implements the
interface inside one process, and `_nats` for NATS servers. `_retries` schedules retries for other packages. This
package may import `_common`, `errors`, `wire`, `events`, `_tasks` and `_settings`; it knows nothing of calls and
capabilities.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncmgr.errors import InvalidSettings
from asyncmgr.transports._base import MESSAGE_LIMIT, VALUE_LIMIT, Data, StateListener, Store, Transport
from asyncmgr.transports._memory import open_memory
from asyncmgr.transports._streams import SNAPSHOT_DONE, Change, Deleted, Entry, Message, Subscription, Watch
from asyncmgr.transports._tokens import TOKEN_LIMIT, decode_token, encode_token

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = [
    "ENTRY_POINTS",
    "MESSAGE_LIMIT",
    "SNAPSHOT_DONE",
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
    "Subscription",
    "Transport",
    "Watch",
    "decode_token",
    "encode_token",
    "open_transport",
    "register_scheme",
]

ENTRY_POINTS = "asyncmgr.transports"
"""The group of entry points that add schemes."""

Opener: TypeAlias = Callable[[str, Any], AbstractAsyncContextManager[Transport]]
"""Called with the URL and the settings (or None). The context manager connects on entering and closes on leaving.

Entering raises `TransportError` where the connection fails, and `InvalidSettings` for a wrong URL.
"""

_openers: dict[str, Opener] = {"memory": open_memory}
_EXTRAS = {"nats": "asyncmgr[nats]"}
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
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise InvalidSettings("the transport URL has no scheme; write it like memory:// or nats://host:4222")
    return _opener(scheme.lower())(url, settings)


def register_scheme(scheme: str, opener: Opener) -> None:
    """Make `open_transport` use `opener` for URLs that begin with ``scheme://``; replace an earlier opener."""
    if not _SCHEME.fullmatch(scheme):
        raise InvalidSettings(f"scheme {scheme!r} cannot begin a URL; write it in lower case, as 'nats'")
    _openers[scheme] = opener


def _opener(scheme: str) -> Opener:
    if opener := _openers.get(scheme):
        return opener
    found = _entry_points()
    if scheme not in found.names:
        known = ", ".join(f"{name}://" for name in sorted({*_openers, *found.names}))
        raise InvalidSettings(f"no transport for {scheme}://; known are {known}; {_cure(scheme)}")
    return _load(scheme, found)


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # slow to import, and memory:// never needs it

    return entry_points(group=ENTRY_POINTS)


def _load(scheme: str, found: EntryPoints) -> Opener:
    try:
        opener: Opener = found[scheme].load()
    except Exception as exc:  # a plugin's import may raise anything
        cause = f"{type(exc).__name__}: {exc}"
        raise InvalidSettings(f"{scheme}:// cannot be loaded ({cause}); {_cure(scheme)}") from exc
    return opener


def _cure(scheme: str) -> str:
    if extra := _EXTRAS.get(scheme):
        return f"pip install '{extra}'"
    return f"install the package that adds it (entry points {ENTRY_POINTS!r})"
