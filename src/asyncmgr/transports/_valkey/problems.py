"""Errors of the driver and of the server, made into `TransportError` with the fact and the cure."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import MovedError

from asyncmgr._common.safe_text import printable
from asyncmgr.errors import TransportError
from asyncmgr.transports._valkey.options import Options, Server

_SHOWN = 200


class Refused(TransportError):
    """The server answers, and does not do it."""


class Moved(TransportError):
    """Another node of the cluster keeps this store."""

    def __init__(self, server: Server) -> None:
        super().__init__(f"the store moved to {server}; try again")
        self.server = server


@dataclass(frozen=True, slots=True)
class _Problem:
    names: tuple[str, ...]
    """One of these is the class of the driver's error, or a word of its text."""
    text: str
    passes: bool = False
    """Whether it passes by itself, so that another connection is worth a try."""


_PROBLEMS = (
    _Problem(
        ("OutOfMemoryError", "OOM"),
        "has no memory left and refuses writes; raise its maxmemory, or delete what others keep there",
    ),
    _Problem(
        ("ReadOnlyError", "READONLY"),
        "is a replica, or became one, and takes no writes; name the primary in the store URL, or the sentinels",
        passes=True,
    ),
    _Problem(
        ("WRONGPASS", "invalid username-password", "invalid password", "invalid username"),
        "refuses user and password; correct them in the store URL, where @ : / are written as %40 %3A %2F",
    ),
    _Problem(
        ("NOAUTH", "Authentication required"),
        "wants a password; write the store URL like redis://user:password@host",
    ),
    _Problem(
        ("without any password configured",),
        "knows no password; take it out of the store URL",
    ),
    _Problem(("AuthenticationError",), "refuses user and password; correct them in the store URL"),
    _Problem(("BusyLoadingError", "LOADING"), "still loads its data; try again soon", passes=True),
    _Problem(("MasterDownError", "MASTERDOWN"), "is a replica without its primary; see its log", passes=True),
    _Problem(("ClusterDownError", "CLUSTERDOWN"), "says that its cluster is down; see CLUSTER INFO there"),
    _Problem(
        ("TryAgainError", "TRYAGAIN", "AskError"), "is moving this store to another node; try again soon"
    ),
    _Problem(
        ("NoPermissionError", "NOPERM"),
        "lets this user not do that; see 'Redis and Valkey' in docs/reference/stores.md",
    ),
    _Problem(("MISCONF",), "cannot write to its disk and refuses writes; see its log"),
    _Problem(("NOREPLICAS",), "has too few replicas and refuses writes; see min-replicas-to-write"),
    _Problem(("BUSY ", "Redis is busy", "Valkey is busy"), "is busy with somebody's script; see SCRIPT KILL"),
    _Problem(("protected mode",), "accepts its own machine only (protected mode); set a password there"),
    _Problem(("max number of clients",), "has as many clients as it takes; raise its maxclients"),
    _Problem(
        ("DB index is out of range", "SELECT is not allowed"),
        "has no such database; change its number in the store URL",
    ),
    _Problem(
        ("WRONGTYPE",), "has foreign keys under these names; give a ?prefix= of your own in the store URL"
    ),
    _Problem(("unknown command",), "lacks a command (%s); use Redis 5 or newer, or Valkey"),
)


def refusal(server: Server, options: Options, exc: BaseException) -> TransportError:
    """What the server said, without the password."""
    if type(exc) is MovedError:
        return Moved(Server(exc.host or server.host, exc.port))
    said = shown(exc, options)
    if problem := _find(exc, said):
        text = problem.text.replace("%s", said)
        return (TransportError if problem.passes else Refused)(f"{server} {text}")
    return Refused(f"{server} refuses: {said}; see its log")


def is_known(exc: BaseException, options: Options) -> bool:
    """Whether this is something that servers say."""
    return _find(exc, shown(exc, options)) is not None


def _find(exc: BaseException, said: str) -> _Problem | None:
    for problem in _PROBLEMS:
        if any(name == type(exc).__name__ or name in said for name in problem.names):
            return problem
    return None


def passes(error: TransportError) -> bool:
    """Whether the state that the server told of passes, and it is better to connect anew."""
    return type(error) is TransportError


def shown(exc: BaseException, options: Options) -> str:
    """The text of an error, without the password, on one line."""
    text = str(exc) or type(exc).__name__
    if options.password:
        text = text.replace(options.password, "***")
    return printable(text)[:_SHOWN]
