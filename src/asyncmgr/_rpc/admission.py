"""Decides when a call begins: holds the places, the calls that wait for one, and withdrawals that came early.

Imports no transport and makes no tasks. `server` hands it calls; it calls back for each one that may begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from asyncmgr._rpc.served_call import Needs, ServedCall
from asyncmgr.errors import ServiceBusy

WAITING_LIMIT = 1024
"""Calls that may wait for a place; the next one is refused."""

NESTED_LIMIT = 1024
"""Calls in progress that need no place because a call of this service waits for them; the next one is refused."""

EARLY_KEPT = 1024
"""Withdrawals of unknown calls that are kept: a withdrawal may arrive before its call."""


class Admission:
    """Counts the places of one service instance, and queues the calls that wait for one.

    Parameters
    ----------
    host
        The host's name, for the text of refusals.
    places
        How many calls may be in progress at once. Calls that need no place are not counted.
    begin
        Called with each call that may begin now.
    """

    def __init__(self, host: str, places: int, begin: Callable[[ServedCall], object]) -> None:
        self._host = host
        self._free = places
        self._nested = 0
        self._begin = begin
        self._waiting: dict[ServedCall, None] = {}
        self._early: dict[str, None] = {}
        """Ids of withdrawn calls that have not arrived, the oldest first."""

    def __iter__(self) -> Iterator[ServedCall]:
        """Iterate over the calls that wait for a place."""
        return iter(self._waiting)

    def check(self, needs: Needs) -> None:
        """Refuse a call with these needs if the service is at its limits.

        Raises
        ------
        ServiceBusy
            No more calls of this kind fit.
        """
        if needs is Needs.PLACE and not self._free and len(self._waiting) >= WAITING_LIMIT:
            raise ServiceBusy(f"{self._host} is at its limit of calls, and {WAITING_LIMIT} wait; try later")
        if needs is Needs.NESTED and self._nested >= NESTED_LIMIT:
            raise ServiceBusy(f"{self._host} makes {NESTED_LIMIT} calls of itself already; try later")

    def admit(self, call: ServedCall) -> None:
        """Begin the call now, or when a place is free. The caller must `release` the call when it has ended."""
        if call.needs is Needs.NESTED:
            self._nested += 1
        elif call.needs is Needs.PLACE:
            if not self._free:
                self._waiting[call] = None
                return
            self._free -= 1
        self._begin(call)

    def drop(self, call: ServedCall) -> bool:
        """Take a call out of the queue. Returns False if it was not in the queue."""
        if call not in self._waiting:
            return False
        del self._waiting[call]
        call.needs = Needs.NOTHING  # it has no place to give back
        return True

    def release(self, call: ServedCall) -> None:
        """Free the place of a call that has ended, and begin the call that has waited longest."""
        if call.needs is Needs.NESTED:
            self._nested -= 1
        elif call.needs is Needs.PLACE:
            self._free += 1
        while self._free and self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self._free -= 1
            self._begin(following)

    # Subjects have no common order, so a withdrawal may arrive before its call.

    def note_withdrawal(self, call_id: str) -> None:
        """Keep the withdrawal of an unknown call: the call has ended, is on another host, or has not arrived yet."""
        if len(self._early) >= EARLY_KEPT:
            del self._early[next(iter(self._early))]
        self._early[call_id] = None

    def was_withdrawn(self, call_id: str) -> bool:
        """Whether the call that has arrived was withdrawn before. Forgets the withdrawal."""
        if call_id not in self._early:
            return False
        del self._early[call_id]
        return True
