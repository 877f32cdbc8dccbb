"""`Shard`: a part of the keys of one task, which one host holds at a time. See `key_shares`.

* A shard that was released goes on where its last holder stopped, which stands in the claim.
* A dead holder may have run anything since its last sign of life: each key that had a slot since then gets one run.
* A shard over the quota is released at a moment without runs. Where there is none, it starts no run for a while, longer
  from try to try.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from asyncmgr._common.clock import SECOND, to_us
from asyncmgr._common.timer import Timer
from asyncmgr._leases.cluster import Cluster
from asyncmgr._leases.holder import Hold, Holder, LostWhy
from asyncmgr._leases.keys import shard_key
from asyncmgr._leases.shards import FIRST_PATIENCE, LONGEST_PATIENCE
from asyncmgr._tasks.gate import Answer, SlotClaim
from asyncmgr._tasks.key_ring import KeyRing
from asyncmgr._tasks.keys import KeyedTask, Keys
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr.events import Outcome


class Group(Protocol):
    """What a shard needs of all shards of its task."""

    name: str
    task: KeyedTask
    runner: Runner
    cluster: Cluster
    keys: list[Keys]

    def shard_of(self, run: Run) -> Shard: ...  # pragma: no cover
    def now(self) -> float: ...  # pragma: no cover
    def plan_soon(self) -> None: ...  # pragma: no cover
    def change_soon(self) -> None: ...  # pragma: no cover


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

    def __init__(self, group: Group, number: int) -> None:
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
    def _ring_of_keys(self) -> KeyRing:
        return self._group.task.keys.ring

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
        elif not self.is_chosen and self.is_active and self.runs and self._owes:
            self._timer.set(self._group.now() + 0.1)  # what is about to be handed out runs first
        elif not self.is_chosen and self.is_active and self.runs:
            self._closing = _Closing(self._reached(), [])
            self._timer.set(self._group.now() + self._patience)

    def _reached(self) -> int:
        """Return the moment up to which this host has run the slots of its keys."""
        now, ring = self._group.runner.read().now, self._ring_of_keys
        keys = self._group.keys[self.number]
        if keys and not any(key in ring.known for key in keys):  # held too shortly to run any
            return self._without_runs(self.since, self.gained_at)
        reached = ring.handed_out(now, keys)
        if reached is None:  # some were set aside: rather once more than never
            reached = max(now - ring.spacing, ring.anchor if self.since is None else self.since)
        return reached if self._unstarted is None else min(reached, self._unstarted - 1)

    def _without_runs(self, since: int | None, held_from: int) -> int:
        """Return the moment up to which the slots of its keys are done, where this host has run none of them."""
        if since is not None:
            return since
        # Nobody has ever run them. Whoever is next does so at once where that is wanted, as for a slot that was missed.
        turn_ago = self._group.runner.read().now - self._ring_of_keys.spacing
        return turn_ago if self._group.task.options.run_immediately else max(turn_ago, held_from)

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
        return self._ring_of_keys.owed_to(self._group.keys[self.number]) != []

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
        group, now = self._group, self._group.runner.read().now
        self.since, self.hold, self._own_stop = self._begins_at(hold), hold, None
        if self.since is not None:
            self.since = group.cluster.rules.resumes_at(self.since, now)
        self.gained_at = now
        self._free_since = self._stopped = None
        group.plan_soon()
        group.change_soon()

    def _begins_at(self, hold: Hold) -> int | None:
        """Return the moment up to which others, or this host before, ran its keys; `None` = nobody is known to have."""
        group = self._group
        moment, now = group.runner.read(), group.now()
        if self._own_stop is not None and self._own_stop[0] == hold.taken_from:
            return self._own_stop[1]
        if hold.taken_from is not None:
            return moment.now - to_us(now - group.cluster.peers.last_alive(hold.taken_from))
        if self._free_since is not None:
            return self._stopped_at(moment.now - to_us(now - self._free_since))
        return None if self.hold is None else self.since

    def _stopped_at(self, about: int) -> int:
        """Find out exactly where the last holder stopped: a slot in between would be lost, or come twice."""
        ring, (place, every) = self._ring_of_keys, self._free_place
        if every != ring.spacing:
            return about
        return self._group.cluster.rules.stopped_at(about, ring.moment_of(place, about))

    def place(self) -> tuple[int, int]:
        ring = self._ring_of_keys
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
        if self.hold is not hold:  # it never came to act: nobody has run the keys since the last holder
            self._stopped = self._without_runs(self._begins_at(hold), self._group.runner.read().now)
        else:
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
