"""Asks running services without blocking: at their control sockets, over one connection each, or by calls."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from asyncmgr._cli.doors import Reach, Refused
from asyncmgr._common.safe_text import printable
from asyncmgr._rpc.client import RpcClient
from asyncmgr._service import control_client
from asyncmgr._service.builtin_rpc import NAMESPACE
from asyncmgr.capabilities import Hosts
from asyncmgr.errors import ControlUnavailable, NoResponders, RemoteError, RpcError
from asyncmgr.transports import Transport

WITHIN = 10.0
"""Seconds that a service has for an answer."""

FIND_WITHIN = 2.0
"""Seconds that a service has to say who it is."""

VERSION = "1.2"
"""Of the interface ``asyncmgr``: the first one with the verbs for those who look on."""

STEERING = ("trigger", "pause", "resume", "reschedule", "enable", "disable", "cancel")


class Wire(ABC):
    """A way to one running service."""

    service: str
    host: str
    key: str
    """What tells it from all others, also from another process of the same service."""
    label: str
    """The service for people: ``compute on nyx, pid 4711``."""

    @abstractmethod
    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and return the answer.

        Raises
        ------
        Refused
            The service refused it.
        ControlUnavailable
            The service cannot be reached, or does not answer.
        """

    async def close(self) -> None:
        """Let go of the connection."""
        return


class Finder(ABC):
    """Finds services."""

    @abstractmethod
    async def find(self) -> Sequence[Wire]:
        """Find those that are there now."""


class SocketWire(Wire):
    """A service on this machine, by its control socket."""

    def __init__(self, found: control_client.Found) -> None:
        self.service, self.host, self.key = found.service, found.host, str(found.path)
        self.label = printable(f"{found.service} on {found.host}, pid {found.pid}")
        self._path = found.path
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        line = json.dumps({"verb": verb, **arguments}).encode("ascii") + b"\n"
        async with self._turn:
            try:
                async with asyncio.timeout(WITHIN):
                    told = await self._send(line, again=verb not in STEERING)
            except TimeoutError:
                await self.close()
                raise ControlUnavailable("the process does not answer: it is blocked or stopped") from None
            except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
                await self.close()
                raise ControlUnavailable("nobody listens at its control socket: the process is gone") from exc
        return _read(told)

    async def _send(self, line: bytes, *, again: bool) -> bytes:
        """Send a line and read the answer; where a connection from before was closed, try a new one if `again`."""
        is_new = self._streams is None
        try:
            return await self._send_once(line)
        except (OSError, EOFError):
            await self.close()
            if is_new or not again:
                raise
            return await self._send_once(line)

    async def _send_once(self, line: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(
                str(self._path), limit=control_client.LONGEST_ANSWER
            )
        reader, writer = self._streams
        writer.write(line)
        await writer.drain()
        return await reader.readuntil()

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with contextlib.suppress(OSError):
                await streams[1].wait_closed()


def _read(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ControlUnavailable("it sends no answer that this version can read")
    if not answer.get("ok"):
        raise Refused(str(answer.get("text")))
    return answer


class CallWire(Wire):
    """A service anywhere, by calls over a transport."""

    def __init__(self, transport: Transport, service: str, host: str) -> None:
        self.service, self.host, self.key = service, host, f"{service}/{host}"
        self.label = printable(f"{service} on {host}")
        self._client = RpcClient(transport, service, version=VERSION, namespace=NAMESPACE, timeout=WITHIN).at(
            host=host
        )

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        given = {
            ("seconds" if name == "for" else name): value
            for name, value in arguments.items()
            if value is not None
        }
        if verb in STEERING:
            given["by"] = getpass.getuser()
        try:
            answer: dict[str, Any] = await self._client.call(verb, **given)
        except RemoteError as exc:
            raise Refused(exc.text) from None
        except NoResponders:
            raise ControlUnavailable("nobody answers calls there") from None
        except RpcError as exc:
            raise ControlUnavailable(f"{type(exc).__name__}: {exc}") from None
        return answer


class SocketFinder(Finder):
    """Finds the services of this user on this machine."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def find(self) -> Sequence[Wire]:
        return [SocketWire(one) for one in await asyncio.to_thread(self._look)]

    def _look(self) -> list[control_client.Found]:
        found = (
            one for one in control_client.find(timeout=FIND_WITHIN) if isinstance(one, control_client.Found)
        )
        return [one for one in found if self._reach.fits(one.service, one.host, one.pid)]


class CallFinder(Finder):
    """Finds the services that announce themselves at a transport."""

    def __init__(self, transport: Transport, hosts: Hosts, at: str | None) -> None:
        self._transport, self._hosts, self._at = transport, hosts, at

    async def find(self) -> Sequence[Wire]:
        there = sorted({(one.service, one.host) for one in self._hosts.snapshot()})
        return [
            CallWire(self._transport, service, host) for service, host in there if self._at in (None, host)
        ]
