"""What is known before a connection: servers, database, credentials, TLS and prefix, out of the URL.

Opens no socket. The password stays out of every text that is made here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from asyncmgr.errors import InvalidSettings

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
PREFIX = "asyncmgr"

_TLS_SCHEMES = {"rediss", "valkeys"}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PARAMETERS = ("prefix", "sentinel", *_FILES)
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_FORM = "write it like redis://user:password@host:6379/0"


@dataclass(frozen=True, slots=True)
class Server:
    """The address of one server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect, and what the names of all keys begin with."""

    servers: tuple[Server, ...]
    """One server, several nodes of one cluster, or the sentinels."""
    sentinel: str | None
    """The name by which the sentinels know the master; None = `servers` are the servers themselves."""
    database: int
    user: str | None
    password: str | None = field(repr=False)
    tls: bool
    tls_files: dict[str, str]
    """By the driver's names: the file of CAs, of the client's certificate and of its key."""
    prefix: str
    wait: bool
    """Whether opening succeeds without a server, which is then sought."""


def read_options(url: str, *, wait: bool = False) -> Options:
    """All that a connection needs; raises `InvalidSettings` for what cannot be meant or read."""
    try:
        first, *others = _split(url)
        servers = tuple((part.hostname or "", part.port) for part in (first, *others))
        sound = all(host for host, _ in servers) and not first.fragment
        database = int(first.path.strip("/") or 0)
    except ValueError:  # its text quotes the URL
        sound = False
    if not sound:
        raise InvalidSettings(f"the store URL names no server that can be reached; {_FORM}")
    given = _parameters(first.query)
    if database < 0:
        raise InvalidSettings(f"the store URL names database {database}; they count from 0")
    port = SENTINEL_PORT if "sentinel" in given else DEFAULT_PORT
    return Options(
        servers=tuple(Server(host, known or port) for host, known in servers),
        sentinel=given.get("sentinel"),
        database=database,
        user=unquote(first.username) if first.username else None,
        password=unquote(first.password) if first.password is not None else None,
        tls=first.scheme in _TLS_SCHEMES,
        tls_files=_files(given, tls=first.scheme in _TLS_SCHEMES),
        prefix=_prefix(given.get("prefix", PREFIX)),
        wait=wait,
    )


def _split(url: str) -> list[SplitResult]:
    """The parts of the URL: what it says for all servers is in the first one."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = re.fullmatch(r"([^/?#]*)(/?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    user, at, hosts = authority.rpartition("@")
    first, *others = hosts.split(",")
    return [
        urlsplit(f"{scheme.lower()}://{user}{at}{first}{slash}{path}"),
        *(urlsplit(f"{scheme.lower()}://{other}") for other in others),
    ]


def _parameters(query: str) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := given.keys() - set(_PARAMETERS):
        names = ", ".join(sorted(unknown))
        raise InvalidSettings(f"the store URL has a parameter {names}; accepted: {', '.join(_PARAMETERS)}")
    if empty := [name for name, value in given.items() if not value]:
        raise InvalidSettings(f"the store URL has an empty parameter {empty[0]}; give it a value")
    return given


def _files(given: dict[str, str], *, tls: bool) -> dict[str, str]:
    files = {name: given[name] for name in _FILES if name in given}
    if files and not tls:
        raise InvalidSettings(f"the store URL has {next(iter(files))} without TLS; begin it with rediss://")
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise InvalidSettings(
            "ssl_keyfile is the key of a certificate; give ssl_certfile too, or leave it out"
        )
    for name, file in files.items():
        try:
            Path(file).read_bytes()  # since ssl does not say which file it means
        except OSError as exc:
            raise InvalidSettings(f"{name}: {file} cannot be read ({exc.strerror}); give a PEM file") from exc
    return files


def _prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise InvalidSettings("the prefix in the store URL is not 1 to 64 of A-Za-z0-9_.:-; choose another")
    return prefix
