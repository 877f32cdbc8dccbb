"""Polls 500 devices, each at a place of its own in every two seconds, 50 at a time.

The devices are sockets of this very process. ``python examples/device_poller.py``
"""

from __future__ import annotations

import asyncio

from asyncmgr import Manager, RunContext, Service, periodic_task


class Devices(Manager):
    """Asks each device how warm it is."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self.ports = ports
        self.seen: dict[int, float] = {}

    @periodic_task(spacing=2, each="ports", concurrency=50, timeout=1)
    async def poll(self, context: RunContext, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            self.seen[port] = float(await reader.readline())
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"21.5\n")
    writer.close()


async def main(count: int = 500, seconds: float = 10) -> Devices:
    servers = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(count)]
    devices = Devices([server.sockets[0].getsockname()[1] for server in servers])
    async with Service(devices) as service:
        await asyncio.sleep(seconds)
        print(f"{len(devices.seen)} devices answered:", service.task(devices.poll).status.keys)
    for server in servers:
        server.close()
    return devices


if __name__ == "__main__":
    asyncio.run(main())
