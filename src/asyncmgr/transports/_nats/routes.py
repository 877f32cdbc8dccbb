"""What a link is subscribed to, and what of it the server does not let it have."""

from __future__ import annotations

import re
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from asyncmgr.transports._nats.connection import Handler
from asyncmgr.transports._nats.protocol import Msg
from asyncmgr.transports._streams import Stream

# As servers from 2.2 on say it; the number is there where the subscription was in force before.
_REFUSAL = re.compile(
    r'Permissions Violation for (Subscription|Publish) to "([^"]*)"'
    r'(?: using queue "([^"]*)")?(?: \(sid "(\d+)"\))?',
    re.IGNORECASE,
)


@dataclass(slots=True, eq=False)
class Route:
    """A subject that is subscribed to."""

    subject: str
    group: str | None = None
    stream: Stream[Any] | None = None
    """Ends when the link is closed."""
    lasting: bool = True
    """Else the stream fails with the connection, instead of going on with the next."""
    confirmed: bool = False
    """Whether the server has taken it once; until then a refusal is for whoever subscribes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server does not permit."""

    of_publishing: bool
    subject: str
    group: str | None
    number: int | None


def read_refusal(text: str) -> Refusal | None:
    """Out of the text of an error; None where it is about something else."""
    if (found := _REFUSAL.match(text)) is None:
        return None
    what, subject, group, number = found.groups()
    return Refusal(what.lower() == "publish", subject, group, int(number) if number else None)


class Routes:
    """The subscriptions of a link, by number, with their handlers.

    Parameters
    ----------
    troubled
        Called when others are lost than before.
    """

    def __init__(self, troubled: Callable[[], object]) -> None:
        self.handlers: dict[int, Handler] = {}
        self._routes: dict[int, Route] = {}
        self._lost: set[int] = set()
        self._troubled = troubled

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, number: int, route: Route, handler: Handler) -> None:
        self._routes[number] = route
        self.handlers[number] = handler

    def remove(self, number: int) -> bool:
        """Whether it was there. Its handler stays until `forget`."""
        self.regain([number])
        return self._routes.pop(number, None) is not None

    def forget(self, number: int) -> None:
        self.handlers.pop(number, None)

    def items(self) -> list[tuple[int, Route]]:
        return list(self._routes.items())

    def refused_by(self, refusal: Refusal) -> set[int]:
        """The numbers of what is refused."""
        if refusal.number is not None:
            return {refusal.number} & self._routes.keys()
        return {
            number
            for number, route in self._routes.items()
            if (route.subject.lower(), route.group) == (refusal.subject.lower(), refusal.group)
        }

    def confirm(self, number: int) -> None:
        if number in self._routes:
            self._routes[number].confirmed = True

    def is_lost(self, number: int) -> bool:
        return number in self._lost

    @property
    def lost(self) -> dict[int, Route]:
        """Those that the server has taken away, or does not give back."""
        return {number: self._routes[number] for number in self._lost}

    def lose(self, numbers: Iterable[int]) -> None:
        """The server does not let these be, which were there before."""
        self._note(
            self._lost | {each for each in numbers if (route := self._routes.get(each)) and route.confirmed}
        )

    def regain(self, numbers: Iterable[int]) -> None:
        self._note(self._lost.difference(numbers))

    def _note(self, lost: set[int]) -> None:
        if lost != self._lost:
            self._lost = lost
            self._troubled()

    def end(self, error: Exception | None = None, *, lasting: bool = True) -> None:
        """Let who iterates know: of all routes, or of those that end with a connection."""
        for number, route in self.items():
            if lasting or not route.lasting:
                self.remove(number)
                if route.stream:
                    route.stream.end(error)


class Overlap:
    """Has what comes by two connections handled once, while one takes over from the other.

    Members of a group need no help, as the server gives each message to one of them. Of all others each side
    counts how often a message came, and the side that is ahead hands it on. (Of messages that are equal to the
    last byte, and that one side alone had got before, as many may be lost; calls are never equal.)
    """

    def __init__(self, routes: Routes) -> None:
        self._handlers = routes.handlers
        self._doubled = [number for number, route in routes.items() if route.group is None]
        self._most: Counter[int] = Counter()

    def side(self) -> Mapping[int, Handler]:
        """The handlers of one connection."""
        counted: Counter[int] = Counter()
        once: MutableMapping[int, Handler] = {
            number: self._once(self._handlers[number], counted)
            for number in self._doubled
            if number in self._handlers
        }
        return ChainMap(once, self._handlers)

    def _once(self, handler: Handler, counted: Counter[int]) -> Handler:
        def receive(message: Msg) -> None:
            same = hash(message)
            counted[same] += 1
            if counted[same] > self._most[same]:
                self._most[same] = counted[same]
                handler(message)

        return receive
