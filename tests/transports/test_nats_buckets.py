"""Stores in buckets that others made, that hold what others wrote, and that another JetStream keeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig
from structlog.testing import capture_logs
from tests.nats_servers import PATIENCE
from tests.transports.nats_peers import client_of, link_of

from asyncmgr._common.clock import read_wall
from asyncmgr._settings.model import Settings
from asyncmgr.errors import MessageTooLarge, RevisionConflict, TransportError
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import SNAPSHOT_DONE, Entry, Store, Transport, open_transport
from asyncmgr.transports._nats import store as nats_store


@pytest.fixture
async def other(nats_server: NatsServer) -> AsyncIterator[Any]:
    """Another program's client."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def transport(nats_server: NatsServer) -> AsyncIterator[Transport]:
    async with open_transport(nats_server.url) as transport:
        yield transport


async def serves(store: Store) -> bool:
    """Whether all that a store does is done."""
    first = await store.create("a.b", b"1")
    with pytest.raises(RevisionConflict):
        await store.create("a.b", b"2")
    second = await store.update("a.b", b"2", first)
    entry = await store.get("a.b")
    assert entry
    assert (entry.value, entry.revision) == (b"2", second)
    assert 0 <= entry.age < PATIENCE
    assert await store.get("c") is None
    assert await store.keys() == ["a.b"]
    await store.delete("a.b")
    assert await store.get("a.b") is None
    return await store.create("a.b", b"") > second


@pytest.mark.parametrize(
    "made",
    [{}, {"history": 5}, {"direct": True}, {"storage": "memory"}],
    ids=lambda made: "-".join(made) or "defaults",
)
async def test_bucket_of_another_client(other: Any, transport: Transport, made: dict[str, Any]) -> None:
    """As nats-py makes it, without direct reads too, it serves (44)."""
    name = "theirs-" + "-".join(made)
    await other.jetstream().create_key_value(bucket=name, ttl=60, **made)
    assert await serves(await transport.store(name, ttl=60))


@pytest.mark.parametrize(
    ("made", "fact"),
    [
        ({"max_age": 0}, r"max_age \(the TTL\) is none, not 60 s"),
        ({"max_age": 120}, r"max_age \(the TTL\) is 120 s, not 60 s"),
        ({"retention": "interest"}, 'retention is "interest", not "limits"'),
        ({"no_ack": True}, "no_ack is true, not false"),
        ({"subjects": ["elsewhere.>"]}, r'subjects is \["elsewhere.>"\], not \["\$KV\.odd\.>"\]'),
        (
            {"discard": "new", "discard_new_per_subject": True},
            "discard_new_per_subject is true, not false",
        ),
    ],
)
async def test_bucket_that_does_not_serve(
    other: Any, transport: Transport, made: dict[str, Any], fact: str
) -> None:
    """Each setting in the way is named, with what it is and what it has to be (44)."""
    config: dict[str, Any] = {
        "name": "KV_odd",
        "subjects": ["$KV.odd.>"],
        "max_age": 60,
        "max_msgs_per_subject": 1,
    }
    js = other.jetstream()
    if "discard" in made:
        body = {**config, **made, "max_age": 60 * 10**9, "retention": "limits", "storage": "memory"}
        answer = await other.request("$JS.API.STREAM.CREATE.KV_odd", json.dumps(body).encode())
        assert "error" not in json.loads(answer.data)
    else:
        await js.add_stream(StreamConfig(**config | made))
    try:
        with pytest.raises(
            TransportError, match=f"store odd cannot be used: of its stream KV_odd {fact}; change"
        ):
            await transport.store("odd", ttl=60)
    finally:
        await js.delete_stream("KV_odd")


async def test_key_that_is_no_text(other: Any, transport: Transport) -> None:
    """It costs a log line: watches and all other keys go on (43)."""
    store = await transport.store("garbage", ttl=60)
    await store.put("before", b"")
    async with store.watch() as watch:
        with capture_logs() as logged:
            client_of(transport)._send(b"PUB $KV.garbage.\xff\xfe 1\r\nx\r\n")
            await store.put("after", b"")
            found = [await asyncio.wait_for(anext(watch), PATIENCE) for _ in range(3)]
        assert [getattr(change, "key", ".") for change in found] == ["before", ".", "after"]
    assert [event["event"] for event in logged] == ["message.unreadable"]
    assert r"\xff\xfe" in logged[0]["subject"]
    assert sorted(await store.keys()) == ["after", "before"]
    await other.jetstream().delete_stream("KV_garbage")


async def test_value_above_the_limit() -> None:
    """Where a server allows more than 1 MiB, what others write reads as empty, is logged, and is replaced (35)."""
    async with NatsServer("max_payload: 8MB") as server, open_transport(server.url) as transport:
        store = await transport.store("large", ttl=60)
        other = await nats.connect(server.url)
        bucket = await other.jetstream().key_value("large")
        async with store.watch() as watch:
            with capture_logs() as logged:
                revision = await bucket.put("key", bytes(7_000_000))
                assert await asyncio.wait_for(anext(watch), PATIENCE) is SNAPSHOT_DONE
                change = await asyncio.wait_for(anext(watch), PATIENCE)
            assert isinstance(change, Entry)
            assert (change.value, change.revision) == (b"", revision)
            (event,) = logged
            assert (event["event"], event["size"]) == ("message.too_large", 7_000_000)
        entry = await store.get("key")
        assert entry
        assert (entry.value, entry.revision) == (b"", revision)
        assert await store.update("key", b"small", revision) > revision
        await other.close()


@pytest.mark.parametrize("with_headers", [False, True])
async def test_message_above_the_limit(with_headers: bool) -> None:
    """It arrives without its data, so that its sender can be told; an answer is an error (35)."""
    headers = {"a": "b"} if with_headers else None
    async with (
        NatsServer("max_payload: 8MB", jetstream=False) as server,
        open_transport(server.url) as transport,
    ):
        other = await nats.connect(server.url)

        async def answer(request: Any) -> None:
            await other.publish(request.reply, bytes(2_000_000), headers=headers)

        await other.subscribe("large", cb=answer)
        async with transport.subscribe("s") as messages:
            with capture_logs() as logged:
                await other.publish("s", bytes(2_000_000), reply="r", headers=headers)
                message = await asyncio.wait_for(anext(messages), PATIENCE)
            assert (message.data, message.reply_to) == (b"", "r")
            assert [event["event"] for event in logged] == ["message.too_large"]
        with pytest.raises(MessageTooLarge, match="large: the answer has 2000000 bytes, at most 1048576 fit"):
            await transport.request("large", b"", timeout=PATIENCE)
        await other.close()


async def test_domain() -> None:
    """The JetStream of another domain keeps what its name in the settings says (44)."""
    config = "jetstream { domain: hub }"
    async with NatsServer(config) as server:
        async with open_transport(server.url, Settings(nats={"jetstream_domain": "hub"})) as one:
            assert await serves(await one.store("s", ttl=60))
            assert (await link_of(one).ask("$JS.hub.API.STREAM.INFO.KV_s", b"", PATIENCE)).status == b""
        async with open_transport(server.url, Settings(nats={"jetstream_domain": "other"})) as one:
            with pytest.raises(TransportError, match="has no JetStream of the domain other"):
                await one.store("s", ttl=60)


async def test_replicas(nats_server: NatsServer) -> None:
    """What one server cannot give is refused with the setting; a bucket that is there is used as it is (44)."""
    settings = Settings(nats={"replicas": 3})
    async with open_transport(nats_server.url, settings) as one, open_transport(nats_server.url) as other:
        with pytest.raises(
            TransportError, match=r"store three: replicas > 1 not supported.*replicas of \[nats\]"
        ):
            await one.store("three", ttl=60)
        await other.store("single", ttl=60)
        await one.store("single", ttl=60)


async def test_bucket_of_an_earlier_version(other: Any, transport: Transport) -> None:
    """A bucket whose sequences began at 1 goes on with them; once it is lost, the next one begins at the clock."""
    js = other.jetstream()
    await js.add_stream(StreamConfig(name="KV_early", subjects=["$KV.early.>"], max_msgs_per_subject=1))
    store = await transport.store("early", ttl=None)
    assert [await store.put("key", b"") for _ in range(2)] == [1, 2]
    await js.delete_stream("KV_early")
    before = await transport.now()
    assert await store.create("key", b"") >= before - 1_000_000
    await js.delete_stream("KV_early")


async def test_bucket_that_expires_is_not_one_that_keeps(other: Any, transport: Transport) -> None:
    """The error says that keys would expire, where they are to be kept."""
    await transport.store("expiring", ttl=60)
    with pytest.raises(TransportError, match=r"max_age \(the TTL\) is 60 s, not none"):
        await transport.store("expiring", ttl=None)
    await other.jetstream().delete_stream("KV_expiring")


async def test_clock_without_a_bucket(transport: Transport) -> None:
    """The server tells its time before any store was opened, and the same afterwards."""
    before = read_wall()
    told = [await transport.now()]
    await transport.store("clock", ttl=60)
    told.append(await transport.now())
    assert before - 1_000 <= told[0] <= told[1] <= read_wall() + 1_000


async def test_user_who_may_not_ask_for_the_time() -> None:
    """Stores work all the same; their first revision is by the clock of whoever makes them."""
    config = """
        accounts { A { jetstream: enabled, users: [
            { user: u, password: p, permissions: { publish: { deny: ["$SYS.>"] } } } ] } }
    """
    async with (
        NatsServer(config) as server,
        open_transport(f"nats://u:p@127.0.0.1:{server.port}") as transport,
    ):
        with pytest.raises(TransportError, match=r"\$SYS.REQ.USER.INFO"):
            await transport.now()
        before = read_wall()
        store = await transport.store("s", ttl=None)
        assert before <= await store.create("key", b"") <= read_wall()
        assert before <= await transport.now() <= read_wall() + 1_000


async def test_a_slow_server_is_not_waited_for(
    nats_server: NatsServer, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a call takes many requests, they end together, before each has had its time."""
    store = await transport.store("slow", ttl=60)
    await store.create("key", b"")
    monkeypatch.setattr(nats_store, "CALL_WITHIN", 0.05)
    nats_server.pause()
    try:
        for call in (store.create("other", b""), transport.store("slow", ttl=60)):
            with pytest.raises(TransportError, match=r"store slow: not done within 0.05 s"):
                await call
    finally:
        nats_server.resume()
    assert await store.get("key")
