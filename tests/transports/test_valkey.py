"""Stories of redis:// with real servers: lost, frozen, wiped, refusing, many writers."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.nats_servers import eventually
from tests.transports.nats_identities import Certificates
from tests.valkey_servers import ValkeyServer, killed, paused

from asyncmgr import Hosts, Service, Settings
from asyncmgr import SchedulerDependentManager as Manager
from asyncmgr.errors import RevisionConflict, TransportClosed, TransportError
from asyncmgr.transports import SNAPSHOT_DONE, Deleted, Entry, Watch, open_store
from asyncmgr.transports._valkey.records import Records

SECRET = "s3cret:/@word"
QUOTED = "s3cret%3A%2F%40word"


@pytest.fixture
def fresh(valkey_server: ValkeyServer) -> ValkeyServer:
    """The shared server without anybody's data."""
    valkey_server.command("FLUSHALL")
    return valkey_server


@pytest.fixture
def guarded(quick_return: None) -> Iterator[ValkeyServer]:
    """A server that wants a password."""
    with ValkeyServer("--requirepass", SECRET, append_only=False) as server:
        yield server


async def snapshot(watch: Watch) -> list[Entry]:
    found: list[Entry] = []
    async with asyncio.timeout(20):
        while (change := await anext(watch)) is not SNAPSHOT_DONE:
            assert isinstance(change, Entry)
            found.append(change)
    return found


async def following(watch: Watch) -> object:
    async with asyncio.timeout(20):
        return await anext(watch)


async def refused(call: Callable[[], Awaitable[object]]) -> str:
    """The text of the first `TransportError` of a call that is made again and again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await call()
            except TransportError as exc:
                return str(exc)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split()[0] for record in caplog.records]


# Lost and found


async def test_killed_with_its_data(fresh: ValkeyServer) -> None:
    """A server that keeps its data comes back with every key and revision, and revisions go on."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        revision = await store.put("key", b"before")
        async with killed(fresh, engine):
            pass
        entry = await store.get("key")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"before", revision)
        assert await store.update("key", b"after", revision) > revision


async def test_killed_without_its_data(fresh: ValkeyServer) -> None:
    """A server that lost its data knows no key; revisions are greater than before, and a watch goes on anew."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        revision = await store.put("key", b"before")
        told: list[bool] = []
        engine.add_state_listener(told.append)
        await asyncio.to_thread(fresh.restart, empty=True)
        await eventually(lambda: told[:2] == [False, True] and engine.connected)
        assert await store.get("key") is None
        with pytest.raises(RevisionConflict):
            await store.update("key", b"after", revision)
        async with store.watch() as watch:
            assert await snapshot(watch) == []
            created = await store.create("key", b"after")
            assert created > revision
            change = await following(watch)
            assert isinstance(change, Entry)
            assert (change.key, change.value, change.revision) == ("key", b"after", created)


async def test_losses_are_logged_once(fresh: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """One line says that the connection was lost, and one that it is back, however many tries it took."""
    caplog.set_level(logging.INFO, "asyncmgr")
    async with open_store(fresh.url) as engine, killed(fresh, engine):
        await asyncio.sleep(0.3)  # several tries
    assert events(caplog) == ["transport.disconnected", "transport.reconnected"]


async def test_opened_before_the_server(quick_return: None) -> None:
    """``connect="wait"`` opens without a server and finds it later; ``required`` says what is missing."""
    with ValkeyServer(append_only=False) as server:
        server.kill()
        with pytest.raises(TransportError, match=f"{server.address} cannot be reached .*does it run"):
            async with open_store(server.url):
                pass
        async with open_store(server.url, Settings(connect="wait")) as engine:
            assert not engine.connected
            with pytest.raises(TransportError, match="not connected"):
                await engine.now()
            server.start()
            await eventually(lambda: engine.connected)
            await engine.store("later", ttl=None)


async def test_frozen_while_opening(fresh: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts connections and says nothing is given up in time, also where a user cancels earlier."""
    from asyncmgr.transports._valkey import connection

    monkeypatch.setattr(connection, "CONNECT_WITHIN", 0.2)
    monkeypatch.setattr(connection, "ANSWER_WITHIN", 0.2)
    async with paused(fresh):
        async with asyncio.timeout(10):
            with pytest.raises(TransportError, match=r"0.2 s"):
                async with open_store(fresh.url):
                    pass


async def test_a_callers_own_deadline_costs_no_connection(fresh: ValkeyServer) -> None:
    """A caller that gives up early leaves the connection to the others, whose answers stay theirs."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        revision = await store.put("key", b"x")
        async with paused(fresh):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.put("other", b"y")
            read = asyncio.ensure_future(store.get("key"))
            await asyncio.sleep(0)
        entry = await read
        assert entry is not None
        assert (entry.key, entry.revision) == ("key", revision)
        assert engine.connected


# Wiped and changed behind our back


async def test_flushall(fresh: ValkeyServer) -> None:
    """FLUSHALL is like a loss of all data: the watch says so, and revisions grow, also by a store opened before."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=30)
        revision = await store.put("key", b"x")
        async with store.watch() as watch:
            await snapshot(watch)
            fresh.command("FLUSHALL")
            with pytest.raises(TransportError, match="wiped"):
                await following(watch)
        assert await store.create("key", b"y") > revision
        with pytest.raises(TransportError, match="TTL of 30 s, not none"):
            await engine.store("kept", ttl=None)


async def test_flushall_then_a_write(fresh: ValkeyServer) -> None:
    """A write that follows FLUSHALL at once does not hide it from a watch."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        await store.put("gone", b"x")
        async with store.watch() as watch:
            await snapshot(watch)
            fresh.command("FLUSHALL")
            await store.put("key", b"y")
            with pytest.raises(TransportError, match="did not come, or the store was wiped"):
                await following(watch)


async def test_a_change_that_was_not_published(fresh: ValkeyServer) -> None:
    """A watch notices that the store went on without it."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        revision = await store.put("key", b"x")
        async with store.watch() as watch:
            await snapshot(watch)
            fresh.command("HSET", "{asyncmgr:kept}", "rev", str(revision + 1))
            with pytest.raises(TransportError, match="did not come"):
                await following(watch)


async def test_somebody_else_publishes(fresh: ValkeyServer) -> None:
    """What nobody of us published on the channel of a store ends a watch with a word about it."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        async with store.watch() as watch:
            await snapshot(watch)
            fresh.command("PUBLISH", "{asyncmgr:kept}:changes:0", "hello")
            with pytest.raises(TransportError, match="somebody else publishes"):
                await following(watch)
        await store.put("key", b"x")


async def test_the_server_is_full_of_clients(quick_return: None) -> None:
    """The text says which limit it is, or where to read it: the server may hang up before its word is read."""
    with ValkeyServer("--maxclients", "2", append_only=False) as server:
        async with open_store(server.url) as engine:
            store = await engine.store("kept", ttl=None)
            async with open_store(server.url):
                with pytest.raises(TransportError, match=r"maxclients|its log says why"):
                    async with store.watch():
                        pass
            await store.put("key", b"x")


async def test_scripts_are_flushed(fresh: ValkeyServer) -> None:
    """A server that forgot the scripts gets them again, within the call."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        await store.put("key", b"x")
        fresh.command("SCRIPT", "FLUSH")
        await store.put("key", b"y")
        fresh.command("SCRIPT", "FLUSH")
        assert await store.keys() == ["key"]


async def test_the_command_connection_is_killed(fresh: ValkeyServer) -> None:
    """CLIENT KILL of all connections is a loss like any other."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        async with store.watch() as watch:
            await snapshot(watch)
            fresh.command("CLIENT", "KILL", "TYPE", "normal")
            fresh.command("CLIENT", "KILL", "TYPE", "pubsub")
            with pytest.raises(TransportError, match="watch again"):
                await following(watch)
        await eventually(lambda: engine.connected)
        await store.put("key", b"x")


# Keys


async def test_expired_keys_leave_nothing(fresh: ValkeyServer) -> None:
    """Of expired keys no trace stays, not in the list of keys either; the store's revision stays."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("short", ttl=1)
        revision = await store.put("a", b"x")
        await eventually(lambda: b":0" in fresh.command("EXISTS", "{asyncmgr:short}:key:a"))
        assert await store.keys() == []
        assert await store.create("a", b"y") > revision
        await eventually(lambda: b":0" in fresh.command("EXISTS", "{asyncmgr:short}:key:a"))
        await store.put("b", b"z")
        assert fresh.command("ZCARD", "{asyncmgr:short}:index") == b":1\r\n"


async def test_databases_and_prefixes_are_apart(fresh: ValkeyServer) -> None:
    """Two databases, or two prefixes, of one server have nothing in common: no keys, TTLs, changes."""
    async with (
        open_store(fresh.url) as plain,
        open_store(f"{fresh.url}/3") as numbered,
        open_store(f"valkey://{fresh.address}/0?prefix=staging") as prefixed,
    ):
        ours = await plain.store("same", ttl=None)
        await ours.put("key", b"x")
        async with ours.watch() as watch:
            assert len(await snapshot(watch)) == 1
            for engine in (numbered, prefixed):
                other = await engine.store("same", ttl=5)
                assert await other.keys() == []
                await other.put("key", b"theirs")
            revision = await ours.put("key", b"y")
            change = await following(watch)
            assert isinstance(change, Entry)
            assert (change.value, change.revision) == (b"y", revision)
    assert b"{staging:same}" in fresh.command("KEYS", "{staging:*")


async def test_unwatched_stores_publish_nothing(fresh: ValkeyServer) -> None:
    """No message is sent for a store with ``watched=False``, until somebody watches it all the same."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("slots", ttl=None, watched=False)
        fresh.command("CONFIG", "RESETSTAT")
        await store.put("key", b"1")
        assert b"cmdstat_publish" not in fresh.command("INFO", "commandstats")
        async with store.watch() as watch:
            assert len(await snapshot(watch)) == 1
            await store.put("key", b"2")
            change = await following(watch)
            assert isinstance(change, Entry)
            assert change.value == b"2"


async def test_many_keys_are_read_in_pages(fresh: ValkeyServer) -> None:
    """A snapshot of more keys than one script reads is complete, while others write and delete."""
    async with open_store(fresh.url) as one, open_store(fresh.url) as two:
        store, other = await one.store("many", ttl=None), await two.store("many", ttl=None)
        await asyncio.gather(*(store.put(f"k.{number}", b"") for number in range(1500)))
        known: dict[str, int] = {}
        writing = asyncio.ensure_future(
            asyncio.gather(*(other.put(f"k.{number}", b"new") for number in range(0, 1500, 3)))
        )
        async with store.watch("k") as watch:
            for entry in await snapshot(watch):
                assert entry.key not in known
                known[entry.key] = entry.revision
            assert len(known) == 1500
            await writing
            await other.delete("k.1")
            while not isinstance(change := await following(watch), Deleted):
                assert isinstance(change, Entry)
                assert change.revision > known[change.key]
                known[change.key] = change.revision
        entries = [await store.get(f"k.{number}") for number in range(0, 1500, 3)]
        assert all(entry and known[entry.key] == entry.revision for entry in entries)


async def test_a_change_while_the_snapshot_is_read(
    fresh: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a snapshot has already is not told again, and what was deleted or made meanwhile is told."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        for key in ("changed", "deleted"):
            await store.put(key, b"1")
        names = Records.names

        async def names_then_changes(self: Records, start: str) -> tuple[int, list[str]]:
            found = await names(self, start)
            await store.put("changed", b"2")
            await store.delete("deleted")
            await store.put("made", b"1")
            return found

        monkeypatch.setattr(Records, "names", names_then_changes)
        async with store.watch() as watch:
            assert [(entry.key, entry.value) for entry in await snapshot(watch)] == [("changed", b"2")]
            last = await store.put("last", b"1")
            told = [await following(watch) for _ in range(3)]
            assert [change.key for change in told if isinstance(change, Entry | Deleted)] == [
                "deleted",
                "made",
                "last",
            ]
            assert isinstance(told[0], Deleted)
            assert isinstance(told[2], Entry)
            assert told[2].revision == last


async def test_two_hundred_writers_of_one_key(fresh: ValkeyServer) -> None:
    """Of 200 updates at once under one revision exactly one wins, again and again."""
    async with open_store(fresh.url) as one, open_store(fresh.url) as two:
        stores = [await engine.store("kept", ttl=None) for engine in (one, two)]
        revision = await stores[0].put("key", b"")
        for _ in range(10):
            calls = [stores[number % 2].update("key", b"%d" % number, revision) for number in range(200)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            won = [result for result in results if isinstance(result, int)]
            assert len(won) == 1
            assert sum(isinstance(result, RevisionConflict) for result in results) == 199
            assert won[0] > revision
            revision = won[0]
        assert b"connected_clients:3" in fresh.command("INFO", "clients")


COUNTER = """
import asyncio, sys
from asyncmgr.errors import RevisionConflict
from asyncmgr.transports import open_store

async def main():
    async with open_store(sys.argv[1]) as engine:
        store = await engine.store("kept", ttl=None)
        left = 100
        while left:
            entry = await store.get("counter")
            try:
                await store.update("counter", b"%d" % (int(entry.value) + 1), entry.revision)
            except RevisionConflict:
                continue
            left -= 1

asyncio.run(main())
"""


async def test_two_processes(fresh: ValkeyServer) -> None:
    """Two processes that count together by conditional writes lose nothing."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        await store.put("counter", b"0")
        processes = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", COUNTER, fresh.url) for _ in range(2)
        ]
        assert [await process.wait() for process in processes] == [0, 0]
        entry = await store.get("counter")
        assert entry is not None
        assert entry.value == b"200"


class Compute(Manager):
    service_name = "compute"


async def test_a_service_keeps_its_capabilities_there(fresh: ValkeyServer) -> None:
    """Hosts are announced in the store of the setting, withdrawn at the stop, and found by others meanwhile."""
    manager = Compute()
    manager.update_service_capabilities({"cpus": 4})
    async with open_store(fresh.url) as reader, Hosts(reader, service="compute") as hosts:
        async with Service(manager, host="n1", transport="memory://", store=fresh.url):
            await eventually(lambda: [state.host for state in hosts.snapshot()] == ["n1"])
        await eventually(lambda: not hosts.snapshot())


# Refused


async def test_a_password_is_needed(guarded: ValkeyServer) -> None:
    """Without a password, with a wrong one, and with one that nobody wants: the text says which, never the password."""
    for authority, cure in (
        ("", "wants a password"),
        (f":wrong{QUOTED}@", "refuses user and password"),
        (f"somebody:{QUOTED}@", "refuses user and password"),
    ):
        with pytest.raises(TransportError, match=cure) as caught:
            async with open_store(f"redis://{authority}{guarded.address}"):
                pass
        assert "s3cret" not in str(caught.value)
    for user in ("", "default"):
        async with open_store(f"redis://{user}:{QUOTED}@{guarded.address}/1") as engine:
            await engine.store("kept", ttl=None)
            assert "s3cret" not in repr(vars(engine)) + repr(engine)


async def test_a_password_that_nobody_wants(fresh: ValkeyServer) -> None:
    """A server without a password accepts none."""
    with pytest.raises(TransportError, match="knows no password") as caught:
        async with open_store(f"redis://:{QUOTED}@{fresh.address}"):
            pass
    assert "s3cret" not in str(caught.value)


async def test_a_password_that_was_changed(quick_return: None, caplog: pytest.LogCaptureFixture) -> None:
    """A password that no longer fits after a restart is logged once, and the right one needs no restart of ours."""
    with ValkeyServer(append_only=False) as server:
        async with open_store(server.url) as engine:
            server.arguments = ("--requirepass", SECRET)
            await asyncio.to_thread(server.restart)
            await eventually(lambda: "transport.refused" in events(caplog))
            await asyncio.sleep(0.3)  # more tries
            server.arguments = ()
            await asyncio.to_thread(server.restart)
            await eventually(lambda: engine.connected)
    assert events(caplog).count("transport.refused") == 1
    assert SECRET not in caplog.text


async def test_no_memory_left(quick_return: None, caplog: pytest.LogCaptureFixture) -> None:
    """A full server refuses writes with the cure; reads and the connection stay, and nothing is half done."""
    with ValkeyServer("--maxmemory-policy", "noeviction", append_only=False) as server:
        async with open_store(server.url) as engine:
            store = await engine.store("kept", ttl=None)
            revision = await store.put("key", b"x")
            server.command("CONFIG", "SET", "maxmemory", "1")
            for call in (store.put("key", b"y"), store.create("new", b""), store.delete("key")):
                with pytest.raises(TransportError, match=r"no memory left .*maxmemory"):
                    await call
            entry = await store.get("key")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"x", revision)
            assert await store.keys() == ["key"]
            assert engine.connected
            server.command("CONFIG", "SET", "maxmemory", "0")
            await store.delete("key", revision)
    assert events(caplog) == []


async def test_eviction_is_warned_of_once(quick_return: None, caplog: pytest.LogCaptureFixture) -> None:
    """A server that may throw out keys is told of, once, with the cure."""
    with ValkeyServer("--maxmemory-policy", "allkeys-lru", append_only=False) as server:
        async with open_store(server.url) as engine, killed(server, engine):
            pass
    assert events(caplog).count("eviction.allowed") == 1
    assert "noeviction" in caplog.text


async def test_a_replica(fresh: ValkeyServer) -> None:
    """A replica is refused at opening; a primary that becomes one is left, and taken again as a primary."""
    with ValkeyServer("--replicaof", f"127.0.0.1 {fresh.port}", append_only=False) as replica:
        await eventually(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        with pytest.raises(TransportError, match="is a replica"):
            async with open_store(replica.url):
                pass
        replica.command("REPLICAOF", "NO", "ONE")
        async with open_store(replica.url) as engine:
            store = await engine.store("kept", ttl=None)
            replica.command("REPLICAOF", "127.0.0.1", str(fresh.port))
            assert "replica" in await refused(lambda: store.put("key", b"x"))
            await eventually(lambda: not engine.connected)
            replica.command("REPLICAOF", "NO", "ONE")
            await eventually(lambda: engine.connected)
            await store.put("key", b"x")


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "stores.md"


@pytest.mark.skipif(not PAGE.exists(), reason="these are not the sources")
async def test_the_permissions_of_the_page_suffice(fresh: ValkeyServer) -> None:
    """A user who may do what docs/reference/stores.md lists can do all; one with less is told what to read."""
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith("ACL SETUSER"))
    fresh.command(*line.split(), "resetpass", ">secret")
    try:
        async with open_store(f"redis://tasks:secret@{fresh.address}") as engine:
            store = await engine.store("kept", ttl=5)
            async with store.watch() as watch:
                await snapshot(watch)
                revision = await store.update("key", b"y", await store.create("key", b"x"))
                assert await store.keys() == ["key"]
                await store.delete("key", revision)
                while not isinstance(await following(watch), Deleted):
                    pass
            await engine.now()
        with pytest.raises(TransportError, match="not do that"):
            async with open_store(f"redis://tasks:secret@{fresh.address}?prefix=other"):
                pass
    finally:
        fresh.command("ACL", "DELUSER", "tasks")


async def test_foreign_keys(fresh: ValkeyServer) -> None:
    """Somebody else's key under a name of ours is told of, and not touched."""
    fresh.command("SET", "{asyncmgr:kept}", "mine")
    async with open_store(fresh.url) as engine:
        with pytest.raises(TransportError, match="prefix="):
            await engine.store("kept", ttl=None)
    assert fresh.command("GET", "{asyncmgr:kept}") == b"$4\r\nmine\r\n"


async def test_a_busy_script_of_others(fresh: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is held up by somebody's script says so, and serves again afterwards."""
    fresh.command("CONFIG", "SET", "busy-reply-threshold", "50")
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)
        busy = asyncio.ensure_future(asyncio.to_thread(fresh.command, "EVAL", "while true do end", "0"))
        try:
            assert "busy with somebody's script" in await refused(lambda: store.put("key", b"x"))
        finally:
            fresh.command("SCRIPT", "KILL")
            await busy
        await eventually(lambda: engine.connected)
        await store.put("key", b"x")


async def test_closed_while_it_is_sought(fresh: ValkeyServer) -> None:
    """A watch that begins while the server is frozen is ended by closing, at once."""
    async with open_store(fresh.url) as engine:
        store = await engine.store("kept", ttl=None)

        async def watched() -> None:
            async with store.watch():
                pass

        async with paused(fresh):
            watching = asyncio.ensure_future(watched())
            await asyncio.sleep(0.05)
            await engine.aclose()
            with pytest.raises(TransportClosed):
                await watching


# TLS: the servers that pip installs have none, so a proxy speaks it


@asynccontextmanager
async def encrypted(server: ValkeyServer, certificates: Certificates) -> AsyncIterator[int]:
    """Speak TLS in front of a server; yields the port. Who connects has to show a certificate of the same CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
    context.load_cert_chain(certificates.cert, certificates.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with proxy:
        yield proxy.sockets[0].getsockname()[1]


@pytest.fixture(scope="session")
def local_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    return Certificates.make(tmp_path_factory.mktemp("local"), "IP:127.0.0.1")


def tls_url(port: int, certificates: Certificates, *names: str, host: str = "127.0.0.1") -> str:
    files: dict[str, Path] = {
        "ssl_ca_certs": certificates.ca,
        "ssl_certfile": certificates.cert,
        "ssl_keyfile": certificates.key,
    }
    return f"rediss://{host}:{port}/0?" + "&".join(f"{name}={files[name]}" for name in names)


ALL_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


async def test_tls(fresh: ValkeyServer, local_certificates: Certificates) -> None:
    """With TLS everything works, watches too, where the client shows its certificate."""
    async with (
        encrypted(fresh, local_certificates) as port,
        open_store(tls_url(port, local_certificates, *ALL_FILES)) as engine,
    ):
        store = await engine.store("kept", ttl=None)
        async with store.watch() as watch:
            await snapshot(watch)
            await store.put("key", b"x" * 100_000)
            change = await following(watch)
            assert isinstance(change, Entry)
            assert len(change.value) == 100_000


async def test_tls_is_verified(fresh: ValkeyServer, local_certificates: Certificates) -> None:
    """A certificate of nobody we know, or for another name, is refused; so is a server without TLS."""
    async with encrypted(fresh, local_certificates) as port:
        for url in (
            tls_url(port, local_certificates, "ssl_certfile", "ssl_keyfile"),
            tls_url(port, local_certificates, *ALL_FILES, host="localhost"),
            tls_url(port, local_certificates, "ssl_ca_certs"),
            tls_url(fresh.port, local_certificates, *ALL_FILES),
        ):
            with pytest.raises(TransportError, match=r"127\.0\.0\.1|localhost"):
                async with open_store(url):
                    pass
