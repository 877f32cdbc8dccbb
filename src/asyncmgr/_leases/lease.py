"""`Lease`: the right to be the only one of an application that does something, for as long as a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from asyncmgr._common.cancellation import current_task
from asyncmgr._common.safe_text import printable
from asyncmgr._leases.cluster import Cluster
from asyncmgr._leases.holder import Hold, Holder, LostWhy
from asyncmgr._leases.keys import lease_key
from asyncmgr.errors import LostLease, ServiceStateError

OnLost = Literal["cancel", "tell"]
"""What happens to the block of a lease that is lost: it is cancelled; or it is told by `Lease.lost` only."""


class Lost:
    """Whether a lease was lost: true or false, and something to wait for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def __await__(self) -> Generator[Any, None, bool]:
        return self._event.wait().__await__()

    def __repr__(self) -> str:
        return "<lost>" if self else "<not lost>"

    def set(self) -> None:
        """Note that the lease is lost."""
        self._event.set()


class Lease:
    """A lease, to be entered once by ``async with``: it waits until no other process or task holds it.

    It ends with the block; where this process cannot reach the store for three quarters of the TTL it is lost earlier,
    since others may then hold it.
    """

    def __init__(self, cluster: Callable[[], Cluster], name: str, on_lost: OnLost) -> None:
        self.name = name
        self.lost: Lost = Lost()
        """Whether the lease was lost; ``await lease.lost`` waits for that."""
        self._make_cluster, self._on_lost = cluster, on_lost
        self._cluster: Cluster | None = None
        self._holder: _LeaseHolder | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._was_cancelled = False

    def __repr__(self) -> str:
        return f"<Lease {printable(self.name)}>"

    @property
    def fencing_token(self) -> int:
        """A number below 2^53 that grows with each change of the holder; see `RunContext.fencing_token`."""
        if self._holder is None or self._holder.token is None:
            raise ServiceStateError(f"the lease {self.name} is not held; enter it by 'async with' first")
        return self._holder.token

    async def __aenter__(self) -> Self:
        if self._holder is not None:
            raise ServiceStateError(
                f"this lease {self.name} was entered before; ask for another: service.lease()"
            )
        cluster = self._cluster = self._make_cluster()
        self._holder = _LeaseHolder(self.name, lease_key(cluster.application, self.name), self._lose)
        turn = cluster.turn(self._holder.key)
        await turn.acquire()
        try:
            cluster.claims.want(self._holder.key, self._holder)
            await self._holder.wait()
        except BaseException:
            self._leave()
            turn.release()
            raise
        self._task = current_task()
        self._cancelling = self._task.cancelling()
        if self.lost:  # between the gain and this turn of the loop
            self._cut()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._cluster is not None
        assert self._holder is not None
        task, self._task = self._task, None
        self._leave()
        self._cluster.turn(self._holder.key).release()
        if self._was_cancelled and task is not None:
            if task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
                raise LostLease(
                    f"the lease {self.name} was lost and its block cancelled: the store was out of reach for too long, "
                    "or another process holds the lease"
                ) from exc
        elif not self.lost:
            await self._holder.wait_left(self._cluster.session.trust_left)

    def _leave(self) -> None:
        if self._cluster is not None and self._holder is not None:
            self._holder.is_over = True
            self._cluster.claims.leave(self._holder.key, self._holder)

    def _lose(self) -> None:
        self.lost.set()
        if self._task is not None:
            self._cut()

    def _cut(self) -> None:
        if self._on_lost == "cancel" and self._task is not None:
            self._was_cancelled = True
            self._task.cancel()


class _LeaseHolder(Holder):
    """Holds the name of one lease, once."""

    kind: ClassVar[Literal["task", "lease"]] = "lease"
    is_shared_out: ClassVar[bool] = False

    def __init__(self, name: str, key: str, lose: Callable[[], object]) -> None:
        self.name, self.key = name, key
        self.is_over = False
        """Whether the block has ended, or was told that the lease is lost."""
        self.token: int | None = None
        self._lose = lose
        self._gained = asyncio.Event()
        self._left = asyncio.Event()

    @property
    def is_wanted(self) -> bool:
        return not self.is_over

    @property
    def is_busy(self) -> bool:
        return False

    def gained(self, hold: Hold) -> None:
        self.token = hold.token
        self._gained.set()

    def lost(self, why: LostWhy) -> None:
        self.is_over = True  # it does not come back to a block that was told
        self._lose()

    def left(self) -> None:
        self._left.set()
        self._gained.set()

    async def wait(self) -> None:
        """Wait until the lease is held.

        Raises
        ------
        ServiceStateError
            The service stops.
        """
        await self._gained.wait()
        if self.token is None:
            raise ServiceStateError(f"the lease {self.name} cannot be had: the service stops")

    async def wait_left(self, seconds: float) -> None:
        """Wait until the lease is released, but no longer than others respect it anyway."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._left.wait()
        except TimeoutError:
            return
