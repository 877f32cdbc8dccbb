"""`Log`: the newest records of a service, 40 bytes each, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from asyncmgr._history.slots import ATTEMPTS_SHIFT, MARK, ON_WALL, RUN, SIZE, TRIGGER_SHIFT, TRIGGERS

if TYPE_CHECKING:
    from asyncmgr._tasks.runs import Look, Run

RECORDS_A_CHUNK = 1024
CHUNKS = 64
"""A log keeps 65,536 records, and drops the oldest 1,024 of them at once."""

CHUNK_BYTES = RECORDS_A_CHUNK * SIZE

_DRIFT = 1000
"""Microseconds. Where the wall clock has moved by more against the loop's clock, a mark is written."""

Write = Callable[["Run", float], None]
"""Records a run that succeeded, with its duration."""


class Chunk:
    """Memory for 1,024 records."""

    __slots__ = ("data", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.data = bytearray(CHUNK_BYTES)


class Pen(NamedTuple):
    """The functions that write into one log; they share the place where the next record goes."""

    write_run: Write
    write: Callable[[bytes], None]
    place: Callable[[], int]
    """The bytes of the newest chunk that are written."""
    take_look: Callable[[Look], None]
    """Have the clocks of this look hold for the records that follow."""


class Log:
    """The newest records. The event loop's thread writes; another one may read at any time.

    A run has its slot and its start by the clocks of the loop, since every conversion would cost each run a third more.
    What converts them is in a mark before them: each chunk begins with one.
    """

    __slots__ = ("_chunks", "_on_turn", "pen")

    def __init__(self, on_turn: Callable[[], object]) -> None:
        """`on_turn` is called at each chunk that is full."""
        self._on_turn = on_turn
        self._chunks: deque[Chunk] = deque([Chunk(0)], maxlen=CHUNKS)
        self.pen = _pen(self._chunks[-1].data, self._turn)

    def _turn(self) -> bytearray:
        """Begin another chunk; the oldest one is dropped where there are too many."""
        chunk = Chunk(self._chunks[-1].number + 1)
        self._chunks.append(chunk)
        self._on_turn()
        return chunk.data

    @property
    def end(self) -> int:
        """The number of records that were ever written."""
        while True:
            chunk, at = self._chunks[-1], self.pen.place()
            if self._chunks[-1] is chunk:
                return chunk.number * RECORDS_A_CHUNK + at // SIZE

    @property
    def begin(self) -> int:
        """The number of the oldest record that is kept."""
        return self._chunks[0].number * RECORDS_A_CHUNK

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def memory(self) -> int:
        """Bytes of all chunks."""
        return len(self._chunks) * CHUNK_BYTES

    def pieces(self, *, begin: int = 0, newest_first: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield copies of the chunks, each with the number of its first record; only those with `begin` and later."""
        end, chunks = self.end, tuple(self._chunks)
        for chunk in reversed(chunks) if newest_first else chunks:
            first = chunk.number * RECORDS_A_CHUNK
            high = min(end - first, RECORDS_A_CHUNK)
            if high > max(0, begin - first):
                yield first, bytes(chunk.data[: high * SIZE])


def _pen(data: bytearray, next_chunk: Callable[[], bytearray]) -> Pen:
    """Make the functions that write. They are closures, since a method would cost each run half as much again."""
    at = 0
    last: Look | None = None
    shift, began = 0, 0.0
    pack, full = RUN.pack_into, CHUNK_BYTES

    def write_run(run: Run, duration: float) -> None:
        nonlocal at
        if run.look is not last:
            take_look(run.look)
        if at == full:
            turn()
        pack(
            data,
            at,
            run.planned,
            run.started,
            duration,
            run.number,
            run.managed.key if run.asked is None and not run.missed and not run.on_wall else key_of(run),
        )
        at += SIZE

    def write(record: bytes) -> None:
        nonlocal at
        if at == full:
            turn()
        data[at : at + SIZE] = record
        at += SIZE

    def turn() -> None:
        nonlocal at, data
        # First of all: a reader that sees the new chunk must not take the end of the old one for its own.
        at = 0
        data = next_chunk()
        put_mark()

    def put_mark() -> None:
        write(MARK.pack(shift, began, 0.0, 0, 2 << 12))

    def take_look(look: Look) -> None:
        nonlocal last, shift, began
        last = look
        if abs(look.shift - shift) > _DRIFT or abs(look.began - began) * 1e6 > _DRIFT:
            shift, began = look.shift, look.began
            put_mark()

    return Pen(write_run, write, lambda: at, take_look)


def key_of(run: Run) -> int:
    """Compute what a record has of a run beside times and numbers: task, trigger, clock of its slot, attempts."""
    wall = ON_WALL if run.on_wall else 0
    attempts = (run.attempt - 1) << ATTEMPTS_SHIFT
    return run.managed.key | TRIGGERS.index(run.trigger) << TRIGGER_SHIFT | wall | attempts
