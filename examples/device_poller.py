"""Polls 500 devices every two seconds: each at its own moment, 50 at a time, and none is held up by another.

By hand this takes a loop and a place in the spacing for each device, a limit, timeouts, a count of failures, and care
for devices that come and go. Here the devices are sockets of this very process: ``python examples/device_poller.py``
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asyncmgr import Manager, RunContext, Service, periodic_task


class Thermometers(Manager):
    """Asks each device how warm it is."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self.ports = ports  # may change at any time: it is read again in every spacing
        self.degrees: dict[int, float] = {}

    @periodic_task(spacing=2, each="ports", concurrency=50, timeout=1)
    async def poll(self, context: RunContext, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            self.degrees[port] = float(await reader.readline())
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"21.5\n")
    writer.close()


@asynccontextmanager
async def devices(count: int) -> AsyncIterator[list[int]]:
    """Listen on so many ports; yield their numbers."""
    servers = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(count)]
    yield [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()


async def main() -> None:
    async with devices(500) as ports, Service(Thermometers(ports)) as service:
        handle = service.task("Thermometers.poll")
        for _ in range(5):
            await asyncio.sleep(2)
            print(handle.status.keys)  # KeyCounts(known=500, running=0, waiting=0, failing=0, ...)
        print(handle.key(ports[0]).status)
        print(service.explain("Thermometers.poll", key=ports[0]))


if __name__ == "__main__":
    asyncio.run(main())
