"""`Slots`: how far the grid of one task has come, in the store, over all its holders.

A slot is claimed before its run, on condition that nobody has written since. So no slot starts twice, whoever believes
to hold the task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from asyncmgr._common.clock import to_us
from asyncmgr._leases.calls import Calls, Doubt, Stores
from asyncmgr._leases.elapsed import HostClock
from asyncmgr._leases.holder import Hold
from asyncmgr._leases.records import LARGEST, Foreign, SlotRecord, decode
from asyncmgr._leases.rules import Rules
from asyncmgr._tasks.gate import TaskPause
from asyncmgr.errors import RevisionConflict
from asyncmgr.transports import Entry

NEW, CLAIMED, SEVERAL, UNSTARTED = "new", "claimed", "several", "unstarted"
MISSED, PASSED = "missed", "passed"
"""States of a record beside the outcomes: no slot was claimed yet; the run of the slot goes on or was cut off; slots
were claimed together, whose runs are not written down; the holder knows for sure that no run of the slot started; its
run was cut off, and a later holder has said so; the holder that left had no run for it, and has said so."""

LONGEST_NOTE = 500
"""Characters of the note of a pause that a record keeps: it is written again with each slot."""

Judge: TypeAlias = Callable[[SlotRecord], tuple[str, bool]]
"""Says in which state the last slot is left by the holder before, and whether its `oldest` was told of for sure."""


class Slots:
    """The slot record of one task, as this process wrote it last."""

    def __init__(self, key: str, calls: Calls, stores: Stores, rules: Rules, clock: HostClock) -> None:
        self._key = key
        self._calls, self._stores, self._rules, self._clock = calls, stores, rules, clock
        self.record: SlotRecord | None = None
        """The record that this process wrote or took over; `None` = it never held the task."""
        self._revision = 0
        self._at = 0.0
        """The moment of the record's writing, by the clock that nobody sets."""

    @property
    def since(self) -> int:
        """Microseconds since the last slot; negative where it is still to come."""
        if self.record is None:
            return 0
        return self.record.lag + to_us(self._clock.observed() - self._at)

    async def prepare(self) -> int:
        """Look before the claim; return the token of the last holder. Raises `Doubt`."""
        _, found = await self._read()
        return found.token if isinstance(found, SlotRecord) else 0

    def _is_ahead(self, found: SlotRecord | None) -> bool:
        """Whether this process remembers a later slot than the store does, which then has lost it."""
        if self.record is None:
            return False
        last = 0 if found is None else found.n
        return self._rules.remembered(last, self.record.n) > last

    async def _read(self) -> tuple[Entry | None, SlotRecord | Foreign | None]:
        entry = await self._calls.get(await self._stores.slots(), self._key)
        return entry, None if entry is None else decode(SlotRecord, entry.value, self._rules.knows)

    async def take(self, hold: Hold, spacing: int, judge: Judge) -> bool:
        """Write our token over the record, then read the grid from it; False = a newer program wrote it.

        Raises
        ------
        Doubt
            The store gave no answer; try again.
        """
        while hold.session.trusted:
            entry, found = await self._read()
            if isinstance(found, Foreign):
                return False
            at, record = self._clock.observed(), self._succeed(entry, found, hold, spacing, judge)
            revision = 0 if entry is None else entry.revision
            try:
                if self._rules.takes_slots(found, hold.token):
                    condition = self._rules.slot_condition(revision)
                    revision = await self._calls.write(
                        await self._stores.slots(), self._key, record, condition
                    )
            except RevisionConflict:
                await asyncio.sleep(self._rules.retry_in())
                continue
            self._keep(record, revision, at)
            return True
        raise Doubt("trust has ended")

    def _succeed(
        self, entry: Entry | None, found: SlotRecord | None, hold: Hold, spacing: int, judge: Judge
    ) -> SlotRecord:
        """Make the record of a new holder: the grid goes on where the last one left it."""
        if self.record is not None and self._is_ahead(found):
            # The store lost slots, perhaps those of a later holder too: the number is higher than any that was given.
            number = max(self.record.n, hold.token) if self.record.spacing else self.record.n
            state, _ = judge(self.record)
            return replace(self.record, token=hold.token, n=number, lag=self.since, state=state, oldest=0)
        if entry is None or found is None:
            # Numbers begin at the token: they grow over the loss of all records too.
            return SlotRecord(hold.token, hold.token, 0, spacing, NEW, hold.session.inc)
        state, is_told = judge(found)
        oldest = 0 if is_told else found.oldest
        if state == MISSED != found.state:
            oldest = oldest or found.n  # the last one was cut off
        # Whom it names has to tell: it stays there until that is done, or else a holder that dies first would leave
        # slots without a fate.
        inc = hold.session.inc if oldest else found.inc
        lag = found.lag + to_us(entry.age)
        return replace(found, token=hold.token, lag=lag, state=state, oldest=oldest, inc=inc)

    def _keep(self, record: SlotRecord, revision: int, at: float) -> None:
        self.record, self._revision, self._at = record, revision, at

    async def claim(
        self, hold: Hold, number: int, lag: int, spacing: int, state: str, oldest: int = 0
    ) -> bool:
        """Claim a slot before its run; False = it is another holder's, or trust ended before that was known.

        `lag` is the microseconds from the slot to now; `state` is `CLAIMED` or `SEVERAL`. `oldest` is the first of the
        older slots for which the run stands, 0 = there are none: where this process ends before it has told of them, a
        later holder does.
        """
        began = self._clock.observed()
        while hold.is_active and hold.session.trusted:
            at = self._clock.observed()
            passed = lag + to_us(at - began)
            record = SlotRecord(
                hold.token,
                number,
                passed,
                spacing,
                state,
                hold.session.inc,
                oldest,
                **_written(self.pause),
            )
            try:
                condition = self._rules.slot_condition(self._revision)
                revision = await self._calls.write(await self._stores.slots(), self._key, record, condition)
            except RevisionConflict:
                verdict = await self._look(record, at)
                if verdict is not None:
                    return verdict
                await asyncio.sleep(self._rules.retry_in())
            except Doubt:
                await asyncio.sleep(self._rules.retry_in())
            else:
                self._keep(record, revision, at)
                return True
        return False

    async def _look(self, record: SlotRecord, at: float) -> bool | None:
        """Find out why a claim met another revision: it is ours, or it is not; `None` = try again."""
        try:
            entry, found = await self._read()
        except Doubt:
            return None
        if entry is None or not isinstance(found, SlotRecord) or found.token != record.token:
            return False  # never written anew: whoever wiped or overwrote it is not to be undone
        if (found.n, found.state, found.inc) == (record.n, record.state, record.inc):
            self._keep(record, entry.revision, at)
            return True
        if found.n > record.n:
            return False
        self._revision = entry.revision  # a write of ours whose answer got lost
        return None

    async def pass_on(self, hold: Hold, number: int, lag: int) -> None:
        """Write the last slot that was seen to, before a release: no later one was begun, whatever was claimed.

        The older ones were told of by then.

        `lag` is the microseconds from that slot to now.
        """
        if self.record is None or self.record.token != hold.token:
            return
        at = self._clock.observed()
        state = self.record.state if number == self.record.n else PASSED
        record = replace(self.record, n=number, lag=lag, state=state, oldest=0)
        with contextlib.suppress(Doubt, RevisionConflict):
            condition = self._rules.slot_condition(self._revision)
            self._revision = await self._calls.write(await self._stores.slots(), self._key, record, condition)
        self._keep(record, self._revision, at)

    async def note(self, hold: Hold, number: int, state: str) -> bool:
        """Note what became of a slot, where it is still the last one; False = it is not known, try again.

        By then the older ones have been told of too.
        """
        if self.record is None or self.record.n != number:
            return True
        return await self._rewrite(hold, replace(self.record, lag=self.since, state=state, oldest=0))

    @property
    def pause(self) -> TaskPause | None:
        """The pause of the task, as this process wrote it or took it over; `None` = it is not paused."""
        record = self.record
        if record is None or not record.paused_by:
            return None
        until, note = record.paused_until or None, record.paused_note or None
        return TaskPause(record.paused_by, record.paused_since, until, note)

    async def write_pause(self, hold: Hold, pause: TaskPause | None) -> bool:
        """Write down that the task is paused, or is not, for the next holder; False = it is not known, try again."""
        if self.record is None or self.record.token != hold.token:
            return True
        before = self.record
        at, record = self._clock.observed(), replace(before, lag=self.since, **_written(pause))
        try:
            condition = self._rules.slot_condition(self._revision)
            revision = await self._calls.write(await self._stores.slots(), self._key, record, condition)
        except RevisionConflict:
            return await self._is_overtaken(hold)
        except Doubt:
            return False
        if self.record is before:  # else it was taken over anew meanwhile
            self._keep(record, revision, at)
        return True

    async def _is_overtaken(self, hold: Hold) -> bool:
        """Whether another holder has written since; else it was this one, by a call whose answer was lost."""
        try:
            entry, found = await self._read()
        except Doubt:
            return False
        if entry is None or not isinstance(found, SlotRecord) or found.token != hold.token:
            return True
        # What stands there is newer than what is known here: to write the latter again would undo it.
        self._keep(replace(found, lag=found.lag + to_us(entry.age)), entry.revision, self._clock.observed())
        return False

    async def _rewrite(self, hold: Hold, record: SlotRecord) -> bool:
        """Write another account of what this hold has claimed, where nobody has written since."""
        if record.token != hold.token:
            return True
        at = self._clock.observed()
        try:
            store = await self._stores.slots()
            revision = await self._calls.write(
                store, self._key, record, self._rules.slot_condition(self._revision)
            )
        except RevisionConflict:
            return True
        except Doubt:
            return False
        self._keep(record, revision, at)
        return True


def _written(pause: TaskPause | None) -> dict[str, Any]:
    """Write a pause as fields of a record."""
    if pause is None:
        return {"paused_by": "", "paused_since": 0, "paused_until": 0, "paused_note": ""}
    return {
        "paused_by": pause.by or "-",
        "paused_since": pause.since,
        "paused_until": min(pause.until or 0, LARGEST),
        "paused_note": (pause.note or "")[:LONGEST_NOTE],
    }
