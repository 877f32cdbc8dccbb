"""`Presence`: what other hosts have of a service, which is its server of calls, and its announcement in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from asyncmgr._service.steps import Step
from asyncmgr.capabilities._announcer import Announcer

if TYPE_CHECKING:
    from asyncmgr._rpc.server import CallServer
    from asyncmgr._service.drain import Drain
    from asyncmgr.transports import Transport


class Presence:
    """The server and the announcer of one service, each there from its step on.

    Parameters
    ----------
    make_server, make_announcer
        Called when the service is connected, each in its step.
    transport
        Returns the open transport; `None` = the service is not connected.
    on_server
        Called with the server right before it gets calls.
    """

    def __init__(
        self,
        *,
        make_server: Callable[[], CallServer],
        make_announcer: Callable[[], Announcer],
        transport: Callable[[], Transport | None],
        on_server: Callable[[CallServer], object],
        drain: Drain,
    ) -> None:
        self.server: CallServer | None = None
        self.announcer: Announcer | None = None
        self._make_server, self._make_announcer = make_server, make_announcer
        self._transport = transport
        self._on_server = on_server
        self._drain = drain
        self._unwatch_routes: Callable[[], None] = lambda: None

    def serving(self) -> Iterator[Step]:
        """Yield the steps by which calls are answered."""
        yield Step("refuse calls", leave=self._refuse_calls)
        yield Step("serve calls", enter=self._serve_calls)

    def announcing(self) -> Iterator[Step]:
        """Yield the steps by which other hosts find this one."""
        yield Step("withdraw host", leave=self._withdraw)
        yield Step("announce host", enter=self._announce)

    def lost_routes(self) -> str:
        """Say why calls do not reach this service although it is connected; empty where they do."""
        transport = self._transport()
        if transport is None or self.server is None:
            return ""
        problems = transport.problems()
        return "; ".join(problems[subject] for subject in self.server.subjects if subject in problems)

    async def _serve_calls(self) -> None:
        self.server = self._make_server()
        self._on_server(self.server)
        await self.server.start()

    async def _refuse_calls(self) -> None:
        if self.server is not None:
            self._drain.meet(self.server)
            await self.server.close()
            self._drain.meet(self.server)

    async def _announce(self) -> None:
        self.announcer = self._make_announcer()
        transport = self._transport()
        if transport is not None:
            self._unwatch_routes = transport.add_trouble_listener(self._look_at_routes)
        self._look_at_routes()
        await self.announcer.start()

    def _look_at_routes(self) -> None:
        """Announce the host only while calls reach it: else callers would choose it in vain."""
        if self.announcer is None:
            return
        lost = self.lost_routes()
        if lost:
            self.announcer.suspend(lost)
        else:
            self.announcer.resume()

    async def _withdraw(self) -> None:
        self._unwatch_routes()
        if self.announcer is not None:
            await self.announcer.stop()
