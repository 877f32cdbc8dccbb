"""The control socket against real programs: who may use it, where it is, and what bad peers can do (11)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._service import control_client, control_paths, control_socket
from asyncmgr._service.control_paths import LONGEST_PATH, prepare, socket_path
from asyncmgr._service.control_socket import LONGEST_REQUEST, why_unavailable
from asyncmgr.errors import ControlUnavailable

if why_unavailable():
    pytest.skip("no control sockets here", allow_module_level=True)

PROGRAM = """
import asyncio
from asyncmgr import Manager, periodic_task

class Churns(Manager):
    @periodic_task(spacing=0.2)
    async def churn(self, context): ...

    @periodic_task(spacing=3600)
    async def moves(self, context):
        context.progress(2, 8, "moving")
        await asyncio.sleep(3600)

    @periodic_task(spacing=3600)
    async def fails(self, context):
        raise ValueError("no disk")
"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory with a short path, as a session has."""
    directory = Path(tempfile.mkdtemp(prefix="amr"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    shutil.rmtree(directory)


def until(holds: Callable[[], Any], within: float = 60.0) -> Any:
    """Wait for a condition, and return what it gives."""
    ends = time.monotonic() + within
    while not (given := holds()):
        assert time.monotonic() < ends, "it does not come true"
        time.sleep(0.02)
    return given


class Program:
    """An ``asyncmgr run`` process."""

    def __init__(self, runtime: Path, name: str = "churns", *words: str) -> None:
        file = runtime / "program.py"
        file.write_text(PROGRAM)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCMGR_")}
        self.runtime = runtime
        with (runtime / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "asyncmgr",
                    "run",
                    f"{file}:Churns",
                    "--name",
                    name,
                    "--host",
                    "nyx",
                    *words,
                ],
                cwd=runtime,
                env={**environ, "XDG_RUNTIME_DIR": str(runtime)},
                stderr=log,
            )
        self.path: Path = until(self._is_up)

    def _is_up(self) -> Path | None:
        assert self.process.poll() is None, [path.read_text() for path in self.runtime.glob("*.log")]
        for path in self.runtime.glob(f"asyncmgr/*.{self.process.pid}.sock"):
            try:
                if control_client.ask(path, {"verb": "hello"})["state"] == "running":
                    return path
            except ControlUnavailable:
                return None
        return None

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return control_client.ask(self.path, {"verb": verb, **arguments})

    def end(self) -> int:
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture
def program(runtime: Path) -> Iterator[Program]:
    started = Program(runtime)
    yield started
    started.end()


def cli(runtime: Path, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCMGR_")}
    return subprocess.run(
        [sys.executable, "-m", "asyncmgr", *words],
        cwd=runtime,
        env={**environ, "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(runtime), "TZ": "UTC"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# Against a process


def test_a_run_has_a_socket_for_its_user_alone(program: Program) -> None:
    """Modes of directory and socket; gone after the stop."""
    assert stat.S_IMODE(program.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(program.path.stat().st_mode) == 0o600
    assert program.path.name == f"churns.{program.process.pid}.sock"
    answer = program.ask("pause", task="churn", note="moving")
    assert answer["task"]["paused"]["by"].endswith(f"(uid {os.geteuid()})")
    assert program.end() == 0
    assert not program.path.exists()


def test_the_commands_find_it_without_an_address(program: Program, runtime: Path) -> None:
    """status, every verb, and their exit codes."""
    program.ask("trigger", task="moves")
    shown = cli(runtime, "status")
    assert shown.returncode == 0
    assert f"churns on nyx, pid {program.process.pid}: 3 tasks, none needs you" in shown.stdout
    assert "2 of 8 (25 %), moving, in Churns.moves at program.py:" in shown.stdout
    assert cli(runtime, "trigger", "churn").returncode == 0
    failed = cli(runtime, "trigger", "Churns.fails")
    assert failed.returncode == 1
    assert "ValueError: no disk" in failed.stdout
    refused = cli(runtime, "trigger", "moves", "--no-wait")
    assert refused.returncode == 1
    assert "Churns.moves is running: " in refused.stderr
    assert "Churns.moves: " in cli(runtime, "cancel", "moves").stdout
    until(lambda: program.ask("status", task="moves")["tasks"][0]["running"] is None)
    assert cli(runtime, "cancel", "moves").returncode == 1
    assert ", for 1h since --for says nothing else" in cli(runtime, "pause", "churn").stdout
    assert "is paused for ever; 'asyncmgr resume" in cli(runtime, "pause", "churn", "--for", "ever").stdout
    assert "runs again; next slot" in cli(runtime, "resume", "churn").stdout
    assert (
        "every 5m, until the service restarts"
        in cli(runtime, "reschedule", "churn", "--spacing", "5m").stdout
    )
    assert "is switched off" in cli(runtime, "disable", "churn").stdout
    assert "is switched on" in cli(runtime, "enable", "churn").stdout
    told = json.loads(cli(runtime, "status", "fails", "--json").stdout)
    assert told[0]["tasks"][0]["state"] == "failing"
    assert cli(runtime, "pause", "nope").returncode == 1
    assert cli(runtime, "pause", "churn", "--for", "x").returncode == 2


def test_two_services_of_which_one_is_meant(program: Program, runtime: Path) -> None:
    """By name, by process, or all; without a word it is asked back."""
    other = Program(runtime, "other")
    try:
        asked = cli(runtime, "pause", "churn")
        assert asked.returncode == 2
        assert "say which by --service or --at, or --all" in asked.stderr
        assert cli(runtime, "pause", "churn", "--service", "other").returncode == 0
        assert program.ask("status", task="churn")["tasks"][0]["paused"] is None
        assert cli(runtime, "resume", "churn", "--service", str(other.process.pid)).returncode == 0
        both = cli(runtime, "pause", "churn", "--all")
        assert both.stdout.count("for 1h since") == 2
        assert cli(runtime, "status").stdout.count("on nyx, pid") == 2
    finally:
        other.end()


def test_a_blocked_service_is_told(program: Program, runtime: Path) -> None:
    """A process that is stopped answers nothing: exit code 3 for the status that was asked of it."""
    program.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ControlUnavailable, match="does not answer: the service's event loop is blocked"):
            control_client.ask(program.path, {"verb": "hello"}, timeout=0.2)
        found = [one for one in control_client.find(timeout=0.2) if isinstance(one, ControlUnavailable)]
        assert program.path.name in str(found[0])
    finally:
        program.process.send_signal(signal.SIGCONT)


def test_a_killed_service_leaves_a_stale_socket(program: Program, runtime: Path) -> None:
    """Nobody finds it, and the next service removes it."""
    program.process.kill()
    program.process.wait()
    assert program.path.exists()
    assert cli(runtime, "status", "--service", "churns").returncode == 1
    assert not program.path.exists()  # the look removed it
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(program.path))
    after = Program(runtime, "after")
    assert not program.path.exists()
    assert after.end() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_with_the_modes_opened(program: Program, runtime: Path) -> None:
    """The kernel tells who is at the other end."""
    runtime.chmod(0o755)
    program.path.parent.chmod(0o755)
    program.path.chmod(0o666)
    code = f"""if True:
        import os, socket
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect({str(program.path)!r})
            try:
                peer.sendall(b'{{"verb": "pause", "task": "churn"}}\\n')
            except BrokenPipeError:
                pass
            print(peer.recv(1000).decode())
    """
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(answer)["error"] == "NotAllowed"
    assert program.ask("status", task="churn")["tasks"][0]["paused"] is None
    assert '"uid": 65534' in (runtime / "churns.log").read_text()


# Within this process


class Ticks(Manager):
    count = 0

    @periodic_task(spacing=0.05)
    async def tick(self, context: RunContext) -> None:
        self.count += 1

    async def reach(self, count: int) -> None:
        for _ in range(10_000):
            if self.count >= count:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def embedded(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.chdir(runtime)
    return Service(Ticks(), name="ticks", settings=Settings(control=True))


def path_of(service: Service) -> Path:
    assert service._control_socket is not None
    assert service._control_socket.path is not None
    return service._control_socket.path


async def test_an_embedded_service_has_one_where_it_is_set(embedded: Service, runtime: Path) -> None:
    """``control = true``; without it there is none."""
    async with embedded as service:
        answer = await asyncio.to_thread(control_client.ask, path_of(service), {"verb": "hello"})
        assert answer["pid"] == os.getpid()
        async with Service(Ticks(), name="ticks", settings=Settings(control=True)) as second:
            assert path_of(second).name == f"ticks.{os.getpid()}-2.sock"
        async with Service(Ticks(), name="other", settings=Settings()) as third:
            assert third._control_socket is None
    assert not list(runtime.glob("asyncmgr/*"))  # noqa: ASYNC240 - one look


class Turns:
    """Counts the turns of the event loop, and the answers of a service in each of them."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.answers: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        answer = service.control.answer

        async def counted(request: object, who: Any) -> dict[str, Any]:
            self.answers[self.count] += 1
            return await answer(request, who)

        monkeypatch.setattr(service.control, "answer", counted)
        self._turn()

    def _turn(self) -> None:
        if not self._is_over:
            self.count += 1
            self._loop.call_soon(self._turn)

    def end(self) -> None:
        self._is_over = True


async def test_peers_that_misbehave_cost_the_schedule_nothing(
    embedded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred at once: garbage, half a request, endless lines, deep nesting, nobody reads, half-open ones.

    A good one is served. However many ask, the event loop answers one of them in a turn, and tasks get every turn
    between: that bounds how late a slot can be on any machine.
    """
    async with embedded as service:
        path = path_of(service)
        turns = Turns(service, monkeypatch)
        sent = [
            b"\xff\xfe garbage\n",
            b'{"verb": "sta',
            b"x" * (LONGEST_REQUEST * 2),
            b"[" * 60_000 + b"\n",
            b'{"verb": "status"}\n' * 500,
            b'{"verb": "status"}\n',
        ]
        writers = []
        for number in range(200):
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(sent[number % len(sent)])
            if number % 3 == 0:
                writer.write_eof()  # half-open: it says nothing more, and stays
            writers.append(writer)
        ticks = service.managers[0]
        assert isinstance(ticks, Ticks)
        before = ticks.count
        answer = await asyncio.to_thread(control_client.ask, path, {"verb": "status", "task": "tick"})
        assert answer["ok"]
        await asyncio.wait_for(ticks.reach(before + 5), 60)
        turns.end()
        assert sum(turns.answers.values()) > 20
        assert max(turns.answers.values()) == 1
        for writer in writers:
            writer.transport.abort()
        assert service.health.ok


async def test_too_many_peers_are_told_so(embedded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """And closed; those before them go on."""
    monkeypatch.setattr("asyncmgr._service.control_socket.MOST_PEERS", 3)
    async with embedded as service:
        path = path_of(service)
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert json.loads(await reader.readline())["error"] == "ServiceBusy"
            writer.close()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (b"nonsense\n", "a request is one line of JSON"),
        (b"[" * 60_000 + b"\n", "a request is one line of JSON"),
        (b"x" * (LONGEST_REQUEST + 10), "a request is one line of at most 65536 bytes"),
    ],
)
async def test_what_is_no_request_ends_the_connection(embedded: Service, request_: bytes, text: str) -> None:
    """With a word that says why."""
    async with embedded as service:
        reader, writer = await asyncio.open_unix_connection(str(path_of(service)))
        writer.write(request_)
        assert json.loads(await reader.readline())["text"] == text
        assert await reader.read() == b""
        writer.close()


async def test_a_half_open_peer_is_closed(embedded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without a whole request."""
    monkeypatch.setattr("asyncmgr._service.control_socket.IDLE", 0.05)
    async with embedded as service:
        reader, writer = await asyncio.open_unix_connection(str(path_of(service)))
        writer.write(b'{"verb": "he')
        assert await reader.read() == b""
        writer.close()


async def test_a_stop_ends_connections(embedded: Service) -> None:
    """Also one that waits for the end of a run, and one that says nothing."""
    async with embedded as service:
        reader, writer = await asyncio.open_unix_connection(str(path_of(service)))
        writer.write(b'{"verb": "hello"}\n')
        assert json.loads(await reader.readline())["ok"]
    assert await reader.read() == b""
    writer.close()


async def test_a_socket_that_cannot_be_opened_stops_no_service(
    runtime: Path, embedded: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another directory is tried; where none is left, that is logged with the reason."""
    (runtime / "asyncmgr").write_text("in the way")
    async with embedded as service:
        assert path_of(service).parent == runtime / f"asyncmgr-{os.geteuid()}"
    monkeypatch.setattr(control_socket, "directories", lambda environ, uid: iter([runtime / "asyncmgr"]))
    async with Service(Ticks(), name="ticks", settings=Settings(control=True)) as service:
        assert service.health.ok
    (line,) = [text for record in caplog.records if "unavailable" in (text := record.getMessage())]
    assert f"{runtime / 'asyncmgr'} cannot be used" in line


# Paths


def test_a_long_name_is_cut_to_what_the_kernel_takes(tmp_path: Path) -> None:
    """And stays that of one service."""
    directory = Path("/run/user/1000/asyncmgr")
    paths = {socket_path(directory, "a" * 120 + end, 12345) for end in "bc"}
    assert len(paths) == 2
    assert {len(os.fsencode(path)) for path in paths} == {LONGEST_PATH}
    assert socket_path(directory, "a/ü", 1).name == "a=2F=C3=BC.1.sock"
    with pytest.raises(ControlUnavailable, match="too long for a socket"):
        socket_path(Path("/" + "x" * 100), "a", 1)


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    """Nor one behind a link; one with wider modes is closed."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(ControlUnavailable, match="is not a directory of the user"):
        prepare(link, os.geteuid())
    with pytest.raises(ControlUnavailable, match="is not a directory of the user 12345"):
        prepare(tmp_path, 12345)
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o777)
    prepare(wide, os.geteuid())
    assert stat.S_IMODE(wide.stat().st_mode) == 0o700


def test_where_sockets_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the session's directory and in the temporary one: the service may have been started without a session."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = list(control_paths.directories({"XDG_RUNTIME_DIR": "/run/user/7"}, 7))
    assert found == [Path("/run/user/7/asyncmgr"), tmp_path / "asyncmgr-7", Path("/tmp/asyncmgr-7")]
    assert next(control_paths.directories({"XDG_RUNTIME_DIR": "relative"}, 7)) == tmp_path / "asyncmgr-7"


def test_a_platform_without_unix_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows, where the calls over the transport are left."""
    monkeypatch.delattr(socket, "AF_UNIX")
    assert why_unavailable() == f"{sys.platform} has no Unix sockets"
    with pytest.raises(ControlUnavailable, match="services are reached by --transport only"):
        next(iter(control_client.find()))
