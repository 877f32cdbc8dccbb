"""`KeyShares`: shares out the keys of one task with `each=` and ``scope="cluster"`` among the hosts that have it.

The keys hash onto shards (`key_shard`). Each shard is a name that is claimed like any other, with a token of its own,
so that all rules of sessions and claims hold for it, and no key needs a write. The keys of the shards that this host
holds are in the task's ring; the gate refuses all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Literal

from asyncmgr._common.log import log
from asyncmgr._common.timer import Timer
from asyncmgr._leases.calls import Doubt
from asyncmgr._leases.cluster import Cluster
from asyncmgr._leases.key_shard import Shard
from asyncmgr._leases.keys import shards_key
from asyncmgr._leases.records import ShardsRecord, decode
from asyncmgr._leases.shards import choose_excess, choose_free, shard_of
from asyncmgr._tasks.gate import Answer, Gate, Holding, TaskPause
from asyncmgr._tasks.key_refresh import in_steps
from asyncmgr._tasks.keys import KeyedTask, Keys
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr.errors import RevisionConflict
from asyncmgr.events import Outcome

_AT_ONCE = 32
"""The number of shards that are begun in one turn of the event loop: less than a millisecond of work."""


class KeyShares(Gate):
    """The gate of one task, and its shards on this host.

    Parameters
    ----------
    count
        The number of shards, where no host has chosen one before.
    """

    def __init__(self, task: KeyedTask, runner: Runner, cluster: Cluster, count: int) -> None:
        self.task, self.runner, self.cluster = task, runner, cluster
        self.name = task.full_name
        self._loop = asyncio.get_running_loop()
        self._first_count = count
        self.shards: list[Shard] = []
        self.keys: list[Keys] = []
        """All keys of the manager, by shard."""
        self.all: Keys = {}
        self._news: Keys = {}
        """Keys that the manager has given for the first time, and not at its first answer."""
        self._planned = Timer(self._plan)
        self._work: asyncio.Task[None] | None = None
        self._is_stale = False
        """Whether the ring lacks a change of the shards."""
        self._members: frozenset[str] = frozenset()
        self.is_leaving = self.is_paused = False

    def open(self) -> None:
        """Begin to take part."""
        self.task.share = self
        self.cluster.add_share(self)
        self._work = self._loop.create_task(self._begin())

    async def _begin(self) -> None:
        """Agree with the other hosts on the number of shards, then claim some."""
        while True:
            try:
                count = await self._agree()
                break
            except Doubt:
                await asyncio.sleep(self.cluster.rules.retry_in())
        self.keys = [{} for _ in range(count)]
        shards: list[Shard] = []
        for number in range(count):
            shards.append(Shard(self, number))
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        while True:
            keys = self.all
            parts = await self._sorted(keys)
            if keys is self.all:  # else the manager has given others meanwhile
                break
        self.keys, self.shards = parts, shards
        for shard in shards:
            self.cluster.claims.want(shard.key, shard)
            shard.seen()  # its claim may stand there for long
            if shard.number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        self._work = None
        self.plan_soon()

    async def _agree(self) -> int:
        calls, key = self.cluster.calls, shards_key(self.cluster.application, self.name)
        store = await self.cluster.stores.slots()
        while True:
            entry = await calls.get(store, key)
            if entry is not None:
                found = decode(ShardsRecord, entry.value, self.cluster.rules.knows)
                if isinstance(found, ShardsRecord) and found.shards > 0:
                    return found.shards
                log.error(
                    "keys.not_shared", task=self.name, reason="a newer program wrote the number of shards"
                )
                raise Doubt("a newer program wrote the number of shards")
            try:
                await calls.write(store, key, ShardsRecord(self._first_count), 0)
            except RevisionConflict:
                continue
            return self._first_count

    # Keys

    async def put(self, keys: Keys) -> Keys:
        """Take in all keys of the manager; return those that run here. Others work in between."""
        parts = await self._sorted(keys)
        before, self.all = self.all, keys
        self._news = {}
        if before:
            async for key in in_steps(keys):
                if key not in before:
                    self._news[key] = None
        if len(parts) != len(self.keys):  # the number of shards was agreed on meanwhile
            parts = await self._sorted(keys)
        self.keys = parts
        self._is_stale = False
        return await self._mine()

    async def _sorted(self, keys: Keys) -> list[Keys]:
        """Sort keys by shard."""
        count = len(self.keys)
        parts: list[Keys] = [{} for _ in range(count)]
        if count:
            async for key in in_steps(keys):
                parts[shard_of(self.name, key, count)][key] = keys[key]
        return parts

    async def _mine(self) -> Keys:
        found: Keys = {}
        for shard in self.shards:
            if shard.is_active:
                found.update(self.keys[shard.number])
                await asyncio.sleep(0)
        return found

    async def _moved(self) -> Keys:
        self._news = {}  # what comes with a shard is not new, whoever has run it
        return await self._mine()

    def begins(self, key: Hashable) -> int | None:
        """Return the moment after which the slots of a key are to be run here; `None` = from now on."""
        if not self.shards or key in self._news:
            return None
        return self.shards[shard_of(self.name, key, len(self.shards))].since

    def _tell(self) -> None:
        held = sum(1 for shard in self.shards if shard.is_active)
        log.info(
            "keys.shared",
            task=self.name,
            session=self.cluster.session.inc,
            shards=held,
            of=len(self.shards),
            hosts=len(self._members),
            keys=len(self.task.keys.ring),
        )

    def change_soon(self) -> None:
        """Put the keys of the shards that this host holds into the ring, soon."""
        self._is_stale = True
        if (self._work is None or self._work.done()) and self.runner.lookout.is_open:
            self._work = self._loop.create_task(self._change())

    async def _change(self) -> None:
        await asyncio.sleep(0)  # others may come in this turn
        while self._is_stale:
            self._is_stale = False
            await self.runner.refreshes.put(self.task, self._moved)
        self._tell()

    # Members and quota

    def look(self) -> None:
        """Look whether other hosts have come or gone."""
        members = frozenset(self.cluster.peers.sharing(self.name)) | {self.cluster.session.inc}
        if members != self._members:
            self._members = members
            self.plan_soon()

    @property
    def hosts(self) -> int:
        return max(1, len(self._members))

    def now(self) -> float:
        return self._loop.time()

    def plan_soon(self) -> None:
        self._planned.set_by(self._loop.time())

    @property
    def quota(self) -> int:
        return 0 if self.is_leaving else self.cluster.rules.shard_quota(len(self.shards), len(self._members))

    def _plan(self) -> None:
        """Choose the shards to claim and those to give up."""
        self._members = frozenset(self.cluster.peers.sharing(self.name)) | {self.cluster.session.inc}
        own = self.cluster.session.inc
        held = {shard.number for shard in self.shards if shard.is_held}
        pending = {shard.number for shard in self.shards if shard.is_pending}
        leaving = {number for number in held if not self.shards[number].is_chosen}
        busy = {number for number in held if self.shards[number].runs}
        excess = set(choose_excess(held | pending, self.quota, own, leaving, busy))
        free = () if self.is_paused else (shard.number for shard in self.shards if shard.is_free)
        chosen = {*held, *pending, *choose_free(free, len(held | pending), self.quota, own)} - excess
        for shard in self.shards:
            if (shard.number in chosen) != shard.is_chosen:
                shard.choose(shard.number in chosen)

    # Gate

    def not_here(self, run: Run) -> Literal["not_owner", "lease_lost"] | None:
        return self.shard_of(run).not_here(run) if self.shards else "not_owner"

    def ask(self, run: Run) -> Answer:
        if not self.shards:
            return "not_owner"
        return self.shard_of(run).ask(run)

    def shard_of(self, run: Run) -> Shard:
        return self._shard_of_key(run.key)

    def _shard_of_key(self, key: Hashable) -> Shard:
        return self.shards[shard_of(self.name, key, len(self.shards))]

    def is_settled(self, task: ManagedTask) -> bool:
        if not self.shards:
            return True
        return self.cluster.claims.is_settled(self._shard_of_key(task.each_key).key)

    async def until_settled(self, task: ManagedTask) -> None:
        if self.shards:
            await self.cluster.until_settled(self._shard_of_key(task.each_key).key)

    def still_holds(self, run: Run) -> bool:
        return self.shard_of(run).still_holds(run)

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        self.shard_of(run).ended(run, outcome)

    def holder(self) -> str | None:
        return None

    def holder_for(self, run: Run) -> str | None:
        held = None if run.key is None else self.holder_of(run.key)
        return None if held is None else held.owner

    def holder_of(self, key: Hashable) -> Holding | None:
        """Say who holds the shard of a key."""
        if not self.shards:
            return None
        return self.cluster.holder_of(self.shards[shard_of(self.name, key, len(self.shards))].key)

    def holding(self) -> Holding | None:
        return None

    def paused(self, pause: TaskPause | None) -> None:
        self.is_paused = pause is not None
        self.plan_soon()

    def stopping(self) -> None:
        """Give up each shard as soon as its runs have ended; other hosts may hold more from now on."""
        self.is_leaving = True
        self.cluster.drop_share(self)
        self._plan()

    def close(self) -> None:
        self.stopping()
        self._planned.drop()
        if self._work is not None:
            self._work.cancel()
        self.task.share = None
        for shard in self.shards:
            self.cluster.claims.leave(shard.key, shard)
