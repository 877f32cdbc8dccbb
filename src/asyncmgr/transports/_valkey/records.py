"""The keys of one store on the server: the scripts of `scripts`, called and read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.transports._streams import Entry
from asyncmgr.transports._valkey.link import Link
from asyncmgr.transports._valkey.options import Server
from asyncmgr.transports._valkey.scripts import (
    CONFLICT,
    DELETE,
    LIST,
    NONE,
    OPEN,
    OTHER_TTL,
    READ,
    WRITE,
    Script,
)

PAGE = 200
"""Keys that one script reads at most, so that the server does not stand still for a large store."""


class Records:
    """What is asked and changed in one store.

    Parameters
    ----------
    check
        Called before each call; raises `TransportError` in another event loop.
    """

    def __init__(
        self, link: Link, name: str, ttl: float | None, *, watched: bool, check: Callable[[], None]
    ) -> None:
        self.link: Link = link
        self.name: str = name
        self.node: Server | None = None
        """The node of the cluster that keeps this store; None = the server of the URL."""
        self._check = check
        self._tag = f"{{{link.options.prefix}:{name}}}"
        self._index = f"{self._tag}:index"
        # Channels are the same for all databases of a server.
        self.channel: str = f"{self._tag}:changes:{link.options.database}"
        self._ttl = str(math.ceil((ttl or 0.0) * 1000))
        self._watched = "1" if watched else "0"

    async def open(self, *, watched: bool = False) -> tuple[int, int]:
        """Make the store where it is missing; return its last revision, and the server's clock."""
        answer = await self._run(OPEN, [self._tag], [self._ttl, "1" if watched else self._watched])
        self._check_ttl(answer)
        return int(answer[1]), int(answer[2])

    async def names(self, start: str) -> tuple[int, list[str]]:
        """The last revision of the store, and the names of its keys that begin so."""
        answer = await self._run(LIST, [self._tag, self._index], [start])
        revision, *names = answer.decode().split(" ")
        return int(revision), names

    async def read_all(self, names: list[str]) -> list[Entry]:
        """The entries of those of these keys that exist, read page by page."""
        found: list[Entry] = []
        for first in range(0, len(names), PAGE):
            found += await self.read(names[first : first + PAGE])
        return found

    async def read(self, names: list[str]) -> list[Entry]:
        """The entries of those of these keys that exist, as they are at one moment."""
        now, *records = await self._run(READ, [self._key(name) for name in names], [])
        return [_entry(name, record, int(now)) for name, record in zip(names, records, strict=True) if record]

    async def write(self, key: str, expected: str, value: bytes) -> int:
        """Write where the key is as `expected`; return the new revision, or raise `RevisionConflict`."""
        return await self._change(WRITE, key, expected, value)

    async def delete(self, key: str, expected: str) -> None:
        """Delete where the key is as `expected`, or raise `RevisionConflict`."""
        await self._change(DELETE, key, expected)

    async def _change(self, script: Script, key: str, expected: str, *value: bytes) -> int:
        keys = [self._tag, self._index, self._key(key)]
        answer = await self._run(
            script, keys, [self._ttl, self._watched, key, expected, self.channel, *value]
        )
        self._check_ttl(answer)
        if answer[0] == CONFLICT:
            raise RevisionConflict(self._conflict(key, expected, answer[1:]))
        return int(answer[1])

    async def _run(self, script: Script, keys: list[str], args: list[str | bytes]) -> Any:
        self._check()
        self.node, answer = await self.link.run(self.node, script, keys, args)
        return answer

    def _key(self, name: str) -> str:
        return f"{self._tag}:key:{name}"

    def _conflict(self, key: str, expected: str, found: list[bytes | None]) -> str:
        at = f"at revision {found[0].decode()}" if found and found[0] else "not there"
        if expected == NONE:
            return f"{self.name}: {key} is there, {at}; update it"
        return f"{self.name}: {key} is {at}, not at {expected}; read it again"

    def _check_ttl(self, answer: list[bytes]) -> None:
        if answer[0] == OTHER_TTL:
            raise TransportError(
                f"store {self.name} has a TTL of {_seconds(answer[1])}, not {_seconds(self._ttl)}; use one"
            )


def _entry(name: str, record: bytes, now: int) -> Entry:
    head, _, value = record.partition(b"\n")
    revision, written = map(int, head.split(b" "))
    return Entry(name, value, revision, max(0, now - written) / 1e6)


def _seconds(milliseconds: bytes | str) -> str:
    return f"{int(milliseconds) / 1000:g} s" if int(milliseconds) else "none"
