"""What a NATS connection says of who it is: the fields of CONNECT, signed where the server gave something to sign.

Files are read at each connect, so that a renewed one is used without a restart.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncmgr._common.clock import read_wall
from asyncmgr.errors import TransportError

_SECTION = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s+(\S+)\s+-+END")
_JWT, _SEED = b"NATS USER JWT", b"USER NKEY SEED"


def connect_fields(credentials: Mapping[str, str], nonce: str) -> dict[str, str]:
    """The fields that show `credentials`, as `Options` has them, to a server that sent this nonce.

    Raises
    ------
    TransportError
        A file cannot be read or used any more.
    """
    if file := credentials.get("nkey_seed_file"):
        return _signed(_read(file).strip(), nonce, file, by_key=True)
    if file := credentials.get("credentials_file"):
        found = _sections(_read(file))
        return {"jwt": found[_JWT].decode(), **_signed(found[_SEED], nonce, file)}
    names = {"user": "user", "password": "pass", "token": "auth_token"}
    return {names[key]: value for key, value in credentials.items()}


def is_complete(content: bytes) -> bool:
    """Whether this credentials file has its two parts."""
    return {_JWT, _SEED} <= _sections(content).keys()


def expiry(credentials: Mapping[str, str]) -> str | None:
    """That and when the credentials file expired, in words; None where it has not, or there is none."""
    if (file := credentials.get("credentials_file")) is None:
        return None
    try:
        claims = _claims(_sections(Path(file).read_bytes())[_JWT])
        ended = datetime.fromtimestamp(claims["exp"], UTC)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None
    if ended.timestamp() * 1_000_000 > read_wall():
        return None
    return f"the credentials in {file} expired at {ended:%Y-%m-%d %H:%M:%S} UTC; put new ones there"


def _signed(seed: bytes, nonce: str, file: str, *, by_key: bool = False) -> dict[str, str]:
    import nkeys  # type: ignore[import-untyped]  # needed for these two kinds only

    try:
        pair = nkeys.from_seed(bytearray(seed))
        signature = base64.urlsafe_b64encode(pair.sign(nonce.encode())).decode().rstrip("=")
        return {"sig": signature, **({"nkey": pair.public_key.decode()} if by_key else {})}
    except Exception as exc:  # of several libraries; their texts may quote the seed
        raise TransportError(f"{file} holds no seed that can sign; give the file of a user") from exc


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise TransportError(f"{file} cannot be read ({exc.strerror or exc}); give a readable file") from exc


def _sections(content: bytes) -> dict[bytes, bytes]:
    return dict(_SECTION.findall(content))


def _claims(token: bytes) -> dict[str, Any]:
    part = token.split(b".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    return claims
