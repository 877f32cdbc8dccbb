"""Managers that the tests of the command line call from afar."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel

from asyncmgr import Manager, SchedulerDependentManager, periodic_task, rpc


class Volume(BaseModel):
    """What `resize` returns."""

    name: str
    gib: int = 1


class Compute(SchedulerDependentManager):
    """One interface without a namespace, in version 1.3."""

    RPC_API_VERSION = "1.3"

    def __init__(self, service_name: str, *nodes: dict[str, Any]) -> None:
        super().__init__()
        self.service_name = service_name
        self.told = asyncio.Event()
        self.update_service_capabilities(nodes)

    @periodic_task(spacing=3600)
    async def sync(self, context: Any) -> None: ...

    @rpc
    async def resize(
        self, volume: str, gib: int = 1, kind: Literal["thin", "thick"] = "thin", **tags: int
    ) -> Volume:
        """Make a volume larger."""
        if volume == "none":
            raise ValueError("no such volume")
        return Volume(name=volume, gib=gib)

    @rpc
    async def echo(self, value) -> Any:  # type: ignore[no-untyped-def] # an argument without a hint
        """Give the value back."""
        return value

    @rpc
    async def wait(self) -> None:
        await asyncio.Event().wait()

    @rpc
    async def tell(self) -> None:
        self.told.set()


class Zones(Manager):
    """A second interface, under a namespace."""

    RPC_API_NAMESPACE = "zones"

    @rpc
    async def count(self) -> int:
        return 3
