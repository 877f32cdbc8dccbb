"""Decides when a call may begin: places, those who wait for one, withdrawals that came early, refusals.

Knows neither the transport nor tasks: it is told of calls, and says which of them begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from asyncmgr._rpc.served_call import Needs, ServedCall
from asyncmgr.errors import ServiceBusy

WAITING_LIMIT = 1024
"""Calls that wait for a place; one more is refused."""

NESTED_LIMIT = 1024
"""Calls without a place in progress, as calls of the service wait for them; one more is refused."""

EARLY_KEPT = 1024
"""Withdrawals that are kept in case that they came before what they withdraw."""


class Admission:
    """The places of one service instance.

    Parameters
    ----------
    host
        Its name, for refusals.
    places
        So many calls are in progress at once, those aside that need no place.
    begin
        Is called with each call that may begin now.
    """

    def __init__(self, host: str, places: int, begin: Callable[[ServedCall], object]) -> None:
        self._host = host
        self._free = places
        self._nested = 0
        self._begin = begin
        self._waiting: dict[ServedCall, None] = {}
        self._early: dict[str, None] = {}
        """Withdrawn and not known, the oldest first."""

    def __iter__(self) -> Iterator[ServedCall]:
        """The calls that wait for a place."""
        return iter(self._waiting)

    def check(self, needs: Needs) -> None:
        """Refuse a call of such needs where the service is at its limits.

        Raises
        ------
        ServiceBusy
            It is.
        """
        if needs is Needs.PLACE and not self._free and len(self._waiting) >= WAITING_LIMIT:
            raise ServiceBusy(f"{self._host} is at its limit of calls, and {WAITING_LIMIT} wait; try later")
        if needs is Needs.ROOM and self._nested >= NESTED_LIMIT:
            raise ServiceBusy(f"{self._host} makes {NESTED_LIMIT} calls of itself already; try later")

    def admit(self, call: ServedCall) -> None:
        """Have a call begin, now or when a place is free; `release` it when it has ended."""
        if call.needs is Needs.ROOM:
            self._nested += 1
        elif call.needs is Needs.PLACE:
            if not self._free:
                self._waiting[call] = None
                return
            self._free -= 1
        self._begin(call)

    def drop(self, call: ServedCall) -> bool:
        """Let a call wait no longer; False where it does not wait."""
        if call not in self._waiting:
            return False
        del self._waiting[call]
        call.needs = Needs.NOTHING  # it has no place to give back
        return True

    def release(self, call: ServedCall) -> None:
        """A call has ended; its place is for the one that has waited longest."""
        if call.needs is Needs.ROOM:
            self._nested -= 1
        elif call.needs is Needs.PLACE:
            self._free += 1
        while self._free and self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self._free -= 1
            self._begin(following)

    # Subjects have no common order, so a withdrawal may come before what it withdraws.

    def note_withdrawal(self, call_id: str) -> None:
        """Keep a withdrawal of a call that is not known: it has ended, is another host's, or is still to come."""
        if len(self._early) >= EARLY_KEPT:
            del self._early[next(iter(self._early))]
        self._early[call_id] = None

    def was_withdrawn(self, call_id: str) -> bool:
        """Whether the call that comes now was withdrawn before; its withdrawal is then used up."""
        if call_id not in self._early:
            return False
        del self._early[call_id]
        return True
