"""What the server publishes of a store, made into the changes of a watch, as long as nothing of it is missing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from asyncmgr._common.safe_text import error_text
from asyncmgr.errors import TransportError
from asyncmgr.transports._streams import SNAPSHOT_DONE, Deleted, Entry, Watch
from asyncmgr.transports._valkey.connection import Connection
from asyncmgr.transports._valkey.options import Server
from asyncmgr.transports._valkey.records import Records

LOOK_EVERY = 2.0
"""Seconds between looks whether the feed is alive and complete. A look takes two answers at most, of 5 s each, so
a silent loss is noticed within 12 s."""

_ENDED = "the watch was left"


class Feed:
    """Hands a watch what is published, over a connection of its own.

    It subscribes first and reads then; what is published meanwhile waits. Each change names the revision of the store
    before it, so a gap shows: a change that did not come, or a store that was wiped.
    """

    def __init__(self, records: Records, start: str) -> None:
        self.watch: Watch = Watch()
        self._records, self._start = records, start
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._early: list[bytes] | None = []
        self._revision = 0
        """The last one of the store that was seen."""
        self._ahead = 0.0
        """Seconds by which the server's clock is ahead of the loop's."""
        self._looker: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Subscribe, then read the snapshot; raises `TransportError`."""
        await self._records.open(watched=True)  # which tells the node that has it
        server = self._records.node or self._records.link.check().server
        connection = Connection(
            server, self._records.link.options, lost=self._note_loss, published=self._receive
        )
        await connection.open()
        self._connection = connection
        await connection.ask("SUBSCRIBE", self._records.channel)
        await self._read_snapshot()
        self._looker = asyncio.create_task(self._keep_looking(), name="asyncmgr store watch")

    def end(self) -> None:
        """The engine was closed."""
        self.watch.end()

    async def close(self) -> None:
        """Leave nothing behind."""
        self.watch.end()
        if self._looker:
            self._looker.cancel()
            await asyncio.gather(self._looker, return_exceptions=True)
        if self._connection:
            await self._connection.close(TransportError(_ENDED))

    async def _read_snapshot(self) -> None:
        self._revision, names = await self._records.names(self._start)
        for entry in await self._records.read_all(names):
            self.watch.deliver(entry)
        await self._look()
        self.watch.deliver(SNAPSHOT_DONE)
        self.watch.note_heard()
        early, self._early = self._early or [], None
        in_snapshot = self._revision
        # Of a key that changed while the snapshot was read, the watch keeps the last change: nobody has read it yet.
        for message in early:
            self._take(message, in_snapshot)

    def _receive(self, message: bytes) -> None:
        if self._early is not None:
            self._early.append(message)
        else:
            self._take(message)

    def _take(self, message: bytes, in_snapshot: int = 0) -> None:
        try:
            change = _Published.read(message)
        except ValueError:
            return self._fail(f"somebody else publishes on {self._records.channel}")
        if change.revision > in_snapshot:
            self._follow(change)
        return None

    def _follow(self, change: _Published) -> None:
        if change.before != self._revision:
            self._fail("changes did not come, or the store was wiped")
            return
        self._revision = change.revision
        if change.name.startswith(self._start):
            self._hand_on(change)
        self.watch.note_heard()

    def _hand_on(self, change: _Published) -> None:
        if change.value is None:
            self.watch.deliver(Deleted(change.name, change.revision))
        else:
            age = self._age(change.written / 1e6)
            self.watch.deliver(Entry(change.name, change.value, change.revision, age))

    def _age(self, written: float) -> float:
        """By the server's clock, whose lead over the loop's is corrected where it is seen to be more."""
        now = self._loop.time()
        self._ahead = max(self._ahead, written - now)
        return now + self._ahead - written

    # Whether the feed is alive

    async def _keep_looking(self) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY)
                await self._look()
        except TransportError as exc:
            self._fail(str(exc))
        except Exception as exc:  # whatever it is: nobody looks any more
            self._fail(error_text(exc))

    async def _look(self) -> None:
        """Read the store's last revision; once the feed has answered too, it has brought all changes up to it."""
        seen = self._revision
        revision, now = await self._records.open(watched=True)
        self._ahead = now / 1e6 - self._loop.time()
        assert self._connection
        await self._connection.ask("PING")
        if self._early is not None:
            return
        if self._connection.server != self._server():  # what it brings may come late from there
            self._fail("it is on another server now")
        elif revision < seen:
            self._fail("the store was wiped or went back")
        elif self._revision < revision:
            self._fail("changes did not come")
        else:
            self.watch.note_heard()

    def _server(self) -> Server:
        """Where the store is."""
        return self._records.node or self._records.link.check().server

    def _note_loss(self, _: Connection, error: TransportError) -> None:
        self._fail(str(error))

    def _fail(self, fact: str) -> None:
        self.watch.end(
            TransportError(f"store {self._records.name}: {fact}; changes may be missed: watch again")
        )
        if self._looker:
            self._looker.cancel()


@dataclass(frozen=True, slots=True)
class _Published:
    """A change as the scripts publish it."""

    before: int
    """The revision of the store before it."""
    revision: int
    written: int
    """Microseconds by the server's clock."""
    name: str
    value: bytes | None
    """None = the key was deleted."""

    @classmethod
    def read(cls, message: bytes) -> _Published:
        head, is_entry, value = message.partition(b"\n")
        before, revision, written, name = head.decode().split(" ")
        return cls(int(before), int(revision), int(written), name, value if is_entry else None)
