"""`Connections`: the transport and the store of a service, those that it was given or those that it opens itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from asyncmgr._service.steps import Step
from asyncmgr.transports import StoreEngine, Transport, open_store, open_transport

if TYPE_CHECKING:
    from asyncmgr._settings.model import Settings


class Connections:
    """What a service speaks and stores over.

    Parameters
    ----------
    transport
        A URL, or an open transport, which is not closed here. `None` = the setting.
    store
        A URL, or an open store engine, which is not closed here. `None` = the setting, and without it the transport.
    """

    def __init__(
        self, transport: str | Transport | None, store: str | StoreEngine | None, settings: Settings
    ) -> None:
        self.given_transport: str | Transport = settings.transport if transport is None else transport
        self.given_store: str | StoreEngine | None = settings.store if store is None else store
        self.transport: Transport | None = None
        """`None` = not connected."""
        self.store: StoreEngine | None = None
        """`None` = not connected."""
        self._settings = settings
        self._opened = AsyncExitStack()

    @property
    def leaving(self) -> Step:
        """The step that closes what was opened."""
        return Step("close transport", leave=self._close)

    def entering(self) -> Iterator[Step]:
        """Yield the steps that open what was not given open."""
        yield Step("connect transport", enter=self._open_transport)
        yield Step("connect store", enter=self._open_store)

    async def _open_transport(self) -> None:
        given = self.given_transport
        if isinstance(given, str):
            given = await self._opened.enter_async_context(open_transport(given, settings=self._settings))
        self.transport = given

    async def _open_store(self) -> None:
        given = self.given_store
        if given is None or given == self.given_transport:
            self.store = self.transport
        elif isinstance(given, str):
            self.store = await self._opened.enter_async_context(open_store(given, settings=self._settings))
        else:
            self.store = given

    async def _close(self) -> None:
        self.transport = self.store = None
        await self._opened.aclose()
