"""Reads what a ledger has, chunk by chunk, and then what it gets. Each step takes about a millisecond."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from asyncmgr._common.clock import SECOND
from asyncmgr._history.ledger import Ledger
from asyncmgr._history.slots import Record, decode, newest_end

_BACKWARDS = 2 * SECOND
"""Microseconds by which the order of a log may be wrong."""


class Place(NamedTuple):
    """How far both logs of a ledger have been read."""

    rest: int
    fast: int


def end_of(ledger: Ledger) -> Place:
    """Return the place behind the newest record."""
    return Place(ledger.rest.end, ledger.fast.end)


def backlog(ledger: Ledger, since: int) -> Iterator[list[Record]]:
    """Yield the records that ended at `since` (wall time, microseconds) or later, a chunk at a time, newest first."""
    for log in (ledger.rest, ledger.fast):
        for _, piece in log.pieces(newest_first=True):
            yield [ledger.record_of(raw) for _, raw in decode(piece) if raw.ended >= since]
            if newest_end(piece) < since - _BACKWARDS:
                break


def news(ledger: Ledger, begin: Place, end: Place) -> Iterator[list[Record]]:
    """Yield the records from one place to another, a chunk at a time; those that were dropped meanwhile are lost."""
    for log, low, high in ((ledger.rest, begin.rest, end.rest), (ledger.fast, begin.fast, end.fast)):
        if low >= high:
            continue
        for first, piece in log.pieces(begin=low):
            yield [ledger.record_of(raw) for at, raw in decode(piece) if low <= first + at < high]
