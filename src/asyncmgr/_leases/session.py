"""`SessionKeeper`: keeps this process alive in the eyes of others, and knows for how long it may trust that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from asyncmgr._common.log import log
from asyncmgr._leases.calls import Calls, Doubt, Stores
from asyncmgr._leases.elapsed import HostClock
from asyncmgr._leases.keys import session_key
from asyncmgr._leases.records import Foreign, SessionRecord, decode
from asyncmgr._leases.rules import Readings, Rules
from asyncmgr.errors import RevisionConflict

_MOST_DOUBTFUL = 256
"""Attempts of unknown outcome that are remembered. Older ones end in a new session at worst."""

_MOST_FORMER = 16
"""Lost sessions of this process that are remembered."""

_END_TRIES = 3
"""Tries to write the end of a session. Where all fail, others end it after its TTL."""


class Session:
    """One session: what was written, and what may have been written."""

    def __init__(self, host: str, ttl: float, rules: Rules, clock: HostClock) -> None:
        self.inc: str = rules.identity(host)
        self.ttl = ttl
        self.revision: int = 0
        """The revision of the last confirmed write; 0 = the creation is not confirmed."""
        self.is_lost = False
        self.record: SessionRecord = SessionRecord(self.inc, host, ttl, 0)
        self.doubtful: dict[int, Readings] = {}
        """The starts of attempts whose outcome is not known, by their numbers."""
        self._renewed: Readings | None = None
        self._rules = rules
        self._clock = clock

    @property
    def trust_left(self) -> float:
        """The seconds of trust that are left; 0 or less = there is none."""
        if self.is_lost or self._renewed is None:
            return 0.0
        return self._rules.trust_lasts(self.ttl) - self._clock.since(self._renewed)

    @property
    def trusted(self) -> bool:
        """Whether this process may act on what the session holds."""
        if self.is_lost or self._renewed is None:
            return False
        return self._rules.is_trusted(self._clock.since(self._renewed), self.ttl)

    def attempt(self, wants: str, shares: tuple[str, ...] = ()) -> SessionRecord:
        """Begin the next attempt to write the session."""
        self.record = replace(self.record, n=self.record.n + 1, wants=wants, shares=shares)
        self.doubtful[self.record.n] = self._clock.read()
        while len(self.doubtful) > _MOST_DOUBTFUL:
            self.doubtful.pop(next(iter(self.doubtful)))
        return self.record

    def confirm(self, n: int, revision: int) -> None:
        """Note that attempt `n` was written. All others were not, since they were for an older revision."""
        self._renewed = self._rules.trust_begins(self.doubtful.get(n, Readings(0, 0, 0)), self._clock.read())
        self.revision = revision
        self.doubtful.clear()


class SessionKeeper:
    """Creates the session, renews it, and begins another when it is lost.

    Parameters
    ----------
    changed
        Called after each change: of trust, or of the session. It compares and acts; it must not wait.
    """

    def __init__(
        self,
        application: str,
        host: str,
        ttl: float,
        *,
        calls: Calls,
        stores: Stores,
        rules: Rules,
        clock: HostClock,
        changed: Callable[[], object],
    ) -> None:
        self._application, self._host, self._ttl = application, host, ttl
        self._calls, self._stores, self._rules, self._clock = calls, stores, rules, clock
        self._changed = changed
        self._hastened = asyncio.Event()
        self._in_trouble = False
        self._ending: dict[asyncio.Task[None], None] = {}
        self._wants = ""
        self._shares: dict[str, None] = {}
        self.former: dict[str, None] = {}
        """The identities of sessions of this process that are lost. Their claims stand in the store for a while."""
        self.session = self._new()

    def _new(self) -> Session:
        return Session(self._host, self._ttl, self._rules, self._clock)

    @property
    def key(self) -> str:
        """The key of the present session."""
        return session_key(self._application, self.session.inc)

    @property
    def wants(self) -> str:
        return self._wants

    def ask_for(self, claim: str) -> None:
        """Ask the owner of a claim for it, soon; empty = ask for none."""
        if claim != self._wants:
            self._wants = claim
            if claim:
                self.hasten()

    def share(self, task: str, *, takes_part: bool) -> None:
        """Tell the others, soon, whether this process takes part in sharing out the keys of a task."""
        if takes_part:
            self._shares[task] = None
        else:
            self._shares.pop(task, None)
        self.hasten()

    def hasten(self) -> None:
        """Renew now: there is doubt whether trust has ended."""
        self._hastened.set()

    async def keep(self) -> None:
        """Renew for ever."""
        while True:
            pause = await self._renew()
            self._changed()
            self._hastened.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hastened.wait()

    async def _renew(self) -> float:
        """Make one attempt; return the seconds to the next one."""
        session = self.session
        try:
            store = await self._stores.sessions()
            record = session.attempt(self._wants, tuple(self._shares))
            condition = self._rules.renewal_condition(session.revision)
            # It waits for no claim: a thousand of them, at a start, would take longer than trust lasts.
            revision = await self._calls.write(store, self.key, record, condition, urgent=True)
        except RevisionConflict:
            return await self._look(session)
        except Doubt as exc:
            self._note_trouble(exc)
            return self._rules.retry_in()
        if session is self.session:
            self._confirm(session, record.n, revision)
        return self._rules.renew_in(self._ttl)

    def _confirm(self, session: Session, n: int, revision: int) -> None:
        if not session.trusted:
            self._changed()  # trust ended a moment ago, and no look has noticed: what runs is stopped first
        session.confirm(n, revision)
        self._note_end_of_trouble()

    async def _look(self, session: Session) -> float:
        """Find out by a read why a renewal met another revision."""
        try:
            entry = await self._calls.get(await self._stores.sessions(), self.key, urgent=True)
        except Doubt as exc:
            self._note_trouble(exc)
            return self._rules.retry_in()
        if session is not self.session:
            return 0.0
        if entry is None:
            return self._absent(session)
        found = decode(SessionRecord, entry.value, self._rules.knows)
        if isinstance(found, Foreign) or self._rules.is_dead(found):
            self.drop("killed" if not isinstance(found, Foreign) else found.reason)
            return 0.0
        if self._rules.adopts(found, session.inc, session.doubtful):
            self._confirm(session, found.n, entry.revision)
            return max(
                0.0,
                self._rules.renew_in(self._ttl) - (self._rules.trust_lasts(self._ttl) - session.trust_left),
            )
        return self._try_on(session)

    def _absent(self, session: Session) -> float:
        if session.revision and self._rules.went_back({self.key: session.revision}, {}):
            self.drop("the store went back")
            return 0.0
        return self._try_on(session)

    def _try_on(self, session: Session) -> float:
        if not session.trusted:
            self.drop("overwritten")
            return 0.0
        return self._rules.retry_in()

    def drop(self, reason: str) -> None:
        """Give the session up, and begin another one. What it held is free once it is seen dead."""
        lost = self.session
        lost.is_lost = True
        self.former[lost.inc] = None
        if len(self.former) > _MOST_FORMER:
            self.former.pop(next(iter(self.former)))
        log.warning("session.lost", application=self._application, session=lost.inc, reason=reason)
        if reason != "killed":
            task = asyncio.ensure_future(self._end_later(lost))
            self._ending[task] = None
            task.add_done_callback(self._ending.pop)
        self.session = self._new()
        self._changed()
        self.hasten()

    async def _end_later(self, session: Session) -> None:
        """Write that a lost session is dead, when the bodies that it had cancelled have unwound."""
        await asyncio.sleep(self._rules.unwinding_lasts(self._ttl))
        await self._end(session)

    async def _end(self, session: Session) -> None:
        """Write that a session is dead. Where that fails, others do it after the TTL."""
        key = session_key(self._application, session.inc)
        revision = session.revision
        for _ in range(_END_TRIES):
            try:
                store = await self._stores.sessions()
                session.record = replace(
                    session.record, n=session.record.n + 1, state="dead", wants="", shares=()
                )
                condition = self._rules.kill_condition(revision)
                await self._calls.write(store, key, session.record, condition)
                return
            except RevisionConflict:
                revision = await self._own_revision(session, key, revision)
                if revision < 0:
                    return
            except Doubt:
                await asyncio.sleep(self._rules.retry_in())

    async def _own_revision(self, session: Session, key: str, before: int) -> int:
        """Read the revision under which the session stands; -1 = it has ended."""
        try:
            entry = await self._calls.get(await self._stores.sessions(), key)
        except Doubt:
            return before
        if entry is None:
            return 0
        found = decode(SessionRecord, entry.value, self._rules.knows)
        return -1 if isinstance(found, Foreign) or self._rules.is_dead(found) else entry.revision

    async def end(self) -> None:
        """End the present session for good; call it after `keep` was cancelled, and after the last release."""
        session = self.session
        session.is_lost = True
        if session.revision or session.doubtful:
            await self._end(session)

    def close(self) -> None:
        """Cancel what is left."""
        for task in tuple(self._ending):
            task.cancel()

    # One line for a change of state

    def _note_trouble(self, error: Doubt) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            log.warning(
                "session.renewal_failed",
                application=self._application,
                session=self.session.inc,
                error=str(error),
            )

    def _note_end_of_trouble(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            log.info("session.renewal_resumed", application=self._application, session=self.session.inc)
