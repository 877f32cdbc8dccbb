"""What somebody did to a task: who, when, from where and with which note. Values; the journal keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

Via: TypeAlias = Literal["code", "socket", "rpc", "http", "timer", "policy", "reload", "lease"]
"""From where somebody acts: the application's code, the control socket, a call, the page; or what acted by itself: the
end of a pause, a policy, new settings, the holder of a task whose pause goes on here."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where."""

    name: str
    """For people: ``code``, ``ops (uid 1000)``, ``said to be ops``, ``timer``."""
    via: Via


CODE = Actor("code", "code")
TIMER = Actor("timer", "timer")
POLICY = Actor("policy", "policy")

_acting: ContextVar[Actor] = ContextVar("asyncmgr actor", default=CODE)


def actor() -> Actor:
    """Return who acts here; the application's own code where nobody else said so."""
    return _acting.get()


@contextmanager
def acting_as(who: Actor) -> Iterator[None]:
    """Record the verbs that are used inside the block as those of `who`."""
    token = _acting.set(who)
    try:
        yield
    finally:
        _acting.reset(token)


@dataclass(frozen=True, slots=True)
class Action:
    """One verb that was used on one task."""

    at: datetime
    """Aware, in UTC."""
    task: str
    """The full name."""
    verb: str
    """``trigger pause resume reschedule enable disable cancel remove``."""
    by: str
    via: Via
    note: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the verb was given, or has done, as JSON values: ``until``, ``schedule``, ``run_id``, ``run_ids``."""


class Journal(Protocol):
    """Keeps actions, in the order in which they come. It is called in the event loop, and raises nothing."""

    def note(self, action: Action) -> None: ...  # pragma: no cover
