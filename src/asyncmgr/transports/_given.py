"""Checks the names and data that callers give to transports and stores."""

from __future__ import annotations

import re
import reprlib
from typing import TypeAlias

from asyncmgr.errors import InvalidName, MessageTooLarge

MESSAGE_LIMIT = 1024 * 1024
"""The largest number of bytes of one message."""

VALUE_LIMIT = MESSAGE_LIMIT - 1024
"""The largest number of bytes of one value. Engines send it with headers (such as the revision it replaces), and
count these too."""

NAME_LIMIT = 1024
"""The largest number of characters of a subject or key."""

Data: TypeAlias = bytes | bytearray | memoryview
"""Types of data to send. Mutable data is copied: a change after the call changes nothing that was sent."""

_NAME = re.compile(r"[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]+)*")
_REPLY_NAME = re.compile(r"(?!\$)[^\s.\0-\x1f\x7f]+(?:\.[^\s.\0-\x1f\x7f]+)*")
_STORE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


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


def check_store(name: str, ttl: float | None) -> None:
    """Raise `InvalidName` for a wrong store name, and `ValueError` for a wrong TTL."""
    if not _STORE_NAME.fullmatch(name):
        raise InvalidName(f"store name {reprlib.repr(name)} is not 1 to 64 of A-Za-z0-9_-; choose another")
    if ttl is not None and not 1 <= ttl < float("inf"):
        raise ValueError(
            f"store {name}: ttl is {ttl}; give a finite number of seconds, at least 1, or None for no expiry"
        )


def lasting(ttl: float | None) -> str:
    """Say how long the keys of a store live, for errors."""
    return "until they are deleted" if ttl is None else f"for {ttl:g} s"


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
