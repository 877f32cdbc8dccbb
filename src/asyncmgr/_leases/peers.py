"""`Peers`: the sessions of an application as this process sees them; kills those that are silent.

Nothing here is trusted: the watch may be late, and a death counts only once it is written, on condition that the
session has not changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from asyncmgr._common.timer import Timer
from asyncmgr._leases.calls import Calls, Doubt, Stores
from asyncmgr._leases.elapsed import HostClock
from asyncmgr._leases.keys import session_key
from asyncmgr._leases.records import SESSIONS_TTL, Foreign, SessionRecord, decode
from asyncmgr._leases.rules import Rules
from asyncmgr.errors import RevisionConflict
from asyncmgr.transports import Entry


class Peer:
    """One session as it was last seen."""

    __slots__ = ("is_killed", "record", "refused_at", "revision", "silent_since", "timer", "ttl")

    def __init__(self, ttl: float, silent_since: float, ring: Callable[[], object]) -> None:
        self.record: SessionRecord | Foreign | None = None
        """`None` = the store has no record of it."""
        self.revision = 0
        self.ttl = ttl
        self.silent_since = silent_since
        self.timer = Timer(ring)
        self.refused_at = 0
        """The revision of a wish of it that is void."""
        self.is_killed = False
        """Whether an attempt to kill it is in progress."""


class Peers:
    """The sessions of one application, this process' own too.

    Parameters
    ----------
    own
        Returns the identity of the present session.
    trusted
        Returns whether that one is trusted. While it is not, others may seem silent only to this process.
    spawn
        Starts a coroutine in the background.
    died
        Called with the identity of a session that is seen dead.
    changed
        Called with the identity of a session whose record changed.
    """

    def __init__(
        self,
        application: str,
        ttl: float,
        *,
        calls: Calls,
        stores: Stores,
        rules: Rules,
        clock: HostClock,
        own: Callable[[], str],
        trusted: Callable[[], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        died: Callable[[str], object],
        changed: Callable[[str], object],
    ) -> None:
        self._application, self._ttl = application, ttl
        self._calls, self._stores, self._rules, self._clock = calls, stores, rules, clock
        self._own, self._trusted, self._spawn = own, trusted, spawn
        self._died, self._changed = died, changed
        self._loop = asyncio.get_running_loop()
        self._peers: dict[str, Peer] = {}
        self.live: dict[str, None] = {}
        """The sessions that live as far as is known, in the order in which they were seen."""

    def is_dead(self, inc: str) -> bool:
        """Whether a session is seen dead."""
        peer = self._peers.get(inc)
        record = None if peer is None else peer.record
        return not isinstance(record, Foreign) and self._rules.is_dead(record)

    def wants(self, inc: str) -> str:
        """Return the key of the claim that a live session asks for; empty = none."""
        peer = self._peers.get(inc)
        record = None if peer is None else peer.record
        if peer is None or not isinstance(record, SessionRecord) or record.state != "live":
            return ""
        return "" if peer.refused_at == peer.revision else record.wants

    def void_wishes(self, key: str) -> None:
        """Ignore those that ask for a claim until they say it again: it was free, and they did not take it."""
        for peer in self._peers.values():
            if isinstance(peer.record, SessionRecord) and peer.record.wants == key:
                peer.refused_at = peer.revision

    def revisions(self) -> dict[str, int]:
        """Return the revision of every session that was seen, by its key."""
        return {session_key(self._application, inc): peer.revision for inc, peer in self._peers.items()}

    def rank(self, name: str, inc: str) -> int:
        """Count the live sessions that come before `inc` for a name."""
        return self._rules.rank(name, inc, self.live)

    # What is seen

    def see(self, inc: str, entry: Entry, *, force: bool = False) -> None:
        """Note a record; an older one than is known says nothing, unless a conflict has proved the view wrong."""
        self._note(
            inc, decode(SessionRecord, entry.value, self._rules.knows), entry.revision, entry.age, force=force
        )

    def _note(
        self,
        inc: str,
        record: SessionRecord | Foreign,
        revision: int,
        age: float = 0.0,
        *,
        force: bool = False,
    ) -> None:
        peer, is_new = self._peer(inc)
        if revision == peer.revision or (revision < peer.revision and not force):
            return
        peer.record, peer.revision = record, revision
        silent = self._rules.silence_at_sight(age) if is_new else 0.0
        peer.silent_since = self._clock.observed() - silent
        if isinstance(record, SessionRecord):
            peer.ttl = self._rules.patience(record.ttl, self._ttl)
        if isinstance(record, SessionRecord) and record.state == "live":
            self.live[inc] = None
        else:
            self.live.pop(inc, None)
        self._watch_silence(inc, peer)
        self._changed(inc)
        if self.is_dead(inc):
            self._died(inc)

    def see_absent(self, inc: str) -> None:
        """Note that the store has no record of a session. That proves nothing: it is silent from now on."""
        peer, is_new = self._peer(inc)
        if self.is_dead(inc) or (peer.record is None and not is_new):
            return
        peer.record, peer.revision, peer.silent_since = None, 0, self._clock.observed()
        self.live.pop(inc, None)
        self._watch_silence(inc, peer)
        self._after_absence(inc)

    def see_owner(self, inc: str, ttl: float) -> None:
        """Note that a claim names a session, which may not have been seen yet: two watches have no order."""
        if inc not in self._peers:
            peer, _ = self._peer(inc)
            peer.ttl = self._rules.patience(ttl, self._ttl)
            self._watch_silence(inc, peer)
            self._after_absence(inc)

    def _after_absence(self, inc: str) -> None:
        if self._rules.is_dead(None):
            self._died(inc)

    def _peer(self, inc: str) -> tuple[Peer, bool]:
        peer = self._peers.get(inc)
        if peer is not None:
            return peer, peer.revision == 0
        peer = self._peers[inc] = Peer(self._ttl, self._clock.observed(), lambda: self._ring(inc))
        return peer, True

    def forget_silence(self) -> None:
        """Let the silence of all begin now: this process itself had heard nothing for a while."""
        now = self._clock.observed()
        for inc, peer in self._peers.items():
            peer.silent_since = now
            self._watch_silence(inc, peer)

    def forget_revisions(self) -> None:
        """Take what comes next as it is: the store went back. Nothing is known to live."""
        for peer in self._peers.values():
            peer.revision = 0
        self.forget_silence()

    def retain(self, seen: dict[str, int]) -> None:
        """Note the end of a snapshot, which has these identities: all others are absent."""
        for inc in [inc for inc in self._peers if inc not in seen]:
            if self.is_dead(inc):
                self._forget(inc)
            else:
                self.see_absent(inc)

    def _forget(self, inc: str) -> None:
        self._peers.pop(inc).timer.drop()
        self.live.pop(inc, None)

    # Silence

    def _watch_silence(self, inc: str, peer: Peer) -> None:
        if inc == self._own() or isinstance(peer.record, Foreign) or self.is_dead(inc):
            peer.timer.drop()
        elif not peer.is_killed and not peer.timer.is_set:
            self._set(inc, peer)

    def _set(self, inc: str, peer: Peer, *, at_least: float = 0.0) -> None:
        # It rings at the end of the first silence that was to be expected, and is set anew if somebody spoke meanwhile.
        peer.timer.set(self._loop.time() + max(at_least, self._left(inc, peer)))

    def _left(self, inc: str, peer: Peer) -> float:
        """Return the seconds until this process may kill a session that stays silent."""
        stagger = self._rules.stagger(self._rules.rank(inc, self._own(), self.live))
        return peer.silent_since + peer.ttl + stagger - self._clock.observed()

    def _ring(self, inc: str) -> None:
        peer = self._peers.get(inc)
        if peer is None or peer.is_killed or inc == self._own():
            return
        if not self._trusted() or self._left(inc, peer) > 0.0005:
            self._set(inc, peer, at_least=0.0 if self._trusted() else self._rules.look_every())
            return
        peer.is_killed = True
        # What was silent, and not what is known when the Task begins: a paused process reads its backlog first.
        self._spawn(self._kill(inc, peer, peer.record, peer.revision))

    async def _kill(self, inc: str, peer: Peer, record: SessionRecord | Foreign | None, seen: int) -> None:
        """Write that a session is dead, on condition that it is as silent as it seems."""
        try:
            await self._try_to_kill(inc, peer, record, seen)
        except Doubt:
            peer.is_killed = False
            self._set(inc, peer, at_least=self._rules.retry_in())
        finally:
            peer.is_killed = False

    async def _try_to_kill(
        self, inc: str, peer: Peer, record: SessionRecord | Foreign | None, seen: int
    ) -> None:
        if isinstance(record, Foreign):
            return
        host = inc.rpartition("~")[0]
        alive = record or SessionRecord(inc, host, peer.ttl, 0)
        dead = replace(alive, state="dead", wants="")
        key = session_key(self._application, inc)
        store = await self._stores.sessions()
        try:
            revision = await self._calls.write(store, key, dead, self._rules.kill_condition(seen))
        except RevisionConflict:
            await self._look(inc, peer, key)
        else:
            self._note(inc, dead, revision, force=True)

    async def _look(self, inc: str, peer: Peer, key: str) -> None:
        """Read a session that was not as it seemed: the view is old, whatever the watch said."""
        entry = await self._calls.get(await self._stores.sessions(), key)
        peer.is_killed = False
        if entry is None:
            self.see_absent(inc)
        else:
            peer.silent_since = self._clock.observed()
            self.see(inc, entry, force=True)
        if not self.is_dead(inc) and not isinstance(peer.record, Foreign):
            self._set(inc, peer, at_least=self._rules.back_off())

    def prune(self) -> None:
        """Forget the dead that the store has forgotten too."""
        horizon = self._clock.observed() - 2 * SESSIONS_TTL
        for inc, peer in tuple(self._peers.items()):
            if peer.silent_since < horizon and self.is_dead(inc):
                self._forget(inc)

    def close(self) -> None:
        for peer in self._peers.values():
            peer.timer.drop()
