"""What a NATS connection needs, out of URL and settings; and what is refused before any socket is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncmgr._settings.model import NatsSettings, Settings
from asyncmgr.errors import InvalidSettings
from asyncmgr.transports._nats.options import Options, parse_address, read_options


def options(url: str, **settings: Any) -> Options:
    return read_options(url, NatsSettings(**settings))


def refusal(url: str, **settings: Any) -> str:
    """The text of the error; no word of a secret in it."""
    with pytest.raises(InvalidSettings) as caught:
        options(url, **settings)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a", ["a:4222"]),
        ("NATS://a:1/", ["a:1"]),
        ("nats://a,b:2,c", ["a:4222", "b:2", "c:4222"]),
        ("nats://a,nats://b:2", ["a:4222", "b:2"]),
        ("nats://[::1]:5,[::2]", ["[::1]:5", "[::2]:4222"]),
        ("nats://me:hunter2@a:1,b", ["a:1", "b:4222"]),
    ],
)
def test_servers(url: str, servers: list[str]) -> None:
    """One or several servers, each with its port or the usual one; never with credentials."""
    found = options(url)
    assert [str(server) for server in found.servers] == servers
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "nats://me:hunter2@",
        "nats://me:hunter2@a:port",
        "nats://me:hunt,er2@a",
        "nats://hunter2@a:99999",
        "nats://hunter2@a:0",
        "nats://a,",
        "nats://a,http://b",
        "nats://hunter2@a/path",
        "nats://a?tls=hunter2",
        "nats://hunter2@[::1",
    ],
)
def test_url_without_servers(url: str) -> None:
    """A URL that names no server is refused with the form to write, and not quoted."""
    assert refusal(url).startswith(
        "the transport URL names no servers that can be reached; write it like nats:"
    )


@pytest.mark.parametrize(
    ("url", "settings", "credentials"),
    [
        ("nats://a", {}, {}),
        ("nats://me:hunter2@a", {}, {"user": "me", "password": "hunter2"}),
        ("nats://me:h%40%2Cr@a", {}, {"user": "me", "password": "h@,r"}),
        ("nats://hunter2@a", {}, {"token": "hunter2"}),
        ("nats://me:p@a,me:p@b,c", {}, {"user": "me", "password": "p"}),
        ("nats://a", {"user": "me", "password": "hunter2"}, {"user": "me", "password": "hunter2"}),
        ("nats://a", {"token": "hunter2"}, {"token": "hunter2"}),
    ],
)
def test_credentials(url: str, settings: dict[str, str], credentials: dict[str, str]) -> None:
    """They come from the URL, where special characters are percent-encoded, or from the settings."""
    assert options(url, **settings).credentials == credentials


@pytest.mark.parametrize(
    ("url", "settings", "fact"),
    [
        ("nats://me:hunter2@a", {"token": "hunter2"}, "in the transport URL and in [nats] too; keep one"),
        ("nats://me:hunter2@a,you:hunter2@b", {}, "different credentials for its servers; give one for all"),
    ],
)
def test_contradicting_credentials(url: str, settings: dict[str, str], fact: str) -> None:
    """Credentials of two places, or for two servers, are no credentials."""
    assert fact in refusal(url, **settings)


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"user": "me"}, "user and password go together; give both"),
        ({"password": "hunter2"}, "user and password go together; give both"),
        ({"user": "me", "password": "hunter2", "token": "hunter2"}, "user and token exclude each other"),
        ({"token": "hunter2", "nkey_seed_file": "f"}, "token and nkey_seed_file exclude each other"),
        ({"tls_key_file": "f"}, "give tls_cert_file too"),
        ({"passwort": "hunter2"}, "unknown key (did you mean 'password'?); accepted: user, password, token"),
        ({"password": 5}, "argument nats.password: the value (not shown) is not accepted; accepted: text"),
        ({"connect_timeout": 0}, "argument nats.connect_timeout: 0 is not accepted"),
        ({"inbox_prefix": "a.*"}, "accepted: tokens of A-Za-z0-9_=- joined by dots"),
        ({"inbox_prefix": "$SYS"}, "accepted: tokens of A-Za-z0-9_=- joined by dots"),
        ({"jetstream_domain": "a.b"}, "argument nats.jetstream_domain: 'a.b' is not accepted"),
        ({"replicas": 0}, "argument nats.replicas: 0 is not accepted"),
        ({"replicas": True}, "argument nats.replicas: True is not a number; accepted: 1 to 5"),
        ({"connect_timeout": "soon"}, "accepted: seconds, or e.g. '30s'"),
    ],
)
def test_wrong_table(settings: dict[str, Any], fact: str) -> None:
    """The table [nats] is checked as it is read: what goes together, what does not, what is unknown."""
    with pytest.raises(InvalidSettings) as caught:
        Settings(nats=settings)
    assert fact in str(caught.value)
    assert str(caught.value).startswith("argument nats")
    assert "hunter2" not in str(caught.value)


def test_table_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables set single keys, or the table as JSON; a password has no text."""
    monkeypatch.setenv("ASYNCMGR_NATS__USER", "me")
    monkeypatch.setenv("ASYNCMGR_NATS__PASSWORD", "12345")
    settings = Settings()
    assert settings.nats.password is not None
    assert (settings.nats.user, settings.nats.password.get_secret_value()) == ("me", "12345")
    assert "12345" not in repr(settings)
    monkeypatch.delenv("ASYNCMGR_NATS__USER")
    monkeypatch.delenv("ASYNCMGR_NATS__PASSWORD")
    monkeypatch.setenv("ASYNCMGR_NATS", '{"token": "hunter2", "connect_timeout": "2s"}')
    assert Settings().nats == NatsSettings(token="hunter2", connect_timeout=2)  # type: ignore[arg-type]
    assert "hunter2" not in repr(Settings())


def test_settings_as_an_argument() -> None:
    """The table may be given as an object, secrets included."""
    given = NatsSettings(token="hunter2")  # type: ignore[arg-type]
    assert Settings(nats=given).nats == given


@pytest.mark.parametrize(
    "key", ["nkey_seed_file", "credentials_file", "tls_ca_file", "tls_cert_file"], ids=lambda key: str(key)
)
@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_files_that_cannot_be_read(tmp_path: Path, key: str, kind: str) -> None:
    """A file that cannot be read is named with its key, the reason and the cure."""
    file = tmp_path if kind == "directory" else tmp_path / "gone"
    text = refusal("nats://a", **{key: file})
    assert text.startswith(f"nats.{key}: {file} cannot be read (")
    assert text.endswith("give a readable file")


@pytest.mark.parametrize(
    ("key", "fact"),
    [
        ("nkey_seed_file", "holds no seed of a user; it begins with SU"),
        ("credentials_file", "holds no user JWT with its seed; make it with 'nsc generate creds'"),
        ("tls_ca_file", "holds no certificates in PEM"),
        ("tls_cert_file", "is no certificate with its key"),
    ],
)
def test_files_with_something_else(tmp_path: Path, key: str, fact: str) -> None:
    """A file that holds what it should not is named; its content is not shown."""
    file = tmp_path / "file"
    file.write_text("hunter2")
    text = refusal("nats://a", **{key: file})
    assert text.startswith(f"nats.{key}: {file} ")
    assert fact in text


@pytest.mark.parametrize(
    ("url", "settings", "wanted"),
    [
        ("nats://a", {}, False),
        ("tls://a", {}, True),
        ("nats://a", {"tls_first": True}, True),
        ("nats://a,tls://b", {}, True),
        ("nats://a", {"tls_hostname": "b"}, True),
    ],
)
def test_tls_is_wanted(url: str, settings: dict[str, str], wanted: bool) -> None:
    """tls:// for one of the servers, or one of the tls_ settings, asks for TLS, with names and signatures verified."""
    context = options(url, **settings).tls
    assert (context is not None) == wanted
    assert context is None or (context.check_hostname and context.verify_mode.name == "CERT_REQUIRED")


def test_defaults_and_what_they_may_be() -> None:
    """Every key of the table reaches the connection (44)."""
    usual = options("nats://a")
    assert (usual.inbox_prefix, usual.domain, usual.replicas) == ("_INBOX", None, 1)
    assert (usual.ignore_discovered, usual.wait, usual.tls_first) == (False, False, False)
    other = options(
        "nats://a",
        inbox_prefix="mine.in",
        jetstream_domain="hub",
        replicas=3,
        ignore_discovered=True,
        tls_first=True,
    )
    assert (other.inbox_prefix, other.domain, other.replicas) == ("mine.in", "hub", 3)
    assert (other.ignore_discovered, other.tls_first) == (True, True)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a:1", ("a", 1)),
        ("[::1]:2", ("::1", 2)),
        ("tls://b:3", ("b", 3)),
        ("a", None),
        ("a:x", None),
        ("a:99999", None),
        (7, None),
        (None, None),
        ("[::1", None),
    ],
)
def test_addresses_that_servers_tell(text: object, address: tuple[str, int] | None) -> None:
    """Whatever they tell, it is an address or nothing."""
    assert parse_address(text) == address


def test_signing_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nkeys is not installed the cure is named before any connection."""
    file = tmp_path / "seed"
    file.write_text("SUX")
    monkeypatch.setattr("asyncmgr.transports._nats.options.find_spec", lambda _: None)
    assert refusal("nats://a", nkey_seed_file=file).endswith(
        "needs the package nkeys; pip install 'asyncmgr[nats]'"
    )
