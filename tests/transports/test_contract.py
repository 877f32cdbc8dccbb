"""memory:// keeps the contract of transports, in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from asyncmgr.testing.conformance import StoreConformance, TransportConformance
from asyncmgr.transports import open_store, open_transport
from asyncmgr.transports._memory import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from asyncmgr.transports import StoreEngine, Transport


@pytest.mark.virtual_time
class TestMemory(TransportConformance):
    """Every connection of a test is to the same fabric."""

    def connect(self) -> AbstractAsyncContextManager[Transport]:
        """Open one more connection; the name is free again when the test has closed them all."""
        return open_transport("memory://contract")

    async def wipe(self) -> None:
        """Have all transports of the name lose their keys."""
        async with self.connect() as transport:
            assert isinstance(transport, MemoryTransport)
            transport.wipe()

    @asynccontextmanager
    async def outage(self, transport: Transport) -> AsyncIterator[None]:
        """Let the transport pretend."""
        assert isinstance(transport, MemoryTransport)
        with transport.outage():
            yield


@pytest.mark.virtual_time
class TestMemoryStores(StoreConformance):
    """A transport is a store engine too."""

    def connect(self) -> AbstractAsyncContextManager[StoreEngine]:
        return open_store("memory://stores")

    @asynccontextmanager
    async def outage(self, engine: StoreEngine) -> AsyncIterator[None]:
        assert isinstance(engine, MemoryTransport)
        with engine.outage():
            yield


def test_no_check_hides_another() -> None:
    """The sections of the suite are joined in one class, where a name used twice would be lost."""
    names = [
        name for section in TransportConformance.__mro__ for name in vars(section) if name.startswith("test_")
    ]
    assert len(names) == len(set(names))
    assert set(names) > {name for name in dir(StoreConformance) if name.startswith("test_")}


def test_checks_need_a_transport() -> None:
    """A subclass that does not say how to connect is refused by name."""
    with pytest.raises(TypeError, match="connect"):
        TransportConformance()  # type: ignore[abstract]
