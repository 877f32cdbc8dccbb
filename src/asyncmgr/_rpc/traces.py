"""Carries the context of a trace with a call. Off until a room above says how to read the present one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FIELDS = ("traceparent", "tracestate")
"""The fields of a request, as W3C Trace Context names them."""

LIMIT = 512
"""Characters of each; a longer one is left out."""


class Outgoing:
    """How calls of this process find their trace."""

    def __init__(self) -> None:
        self.read: Callable[[], Mapping[str, str]] | None = None
        """Returns the present trace as `FIELDS`; `None` = calls carry none."""

    def fields(self) -> Mapping[str, str]:
        """Return what a request carries of the present trace."""
        return {} if self.read is None else self.read()


outgoing = Outgoing()


def read_trace(fields: Mapping[str, Any]) -> dict[str, str]:
    """Read what a request carries of a trace. What is wrong with it never refuses a call: it is left out."""
    return {
        name: value
        for name in FIELDS
        if isinstance(value := fields.get(name), str) and len(value) <= LIMIT and value.isascii()
    }
