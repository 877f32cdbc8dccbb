"""Reads the URL of a PostgreSQL store. Opens no socket; the password stays out of every text that is made here."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from asyncmgr.errors import InvalidSettings

CONNECTIONS = 2
"""Connections for calls that one engine opens at most. A watch takes one more."""

_FORM = "write it like postgresql://user@host:5432/database?schema=name&sslmode=verify-full"


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect."""

    dsn: str = field(repr=False)
    """What the driver reads."""
    server: str
    """Hosts and database, for texts."""
    user: str | None
    secrets: tuple[str, ...] = field(repr=False)
    """What must not be in any text."""
    schema: str | None
    """Where the table is; None = the first schema of the role's search path."""
    connections: int

    def hide(self, text: str) -> str:
        """`text` without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def read_options(url: str) -> Options:
    """All that a connection needs; raises `InvalidSettings` for a URL that cannot be meant."""
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # its text quotes the URL
        raise InvalidSettings(f"the store URL cannot be read; {_FORM}") from None
    query = dict(given)
    if parts.fragment or len(query) < len(given):
        raise InvalidSettings(f"the store URL has a '#' or a parameter twice; {_FORM}")
    if "," in parts.netloc:
        query.setdefault("target_session_attrs", "primary")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return Options(
        schema=_schema(query.pop("schema", None)),
        connections=_count(query.pop("connections", None)),
        dsn=urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), "")),
        server=f"{hosts or query.get('host', 'localhost')}/{parts.path.strip('/') or query.get('dbname', '')}",
        user=unquote(user) or query.get("user"),
        secrets=_secrets(password, unquote(password), query.get("password"), query.get("sslpassword")),
    )


def _secrets(*found: str | None) -> tuple[str, ...]:
    return tuple({secret for secret in found if secret})


def _schema(name: str | None) -> str | None:
    if name is not None and not (0 < len(name.encode()) < 64 and name.isprintable()):
        raise InvalidSettings("schema of the store URL is no name of a schema; give 1 to 63 bytes")
    return name


def _count(text: str | None) -> int:
    if text is None:
        return CONNECTIONS
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 100):
        raise InvalidSettings("connections of the store URL is not 1 to 100; give the most for one process")
    return int(text)
