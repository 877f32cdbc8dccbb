"""Finds runs that hang, and says so once: a status that changes nothing. It needs no timer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._tasks.reporting import Reporter
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.status import OVER_TIMEOUT, hangs, where_of

BETWEEN = 5 * SECOND
"""Microseconds between two looks at the runs in progress. They are made where the runner is awake in any case."""


class Stuck:
    """The runs of one service that hang.

    Parameters
    ----------
    in_progress
        The runs in progress that have waited.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, reporter: Reporter, in_progress: Collection[Run]
    ) -> None:
        self._loop = loop
        self._report = reporter
        self._in_progress = in_progress
        self._known: set[Run] = set()
        self.look_at = 0
        """When to look again, scheduling time."""

    def look(self, moment: Moment) -> None:
        """Report the runs that have begun to hang, and those that hung and have ended."""
        self.look_at = moment.now + BETWEEN
        if not self._in_progress and not self._known:
            return
        for run in [run for run in self._known if run not in self._in_progress]:
            self._known.discard(run)
            self._report.unstuck(run)
        now = self._loop.time()
        old_enough = now - OVER_TIMEOUT  # a younger one does not hang: not asked, since there may be many
        for run in [run for run in self._in_progress if run.started < old_enough and run not in self._known]:
            if hangs(run, moment, now - run.started):
                self._known.add(run)
                self._report.hung(run, now - run.started, where_of(run))
