"""`Tape`: the recorder of a rehearsal. It keeps every run, and every slot that got none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from asyncmgr._common.clock import SECOND, Moment, Step
from asyncmgr._common.safe_text import error_text, printable, safe_str
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.managed import ManagedTask, Standing
from asyncmgr._tasks.recorder import Recorder, Stall
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.schedules import Gap
from asyncmgr.events import MissReason, Outcome, SkipReason

OUTCOMES: Final = ("succeeded", "nothing", "failed", "timed_out", "cancelled", "running")
"""What becomes of a run; `running` = it goes on at the end of the rehearsal."""

RUNNING: Final = OUTCOMES.index("running")
_CODES: Final = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_LONGEST_TEXT = 200


class Ran(NamedTuple):
    """One run. Moments are wall time, microseconds since 1970."""

    slot: int
    started: int
    seconds: float
    outcome: int
    """A number of `OUTCOMES`."""
    trigger: str


class Gone(NamedTuple):
    """Slots that got no run and follow one another on the grid. Moments are wall time, microseconds since 1970."""

    first: int
    last: int
    slots: int
    kind: str
    """``skipped`` or ``missed``."""
    reason: str


class Track:
    """What became of the slots of one task."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs: list[Ran] = []
        """In the order in which they ended."""
        self.gone: list[Gone] = []
        self.errors: dict[str, int] = {}
        """How often runs failed, or the schedule did, by the text of the error."""

    def succeeded(self, run: Run, seconds: float) -> None:
        self.note(run, seconds, 0)

    def note(self, run: Run, seconds: float, outcome: int) -> None:
        look = run.look
        self.runs.append(
            Ran(
                run.planned if run.on_wall else run.planned + look.shift,
                round((run.started + look.began) * SECOND),
                seconds,
                outcome,
                run.trigger,
            )
        )


class Tape(Recorder):
    """Records until it is closed."""

    def __init__(self) -> None:
        self.tracks: dict[str, Track] = {}
        """By the full name of the task."""
        self._is_open = True

    def track(self, name: str) -> Track:
        """Return the track of a task, made at first use."""
        found = self.tracks.get(name)
        if found is None:
            found = self.tracks[name] = Track(name)
        return found

    def close(self, in_progress: Iterable[Run], now: float) -> None:
        """Note the runs that go on at this moment (loop time, seconds), and record no more."""
        for run in sorted(in_progress, key=lambda run: run.number):
            self.track(run.full_name).note(run, now - run.started, RUNNING)
        self._is_open = False

    # What the runner tells

    def follow(self, oldest: Callable[[Standing], Run | None]) -> None:
        """Do nothing: which run is in the way is not asked."""

    def add(self, task: ManagedTask) -> None:
        task.record = self._note_success
        if isinstance(task, KeyedTask):
            task.key_record = self._note_success
        self.track(task.full_name)

    def _note_success(self, run: Run, duration: float) -> None:
        if self._is_open:
            self.tracks[run.managed.full_name].note(run, duration, 0)

    def succeeded(self, run: Run, duration: float) -> None:
        self._note_success(run, duration)

    def ended(self, run: Run, duration: float, outcome: Outcome, error: BaseException | None) -> None:
        if not self._is_open:
            return
        track = self.track(run.full_name)
        track.note(run, duration, _CODES[str(outcome)])
        if error is not None and outcome is Outcome.FAILED:
            _count(track, error)

    def skipped(
        self, run: Run, reason: SkipReason, *, holder: str | None = None, with_older: bool = False
    ) -> None:
        if run.is_of_grid:
            slot = _wall(run, run.planned)
            first, slots = (_wall(run, run.oldest), run.missed + 1) if with_older else (slot, 1)
            self._note(run.full_name, Gone(first, slot, slots, "skipped", reason))

    def missed(self, run: Run, reason: MissReason) -> None:
        first, last = _wall(run, run.oldest), _wall(run, run.planned) - 1
        self._note(run.full_name, Gone(first, last, run.missed, "missed", reason))

    def late(self, run: Run) -> None:
        slot = _wall(run, run.planned)
        first = _wall(run, run.oldest) if run.missed else slot
        self._note(run.full_name, Gone(first, slot, run.missed + 1, "missed", "late"))

    def gap(self, task: ManagedTask, gap: Gap, reason: SkipReason | MissReason, moment: Moment) -> None:
        shift = 0 if task.plan.grid.on_wall else moment.wall - moment.now
        self._note(
            task.full_name,
            Gone(gap.first + shift, gap.last + shift, gap.slots, _KIND.get(reason, "missed"), reason),
        )

    def _note(self, name: str, gone: Gone) -> None:
        if self._is_open:
            self.track(name).gone.append(gone)

    def schedule_failed(self, task: ManagedTask, error: Exception, moment: Moment) -> None:
        if self._is_open:
            _count(self.track(task.full_name), error, "the schedule raised ")

    def stepped(self, step: Step, moment: Moment) -> None:
        """Do nothing: virtual time has no steps, unless a body makes them."""

    def stalled(self, kind: Stall, seconds: float, moment: Moment) -> None:
        """Do nothing: computing takes no time here."""


_KIND = dict.fromkeys(
    ("overlap", "paused", "disabled", "not_owner", "backoff", "draining", "removed"), "skipped"
)


def _wall(run: Run, planned: int) -> int:
    return planned if run.on_wall else planned + run.look.shift


def _count(track: Track, error: BaseException, before: str = "") -> None:
    text = (
        before + printable(safe_str(error), _LONGEST_TEXT)
        if is_stand_in(error)
        else before + error_text(error)
    )
    track.errors[text] = track.errors.get(text, 0) + 1


class ReplayedError(Exception):
    """A failure that a history file tells of; its text is that of the error then."""


def is_stand_in(error: BaseException) -> bool:
    """Whether no body raised this error, but a stand-in."""
    return isinstance(error, ReplayedError)
