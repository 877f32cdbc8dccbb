"""Picks the host with the most free memory, and reserves some there by RPC.

``asyncmgr run examples/placement.py:Placement --transport nats://127.0.0.1:4222``, beside hosts that run
``examples/host_agent.py:HostAgent`` at the same transport. Then ``asyncmgr call placement pick memory_mib=512``.
"""

from __future__ import annotations

import contextlib

import structlog
from pydantic import BaseModel

from asyncmgr import Hosts, Manager, RpcClient, RunContext, periodic_task, rpc
from asyncmgr.capabilities import at_least, capability, weigh

log = structlog.get_logger("placement")


class Placed(BaseModel):
    host: str
    memory_free_mib: int
    """What the host has left."""


class Placement(Manager):
    """Knows all hosts by what they publish, and asks the one that it picks."""

    async def post_start_hook(self) -> None:
        assert self.service is not None
        self._open = contextlib.AsyncExitStack()
        self._hosts = await self._open.enter_async_context(Hosts(self.service.store, service="compute"))
        self._compute = RpcClient(self.service.transport, "compute", timeout=5)

    async def cleanup_host(self) -> None:
        await self._open.aclose()

    @rpc
    async def pick(self, memory_mib: int = 0) -> Placed:
        """Reserve memory on the host that has the most of it."""
        best = self._hosts.select([at_least("memory_free_mib", memory_mib)], [weigh("memory_free_mib")])
        if not best:
            raise LookupError(f"no host has {memory_mib} MiB of free memory")
        host = best[0].host
        left = await self._compute.at(host=host).call("reserve", memory_mib=memory_mib)
        return Placed(host=host, memory_free_mib=left)

    @periodic_task(spacing=20)
    async def watch(self, context: RunContext) -> None:
        hosts = self._hosts.snapshot()
        free = sum(capability(state, "memory_free_mib", 0) for state in hosts)
        log.info("hosts.counted", hosts=len(hosts), memory_free_mib=free)
