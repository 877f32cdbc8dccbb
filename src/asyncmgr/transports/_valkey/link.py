"""A link that outlives its connections: it seeks the server again after a loss, and tells of both."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text
from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.transports._valkey.connection import Connection
from asyncmgr.transports._valkey.options import Options, Server
from asyncmgr.transports._valkey.problems import Moved, Refused
from asyncmgr.transports._valkey.scripts import Script

T = TypeVar("T")

RECONNECT_FIRST, RECONNECT_MOST = 0.5, 8.0
"""Seconds within which a lost connection is sought again, at random, so that many clients do not come back at
once: doubled from the first to the most."""

PING_EVERY = 5.0
"""Seconds between looks whether the server still answers."""

_CLOSED = "this store engine was closed; open a new one"


class Link:
    """Keeps one connection, and one to each node of a cluster that has stores of ours.

    Parameters
    ----------
    changed
        Called with False when the connection was lost, with True when there is another one.
    """

    def __init__(self, options: Options, changed: Callable[[bool], object]) -> None:
        self.options: Options = options
        self.closed: bool = False
        self._changed = changed
        self._main: Connection | None = None
        self._nodes: dict[Server, Connection] = {}
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._works: set[asyncio.Task[Any]] = set()
        self._policy_told = False

    async def open(self) -> None:
        """Connect, or raise `TransportError`, unless the options say that a server may come later."""
        try:
            self._main = await self._connect_any()
        except TransportError as exc:
            if not self.options.wait:
                raise
            self._changed(False)
            log.warning("transport.disconnected", server=self._name, error=str(exc))
            self._lost.set()
        self._keeper = asyncio.create_task(self._keep_connected(), name="asyncmgr store keeper")

    async def close(self) -> None:
        """Let all who wait know, and end the connections. Idempotent."""
        if self.closed:
            return
        self.closed = True
        tasks = [task for task in (self._keeper, *self._works) if task]
        for task in tasks:
            task.cancel()
        connections = [connection for connection in (self._main, *self._nodes.values()) if connection]
        for connection in connections:
            await connection.close(TransportClosed(_CLOSED))
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> Connection:
        """The connection, where there is one."""
        if self.closed:
            raise TransportClosed(_CLOSED)
        if self._main is None or not self._main.alive:
            raise TransportError("not connected; try again once `connected` is true")
        return self._main

    async def run(
        self, at: Server | None, script: Script, keys: list[str], args: list[str | bytes]
    ) -> tuple[Server | None, Any]:
        """Run a script where `keys` are: at this node, as far as is known. Returns the node, and the answer."""
        main = self.check()
        with suppress(Moved):
            node = self._nodes.get(at) if at else main
            if node and node.alive:
                return at, await node.run(script, keys, args)
        try:
            return None, await main.run(script, keys, args)
        except Moved as exc:
            node = await self.until_closed(self._node(exc.server))
            return exc.server, await node.run(script, keys, args)

    async def until_closed(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this work; raise `TransportClosed` where the link is closed meanwhile."""
        if self.closed:
            work.close()
            raise TransportClosed(_CLOSED)
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if self.closed and task.cancelled() and not _is_cancelled():
                raise TransportClosed(_CLOSED) from None
            raise

    async def _node(self, server: Server) -> Connection:
        if (known := self._nodes.get(server)) and known.alive:
            return known
        opened = Connection(server, self.options)
        await opened.open()
        if (known := self._nodes.get(server)) and known.alive:  # somebody else was faster
            await opened.close(TransportError("another connection is in use"))
            return known
        self._nodes[server] = opened
        return opened

    # The main connection

    @property
    def _name(self) -> str:
        return str(self._main.server) if self._main else ", ".join(map(str, self.options.servers))

    async def _keep_connected(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PING_EVERY):
                    await self._lost.wait()
            if self._lost.is_set():
                self._lost.clear()
                await self._return()
            elif self._main and self._main.alive:
                with suppress(TransportError):
                    await self._main.ask("PING")

    async def _return(self) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._main = await self._reconnect()
        log.info("transport.reconnected", server=self._name, after_seconds=round(loop.time() - since, 3))
        self._changed(True)

    async def _reconnect(self) -> Connection:
        refused = False
        for doublings in itertools.count():
            await asyncio.sleep(
                random.uniform(0, min(RECONNECT_MOST, RECONNECT_FIRST * 2.0 ** min(doublings, 16)))
            )
            try:
                return await self._connect_any()
            except TransportError as exc:
                if not refused and isinstance(exc, Refused):
                    refused = True
                    log.warning("transport.refused", server=self._name, error=str(exc))
        raise AssertionError("unreachable")

    async def _connect_any(self) -> Connection:
        problems: list[TransportError] = []
        servers = self.options.servers
        for server in random.sample(servers, len(servers)):
            try:
                return await self._connect_to(
                    await self._primary(server) if self.options.sentinel else server
                )
            except TransportError as exc:
                problems.append(exc)
            except Exception as exc:  # it must not end the search
                problems.append(TransportError(f"{server}: {error_text(exc)}"))
        if len(problems) == 1:
            raise problems[0]
        kind = Refused if all(isinstance(problem, Refused) for problem in problems) else TransportError
        raise kind("; ".join(map(str, problems)))

    async def _connect_to(self, server: Server) -> Connection:
        connection = Connection(server, self.options, lost=self._note_loss)
        await connection.open()
        try:
            await connection.probe()
            await self._look_around(connection)
        except BaseException:
            await connection.close(TransportError("the connection was not taken into use"))
            raise
        return connection

    def _note_loss(self, connection: Connection, error: TransportError) -> None:
        if connection is self._main and not self.closed:
            log.warning("transport.disconnected", server=str(connection.server), error=str(error))
            self._lost.set()
            self._changed(False)

    async def _primary(self, sentinel: Server) -> Server:
        """Ask a sentinel, first without the servers' password: few sentinels have one."""
        nobody = replace(self.options, database=0, user=None, password=None)
        try:
            return await self._ask_sentinel(sentinel, nobody)
        except Refused:
            if self.options.password is None:
                raise
        return await self._ask_sentinel(sentinel, replace(self.options, database=0))

    async def _ask_sentinel(self, sentinel: Server, options: Options) -> Server:
        connection = Connection(sentinel, options)
        await connection.open()
        try:
            found = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.sentinel or "")
        finally:
            await connection.close(TransportError("it was asked only once"))
        if found is None:
            raise Refused(
                f"sentinel {sentinel} knows no {options.sentinel}; correct ?sentinel= in the store URL"
            )
        return Server(found[0].decode(), int(found[1]))

    async def _look_around(self, connection: Connection) -> None:
        """Check what would go wrong later: a list of servers that are no cluster, keys that may be thrown out."""
        several = len(self.options.servers) > 1 and not self.options.sentinel
        try:
            answer = await connection.ask("INFO")
        except Refused:
            if several:
                raise
            return  # not permitted, and nothing depends on it
        lines = answer.decode(errors="replace").splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        if several and facts.get("cluster_enabled") != "1":
            raise Refused(
                f"{connection.server} is no node of a cluster, and two primaries would be two stores; name one "
                "server in the store URL, or sentinels with ?sentinel=NAME"
            )
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and not self._policy_told:
            self._policy_told = True
            log.warning(
                "eviction.allowed",
                server=str(connection.server),
                policy=policy,
                cure="it may throw out what a live host keeps; set maxmemory-policy noeviction",
            )


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
