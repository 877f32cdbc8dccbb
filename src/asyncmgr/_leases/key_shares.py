"""`KeyShares`: shares out the keys of one task with `each=` and ``scope="cluster"`` among the hosts that have it.

The keys hash onto shards. Each shard is a name that is claimed like any other, with a token of its own, so that all
rules of sessions and claims hold for it, and no key needs a write. The keys of the shards that this host holds are in
the task's ring; the gate refuses all others.

* A shard that was released goes on where its last holder stopped, which stands in the claim.
* A dead holder may have run anything since its last sign of life: each key that had a slot since then gets one run.
* A shard over the quota is released at a moment without runs. Where there is none, it starts no run for a while, longer
  from try to try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Literal

from asyncmgr._common.clock import SECOND, to_us
from asyncmgr._common.log import log
from asyncmgr._common.timer import Timer
from asyncmgr._leases.calls import Doubt
from asyncmgr._leases.cluster import Cluster
from asyncmgr._leases.holder import Hold, Holder, LostWhy
from asyncmgr._leases.keys import shard_key, shards_key
from asyncmgr._leases.records import ShardsRecord, decode
from asyncmgr._leases.shards import (
    FIRST_PATIENCE,
    LONGEST_PATIENCE,
    choose_excess,
    choose_free,
    shard_of,
)
from asyncmgr._tasks.gate import Answer, Gate, Holding, SlotClaim
from asyncmgr._tasks.keys import KeyedTask, Keys
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr.errors import RevisionConflict
from asyncmgr.events import Outcome


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
        self._sort(self.all)
        self.shards = [Shard(self, number) for number in range(count)]
        for shard in self.shards:
            self.cluster.claims.want(shard.key, shard)
            shard.seen()  # its claim may stand there for long
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

    def put(self, keys: Keys) -> Keys:
        """Take in all keys of the manager; return those that run here."""
        before, self.all = self.all, keys
        self._news = {key: None for key in keys if key not in before} if before else {}
        self._sort(keys)
        self._is_stale = False
        return self._mine()

    def _sort(self, keys: Keys) -> None:
        count = len(self.keys)
        for part in self.keys:
            part.clear()
        if count:
            for key, given in keys.items():
                self.keys[shard_of(self.name, key, count)][key] = given

    def _mine(self) -> Keys:
        found: Keys = {}
        for shard in self.shards:
            if shard.is_active:
                found.update(self.keys[shard.number])
        return found

    def _moved(self) -> Keys:
        self._news = {}  # what comes with a shard is not new, whoever has run it
        return self._mine()

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

    def paused(self, *, is_paused: bool) -> None:
        self.is_paused = is_paused
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


@dataclass(slots=True)
class _Closing:
    """A while in which a shard starts no run, so that it can be handed over."""

    reached: int
    """The moment up to which its slots were handed out, before."""
    waiting: list[Run]
    """Runs that were handed out since."""


class Shard(Holder):
    """One shard of the keys of a task."""

    kind: ClassVar[Literal["task", "lease"]] = "task"
    is_shared_out: ClassVar[bool] = False
    is_part: ClassVar[bool] = True

    def __init__(self, group: KeyShares, number: int) -> None:
        self._group = group
        self.number = number
        self.name = f"{group.name}/{number}"
        self.key = shard_key(group.cluster.application, group.name, number)
        self.hold: Hold | None = None
        self.is_chosen = False
        """Whether this host is to hold it."""
        self.runs = 0
        """Runs that were admitted and have not ended."""
        self.since: int | None = None
        """The moment after which its slots are run here, in scheduling time; `None` = it never was another host's."""
        self.gained_at = 0
        """The moment from which it has been held here, in scheduling time."""
        self._own_stop: tuple[str, int] | None = None
        """The session that lost it here, and the moment up to which that has run its keys."""
        self._unstarted: int | None = None
        """The first slot that was admitted and never started, since the service stops."""
        self._free_since: float | None = None
        """The loop time up to which the last holder has run its keys; `None` = that is not known."""
        self._free_place = 0, 0
        """The same moment, exactly: the place in a turn, and the length of the turn; (0, 0) = not known."""
        self._stopped: int | None = None
        self._closing: _Closing | None = None
        self._patience = FIRST_PATIENCE
        self._timer = Timer(self._ring)

    # What it is

    @property
    def is_active(self) -> bool:
        return self.hold is not None and self.hold.is_active

    @property
    def is_held(self) -> bool:
        """Whether it is claimed by this host, perhaps without the right to act."""
        name = self._group.cluster.claims.find(self.key)
        return name is not None and name.hold is not None

    @property
    def is_pending(self) -> bool:
        """Whether it is being claimed."""
        name = self._group.cluster.claims.find(self.key)
        return self.is_chosen and name is not None and name.hold is None and name.operation is not None

    @property
    def is_free(self) -> bool:
        """Whether nobody seems to hold it."""
        cluster = self._group.cluster
        seen = cluster.board.get(self.key)
        if seen.record is not None and seen.claim is None:
            return False
        owner = seen.owner
        return cluster.rules.is_free(
            seen.claim, owner_dead=owner is not None and cluster.peers.is_dead(owner)
        )

    def choose(self, is_chosen: bool) -> None:
        """Begin to claim it, or to give it up."""
        self.is_chosen = is_chosen
        self._open_again()
        self._patience = FIRST_PATIENCE
        if not is_chosen and self.is_active and self.runs:
            self._timer.set(self._group.now() + 1.0)
        else:
            self._timer.drop()
        self._group.cluster.claims.touch(self.key)

    # Handing over

    def _ring(self) -> None:
        """Stop or go on to start runs, while it is to be handed over and never idle."""
        if self._closing is not None:
            self._open_again()
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
            self._timer.set(self._group.now() + 2.0)
        elif not self.is_chosen and self.is_active and self.runs:
            self._closing = _Closing(self._reached(), [])
            self._timer.set(self._group.now() + self._patience)

    def _reached(self) -> int:
        """Return the moment up to which this host has run the slots of its keys."""
        now, ring = self._group.runner.read().now, self._group.task.keys.ring
        reached = ring.handed_out(now, self._group.keys[self.number])
        if reached is None:  # some were set aside: rather once more than never
            reached = max(now - ring.spacing, ring.anchor if self.since is None else self.since)
        return reached if self._unstarted is None else min(reached, self._unstarted - 1)

    def _open_again(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            for run in closing.waiting:
                answer = self.ask(run)
                if answer != "run":
                    self._group.runner.refuse(run, "lease_lost" if answer == "lease_lost" else "not_owner")
                elif not self._group.runner.admit(run):
                    self.runs -= 1

    # Runs

    def not_here(self, run: Run) -> Literal["not_owner", "lease_lost"] | None:
        if not self.is_active:
            return "not_owner"
        if not self._group.cluster.rules.still_starts(trusted=self._group.cluster.trusted):
            self._group.cluster.keeper.hasten()
            return "lease_lost"
        if run.asked is None and self.since is not None and run.planned <= self.since:
            return "not_owner"  # the holder before has run it
        return None

    def ask(self, run: Run) -> Answer:
        hold, refusal = self.hold, self.not_here(run)
        if hold is None or refusal is not None:
            return refusal or "not_owner"
        if self._closing is not None:
            self._closing.waiting.append(run)
            return "later"
        run.claim = SlotClaim(
            hold.token, stands_for="lease_lost" if run.missed and run.planned < self.gained_at else None
        )
        if run.asked is None and run.planned < self.gained_at:
            run.asked = "catch_up"
        self.runs += 1
        return "run"

    def still_holds(self, run: Run) -> bool:
        hold, claim = self.hold, run.claim
        if hold is None or claim is None or claim.token != hold.token:
            return False
        cluster = self._group.cluster
        return hold.is_active and cluster.rules.still_starts(trusted=cluster.trusted)

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        self.runs -= 1
        if outcome is None and run.asked != "manual" and not self._group.runner.lookout.is_open:
            self._unstarted = run.planned if self._unstarted is None else min(self._unstarted, run.planned)
        if not self.runs and not (self.is_chosen and self.is_active):
            # The standing counts the run until this call is over.
            asyncio.get_running_loop().call_soon(self._group.cluster.claims.touch, self.key)

    # Holder

    @property
    def is_wanted(self) -> bool:
        return self.is_chosen

    @property
    def is_busy(self) -> bool:
        return not self._group.cluster.rules.may_hand_over(busy=self.runs > 0 or self._owes)

    @property
    def _owes(self) -> bool:
        """Whether slots of its keys are about to be handed out."""
        if self.hold is None or not self.hold.is_active or not self._group.runner.lookout.is_open:
            return False
        return self._group.task.keys.ring.owed_to(self._group.keys[self.number]) != []

    def seen(self) -> None:
        """Note since when nobody runs its keys, and plan anew: its claim has changed."""
        cluster = self._group.cluster
        seen = cluster.board.get(self.key)
        if seen.claim is not None and seen.claim.owner is None:
            self._free_since = seen.at - seen.claim.lag / SECOND
            self._free_place = seen.claim.place, seen.claim.every
        elif seen.owner is not None and seen.owner != cluster.session.inc:
            self._free_since = None
        self._group.plan_soon()

    def gained(self, hold: Hold) -> None:
        group = self._group
        moment, now = group.runner.read(), group.now()
        was, self.hold = self.hold, hold
        own_stop, self._own_stop = self._own_stop, None
        if own_stop is not None and own_stop[0] == hold.taken_from:
            self.since = own_stop[1]
        elif hold.taken_from is not None:
            self.since = moment.now - to_us(now - group.cluster.peers.last_alive(hold.taken_from))
        elif self._free_since is not None:
            self.since = self._stopped_at(moment.now - to_us(now - self._free_since))
        elif was is None:
            self.since = None
        if self.since is not None:
            self.since = group.cluster.rules.resumes_at(self.since, moment.now)
        self.gained_at = moment.now
        self._free_since = self._stopped = None
        group.plan_soon()
        group.change_soon()

    def _stopped_at(self, about: int) -> int:
        """Find out exactly where the last holder stopped: a slot in between would be lost, or come twice."""
        ring, (place, every) = self._group.task.keys.ring, self._free_place
        return ring.moment_of(place, about) if every == ring.spacing else about

    def place(self) -> tuple[int, int]:
        ring = self._group.task.keys.ring
        return (0, 0) if self._stopped is None else (ring.place_of(self._stopped), ring.spacing)

    def lag(self) -> int:
        """Return the microseconds since the last moment up to which this host has run its keys."""
        return 0 if self._stopped is None else self._group.runner.read().now - self._stopped

    def lost(self, why: LostWhy) -> None:
        group = self._group
        if self.hold is not None:
            reached = self._reached()
            self._own_stop = self.hold.session.inc, reached
            if why == "trust_ended":
                self.since = reached
            else:
                self.hold = None
        self._closing, waiting = None, self._closing
        if waiting is not None:
            for run in waiting.waiting:
                group.runner.refuse(run, "lease_lost")
        group.runner.withdraw(group.task, lambda run: group.shard_of(run) is self)
        group.plan_soon()
        group.change_soon()

    async def settle(self, hold: Hold) -> None:
        closing, self._closing = self._closing, None
        self._timer.drop()
        self._stopped = self._reached() if closing is None else closing.reached
        self.hold = None
        if closing is not None:
            for run in closing.waiting:
                self._group.runner.refuse(run, "not_owner")
        self._group.plan_soon()
        self._group.change_soon()

    def left(self) -> None:
        self.hold = None
        self._timer.drop()
