"""`HttpServer`: serves the web application of a service, as a step of its start, on uvicorn.

uvicorn alone wakes ten times a second and takes the signals of the process. Its server's public methods are overridden
so that it does neither: `asyncmgr run` has its own signals, and an idle service sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from asyncmgr._common.clock import MovesWall
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._monitoring.web import Web, web
from asyncmgr._service.service import Service, insight_of
from asyncmgr._service.steps import Step
from asyncmgr.errors import HttpUnavailable, InvalidSettings, MissingExtra

_LOOPBACK = "127.0.0.1"

_BACKLOG = 128

_MOST_AT_ONCE = 200
"""Connections and requests; above, uvicorn answers 503."""

_KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept: longer than between two scrapes."""

_PATIENCE = 2
"""Seconds that responses in progress get at a stop."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``[::1]:PORT``, or a port alone, which means this machine only.

    Raises
    ------
    InvalidSettings
        The text is none of these.
    """
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and "[" not in text):
        raise InvalidSettings(
            f"http={safe_repr(text, 80)} is no address; write HOST:PORT, such as 127.0.0.1:8080, or a port alone"
        )
    return Address(_LOOPBACK if host in ("", "localhost") else host, int(port))


class HttpServer:
    """Serves one web application."""

    def __init__(self, app: Web, address: Address, opened: Callable[[str], object]) -> None:
        """`opened` is called with the URL once it listens."""
        self._app = app
        self._address = address
        self._opened = opened
        self._server: Any = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen. In virtual time nothing listens: real programs cannot talk to it.

        Raises
        ------
        HttpUnavailable
            The address cannot be listened on.
        """
        if isinstance(asyncio.get_running_loop(), MovesWall):
            return
        listening = self._listen()
        self._server = _quiet_server(self._app)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="asyncmgr http")
        up = asyncio.ensure_future(self._server.up.wait())
        try:
            await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._task.done():
            listening.close()
            raise HttpUnavailable(f"nothing can be served at {self._address}") from self._task.exception()
        address = Address(self._address.host, listening.getsockname()[1])
        service = self._app.service
        log.info("http.opened", service=service.name, address=str(address), verbs=self._app.guard.opens_verbs)
        self._opened(f"http://{address}/")

    async def close(self) -> None:
        """End the event streams, give other responses a moment, and stop to listen."""
        if self._task is None:
            return
        self._app.streams.close()
        self._server.stop()
        done, _ = await asyncio.wait({self._task}, timeout=_PATIENCE + 1)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _listen(self) -> socket.socket:
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as exc:
            raise HttpUnavailable(
                f"http: {self._address} cannot be listened on: {exc.strerror or exc}; choose another address"
            ) from exc
        listening.setblocking(False)
        return listening


def _quiet_server(app: Web) -> Any:
    """Make a server of uvicorn that sets no signal handlers and has no timer of its own."""
    try:
        import uvicorn
    except ImportError as exc:
        raise MissingExtra("--http needs uvicorn: pip install 'asyncmgr[web]'") from exc

    class QuietServer(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            self.up = asyncio.Event()
            self._ended = asyncio.Event()

        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

        async def main_loop(self) -> None:
            self.up.set()
            await self._ended.wait()

        def stop(self) -> None:
            self.should_exit = True
            self._ended.set()

    return QuietServer(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # uvicorn would have to wake to keep it right
            limit_concurrency=_MOST_AT_ONCE,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_PATIENCE,
        )
    )


def serve_http(
    service: Service,
    address: str,
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    opened: Callable[[str], object] = lambda url: None,
) -> HttpServer:
    """Have a service that has not started serve its web application, from before its hooks to after them.

    Raises
    ------
    InvalidSettings
        The address makes no sense.
    MissingExtra
        starlette or uvicorn is not installed.
    """
    where = read_address(address)
    app = web(service, token=token, hosts=(where.host, *hosts), longest_stream=None)
    _import_uvicorn()
    server = HttpServer(app, where, opened)
    insight_of(service).steps.append(
        Step("open http", enter=server.open, leave=server.close, leaving="close http")
    )
    return server


def _import_uvicorn() -> None:
    """Raise `MissingExtra` now and not in the middle of a start."""
    try:
        import uvicorn  # noqa: F401 - only whether it is there
    except ImportError as exc:
        raise MissingExtra("--http needs uvicorn: pip install 'asyncmgr[web]'") from exc
