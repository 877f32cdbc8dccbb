"""The buffers between transports and their readers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.transports._stores import Store
from asyncmgr.transports._streams import SNAPSHOT_DONE, Change, Deleted, Entry, Message, Subscription, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncmgr.testing import VirtualTime


def message(text: str) -> Message:
    """Message with this text."""
    return Message("subject", text.encode())


async def waiting(stream: AsyncIterator[Any], count: int) -> list[Any]:
    """The next `count` items, which must be there already."""
    async with asyncio.timeout(0):
        return [await anext(stream) for _ in range(count)]


async def test_oldest_is_dropped_and_told_once() -> None:
    """An overflow is logged when it begins and when the reader has caught up, not per message."""
    subscription = Subscription("subject", pending_limit=2)
    with structlog.testing.capture_logs() as logs:
        for round_ in range(2):
            for number in range(5):
                subscription.deliver(message(str(number)))
            assert [item.data for item in await waiting(subscription, 2)] == [b"3", b"4"]
            assert subscription.dropped == 3 * (round_ + 1)
    assert [(log["event"], log.get("dropped")) for log in logs] == [
        ("subscription.overflowed", None),
        ("subscription.recovered", 3),
    ] * 2


async def test_what_is_dropped_is_handed_over() -> None:
    """For whoever wants to do something about it."""
    subscription = Subscription("s", pending_limit=2)
    dropped: list[bytes] = []
    subscription.on_drop = lambda message: dropped.append(message.data)
    for number in range(5):
        subscription.deliver(Message("s", b"%d" % number))
    assert dropped == [b"0", b"1", b"2"]


async def test_several_readers_share() -> None:
    """Each message goes to one of the tasks that iterate, and all of them see the end."""
    subscription = Subscription("subject")
    got: list[bytes] = []

    async def read() -> None:
        async for item in subscription:
            got.append(item.data)  # noqa: PERF401 - seen while it grows

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(10):
        subscription.deliver(message(str(number)))
    subscription.end()
    await asyncio.gather(*readers)
    assert sorted(got) == [str(number).encode() for number in range(10)]


async def test_end_comes_after_what_is_buffered() -> None:
    """What had come is handed out after the end too; what is delivered later is ignored."""
    subscription, watch = Subscription("subject"), Watch()
    for text in ("in time", "late"):
        subscription.deliver(message(text))
        watch.deliver(Deleted(text.replace(" ", "-"), 1))
        subscription.end()
        watch.end()
    assert await waiting(subscription, 1) == [message("in time")]
    assert await waiting(watch, 1) == [Deleted("in-time", 1)]
    for stream in (subscription, watch):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_failure_is_raised_once() -> None:
    """A stream that ends with a failure raises it, then is ended; a second end changes nothing."""
    watch = Watch()
    watch.end(TransportError("lost"))
    watch.end(TransportError("another"))
    with pytest.raises(TransportError, match="lost"):
        await anext(watch)
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # a newer entry takes the place of the one in the snapshot
        (
            [Entry("a", b"1", 1, 0), Entry("b", b"", 2, 0), SNAPSHOT_DONE, Entry("a", b"2", 3, 0)],
            [Entry("a", b"2", 3, 0), Entry("b", b"", 2, 0), SNAPSHOT_DONE],
        ),
        # a deletion goes behind the snapshot, without the entry
        (
            [Entry("a", b"1", 1, 0), SNAPSHOT_DONE, Deleted("a", 2)],
            [SNAPSHOT_DONE, Deleted("a", 2)],
        ),
        # the last of several changes stays
        (
            [SNAPSHOT_DONE, Deleted("a", 1), Entry("b", b"", 2, 0), Entry("a", b"3", 3, 0)],
            [SNAPSHOT_DONE, Entry("a", b"3", 3, 0), Entry("b", b"", 2, 0)],
        ),
    ],
)
@pytest.mark.usefixtures("virtual_time")
async def test_one_change_of_a_key_waits(changes: list[Change], expected: list[Change]) -> None:
    """A watch holds the latest change of each key, entries only before the end of the snapshot."""
    watch = Watch()
    for change in changes:
        watch.deliver(change)
    assert await waiting(watch, len(expected)) == expected


async def test_entries_age_in_the_buffer(virtual_time: VirtualTime) -> None:
    """What waited for its reader is older by that time."""
    watch = Watch()
    watch.deliver(Entry("a", b"", 1, 2.0))
    await virtual_time.advance(3)
    assert await waiting(watch, 1) == [Entry("a", b"", 1, 5.0)]


async def test_keys_of_a_watch_that_was_cut_short() -> None:
    """A listing during which the transport is closed is an error, not a shorter list."""
    watch = Watch()

    class Cut:
        async def __aenter__(self) -> Watch:
            return watch

        async def __aexit__(self, *_: object) -> None: ...

    class Closing(Store):
        get = put = create = update = delete = None  # type: ignore[assignment]

        def watch(self, prefix: str = "") -> Any:
            return Cut()

    listing = asyncio.create_task(Closing().keys())
    await asyncio.sleep(0)
    watch.deliver(Entry("key", b"", 1, 0))
    watch.end()
    with pytest.raises(TransportClosed, match="before all keys"):
        await listing


async def test_large_messages_are_lost_before_the_limit_of_their_number() -> None:
    """A slow reader holds 64 MiB at most; each that is lost is told, so that its sender can be (36)."""
    lost: list[Message] = []
    subscription = Subscription("subject")
    subscription.on_drop = lost.append
    data = bytes(1024 * 1024)
    for number in range(100):
        subscription.deliver(Message("subject", data, str(number)))
    assert [message.reply_to for message in lost] == [str(number) for number in range(36)]
    got = [(await anext(subscription)).reply_to for _ in range(64)]
    assert got == [str(number) for number in range(36, 100)]
    subscription.deliver(message("small"))
    assert (await anext(subscription)).data == b"small"
    assert subscription.dropped == 36
