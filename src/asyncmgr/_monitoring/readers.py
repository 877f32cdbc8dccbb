"""`Reader`: one open page, and the batches that wait for it. A page that reads too slowly is dropped."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MOST_BATCHES = 100
"""Batches that wait for a page: those of 25 s."""

MOST_BYTES = 4 * 1024 * 1024
"""Bytes that wait for a page."""

SLOWEST = 20.0
"""Seconds that a page may take to take in what was sent, until it is dropped."""


def encode(value: Any, place: str = "") -> bytes:
    """Write one server-sent event. `place` is what the page names when it comes again."""
    text = json.dumps(
        value, separators=(",", ":")
    )  # ASCII, so that no text in it can break a line or the encoding
    return f"{f'id: {place}{chr(10)}' if place else ''}data: {text}\n\n".encode()


class Reader:
    """What waits for one page."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self.is_dropped = False
        """Whether it was too slow. It gets nothing more, and a page begins anew by itself."""

    def put(self, batch: bytes) -> None:
        """Add a batch, or drop the reader where too much waits."""
        if self.is_dropped:
            return
        self._waiting.append(batch)
        self._bytes += len(batch)
        if len(self._waiting) > MOST_BATCHES or self._bytes > MOST_BYTES:
            self.is_dropped = True
            self._waiting.clear()
        self._wake.set()

    async def batches(self) -> AsyncIterator[bytes]:
        """Yield what comes, until the reader is dropped."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = self._waiting.popleft()
                self._bytes -= len(batch)
                yield batch
            if self.is_dropped:
                return


class EventStream:
    """An ASGI response of server-sent events. It ends with its source, with its client, or where that does not read."""

    def __init__(self, source: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        self._source = source
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (sending, leaving):
                one.cancel()
            await asyncio.wait({sending, leaving})
        for one in (sending, leaving):
            if not one.cancelled() and (error := one.exception()) is not None:
                raise error

    async def _send_all(self, send: Send) -> None:
        headers = {**self._headers, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        try:
            async for batch in self._source:
                async with asyncio.timeout(SLOWEST):
                    await send({"type": "http.response.body", "body": batch, "more_body": True})
            async with asyncio.timeout(SLOWEST):
                await send({"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):
            return  # the client does not read, or is gone
        finally:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
