"""Histories of processes that start, stop, are killed and have their clock set, against naive models in virtual time.

``HISTORIES`` sets how many of each kind are tried.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncmgr import RunContext
from asyncmgr._leases.host_locks import HostLocks
from asyncmgr.events import SlotsMissed
from asyncmgr.testing import VirtualTimeLoop, run_virtual
from tests.machine import Process

COUNT = int(os.environ.get("HISTORIES", "60"))
CHECKED = settings(
    max_examples=COUNT,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LONGEST = 400
"""Seconds of a history."""


@dataclass(frozen=True)
class Life:
    """One process. Times in milliseconds, none of them the same as one of another process."""

    start: int
    end: int
    how: Literal["kill", "stop"]


@dataclass(frozen=True)
class History:
    spacing: int
    """Milliseconds."""
    lasts: int
    """How long each run takes, milliseconds."""
    lives: tuple[Life, ...]
    catch_up: str = "one"
    interrupted: str = "skip"
    steps: tuple[tuple[int, int], ...] = ()
    """When the wall clock is set, and by how many seconds."""


@st.composite
def histories(draw: st.DrawFn, steps: st.SearchStrategy[int] | None = None, most: int = 3) -> History:
    lives = []
    for number in range(draw(st.integers(2, most))):
        # Several processes of one place come one after the other, as where a supervisor starts them again.
        at = draw(st.integers(0, 60)) * 1000 + number * 7 + 1
        for again in range(draw(st.integers(1, 3))):
            end = at + draw(st.integers(0, 120)) * 1000 + 300 + again * 13 + number * 31
            lives.append(Life(at, end, draw(st.sampled_from(["kill", "stop"]))))
            at = end + draw(st.integers(0, 40)) * 1000 + 5 + again * 3
    times = draw(st.lists(st.integers(1, LONGEST - 50), unique=True, max_size=3)) if steps is not None else []
    return History(
        spacing=draw(st.sampled_from([10, 17, 30, 60])) * 1000,
        lasts=draw(
            st.sampled_from([0, 253, 4_003])
        ),  # never a multiple of the other times: ties have no order
        lives=tuple(lives),
        catch_up=draw(st.sampled_from(["one", "none"])),
        interrupted=draw(st.sampled_from(["skip", "rerun"])),
        steps=tuple((time * 1000 + 977, draw(steps)) for time in sorted(times)) if steps is not None else (),
    )


Ran = tuple[int, int, int | None]
"""A run: its process, its start in milliseconds, the number of its slot."""


@dataclass
class Played:
    runs: list[Ran] = field(default_factory=list)
    slots: list[float] = field(default_factory=list)
    """The slot of each run by the wall clock, seconds."""
    at_once: int = 0
    most_at_once: int = 0
    missed: list[tuple[int, str | None]] = field(default_factory=list)
    """Slots that were missed: their number, and the run that stands for them."""


def play(history: History, **options: Any) -> Played:
    """Live through a history with real gates and runners."""
    played = Played()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        locks = HostLocks("app")
        schedule: dict[str, Any] = {"spacing": history.spacing / 1000, "tolerance": 0, **options}
        if "cron" in options:
            del schedule["spacing"]
        alive: dict[int, Process] = {}

        def start(number: int) -> None:
            async def work(context: RunContext) -> None:
                played.runs.append((number, round(loop.time() * 1000), context.slot_number))
                played.slots.append(context.slot.timestamp())
                played.at_once += 1
                played.most_at_once = max(played.most_at_once, played.at_once)
                try:
                    await asyncio.sleep(history.lasts / 1000)
                finally:
                    played.at_once -= 1

            alive[number] = Process(
                locks, work, **schedule, catch_up=history.catch_up, interrupted=history.interrupted
            )

        async def end(number: int) -> None:
            process = alive.pop(number)
            if history.lives[number].how == "kill":
                process.kill()
                await asyncio.sleep(0)  # the body's `finally`, which a killed process does not have
            else:
                await process.stop()
            assert process.errors == []
            played.missed += [
                (event.count, event.run_id) for event in process.events if isinstance(event, SlotsMissed)
            ]

        moments: list[tuple[int, str, int]] = [(time, "step", by) for time, by in history.steps]
        for number, life in enumerate(history.lives):
            moments += [(life.start, "start", number), (life.end, "end", number)]
        for time, what, argument in sorted(moments):
            await asyncio.sleep(time / 1000 - loop.time())
            if what == "start":
                start(argument)
            elif what == "end":
                await end(argument)
            else:
                loop._wall.shift(argument * 1_000_000)
                for process in alive.values():
                    process.notice_clock()

    run_virtual(main())
    return played


@dataclass
class Model:
    """The same by plain arithmetic, over a list of moments."""

    history: History
    holder: int | None = None
    last: int | None = None
    number: int = 0
    is_cut_off: bool = False
    busy_until: int = -1
    runs: list[Ran] = field(default_factory=list)

    def play(self) -> list[Ran]:
        lives, spacing = self.history.lives, self.history.spacing
        following = {number: life.start + spacing for number, life in enumerate(lives)}
        for time, what, process in self._moments(following):
            if what == "end":
                if self.holder == process:
                    self._end(time, lives[process].how)
            elif self.holder == process:
                following[process] = time + spacing
                if self.busy_until <= time:
                    self._run(process, time, time, self.number + 1)
            elif self.holder is None:
                following[process] = self._take_over(process, time)
            else:
                following[process] = time + spacing
        return self.runs

    def _moments(self, following: dict[int, int]) -> Iterator[tuple[int, str, int]]:
        lives = self.history.lives
        ended: set[int] = set()
        while len(ended) < len(lives):
            nearest = min(
                (min((lives[one].end, "end"), (following[one], "slot")), one)
                for one in following
                if one not in ended
            )
            (time, what), process = nearest
            if what == "end":
                ended.add(process)
            yield time, what, process

    def _end(self, time: int, how: str) -> None:
        self.holder = None
        if self.busy_until > time:
            self.is_cut_off = how == "kill" or self.history.interrupted == "rerun"
            self.busy_until = time

    def _take_over(self, process: int, time: int) -> int:
        """Return the next slot of the new holder."""
        self.holder = process
        spacing, was_cut_off, self.is_cut_off = self.history.spacing, self.is_cut_off, False
        if self.last is None:
            self._run(process, time, time, 1)
            return time + spacing
        passed = (time - self.last) // spacing
        latest = self.last + passed * spacing
        if passed and (self.history.catch_up == "one" or latest == time):
            self._run(process, time, latest, self.number + passed)
        elif was_cut_off and self.history.interrupted == "rerun":
            self._run(process, time, self.last, self.number)
        return latest + spacing

    def _run(self, process: int, time: int, slot: int, number: int) -> None:
        self.runs.append((process, time, number))
        self.last, self.number, self.busy_until = slot, number, time + self.history.lasts


@CHECKED
@given(histories())
def test_any_history_is_that_of_the_model(history: History) -> None:
    """Who runs, when, and which slot; never two at once."""
    played = play(history)
    assert played.runs == Model(history).play()
    assert played.most_at_once <= 1


@CHECKED
@given(histories(st.integers(-4000, -1)))
def test_a_wall_that_is_set_back_changes_nothing(history: History) -> None:
    """The grid of a spacing is in time since the boot."""
    assert play(history).runs == Model(history).play()


@CHECKED
@given(histories(st.integers(-4000, 4000)))
def test_no_slot_has_two_runs_whatever_the_wall_does(history: History) -> None:
    """Numbers only grow, but for a rerun, and each gap is told: so many slots had no run of their own."""
    played = play(history)
    numbers = [number for _, _, number in played.runs]
    assert None not in numbers
    if history.interrupted == "skip":
        assert all(before < after for before, after in pairwise(numbers))  # type: ignore[operator]
    else:
        assert all(before <= after for before, after in pairwise(numbers))  # type: ignore[operator]
    stood_for = sum(count for count, run in played.missed if run is not None)
    assert (numbers[-1] if numbers else 0) <= len(set(numbers)) + stood_for  # type: ignore[operator]
    assert played.most_at_once <= 1


@CHECKED
@given(histories(most=3))
def test_cron_slots_have_one_run_each_while_anybody_is_there(history: History) -> None:
    """All processes have the same slots: the run is on time whoever holds, and one stands for those before it."""
    played = play(history, cron="* * * * *")
    minutes = [
        minute
        for minute in range(60_000, 10**6, 60_000)
        if any(life.start < minute < life.end for life in history.lives)
    ]
    if history.interrupted == "skip":
        assert [time for _, time, _ in played.runs] == minutes
    else:
        assert sorted({time for _, time, _ in played.runs if not time % 60_000}) == minutes


@CHECKED
@given(histories(st.integers(-59, -1)))
def test_a_wall_that_is_set_back_a_little_repeats_no_cron_slot(history: History) -> None:
    """As without a scope: the slots are waited for. Set back by more than a minute, times come a second time."""
    small = History(**{**vars(history), "steps": history.steps[:1], "interrupted": "skip"})
    played = play(small, cron="* * * * *")
    assert len(set(played.slots)) == len(played.slots)


@pytest.mark.parametrize("broken", ["_last_slot", "_note_end", "still_holds"])
def test_the_model_finds_a_fault(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history of the usual kind shows that the grid was started over, and that an end was not written down."""
    from asyncmgr._leases.host_gate import HostGate

    monkeypatch.setattr(HostGate, broken, lambda *args: None)
    life = Life(1, 31_300, "kill")
    other = Life(5_008, 200_331, "kill")
    history = History(30_000, 250, (life, other), interrupted="rerun")
    assert play(history).runs != Model(history).play()
