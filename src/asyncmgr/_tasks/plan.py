"""Where one task is on its grid, and where it goes next. Pure: moments are handed in, no user code is called."""

from __future__ import annotations

from datetime import datetime

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL, Every, EveryPass, Once, Schedule

RETRY = int(DEFAULT_INTERVAL) * SECOND
"""Microseconds after which a schedule that raised is asked again."""

_EVERY_PASS_OF_A_SERVICE = Every(int(DEFAULT_INTERVAL) * SECOND)


class Plan:
    """The grid of one task, its next slot and its last one.

    Parameters
    ----------
    options
        The options in force, an object that many tasks share.
    tolerance
        The nearly-due window where the options say nothing of it, microseconds.
    initial_delay
        Microseconds from the start to the first slot; `None` = what the options say.
    share
        A stable 32-bit number for host and task, where the task is to begin at that share of its spacing.
    """

    __slots__ = (
        "_first_pass_is_start",
        "delay",
        "grid",
        "initial_delay",
        "last_slot",
        "options",
        "repeated_until",
        "share",
        "slot",
        "start",
        "tolerance",
        "window",
    )

    def __init__(
        self, options: PeriodicTask, *, tolerance: int, initial_delay: int | None, share: int | None
    ) -> None:
        self.options = options
        self.tolerance = tolerance
        self.initial_delay = initial_delay
        self.share = share
        self.grid: Schedule = options.schedule
        self.window = 0
        """The nearly-due window in force, microseconds."""
        self.slot: int | None = 0
        """The next planned slot, on the grid's own scale; `None` = there is none any more."""
        self.delay = 0
        """Jitter of the next slot, microseconds: it moves the start and never the slot."""
        self.start: int | None = None
        """Where the grid begins: the reference of `reschedule` until there was a slot."""
        self.last_slot: int | None = None
        self.repeated_until: int | None = None
        """Slots of the wall clock before this one were taken already, before the wall was set back."""
        self._first_pass_is_start = options.run_immediately

    def anew(self, moment: Moment, *, by_service: bool) -> Plan:
        """The plan of the same task if `moment` were its start. This one is not touched."""
        plan = Plan(
            self.options, tolerance=self.tolerance, initial_delay=self.initial_delay, share=self.share
        )
        plan.begin_at(moment, by_service=by_service)
        return plan

    def adopt(self, options: PeriodicTask) -> None:
        """Put options in force, but for the schedule, which `begin_at` and `reschedule` do."""
        self.options = options
        if not options.jitter:
            self.delay = 0

    # Its start

    def begin_at(self, moment: Moment, *, by_service: bool = False) -> None:
        """Make `moment` the task's start: what was planned earlier is forgotten."""
        self.grid = self.options.schedule
        if by_service and isinstance(self.grid, EveryPass):
            self.grid = _EVERY_PASS_OF_A_SERVICE
        self.start = self.reference(moment)
        self.last_slot = self.repeated_until = None
        self.delay = 0
        self.slot = self._first_slot(self.start)
        self._set_window()
        if by_service:
            self._first_pass_is_start = False

    def _first_slot(self, start: int) -> int | None:
        delay = self.options.initial_delay if self.initial_delay is None else self.initial_delay
        if delay is not None:
            return start + delay
        if self.options.run_immediately or self.options.schedule != self.grid:
            return start
        if self.share is not None and isinstance(self.grid, Every):
            return start + (self.grid.step * self.share >> 32)
        return self.grid.first(start)

    def _set_window(self) -> None:
        if self.grid.on_wall or self.slot is None:
            self.window = 0
            return
        tolerance = self.options.tolerance
        tolerance = self.tolerance if tolerance is None else tolerance
        self.window = min(tolerance, self.grid.gap(self.slot) // 2)

    def note_first_pass(self, moment: Moment) -> None:
        """The first pass is the start of a task that runs immediately."""
        if self._first_pass_is_start:
            self._first_pass_is_start = False
            self.start = self.slot = self.reference(moment)

    # Now and then

    def reference(self, moment: Moment) -> int:
        """The moment on the scale of this task's slots."""
        return moment.wall if self.grid.on_wall else moment.now

    def is_due(self, moment: Moment) -> bool:
        """Due or nearly due, at the edge of the window included."""
        return self.slot is not None and self.slot - self.reference(moment) <= self.window

    def remaining(self, moment: Moment) -> int | None:
        """Microseconds to the next slot, negative if it is past; `None` = there is none."""
        return None if self.slot is None else self.slot - self.reference(moment)

    def is_too_late(self, planned: int, reference: int) -> bool:
        """Whether a start at this moment is later than the slot's grace allows. Jitter is not held against it."""
        grace = self.options.misfire_grace
        return grace is not None and reference - planned > grace + self.options.jitter

    def datetime_of(self, slot: int, moment: Moment) -> datetime:
        """A slot as wall time; aware, UTC."""
        return to_datetime(slot if self.grid.on_wall else moment.wall + slot - moment.now)

    # Going on

    def take(self, reference: int) -> tuple[int, int]:
        """Take the slot that a start at this moment is for: (the slot, how many older ones it stands for).

        Computes first and commits last, so that a schedule that raises leaves this plan as it was.
        """
        assert self.slot is not None
        # What the jitter held back is not lateness: it must not make the grid skip a slot.
        slot, missed, following = self.grid.turn(self.slot, reference - self.delay, self.window)
        self.last_slot, self.slot = slot, following
        return slot, missed

    def ask_later(self, reference: int) -> None:
        """The schedule raised: its slot is over, and it is asked again in a minute."""
        self.slot, self.delay = reference + RETRY, 0

    def reschedule(self, options: PeriodicTask, moment: Moment, *, by_service: bool) -> None:
        """Go over to new options: the next slot is the last one plus the new spacing, or now if that is past."""
        had_slot = self.last_slot is not None
        anchor = self.last_slot if self.last_slot is not None else self.start
        if self.grid.on_wall and anchor is not None:
            anchor += moment.now - moment.wall
        self.adopt(options)
        self.begin_at(moment, by_service=by_service)
        self._first_pass_is_start = False
        if self.grid.on_wall:
            self.slot = self.grid.first(moment.wall)
        elif anchor is not None:
            self.start, self.last_slot = anchor, anchor if had_slot else None
            first = self.grid.first(anchor)
            self.slot = None if first is None else max(moment.now, first)

    def set_back(self, moment: Moment) -> None:
        """The wall went back by more than a minute: plan wall-clock slots from the new time."""
        if not self.grid.on_wall:
            return
        if self.slot is not None:
            self.repeated_until = max(self.slot, self.repeated_until or self.slot)
        try:
            # A one-off slot that has been taken stays taken, however far the wall went back.
            after = max(moment.wall, self.last_slot or 0) if isinstance(self.grid, Once) else moment.wall
            self.slot = self.grid.first(after)
        except Exception:
            self.slot = moment.wall + RETRY  # asked again then, and reported if it raises again

    def set_forward(self, moment: Moment) -> None:
        """The wall jumped forward: what it jumped over and was taken before an earlier set-back is not taken again."""
        until = self.repeated_until
        if until is None or self.slot is None or not self.slot <= moment.wall or self.slot >= until:
            return
        if until <= moment.wall:
            self.slot, self.repeated_until = until, None
            return
        try:
            self.slot = self.grid.first(moment.wall)
        except Exception:
            self.slot = moment.wall + RETRY  # asked again then, and reported if it raises again

    def skip_past(self, moment: Moment) -> None:
        """Drop the slots that are over: the next one is the first of the grid that is still to come."""
        reference = self.reference(moment)
        if self.slot is not None and self.slot <= reference:
            _, _, self.slot = self.grid.turn(self.slot, reference, 0)
        self.delay = 0
