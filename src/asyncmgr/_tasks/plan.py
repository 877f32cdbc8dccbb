"""`Plan`: the place of one task on its grid, and its next slot. Pure: it gets moments as arguments."""

from __future__ import annotations

from datetime import datetime

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.schedules import DEFAULT_INTERVAL, Every, EveryPass, Gap, Once, Schedule

RETRY = int(DEFAULT_INTERVAL) * SECOND
"""Microseconds after which a schedule that raised is asked again."""

_EVERY_PASS_OF_A_SERVICE = Every(int(DEFAULT_INTERVAL) * SECOND)


class Plan:
    """The grid of one task, its next slot and its last one.

    Parameters
    ----------
    options
        The options in force. Many tasks share one object.
    tolerance
        The nearly-due window in microseconds, where the options set none.
    initial_delay
        Microseconds from the start to the first slot; `None` = as in the options.
    share
        A stable 32-bit number for host and task: the task begins at this share of its spacing (`share_of`). `None` =
        the task begins one spacing after its start.
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
        """The next planned slot, on the grid's own scale; `None` = the schedule is over."""
        self.delay = 0
        """Jitter of the next slot, microseconds: it moves the start and never the slot."""
        self.start: int | None = None
        """The moment at which the grid begins; `reschedule` counts from it where the task has had no slot yet."""
        self.last_slot: int | None = None
        self.repeated_until: int | None = None
        """Slots before this moment were taken before the wall was set back, wall time; `None` = it was not."""
        self._first_pass_is_start = options.run_immediately

    def anew(self, moment: Moment, *, by_service: bool) -> Plan:
        """Make a plan of the same task with `moment` as its start. This plan does not change."""
        plan = Plan(
            self.options, tolerance=self.tolerance, initial_delay=self.initial_delay, share=self.share
        )
        plan.begin_at(moment, by_service=by_service)
        return plan

    def adopt(self, options: PeriodicTask) -> None:
        """Put options in force, except for the schedule: `begin_at` and `reschedule` put that in force."""
        self.options = options
        if not options.jitter:
            self.delay = 0

    # The start

    def begin_at(self, moment: Moment, *, by_service: bool = False) -> None:
        """Make `moment` the task's start, and forget the slots of an earlier start."""
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
        """Make the first pass the start of a task that has `run_immediately`."""
        if self._first_pass_is_start:
            self._first_pass_is_start = False
            self.start = self.slot = self.reference(moment)

    # Questions about a moment

    def reference(self, moment: Moment) -> int:
        """Return the moment on the scale of this task's slots, microseconds."""
        return moment.wall if self.grid.on_wall else moment.now

    def is_due(self, moment: Moment) -> bool:
        """Whether the next slot is due or nearly due; the edge of the window counts."""
        return self.slot is not None and self.slot - self.reference(moment) <= self.window

    def remaining(self, moment: Moment) -> int | None:
        """Return the microseconds to the next slot, negative if it is past; `None` = the schedule is over."""
        return None if self.slot is None else self.slot - self.reference(moment)

    def is_too_late(self, planned: int, reference: int) -> bool:
        """Whether a start at this moment is later than `misfire_grace` allows. Jitter does not count as lateness."""
        grace = self.options.misfire_grace
        return grace is not None and reference - planned > grace + self.options.jitter

    def datetime_of(self, slot: int, moment: Moment) -> datetime:
        """Convert a slot to an aware datetime in UTC."""
        return to_datetime(slot if self.grid.on_wall else moment.wall + slot - moment.now)

    # Moving on

    def take(self, reference: int) -> tuple[int, int]:
        """Take the slot that a start at this moment is for, and plan the next one.

        Returns the slot and the number of older slots that it stands for too. Where the schedule raises, this plan does
        not change.
        """
        assert self.slot is not None
        # Without the delay by jitter: it is no lateness, and must not make the grid skip a slot.
        slot, missed, following = self.grid.turn(self.slot, reference - self.delay, self.window)
        self.last_slot, self.slot = slot, following
        return slot, missed

    def ask_later(self, reference: int) -> None:
        """Give up the slot, because the schedule raised; ask the schedule again in a minute."""
        self.slot, self.delay = reference + RETRY, 0

    def reschedule(self, options: PeriodicTask, moment: Moment, *, by_service: bool) -> None:
        """Put new options in force: the next slot is the last one plus the new spacing, or now if that is past."""
        had_slot = self.last_slot is not None
        anchor = self._anchor(moment)
        self.adopt(options)
        self.begin_at(moment, by_service=by_service)
        self._first_pass_is_start = False
        if anchor is None:
            return
        if self.grid.on_wall:  # which keeps the anchor, for a later spacing
            anchor += moment.wall - moment.now
        self.start, self.last_slot = anchor, anchor if had_slot else None
        first = self.grid.first(moment.wall if self.grid.on_wall else anchor)
        self.slot = first if first is None or self.grid.on_wall else max(moment.now, first)

    def _anchor(self, moment: Moment) -> int | None:
        """Return what a new spacing counts from, in scheduling time: the last slot, or the start."""
        anchor = self.start if self.last_slot is None else self.last_slot
        if anchor is None or not self.grid.on_wall:
            return anchor
        return min(moment.now, anchor + moment.now - moment.wall)  # the wall may have been set back since

    def continue_from(self, slot: int, moment: Moment, *, own: int | None = None) -> Gap | None:
        """Go on with the grid that another holder kept; `slot` is the last one it took, on this grid's scale.

        The slots that are over get one run, where `catch_up` and `catch_up_window` allow it. Else they are dropped,
        and returned. `own` is the slot of this plan that is being handed out: a slot of
        the other's grid at the same time is no catch-up.
        """
        return self._go_on(self.grid.first(slot), slot, moment, own)

    def begin_from(self, start: int, moment: Moment) -> Gap | None:
        """Go on with the grid that another holder began at `start`, on this grid's scale, and took no slot of.

        The slots that are over get one run, or are dropped and returned, as by `continue_from`.
        """
        dropped = self._go_on(self._first_slot(start), None, moment, None)
        self.start = start
        return dropped

    def _go_on(self, first: int | None, last: int | None, moment: Moment, own: int | None) -> Gap | None:
        """Make `first` the next slot after `last`, and drop what is over where it gets no run."""
        reference = self.reference(moment)
        # The grid may raise: before anything changes.
        turn = None if first is None or first > reference else self.grid.turn(first, reference, 0)
        self.last_slot, self.delay, self.repeated_until, self.slot = last, 0, None, first
        self._set_window()
        if turn is None or self._catches_up(turn[0], reference, own):
            return None
        latest, passed, self.slot = turn
        self.last_slot = latest
        assert first is not None
        return Gap(first, latest, passed + 1)

    def _catches_up(self, latest: int, reference: int, own: int | None) -> bool:
        if latest == own or reference - latest <= self.window:
            return True
        window = self.options.catch_up_window
        return self.options.catch_up == "one" and (window is None or reference - latest <= window)

    def take_again(self, slot: int, moment: Moment) -> bool:
        """Make a slot that was taken the next one; False = a later one is over."""
        if self.slot is not None and self.slot <= self.reference(moment):
            return False
        self.slot = slot
        return True

    def begin_now(self, moment: Moment) -> None:
        """Make this moment the next slot, as for a task that begins at once."""
        self.slot, self.delay = self.reference(moment), 0

    def set_back(self, moment: Moment) -> None:
        """Plan wall-clock slots from the new time, after the wall went back by more than a minute."""
        if not self.grid.on_wall:
            return
        if self.slot is not None and self.slot <= moment.wall:
            return  # it is still due, and was not taken: the wall jumped ahead and back between two looks
        if self.slot is not None:
            self.repeated_until = max(self.slot, self.repeated_until or self.slot)
        try:
            # A one-off slot that has been taken is not taken again, however far the wall went back.
            after = max(moment.wall, self.last_slot or 0) if isinstance(self.grid, Once) else moment.wall
            self.slot = self.grid.first(after)
        except Exception:
            self.slot = moment.wall + RETRY  # when the schedule is asked again, and reported if it raises

    def set_forward(self, moment: Moment) -> None:
        """Skip the slots that were taken before the wall was set back, after it jumped forward again."""
        until = self.repeated_until
        if until is None or self.slot is None or not self.slot <= moment.wall or self.slot >= until:
            return
        if until <= moment.wall:
            self.slot, self.repeated_until = until, None
            return
        try:
            self.slot = self.grid.first(moment.wall)
        except Exception:
            self.slot = moment.wall + RETRY  # when the schedule is asked again, and reported if it raises

    def gap(self, moment: Moment) -> Gap | None:
        """Find the slots from the next one to this moment, which nobody has taken; `None` = there are none."""
        return None if self.slot is None else self.gap_between(self.slot, self.reference(moment))

    def gap_between(self, first: int, until: int) -> Gap | None:
        """Count the slots of this grid from `first`, which is one, to `until`; `None` = there are none.

        Where the schedule raises it is one slot.
        """
        if first > until:
            return None
        try:
            last, passed, _ = self.grid.turn(first, until, 0)
        except Exception:
            return Gap(first, first, 1)
        return Gap(first, last, passed + 1)

    def skip_past(self, moment: Moment) -> None:
        """Drop the slots that are over: the next one is the first of the grid that is still to come."""
        reference = self.reference(moment)
        self.delay = 0
        try:
            if self.grid.on_wall:  # the wall may have been set back meanwhile
                self.slot = self.grid.first(
                    max(reference, self.last_slot or 0) if self._is_once else reference
                )
            elif self.slot is not None and self.slot <= reference:
                _, _, self.slot = self.grid.turn(self.slot, reference, 0)
        except Exception:
            self.slot = reference + RETRY  # asked again then, and reported if it raises again

    @property
    def _is_once(self) -> bool:
        return isinstance(self.grid, Once)
