"""Turns the errors of asyncpg and of sockets into ours: the fact and the cure."""

from __future__ import annotations

import ssl

import asyncpg

from asyncmgr._common.safe_text import safe_str, type_name
from asyncmgr.errors import AsyncmgrError, InvalidSettings, TransportError
from asyncmgr.transports._postgres.options import Options

# By the beginning of the SQLSTATE, the longest first: https://www.postgresql.org/docs/current/errcodes-appendix.html
_CURES = {
    "25006": "the server takes no writes; give the address of the primary, or target_session_attrs=read-write",
    "28": "the server refuses the role or its password; correct the store URL, or pg_hba.conf there",
    "3D000": "there is no such database; create it, or correct the store URL",
    "3F000": "there is no such schema; create it, as 'asyncmgr store sql URL' shows",
    "42501": "the role may not do this; have an owner run what 'asyncmgr store sql URL' prints",
    "42703": "the table asyncmgr_store has other columns; drop it, or give a schema of its own with ?schema=",
    "42704": "the server does not know a parameter of the store URL; correct it",
    "42804": "the table asyncmgr_store has other columns; drop it, or give a schema of its own with ?schema=",
    "42P01": "the table asyncmgr_store is missing; it is made at the next call, or see 'asyncmgr store sql URL'",
    "53100": "the server's disk is full; make room there",
    "53300": "the server has no connection left; raise max_connections there, or lower what its clients open",
    "57014": "the statement was cancelled there; see statement_timeout and lock_timeout of the role",
    "57": "the server is stopping or starting; it is tried again",
    "08": "the connection broke; it is tried again",
}


def translated(exc: Exception, options: Options) -> AsyncmgrError:
    """What to raise in place of `exc`."""
    if isinstance(exc, AsyncmgrError):
        return exc
    text = options.hide(safe_str(exc))
    where = f"PostgreSQL at {options.server}"
    if isinstance(exc, asyncpg.PostgresError):
        state = exc.sqlstate or ""
        cure = next(
            (_CURES[state[:size]] for size in (5, 2) if state[:size] in _CURES), "see the server's log"
        )
        return TransportError(f"{where}: {text} ({state}): {cure}")
    if isinstance(exc, asyncpg.exceptions.ClientConfigurationError):
        return InvalidSettings(f"the store URL is not accepted ({text}); correct it")
    if isinstance(exc, ssl.SSLError):
        return TransportError(
            f"{where}: no TLS comes about ({text}); see sslmode and sslrootcert of the store URL"
        )
    if isinstance(exc, TimeoutError):
        return TransportError(f"{where} gives no answer; see its log, and the network")
    if isinstance(exc, OSError | asyncpg.InterfaceError):
        return TransportError(
            f"no PostgreSQL server answers at {options.server} ({text}); start it, or correct the URL"
        )
    return TransportError(f"{where}: {type_name(exc)}: {text}; see the server's log")


def breaks(exc: BaseException | None) -> bool:
    """Whether an error of a call makes it doubtful that the server can be reached."""
    if isinstance(exc, asyncpg.PostgresError):
        return (exc.sqlstate or "08")[:2] in ("08", "57") and exc.sqlstate != "57014"
    return isinstance(exc, OSError | TimeoutError | asyncpg.InterfaceError)


def is_answer(exc: BaseException) -> bool:
    """Whether the server has answered with an error, and waits for the next statement."""
    return isinstance(exc, asyncpg.PostgresError) and not breaks(exc)
