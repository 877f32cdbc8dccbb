"""The message that announces a host with its nodes, and the store that keeps it.

`asyncmgr.wire` describes the format, and what writers and readers do with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asyncmgr._common.safe_text import printable, safe_repr
from asyncmgr.capabilities._values import Node, node_name, refuse_doubles, to_fields, to_json
from asyncmgr.errors import InvalidCapabilities
from asyncmgr.transports import VALUE_LIMIT
from asyncmgr.transports._tokens import encode_token
from asyncmgr.wire import decode_json, encode_json, positive

STORE = "asyncmgr-capabilities"
"""The store that holds the announcements of all hosts, each under its own key."""

STORE_TTL = 3600.0
"""Seconds that the store keeps a key. Only a backstop: readers go by the TTL of the announcement, up to this."""

LAST_INCARNATION = 2**63 - 1
"""No host has this incarnation, as none could follow it. Readers let anything replace it; announcers delete it."""


def announcement_key(service: str, host: str) -> str:
    """The key under which this host is announced."""
    return f"{encode_token(service, 'service name')}.{encode_token(host, 'host name')}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one service instance announces."""

    service: str
    host: str
    incarnation: int
    sequence: int
    ttl: float
    nodes: tuple[Node, ...]

    @property
    def order(self) -> tuple[int, int]:
        """Greater for each later announcement."""
        return self.incarnation, self.sequence

    @property
    def lifetime(self) -> float:
        """Seconds for which it counts: its TTL, at most as long as the store keeps it."""
        return min(self.ttl, STORE_TTL)

    def encode(self) -> bytes:
        """The value as it is stored."""
        return encode_json(
            {
                "v": 1,
                "service": self.service,
                "host": self.host,
                "incarnation": self.incarnation,
                "sequence": self.sequence,
                "ttl": self.ttl,
                "nodes": to_fields(self.nodes),
            }
        )

    @classmethod
    def decode(cls, key: str, value: bytes) -> Announcement:
        """Read what is stored under `key`.

        Raises
        ------
        ValueError
            It is not an announcement of version 1, it is too large, or it is of another host than the key says.
        """
        if len(value) > VALUE_LIMIT:
            raise ValueError(f"the announcement has {len(value)} bytes, at most {VALUE_LIMIT} are allowed")
        announcement = cls._from_fields(_object(decode_json(value), "the announcement"))
        expected = announcement_key(announcement.service, announcement.host)
        if key != expected:
            raise ValueError(f"it is the announcement of {expected}, and stands under another key")
        return announcement

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> Announcement:
        version = _field(fields, "v", int)
        if version != 1:
            raise ValueError(f"v is {safe_repr(version, 50)}; this reader knows version 1 of announcements")
        return cls(
            _field(fields, "service", str),
            _field(fields, "host", str),
            _count(fields, "incarnation"),
            _count(fields, "sequence"),
            _positive(fields, "ttl"),
            refuse_doubles(
                _node(_object(node, f"nodes[{index}]"), f"nodes[{index}]")
                for index, node in enumerate(_field(fields, "nodes", list))
            ),
        )


_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", int: "an integer"}


def _object(value: Any, path: str) -> dict[str, Any]:
    return _typed(value, dict, path)  # type: ignore[no-any-return]


def _field(fields: dict[str, Any], name: str, kind: type, path: str = "") -> Any:
    if name not in fields:
        raise ValueError(f"{path}{name} is missing")
    return _typed(fields[name], kind, f"{path}{name}")


def _typed(value: Any, kind: type, path: str) -> Any:
    # To Python True is an integer, in JSON it is not.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{path} is {_shown(value)}, not {_JSON_NAMES[kind]}")
    return value


def _shown(value: Any) -> str:
    """A JSON value for people, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return _JSON_NAMES[type(value)] if isinstance(value, dict | list) else safe_repr(value, 50)


def _count(fields: dict[str, Any], field: str) -> int:
    number: int = _field(fields, field, int)
    if not 0 <= number <= LAST_INCARNATION:
        raise ValueError(f"{field} is {safe_repr(number, 50)}, not a number from 0 to 2^63 - 1")
    return number


def _positive(fields: dict[str, Any], field: str) -> float:
    if field not in fields:
        raise ValueError(f"{field} is missing")
    try:
        return positive(fields[field])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field} is {_shown(fields[field])}, not a number greater than 0") from None


def _node(fields: dict[str, Any], path: str) -> Node:
    given, inner = _field(fields, "capabilities", dict, f"{path}."), f"{path}.capabilities"
    try:
        values = to_json(given, inner)
    except InvalidCapabilities:
        for null in _nulls(given, inner):
            raise ValueError(f"{null} is null; capabilities leave out what is not known") from None
        raise
    return node_name(_field(fields, "node", str, f"{path}."), path), values


def _nulls(value: Any, path: str) -> Iterator[str]:
    """The places of null in a JSON value."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _nulls(item, f"{path}.{printable(key, 60)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nulls(item, f"{path}[{index}]")
