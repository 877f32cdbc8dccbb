"""redis:// with several servers: nodes of a cluster, and a primary that sentinels change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.nats_servers import eventually
from tests.valkey_servers import Sentinel, ValkeyServer, free_port, paused

from asyncmgr.errors import RevisionConflict, TransportClosed, TransportError
from asyncmgr.transports import SNAPSHOT_DONE, Entry, Store, Watch, open_store


@pytest.fixture
def nodes(quick_return: None) -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    """Two nodes of one cluster, with half of the slots each."""
    with _node() as one, _node() as two:
        one.command("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        two.command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        one.command("CLUSTER", "SET-CONFIG-EPOCH", "1")
        two.command("CLUSTER", "SET-CONFIG-EPOCH", "2")
        one.command("CLUSTER", "MEET", "127.0.0.1", str(two.port), two.arguments[-1])
        for node in (one, two):
            node.wait_for("cluster_state:ok", "CLUSTER", "INFO")
            node.wait_for("cluster_known_nodes:2", "CLUSTER", "INFO")
        yield one, two


def _node() -> ValkeyServer:
    timing = ("--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
    return ValkeyServer("--cluster-enabled", "yes", *timing, "--cluster-port", str(free_port()))


async def names_of(nodes: tuple[ValkeyServer, ValkeyServer]) -> list[str]:
    """The name of a store of the first node, and of one of the second."""
    found: dict[bool, str] = {}
    for number in range(64):
        slot = int(nodes[0].command("CLUSTER", "KEYSLOT", f"{{asyncmgr:s{number}}}")[1:])
        found.setdefault(slot > 8191, f"s{number}")
    return [found[False], found[True]]


async def test_stores_of_two_nodes(nodes: tuple[ValkeyServer, ValkeyServer]) -> None:
    """Each store is found where the cluster keeps it, with all its verbs and its watch, from any node."""
    for seed in nodes:
        async with open_store(seed.url) as engine, open_store(nodes[0].url) as peer:
            for name in await names_of(nodes):
                store = await engine.store(name, ttl=None)
                other = await peer.store(name, ttl=None)
                async with store.watch() as watch:
                    async for change in watch:
                        if change is SNAPSHOT_DONE:
                            break
                    revision = await other.put(f"key-{seed.port}", b"x")
                    async with asyncio.timeout(20):
                        change = await anext(watch)
                    assert isinstance(change, Entry)
                    assert change.revision == revision
                with pytest.raises(RevisionConflict):
                    await store.create(f"key-{seed.port}", b"y")
                await store.delete(f"key-{seed.port}", revision)
                assert await other.keys() == []


async def test_a_node_is_lost(nodes: tuple[ValkeyServer, ValkeyServer]) -> None:
    """The stores of a lost node raise, those of the other go on; it comes back without a new engine."""
    async with open_store(nodes[0].url) as engine:
        here, there = [await engine.store(name, ttl=None) for name in await names_of(nodes)]
        revision = await there.put("key", b"x")
        await asyncio.to_thread(nodes[1].kill)
        with pytest.raises(TransportError):
            await there.put("key", b"y")
        await here.put("key", b"x")
        assert engine.connected
        await asyncio.to_thread(nodes[1].start)
        await eventually(lambda: b"cluster_state:ok" in nodes[1].command("CLUSTER", "INFO"))
        async with asyncio.timeout(20):
            while (entry := await _read(there)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert entry.revision == revision


async def test_the_node_of_the_url_is_lost(nodes: tuple[ValkeyServer, ValkeyServer]) -> None:
    """With several nodes in the URL the connection moves to another one."""
    async with open_store(f"redis://{nodes[0].address},{nodes[1].address}") as engine:
        _, there = [await engine.store(name, ttl=None) for name in await names_of(nodes)]
        await asyncio.to_thread(nodes[0].kill)
        async with asyncio.timeout(20):
            while True:
                try:
                    await there.put("key", b"x")
                    break
                except TransportError:
                    await asyncio.sleep(0.05)


async def test_a_store_moves_to_the_other_node(nodes: tuple[ValkeyServer, ValkeyServer]) -> None:
    """Where the cluster moves a store, calls follow, and a watch says that it may have missed something."""
    async with open_store(nodes[0].url) as engine:
        name = (await names_of(nodes))[0]
        store = await engine.store(name, ttl=None)
        async with store.watch() as watch:
            assert await anext(watch) is SNAPSHOT_DONE
            slot = nodes[0].command("CLUSTER", "KEYSLOT", f"{{asyncmgr:{name}}}")[1:].strip().decode()
            nodes[0].command("DEL", f"{{asyncmgr:{name}}}")  # as if they had been copied
            identity = nodes[1].command("CLUSTER", "MYID").split()[1].decode()
            for node in (nodes[1], nodes[0]):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", identity)
            await store.put("key", b"x")
            with pytest.raises(TransportError, match="another server"):
                await _end(watch)
        entry = await store.get("key")
        assert entry is not None


async def test_closed_with_a_frozen_node(nodes: tuple[ValkeyServer, ValkeyServer]) -> None:
    """Closing does not wait for a node that does not answer."""
    async with open_store(nodes[0].url) as engine:
        there = await engine.store((await names_of(nodes))[1], ttl=None)
        async with paused(nodes[1]):
            call = asyncio.ensure_future(there.put("key", b"x"))
            await asyncio.sleep(0.05)
            async with asyncio.timeout(4):
                await engine.aclose()
            with pytest.raises(TransportClosed):
                await call


async def test_a_list_of_servers_that_are_no_cluster(valkey_server: ValkeyServer, quick_return: None) -> None:
    """Two servers that know nothing of each other would be two stores: that is refused."""
    with pytest.raises(TransportError, match="no node of a cluster"):
        async with open_store(f"redis://{valkey_server.address},{valkey_server.address}"):
            pass


async def test_sentinels_change_the_primary(quick_return: None) -> None:
    """The engine finds the primary by its sentinel, and the new one after a fail-over; revisions go on."""
    with (
        ValkeyServer(append_only=False) as primary,
        ValkeyServer("--replicaof", f"127.0.0.1 {primary.port}", append_only=False) as replica,
        Sentinel(primary) as sentinel,
    ):
        replica.wait_for("master_link_status:up", "INFO", "replication")
        async with open_store(f"redis://{sentinel.address}?sentinel=main") as engine:
            store = await engine.store("kept", ttl=None)
            revision = await store.put("key", b"x")
            assert primary.command("EXISTS", "{asyncmgr:kept}:key:key") == b":1\r\n"
            await eventually(lambda: b":1" in replica.command("EXISTS", "{asyncmgr:kept}:key:key"))
            await asyncio.to_thread(sentinel.wait_for, "slaves=1", "INFO", "sentinel")
            await asyncio.to_thread(primary.kill)
            await eventually(lambda: not engine.connected)
            await eventually(lambda: engine.connected)
            assert await store.update("key", b"y", revision) > revision
            assert b"role:master" in replica.command("INFO", "replication")
        with pytest.raises(TransportError, match="knows no other"):
            async with open_store(f"redis://{sentinel.address}?sentinel=other"):
                pass


async def _end(watch: Watch) -> None:
    async with asyncio.timeout(20):
        async for _ in watch:
            pass


async def _read(store: Store) -> Entry | None:
    try:
        return await store.get("key")
    except TransportError:
        return None
