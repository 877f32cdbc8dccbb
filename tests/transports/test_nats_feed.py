"""What a watch makes of what its consumer sends, also where a server seldom sends it: gaps, silence, set clocks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from asyncmgr.errors import TransportError
from asyncmgr.testing import VirtualTime
from asyncmgr.transports import SNAPSHOT_DONE, Change, Deleted, Entry, Watch
from asyncmgr.transports._nats.feed import HEARTBEAT, SILENT_FOR, Feed
from asyncmgr.transports._nats.protocol import Msg
from asyncmgr.transports._nats.reconnect import Link

NOW = 1_700_000_000.0
"""The server's clock when the consumer was made."""


class FakeLink:
    """Takes what is published."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.unreadable: list[bytes] = []

    def check(self) -> FakeLink:
        return self

    def note_unreadable(self, subject: bytes) -> None:
        self.unreadable.append(subject)

    def publish_now(self, subject: str, data: bytes) -> None:
        self.published.append(subject)


class Fed:
    """A watch of the store ``s``, and its consumer's side."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.link = FakeLink()
        self.feed = Feed(self.watch, cast("Link", self.link), len("$KV.s."), "s")
        self._number = 0

    def begin(self, pending: int = 0) -> None:
        time = datetime.fromtimestamp(NOW, UTC).isoformat()
        self.feed.begin(
            {"name": "c", "ts": time, "num_pending": pending, "delivered": {"consumer_seq": self._number}}
        )

    def send(
        self, key: str, *, written: float = NOW, pending: int = 0, skip: int = 0, **headers: str
    ) -> None:
        """A message of the store; `skip` of them before it were lost."""
        self._number += 1 + skip
        place = f"$JS.ACK.KV_s.c.1.{self._number + 10}.{self._number}.{int(written * 1e9)}.{pending}"
        self.receive(f"$KV.s.{key}".encode(), place, block(**headers) if headers else None)

    def control(self, reply: str = "", **headers: str) -> None:
        self.receive(b"inbox", reply, block("100 Idle Heartbeat", **headers))

    def receive(self, subject: bytes, reply: str, headers: bytes | None = None) -> None:
        self.feed.receive(Msg(1, subject, reply.encode(), b"x", headers))

    def taken(self) -> list[Change]:
        """What can be read without waiting."""
        found = []
        while self.watch._has_items():
            found.append(self.watch._take())
        return found

    async def failure(self) -> str:
        with pytest.raises(TransportError) as caught:
            await anext(self.watch)
        return str(caught.value)


def block(status: str = "", **headers: str) -> bytes:
    lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0 {status}\r\n{lines}\r\n".encode() if status else f"NATS/1.0\r\n{lines}\r\n".encode()


@pytest.fixture
async def fed(virtual_time: VirtualTime) -> Fed:
    return Fed()


def names(changes: list[Change]) -> list[str]:
    """Keys, ``-key`` for a deletion and ``.`` for the end of the snapshot."""
    return [
        "." if change is SNAPSHOT_DONE else f"-{change.key}" if isinstance(change, Deleted) else change.key
        for change in changes
    ]


async def test_early_messages(fed: Fed) -> None:
    """What comes before the answer that announces the consumer belongs to the snapshot."""
    fed.send("a", pending=1)
    assert fed.taken() == []
    fed.begin(pending=1)
    fed.send("b")
    assert names(fed.taken()) == ["a", "b", "."]


async def test_all_came_early(fed: Fed) -> None:
    """So it is where nothing is left to come."""
    fed.send("a")
    fed.begin()
    fed.send("b")
    assert names(fed.taken()) == ["a", ".", "b"]


async def test_snapshot_ends_with_its_number(fed: Fed) -> None:
    """Keys that others write meanwhile do not put off the end of the snapshot."""
    fed.begin(pending=2)
    for key in ("a", "b", "c"):
        fed.send(key, pending=5)
    assert names(fed.taken()) == ["a", "b", ".", "c"]


async def test_rest_of_the_snapshot_expired(fed: Fed) -> None:
    """A heartbeat that says that nothing is under way ends a snapshot whose last keys expired before they were sent."""
    fed.begin(pending=2)
    fed.send("a", pending=1)
    fed.control(Nats_Last_Consumer="1")
    assert names(fed.taken()) == ["a", "."]
    fed.control(Nats_Last_Consumer="1")
    assert fed.taken() == []


async def test_deletions(fed: Fed) -> None:
    """They are changes, and in no snapshot."""
    fed.begin(pending=2)
    fed.send("a", pending=1, KV_Operation="DEL")
    fed.send("b", pending=0, KV_Operation="PURGE")
    fed.send("b")
    fed.send("b", KV_Operation="DEL")
    assert names(fed.taken()) == [".", "-b"]


async def test_revision(fed: Fed) -> None:
    """It is the number in the store, not that of the watch; also where the place names a cluster's domain."""
    fed.begin()
    fed.send("a")
    fed.receive(b"$KV.s.b", "$JS.ACK.hub.account.KV_s.c.1.44.2.1700000000000000000.0.token")
    assert [change.revision for change in fed.taken() if isinstance(change, Entry)] == [11, 44]


async def test_gap(fed: Fed) -> None:
    """A message that did not come ends the watch, once."""
    fed.begin()
    fed.send("a")
    fed.send("b", skip=2)
    assert names(fed.taken()) == [".", "a"]
    assert await fed.failure() == "store s: 2 changes did not come, changes may be missed; watch again"
    with pytest.raises(StopAsyncIteration):
        await anext(fed.watch)


async def test_gap_at_the_end(fed: Fed) -> None:
    """A heartbeat tells of messages that did not come and had none after them."""
    fed.begin()
    fed.send("a")
    fed.control(Nats_Last_Consumer="2")
    fed.taken()
    assert "1 changes did not come" in await fed.failure()


async def test_silence(fed: Fed, virtual_time: VirtualTime) -> None:
    """A consumer that says nothing for `SILENT_FOR` is gone; one that beats is there."""
    fed.begin()
    for _ in range(20):
        await virtual_time.advance(HEARTBEAT)
        fed.control(Nats_Last_Consumer="0")
    assert names(fed.taken()) == ["."]
    await virtual_time.advance(0.9 * SILENT_FOR)
    reader = asyncio.ensure_future(fed.failure())
    await asyncio.sleep(0)
    assert not reader.done()
    await virtual_time.advance(0.1 * SILENT_FOR)
    assert "nothing came for 15 s" in await reader


async def test_flow_control(fed: Fed) -> None:
    """Questions whether more may be sent are answered, in both of their forms."""
    fed.begin()
    fed.control("$JS.FC.1")
    fed.control(Nats_Last_Consumer="0", Nats_Consumer_Stalled="$JS.FC.2")
    assert fed.link.published == ["$JS.FC.1", "$JS.FC.2"]


def ages(fed: Fed) -> list[float]:
    return [round(change.age, 3) for change in fed.taken() if isinstance(change, Entry)]


async def test_age(fed: Fed, virtual_time: VirtualTime) -> None:
    """It counts by the server's clock from the moment that the consumer was made."""
    fed.begin(pending=2)
    fed.send("a", written=NOW - 50, pending=1)
    fed.send("b", written=NOW - 20)
    await virtual_time.advance(10)
    fed.send("c", written=NOW + 9)
    assert ages(fed) == [60, 30, 1]


@pytest.mark.parametrize("step", [3600, -3600])
async def test_set_clock(fed: Fed, virtual_time: VirtualTime, step: float) -> None:
    """Where the server's clock was set, changes after that are not hours old."""
    fed.begin()
    fed.send("a")
    await virtual_time.advance(10)
    for seconds in (10, 11):
        fed.send(f"b{seconds}", written=NOW + step + seconds)
    await virtual_time.advance(5)
    fed.send("c", written=NOW + step + 14)
    for age in ages(fed)[1:]:
        assert 0 <= age <= 6


async def test_clock_that_was_ahead(fed: Fed) -> None:
    """An entry from before a clock was set back has no age below 0."""
    fed.begin(pending=1)
    fed.send("a", written=NOW + 500)
    assert ages(fed) == [0]


async def test_after_the_end(fed: Fed) -> None:
    """What still comes when the watch was left is ignored."""
    fed.begin()
    fed.feed.stop()
    fed.watch.end()
    fed.send("a")
    assert names(fed.taken()) == ["."]


def test_fake_is_like_the_link() -> None:
    """The fake has only what the link has."""
    methods: list[Any] = [name for name in vars(FakeLink) if not name.startswith("_")]
    assert [name for name in methods if not hasattr(Link, name)] == ["publish_now"]


async def test_heard(fed: Fed, virtual_time: VirtualTime) -> None:
    """The watch knows until when no change is missing: as of the last word of its consumer (42)."""
    loop = asyncio.get_running_loop()
    fed.begin()
    await virtual_time.advance(HEARTBEAT)
    fed.send("a")
    assert fed.watch.heard_at == loop.time()
    await virtual_time.advance(HEARTBEAT)
    fed.control(Nats_Last_Consumer="1")
    assert fed.watch.heard_at == loop.time()
    heard = fed.watch.heard_at
    await virtual_time.advance(HEARTBEAT)
    assert fed.watch.heard_at == heard
    fed.control(Nats_Last_Consumer="2")  # something is missing
    assert fed.watch.heard_at == heard


async def test_process_that_stood_still(fed: Fed, virtual_time: VirtualTime) -> None:
    """What came meanwhile is read before a silence is taken for one (42)."""
    fed.begin()
    loop = asyncio.get_running_loop()
    timer = fed.feed._timer
    assert timer
    fed.feed._heard = loop.time() - 100  # as if no timer had run for so long
    timer.cancel()
    fed.feed._watch_over()
    fed.send("a")
    await virtual_time.advance(SILENT_FOR / 2)
    assert names(fed.taken()) == [".", "a"]
    assert not fed.watch._ended


async def test_number_that_came_before(fed: Fed) -> None:
    """It comes twice while one connection takes over from another, and is one change (45)."""
    fed.begin()
    fed.send("a")
    fed._number = 0
    fed.send("a")
    fed.send("b")
    assert names(fed.taken()) == [".", "a", "b"]
