"""Carries the context of a trace with a call. Off until a room above says how to read the present one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

FIELDS = ("traceparent", "tracestate")
"""The fields of a request, as W3C Trace Context names them."""

LIMIT = 512
"""Characters of each; a longer one is left out."""


class Outgoing:
    """How calls of this process find their trace, and make a part of it."""

    def __init__(self) -> None:
        self.read: Callable[[], Mapping[str, str]] | None = None
        """Returns the present trace as `FIELDS`; `None` = calls carry none."""
        self.around: Callable[[str, str | None, str], AbstractContextManager[object]] | None = None
        """Wraps a call, given its service, its host (`None` = any) and its method; `None` = nothing does."""

    def call(self, service: str, host: str | None, method: str) -> AbstractContextManager[object]:
        """Enter what a call is made in."""
        return nullcontext() if self.around is None else self.around(service, host, method)

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
