"""The keys of sessions, claims and slots. Pure.

All keys of one application begin with its token, so that one store serves any number of applications.
"""

from __future__ import annotations

from asyncmgr.errors import InvalidName
from asyncmgr.transports import decode_token, encode_token


def prefix_of(application: str) -> str:
    """Return the first token of all keys of an application."""
    return encode_token(application, what="application")


def session_key(application: str, inc: str) -> str:
    """Return the key of a session."""
    host, _, digits = inc.rpartition("~")
    return f"{prefix_of(application)}.{encode_token(host)}.{encode_token(digits)}"


def session_of(key: str) -> str | None:
    """Read the identity in the key of a session; `None` = it is no such key."""
    try:
        _, host, digits = key.split(".")
        return f"{decode_token(host)}~{decode_token(digits)}"
    except (ValueError, InvalidName):
        return None


def task_key(application: str, full_name: str) -> str:
    """Return the key of a task's claim and of its slots."""
    manager, _, name = full_name.rpartition(".")
    return f"{prefix_of(application)}.t.{encode_token(manager, 'manager')}.{encode_token(name, 'task')}"


def shards_key(application: str, full_name: str) -> str:
    """Return the key of the number of shards of a task with keys."""
    manager, _, name = full_name.rpartition(".")
    return f"{prefix_of(application)}.k.{encode_token(manager, 'manager')}.{encode_token(name, 'task')}"


def shard_key(application: str, full_name: str, number: int) -> str:
    """Return the key of the claim of one shard."""
    return f"{shards_key(application, full_name)}.{number}"


def is_shard_key(key: str) -> bool:
    """Whether this is the key of a shard's claim."""
    return key.partition(".")[2].startswith("k.")


def lease_key(application: str, name: str) -> str:
    """Return the key of a lease's claim."""
    return f"{prefix_of(application)}.l.{encode_token(name, 'lease')}"


def kept_key(application: str, host: str, full_name: str) -> str:
    """Return the key of the slots of a task that every process runs, kept for one host."""
    manager, _, name = full_name.rpartition(".")
    tokens = (encode_token(host, "host"), encode_token(manager, "manager"), encode_token(name, "task"))
    return f"{prefix_of(application)}.p.{'.'.join(tokens)}"


def title_of(key: str) -> tuple[str, str]:
    """Read what a claim's key stands for: ``task`` or ``lease``, and its name."""
    try:
        _, kind, *tokens = key.split(".")
        names = ".".join(decode_token(token) for token in tokens)
    except (ValueError, InvalidName):
        return "unknown", key
    return {"t": "task", "l": "lease", "k": "shard"}.get(kind, "unknown"), names
