"""What shows who one is to a NATS server: certificates, nkeys, and the signed tokens of accounts."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Certificates:
    """A CA, and what it signed for ``nats.test`` or other names; valid for a day. Needs ``openssl``."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def make(cls, home: Path, names: str = "DNS:nats.test") -> Certificates:
        authority = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test-ca"
        _openssl(home, f"{authority} -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem")
        _openssl(home, "req -newkey rsa:2048 -nodes -subj /CN=nats.test -keyout server.key -out server.csr")
        (home / "names").write_text(
            f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"
            "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        signed = "x509 -req -days 1 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial"
        _openssl(home, f"{signed} -extfile names -out server.pem")
        return cls(home / "ca.pem", home / "server.pem", home / "server.key")

    def config(self, **more: str) -> str:
        """The table of a server's configuration."""
        lines = {
            "cert_file": f'"{self.cert}"',
            "key_file": f'"{self.key}"',
            "ca_file": f'"{self.ca}"',
            **more,
        }
        return "tls {\n" + "\n".join(f"{key}: {value}" for key, value in lines.items()) + "\n}\n"


def _openssl(home: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=home, check=True, capture_output=True)


@dataclass(frozen=True)
class Key:
    """An nkey."""

    seed: str

    @classmethod
    def make(cls, kind: int = nkeys.PREFIX_BYTE_USER) -> Key:
        return cls(nkeys.encode_seed(secrets.token_bytes(32), kind).decode())

    @property
    def public(self) -> str:
        return str(nkeys.from_seed(bytearray(self.seed.encode())).public_key.decode())

    def sign(self, data: bytes) -> bytes:
        return bytes(nkeys.from_seed(bytearray(self.seed.encode())).sign(data))

    def token(self, subject: Key, name: str, kind: str) -> str:
        """What says, signed with this key, that `subject` is an account or a user."""
        claims = {
            "jti": secrets.token_hex(8),
            "iat": 1_700_000_000,
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": {"type": kind, "version": 2, **_LIMITS[kind]},
        }
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = f"{_encoded(json.dumps(head).encode())}.{_encoded(json.dumps(claims).encode())}"
        return f"{text}.{_encoded(self.sign(text.encode()))}"


_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT = {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_LIMITS: dict[str, Any] = {"operator": {}, "account": {"limits": _ACCOUNT}, "user": _UNLIMITED}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def operator_config_and_creds() -> tuple[str, str]:
    """A server's configuration with one account, and the content of a credentials file of a user of it."""
    operator, account, user = (
        Key.make(kind)
        for kind in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    )
    config = (
        f"operator: {operator.token(operator, 'test', 'operator')}\n"
        "resolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {operator.token(account, 'test', 'account')} }}\n"
    )
    creds = (
        f"-----BEGIN NATS USER JWT-----\n{account.token(user, 'me', 'user')}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return config, creds
