"""Counts what this process asks of a store engine, for metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Final, Literal, TypeAlias, TypeVar

from asyncmgr.errors import RevisionConflict

T = TypeVar("T")

Operation: TypeAlias = Literal["open", "get", "put", "create", "update", "delete", "now"]
Result: TypeAlias = Literal["ok", "conflict", "error"]

OPERATIONS: Final[tuple[Operation, ...]] = ("open", "get", "put", "create", "update", "delete", "now")
RESULTS: Final[tuple[Result, ...]] = ("ok", "conflict", "error")


class Operations:
    """What the parts of asyncmgr have asked of one engine; calls of the application are not counted."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[Operation, Result]] = Counter()
        self.seconds: Counter[Operation] = Counter()
        """Seconds, by operation: of all that have ended."""

    def note(self, operation: Operation, result: Result, seconds: float) -> None:
        """Count an operation that has ended."""
        self.counts[operation, result] += 1
        self.seconds[operation] += seconds  # type: ignore[assignment]  # a counter adds up floats too

    async def count(self, operation: Operation, call: Awaitable[T]) -> T:
        """Await a call, and count how it ended. One that is cancelled is an error: nobody knows its effect."""
        loop = asyncio.get_running_loop()
        began, result = loop.time(), "error"
        try:
            answer = await call
            result = "ok"
        except RevisionConflict:
            result = "conflict"
            raise
        finally:
            self.note(operation, result, loop.time() - began)  # type: ignore[arg-type]
        return answer
