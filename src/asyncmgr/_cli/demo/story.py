"""Plays the demonstration: hosts come and share the jobs out, memory is placed on them, and one host is killed.

Another host takes its jobs over; the host disappears, and comes back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asyncmgr._cli.demo import jobs
from asyncmgr._cli.demo.processes import DemoFailed, Processes
from asyncmgr._cli.demo.watching import Quote, Tell, Watch
from asyncmgr._monitoring.server import serve_http
from asyncmgr._rpc.client import RpcClient
from asyncmgr._service.service import Service
from asyncmgr._settings.model import Settings
from asyncmgr.capabilities import Hosts, HostState
from asyncmgr.errors import AsyncmgrError, NoResponders, RpcTimeout
from asyncmgr.transports import Transport, open_transport

TTL = "6s"
"""TTL of the hosts' announcements: a host that is killed is stale after three seconds."""

SHARES = {"n1": 0.40, "n2": 0.33, "n3": 0.27}
PLACEMENT = "p1"
_SERVICE = "compute"
_MANAGERS = "asyncmgr._cli.demo.managers"
_JOBS = [f"{jobs.__file__}:{manager}" for manager in ("Reports", "Invoices", "Search", "Images")]

LEASE_TTL = "5s"
"""TTL of the hosts' leases: the jobs of a host that is killed are another's this much later, and 0.5 s."""

KILL_AFTER = 20.0
"""Seconds until the first host is killed, and the least between one that is back and the next."""

_PICK_EACH = 3.0
_HELD = 24.0
"""Seconds that each pick reserves memory, so that the choice of host changes."""
_ONE_PICK = 0.05
"""The share of all memory that one pick reserves."""
_BACK_AFTER = 3.0
_STARTS_WITHIN = 60.0


@dataclass(slots=True)
class Scene:
    """The current state of the demonstration."""

    url: str = ""
    pids: dict[str, int] = field(default_factory=dict)
    """Process ids by host; only of hosts whose process runs."""
    view: Hosts | None = None

    @property
    def states(self) -> dict[str, HostState]:
        """States by host, without the hosts that are gone."""
        if self.view is None:
            return {}
        return {state.host: state for state in self.view.snapshot() if state.host in SHARES}


class Story:
    """Starts the hosts, places memory on them, and kills one host after the other.

    It also serves the page, as one more host that has no tasks of its own: so the page outlives whom it shows.
    """

    def __init__(
        self, scene: Scene, processes: Processes, tell: Tell, quote: Quote, *, kill_after: float
    ) -> None:
        self._scene = scene
        self._processes = processes
        self._tell = tell
        self._quote = quote
        self._kill_after = kill_after

    async def play(self) -> None:
        """Play until cancelled.

        Raises
        ------
        DemoFailed
            A process ended that should not.
        """
        scene = self._scene
        scene.url = await self._processes.start_server()
        self._tell("server", f"nats-server at {scene.url}")
        # Default settings, not read ones: the user's own credentials are for another server.
        settings = Settings.model_construct()
        async with (
            open_transport(scene.url, settings) as transport,
            self._page(transport, settings),
            Hosts(transport, _SERVICE) as view,
        ):
            scene.view = view
            try:
                await self._act(view, transport)
            finally:
                scene.view = None

    def _page(self, transport: Transport, settings: Settings) -> Service:
        service = Service(name=_SERVICE, host="page", transport=transport, settings=settings)
        token = secrets.token_urlsafe(16)

        def tell(url: str) -> None:
            self._tell("page", f"{url}?token={token}")

        serve_http(service, "127.0.0.1:0", token=token, opened=tell)
        return service

    async def _act(self, view: Hosts, transport: Transport) -> None:
        scene = self._scene
        watch = Watch(
            transport,
            _SERVICE,
            scene.url,
            pids=lambda: {host: pid for host, pid in scene.pids.items() if host in scene.states},
            tell=self._tell,
            quote=self._quote,
        )
        acts = [
            self._tell_changes(view),
            self._place(transport),
            watch.watch(),
            self._kill_now_and_then(watch),
            self._check(),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for act in acts:
                    group.create_task(act)
                self._start_all()
        except* AsyncmgrError as failed:
            raise failed.exceptions[0] from None

    def _start_all(self) -> None:
        for host in SHARES:
            self._start(host)
        pid = self._processes.start(
            PLACEMENT, self._scene.url, f"{_MANAGERS}:Placement", ASYNCMGR_CAPABILITY_TTL=TTL
        )
        self._tell("start", f"{PLACEMENT}, process {pid}: places memory")

    def _start(self, host: str, word: str = "start") -> None:
        share = SHARES[host]
        pid = self._processes.start(
            host,
            self._scene.url,
            f"{_MANAGERS}:Host",
            *_JOBS,
            ASYNCMGR_CAPABILITY_TTL=TTL,
            ASYNCMGR_LEASE__TTL=LEASE_TTL,
            ASYNCMGR_RPC_CONTROL="true",  # for the verbs of the page
            DEMO_SHARE=str(share),
        )
        self._scene.pids[host] = pid
        self._tell(word, f"{host}, process {pid}: {share:.0%} of the memory")

    async def _tell_changes(self, view: Hosts) -> None:
        said = {
            "joined": "has announced itself",
            "stale": "not heard of for half of its time",
            "left": "is gone: not heard of in time",
        }
        async for change in view.changes():
            if change.kind in said and change.host.host in SHARES:
                self._tell(change.kind, f"{change.host.host} {said[change.kind]}")

    async def _check(self) -> None:
        while True:
            self._processes.check()
            await asyncio.sleep(0.5)

    # Placing

    async def _place(self, transport: Transport) -> None:
        placement = RpcClient(transport, "placement", timeout=5)
        await self._wait_until_ready(placement)
        while True:
            await self._pick(placement)
            await asyncio.sleep(_PICK_EACH)

    async def _wait_until_ready(self, placement: RpcClient) -> None:
        builtin = placement.at(namespace="asyncmgr")
        deadline = time.monotonic() + _STARTS_WITHIN
        while True:
            try:
                await builtin.call("ping")
            except (NoResponders, RpcTimeout):
                if time.monotonic() > deadline:
                    raise DemoFailed(
                        f"{PLACEMENT} did not answer in {_STARTS_WITHIN:g} s; try again"
                    ) from None
            else:
                if len(self._scene.states) == len(SHARES):
                    return
            await asyncio.sleep(0.05)

    async def _pick(self, placement: RpcClient) -> None:
        offers = [state.capabilities for state in self._scene.states.values()]
        wanted = max(1, int(_ONE_PICK * sum(map(_memory, offers))))
        began = time.perf_counter()
        try:
            picked = await placement.call("pick", memory_mib=wanted, seconds=_HELD)
        except AsyncmgrError as exc:
            self._tell("pick", f"{wanted:,} MiB: {exc}")
            return
        took = (time.perf_counter() - began) * 1000
        self._tell(
            "pick",
            f"{wanted:,} MiB -> {picked['host']}, {picked['memory_free_mib']:,} left, in {took:.1f} ms",
        )

    # Killing

    async def _kill_now_and_then(self, watch: Watch) -> None:
        await asyncio.sleep(self._kill_after)
        while True:
            await self._until(lambda: watch.owner in self._scene.states)
            victim = watch.owner
            self._tell("kill -9", f"{victim}, process {self._scene.pids.pop(victim)}: no time for goodbye")
            watch.killed(victim)
            self._processes.kill(victim)
            await self._until(lambda host=victim: host not in self._scene.states)
            await asyncio.sleep(_BACK_AFTER)
            self._start(victim, "restart")
            await asyncio.sleep(max(KILL_AFTER, self._kill_after))

    async def _until(self, condition: Callable[..., bool]) -> None:
        while not condition():  # noqa: ASYNC110 - the view reports changes only, not its present state
            await asyncio.sleep(0.1)


def _memory(offered: Any) -> int:
    return int(offered.get("memory_free_mib", 0)) + int(offered.get("memory_reserved_mib", 0))
