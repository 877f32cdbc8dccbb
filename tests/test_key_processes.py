"""Three processes poll 500 TCP devices over one store, and one of them is killed: the devices count who asks them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

SPACING = 2.0
TTL = 5.0

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from asyncmgr import Manager, Service, Settings, periodic_task

directory, host = Path(sys.argv[1]), sys.argv[2]

class Poller(Manager):
    def devices(self):
        return json.loads((directory / "devices").read_text())

    @periodic_task(spacing=2, each="devices", concurrency=100, timeout=1, scope="cluster")
    async def poll(self, context, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"{host} {context.slot.timestamp():.2f}\\n".encode())
            await reader.readline()
        finally:
            writer.close()

async def main():
    settings = Settings(lease={"ttl": 5}, drain_timeout=1)
    async with Service(Poller(), name="net", host=host, store=f"sqlite:///{directory}/store", settings=settings) as one:
        await one.wait()

asyncio.run(main())
"""


class Devices:
    """Devices that note who asked them for which slot."""

    def __init__(self) -> None:
        self.asked: dict[int, list[tuple[float, str, str]]] = defaultdict(list)
        self.servers: dict[int, asyncio.Server] = {}
        self.hanging: set[int] = set()

    async def __aenter__(self) -> Devices:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self.servers.values():
            server.close()
        await asyncio.sleep(0)

    async def add(self) -> int:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        self.servers[port] = server
        return port

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        line = (await reader.readline()).decode()
        if line:
            host, slot = line.split()
            self.asked[port].append((asyncio.get_running_loop().time(), host, slot))
        if port in self.hanging:
            with contextlib.suppress(OSError):
                await reader.read()
        else:
            writer.write(b"ok\n")
        writer.close()

    def last(self, port: int) -> float:
        return self.asked[port][-1][0] if self.asked[port] else -1.0

    def hosts(self, since: float) -> Counter[str]:
        return Counter(host for asked in self.asked.values() for at, host, _ in asked if at >= since)


async def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait for a condition; return the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() < began + seconds, "it did not happen"
        await asyncio.sleep(0.02)
    return loop.time() - began


@asynccontextmanager
async def processes(directory: Path, *hosts: str) -> AsyncIterator[dict[str, asyncio.subprocess.Process]]:
    program = directory / "program.py"
    program.write_text(PROGRAM)
    found = {}
    for host in hosts:
        found[host] = await asyncio.create_subprocess_exec(sys.executable, str(program), str(directory), host)
    try:
        yield found
    finally:
        for process in found.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in found.values():
            await process.wait()


async def test_a_killed_process_leaves_its_devices_to_the_others(tmp_path: Path) -> None:
    """Each device is asked once a slot; after kill -9 the others ask those of the dead process, and catch up once."""
    loop, devices = asyncio.get_running_loop(), Devices()
    ports = [await devices.add() for _ in range(500)]
    (tmp_path / "devices").write_text(json.dumps(ports))
    async with devices, processes(tmp_path, "a", "b", "c") as running:
        await wait_until(lambda: all(devices.asked[port] for port in ports))
        since = loop.time()
        await wait_until(lambda: len(devices.hosts(since)) == 3 and min(devices.hosts(since).values()) > 100)

        # One device hangs, one refuses, one goes and one comes: the others do not notice.
        devices.hanging.add(ports[0])
        devices.servers[ports[1]].close()
        new = await devices.add()
        current = [*ports[:2], *ports[3:], new]
        (tmp_path / "devices").write_text(json.dumps(current))
        await wait_until(lambda: bool(devices.asked[new]))
        healthy = current[2:]
        changed = loop.time()
        await wait_until(lambda: all(devices.last(port) > changed for port in healthy))
        twice = [
            (port, slot)
            for port, asked in devices.asked.items()
            for slot, times in Counter(slot for at, _, slot in asked if at >= since).items()
            if times > 1
        ]
        assert not twice

        running["a"].kill()
        killed = loop.time()
        dead = {port for port in healthy if devices.asked[port][-1][1] == "a"}
        assert dead
        took = await wait_until(lambda: all(devices.last(port) > killed + 0.1 for port in healthy))
        assert took <= SPACING + TTL + 1 + 10  # a busy machine
        assert devices.hosts(killed + 0.5).keys() <= {"b", "c"}
        again = loop.time()
        await wait_until(lambda: all(devices.last(port) > again for port in healthy))
        for asked in devices.asked.values():
            # The dead process may have asked for the slot for which another one stands in.
            assert max(Counter(slot for at, _, slot in asked if at >= since).values(), default=0) <= 2
        gone = devices.last(ports[2])
        assert gone < killed + 2 * SPACING
