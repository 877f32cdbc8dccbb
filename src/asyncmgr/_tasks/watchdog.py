"""`Watch`: notices while it lasts that an event loop is blocked, and tells by whom. One thread a loop.

The loop's thread only notes when a turn begins and ends (`turns`). The watching thread is parked while the loop waits
for events. Where a turn lasts, the thread looks at the stack and the meters of the loop's thread a few times.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Protocol

from asyncmgr._common.clock import MovesWall, ShowsClocks
from asyncmgr._common.log import log
from asyncmgr._tasks.blame import Sight, look_at
from asyncmgr._tasks.block_kinds import Block, Finding, Reading, stretch
from asyncmgr._tasks.block_log import BlockLog, Delayed
from asyncmgr._tasks.meters import Meters
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.turns import BeatTurns, Turn, turns_of

LOOKS = 4
"""The number of looks at a turn until it has lasted for the threshold, and then again for each such time."""

SELDOM = 1.0
"""Seconds between two looks at a long block, at most."""

STUCK = 60.0
"""Seconds after which Python's own thread writes all stacks where the watching thread got no turn at all."""

_COARSE = 0.001
"""Seconds by which a timer of the loop may ring early."""


class Seat(Protocol):
    """Who takes part in the watch of a loop: one service. Called in the loop's thread, but where it says otherwise."""

    threshold: float
    """Seconds; what is shorter is not told."""
    host: str

    def is_busy(self) -> bool:
        """Whether a run is in progress; any thread may ask."""
        ...  # pragma: no cover

    def overdue(self) -> float:
        """For how many seconds the service's own timer has been due; negative while it is not."""
        ...  # pragma: no cover

    def over(self, finding: Finding) -> Delayed:
        """A block is over, and the loop has looked at its timers since; return the slots that it delayed."""
        ...  # pragma: no cover


@dataclass(slots=True)
class _Wait:
    """When the watching thread wanted to look next, and the meters before."""

    asked: float
    before: Reading


class Watch:
    """The watch of one event loop. Its thread lives while seats are taken."""

    def __init__(self, run_of: Callable[[FrameType], Run | None]) -> None:
        """`run_of` returns the run whose outermost frame a frame is. Called in the loop."""
        self._loop = asyncio.get_running_loop()
        self._run_of = run_of
        self._pid = os.getpid()
        self._turn = Turn()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._meters = Meters()
        self._wait = _Wait(monotonic(), self._meters.read())
        self.seats: tuple[Seat, ...] = ()
        self._is_open = True
        self._last: tuple[float, float] | None = None
        """Beginning and end of the last turn whose end was asked for."""
        self._parked_at = monotonic()
        self._dumps = False
        self._log = BlockLog()
        self._turns = turns_of(self._loop, self._turn, self)
        self._turns.begin(self.close)
        if not self._turns.needs_beats:
            self._turn.began = monotonic()
        gc.callbacks.append(self._meters.note_collection)
        self._thread = threading.Thread(target=self._live, name="asyncmgr watch", daemon=True)
        self._thread.start()

    @property
    def threshold(self) -> float:
        return min((seat.threshold for seat in self.seats), default=SELDOM)

    @property
    def needs_beats(self) -> bool:
        """Whether the loop shows no turns, and so is watched only while runs are in progress."""
        return self._turns.needs_beats

    @property
    def is_usable(self) -> bool:
        """Whether its thread lives in this process; a fork has no thread but the one that forked."""
        return self._is_open and self._pid == os.getpid()

    def dump_where_stuck(self) -> None:
        """Have all stacks written to stderr where a call holds the interpreter for `STUCK` seconds.

        It is one timer of the whole process, so only a program that owns the process may ask for it.
        """
        self._dumps = _has_descriptor(sys.stderr)
        self._arm()

    def close(self) -> None:
        """End the watch; called in the loop's thread."""
        if not self._is_open:
            return
        self._is_open = False
        _watches.pop(self._loop, None)
        self._turns.end()
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._meters.note_collection)
        self._release()
        if self._pid == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join(0.5)

    # In the loop's thread

    def wake(self) -> None:
        """Have the thread look from now on: runs are about to start."""
        if self._turns.needs_beats and not self._turn.began:
            self._beat()
        if self._turn.is_parked:
            self._unpark()

    def turn_began(self, *, is_idle: bool) -> None:
        overdue = max((seat.overdue() for seat in self.seats), default=-_COARSE) if is_idle else -1.0
        if overdue < -_COARSE:
            self._unpark()
            return
        # Only our own timer has rung, as it does every few seconds: `wake` follows where it starts runs.
        self._wait = _Wait(self._turn.began, self._meters.read())
        due = self._turn.began - overdue
        if overdue >= self.threshold and self._parked_at < due:
            self._stood_still(due, overdue)

    def _stood_still(self, since: float, seconds: float) -> None:
        """Tell that the process got no CPU while the loop waited for events, so that its timer rang late."""
        finding = Finding(since, seconds, None, "stopped", "", None)
        self._notice(finding)
        self._conclude(finding)

    def turn_ended(self) -> None:
        began, now = self._turn.began, monotonic()
        if not began or (self._turn.is_parked and now - began < self.threshold):
            return
        self._last = began, now
        if not self._turn.is_parked:
            self._wait.asked = now
        self._turn.is_asked = self._turn.is_parked = False
        self._release()

    def _unpark(self) -> None:
        self._turn.is_asked = self._turn.is_parked = False
        self._wait = _Wait(self._turn.began or monotonic(), self._meters.read())
        self._arm()
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is released already, and the thread has not run since
            self._gate.release()

    # In the watching thread

    def _live(self) -> None:
        self._meters.begin()
        try:
            while self._is_open and not self._loop.is_closed():
                self._look()
        except Exception as exc:
            log.error("loop.watch_failed", exc_info=exc)
        finally:
            self._disarm()
            self._meters.close()

    def _look(self) -> None:
        began = self._turn.began
        if not began:
            self._rest()
            return
        left = began + self.threshold / LOOKS - monotonic()
        if left > 0:
            self._sleep(left)
            self._notice_gap()
        else:
            self._follow(began)

    def _notice_gap(self) -> None:
        """Tell of a block during which this thread could not run, and whose turn it has not seen.

        The process was stopped; or, where turns are not seen, a call has held the interpreter.
        """
        wait, now, began = self._wait, monotonic(), self._turn.began
        late = now - wait.asked
        if late < self.threshold or not self._loop.is_running():
            return
        if began and now - began >= self.threshold:
            return  # the turn lasts: it is looked at next
        sight = self._sight()
        measured = stretch(wait.before, self._meters.read(), since=wait.asked, asked=wait.asked)
        interval = sys.getswitchinterval()
        is_held = self._turns.needs_beats and late - measured.own_queued >= self.threshold
        if is_held or measured.is_stop(interval):
            block = Block(wait.asked, interval)
            block.add(sight, measured, tells_cpu=self._meters.tells_cpu)
            self._notice(block.finding(late))
            self._conclude(block.finding(late))

    def _rest(self) -> None:
        """Let the loop wait for events."""
        if self._turns.needs_beats and any(seat.is_busy() for seat in self.seats):
            self._sleep(self.threshold / LOOKS)
            self._notice_gap()
            self._beat()
            return
        self._last, self._parked_at = None, monotonic()
        self._turn.is_asked = self._turn.is_parked = True
        if not self._turn.began and self._is_open:  # else a turn began before it could see that we park
            self._disarm()
            self._gate.acquire()
        self._turn.is_asked = self._turn.is_parked = False
        if self._last is not None:
            self._tell_unseen(*self._last)
            return
        # Not parked again at once: a busy loop waits for nothing in each turn, and would wake us up in each one.
        began = self._turn.began
        if self._is_open and (not began or monotonic() - began < self.threshold / LOOKS):
            self._sleep(self.threshold / LOOKS)
            self._notice_gap()

    def _beat(self) -> None:
        try:
            if isinstance(self._turns, BeatTurns):
                self._turns.beat()
        except RuntimeError:  # the loop is closed
            self._is_open = False

    def _sleep(self, seconds: float) -> None:
        """Sleep for a while, or until the turn ends that was asked for."""
        before = self._meters.read()
        self._wait = _Wait(before.at + seconds, before)
        self._arm()
        self._gate.acquire(timeout=seconds)

    def _follow(self, began: float) -> None:
        """Look at a turn that lasts until it ends."""
        self._turn.is_asked = True
        block = Block(began, sys.getswitchinterval())
        is_told, is_real = False, True
        seen = began
        while self._turn.began == began and self._is_open:
            seen = self._add_look(block, seen)
            # A loop that does not run is not blocked: it rests between two calls of `run_until_complete`.
            is_real = is_real and self._loop.is_running()
            age = seen - began
            if age >= self.threshold and not is_told and is_real:
                is_told = True
                self._notice(block.finding(age))
            self._sleep(self._until_next_look(age))
        self._turn.is_asked = False
        ended = self._last[1] if self._last is not None and self._last[0] == began else monotonic()
        if is_real and block.is_seen and ended - began >= self.threshold:
            finding = block.finding(ended - began)
            if not is_told:
                self._notice(finding)
            self._conclude(finding)

    def _until_next_look(self, age: float) -> float:
        step = self.threshold / LOOKS
        if age < self.threshold:
            return max(0.001, min(step, self.threshold - age))
        return max(step, min(SELDOM, age / LOOKS))

    def _add_look(self, block: Block, seen: float) -> float:
        """Look at the loop's thread once; return the moment."""
        wait = self._wait
        sight = self._sight()
        if self._turn.began != block.began:  # the frames may be those of the next turn
            sight = Sight(None, "")
        now = self._meters.read()
        measured = stretch(wait.before, now, since=seen, asked=wait.asked)
        block.add(sight, measured, tells_cpu=self._meters.tells_cpu)
        return now.at

    def _sight(self) -> Sight:
        frame = sys._current_frames().get(self._meters.thread)  # noqa: SLF001  documented, in spite of its name
        task = asyncio.current_task(self._loop) if self._turns.needs_beats else None
        return look_at(frame, self._run_of, task)

    def _tell_unseen(self, began: float, ended: float) -> None:
        """Tell of a turn that was taken for an idle one, and during which nobody looked."""
        block = Block(began, sys.getswitchinterval())
        now, wait = self._meters.read(), self._wait
        block.add(look_at(None, self._run_of), stretch(wait.before, now, since=began, asked=now.at))
        finding = block.finding(ended - began)
        self._notice(finding)
        self._conclude(finding)

    def _notice(self, finding: Finding) -> None:
        for seat in self.seats[:1]:
            self._log.noticed(finding, seat.host)

    def _conclude(self, finding: Finding) -> None:
        # Two turns later, since the looks at the agenda that the block has delayed are made in the next one.
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._loop.call_soon, self._over, finding)

    def _over(self, finding: Finding) -> None:
        told = [seat for seat in self.seats if finding.seconds >= seat.threshold]
        delayed = [seat.over(finding) for seat in told]
        if told:
            self._log.over(finding, told[0].host, delayed)

    def _arm(self) -> None:
        if self._dumps:
            faulthandler.dump_traceback_later(STUCK)

    def _disarm(self) -> None:
        if self._dumps:
            faulthandler.cancel_dump_traceback_later()


def _has_descriptor(stream: object) -> bool:
    """Whether Python can write to the stream without running Python code; not to one that something has replaced."""
    try:
        return stream.fileno() >= 0  # type: ignore[attr-defined, no-any-return]
    except (AttributeError, OSError, ValueError):  # there is none, or it is closed
        return False


_watches: dict[asyncio.AbstractEventLoop, Watch] = {}
"""The watch of each loop, shared by all services in it."""


def join_watch(seat: Seat, run_of: Callable[[FrameType], Run | None]) -> Watch | None:
    """Take part in the watch of the running loop; `None` = it is in virtual time, in which nothing is blocked.

    There the watch would be a thread that follows real time: its beats would be turns of the loop that no second run of
    the same story has.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, MovesWall | ShowsClocks):
        return None
    watch = _watches.get(loop)
    if watch is not None and not watch.is_usable:
        watch.close()
        watch = None
    if watch is None:
        watch = _watches[loop] = Watch(run_of)
    watch.seats = (*watch.seats, seat)
    return watch


def leave_watch(watch: Watch, seat: Seat) -> None:
    """Take part no more; the last one ends the watch."""
    watch.seats = tuple(one for one in watch.seats if one is not seat)
    if not watch.seats:
        watch.close()
