"""`Streams`: ends responses without an end, such as event streams, so that no server waits for them at its stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


class Streams:
    """The open streams of one web application.

    Parameters
    ----------
    longest
        Seconds after which a stream ends in any case; a browser opens an event stream anew. `None` = never. A server
        that knows nothing of these streams waits for their end at its stop, so they need one there.
    """

    def __init__(self, longest: float | None = None) -> None:
        self._longest = longest
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams."""
        self._closing.set()

    async def until_closed(self, source: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield what `source` yields, until it ends, `close` is called or the longest time is over."""
        loop = asyncio.get_running_loop()
        ends_at = None if self._longest is None else loop.time() + self._longest
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while not closing.done():
                following = asyncio.ensure_future(anext(source))
                left = None if ends_at is None else max(0.0, ends_at - loop.time())
                try:
                    await asyncio.wait(
                        {following, closing}, timeout=left, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not following.done():
                        return
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.wait({following})
                try:
                    item = following.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            closing.cancel()
