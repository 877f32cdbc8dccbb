"""What is known before a NATS connection: servers out of the URL, credentials and TLS out of the settings.

Reads files and opens no socket. Passwords stay out of every text that is made here.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from asyncmgr.errors import InvalidSettings
from asyncmgr.transports._nats.credentials import is_complete

if TYPE_CHECKING:
    from pathlib import Path

    from asyncmgr._settings.model import NatsSettings

DEFAULT_PORT = 4222
_SCHEMES = ("nats", "tls")
_FORM = "write it like nats://host:4222 or nats://a:4222,b:4222"


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a URL, or one that others told of."""

    host: str
    port: int
    tls_hostname: str | None = None
    """The name that its certificate has to have; None for `host`."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect."""

    servers: tuple[Server, ...]
    connect_timeout: float
    tls: ssl.SSLContext | None
    """Given where servers without TLS are refused."""
    tls_first: bool
    """Whether the server begins with TLS, instead of a greeting in clear."""
    credentials: Mapping[str, str] = field(repr=False)
    """``user`` and ``password``, ``token``, or the path of ``nkey_seed_file`` or ``credentials_file``."""
    inbox_prefix: str
    """What the subjects that answers go to begin with."""
    domain: str | None
    """Of the JetStream that keeps the stores; None for the connected server's own."""
    replicas: int
    """Servers that keep a bucket which is made here."""
    ignore_discovered: bool
    """Whether only the servers of the URL are connected to."""
    wait: bool
    """Whether opening succeeds without a server, which is then sought."""


def read_options(url: str, settings: NatsSettings, *, wait: bool = False) -> Options:
    """All that a connection needs; raises `InvalidSettings` for what cannot be meant or read."""
    parts = _parse(url)
    from_url = _url_credentials(parts)
    from_settings = _credentials(settings)
    if from_url and from_settings:
        raise InvalidSettings("credentials are in the transport URL and in [nats] too; keep one of them")
    return Options(
        servers=tuple(_server(part, settings.tls_hostname) for part in parts),
        connect_timeout=settings.connect_timeout,
        tls=_tls(settings, required=any(part.scheme == "tls" for part in parts)),
        tls_first=settings.tls_first,
        credentials=from_url or from_settings,
        inbox_prefix=settings.inbox_prefix,
        domain=settings.jetstream_domain,
        replicas=settings.replicas,
        ignore_discovered=settings.ignore_discovered,
        wait=wait,
    )


def parse_address(text: object) -> tuple[str, int] | None:
    """Host and port of a server as others tell of it; None where it is none."""
    try:
        part = urlsplit(str(text) if "://" in str(text) else f"nats://{text}")
        return (part.hostname, part.port) if part.hostname and part.port else None
    except ValueError:
        return None


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parse(url: str) -> list[SplitResult]:
    scheme, _, rest = url.partition("://")
    listed = rest.rstrip("/").split(",")
    try:
        parts = [urlsplit(one if "://" in one else f"{scheme.lower()}://{one}") for one in listed]
        sound = all(_is_sound(part) for part in parts)
    except ValueError:  # its text quotes the URL
        sound = False
    if not sound:
        raise InvalidSettings(f"the transport URL names no servers that can be reached; {_FORM}")
    return parts


def _is_sound(part: SplitResult) -> bool:
    extra = part.path.strip("/") or part.query or part.fragment
    return part.scheme in _SCHEMES and bool(part.hostname) and part.port != 0 and not extra


def _server(part: SplitResult, tls_hostname: str | None) -> Server:
    return Server(part.hostname or "", part.port or DEFAULT_PORT, tls_hostname)


def _url_credentials(parts: list[SplitResult]) -> dict[str, str]:
    found = [dict(_userinfo(part)) for part in parts if part.username]
    if any(one != found[0] for one in found):
        raise InvalidSettings("the transport URL has different credentials for its servers; give one for all")
    return found[0] if found else {}


def _userinfo(part: SplitResult) -> dict[str, str]:
    name = unquote(part.username or "")
    return {"token": name} if part.password is None else {"user": name, "password": unquote(part.password)}


def _credentials(settings: NatsSettings) -> dict[str, str]:
    if settings.user is not None and settings.password is not None:
        return {"user": settings.user, "password": settings.password.get_secret_value()}
    if settings.token is not None:
        return {"token": settings.token.get_secret_value()}
    if settings.nkey_seed_file is not None:
        return {"nkey_seed_file": _nkey(settings.nkey_seed_file)}
    if settings.credentials_file is not None:
        return {"credentials_file": _creds(settings.credentials_file)}
    return {}


def _nkey(file: Path) -> str:
    if not _read("nkey_seed_file", file).strip().startswith(b"SU"):
        raise InvalidSettings(f"nats.nkey_seed_file: {file} holds no seed of a user; it begins with SU")
    return _signable("nkey_seed_file", file)


def _creds(file: Path) -> str:
    if not is_complete(_read("credentials_file", file)):
        raise InvalidSettings(
            f"nats.credentials_file: {file} holds no user JWT with its seed; make it with 'nsc generate creds'"
        )
    return _signable("credentials_file", file)


def _signable(key: str, file: Path) -> str:
    if find_spec("nkeys") is None:
        raise InvalidSettings(f"nats.{key} needs the package nkeys; pip install 'asyncmgr[nats]'")
    return str(file)


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise _unreadable(key, file, exc) from exc


def _unreadable(key: str, file: Path, exc: OSError) -> InvalidSettings:
    return InvalidSettings(f"nats.{key}: {file} cannot be read ({exc.strerror or exc}); give a readable file")


def _tls(settings: NatsSettings, *, required: bool) -> ssl.SSLContext | None:
    asked_for = (settings.tls_first, settings.tls_ca_file, settings.tls_cert_file, settings.tls_hostname)
    if not required and not any(asked_for):
        return None
    for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        if (file := getattr(settings, key)) is not None:
            _read(key, file)  # since ssl does not say which file it means
    context = _trusting(settings.tls_ca_file)
    _identify(context, settings.tls_cert_file, settings.tls_key_file)
    return context


def _trusting(file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError as exc:
        raise InvalidSettings(
            f"nats.tls_ca_file: {file} holds no certificates in PEM ({exc.reason})"
        ) from exc


def _identify(context: ssl.SSLContext, cert: Path | None, key: Path | None) -> None:
    if cert is None:
        return
    try:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or exc
        raise InvalidSettings(
            f"nats.tls_cert_file: {cert} with the key of {key or cert} is no certificate with its key ({reason}); "
            "give both in PEM, the key without a passphrase"
        ) from exc
