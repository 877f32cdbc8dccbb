"""The live view of hosts over a real NATS: what a paused reader, a lost consumer and strange keys do to it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import nats
import pytest
import structlog
from tests.nats_servers import eventually

from asyncmgr import HostChange, Hosts, SchedulerDependentManager, Service, Settings, open_transport
from asyncmgr.capabilities._announcement import STORE
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports._nats import feed as nats_feed

TTL = 0.6


class Agent(SchedulerDependentManager):
    """Is there."""


@contextmanager
def hosts_elsewhere(server: NatsServer, service: str, *names: str) -> Iterator[None]:
    """Live hosts in a loop of their own, which goes on while that of the test is blocked."""
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for name in names:
                await stack.enter_async_context(
                    Service(
                        Agent(),
                        name=service,
                        host=name,
                        transport=server.url,
                        settings=Settings(seed=1, capability_ttl=TTL),
                    )
                )
            ready.set()
            while not over.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        over.set()
        thread.join()


class Told:
    """The changes of a view, as they come."""

    def __init__(self, hosts: Hosts) -> None:
        self.changes: list[HostChange] = []
        self._hosts = hosts

    async def listen(self) -> None:
        async for change in self._hosts.changes():
            self.changes.append(change)

    @property
    def kinds(self) -> set[str]:
        return {change.kind for change in self.changes}


@asynccontextmanager
async def viewing(server: NatsServer, service: str) -> AsyncIterator[tuple[Hosts, Told]]:
    async with open_transport(server.url) as transport, Hosts(transport, service) as hosts:
        told = Told(hosts)
        listening = asyncio.create_task(told.listen())
        try:
            yield hosts, told
        finally:
            listening.cancel()


def sequences(hosts: Hosts) -> list[int]:
    return [state.sequence for state in hosts.snapshot()]


async def test_blocked_reader_declares_nobody_dead(nats_server: NatsServer) -> None:
    """Its loop stands still for twice the TTL: it reads what has come before it judges anybody (42)."""
    names = [f"n{index}" for index in range(20)]
    with hosts_elsewhere(nats_server, "blocked", *names):
        async with viewing(nats_server, "blocked") as (hosts, told):
            for _ in range(3):
                before = min(sequences(hosts))
                time.sleep(2 * TTL)  # noqa: ASYNC251 - that is what is tested
                await eventually(lambda before=before: min(sequences(hosts)) >= before + 6)  # type: ignore[misc]
            assert len(hosts.snapshot()) == len(names)
            assert told.kinds == set()


async def test_lost_consumer_empties_no_view(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is there and nothing comes, as where the consumer's node died: silence proves nothing (42)."""
    monkeypatch.setattr(nats_feed, "SILENT_FOR", 3 * TTL)
    with hosts_elsewhere(nats_server, "lost", "n1", "n2"):
        async with viewing(nats_server, "lost") as (hosts, told):
            await eventually(lambda: len(hosts.snapshot()) == 2)
            await delete_consumers(nats_server)
            await eventually(lambda: not hosts.live)
            await eventually(lambda: hosts.live)
            before = min(sequences(hosts))
            await eventually(lambda: min(sequences(hosts)) > before)
            assert told.kinds == set()


async def delete_consumers(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    stream = client.jetstream()
    for consumer in await stream.consumers_info(f"KV_{STORE}"):
        await stream.delete_consumer(f"KV_{STORE}", consumer.name)
    await client.close()


async def test_key_that_is_not_utf8_blinds_no_reader(nats_server: NatsServer) -> None:
    """It costs a few log lines, however often it is written, and nothing else (43)."""
    key = b"$KV." + STORE.encode() + b".bytes.\xff\xfe\x1b[2J"
    with structlog.testing.capture_logs() as logs, hosts_elsewhere(nats_server, "bytes", "n1"):
        async with viewing(nats_server, "bytes") as (hosts, told):
            for _ in range(30):
                await publish(nats_server, key)
            before = sequences(hosts)[0]
            await eventually(lambda: sequences(hosts)[0] > before + 1)
            async with viewing(nats_server, "bytes") as (later, _):
                await eventually(lambda: len(later.snapshot()) == 1)
            assert told.kinds == set()
    lines = [str(entry) for entry in logs if r"\xff" in str(entry)]
    assert 1 <= len(lines) <= 10
    assert "".join(lines).isprintable()
    assert not [entry for entry in logs if entry["event"].startswith("hosts.")]


async def publish(server: NatsServer, subject: bytes) -> None:
    """As a client would that checks nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b'CONNECT {"verbose":false}\r\nPUB ' + subject + b" 2\r\nhi\r\nPING\r\n")
    while (line := await reader.readline()) != b"PONG\r\n":
        assert not line.startswith(b"-ERR"), line
    writer.close()
    await writer.wait_closed()
