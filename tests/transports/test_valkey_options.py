"""What the URL of a Redis store says, and how errors of the server read."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="needs the extra asyncmgr[redis]")

import redis.exceptions

from asyncmgr.errors import InvalidSettings, TransportError
from asyncmgr.transports import open_store
from asyncmgr.transports._valkey.options import Server, read_options
from asyncmgr.transports._valkey.problems import Moved, Refused, passes, refusal, shown


@pytest.mark.parametrize(
    ("url", "servers", "database", "user", "password", "tls"),
    [
        ("redis://host", ["host:6379"], 0, None, None, False),
        ("valkey://host:7000/", ["host:7000"], 0, None, None, False),
        ("rediss://host/2", ["host:6379"], 2, None, None, True),
        ("VALKEYS://[::1]:7000/15", ["[::1]:7000"], 15, None, None, True),
        ("redis://:p%40ss@host", ["host:6379"], 0, None, "p@ss", False),
        ("redis://me:p%3A%2Fs@host:1/1", ["host:1"], 1, "me", "p:/s", False),
        (
            "redis://me:pass@a,b:7001,[::2]/0?prefix=x",
            ["a:6379", "b:7001", "[::2]:6379"],
            0,
            "me",
            "pass",
            False,
        ),
        ("redis://a,b:7001?sentinel=main", ["a:26379", "b:7001"], 0, None, None, False),
    ],
)
def test_urls(
    url: str, servers: list[str], database: int, user: str | None, password: str | None, tls: bool
) -> None:
    """All that a URL can say is read, and the password is shown nowhere."""
    options = read_options(url)
    assert [str(server) for server in options.servers] == servers
    assert (options.database, options.user, options.password, options.tls) == (database, user, password, tls)
    assert password is None or password not in repr(options)


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("redis://", "names no server"),
        ("redis://:secret@", "names no server"),
        ("redis://:secret@host:port", "names no server"),
        ("redis://:secret@host/zero", "names no server"),
        ("redis://:secret@host,", "names no server"),
        ("redis://:secret@host/-1", "count from 0"),
        ("redis://:sec#ret@host", "names no server"),
        ("redis://:secret@host?colour=secret", "parameter colour; accepted: prefix"),
        ("redis://:secret@host?prefix=", "empty parameter prefix"),
        ("redis://:secret@host?prefix={secret}", "prefix .* is not"),
        ("redis://:secret@host?ssl_ca_certs=x.pem", "without TLS"),
        ("rediss://:secret@host?ssl_ca_certs=/no/such.pem", "ssl_ca_certs: /no/such.pem cannot be read"),
        ("rediss://:secret@host?ssl_keyfile=/no/such.pem", "give ssl_certfile too"),
    ],
)
def test_wrong_urls(url: str, fact: str) -> None:
    """What cannot be meant is refused before anything is opened; no text quotes the URL."""
    with pytest.raises(InvalidSettings, match=fact) as caught:
        read_options(url)
    assert "secret" not in str(caught.value)
    assert "sec" not in str(caught.value).replace("second", "")


def test_schemes_are_known() -> None:
    """All four schemes are found by their entry points."""
    for scheme in ("redis", "rediss", "valkey", "valkeys"):
        open_store(f"{scheme}://host")


SERVER = Server("host", 6379)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
            "raise its maxmemory",
        ),
        (
            redis.exceptions.ResponseError(
                "Error running script (call to f_1): @user_script:1: -OOM command"
            ),
            "maxmemory",
        ),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), "is a replica"),
        (redis.exceptions.AuthenticationError("Authentication required."), "wants a password"),
        (
            redis.exceptions.ResponseError("WRONGPASS invalid username-password pair"),
            "refuses user and password",
        ),
        (redis.exceptions.AuthenticationError("invalid password"), "refuses user and password"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "still loads"),
        (redis.exceptions.MasterDownError("Link with MASTER is down"), "without its primary"),
        (redis.exceptions.ClusterDownError("The cluster is down"), "CLUSTER INFO"),
        (redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot"), "try again soon"),
        (redis.exceptions.AskError("3999 10.0.0.1:6381"), "moving this store"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "docs/reference/stores.md"),
        (redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"), "its disk"),
        (
            redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
            "min-replicas-to-write",
        ),
        (redis.exceptions.ResponseError("BUSY Redis is busy running a script."), "SCRIPT KILL"),
        (redis.exceptions.ResponseError("DENIED Redis is running in protected mode"), "protected mode"),
        (redis.exceptions.ConnectionError("max number of clients reached"), "maxclients"),
        (redis.exceptions.ResponseError("DB index is out of range"), "no such database"),
        (redis.exceptions.ResponseError("WRONGTYPE Operation against a key"), "prefix="),
        (redis.exceptions.ResponseError("unknown command 'EVALSHA'"), "Redis 5 or newer"),
        (redis.exceptions.ResponseError("something\nnew secret"), "refuses: something"),
    ],
)
def test_errors_name_the_cure(error: Exception, words: str) -> None:
    """Each thing that a server may say reads as the fact with its cure, on one line and without the password."""
    found = refusal(SERVER, read_options("redis://:secret@host"), error)
    assert words in str(found)
    assert str(found).startswith("host:6379 ")
    assert "secret" not in str(found)
    assert "\n" not in str(found)


def test_what_passes_is_worth_another_connection() -> None:
    """After a replica's or a loading server's answer the connection is made anew, after others it stays."""
    options = read_options("redis://host")
    replica = refusal(SERVER, options, redis.exceptions.ReadOnlyError("x"))
    full = refusal(SERVER, options, redis.exceptions.OutOfMemoryError("x"))
    assert (passes(replica), passes(full)) == (True, False)


def test_another_node() -> None:
    """MOVED tells where the store is; without a host it is the same host."""
    options = read_options("redis://host")
    for text, server in (
        ("3999 10.0.0.1:6381", Server("10.0.0.1", 6381)),
        ("3999 :6381", Server("host", 6381)),
    ):
        found = refusal(SERVER, options, redis.exceptions.MovedError(text))
        assert isinstance(found, Moved)
        assert found.server == server


def test_every_error_of_the_driver_is_ours() -> None:
    """No class of the driver's errors is left out."""
    options = read_options("redis://host")
    for name, kind in inspect.getmembers(redis.exceptions, inspect.isclass):
        if issubclass(kind, redis.exceptions.RedisError) and not issubclass(kind, redis.exceptions.AskError):
            error = kind.__new__(kind)
            Exception.__init__(error, "fact")
            assert isinstance(refusal(SERVER, options, error), TransportError), name


def test_texts_are_short() -> None:
    """What a server sends is cut."""
    assert len(shown(ValueError("x" * 10_000), read_options("redis://host"))) < 300


def test_kinds() -> None:
    """What does not pass is `Refused`."""
    assert isinstance(refusal(SERVER, read_options("redis://h"), ValueError("x")), Refused)


def test_files_are_for_the_driver(tmp_path: Path) -> None:
    """Files of TLS are handed on by the driver's names."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    options = read_options(f"rediss://host?ssl_ca_certs={file}&ssl_certfile={file}&ssl_keyfile={file}")
    assert set(options.tls_files) == {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
