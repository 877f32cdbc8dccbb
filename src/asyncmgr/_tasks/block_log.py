"""`BlockLog`: logs the blocks of an event loop: one line when a block is noticed, one when it is over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from asyncmgr._common.log import is_reminder, log
from asyncmgr._tasks.block_kinds import Finding
from asyncmgr.events import DelayedSlot

_REMEMBERED = 256
"""The number of blocked places whose blocks are counted."""

_NAMED = 5
"""The number of delayed tasks that a line names."""


class Delayed(NamedTuple):
    """The slots of one service that a block has delayed."""

    slots: tuple[DelayedSlot, ...]
    """The first of them."""
    total: int
    """All of them, and those that were missed."""


class BlockLog:
    """Of the blocks by one task in one place it logs the 1st, 2nd, 4th, 8th ..., each with its number."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._shown: dict[float, int] = {}
        """Numbers of the blocks that are logged, by their beginning, until they are over."""

    def noticed(self, finding: Finding, host: str) -> None:
        """Log a block that lasts."""
        count = self._count(finding)
        if is_reminder(count):
            self._shown[finding.began] = count
            log.warning(
                "loop.blocked",
                **_who(finding),
                kind=finding.kind,
                seconds=round(finding.seconds, 3),
                host=host,
                count=count,
            )

    def over(self, finding: Finding, host: str, delayed: Sequence[Delayed]) -> None:
        """Log that it is over, where it was logged that it lasts."""
        count = self._shown.pop(finding.began, None)
        if count is None:
            return
        tasks = list(dict.fromkeys(slot.task for one in delayed for slot in one.slots))
        more = [f"{len(tasks) - _NAMED} more"] if len(tasks) > _NAMED else []
        named = {"delayed": ", ".join(tasks[:_NAMED] + more)} if tasks else {}
        log.warning(
            "loop.resumed",
            **_who(finding),
            kind=finding.kind,
            seconds=round(finding.seconds, 3),
            **({} if finding.cpu is None else {"cpu": round(finding.cpu, 3)}),
            slots=sum(one.total for one in delayed),
            **named,
            host=host,
            count=count,
        )

    def _count(self, finding: Finding) -> int:
        key = ("" if finding.culprit is None else finding.culprit.task, finding.place)
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        return count


def _who(finding: Finding) -> dict[str, str]:
    """Say what is known of who blocks the loop, and where."""
    told = {} if finding.culprit is None else {"task": finding.culprit.task, "run_id": finding.culprit.run_id}
    return {**told, "where": finding.place} if finding.place else told
