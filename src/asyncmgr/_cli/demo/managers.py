"""The services of the demonstration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from typing import Any

import psutil
from pydantic import BaseModel

from asyncmgr._rpc.client import RpcClient
from asyncmgr._rpc.declare import rpc
from asyncmgr._service.capability_manager import SchedulerDependentManager
from asyncmgr._service.manager import Manager
from asyncmgr._tasks.declare import periodic_task
from asyncmgr.capabilities import Hosts, HostState
from asyncmgr.errors import RpcError

SHARE_VARIABLE = "DEMO_SHARE"
"""The share of this machine's free memory that a host pretends to have, from 0 to 1."""

HOSTS = "compute"
PLACEMENT = "placement"


class Reservation(BaseModel):
    """Memory that a host keeps for a caller."""

    host: str
    memory_mib: int
    memory_free_mib: int
    """The host's free memory after the reservation."""


class EndsWithParent(Manager):
    """Ends the process when its standard input ends: a pipe whose other end only the demonstration holds."""

    async def init_host(self) -> None:
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


class Host(SchedulerDependentManager):
    """One of several hosts on this machine: its memory is a simulated share of the real one."""

    service_name: str | None = HOSTS

    def __init__(self) -> None:
        super().__init__()
        self._share = float(os.environ.get(SHARE_VARIABLE, "1"))
        self._reserved_mib = 0

    async def init_host(self) -> None:
        await self.measure(None)

    @periodic_task(spacing=1)
    async def measure(self, context: Any) -> None:
        self.update_service_capabilities(
            {
                "memory_free_mib": self._free_mib(),
                "memory_reserved_mib": self._reserved_mib,
                "pid": os.getpid(),
            }
        )

    def _free_mib(self) -> int:
        return int(psutil.virtual_memory().available * self._share) // 2**20 - self._reserved_mib

    @rpc
    async def reserve(self, memory_mib: int, seconds: float) -> Reservation:
        """Keep so much memory for so long."""
        free = self._free_mib()
        if free < memory_mib:
            raise MemoryError(f"{memory_mib} MiB are wanted and {free} free")
        self._reserved_mib += memory_mib
        asyncio.get_running_loop().call_later(seconds, self._release, memory_mib)
        await self.measure(None)
        return Reservation(host=self.host, memory_mib=memory_mib, memory_free_mib=free - memory_mib)

    def _release(self, memory_mib: int) -> None:
        self._reserved_mib -= memory_mib


def _free(state: HostState) -> float:
    return float(state.capabilities.get("memory_free_mib", 0))


class Placement(Manager):
    """Picks the host with the most free memory, and has it reserve some."""

    async def post_start_hook(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        assert self.service is not None
        self._hosts = await self._stack.enter_async_context(Hosts(self.service.store, service=HOSTS))
        self._compute = RpcClient(self.service.transport, HOSTS, timeout=2)

    async def cleanup_host(self) -> None:
        await self._stack.aclose()

    @rpc
    async def pick(self, memory_mib: int, seconds: float) -> Reservation:
        """Reserve memory on the host that has the most; where that fails, on the next one."""
        best = self._hosts.select(
            filters=[lambda state: _free(state) >= memory_mib], weighers=[_free], count=3
        )
        failures = []
        for state in best:
            try:
                client = self._compute.at(host=state.host)
                return Reservation(**await client.call("reserve", memory_mib=memory_mib, seconds=seconds))
            except RpcError as exc:
                failures.append(f"{state.host}: {exc}")
        raise LookupError(f"no host has {memory_mib} MiB; {'; '.join(failures) or 'none that is fresh'}")
