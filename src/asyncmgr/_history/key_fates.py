"""`KeyFates`: the newest fates of the keys of one task, in bounded memory.

All keys share two logs: the runs that succeeded, and all the rest. So what went wrong is kept for long, however many
keys are well. A record takes 40 bytes and each log has 65,536 of them at most: some 50 bytes a key where there are
100,000. Logs for each key would take more for the first record alone, and one log for all tasks would keep those of
the task with the most keys only.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from asyncmgr._common.clock import SECOND
from asyncmgr._history.slots import FATES, RUNS, TRIGGERS, Record
from asyncmgr._tasks.schedules import Gap

if TYPE_CHECKING:
    from asyncmgr._tasks.key_ring import KeyGrid
    from asyncmgr._tasks.runs import Run

ROWS_A_CHUNK = 1024
CHUNKS = 64
"""A log keeps 65,536 records, and drops the oldest 1,024 of them at once."""

ABSENCES = 1000
"""Times for which no key had a run that are kept, such as pauses."""

_MOST_OPEN = 10_000
"""Keys whose newest slots without a run are known, so that the next one is counted with them."""

_ROW = struct.Struct("@qqfIIBBB")
"""Slot; start of the run, or last slot; duration in seconds; number of the run, or of slots; number of the text;
numbers of fate and trigger; attempts. Moments are wall time, microseconds."""


class _Chunk:
    """Memory for 1,024 records, and their keys: no more than references to those that the task has."""

    __slots__ = ("data", "keys")

    def __init__(self) -> None:
        self.data = bytearray(ROWS_A_CHUNK * _ROW.size)
        self.keys: list[Hashable] = []


class _Log:
    """The newest records of one kind."""

    __slots__ = ("_chunks", "has_dropped")

    def __init__(self) -> None:
        self._chunks: deque[_Chunk] = deque([_Chunk()], maxlen=CHUNKS)
        self.has_dropped = False

    def __len__(self) -> int:
        return (len(self._chunks) - 1) * ROWS_A_CHUNK + len(self._chunks[-1].keys)

    def add(self, key: Hashable, *row: float) -> tuple[_Chunk, int]:
        """Add a record; return where it is."""
        chunk = self._chunks[-1]
        if len(chunk.keys) == ROWS_A_CHUNK:
            self.has_dropped = self.has_dropped or len(self._chunks) == CHUNKS
            chunk = _Chunk()
            self._chunks.append(chunk)
        place = len(chunk.keys) * _ROW.size
        _ROW.pack_into(chunk.data, place, *row)
        chunk.keys.append(key)
        return chunk, place

    def keeps(self, chunk: _Chunk) -> bool:
        return any(chunk is one for one in self._chunks)

    @property
    def newest(self) -> _Chunk:
        return self._chunks[-1]

    def kept(self) -> set[int]:
        """Return the identities of the chunks that are kept."""
        return {id(chunk) for chunk in self._chunks}

    def rows(
        self, key: Hashable | None
    ) -> Iterator[tuple[Hashable, tuple[int, int, float, int, int, int, int, int]]]:
        """Yield the records of a key, or of all, the newest first."""
        for chunk in reversed(self._chunks):
            if key is not None and key not in chunk.keys:
                continue
            for number in range(len(chunk.keys) - 1, -1, -1):
                if key is None or chunk.keys[number] == key:
                    yield chunk.keys[number], _ROW.unpack_from(chunk.data, number * _ROW.size)

    def __iter__(self) -> Iterator[Hashable]:
        """Yield the key of each record, the newest first."""
        for chunk in reversed(self._chunks):
            yield from reversed(chunk.keys)

    def oldest(self) -> int | None:
        """Find the start of the oldest run, or the last of the oldest slots; `None` = there is no record."""
        chunk = self._chunks[0]
        return _ROW.unpack_from(chunk.data, 0)[1] if chunk.keys else None


class _Open(NamedTuple):
    """The newest slots of a key, which got no run, for as long as nothing else befalls the key."""

    chunk: _Chunk
    place: int
    code: int
    text: int
    first: int
    """Wall time, microseconds."""
    last: int
    """The last slot, on the scale of the grid."""
    slots: int


class _Absence(NamedTuple):
    """A time in which no key had a run. On the scale of the grid."""

    grid: KeyGrid
    shift: int
    """What to add to get wall time."""
    gap: Gap
    code: int
    text: int
    but_last: bool = False
    """Whether the last slot of each key got a run, which stood for the others."""

    def of(self, key: Hashable) -> Gap | None:
        """Return the slots of one key in this time; `None` = there are none."""
        gap = self.grid.gap_of(key, self.gap.first - 1, self.gap.last)
        if gap is None or not self.but_last:
            return gap
        return Gap(gap.first, gap.last - self.grid.spacing, gap.slots - 1) if gap.slots > 1 else None

    def whole(self) -> Gap:
        """Return the first and the last slot of any key in this time, and the number of all slots."""
        return self.gap._replace(last=self.gap.last - self.grid.spacing) if self.but_last else self.gap


class KeyFates:
    """What became of the slots of the keys of one task.

    Parameters
    ----------
    text_of
        Finds a text by its number.
    """

    def __init__(self, task: str, text_of: Callable[[int], str]) -> None:
        self._task = task
        self._text_of = text_of
        self._good, self._rest = _Log(), _Log()
        self._open: dict[Hashable, _Open] = {}
        self._swept = self._rest.newest
        """The newest chunk when those were last let go that are open in a chunk which was dropped."""
        self._absences: deque[_Absence] = deque(maxlen=ABSENCES)
        self._grows = False
        """Whether slots without a run may be counted with the newest absence."""

    # Writing

    def succeeded(self, run: Run, duration: float) -> None:
        """Record a run that succeeded; the runner calls this for every one."""
        self._write(self._good, run, duration, 0, 0)

    def ended(self, run: Run, duration: float, code: int, text: int) -> None:
        """Record how a run ended."""
        self._write(self._good if code == 0 else self._rest, run, duration, code, text)

    def _write(self, log: _Log, run: Run, duration: float, code: int, text: int) -> None:
        key, look = run.managed.each_key, run.look
        if self._open:
            self._open.pop(key, None)
            self._let_go_of_dropped()
        self._grows = False
        trigger = 0 if run.asked is None and not run.missed else TRIGGERS.index(run.trigger)
        log.add(
            key,
            run.planned + look.shift,
            round((run.started + look.began) * SECOND),
            duration,
            run.number & 0xFFFFFFFF,
            text,
            code,
            trigger,
            min(run.attempt, 255),
        )

    def without_run(self, key: Hashable, gap: Gap, code: int, text: int, shift: int, step: int) -> None:
        """Record slots of a key that get no run; count them with those before, where they follow on the grid."""
        before = self._open.get(key)
        if before is not None and (before.code, before.text, before.last + step) == (code, text, gap.first):
            slots = before.slots + gap.slots
            _ROW.pack_into(
                before.chunk.data, before.place, before.first, gap.last + shift, 0.0, slots, text, code, 0, 1
            )
            if self._rest.keeps(before.chunk):
                self._open[key] = before._replace(last=gap.last, slots=slots)
                return
        chunk, place = self._rest.add(
            key, gap.first + shift, gap.last + shift, 0.0, gap.slots, text, code, 0, 1
        )
        if len(self._open) >= _MOST_OPEN:
            self._open.clear()
        self._open[key] = _Open(chunk, place, code, text, gap.first + shift, gap.last, gap.slots)
        self._let_go_of_dropped()

    def _let_go_of_dropped(self) -> None:
        """Let go of dropped chunks, once for each new one: a key that is gone would keep the one of its slots."""
        if self._swept is self._rest.newest:
            return
        self._swept, kept = self._rest.newest, self._rest.kept()
        self._open = {key: one for key, one in self._open.items() if id(one.chunk) in kept}

    def growing(self, key: Hashable, code: int, planned: int, step: int) -> int | None:
        """Return the text of the key's newest slots, if this one may be counted with them."""
        before = self._open.get(key)
        if before is None or before.code != code or before.last + step != planned:
            return None
        return before.text

    def absent(self, grid: KeyGrid, gap: Gap, code: int, text: int, shift: int) -> None:
        """Record that all slots of all keys from the first of the gap to its last got no run."""
        self._absences.append(_Absence(grid.alone(), shift, gap, code, text))
        self._grows = False

    def grow(self, grid: KeyGrid, gap: Gap, code: int, text: int, shift: int) -> None:
        """Record slots of a key that got no run for a cause that all keys have: another process runs them."""
        last = self._absences[-1] if self._grows else None
        if last is not None and (last.code, last.text, last.shift) == (code, text, shift):
            whole = Gap(
                min(last.gap.first, gap.first), max(last.gap.last, gap.last), last.gap.slots + gap.slots
            )
            self._absences[-1] = last._replace(gap=whole)
        else:
            self.absent(grid, gap, code, text, shift)
            self._grows = True

    def stood_for(self, grid: KeyGrid, gap: Gap, code: int, shift: int) -> None:
        """Record slots of a key that were missed for a cause that all keys have, and the next one of which is run."""
        step = grid.spacing
        first, last = gap.first, gap.last + step
        before = self._absences[-1] if self._absences else None
        if (
            before is not None
            and (before.but_last, before.code) == (True, code)
            and abs(before.shift - shift) < SECOND
            and abs(before.gap.first - first) < step
            and abs(before.gap.last - last) < step
        ):
            whole = Gap(
                min(before.gap.first, first), max(before.gap.last, last), before.gap.slots + gap.slots
            )
            self._absences[-1] = before._replace(gap=whole)
        else:
            self._absences.append(
                _Absence(grid.alone(), shift, Gap(first, last, gap.slots), code, 0, but_last=True)
            )
            self._grows = False

    # Reading

    def records(
        self, key: Hashable | None = None, *, until: int | None = None, limit: int | None = None
    ) -> Iterator[Record]:
        """Yield the records of a key, or of the whole task: each kind the newest first, times without any run last.

        Slots after `until` (wall time, microseconds) are left out; of each kind there are `limit` at most.
        """
        for log in (self._rest, self._good):
            rows = (row for row in log.rows(key) if until is None or row[1][0] <= until)
            for each, row in islice(rows, limit):
                yield self._record(each, row)
        for absence in reversed(self._absences):
            gap = absence.whole() if key is None else absence.of(key)
            if gap is not None:
                fate, reason = FATES[absence.code]
                first, last = gap.first + absence.shift, gap.last + absence.shift
                text = self._text_of(absence.text)
                yield Record(self._task, first, last, gap.slots, fate, reason, text=text, key=key)

    def find(self, text: str) -> Hashable | None:
        """Find a key that is perhaps gone by its text; `None` = nothing is kept of such a key."""
        return next((key for log in (self._rest, self._good) for key in log if str(key) == text), None)

    def _record(self, key: Hashable, row: tuple[int, int, float, int, int, int, int, int]) -> Record:
        slot, second, duration, number, text, code, trigger, attempts = row
        fate, reason = FATES[code]
        said = self._text_of(text)
        if code >= RUNS:
            return Record(self._task, slot, second, number, fate, reason, text=said, key=key)
        return Record(
            self._task,
            slot,
            slot,
            1,
            fate,
            reason,
            TRIGGERS[trigger],
            number or None,
            second,
            duration,
            said,
            attempts,
            key,
        )

    def kept_since(self) -> int | None:
        """Find the start of the oldest run that is kept; `None` = none was dropped so far."""
        dropped = [log.oldest() for log in (self._good, self._rest) if log.has_dropped]
        return max((moment for moment in dropped if moment is not None), default=None)
