"""Several servers: one that tells that it will stop, those that others tell of, and one that comes later."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs
from tests.nats_servers import PATIENCE, eventually
from tests.transports.nats_peers import Pretender, client_of, link_of

from asyncmgr import Manager, RpcClient, RunContext, Service, Settings, periodic_task, rpc
from asyncmgr.errors import InvalidSettings, NoResponders, TransportError
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import SNAPSHOT_DONE, Subscription, Transport, open_transport
from asyncmgr.transports._nats import reconnect as nats_link

LISTENING = 'cluster { name: test, listen: "127.0.0.1:-1"'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_link, "RECONNECT_FIRST", 0.02)
    monkeypatch.setattr(nats_link, "OVERLAP", 0.3)


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[NatsServer, NatsServer]]:
    """A cluster; the first one knows of the second."""
    duration = "lame_duck_duration: 30s, lame_duck_grace_period: 10s\n"
    async with NatsServer(f"{LISTENING} }}\n{duration}", jetstream=False) as one:
        (ports,) = one._home.glob("*.ports")
        route = json.loads(ports.read_text())["cluster"][0]
        config = f'{LISTENING}, routes: ["{route}"] }}\n{duration}'
        async with NatsServer(config, jetstream=False) as other:
            try:
                yield one, other
            finally:
                one.kill()  # it may be about to stop, for ten seconds


@asynccontextmanager
async def opened(server: NatsServer, **table: Any) -> AsyncIterator[Transport]:
    """A transport that knows of the server's neighbour."""
    async with open_transport(server.url, Settings(nats=table)) as transport:
        await eventually(lambda: bool(client_of(transport).discovered))
        yield transport


def stops_soon(server: NatsServer) -> None:
    """It closes its connections, ten seconds from now on."""
    assert server._process
    server._process.send_signal(signal.SIGUSR2)


async def test_no_call_is_lost_by_a_server_that_stops() -> None:
    """Calls go on while caller and service move to the other server; a request that is under way is answered (45)."""
    async with (
        two_servers() as (one, other),
        opened(one) as asking,
        opened(one) as serving,
        asking.subscribe("answers.late") as late,
    ):
        served: list[bytes] = []

        async def serve(requests: Any) -> None:
            async for request in requests:
                served.append(request.data)
                await serving.reply(request.reply_to, request.data)

        async with serving.subscribe("calls", group="servers") as requests, serving.subscribe("slow") as slow:
            task = asyncio.create_task(serve(requests))
            under_way = asyncio.create_task(asking.request("slow", b"", timeout=PATIENCE))
            reply_to = (await anext(slow)).reply_to
            assert reply_to
            with capture_logs() as logged:
                stops_soon(one)
                number = 0
                while not all(_has_moved(each, other) for each in (asking, serving)):
                    number += 1
                    assert await asking.request("calls", b"%d" % number, timeout=PATIENCE) == b"%d" % number
            for _ in range(100):
                number += 1
                assert await asking.request("calls", b"%d" % number, timeout=PATIENCE) == b"%d" % number
            assert served == [b"%d" % each for each in range(1, number + 1)]
            await serving.publish("answers.late", b"late")
            assert (await asyncio.wait_for(anext(late), PATIENCE)).data == b"late"
            await serving.reply(reply_to, b"there it is")
            assert await under_way == b"there it is"
            await eventually(lambda: not link_of(asking)._endings)
            task.cancel()
        events = [event["event"] for event in logged]
        assert events.count("transport.leaving") == events.count("transport.moved") == 2
        assert asking.connected
        assert serving.connected


@asynccontextmanager
async def three_keepers() -> AsyncIterator[list[NatsServer]]:
    """A cluster whose JetStream keeps each key three times."""
    ports = [_free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                NatsServer(
                    f"server_name: n{port}\n"
                    f'cluster {{ name: keepers, listen: "127.0.0.1:{port}", routes: [{routes}] }}'
                )
            )
            for port in ports
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_many_make_one_bucket_in_a_cluster() -> None:
    """Services that start at once all get their store, though a bucket has no leader at first."""
    settings = Settings(nats={"replicas": 3})
    async with three_keepers() as servers, AsyncExitStack() as stack:
        transports = [
            await stack.enter_async_context(open_transport(server.url, settings)) for server in servers
        ]
        await _keeps(transports[0])
        for number in range(10):
            makers = [transport.store(f"s{number}", ttl=None) for transport in transports * 2]
            stores = await asyncio.gather(*makers)
            revision = await stores[0].create("key", b"")
            assert await stores[-1].update("key", b"", revision) > revision
        clocks = [await transport.now() for transport in transports]
        assert clocks == sorted(clocks)


async def _keeps(transport: Transport) -> None:
    """Return when the servers have agreed who leads."""
    async with asyncio.timeout(3 * PATIENCE):
        while True:
            with contextlib.suppress(TransportError):
                await transport.store("first", ttl=60)
                return
            await asyncio.sleep(0.1)


async def is_reached(messages: Subscription, writer: Transport) -> None:
    """Return when the servers have told each other of the subscription."""
    while not messages._pending:
        await writer.publish(messages.subject, b"")
        await client_of(writer).round_trip()
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # what is under way
    messages._pending.clear()


def _has_moved(transport: Transport, to: NatsServer) -> bool:
    link = link_of(transport)
    return link.server.port == to.port and not link._leaving


async def test_what_goes_to_all_comes_once_while_moving() -> None:
    """Two connections are subscribed for a while; each message is handed on once, equal ones as often as sent (45)."""
    async with (
        two_servers() as (one, other),
        opened(one) as reader,
        open_transport(other.url) as writer,
        reader.subscribe("news", pending_limit=10**6) as news,
    ):
        sent: list[bytes] = []
        await is_reached(news, writer)
        stops_soon(one)
        while not _has_moved(reader, other):
            for data in [b"%d" % len(sent)] * 2:
                await writer.publish("news", data)
                sent.append(data)
            await asyncio.sleep(0.001)
        await client_of(writer).round_trip()
        await client_of(reader).round_trip()
        await writer.publish("news", b"end")
        got: list[bytes] = []
        while not got or got[-1] != b"end":
            got.append((await asyncio.wait_for(anext(news), PATIENCE)).data)
        assert sorted(got[:-1]) == sorted(sent)


async def test_leaving_while_moving() -> None:
    """Who leaves a group meanwhile leaves it on both connections, and loses nothing (45)."""
    async with (
        two_servers() as (one, other),
        opened(one) as reader,
        open_transport(other.url) as writer,
        AsyncExitStack() as stack,
        reader.subscribe("g", group="g", pending_limit=10**6) as stays,
    ):
        await is_reached(stays, writer)
        goes = await stack.enter_async_context(reader.subscribe("g", group="g", pending_limit=10**6))
        stops_soon(one)
        await eventually(lambda: bool(link_of(reader)._leaving))
        for _ in range(100):
            await writer.publish("g", b"")
        await stack.aclose()
        for _ in range(100):
            await writer.publish("g", b"")
        await client_of(writer).round_trip()
        await eventually(lambda: len(stays._pending) + len(goes._pending) == 200)


async def test_watch_while_moving() -> None:
    """A watch goes on: what comes twice is told by its number (45)."""
    async with NatsServer() as keeper, open_transport(keeper.url) as transport:
        store = await transport.store("s", ttl=60)
        async with store.watch() as watch:
            assert await anext(watch) is SNAPSHOT_DONE
            link = link_of(transport)
            link._note_leaving(client_of(transport))
            first = client_of(transport)
            for number in range(100):
                await store.put("key", b"%d" % number)
                await asyncio.sleep(0.001)
            await eventually(lambda: client_of(transport) is not first and not link._leaving)
            await store.put("last", b"")
            seen: list[int] = []
            while (change := await asyncio.wait_for(anext(watch), PATIENCE)).key != "last":  # type: ignore[union-attr]
                seen.append(int(change.value))  # type: ignore[union-attr]
            assert seen == sorted(set(seen))
            assert seen[-1] == 99


async def test_servers_that_are_not_to_be_used() -> None:
    """With `ignore_discovered` only those of the URL are (44)."""
    async with two_servers() as (one, _), opened(one, ignore_discovered=True) as transport:
        link = link_of(transport)
        assert [server.port for server in link._known_servers(client_of(transport))] == [one.port]


# A server that comes later


class Local(Manager):
    """Works, and answers."""

    runs = 0

    @periodic_task(spacing=0.05)
    async def work(self, context: RunContext) -> None:
        self.runs += 1

    @rpc
    async def echo(self, value: int) -> int:
        return value


async def test_service_that_starts_before_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``connect = "wait"`` the local schedule begins, and calls are served once there is a server (44)."""
    monkeypatch.setattr(nats_link, "RECONNECT_MOST", 0.1)
    async with NatsServer() as server:
        server.kill()
        manager = Local()
        settings = Settings(connect="wait")
        with capture_logs() as logged:
            async with Service(manager, host="n1", transport=server.url, settings=settings) as service:
                assert not service.transport.connected
                await eventually(lambda: manager.runs >= 2)
                await asyncio.to_thread(server.start)
                await eventually(lambda: service.transport.connected)
                async with open_transport(server.url) as transport:
                    client = RpcClient(transport, service.name)
                    async with asyncio.timeout(PATIENCE):
                        while await _fails(client):
                            await client_of(transport).round_trip()
    events = [event["event"] for event in logged if event["event"].startswith("transport.")]
    assert events == ["transport.disconnected", "transport.reconnected"]


async def _fails(client: RpcClient) -> bool:
    try:
        return bool(await client.call("echo", value=1) != 1)
    except NoResponders:
        return True


async def test_waiting_for_a_server_that_says_nothing() -> None:
    """It takes no longer than `connect_timeout`, however many there are; closing ends it."""
    settings = Settings(connect="wait", nats={"connect_timeout": 0.1})
    async with (
        Pretender() as one,
        asyncio.timeout(PATIENCE),
        open_transport(f"nats://{one},{one},{one}", settings) as transport,
    ):
        assert not transport.connected
        with pytest.raises(TransportError, match="not connected"):
            await transport.publish("s", b"")


async def test_server_that_has_to_be_there(nats_server: NatsServer) -> None:
    """Without the setting its absence is an error, as a wrong setting is with it."""
    nats_server.kill()
    with pytest.raises(TransportError, match="no NATS server answers"):
        async with open_transport(nats_server.url):
            pass
    settings = Settings(connect="wait")
    with pytest.raises(InvalidSettings, match="names no servers"):
        async with open_transport("nats://", settings):
            pass


# Reply subjects


@pytest.mark.parametrize("prefix", ["_INBOX.a+b", "user@corp", "a/b"])
async def test_other_clients_name_their_inboxes_as_they_like(nats_server: NatsServer, prefix: str) -> None:
    """They get their answers (47)."""
    async with Service(Local(), host="n1", transport=nats_server.url, settings=Settings()) as service:
        other = await nats.connect(nats_server.url, inbox_prefix=prefix)
        request = json.dumps({"v": 1, "id": "1", "method": "echo", "arguments": {"value": 7}}).encode()
        answer = await other.request(f"asyncmgr.rpc.{service.name}.any", request, timeout=5)
        assert json.loads(answer.data)["result"] == 7
        await other.close()


async def test_no_answer_to_an_engine(nats_server: NatsServer) -> None:
    """A request whose answer would be a command to the server gets none (47)."""
    other = await nats.connect(nats_server.url)
    heard: list[str] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    await other.subscribe("$KV.>", cb=note)
    async with Service(Local(), host="n1", transport=nats_server.url, settings=Settings()) as service:
        request = json.dumps({"v": 1, "id": "1", "method": "echo", "arguments": {"value": 7}}).encode()
        subject = f"asyncmgr.rpc.{service.name}.any"
        await other.publish(subject, request, reply="$KV.asyncmgr-capabilities.x.y")
        await other.request(subject, request, timeout=5)
        await other.flush()
        assert "$KV.asyncmgr-capabilities.x.y" not in heard
    await other.close()
