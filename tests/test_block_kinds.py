"""What meters and looks say of a block, as tables; and whose code a stack is."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from asyncmgr._tasks.blame import Culprit, Sight, look_at
from asyncmgr._tasks.block_kinds import Block, Reading, Stretch, kind_of, stretch
from asyncmgr.events import BlockKind

INTERVAL = 0.005
A, B = Culprit("M.a", "x-1"), Culprit("M.b", "x-2")


def look(
    seconds: float = 0.25,
    *,
    late: float = 0.0,
    cpu: float = 0.0,
    others: float = 0.0,
    queued: float = 0.0,
    collected: float = 0.0,
    elsewhere: float = 0.0,
    own_queued: float = 0.0,
    own_turns: int | None = 2,
) -> Stretch:
    return Stretch(seconds, late, cpu, others, queued, collected, elsewhere, own_queued, own_turns)


@pytest.mark.parametrize(
    ("looks", "kind"),
    [
        ([look()] * 4, "waiting"),
        ([look(late=0.006, cpu=0.24)] * 4, "computing"),
        ([look(late=0.03, own_queued=0.02, cpu=0.05, queued=0.19)] * 4, "computing"),  # on a busy machine
        ([look(late=0.0002, cpu=0.24)] * 4, "computing in C"),
        ([look(late=0.02, own_queued=0.02, cpu=0.05, queued=0.19)] * 4, "computing in C"),
        ([look(1, late=0.9, cpu=0.98, own_turns=180)], "computing in C"),
        ([look(1, late=0.9, cpu=0.2, queued=0.7, own_queued=0.5, own_turns=60)], "computing in C"),
        ([look(1, late=0.9, cpu=0.98, collected=0.9, own_turns=180)], "garbage collection"),
        ([look(1, late=0.9, own_turns=2)], "stopped"),
        ([look(1, late=0.9, own_turns=None)], "stopped"),
        ([look(0.3, late=0.006, cpu=0.3), look(2, late=1.9, own_turns=2)], "stopped"),
        ([look(1, late=0.9, others=0.9, own_turns=180)], "another thread"),
        ([look(1, late=0.9, others=0.2, queued=0.7, own_turns=60)], "another thread"),
        ([look(1, late=0.9, own_turns=180)], "waiting"),  # C code that sleeps and keeps the interpreter
        ([look(cpu=0.001, queued=0.24)] * 4, "stopped"),  # it wants to go on, and gets no CPU
    ],
)
def test_kinds(looks: list[Stretch], kind: BlockKind) -> None:
    """By how long the looking thread had to wait, and by what the loop's thread got of the CPU."""
    assert kind_of(looks, INTERVAL) == kind


def block_of(*sights: tuple[Culprit | None, float]) -> Block:
    block = Block(0.0, INTERVAL)
    for culprit, seconds in sights:
        block.add(Sight(culprit, "f at f.py:1"), look(seconds, late=0.006, cpu=seconds))
    return block


@pytest.mark.parametrize(
    ("sights", "culprit"),
    [
        ([(A, 1.0)], A),
        ([(A, 0.7), (B, 0.3)], A),
        ([(A, 0.3), (B, 0.3), (A, 0.4)], A),
        ([(A, 0.5), (B, 0.5)], None),
        ([(A, 0.4), (B, 0.3), (None, 0.3)], None),
        ([(None, 0.7), (B, 0.3)], None),
    ],
)
def test_who_had_most_of_it_is_blamed(sights: list[tuple[Culprit, float]], culprit: Culprit | None) -> None:
    """And nobody where several shared a turn of the loop."""
    assert block_of(*sights).finding(1.0).culprit == culprit


@pytest.mark.parametrize("more", [{"late": 0.9}, {"late": 0.9, "others": 0.9, "own_turns": 180}])
def test_nobody_is_blamed_for_the_system(more: dict[str, float]) -> None:
    """A process that is stopped, or a thread that holds the interpreter: the run of that moment did nothing."""
    block = Block(0.0, INTERVAL)
    block.add(Sight(A, "f at f.py:1"), look(1, **more))  # type: ignore[arg-type]
    finding = block.finding(1.0)
    assert (finding.culprit, finding.place) == (None, "")


def test_collection_by_another_thread_is_nobodys() -> None:
    """The loop's own thread only waits for it."""
    block = Block(0.0, INTERVAL)
    block.add(Sight(A, "f at f.py:1"), look(1, elsewhere=0.9))
    assert block.finding(1.0)[2:4] == (None, "garbage collection")


def test_a_stretch_is_no_longer_than_its_time() -> None:
    """The meters before may be older than the turn."""
    before = Reading(0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 5)
    now = Reading(2.0, 2.5, 3.0, 0.1, 0.0, 0.0, 0.2, 9)
    measured = stretch(before, now, since=1.0, asked=0.5)
    assert measured == Stretch(1.0, 1.0, 1.0, 0.5, 0.1, 0.0, 0.0, 0.2, 4)


def test_a_system_that_tells_nothing_of_threads() -> None:
    """The CPU time of the process stands for that of the loop's thread."""
    before = Reading(0.0, None, 1.0, 0.0, 0.0, 0.0, 0.0, None)
    now = Reading(1.0, None, 1.9, 0.0, 0.0, 0.0, 0.0, None)
    measured = stretch(before, now, since=0.0, asked=0.99)
    assert (round(measured.cpu, 6), measured.others, measured.own_turns) == (0.9, 0.0, None)


def nobody(frame: FrameType) -> None:
    return None


def test_the_innermost_line_of_the_users_code() -> None:
    """Below it may be the standard library."""
    found: list[Sight] = []

    def key(_: int) -> int:
        found.append(look_at(sys._getframe(), nobody))
        return 0

    sorted([1], key=key)
    assert found[0].culprit is None
    assert found[0].place.startswith("test_the_innermost_line_of_the_users_code.key at test_block_kinds.py:")


def test_no_stack() -> None:
    """The thread has ended."""
    assert look_at(None, nobody) == Sight(None, "")
