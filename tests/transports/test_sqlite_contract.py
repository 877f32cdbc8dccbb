"""sqlite:// keeps the contract of stores, with a file that is moved away and removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.nats_servers import eventually

from asyncmgr.testing.conformance import StoreConformance
from asyncmgr.transports import StoreEngine, _availability, open_store
from asyncmgr.transports._sqlite.engine import SqliteEngine

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class TestSqlite(StoreConformance):
    """Every engine of a test has the same file."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_availability, "RECONNECT_FIRST", 0.02)
        monkeypatch.setattr(_availability, "RECONNECT_MOST", 0.1)
        self.directory = tmp_path / "stores"
        self.directory.mkdir()

    def connect(self) -> AbstractAsyncContextManager[StoreEngine]:
        return open_store(f"sqlite://{self.directory}/stores.db")

    @asynccontextmanager
    async def outage(self, engine: StoreEngine) -> AsyncIterator[None]:
        """Take the directory away; a call or a watch would notice, and here nothing may be called."""
        assert isinstance(engine, SqliteEngine)
        away = self.directory.rename(self.directory.with_name("away"))
        engine.availability.doubt()
        await eventually(lambda: not engine.connected)
        try:
            yield
        finally:
            away.rename(self.directory)
        await eventually(lambda: engine.connected or engine.calls.closed)

    async def wipe(self) -> None:
        for file in self.directory.iterdir():
            await asyncio.to_thread(file.unlink)
