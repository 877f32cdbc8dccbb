"""`Holder`: what a name is held for, a task or a lease; `Hold`: the right to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from asyncmgr._leases.session import Session

LostWhy = Literal["trust_ended", "taken", "session_lost", "closed"]
"""Why a holder may act no more: it could not renew; its claim is gone or names another session; its session was
killed; the service ended."""


@dataclass(eq=False, slots=True)
class Hold:
    """A claim of ours. It gives the right to act while it is active."""

    session: Session
    token: int
    revision: int
    """The revision of the claim."""
    taken_from: str | None = None
    """The dead session that held the name before."""
    is_active: bool = False
    """Whether its holder may act: the slots are taken, and trust has not ended since."""
    is_stale: bool = False
    """Whether trust has ended since the claim was written. It gets a new token before its holder acts again: another
    process may have held the name, if the store went back meanwhile."""


class Holder(ABC):
    """What a name is held for."""

    kind: ClassVar[Literal["task", "lease"]]
    is_shared_out: ClassVar[bool]
    """Whether hosts share these names out evenly."""
    is_part: ClassVar[bool] = False
    """Whether it is one of very many parts of something: what becomes of it is logged for debugging only."""
    name: str

    @property
    @abstractmethod
    def is_wanted(self) -> bool:
        """Whether this process wants to hold the name now."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether a body goes on here, also one that unwinds after a cancellation."""

    async def prepare(self) -> int:
        """Get ready before the claim; return a number that the token must exceed. Raises `Doubt`."""
        return 0

    async def take(self, hold: Hold) -> bool:
        """Get ready after the claim; False = it cannot be held here, release it. Raises `Doubt`."""
        return True

    @abstractmethod
    def gained(self, hold: Hold) -> None:
        """Begin to act."""

    @abstractmethod
    def lost(self, why: LostWhy) -> None:
        """Stop at once: cancel what goes on."""

    def seen(self) -> None:  # noqa: B027 - most need not know
        """Learn that the claim of the name has changed."""

    def lag(self) -> int:
        """Return what a release says: microseconds since the last moment up to which its work was done."""
        return 0

    def place(self) -> tuple[int, int]:
        """Return the same moment as a place in a turn, and the length of the turn, microseconds; (0, 0) = none."""
        return 0, 0

    async def settle(self, hold: Hold) -> None:  # noqa: B027 - most have nothing to write
        """Write what is left to write, before the release. Nothing goes on any more."""

    def left(self) -> None:  # noqa: B027 - most need not know
        """Learn that the name is given up, and released if it was held."""
