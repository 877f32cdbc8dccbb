"""What other processes, and those who look after a machine, do to the stores in a SQLite file."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.nats_servers import eventually
from tests.transports.store_lives import contend, until_seen

from asyncmgr.errors import InvalidSettings, TransportError
from asyncmgr.transports import VALUE_LIMIT, Deleted, Store, open_store
from asyncmgr.transports._sqlite import database as sqlite_database
from asyncmgr.transports._sqlite.engine import SqliteEngine
from asyncmgr.transports._sqlite.file import network_file_system, read_options

_PROGRAM = (
    "import sys, asyncio; from tests.transports import store_lives as lives; "
    "asyncio.run(lives.{}(*sys.argv[1:]))"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores.db"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[SqliteEngine]:
    async with open_store(f"sqlite://{path}") as engine:
        assert isinstance(engine, SqliteEngine)
        yield engine


@pytest.fixture
async def store(engine: SqliteEngine) -> Store:
    return await engine.store("claims", ttl=None)


@pytest.mark.parametrize(
    ("url", "path", "synchronous"),
    [
        ("sqlite:///var/lib/a.db", "/var/lib/a.db", "normal"),
        ("sqlite:////var/lib/a.db", "/var/lib/a.db", "normal"),
        ("sqlite:///var/with%20blank%3F.db?synchronous=FULL", "/var/with blank?.db", "full"),
    ],
)
def test_url(url: str, path: str, synchronous: str) -> None:
    """A path is absolute; a fourth slash, as others write it, changes nothing."""
    options = read_options(url)
    assert (str(options.path), options.synchronous) == (path, synchronous)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("sqlite://relative/a.db", "absolute path"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///var/lib/", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///a.db?mode=ro", "synchronous"),
        ("sqlite:///a.db?synchronous=off", "synchronous"),
        ("sqlite:///a.db#x", "%23"),
    ],
)
def test_url_that_is_refused(url: str, cure: str) -> None:
    """What cannot be meant is refused with what to write."""
    with pytest.raises(InvalidSettings, match=cure):
        read_options(url)


def test_network_file_systems() -> None:
    """The file system of a path is that of the longest mount point above it; those over a network are named."""
    mounts = "\n".join(
        [
            "22 1 0:20 / / rw,relatime - ext4 /dev/sda1 rw",
            "23 22 0:21 / /mnt/my\\040share rw - nfs4 server:/x rw",
            "24 23 0:22 / /mnt/my\\040share/local rw shared:1 - tmpfs tmpfs rw",
            "nonsense",
        ]
    )
    assert network_file_system("/var/lib", mounts) is None
    assert network_file_system("/mnt/my share", mounts) == "nfs4"
    assert network_file_system("/mnt/my share/deep", mounts) == "nfs4"
    assert network_file_system("/mnt/my share2", mounts) is None
    assert network_file_system("/mnt/my share/local/x", mounts) is None
    assert network_file_system("/", "") is None


async def failure(path: Path) -> str:
    with pytest.raises(TransportError) as caught:
        async with open_store(f"sqlite://{path}") as engine:
            await (await engine.store("claims", ttl=None)).put("key", b"")
    return str(caught.value)


async def test_places_that_do_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing directory, a directory, a foreign or damaged file and a network are named with the cure."""
    assert "make it" in await failure(tmp_path / "missing" / "a.db")
    assert "is a directory" in await failure(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"no database at all" * 100)
    assert "is no SQLite database" in await failure(foreign)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE asyncmgr_stores (x)")
        other.commit()
    assert "tables of another kind" in await failure(tmp_path / "other.db")
    monkeypatch.setattr("asyncmgr.transports._sqlite.file._mounts", lambda: "1 1 0:1 / / rw - nfs x rw")
    assert "network file system (nfs)" in await failure(tmp_path / "a.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
async def test_file_that_may_not_be_written(path: Path, engine: SqliteEngine, store: Store) -> None:
    """A read-only file is named with the cure."""
    await store.put("key", b"")
    await engine.aclose()
    await asyncio.to_thread(path.chmod, 0o400)
    assert "permissions" in await failure(path)


async def test_damaged_file(path: Path, engine: SqliteEngine, store: Store) -> None:
    """A file whose pages were overwritten is named as damaged, and not taken for an empty one."""
    for number in range(200):
        await store.put(f"key-{number}", bytes(100))
    await engine.aclose()
    raw = bytearray(await asyncio.to_thread(path.read_bytes))
    raw[4096:] = b"\xa5" * (len(raw) - 4096)
    await asyncio.to_thread(path.write_bytes, raw)
    assert "is damaged" in await failure(path)


async def test_locked_file(path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the lock, reads go on and writes fail in time; then all is well."""
    revision = await store.put("key", b"x")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        assert await store.get("key") is not None
        with pytest.raises(TransportError, match=r"locked|did not serve"):
            await store.update("key", b"y", revision)
        assert time.monotonic() - begun < 15
    assert await store.update("key", b"z", revision) > revision


async def test_loop_is_not_blocked(path: Path, store: Store) -> None:
    """While a write waits for another process, the event loop goes on."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        write = asyncio.ensure_future(store.put("key", b""))
        turns = 0
        while turns < 100:
            await asyncio.sleep(0.001)
            turns += 1
        assert not write.done()
        holder.execute("ROLLBACK")
        await write


async def test_200_updates_at_once(path: Path) -> None:
    """Of concurrent updates under one revision exactly one wins; the revisions that won are a chain."""
    async with open_store(f"sqlite://{path}") as one, open_store(f"sqlite://{path}") as other:
        stores = [await engine.store("claims", ttl=None) for engine in (one, other)]
        assert len(await contend(stores, rounds=3, writers=200)) == 3


async def run(function: str, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM.format(function), *args, stdout=asyncio.subprocess.PIPE
    )


async def test_processes_that_start_at_once(path: Path) -> None:
    """Processes that make one file at the same time, and count in one key, lose no count."""
    processes = [await run("count", f"sqlite://{path}", "50") for _ in range(4)]
    for process in processes:
        await process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    async with open_store(f"sqlite://{path}") as engine:
        entry = await (await engine.store("claims", ttl=60)).get("count")
        assert entry is not None
        assert entry.value == b"200"


async def test_kill_at_any_moment(path: Path) -> None:
    """A killed process has lost nothing that was acknowledged, and the file is sound."""
    url = f"sqlite://{path}"
    for tries in range(1, 6):
        process = await run("hammer", url)
        assert process.stdout
        last = 0
        for _ in range(tries * 7):
            last = int(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest, _ = await process.communicate()
        last = max([last, *map(int, rest.split(b"\n")[:-1])])
        with closing(sqlite3.connect(path)) as look:
            assert look.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        async with open_store(url) as engine:
            entry = await (await engine.store("claims", ttl=60)).get("count")
            assert entry is not None
            assert int(entry.value) >= last


async def test_watch_across_processes(path: Path) -> None:
    """A change and a deletion by another engine are seen soon, and the largest value too."""
    value = bytes(VALUE_LIMIT)
    async with open_store(f"sqlite://{path}") as one, open_store(f"sqlite://{path}") as other:
        writer, reader = await one.store("claims", ttl=None), await other.store("claims", ttl=None)
        async with reader.watch("a") as watch:
            revision = await writer.put("a.key", value)
            await writer.put("b.key", b"")
            assert (await until_seen(watch, "a.key")).value == value
            await writer.delete("a.key", revision)
            async for change in watch:
                if isinstance(change, Deleted):
                    assert (change.key, change.revision > revision) == ("a.key", True)
                    break


async def test_no_wake_up_without_a_watch(engine: SqliteEngine, store: Store, path: Path) -> None:
    """The task that looks at the file lives while there is a watch."""
    before = asyncio.all_tasks()
    async with store.watch():
        assert asyncio.all_tasks() > before
    await eventually(lambda: asyncio.all_tasks() == before)


@pytest.mark.parametrize("key", ["old", "new"])
async def test_rows_removed_by_sql(path: Path, store: Store, key: str) -> None:
    """A watch tells a key that somebody has deleted by SQL, though nothing else changes, and whichever it was."""
    async with store.watch() as watch:
        await store.put("old", b"")
        last = await store.put("new", b"")
        await until_seen(watch, "new")
        with closing(sqlite3.connect(path)) as shell, shell:
            shell.execute("DELETE FROM asyncmgr_entries WHERE key = ?", (key,))
        async with asyncio.timeout(10):
            while not isinstance(change := await anext(watch), Deleted):
                pass
        assert change.key == key
        assert change.revision >= last
        again = await store.create(key, b"again")
        assert again > change.revision
        assert (await until_seen(watch, key, b"again")).revision == again


async def test_file_that_is_replaced(path: Path, store: Store) -> None:
    """After a file was removed or replaced, calls go to the new one: nobody goes on in one that others do not see."""
    last = await store.put("key", b"x")
    async with store.watch() as watch:
        for file in path.parent.iterdir():
            file.unlink()
        assert await store.get("key") is None
        assert await store.create("key", b"y") > last
        with suppress(TransportError):
            await until_seen(watch, "key", b"y")
    with closing(sqlite3.connect(path)) as look:
        assert look.execute("SELECT value FROM asyncmgr_entries").fetchall() == [(b"y",)]


async def test_copied_back(path: Path, engine: SqliteEngine, store: Store, tmp_path: Path) -> None:
    """After a copy was restored revisions are greater than all before it."""
    await store.put("key", b"old")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "copy")) as target:
        source.backup(target)
    last = await store.put("key", b"lost")
    await engine.aclose()
    shutil.move(tmp_path / "copy", path)
    async with open_store(f"sqlite://{path}") as again:
        assert await (await again.store("claims", ttl=None)).put("key", b"new") > last


async def test_expired_keys_are_removed(
    path: Path, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired rows are absent at once, and later writes remove them in batches."""
    monkeypatch.setattr(sqlite_database, "PURGE_EVERY", 0)
    monkeypatch.setattr(sqlite_database, "PURGED_AT_ONCE", 3)
    store = await engine.store("short", ttl=1)
    for number in range(5):
        await store.put(f"old-{number}", b"")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE asyncmgr_entries SET expires = 1")
        assert await store.keys() == []
        for left in (2, 0):
            await store.put("new", b"")
            rows = other.execute("SELECT count(*) FROM asyncmgr_entries WHERE key <> 'new'")
            assert rows.fetchone() == (left,)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_forked_child(engine: SqliteEngine, store: Store) -> None:
    """A forked child is refused at once, and does not use the connection of its parent."""
    await store.put("key", b"x")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        text = "nothing"
        try:
            engine.check()
        except TransportError as exc:
            text = str(exc)
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    await asyncio.to_thread(os.waitpid, child, 0)
    with os.fdopen(reading) as told:
        assert "before a fork" in told.read()
    assert await store.get("key") is not None


async def test_wait_for_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``connect = "wait"`` an engine opens without its directory, and has the file once it can be made."""
    monkeypatch.setattr("asyncmgr.transports._availability.RECONNECT_MOST", 0.05)

    class Settings:
        connect = "wait"

    settings: Any = Settings()
    async with open_store(f"sqlite://{tmp_path}/later/a.db", settings) as engine:
        assert not engine.connected
        (tmp_path / "later").mkdir()
        await eventually(lambda: engine.connected)
        await (await engine.store("claims", ttl=None)).put("key", b"")
