"""What a PostgreSQL store needs, out of its URL; the SQL that an owner runs; the driver's errors. No server."""

from __future__ import annotations

import pytest

from asyncmgr.errors import InvalidSettings, TransportError
from asyncmgr.transports._postgres.options import Options, read_options
from asyncmgr.transports._postgres.sql import channel_of, script


def test_our_parameters_are_not_the_drivers() -> None:
    """Schema and number of connections are ours; all else goes to the driver as it is."""
    options = read_options(
        "postgres://app:hunter2@db:5433/prod?schema=jobs&connections=4&sslmode=verify-full"
    )
    assert options.dsn == "postgresql://app:hunter2@db:5433/prod?sslmode=verify-full"
    assert (options.schema, options.connections) == ("jobs", 4)
    assert (options.server, options.user) == ("db:5433/prod", "app")
    assert "hunter2" not in repr(options)


def test_several_hosts() -> None:
    """Of several hosts the primary is wanted, unless the URL says otherwise."""
    assert "target_session_attrs=primary" in read_options("postgresql://a,b/prod").dsn
    assert "target_session_attrs=any" in read_options("postgresql://a,b/prod?target_session_attrs=any").dsn
    assert "target_session_attrs" not in read_options("postgresql://a/prod").dsn


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("?schema=", "schema"),
        ("?schema=" + "x" * 64, "1 to 63"),
        ("?connections=0", "1 to 100"),
        ("?connections=many", "1 to 100"),
        ("?schema=a&schema=b", "twice"),
        ("?nonsense", "cannot be read"),
        ("#x", "'#'"),
    ],
)
def test_refused(query: str, text: str) -> None:
    """What cannot be meant is refused, and no error shows the URL."""
    with pytest.raises(InvalidSettings, match=text) as caught:
        read_options(f"postgresql://app:hunter2@db/prod{query}")
    assert "hunter2" not in str(caught.value)


def test_secrets_are_hidden() -> None:
    """A password is taken out of a driver's text, as it stands in the URL and as it is meant."""
    options = read_options("postgresql://app:hunter%3A2@db/prod?sslpassword=swordfish")
    assert options.hide("no hunter%3A2, hunter:2, swordfish") == "no ***, ***, ***"


def test_names_are_quoted() -> None:
    """Names of schemas and roles cannot end their quotes."""
    sql = script('a"; DROP TABLE x; --', 'r"')
    assert '"a""; DROP TABLE x; --".asyncmgr_store' in sql
    assert 'TO "r"""' in sql


def test_channels() -> None:
    """Stores, also of one name in two schemas, have channels of their own, which are names of PostgreSQL's."""
    channels = {channel_of(schema, store) for schema in ("a", "b") for store in ("x", "y" * 64)}
    assert len(channels) == 4
    assert all(len(channel) < 64 for channel in channels)


def test_failures_name_fact_and_cure() -> None:
    """Each SQLSTATE has a cure, the most exact one; unknown errors become ours too."""
    asyncpg = pytest.importorskip("asyncpg")
    from asyncmgr.transports._postgres.failures import breaks, translated

    options: Options = read_options("postgresql://app:hunter2@db/prod")
    found = {
        asyncpg.TooManyConnectionsError("x hunter2"): ("max_connections", False),
        asyncpg.InvalidPasswordError("x"): ("pg_hba.conf", False),
        asyncpg.QueryCanceledError("x"): ("statement_timeout", False),
        asyncpg.AdminShutdownError("x"): ("stopping", True),
        asyncpg.ReadOnlySQLTransactionError("x"): ("primary", False),
        asyncpg.ConnectionDoesNotExistError("x"): ("broke", True),
        asyncpg.DivisionByZeroError("x"): ("server's log", False),
        asyncpg.InterfaceError("x"): ("start it", True),
        OSError("x"): ("start it", True),
        TimeoutError(): ("no answer", True),
        ValueError("x hunter2"): ("ValueError", False),
    }
    for exc, (text, doubtful) in found.items():
        error = translated(exc, options)
        assert type(error) is TransportError
        assert text in str(error)
        assert "hunter2" not in str(error)
        assert breaks(exc) is doubtful
