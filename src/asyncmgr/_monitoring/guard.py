"""Decides which HTTP requests are answered: by their ``Host``, and by what proves that a verb is meant. Pure."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import zlib
from collections.abc import Collection

HEADER = "x-asyncmgr"
"""The header that each request for a verb has. No form and no simple request of another site can have it."""

_LOCAL = "localhost"


class Guard:
    """Guards the pages of one service.

    Parameters
    ----------
    token
        What has to be known for verbs; `None` = there are none.
    hosts
        Names under which requests may come, beside ``localhost`` and addresses; ``*`` = any. `None` = nobody looks at
        the ``Host``, since the application that the pages are mounted in does.
    salt
        Tells this service from others of the machine, whose browser cookies would have the same name.
    """

    def __init__(self, token: str | None, hosts: Collection[str] | None, *, salt: str) -> None:
        self._token = token
        self._hosts = None if hosts is None else {host.lower().rstrip(".") for host in hosts}
        # Cookies do not tell ports apart.
        self.cookie: str = f"asyncmgr-{zlib.crc32(salt.encode()):08x}"
        """The name of the cookie."""

    @property
    def opens_verbs(self) -> bool:
        """Whether anybody may use verbs."""
        return self._token is not None

    @property
    def ticket(self) -> str:
        """The value of the cookie: proves that its owner knew the token, and does not tell the token."""
        return hmac.new((self._token or "").encode(), b"asyncmgr cookie", hashlib.sha256).hexdigest()

    def knows(self, token: str) -> bool:
        """Whether this is the token."""
        return self._token is not None and hmac.compare_digest(self._token.encode(), token.encode())

    def refuse_host(self, host: str) -> str | None:
        """Say why a request with this ``Host`` is not answered; `None` = it is.

        A page elsewhere that makes its name point here (DNS rebinding) has its own name as ``Host``. It cannot have an
        address there: a browser keeps addresses apart.
        """
        if self._hosts is None or "*" in self._hosts:
            return None
        name = _name_in(host)
        if name == _LOCAL or name in self._hosts or _is_address(name):
            return None
        return f"the Host {name!r} is not known here; add it to the setting hosts, in the table [monitoring]"

    def refuse_verb(self, *, cookie: str | None, authorization: str | None, header: str | None) -> str | None:
        """Say why a request may not use verbs; `None` = it may.

        It needs the cookie that the token gave, or the token itself as ``Authorization: Bearer``, and our header.
        """
        if self._token is None:
            return "the verbs are closed here: there is no token (asyncmgr run --http-token)"
        if header is None:
            return f"a request for a verb needs the header {HEADER}"
        if authorization is not None:
            scheme, _, given = authorization.partition(" ")
            return (
                None if scheme.lower() == "bearer" and self.knows(given.strip()) else "this is not the token"
            )
        if cookie is not None and hmac.compare_digest(cookie.encode(), self.ticket.encode()):
            return None
        return "a verb needs the token: open the link that asyncmgr run printed"


def _name_in(host: str) -> str:
    """Take the port off a ``Host``: ``[::1]:80``, ``a.example:80``."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    name, _, port = text.rpartition(":")
    return (name if name and port.isdigit() else text).rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
