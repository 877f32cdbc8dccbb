"""Writes names as tokens of subjects and keys, so that any name is one token on every engine. Pure.

A byte (UTF-8) outside ``A-Za-z0-9_-`` is written ``=XX`` in upper case, and the empty name is written ``=``. Each name
has exactly one token, and each token one name.
"""

from __future__ import annotations

import re
import reprlib

from asyncmgr.errors import InvalidName

TOKEN_LIMIT = 128
"""The largest number of bytes of a token."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")


def encode_token(name: str, what: str = "name") -> str:
    """Write `name` as a token; `what` is the word for it in errors (``host``, ``service``).

    Raises
    ------
    InvalidName
        The token would take more than 128 bytes, or the name is no Unicode text.
    """
    token = name if _PLAIN.fullmatch(name) else _escape(name, what)
    if len(token) > TOKEN_LIMIT:
        raise InvalidName(
            f"{what} {reprlib.repr(name)} takes {len(token)} bytes as a token, at most {TOKEN_LIMIT} fit "
            f"(a byte outside A-Za-z0-9_- takes three); choose a shorter {what}"
        )
    return token


def decode_token(token: str, what: str = "name") -> str:
    """Read the name of a token; raise `InvalidName` for a text that `encode_token` never returns."""
    if _PLAIN.fullmatch(token) and len(token) <= TOKEN_LIMIT:
        return token
    name = _unescape(token)
    if name is None or len(token) > TOKEN_LIMIT or _escape(name, what) != token:
        raise InvalidName(f"{reprlib.repr(token)} is no token of a {what}; make tokens with encode_token()")
    return name


def _escape(name: str, what: str) -> str:
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise InvalidName(f"{what} {reprlib.repr(name)} is no Unicode text; choose a plain {what}") from None
    return _ESCAPED.sub(lambda byte: b"=%02X" % byte[0][0], raw).decode("ascii") or "="


def _unescape(token: str) -> str | None:
    if token == "=":
        return ""
    try:
        return _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), token.encode("ascii")).decode()
    except UnicodeError:
        return None
