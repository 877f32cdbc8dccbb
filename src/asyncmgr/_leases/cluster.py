"""`Cluster`: what one service takes part in, so that one process of its application runs something.

It joins the session of this process, the view of other sessions, the view of claims and the names that this process
holds or wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from asyncmgr._common.clock import read_wall, to_datetime, to_us
from asyncmgr._common.log import log
from asyncmgr._leases.board import Board
from asyncmgr._leases.calls import Calls, Stores
from asyncmgr._leases.claims import Claims, Tell, Write
from asyncmgr._leases.elapsed import HostClock
from asyncmgr._leases.follow import Follower, View
from asyncmgr._leases.holder import Holder
from asyncmgr._leases.keys import prefix_of, session_of
from asyncmgr._leases.peers import Peers
from asyncmgr._leases.rules import Rules
from asyncmgr._leases.session import Session, SessionKeeper
from asyncmgr._tasks.managed import Holding
from asyncmgr.transports import Entry, StoreEngine


class Share(Protocol):
    """The part that this process has in sharing out the keys of one task."""

    name: str

    def look(self) -> None:
        """Look whether hosts have come or gone."""
        ...  # pragma: no cover

    def plan_soon(self) -> None:
        """Look at what is held, free and wanted, soon."""
        ...  # pragma: no cover


class Cluster:
    """This process among those of its application. An event loop must be running.

    Parameters
    ----------
    engine
        An open store engine. It may be out of reach for a while: names are held when it is back.
    application
        Processes of one application share names.
    tell
        Called with each event, for listeners.
    write
        Adds an entry to the journal.
    """

    def __init__(
        self,
        engine: StoreEngine,
        *,
        application: str,
        host: str,
        ttl: float,
        rules: Rules | None = None,
        tell: Tell = lambda _: None,
        write: Write = lambda *_, **__: None,
    ) -> None:
        self._application = application
        self.rules = rules or Rules()
        self.clock = HostClock(self.rules)
        self.calls = Calls(engine, self.rules, ttl)
        self.stores = Stores(self.calls)
        self._ttl = ttl
        self._loop = asyncio.get_running_loop()
        self._turns: dict[str, asyncio.Lock] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._shares: dict[Share, None] = {}
        self._views = 0
        self._was_trusted = False
        self.keeper = SessionKeeper(
            application,
            host,
            ttl,
            calls=self.calls,
            stores=self.stores,
            rules=self.rules,
            clock=self.clock,
            changed=self._session_changed,
        )
        self._session = self.keeper.session
        self.board = Board(self.rules)
        self.peers = Peers(
            application,
            ttl,
            calls=self.calls,
            stores=self.stores,
            rules=self.rules,
            clock=self.clock,
            own=lambda: self.keeper.session.inc,
            trusted=lambda: self.trusted,
            spawn=self._spawn,
            died=self._died,
            changed=self._peer_changed,
        )
        self.claims = Claims(
            application,
            calls=self.calls,
            stores=self.stores,
            rules=self.rules,
            board=self.board,
            peers=self.peers,
            keeper=self.keeper,
            tell=tell,
            write=write,
        )

    @property
    def application(self) -> str:
        return self._application

    @property
    def session(self) -> Session:
        """The present session of this process."""
        return self.keeper.session

    @property
    def trusted(self) -> bool:
        """Whether this process may act on what it holds. Where it may not, a renewal is tried at once."""
        return self.keeper.session.trusted

    def turn(self, key: str) -> asyncio.Lock:
        """Return the lock by which the tasks of this process take turns with a lease."""
        return self._turns.setdefault(key, asyncio.Lock())

    def add_share(self, share: Share) -> None:
        """Take part in sharing out the keys of a task."""
        self._shares[share] = None
        self.keeper.share(share.name, takes_part=True)

    def drop_share(self, share: Share) -> None:
        """Take part no more: other hosts may hold more of its keys."""
        if self._shares.pop(share, self) is None:
            self.keeper.share(share.name, takes_part=False)

    def start(self) -> None:
        """Begin to take part."""
        prefix, within = prefix_of(self._application), self.rules.call_deadline(self._ttl)
        views = ((self.stores.sessions, _Sessions(self)), (self.stores.claims, _Claims(self)))
        for open_store, view in views:
            follower = Follower(open_store, prefix, view, rules=self.rules, within=within)
            self._spawn(follower.follow())
        self._spawn(self.keeper.keep())
        self._spawn(self._look_again())
        self._spawn(self._guard())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lease.loop_failed", application=self._application, exc_info=error)

    async def release(self, which: Callable[[Holder], bool]) -> None:
        """Release the names of these holders, as long as trust lasts."""
        await self.claims.release(which, within=max(0.0, self.session.trust_left))

    async def stop(self) -> None:
        """Release everything, and end the session."""
        await self.release(lambda _: True)
        # Else others would take over at once: what still goes on here keeps them away until the TTL is over.
        goes_on = self.claims.is_busy()
        await self.claims.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.peers.close()
        if not goes_on:
            await self.keeper.end()
        self.keeper.close()
        await self.calls.close()

    async def until_settled(self, key: str) -> None:
        """Wait while a name is being claimed, taken over or released here, as long as a fresh session is trusted."""
        await self.claims.until_settled(key, self.rules.trust_lasts(self._ttl))

    def holder_of(self, key: str) -> Holding | None:
        """Say who holds a name; `None` = nobody, as far as this process knows."""
        seen = self.board.get(key)
        if seen.claim is None or seen.claim.owner is None or self.peers.is_dead(seen.claim.owner):
            return None
        if seen.claim.owner in self.keeper.former:
            return None
        since = to_datetime(read_wall() - to_us(max(0.0, self._loop.time() - seen.at)))
        return Holding(seen.claim.owner, since, self.rules.token_of(seen.claim, seen.revision))

    # What happens

    def _session_changed(self) -> None:
        """Take in that the session, or its trust, may have changed."""
        session, before = self.keeper.session, self._session
        if session is not before:
            self._session, self._was_trusted = session, False
            self.claims.lose_all(before)
        trusted = session.trusted
        if trusted == self._was_trusted:
            return
        self._was_trusted = trusted
        if trusted:
            self.peers.forget_silence()
        else:
            log.warning(
                "session.trust_ended",
                application=self._application,
                session=session.inc,
                held=len(self.claims.held()),
            )
        self.claims.look_at_all()

    async def _guard(self) -> None:
        """Notice the end of trust at its very moment, and soon where a clock has jumped."""
        check = self.rules.check_every(self._ttl)
        while True:
            left = self.session.trust_left
            await asyncio.sleep(min(check, left) if left > 0 else check)
            if self._was_trusted and not self.trusted:
                self.keeper.hasten()
                self._session_changed()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self.rules.look_every())
            self.claims.look()
            for share in tuple(self._shares):
                share.plan_soon()
            self.peers.prune()

    def _look_at_shares(self) -> None:
        for share in tuple(self._shares):
            share.look()

    def _died(self, inc: str) -> None:
        if inc == self.keeper.session.inc:
            self.keeper.hasten()  # the renewal finds out
        self.claims.died(inc)

    def _peer_changed(self, inc: str) -> None:
        if inc != self.keeper.session.inc:
            self.claims.asked(inc)
        self._look_at_shares()

    def view_is_complete(self) -> None:
        """Note the first snapshot of one of the two views; names are claimed once both are there."""
        self._views += 1
        if self._views == 2:
            self.claims.is_ready = True
            self._look_at_shares()
            self.claims.look_at_all()

    def store_went_back(self) -> None:
        """Begin anew: the store lost writes that it had acknowledged, perhaps those of our own session too."""
        self.keeper.drop("the store went back")
        self.peers.forget_revisions()
        self.board.forget_revisions()


class _Sessions(View):
    """Follows the sessions."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._is_complete = False

    def revisions(self) -> dict[str, int]:
        return self._cluster.peers.revisions()

    def entry(self, entry: Entry) -> None:
        inc = session_of(entry.key)
        if inc is not None:
            self._cluster.peers.see(inc, entry)

    def deleted(self, key: str, revision: int) -> None:
        inc = session_of(key)
        if inc is not None:
            self._cluster.peers.see_absent(inc)

    def snapshot(self, before: dict[str, int], seen: dict[str, Entry]) -> None:
        # A session may be absent because it expired, but ours may not.
        own = self._cluster.keeper
        floor = {key: revision for key, revision in before.items() if key in seen}
        if own.session.revision and own.key in before:
            floor[own.key] = before[own.key]
        if self._cluster.rules.went_back(floor, {key: entry.revision for key, entry in seen.items()}):
            self._cluster.store_went_back()
        identities = {inc: entry.revision for key, entry in seen.items() if (inc := session_of(key))}
        self._cluster.peers.retain(identities)
        for entry in seen.values():
            self.entry(entry)
        if not self._is_complete:
            self._is_complete = True
            self._cluster.view_is_complete()


class _Claims(View):
    """Follows the claims."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._is_complete = False

    def revisions(self) -> dict[str, int]:
        return self._cluster.board.revisions()

    def entry(self, entry: Entry) -> None:
        if self._cluster.board.see(entry):
            self._cluster.claims.changed(entry.key)

    def deleted(self, key: str, revision: int) -> None:
        if self._cluster.board.note_absent(key, revision):
            self._cluster.claims.changed(key)

    def snapshot(self, before: dict[str, int], seen: dict[str, Entry]) -> None:
        if self._cluster.rules.went_back(before, {key: entry.revision for key, entry in seen.items()}):
            self._cluster.store_went_back()
        for entry in seen.values():
            self.entry(entry)
        if not self._is_complete:
            self._is_complete = True
            self._cluster.view_is_complete()
