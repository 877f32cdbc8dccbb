"""The configuration of the stream behind a store: what we make, and what serves of what others made. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asyncmgr.transports._nats.feed import NANO

_DUPLICATES_KNOWN_FOR = 120.0

# What would have writes go unanswered, refused, or lost to readers.
_WANTED = {
    "retention": "limits",
    "no_ack": False,
    "sealed": False,
    "discard_new_per_subject": False,
    "mirror": None,
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """The stream of one store."""

    name: str
    ttl: float | None
    """Seconds; `None` = keys are kept."""

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    @property
    def subjects(self) -> str:
        """What a subject has before the key."""
        return f"$KV.{self.name}."

    @property
    def max_age(self) -> int:
        """Nanoseconds; for JetStream 0 means for ever."""
        return round((self.ttl or 0.0) * NANO)

    def config(self, first_revision: int, replicas: int) -> dict[str, Any]:
        """As NATS' own clients make a bucket with one value for each key, but for its first sequence."""
        known_for = _DUPLICATES_KNOWN_FOR if self.ttl is None else min(self.ttl, _DUPLICATES_KNOWN_FOR)
        return {
            "name": self.stream,
            "subjects": [f"{self.subjects}>"],
            "max_msgs_per_subject": 1,
            "max_age": self.max_age,
            "duplicate_window": int(known_for * NANO),
            "first_seq": first_revision,
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": replicas,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
        }

    def differences(self, config: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        """What does not serve: the setting of the stream, as it is, as it should be."""
        if (kept := config.get("max_age", 0)) != self.max_age:
            yield "max_age (the TTL)", _age_text(kept), _age_text(self.max_age)
        if f"{self.subjects}>" not in config.get("subjects", ()):
            yield "subjects", json.dumps(config.get("subjects", [])), f'["{self.subjects}>"]'
        for key, wanted in _WANTED.items():
            if (found := config.get(key) or wanted) != wanted:
                yield key, json.dumps(found), json.dumps(wanted)


def _age_text(nanoseconds: int) -> str:
    return f"{nanoseconds / NANO:g} s" if nanoseconds else "none"
