"""Reports what this machine really has, reserves memory of it, and watches what all machines report.

``asyncmgr run examples/host_agent.py:HostAgent examples/host_agent.py:Watch``
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import psutil
import structlog
from pydantic import BaseModel

from asyncmgr import Hosts, HostState, Manager, RunContext, SchedulerDependentManager, periodic_task, rpc

log = structlog.get_logger("host_agent")


class Disk(BaseModel):
    mount: str
    total_gib: float
    free_gib: float


class Capabilities(BaseModel):
    """What this host offers."""

    cpus: int
    load: float
    """Runnable processes per CPU, averaged over a minute."""
    memory_total_mib: int
    memory_free_mib: int
    """Without what is reserved."""
    disks: list[Disk]
    addresses: list[str]
    received_mib: int
    sent_mib: int


class HostAgent(SchedulerDependentManager):
    """Measures this host and publishes what it found; others may reserve memory of it."""

    service_name = "compute"
    reserved_mib = 0

    async def init_host(self) -> None:
        await self.measure(None)

    @periodic_task(spacing=20, timeout=10)
    async def measure(self, context: RunContext | None) -> None:
        # Reading mounts may block on a dead network share, which must not stop the event loop.
        self.measured = await asyncio.to_thread(measure)
        self.measured.memory_free_mib -= self.reserved_mib
        self.update_service_capabilities(self.measured)

    @rpc
    async def reserve(self, memory_mib: int) -> int:
        """Set memory aside, as for a virtual machine; returns what is left."""
        if memory_mib > self.measured.memory_free_mib:
            raise ValueError(f"{memory_mib} MiB are wanted, {self.measured.memory_free_mib} MiB are free")
        self.reserved_mib += memory_mib
        await self.measure(None)
        return self.measured.memory_free_mib


class Watch(Manager):
    """Logs what becomes different about any host."""

    async def post_start_hook(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def cleanup_host(self) -> None:
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher

    async def _watch(self) -> None:
        assert self.service is not None
        async with Hosts(self.service.store) as hosts:
            changes = hosts.changes()  # before the snapshot, so that nothing is missed between the two
            for state in hosts.snapshot():
                tell("found", state)
            async for change in changes:
                tell(change.kind, change.host)


def tell(what: str, state: HostState) -> None:
    offered = state.capabilities
    facts = {key: offered[key] for key in ("load", "memory_free_mib") if key in offered}
    log.info("host.seen", change=what, host=state.host, service=state.service, **facts)


def measure() -> Capabilities:
    """Read the operating system's own figures."""
    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    cpus = psutil.cpu_count() or 1
    return Capabilities(
        cpus=cpus,
        load=round(psutil.getloadavg()[0] / cpus, 2),
        memory_total_mib=memory.total >> 20,
        memory_free_mib=memory.available >> 20,
        disks=list(_disks()),
        addresses=sorted(_addresses()),
        received_mib=network.bytes_recv >> 20,
        sent_mib=network.bytes_sent >> 20,
    )


def _disks() -> list[Disk]:
    disks = []
    for partition in psutil.disk_partitions():
        with contextlib.suppress(OSError):
            usage = psutil.disk_usage(partition.mountpoint)
            disks.append(
                Disk(
                    mount=partition.mountpoint,
                    total_gib=round(usage.total / 2**30, 1),
                    free_gib=round(usage.free / 2**30, 1),
                )
            )
    return disks


def _addresses() -> set[str]:
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in families
    }
