"""`Claims`: acquires the names that this process wants, keeps, hands over and releases them.

One synchronous function, `_evaluate`, decides what is next for a name. It is called after every change of what is
known: by the watches, by the session, by an operation that ended, and for open names at every look. Operations (one a
name at a time) are the only code that waits.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

from asyncmgr._common.clock import read_wall, to_us
from asyncmgr._common.log import log
from asyncmgr._common.timer import Timer
from asyncmgr._leases.board import NOTHING, Board, Seen
from asyncmgr._leases.calls import Calls, Doubt, Stores
from asyncmgr._leases.holder import Hold, Holder, LostWhy
from asyncmgr._leases.peers import Peers
from asyncmgr._leases.records import ClaimRecord, Foreign
from asyncmgr._leases.rules import Rules
from asyncmgr._leases.session import Session, SessionKeeper
from asyncmgr.errors import RevisionConflict
from asyncmgr.events import LeaseAcquired, LeaseLost, LeaseReleased

_FOREIGN_PAUSE = 60.0
"""Seconds until a name is tried again whose slots a newer program has written."""

_SETTLE_LOOK = 0.05
"""Seconds between two looks whether a name is settled that has to wait for its next try."""

Tell = Callable[[LeaseAcquired | LeaseLost | LeaseReleased], object]

Write = Callable[..., object]
"""Adds an entry to a journal: called with its kind, the task, and facts by name."""

_WHY = {
    "taken": "another process has it, or its record is gone",
    "session_lost": "the others had not heard of this process for its TTL",
    "closed": "the service ended",
}


class Name:
    """One name that this process may hold."""

    __slots__ = (
        "hold",
        "holder",
        "in_doubt",
        "is_left",
        "is_queued",
        "kept_until",
        "key",
        "not_before",
        "operation",
        "ranked_among",
        "ready_at",
        "successor",
        "timer",
        "told",
    )

    def __init__(self, key: str, holder: Holder, ring: Callable[[], object]) -> None:
        self.key = key
        self.holder = holder
        self.hold: Hold | None = None
        self.operation: asyncio.Task[None] | None = None
        self.in_doubt = False
        """Whether a claim of ours may have been written, without an answer."""
        self.is_left = False
        """Whether it is given up for good as soon as it is released."""
        self.successor: Holder | None = None
        """What the name is wanted for next, when it is released."""
        self.ready_at: float | None = None
        """The loop time at which this process' turn comes to claim the name; `None` = it is not free."""
        self.ranked_among = 0
        """The number of live sessions among which that was found."""
        self.is_queued = False
        """Whether its turn has come, and too many others are being claimed."""
        self.told: str | None = None
        """The other session that the journal names as the holder; `None` = none."""
        self.kept_until = 0.0
        """The loop time before which it is not handed over: else hosts could pass it on for ever, and none run it."""
        self.not_before = 0.0
        """The loop time before which nothing is tried again."""
        self.timer = Timer(ring)

    @property
    def is_active(self) -> bool:
        return self.hold is not None and self.hold.is_active


class Claims:
    """The names that one process may hold."""

    def __init__(
        self,
        application: str,
        *,
        calls: Calls,
        stores: Stores,
        rules: Rules,
        board: Board,
        peers: Peers,
        keeper: SessionKeeper,
        tell: Tell,
        write: Write,
    ) -> None:
        self._application = application
        self._calls, self._stores, self._rules = calls, stores, rules
        self._board, self._peers, self._keeper = board, peers, keeper
        self._tell, self._write_down = tell, write
        self._now = asyncio.get_running_loop().time
        self._names: dict[str, Name] = {}
        self._open: dict[str, None] = {}
        """Names for which something is to be done, or may be soon."""
        self._claiming: set[str] = set()
        """Free names that are being claimed."""
        self._queue: list[tuple[int, str]] = []
        """A heap of those whose turn has come and that wait for a place, the best first."""
        self.is_ready = False
        """Whether the first snapshots have come: before, every name seems free."""
        self._is_closing = False

    def want(self, key: str, holder: Holder) -> None:
        """Try to hold a name, from now on; after its release where it is being given up."""
        before = self._names.get(key)
        if before is not None:
            before.successor = holder
            return
        name = self._names[key] = Name(key, holder, lambda: self.touch(key))
        self._evaluate(name)

    def leave(self, key: str, holder: Holder) -> None:
        """Release a name when nothing of it goes on here, and try to hold it no more."""
        name = self._names.get(key)
        if name is None:
            return
        if name.holder is holder:
            name.is_left = True
            self._evaluate(name)
        elif name.successor is holder:
            name.successor = None

    def find(self, key: str) -> Name | None:
        return self._names.get(key)

    def recheck(self, key: str) -> None:
        """Stop acting for a name until its claim is written anew: something else says that another process has it."""
        name = self._names.get(key)
        if name is not None and name.hold is not None and name.hold.is_active:
            name.hold.is_stale = True
            self._stop(name, name.hold, "taken")
            self._evaluate(name)

    def is_settled(self, key: str) -> bool:
        """Whether a name is neither being claimed nor taken over nor released here. Without trust nothing is."""
        name = self._names.get(key)
        if name is None or name.is_active or self._is_closing or not self._keeper.session.trusted:
            return True
        return name.hold is None and name.operation is None

    async def until_settled(self, key: str, within: float) -> None:
        """Wait, so many seconds at most, while a name is being claimed, taken over or released here."""
        deadline = self._now() + within
        while not self.is_settled(key) and (left := deadline - self._now()) > 0:
            operation = self._names[key].operation
            if operation is None:  # it waits for its next try
                await asyncio.sleep(min(_SETTLE_LOOK, left))
            else:
                await asyncio.wait({operation}, timeout=left)
                await asyncio.sleep(0)  # what follows it begins in a callback of its end

    def is_open(self, key: str) -> bool:
        """Whether something is to be done for a name, or may be soon."""
        return key in self._open

    def is_busy(self) -> bool:
        """Whether a body goes on here for a name that is held."""
        return any(name.hold is not None and name.holder.is_busy for name in self._names.values())

    def held(self) -> list[Name]:
        """List the names that are held and active."""
        return [name for name in self._names.values() if name.is_active]

    # What may have changed

    def touch(self, key: str) -> None:
        """Look at a name, since something about it may have changed."""
        name = self._names.get(key)
        if name is not None:
            self._evaluate(name)

    def changed(self, key: str) -> None:
        """Look at a name whose claim has changed."""
        name = self._names.get(key)
        if name is not None:
            name.ready_at = None
            name.holder.seen()
            self._evaluate(name)

    def died(self, inc: str) -> None:
        """Look at the names that a dead session held."""
        for key in self._board.of(inc):
            if (name := self._names.get(key)) is not None:
                self._note_death(name, inc)
            self.changed(key)

    def asked(self, inc: str) -> None:
        """Look at the name that a session asks for."""
        key = self._peers.wants(inc)
        if key:
            self.touch(key)

    def look(self) -> None:
        """Look at all open names, and ask for one where this host has less than its share."""
        for key in tuple(self._open):
            self.touch(key)
        if self.is_ready and not self._is_closing and self._keeper.session.trusted:
            self._keeper.ask_for(self._to_ask_for())

    def look_at_all(self) -> None:
        """Look at every name: the session, or its trust, has changed."""
        for name in tuple(self._names.values()):
            self._evaluate(name)

    def lose_all(self, session: Session) -> None:
        """Stop all that was held by a session that is lost."""
        for name in tuple(self._names.values()):
            if name.hold is not None and name.hold.session is session:
                self._lose(name, "session_lost")
            name.in_doubt = False

    # The decision

    def _evaluate(self, name: Name) -> None:
        """Decide what is next for a name, and begin it."""
        seen = self._board.get(name.key)
        self._note_other(name, seen)
        if name.hold is not None and self._is_over(name.hold, seen):
            self._lose(name, "taken")
        if name.operation is None:
            name.timer.drop()
            next_step = (
                self._step_of_claimant(name, seen)
                if name.hold is None
                else self._step_of_holder(name, name.hold)
            )
            if next_step is not None:
                self._begin(name, next_step)

    def _is_over(self, hold: Hold, seen: Seen) -> bool:
        """Whether the claim is no longer ours; what is older than our own write says nothing."""
        if seen is not NOTHING and seen.revision < hold.revision:
            return False
        return self._rules.must_stop(seen.claim, hold.session.inc)

    def _step_of_holder(self, name: Name, hold: Hold) -> Coroutine[Any, Any, None] | None:
        session, holder = self._keeper.session, name.holder
        self._open[name.key] = None
        if not session.trusted:
            hold.is_stale = True
            if hold.is_active:
                self._suspend(name, hold)
            return None
        if self._must_wait(name):
            return None
        if not hold.is_active and not self._rules.may_claim(
            known=True, trusted=True, unwinding=holder.is_busy
        ):
            return None  # until the bodies of before have ended
        if not self._is_wanted(name):
            return None if holder.is_busy else self._release(name, hold)
        if not hold.is_active:
            return self._claim_anew(name, hold) if hold.is_stale else self._take(name, hold)
        if self._is_asked(name):
            return None if holder.is_busy else self._release(name, hold)
        if name.kept_until <= self._now():
            self._open.pop(name.key, None)
        return None

    def _step_of_claimant(self, name: Name, seen: Seen) -> Coroutine[Any, Any, None] | None:
        session = self._keeper.session
        self._open.pop(name.key, None)
        if isinstance(seen.record, Foreign):
            return None
        is_ours = name.in_doubt or self._rules.is_ours(seen.claim, session.inc)
        if not is_ours and not self._is_wanted(name):
            self._forget(name)
            return None
        self._open[name.key] = None
        if not self.is_ready or self._must_wait(name):
            return None
        if is_ours:
            return self._resolve(name, session) if session.trusted else None
        if not self._rules.may_claim(known=True, trusted=session.trusted, unwinding=name.holder.is_busy):
            return None
        if not (self._is_turn(name, seen) and self._has_place(name, session.inc)):
            return None
        return self._acquire(name, seen, session)

    def _is_wanted(self, name: Name) -> bool:
        return not (self._is_closing or name.is_left) and name.holder.is_wanted

    def _is_turn(self, name: Name, seen: Seen) -> bool:
        """Whether a name is free, and it is this process' turn to claim it."""
        owner = seen.owner
        if not self._rules.is_free(seen.claim, owner_dead=owner is not None and self._peers.is_dead(owner)):
            if owner is not None and seen.claim is not None:
                self._peers.see_owner(owner, seen.claim.ttl)
            name.ready_at = None
            self._open.pop(name.key, None)
            return False
        if name.ready_at is None:
            name.ready_at, name.ranked_among = self._now() + self._delay(name), len(self._peers.live)
        if name.ready_at > self._now():
            name.timer.set(name.ready_at)
            return False
        return True

    def _delay(self, name: Name) -> float:
        """Return the seconds until this process' turn: those that asked for the name come first."""
        if self._keeper.wants == name.key:
            return 0.0
        own = self._keeper.session.inc
        is_asked_for = any(self._peers.wants(inc) == name.key for inc in self._peers.live if inc != own)
        return self._rules.stagger(self._peers.rank(name.key, own)) + (
            self._rules.back_off() if is_asked_for else 0.0
        )

    def _has_place(self, name: Name, inc: str) -> bool:
        """Give a name whose turn has come a place among those that are claimed now; else it waits for one."""
        if len(self._claiming) < self._rules.claims_at_once() or self._keeper.wants == name.key:
            self._claiming.add(name.key)
            return True
        if not name.is_queued:
            name.is_queued = True
            heapq.heappush(self._queue, (-self._rules.eagerness(name.key, inc), name.key))
        return False

    def _give_places(self) -> None:
        """Let names follow that waited for a place, where they are still free; the turn is another among more hosts."""
        while self._queue and len(self._claiming) < self._rules.claims_at_once():
            _, key = heapq.heappop(self._queue)
            name = self._names.get(key)
            if name is None:
                continue
            name.is_queued = False
            if name.ranked_among != len(self._peers.live):
                name.ready_at = None
            self._evaluate(name)

    def _must_wait(self, name: Name) -> bool:
        if name.not_before <= self._now():
            return False
        name.timer.set(name.not_before)
        return True

    def _wait(self, name: Name, seconds: float) -> None:
        name.not_before = self._now() + seconds

    def _begin(self, name: Name, step: Coroutine[Any, Any, None]) -> None:
        name.operation = asyncio.ensure_future(step)
        name.operation.add_done_callback(lambda task: self._end(name, task))

    def _end(self, name: Name, task: asyncio.Task[None]) -> None:
        name.operation = None
        self._claiming.discard(name.key)
        if task.cancelled():
            return  # this process ends
        if (error := task.exception()) is not None:
            log.error("lease.step_failed", name=name.holder.name, kind=name.holder.kind, exc_info=error)
            self._wait(name, self._rules.back_off())
        if name.hold is None:
            name.holder.seen()  # while it was being claimed it counted as held
        self._evaluate(name)
        self._give_places()

    def _forget(self, name: Name) -> None:
        if name.is_left and self._names.get(name.key) is name:
            del self._names[name.key]
            self._open.pop(name.key, None)
            name.timer.drop()
            name.holder.left()
            if name.successor is not None and not self._is_closing:
                self.want(name.key, name.successor)

    # Loss

    def _suspend(self, name: Name, hold: Hold) -> None:
        """Trust has ended: stop. The claim may still be ours when trust comes back."""
        if self._rules.must_cancel(trusted=False):
            self._stop(name, hold, "trust_ended")

    def _stop(self, name: Name, hold: Hold, why: LostWhy) -> None:
        hold.is_active = False
        name.holder.lost(why)
        self._tell(LeaseLost(name.holder.name, name.holder.kind, hold.token, why))
        silent = f"no answer from the store for {self._rules.trust_lasts(hold.session.ttl):g} s"
        note = _WHY.get(why, silent)
        self._note("lease_lost", name, hold.session.inc, note=note, token=hold.token, here=True)

    def _lose(self, name: Name, why: LostWhy) -> None:
        hold, name.hold = name.hold, None
        if hold is None or not hold.is_active:
            return
        if not name.holder.is_part:
            log.warning("lease.lost", **self._keys(name), token=hold.token, reason=why)
        self._stop(name, hold, why)

    # The journal, from which a fate is explained later

    def _note(self, kind: str, name: Name, holder: str, **facts: Any) -> None:
        if name.holder.kind == "task":
            self._write_down(kind, name.holder.name, holder=holder, **facts)

    def _note_other(self, name: Name, seen: Seen) -> None:
        """Note that another session has got a name, or has given it up."""
        # Of a lost session of this process it was noted that it has lost the name.
        is_own = seen.owner == self._keeper.session.inc or seen.owner in self._keeper.former
        owner = None if is_own else seen.owner
        if owner == name.told or (owner is not None and self._peers.is_dead(owner)):
            return
        before, name.told = name.told, owner
        if owner is not None and seen.claim is not None:
            ago = max(0.0, self._now() - seen.at)
            token = self._rules.token_of(seen.claim, seen.revision)
            self._note("lease_taken", name, owner, at=read_wall() - to_us(ago), token=token)
        elif before is not None and seen.owner is None:
            self._note("lease_released", name, before)

    def _note_death(self, name: Name, inc: str) -> None:
        if name.told == inc:
            name.told = None
            claim = self._board.get(name.key).claim
            silent = "" if claim is None else f"it was not heard of for {claim.ttl:g} s"
            self._note("lease_lost", name, inc, note=silent)

    # Operations

    async def _acquire(self, name: Name, seen: Seen, session: Session) -> None:
        """Claim a free name on condition that it is as it seems."""
        old = 0 if seen.claim is None else self._rules.token_of(seen.claim, seen.revision)
        try:
            await self._stores.claims()
            floor = await name.holder.prepare()
            clock = await self._calls.now()
        except Doubt:
            self._wait(name, self._rules.retry_in())
            return
        if self._board.get(name.key) != seen or session is not self._keeper.session or not session.trusted:
            return
        token = self._rules.next_token(old, max(floor, self._board.highest_token), clock)
        record = ClaimRecord(session.inc, token, session.ttl)
        revision = await self._write(name, record, self._rules.claim_condition(seen.revision), session)
        if revision is None:
            self._wait(name, self._rules.back_off())
            return
        self._peers.void_wishes(name.key)
        self._hold(name, record, revision, session, seen.owner)

    async def _claim_anew(self, name: Name, hold: Hold) -> None:
        """Give a claim that is ours a new token, after trust had ended and came back."""
        session = hold.session
        try:
            floor = await name.holder.prepare()
            clock = await self._calls.now()
        except Doubt:
            self._wait(name, self._rules.retry_in())
            return
        token = self._rules.next_token(hold.token, max(floor, self._board.highest_token), clock)
        record = ClaimRecord(session.inc, token, session.ttl)
        revision = await self._write(name, record, self._rules.claim_condition(hold.revision), session)
        if name.hold is not hold:
            return
        if revision is not None:
            self._hold(name, record, revision, session, None)
            return
        self._wait(name, self._rules.back_off())
        if self._rules.is_ours(self._board.get(name.key).claim, session.inc):
            hold.revision = self._board.get(name.key).revision
        elif not name.in_doubt:
            name.hold = None

    def _hold(
        self, name: Name, record: ClaimRecord, revision: int, session: Session, taken_from: str | None
    ) -> None:
        """Note a claim of ours. It gives no right yet."""
        name.in_doubt = False
        self._board.note(name.key, record, revision)
        if session is self._keeper.session:
            name.hold = Hold(session, self._rules.token_of(record, revision), revision, taken_from)

    async def _write(
        self, name: Name, record: ClaimRecord, condition: int | None, session: Session
    ) -> int | None:
        """Write a claim until its outcome is known; return its revision, `None` = it is not ours."""
        while True:
            try:
                store = await self._stores.claims()
                return await self._calls.write(store, name.key, record, condition)
            except RevisionConflict:
                found = await self._read(name, session)
                mine = found.claim
                is_this = (
                    mine is not None and self._rules.is_ours(mine, session.inc) and mine.token == record.token
                )
                return found.revision if is_this else None
            except Doubt:
                name.in_doubt = True
                if session is not self._keeper.session or not session.trusted:
                    return None
                await asyncio.sleep(self._rules.retry_in())

    async def _read(self, name: Name, session: Session) -> Seen:
        """Read a claim, as often as it takes: a conflict has proved that the view is old."""
        while True:
            try:
                entry = await self._calls.get(await self._stores.claims(), name.key)
            except Doubt:
                if session is not self._keeper.session or not session.trusted:
                    return NOTHING
                await asyncio.sleep(self._rules.retry_in())
                continue
            if entry is None:
                self._board.note_absent(name.key, 0, force=True)
            else:
                self._board.see(entry, force=True)
            name.in_doubt = False
            name.ready_at = None
            name.holder.seen()
            return self._board.get(name.key)

    async def _resolve(self, name: Name, session: Session) -> None:
        """Find out whether a claim of ours was written after all, and note it."""
        found = await self._read(name, session)
        if found.claim is not None and self._rules.is_ours(found.claim, session.inc):
            self._hold(name, found.claim, found.revision, session, None)
        else:
            self._wait(name, self._rules.back_off())

    async def _take(self, name: Name, hold: Hold) -> None:
        """Take over what the name is for, and begin to act."""
        try:
            is_taken = await name.holder.take(hold)
        except Doubt:
            self._wait(name, self._rules.retry_in())
            return
        if name.hold is not hold:
            return
        same = hold.session is self._keeper.session
        if not is_taken:
            await self._release(name, hold)
            self._wait(name, _FOREIGN_PAUSE)
        elif self._rules.answer_counts(same_session=same, trusted=hold.session.trusted):
            hold.is_active = True
            name.kept_until = self._now() + self._rules.look_every()
            self._report_gain(name, hold)
            name.holder.gained(hold)

    def _report_gain(self, name: Name, hold: Hold) -> None:
        if name.holder.is_part:
            pass  # told once for all of them
        elif hold.taken_from is None:
            log.info("lease.acquired", **self._keys(name), token=hold.token)
        else:
            log.info("lease.taken_over", **self._keys(name), token=hold.token, taken_from=hold.taken_from)
        self._tell(LeaseAcquired(name.holder.name, name.holder.kind, hold.token, hold.taken_from))
        self._note("lease_taken", name, hold.session.inc, token=hold.token, here=True)

    async def _release(self, name: Name, hold: Hold) -> None:
        """Write that nobody holds the name, until that is known."""
        was_active, hold.is_active = hold.is_active, False
        await name.holder.settle(hold)
        while name.hold is hold:
            lag, (place, every) = name.holder.lag(), name.holder.place()
            record = ClaimRecord(None, hold.token, hold.session.ttl, lag, place, every)
            try:
                store = await self._stores.claims()
                condition = self._rules.release_condition(hold.revision)
                revision = await self._calls.write(store, name.key, record, condition)
            except RevisionConflict:
                found = await self._read(name, hold.session)
                if found is NOTHING or not self._rules.is_ours(found.claim, hold.session.inc):
                    break
                hold.revision = found.revision
            except Doubt:
                if self._rules.release_is_over(known=False):
                    break
                await asyncio.sleep(self._rules.retry_in())
            else:
                self._board.note(name.key, record, revision)
                name.holder.seen()
                break
        if name.hold is hold:
            name.hold = None
        self._wait(name, self._rules.back_off())
        if was_active:
            if not name.holder.is_part:
                log.info("lease.released", **self._keys(name), token=hold.token)
            self._tell(LeaseReleased(name.holder.name, name.holder.kind, hold.token))
            self._note("lease_released", name, hold.session.inc, token=hold.token, here=True)

    def _keys(self, name: Name) -> dict[str, str]:
        return {
            "name": name.holder.name,
            "kind": name.holder.kind,
            "application": self._application,
            "session": self._keeper.session.inc,
        }

    # Sharing out

    def _is_asked(self, name: Name) -> bool:
        """Whether a session asks for a name of ours that it should get."""
        if not name.holder.is_shared_out or name.kept_until > self._now():
            return False
        own = self._board.count(self._keeper.session.inc)
        return any(
            self._peers.wants(inc) == name.key and self._rules.hands_over(own, self._board.count(inc))
            for inc in self._peers.live
        )

    def _to_ask_for(self) -> str:
        """Choose the name to ask its owner for; empty = this host has its share."""
        shared = [
            name for name in self._names.values() if name.holder.is_shared_out and self._is_wanted(name)
        ]
        inc, live = self._keeper.session.inc, self._peers.live
        own = self._board.count(inc)
        if own >= len(shared) // max(1, len(live)):
            return ""
        best: tuple[int, str] | None = None
        for name in shared:
            owner = self._board.get(name.key).owner
            if owner is None or owner == inc or owner not in live or name.not_before > self._now():
                continue
            if self._rules.asks(own, self._board.count(owner), sessions=len(live), names=len(shared)):
                one = self._rules.eagerness(name.key, inc), name.key
                best = one if best is None else max(best, one)
        return "" if best is None else best[1]

    # The end

    async def release(self, which: Callable[[Holder], bool], within: float) -> None:
        """Release the names of these holders; return when it is done, or when the time is over."""
        leaving = [name for name in self._names.values() if which(name.holder)]
        for name in leaving:
            self.leave(name.key, name.holder)
        deadline = self._now() + within
        while any(name.hold or name.operation for name in leaving) and self._now() < deadline:
            tasks = [name.operation for name in leaving if name.operation is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=deadline - self._now(), return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(min(0.05, deadline - self._now()))

    async def close(self) -> None:
        """End all operations, and stop whatever is held still."""
        self._is_closing = True
        operations = [name.operation for name in self._names.values() if name.operation is not None]
        for operation in operations:
            operation.cancel()
        if operations:
            await asyncio.wait(operations)
        for name in self._names.values():
            name.timer.drop()
            self._lose(name, "closed")
            name.holder.left()
            if name.successor is not None:
                name.successor.left()
        self._names.clear()
