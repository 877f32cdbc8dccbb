"""``asyncmgr demo``, with its real server and processes."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncmgr import HostState
from asyncmgr._cli.commands import demo as demonstrating
from asyncmgr._cli.demo.story import Scene
from tests.cli.conftest import Invoke
from tests.cli.test_run import needs_signals

pytest.importorskip("psutil")
pytest.importorskip("rich")

PATIENCE = 20.0


@contextmanager
def demonstration(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demonstration with its temporary files in the directory."""
    command = [sys.executable, "-m", "asyncmgr", "demo", "--plain", *words]
    env = {**os.environ, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """Its output up to the first line of this kind."""
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if line[10:].startswith(word):
            return told
    raise AssertionError(f"it ended before {word!r}:\n{told}")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_all_gone(told: str, directory: Path) -> bool:
    """No process of those that were told of runs, no server listens, and no file is left."""
    pids = [int(pid) for pid in re.findall(r"process (\d+)", told)]
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", told)]
    return not (any(map(runs, pids)) or any(map(listens, ports)) or files_in(directory))


def files_in(directory: Path) -> list[Path]:
    """The files below it. The directory of control sockets stays, as it is the user's for all services."""
    return [path for path in directory.rglob("*") if path.is_file()]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@needs_signals
def test_the_whole_demonstration(tmp_path: Path) -> None:
    """Hosts come, memory is placed on them, one is killed and goes stale; afterwards nothing is left."""
    with demonstration(tmp_path, "--seconds", "14") as process:
        told, logged = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 0, logged
    assert logged == "ending the processes\n"
    words = [line[10:18].strip() for line in told.splitlines()]
    assert words[:5] == ["server", "start", "start", "start", "start"]
    assert words.count("joined") >= 3  # a host that was slow to announce itself joins again
    assert words.index("kill -9") < words.index("stale")
    assert re.search(r"pick      [\d,]+ MiB -> n[123], [\d,]+ left, in [\d.]+ ms\n", told)
    assert is_all_gone(told, tmp_path)


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("word", ["server", "pick"])
def test_a_signal_ends_all_of_it(tmp_path: Path, number: int, word: str) -> None:
    """Ctrl-C and SIGTERM are the way to end it, while it starts too."""
    with demonstration(tmp_path) as process:
        told = read_until(process, word)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert is_all_gone(told + rest, tmp_path)


@needs_signals
def test_nothing_outlives_it_even_if_it_is_killed(tmp_path: Path) -> None:
    """The processes end with a pipe that only the demonstration holds."""
    with demonstration(tmp_path) as process:
        told = read_until(process, "joined")
        process.kill()
    wait_until(lambda: is_all_gone(told, tmp_path))


@needs_signals
def test_it_ends_where_nobody_reads_any_more(tmp_path: Path) -> None:
    """``asyncmgr demo | head`` leaves nothing behind either."""
    with demonstration(tmp_path) as process:
        told = read_until(process, "server")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
    assert is_all_gone(told, tmp_path)


@needs_signals
def test_on_a_terminal_it_is_one_picture(tmp_path: Path) -> None:
    """A terminal gets tables that are drawn again."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "TMPDIR": str(tmp_path), "COLUMNS": "100", "LINES": "40"}
    command = [sys.executable, "-m", "asyncmgr", "demo"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = ""
        while " left, in " not in shown:
            shown += os.read(ours, 4096).decode(errors="replace")
        process.send_signal(signal.SIGTERM)
        while "ending the processes" not in shown:
            shown += os.read(ours, 4096).decode(errors="replace")
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert "Memory is simulated" in shown
    assert "█" in shown
    assert files_in(tmp_path) == []


def pictured(monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    """The lines of the picture on a terminal of this width, with one host dead."""
    from rich.console import Console

    free = {"n1": 3_000, "n2": 0, "n3": 12_000}
    states = [
        HostState(
            "compute", host, "", {"memory_free_mib": mib, "memory_reserved_mib": 9_000}, "fresh", 1.0, 1, 1
        )
        for host, mib in free.items()
        if mib
    ]
    monkeypatch.setenv("COLUMNS", str(columns))
    scene = Scene("nats://127.0.0.1:12345", {"n1": 27_015, "n3": 27_017}, View(states))  # type: ignore[arg-type]
    screen = demonstrating._Screen(scene)
    screen.tell("pick", "1,176 MiB -> n1, 3,515 left, in 3.2 ms")
    screen.tell("start", "p1, process 2701800: places memory")
    stream = io.StringIO()
    Console(width=columns, file=stream).print(screen._picture())
    return stream.getvalue().splitlines()


class View:
    """Stands for a live view."""

    def __init__(self, states: list[HostState]) -> None:
        self._states = states

    def snapshot(self) -> list[HostState]:
        return self._states


@pytest.mark.parametrize(("columns", "longest"), [(100, 24), (80, 24), (60, 8), (45, 8)])
def test_the_picture_fits(monkeypatch: pytest.MonkeyPatch, columns: int, longest: int) -> None:
    """On a narrow terminal every line fits in one row, and the bar of free memory stands beside it, to scale (53)."""
    lines = pictured(monkeypatch, columns)
    assert max(map(len, lines)) <= columns
    assert ("…" in "".join(lines)) is (columns < 60)
    headers = next(line for line in lines if line.startswith("host"))
    assert headers.rstrip().endswith("free MiB")
    rows = {line[:2]: line for line in lines if line[:2] in ("n1", "n2", "n3")}
    assert "gone" in rows["n2"]
    assert rows["n2"].count("█") == 0
    assert rows["n3"].count("█") >= longest
    assert rows["n1"].count("█") == round(rows["n3"].count("█") / 4)
    assert "  12,000  █" in rows["n3"]
    assert len(lines) == 16


def test_help_says_what_it_does(invoke: Invoke) -> None:
    """What is started, what happens, what is left and what is needed can be read before (53)."""
    text = " ".join(invoke("demo", "--help").stdout.split())
    for said in ("real NATS server", "is killed", "no process and no file", "asyncmgr[demo]", "simulated"):
        assert said in text


def test_a_missing_extra_is_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is said together with the command that installs it."""
    monkeypatch.setattr(demonstrating, "find_spec", lambda name: None if name == "psutil" else name)
    result = invoke("demo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the demonstration needs psutil; pip install 'asyncmgr[demo]'\n"


def test_the_server_needs_no_time_machine() -> None:
    """The extra of the demonstration has no testing tools."""
    code = "import sys; sys.modules.update(time_machine=None, pytest=None); import asyncmgr._cli.demo.server"
    subprocess.run([sys.executable, "-c", code], check=True)
