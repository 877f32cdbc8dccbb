"""A reverse proxy as people have: it takes a prefix off the path, and says in headers who asked for what."""

from __future__ import annotations

import asyncio
import contextlib

PREFIX = "/shop"
BROWSER = "203.0.113.9"
"""The address of the browser, as the proxy says."""


async def proxy(port: int, to: int) -> asyncio.Server:
    """Listen on this port of this machine (0 = any) and pass each connection's request on to another one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            upstream, answering = await asyncio.open_connection("127.0.0.1", to)
            answering.write(_rewritten(head))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, answering))
                group.create_task(_pump(upstream, writer))

    return await asyncio.start_server(serve, "127.0.0.1", port)


def _rewritten(head: bytes) -> bytes:
    request, _, headers = head.decode("latin-1").partition("\r\n")
    verb, path, version = request.split(" ")
    kept = [line for line in headers.strip().split("\r\n") if not line.lower().startswith("connection:")]
    added = [f"X-Forwarded-For: {BROWSER}", "X-Forwarded-Proto: https", "Connection: close"]
    lines = [f"{verb} {path.removeprefix(PREFIX)} {version}", *kept, *added]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        writer.close()
