"""Serves the control verbs on a Unix socket: JSON lines, for the user of this process alone.

All that a peer can do is bounded: the size of a request, how long it may keep a connection without one, how many
connections there are. The event loop makes one answer a turn, so the schedule does not notice its peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import json
import os
import socket
import struct
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from asyncmgr._common.clock import MovesWall
from asyncmgr._common.log import is_reminder, log
from asyncmgr._service.control import Control
from asyncmgr._service.control_paths import LONGEST_PATH, SUFFIX, directories, prepare, socket_path
from asyncmgr._tasks.actions import Actor
from asyncmgr.errors import ControlUnavailable

LONGEST_REQUEST = 64 * 1024
"""Bytes of a request."""

IDLE = 30.0
"""Seconds for which a peer may keep a connection without a complete request, or without reading an answer."""

MOST_PEERS = 256
"""Connections at once; more are told so and closed."""

_SAME_NAME = 100
"""Services of one name that one process may have."""

_CREDENTIALS = struct.Struct("3i")
"""What Linux tells of a peer: its process, user and group."""


def why_unavailable() -> str | None:
    """Say why this platform has no control socket; `None` = it has one."""
    if not hasattr(socket, "AF_UNIX") or not hasattr(asyncio, "start_unix_server"):
        return f"{sys.platform} has no Unix sockets"
    if not hasattr(socket, "SO_PEERCRED"):
        return f"{sys.platform} does not tell which user is at the other end of a socket"
    return None


class ControlSocket:
    """The control socket of one service."""

    def __init__(self, control: Control, *, context: contextvars.Context) -> None:
        """`context` is the one that verbs are performed in; each connection gets a copy."""
        self._control = control
        self._context = context
        self._peers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._refused = 0
        self._turn = asyncio.Lock()
        self.path: Path | None = None
        """Where it is; `None` = it is not open."""
        self._inode = 0

    async def open(self) -> None:
        """Open the socket. Where that is not possible, log why; the service goes on without it.

        In virtual time there is none: real programs cannot talk to it, and it would hold time up.
        """
        if isinstance(asyncio.get_running_loop(), MovesWall):
            return
        try:
            listening = self._bind()
        except ControlUnavailable as exc:
            log.warning("control.unavailable", service=self._control.service.name, reason=str(exc))
            return
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listening, limit=LONGEST_REQUEST, backlog=MOST_PEERS
        )
        log.info("control.opened", service=self._control.service.name, path=str(self.path))

    async def close(self) -> None:
        """Close the socket and all connections, and remove the file."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        path, self.path = self.path, None
        if path is not None:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == self._inode:
                    path.unlink()
        for peer in self._peers:
            peer.cancel()
        if self._peers:
            await asyncio.wait(self._peers)

    # The file

    def _bind(self) -> socket.socket:
        reason = why_unavailable()
        if reason is not None:
            raise ControlUnavailable(f"{reason}; use rpc_control = true and --transport")
        uid, problems = os.geteuid(), []
        for directory in directories(os.environ, uid):
            try:
                prepare(directory, uid)
                return self._bind_in(directory)
            except ControlUnavailable as exc:
                problems.append(str(exc))
        raise ControlUnavailable("; ".join(problems))

    def _bind_in(self, directory: Path) -> socket.socket:
        _remove_stale(directory)
        for number in range(1, _SAME_NAME + 1):
            path = socket_path(directory, self._control.service.name, os.getpid(), number)
            if not is_taken(path):
                return self._listen(path)
        raise ControlUnavailable(f"{directory} has {_SAME_NAME} sockets of this service already")

    def _listen(self, path: Path) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listening.bind(str(path))
            path.chmod(0o600)
            self.path, self._inode = path, path.lstat().st_ino
        except OSError as exc:
            listening.close()
            raise ControlUnavailable(f"{path} cannot be opened: {exc.strerror or exc}") from exc
        listening.setblocking(False)
        return listening

    # The peers

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = self._actor(writer)
        serve = self._refuse(writer) if who is None else self._serve(reader, writer, who)
        # A plain Task: one of a factory of the application's may begin at once, or be anything.
        peer = asyncio.Task(
            serve, loop=asyncio.get_running_loop(), name="asyncmgr control", context=self._context.copy()
        )
        self._peers.add(peer)
        peer.add_done_callback(self._peers.discard)

    def _actor(self, writer: asyncio.StreamWriter) -> Actor | None:
        """Name the user at the other end; `None` = it is not the user of this process, nor root."""
        uid = _uid_of(writer.get_extra_info("socket"))
        if uid in (os.geteuid(), 0):
            return Actor(f"{_user_name(uid)} (uid {uid})", "socket")
        self._refused += 1
        if is_reminder(self._refused):
            log.warning("control.refused", service=self._control.service.name, uid=uid, count=self._refused)
        return None

    async def _refuse(self, writer: asyncio.StreamWriter) -> None:
        await _last_word(writer, "NotAllowed", "only the user of this service may use its control socket")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: Actor) -> None:
        if len(self._peers) > MOST_PEERS:
            await _last_word(writer, "ServiceBusy", f"{MOST_PEERS} programs are connected; try again")
            return
        try:
            while (line := await _read(reader)) is not None:
                async with (
                    self._turn
                ):  # however many peers ask at once: one answer in a turn of the event loop
                    await asyncio.sleep(0)
                answer = await self._control.answer(_decode(line), who)
                writer.write(_encode(answer))
                async with asyncio.timeout(IDLE):
                    await writer.drain()
        except _BadRequestError as exc:
            await _last_word(writer, "InvalidRequest", str(exc))
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()


class _BadRequestError(Exception):
    """A line that is no request; the connection ends, since the next line may be the rest of it."""


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    """Read one line; `None` = the peer has closed, or says nothing."""
    try:
        async with asyncio.timeout(IDLE):
            return await reader.readuntil()
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    except asyncio.LimitOverrunError:
        raise _BadRequestError(f"a request is one line of at most {LONGEST_REQUEST} bytes") from None


def _decode(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise _BadRequestError("a request is one line of JSON") from None


def _encode(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, default=str, separators=(",", ":")).encode("ascii", "replace") + b"\n"


async def _last_word(writer: asyncio.StreamWriter, error: str, text: str) -> None:
    try:
        writer.write(_encode({"ok": False, "error": error, "text": text}))
        async with asyncio.timeout(IDLE):
            await writer.drain()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.close()


def _uid_of(peer: Any) -> int:
    """Ask the kernel for the user at the other end of a connection; -1 = it does not say."""
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
    except (OSError, struct.error):
        return -1
    return int(uid)


@lru_cache(maxsize=16)
def _user_name(uid: int) -> str:
    import pwd  # Unix alone has it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "somebody"


# Stale files


def is_taken(path: Path) -> bool:
    """Whether a program listens at the path. A file that nobody listens at is stale, and is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return False
        except OSError as exc:
            if exc.errno != errno.ECONNREFUSED:
                return True
            with contextlib.suppress(OSError):
                path.unlink()
            return False
    return True


def _remove_stale(directory: Path) -> None:
    for path in directory.glob(f"*{SUFFIX}"):
        if len(os.fsencode(path)) <= LONGEST_PATH:
            is_taken(path)
