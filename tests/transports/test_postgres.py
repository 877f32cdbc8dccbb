"""What a PostgreSQL server, its roles and its administrators do to the stores in it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from tests.nats_servers import eventually
from tests.postgres_servers import PostgresServer
from tests.transports.store_lives import contend, until_seen

from asyncmgr.errors import InvalidSettings, RevisionConflict, TransportClosed, TransportError
from asyncmgr.transports import VALUE_LIMIT, Deleted, Store, StoreEngine, Watch, open_store
from asyncmgr.transports._postgres import follower
from asyncmgr.transports._postgres.engine import PostgresEngine

ENOUGH = 15.0
"""Seconds within which a call ends and a watch notices a silence."""


@pytest.fixture
def schema(postgres_server: PostgresServer) -> str:
    """A schema of the test's own."""
    name = f"s_{uuid4().hex[:8]}"
    postgres_server.run(f"CREATE SCHEMA {name}")
    return name


@pytest.fixture
def url(postgres_server: PostgresServer, schema: str) -> str:
    return f"{postgres_server.url}?schema={schema}"


@asynccontextmanager
async def opened(url: str, **how: Any) -> AsyncIterator[tuple[PostgresEngine, Store]]:
    async with open_store(url) as engine:
        assert isinstance(engine, PostgresEngine)
        yield engine, await engine.store("claims", **{"ttl": None, **how})


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.fixture
def role(postgres_server: PostgresServer) -> Iterator[str]:
    """A role that may create nothing; granted nothing."""
    name = f"r_{uuid4().hex[:8]}"
    postgres_server.run(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")
    yield name
    postgres_server.resume()
    postgres_server.start()
    postgres_server.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_role_without_create(postgres_server: PostgresServer, schema: str, role: str) -> None:
    """Who may not make the table is told the SQL; once an owner has run it, all works without more rights."""
    url = f"{postgres_server.url_of(role + ':hunter2')}?schema={schema}"
    async with open_store(url) as engine:
        with pytest.raises(TransportError, match=r"42501"):
            await engine.store("claims", ttl=10)
        postgres_server.run(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        with pytest.raises(TransportError, match="may not make it") as caught:
            await engine.store("claims", ttl=10)
        text = str(caught.value)
        assert "hunter2" not in text
        assert f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{schema}".asyncmgr_store TO "{role}"' in text
        postgres_server.run(text[text.index("CREATE SCHEMA") :])
        store = await engine.store("claims", ttl=10)
        revision = await store.create("key", b"x")
        await store.delete("key", revision)
        assert engine.connected


async def test_role_with_a_schema_of_its_own(postgres_server: PostgresServer, role: str) -> None:
    """A role needs no more than its own schema, which its search path names first."""
    postgres_server.run(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
    async with opened(postgres_server.url_of(role)) as (_, store):
        await store.put("key", b"x")
    assert postgres_server.run(f"SELECT count(*) FROM {role}.asyncmgr_store") == "2"


async def test_schema_that_is_missing(postgres_server: PostgresServer) -> None:
    """A schema that is not there is named, with where to get its SQL."""
    async with open_store(f"{postgres_server.url}?schema=nowhere") as engine:
        with pytest.raises(TransportError, match=r"nowhere.*asyncmgr store sql URL"):
            await engine.store("claims", ttl=None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda url: url.replace("postgres@", "nobody:hunter2@"), "nobody"),
        (lambda url: url.replace("/postgres?", "/nothing?"), "no such database"),
        (lambda url: url + "&sslmode=require", "TLS|SSL"),
        (lambda url: url + "&bogus=1", "bogus"),
    ],
)
async def test_connection_that_is_refused(url: str, change: Any, text: str) -> None:
    """What the server or the driver refuses is told with its cure, and without the password."""
    with pytest.raises((TransportError, InvalidSettings), match=text) as caught:
        async with open_store(change(url)):
            pass
    assert "hunter2" not in str(caught.value)


async def test_wait_for_a_server(postgres_server: PostgresServer, url: str) -> None:
    """With ``connect = "wait"`` an engine opens without a server, and has it once it is there."""

    class Settings:
        connect = "wait"

    await asyncio.to_thread(postgres_server.kill)
    try:
        async with open_store(url, Settings()) as engine:
            assert not engine.connected
            with pytest.raises(TransportError, match="not connected"):
                await engine.store("claims", ttl=None)
            await asyncio.to_thread(postgres_server.start)
            await eventually(lambda: engine.connected)
            await (await engine.store("claims", ttl=None)).put("key", b"x")
    finally:
        await asyncio.to_thread(postgres_server.start)


async def test_connection_limit(postgres_server: PostgresServer, url: str, schema: str) -> None:
    """Where the server has no connection left, the error says so; an engine with one connection goes on with that."""
    postgres_server.run(
        f"CREATE ROLE few_{schema} LOGIN CONNECTION LIMIT 1; GRANT ALL ON SCHEMA {schema} TO few_{schema}"
    )
    few = url.replace("postgres@", f"few_{schema}@")
    async with opened(few) as (engine, store):
        revisions = await asyncio.gather(*(store.put(f"key-{number}", b"") for number in range(20)))
        assert len(set(revisions)) == 20
        with pytest.raises(TransportError, match="no connection left"):
            async with open_store(few):
                pass
        with pytest.raises(TransportError, match="no connection left"):
            async with store.watch():
                pass
        await eventually(lambda: engine.connected)
        await store.put("key", b"")
    postgres_server.run(f"DROP OWNED BY few_{schema}; DROP ROLE few_{schema}")


async def test_200_updates_at_once(url: str) -> None:
    """Of concurrent updates under one revision exactly one wins; the revisions that won are a chain."""
    async with AsyncExitStack() as stack:
        stores = [(await stack.enter_async_context(opened(url)))[1] for _ in range(4)]
        assert len(await contend(stores, rounds=3, writers=200)) == 3


async def test_two_processes(url: str) -> None:
    """Processes that count in one key lose no count."""
    program = "import sys, asyncio; from tests.transports.store_lives import count; asyncio.run(count(*sys.argv[1:]))"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, url, "100") for _ in range(2)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    async with opened(url, ttl=60) as (_, store):
        entry = await store.get("count")
        assert entry is not None
        assert entry.value == b"200"


async def test_largest_value(url: str) -> None:
    """A value of a mebibyte is kept, and reaches watches; its notification has only its key."""
    value = bytes(range(256)) * (VALUE_LIMIT // 256)
    async with opened(url) as (_, one), opened(url) as (_, other), other.watch() as watch:
        await one.put("k" * 1000, value)
        assert (await until_seen(watch, "k" * 1000)).value == value


async def test_watch_hears_at_once(url: str) -> None:
    """A change reaches a watch by its notification, long before the next look."""
    async with opened(url) as (_, one), opened(url) as (_, other), other.watch() as watch:
        begun = time.monotonic()
        for number in range(10):
            await one.put("key", b"%d" % number)
            await until_seen(watch, "key", b"%d" % number)
        assert time.monotonic() - begun < 1.9


async def test_unwatched_store_tells_nobody(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes to an unwatched store notify nobody; a watch sees them when it looks again."""
    heard: list[str] = []
    async with opened(url, watched=False) as (_, one), opened(url) as (engine, other):
        monkeypatch.setattr(type(engine._follower), "_hear", lambda _, __, text: heard.append(text))
        async with other.watch() as watch:
            last = await one.put("key", b"x")
            assert (await until_seen(watch, "key")).value == b"x"
            assert not heard
            last = await other.update("key", b"y", last)
            assert (await until_seen(watch, "key", b"y")).revision == last
            await eventually(lambda: heard == [f"{last} key"])


@pytest.mark.parametrize("verb", ["create", "update", "delete"])
async def test_decided_on_what_was_committed_last(
    postgres_server: PostgresServer, url: str, schema: str, verb: str
) -> None:
    """Writes that begin together, and wait for one another, each see what the one before has committed."""
    async with opened(url) as (engine, one), opened(url) as (_, other):
        revision = 0 if verb == "create" else await one.put("key", b"")
        calls = {
            "create": lambda store: store.create("key", b"x"),
            "update": lambda store: store.update("key", b"x", revision),
            "delete": lambda store: store.delete("key", revision),
        }
        held = await engine._link.connect()
        await held._connection.execute(f"BEGIN; UPDATE {schema}.asyncmgr_store SET ttl = ttl WHERE key = ''")
        writes = asyncio.gather(*(calls[verb](store) for store in (one, other)), return_exceptions=True)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await eventually(lambda: postgres_server.run(waiting) == "2")
        await held._connection.execute("COMMIT")
        engine._link.discard(held)
        results = await writes
        assert sorted(isinstance(result, RevisionConflict) for result in results) == [False, True], results


async def test_watch_without_notifications(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is heard, as behind a pooler, the watch sees each key's last change, and deletions."""
    async with opened(url) as (engine, store):
        monkeypatch.setattr(type(engine._follower), "_hear", lambda *_: None)
        async with store.watch() as watch:
            await store.put("a", b"1")
            revision = await store.put("b", b"1")
            await until_seen(watch, "b")
            await store.delete("b", revision)
            async with asyncio.timeout(ENOUGH):
                async for change in watch:
                    if isinstance(change, Deleted):
                        assert change.key == "b"
                        assert change.revision > revision
                        break


async def test_killed_connections(postgres_server: PostgresServer, url: str) -> None:
    """Where only connections are ended, watches raise, and the engine goes on without a loss."""
    states: list[bool] = []
    async with opened(url) as (engine, store):
        engine.add_state_listener(states.append)
        async with store.watch() as watch:
            await anext(watch)
            postgres_server.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'asyncmgr'"
            )
            with pytest.raises(TransportError, match="watch again"):
                await anext(watch)
        with suppress(TransportError):
            await store.put("key", b"")
        async with asyncio.timeout(ENOUGH):
            async with store.watch() as watch:
                await store.put("key", b"x")
                await until_seen(watch, "key", b"x")
        assert states in ([], [False, True])


async def test_lock_does_not_lose_the_server(postgres_server: PostgresServer, url: str, schema: str) -> None:
    """A call that waits for a lock too long fails, is cancelled there, and the engine stays connected."""
    async with opened(url) as (engine, store), opened(url) as (other, _):
        await store.put("key", b"")
        held = await other._link.connect()
        await held._connection.execute(f"BEGIN; LOCK TABLE {schema}.asyncmgr_store IN EXCLUSIVE MODE")
        with pytest.raises(TransportError, match="gave no answer within 5 s"):
            await store.put("key", b"late")
        assert engine.connected
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await eventually(lambda: postgres_server.run(waiting) == "0")
        other._link.discard(held)
        await eventually(
            lambda: postgres_server.run("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0"
        )
        await store.put("key", b"after")
        assert engine.connected


async def test_frozen_server_and_idle_watch(postgres_server: PostgresServer, url: str) -> None:
    """A watch on a frozen server raises within 15 s; then the engine says that it is not connected, and comes back."""
    async with opened(url) as (engine, store), store.watch() as watch:
        await anext(watch)
        begun = time.monotonic()
        with frozen(postgres_server):
            with pytest.raises(TransportError):
                async with asyncio.timeout(ENOUGH):
                    await anext(watch)
            assert time.monotonic() - begun < ENOUGH
            await eventually(lambda: not engine.connected)
        await eventually(lambda: engine.connected)
        await store.put("key", b"")


async def test_frozen_server_with_a_call_is_closed(postgres_server: PostgresServer, url: str) -> None:
    """Closing ends a call that waits for a frozen server, and does not wait until its statement is cancelled."""
    async with opened(url) as (engine, store), store.watch() as watch:
        await anext(watch)
        with frozen(postgres_server):
            call = asyncio.ensure_future(store.put("key", b""))
            await asyncio.sleep(0)
            call_of_another = asyncio.ensure_future(store.put("key", b""))
            await asyncio.wait([call_of_another], timeout=0.1)
            call_of_another.cancel()
            begun = time.monotonic()
            async with asyncio.timeout(ENOUGH):
                await engine.aclose()
            assert time.monotonic() - begun < 4
            with pytest.raises(TransportClosed):
                await call


async def test_expired_keys_are_removed(
    postgres_server: PostgresServer, url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired rows are absent at once, and a later write removes them in batches."""
    monkeypatch.setattr("asyncmgr.transports._postgres.store.PURGED_AT_ONCE", 3)
    async with opened(url, ttl=1) as (_, store):
        for number in range(5):
            await store.put(f"old-{number}", b"")
        count = f"SELECT count(*) FROM {schema}.asyncmgr_store WHERE key LIKE 'old-%'"
        postgres_server.run(
            f"UPDATE {schema}.asyncmgr_store SET written = written - interval '1 hour' WHERE key <> ''"
        )
        assert await store.keys() == []
        store._next_purge = 0.0  # type: ignore[attr-defined]
        await store.put("new", b"")
        await eventually(lambda: postgres_server.run(count) == "2")
        store._next_purge = 0.0  # type: ignore[attr-defined]
        await store.put("new", b"")
        await eventually(lambda: postgres_server.run(count) == "0")
        assert await store.keys() == ["new"]


async def test_dropped_and_emptied_table(postgres_server: PostgresServer, url: str, schema: str) -> None:
    """A table that is emptied or dropped is made again at the next call; revisions grow, and watches raise."""
    async with opened(url) as (_, store), store.watch() as watch:
        last = await store.put("key", b"")
        for loss in ("TRUNCATE", "DROP TABLE"):
            # In a thread: it waits for statements that the engine is preparing, which needs the event loop for that.
            await asyncio.to_thread(postgres_server.run, f"{loss} {schema}.asyncmgr_store")
            assert await store.get("key") is None
            with pytest.raises(RevisionConflict):
                await store.update("key", b"", last)
            revision = await store.create("key", b"")
            assert revision > last
            last = revision
        async with asyncio.timeout(ENOUGH):
            with suppress(TransportError):
                await until_seen(watch, "key", revision=last)


@pytest.mark.parametrize("key", ["old", "new"])
async def test_rows_removed_by_sql(
    postgres_server: PostgresServer, url: str, schema: str, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A watch tells a key that somebody has deleted by SQL, though nothing else changes, and whichever it was."""
    monkeypatch.setattr(follower, "RECOUNT", 0.5)
    async with opened(url) as (_, store), store.watch() as watch:
        await store.put("old", b"")
        last = await store.put("new", b"")
        await until_seen(watch, "new")
        postgres_server.run(f"DELETE FROM {schema}.asyncmgr_store WHERE key = '{key}'")
        async with asyncio.timeout(ENOUGH):
            while not isinstance(change := await anext(watch), Deleted):
                pass
        assert change.key == key
        assert change.revision >= last
        again = await store.create(key, b"again")
        assert again > change.revision
        assert (await until_seen(watch, key, b"again")).revision == again


async def test_restored_backup(postgres_server: PostgresServer, url: str, schema: str) -> None:
    """After a restore revisions are greater than all before it, since they follow the clock."""
    async with opened(url) as (_, store):
        old = await store.put("key", b"old")
        postgres_server.run(f"CREATE TABLE {schema}.copy AS TABLE {schema}.asyncmgr_store")
        last = await store.put("key", b"lost")
        restore = f"TRUNCATE {schema}.asyncmgr_store; INSERT INTO {schema}.asyncmgr_store TABLE {schema}.copy"
        await asyncio.to_thread(postgres_server.run, restore)
        with pytest.raises(RevisionConflict):
            await store.update("key", b"x", last)
        assert await store.update("key", b"x", old) > last


async def test_serializable_by_default(postgres_server: PostgresServer, url: str, schema: str) -> None:
    """A role whose transactions are serializable by default gets conflicts and no failures of serialization."""
    postgres_server.run(
        f"CREATE ROLE strict_{schema} LOGIN SUPERUSER; "
        f"ALTER ROLE strict_{schema} SET default_transaction_isolation = serializable"
    )
    strict = url.replace("postgres@", f"strict_{schema}@")
    async with opened(strict) as (_, one), opened(strict) as (_, other):
        assert len(await contend([one, other], rounds=5, writers=20)) == 5
    postgres_server.run(f"DROP OWNED BY strict_{schema}; DROP ROLE strict_{schema}")


async def test_server_restarts_empty(postgres_server: PostgresServer) -> None:
    """A server that comes back without its data is used as it is; revisions grow."""
    name = f"s-{uuid4().hex[:8]}"
    engine: StoreEngine
    async with open_store(postgres_server.url) as engine:
        store = await engine.store(name, ttl=None)
        last = await store.put("key", b"")
        watch: Watch
        async with store.watch() as watch:
            await anext(watch)
            await asyncio.to_thread(postgres_server.restart, empty=True)
            with pytest.raises(TransportError):
                async for _ in watch:
                    pass
        await eventually(lambda: engine.connected)
        async with asyncio.timeout(ENOUGH):
            while True:
                with suppress(TransportError):
                    assert await store.create("key", b"") > last
                    break


async def test_a_connection_outlives_the_call_that_asked_for_it(
    url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else calls with short deadlines, as leases make them, would never connect to a server that is slow at it."""
    async with opened(url) as (engine, store):
        link = engine._link
        for session in link._idle:
            link.discard(session)
        link._idle.clear()
        really, begun, may_go_on = link.connect, 0, asyncio.Event()

        async def slowly() -> Any:
            nonlocal begun
            begun += 1
            await may_go_on.wait()
            return await really()

        monkeypatch.setattr(link, "connect", slowly)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.get("a")
        assert begun <= engine._link.options.connections
        may_go_on.set()
        assert await store.get("a") is None
        assert begun <= engine._link.options.connections
        async with asyncio.timeout(ENOUGH):
            while link._attempts:  # noqa: ASYNC110 - it ends in callbacks
                await asyncio.sleep(0)


async def test_closing_ends_attempts_to_connect(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url) as (engine, store):
        link = engine._link
        for session in link._idle:
            link.discard(session)
        link._idle.clear()

        async def never() -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(link, "connect", never)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.get("a")
        assert link._attempts
    assert link._attempts == set()
