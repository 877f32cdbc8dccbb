"""How long the runs of a task take in a rehearsal, and how they end. Pure, given a random source."""

from __future__ import annotations

import fnmatch
import random
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from asyncmgr._common.clock import SECOND
from asyncmgr._common.durations import parse_duration
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._settings.problems import listed, suggestion
from asyncmgr.errors import AsyncmgrError

_SPREAD = re.compile(r"(?P<mean>.+?)\s*(?:±|\+/?-)\s*(?P<spread>.+)")
_NEAR = SECOND
"""Microseconds: a slot this near to a recorded one is the same slot."""


class Length(NamedTuple):
    """How long one run takes, and how it ends."""

    seconds: float
    outcome: str = "succeeded"
    """``succeeded``, ``nothing``, ``failed`` or ``timed_out``."""
    text: str = ""
    """The error of a run that failed, or what one that had nothing to do said."""


class Lengths(Protocol):
    """Says how long the runs of one task take."""

    @property
    def includes_retries(self) -> bool:
        """Whether a length is that of a run with all its attempts."""
        ...  # pragma: no cover

    def draw(self, slot: int) -> Length:
        """Draw the length of the run for a slot (wall time, microseconds since 1970)."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Took:
    """What the user says of tasks: ``Volumes.*=2s±1s``."""

    pattern: str
    """A full name, or a glob."""
    mean: float
    """Seconds."""
    spread: float
    """Seconds: each run takes from `mean - spread` to `mean + spread`, all lengths alike likely."""


def read_took(text: str) -> Took:
    """Read ``Volumes.sync=2s±1s`` (or ``2s+-1s``, or ``2s``); the name may be a glob.

    Raises
    ------
    ValueError
        It is of another form, a length is negative, or the spread is larger than the length.
    """
    pattern, equals, length = text.rpartition("=")
    if not equals or not pattern.strip():
        raise ValueError(f"{text!r} names no task; write e.g. 'Volumes.sync=2s' or '*=2s±1s'")
    found = _SPREAD.fullmatch(length.strip())
    mean = parse_duration(found["mean"] if found else length.strip())
    spread = parse_duration(found["spread"]) if found else 0.0
    if mean < 0 or spread < 0 or spread > mean:
        raise ValueError(f"{text!r}: no run can take less than no time; write e.g. '2s±1s'")
    return Took(pattern.strip(), mean, spread)


class Said:
    """The lengths of a task of which the user says how long it takes."""

    includes_retries = False

    def __init__(self, took: Took, chance: random.Random) -> None:
        self._took = took
        self._chance = chance

    def draw(self, slot: int) -> Length:
        took = self._took
        if not took.spread:
            return Length(took.mean)
        return Length(round(self._chance.uniform(took.mean - took.spread, took.mean + took.spread), 6))


class Replayed:
    """The lengths of a task that a history file knows.

    A slot that the file has too takes what it took there; another one takes what a run drawn from all of them took.
    """

    includes_retries = True

    def __init__(self, runs: Sequence[tuple[int, Length]], chance: random.Random) -> None:
        """`runs` are slots with their lengths, at least one, sorted by slot."""
        self._slots = [slot for slot, _ in runs]
        self._lengths = [length for _, length in runs]
        self._chance = chance

    def draw(self, slot: int) -> Length:
        drawn = self._lengths[
            self._chance.randrange(len(self._lengths))
        ]  # always: one slot moves no other's draw
        at = bisect_left(self._slots, slot - _NEAR // 2)
        near = at < len(self._slots) and self._slots[at] <= slot + _NEAR // 2
        return self._lengths[at] if near else drawn


class Instant:
    """The lengths of a task of which nothing is known: its runs take no time."""

    includes_retries = False

    def draw(self, slot: int) -> Length:
        return _NO_TIME


_NO_TIME = Length(0.0)


def took_of(names: Sequence[str], said: Iterable[Took]) -> dict[str, Took]:
    """Find what the user said of each task; of several sayings the last one that fits counts.

    Raises
    ------
    AsyncmgrError
        A saying fits no task.
    """
    found: dict[str, Took] = {}
    for took in said:
        # A task's own name will do, as elsewhere on the command line.
        fitting = fnmatch.filter(names, took.pattern) or fnmatch.filter(names, f"*.{took.pattern}")
        if not fitting:
            raise AsyncmgrError(
                f"--took {safe_repr(took.pattern)} fits no task{suggestion(took.pattern, names)}; "
                f"the tasks are {listed(names)}"
            )
        found |= dict.fromkeys(fitting, took)
    return found
