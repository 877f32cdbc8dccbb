"""Turns the errors of SQLite into ours: the fact and the cure."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from asyncmgr._common.safe_text import safe_str, type_name
from asyncmgr.errors import AsyncmgrError, TransportError

# By primary result code: https://www.sqlite.org/rescode.html
_CURES = {
    sqlite3.SQLITE_PERM: "may not be read or written by this user; see its permissions",
    sqlite3.SQLITE_BUSY: "is locked by another process; end what holds it",
    sqlite3.SQLITE_LOCKED: "is locked by another process; end what holds it",
    sqlite3.SQLITE_READONLY: "may not be written by this user; see the permissions of it and its directory",
    sqlite3.SQLITE_IOERR: "cannot be read or written; see the disk and the kernel's log",
    sqlite3.SQLITE_CORRUPT: "is damaged; stop all processes, move it away with its -wal and -shm, or restore a copy",
    sqlite3.SQLITE_FULL: "does not fit on the disk; make room there",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; see the permissions of it and its directory",
    sqlite3.SQLITE_AUTH: "may not be read or written by this user; see its permissions",
    sqlite3.SQLITE_NOTADB: "is no SQLite database; give the store URL a file of its own",
    sqlite3.SQLITE_ERROR: "has tables of another kind; give the store URL a file of its own",
    sqlite3.SQLITE_CONSTRAINT: "has tables of another kind; give the store URL a file of its own",
    sqlite3.SQLITE_MISMATCH: "has tables of another kind; give the store URL a file of its own",
}


def translated(exc: Exception, path: Path) -> AsyncmgrError:
    """What to raise in place of `exc`."""
    if isinstance(exc, AsyncmgrError):
        return exc
    code = getattr(exc, "sqlite_errorcode", None)
    fact = _CURES.get(code & 0xFF) if code is not None else None
    if fact is None:
        return TransportError(
            f"the store {path}: {type_name(exc)}: {safe_str(exc)}; see the file and its directory"
        )
    return TransportError(f"the store {path} {fact} ({safe_str(exc)})")
