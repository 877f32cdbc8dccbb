"""The message in which a host tells its nodes, and the store that keeps it."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

from asyncmgr.capabilities._values import Node, node_name, refuse_doubles, to_fields, to_json
from asyncmgr.transports._tokens import encode_token
from asyncmgr.wire import decode_json, encode_json, positive, typed

STORE = "asyncmgr-capabilities"


STORE_TTL = 3600.0
"""Seconds: the store's own TTL is only a backstop; readers go by the announcement's."""


def announcement_key(service: str, host: str) -> str:
    """Where the announcement of this host is stored."""
    return f"{encode_token(service, 'service name')}.{encode_token(host, 'host name')}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one service instance says of itself."""

    service: str
    host: str
    incarnation: int
    sequence: int
    ttl: float
    nodes: tuple[Node, ...]

    @property
    def order(self) -> tuple[int, int]:
        """Greater for what was said later."""
        return self.incarnation, self.sequence

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
            It is not an announcement of version 1, or of another host than the key says.
        """
        try:
            announcement = cls._from_fields(decode_json(value))
            expected = announcement_key(announcement.service, announcement.host)
        except (KeyError, TypeError, OverflowError) as exc:
            raise ValueError(f"not an announcement: {exc!r}") from exc
        if key != expected:
            raise ValueError(f"the announcement of {expected} under another key")
        return announcement

    @classmethod
    def _from_fields(cls, fields: Any) -> Announcement:
        if fields["v"] != 1:
            raise ValueError(f"version {reprlib.repr(fields['v'])} of an announcement, and 1 is known")
        return cls(
            typed(fields["service"], str),
            typed(fields["host"], str),
            _count(fields["incarnation"]),
            _count(fields["sequence"]),
            positive(fields["ttl"]),
            refuse_doubles(map(_from_node_fields, typed(fields["nodes"], list))),
        )


def _from_node_fields(fields: Any) -> Node:
    values = to_json(typed(fields["capabilities"], dict), "capabilities")
    return node_name(fields["node"], "capabilities"), values


def _count(value: Any) -> int:
    number: int = typed(value, int)
    if not 0 <= number < 2**63:
        raise ValueError(f"{reprlib.repr(number)} is no number from 0 to 2^63 - 1")
    return number
