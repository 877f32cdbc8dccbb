"""``asyncmgr demo``, with its real server and processes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from asyncmgr import HostState
from asyncmgr._cli.commands import demo as demonstrating
from asyncmgr._cli.demo.story import Scene
from tests.cli.conftest import Invoke
from tests.cli.test_run import needs_signals

pytest.importorskip("psutil")
pytest.importorskip("rich")

PATIENCE = 120.0
"""Seconds after which a test gives up. Nothing here is judged by how long it took."""


@contextmanager
def demonstration(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demonstration with its temporary files in the directory."""
    command = [sys.executable, "-m", "asyncmgr", "demo", "--plain", *words]
    env = {**os.environ, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        guard = threading.Timer(3 * PATIENCE, process.kill)
        guard.start()
        try:
            yield process
        finally:
            guard.cancel()
            process.kill()


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Read what it still writes until its end: its output, and its errors. `communicate` would lose read-ahead."""
    assert process.stdout is not None
    assert process.stderr is not None
    rest, logged = process.stdout.read(), process.stderr.read()
    process.wait(PATIENCE)
    return rest, logged


def read_until(process: subprocess.Popen[str], *beginnings: str) -> str:
    """Read its output until lines that begin so have come in this order; others may come between them."""
    assert process.stdout is not None
    told, awaited = "", deque(beginnings)
    while awaited:
        line = process.stdout.readline()
        assert line, f"it ended before {awaited[0]!r}:\n{told}"
        told += line
        if re.match(awaited[0], line[10:]):
            awaited.popleft()
    return told


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_all(process: subprocess.Popen[str], *patterns: str) -> str:
    """Read its output until each pattern has been found in a line, in whatever order."""
    assert process.stdout is not None
    told, missing = "", set(patterns)
    while missing:
        line = process.stdout.readline()
        assert line, f"it ended before {missing}:\n{told}"
        told += line
        missing -= {pattern for pattern in missing if re.search(pattern, line)}
    return told


def read_stream(url: str, *words: str) -> None:
    """Read the events that the page gets until each of the words was in them."""
    missing = {word.encode() for word in words}
    with urllib.request.urlopen(url, timeout=PATIENCE) as events:
        while missing:
            line = events.readline()
            assert line, missing
            missing -= {word for word in missing if word in line}


def is_all_gone(directory: Path) -> bool:
    """No process of the demonstration runs, and no file is left."""
    return not (processes_of(directory) or files_in(directory))


def processes_of(directory: Path) -> list[str]:
    """The processes that keep their temporary files here. Their numbers or ports may be a stranger's by now."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(directory):
                found.append(" ".join(process.cmdline()))
    return found


def files_in(directory: Path) -> list[Path]:
    """The files below it. The directory of control sockets stays, as it is the user's for all services."""
    return [path for path in directory.rglob("*") if path.is_file()]


@needs_signals
def test_the_whole_demonstration(tmp_path: Path) -> None:
    """Hosts come, memory is placed on them, one is killed, is gone, and comes back; afterwards nothing is left."""
    with demonstration(tmp_path, "--kill-after", "1") as process:
        told = read_until(process, r"kill -9   n[123]")
        victim = told.splitlines()[-1][20:22]
        picked = r"pick      [\d,]+ MiB -> n[123], [\d,]+ left, in [\d,.]+ ms\n"
        told += read_until(
            process, f"left      {victim}", f"restart   {victim}", f"joined    {victim}", picked
        )
        process.send_signal(signal.SIGINT)
        rest, logged = rest_of(process)
    assert process.returncode == 0, logged
    assert logged == "ending the processes\n", rest
    words = [line[10:18].strip() for line in told.splitlines()]
    assert words[:6] == ["server", "page", "start", "start", "start", "start"]
    assert {"joined    n1", "joined    n2", "joined    n3"} <= {line[10:22] for line in told.splitlines()}
    assert is_all_gone(tmp_path)


@needs_signals
def test_each_trouble_is_explained(tmp_path: Path) -> None:
    """Who fails, hangs and blocks is told with the command that explains it, and its answer."""
    with demonstration(tmp_path, "--kill-after", "86400") as process:
        told = read_all(
            process,
            r"fails     Invoices.export on n\d fails at each run",
            r"waits     Search.reindex on n\d does not come to an end",
            r"blocks    Images.render blocked the event loop of n\d",
        )
        process.send_signal(signal.SIGINT)
        rest, _ = rest_of(process)
    said = " ".join((told + rest).split())
    for answer in (
        r"\$ asyncmgr explain Invoices.export [\d:]+ --service \d+ Invoices.export: .* ConnectionError: 503",
        r"\$ asyncmgr explain Search.reindex [\d:]+ --service \d+ Search.reindex: .* in Search.push at jobs.py:\d+",
        r"\$ asyncmgr explain Host.measure [\d:]+ --service \d+ Host.measure: .* Images.render blocked the event loop",
    ):
        assert re.search(answer, said), (answer, said)
    assert max(map(len, told.splitlines())) <= 80


@needs_signals
def test_the_fail_over_is_explained(tmp_path: Path) -> None:
    """Who took over is told with the time that it took, and explained by a host that only looks on."""
    with demonstration(tmp_path, "--kill-after", "1") as process:
        told = read_all(
            process,
            r"owner     n\d took over Reports.send [\d.]+ s after the kill",
            r"\$ asyncmgr explain Reports.send --service \d+$",
        )
        process.send_signal(signal.SIGINT)
        rest, logged = rest_of(process)
    said = " ".join((told + rest).split())
    assert re.search(r"Reports.send --service \d+ Reports.send: .* did not run here, and did on n\d", said), (
        said
    )
    assert logged == "ending the processes\n"


@needs_signals
def test_it_serves_the_page(tmp_path: Path) -> None:
    """On this machine only, by a link with a token that is printed once; the page shows the jobs of all three hosts."""
    with demonstration(tmp_path) as process:
        told = read_until(process, "page")
        found = re.search(r"(http://127\.0\.0\.1:\d+/)(\?token=\S+)", told)
        assert found is not None
        told += read_until(process, "joined", "joined", "joined", "owner")
        with urllib.request.urlopen("".join(found.groups()), timeout=PATIENCE) as answer:
            assert b"<title>asyncmgr</title>" in answer.read()
        read_stream(f"{found[1]}events?span=900", '"n1"', '"n2"', '"n3"', "Reports.send", "Images.render")
        process.send_signal(signal.SIGINT)
        rest, _ = rest_of(process)
    assert (told + rest).count("token=") == 1
    assert process.returncode == 0
    assert is_all_gone(tmp_path)


@needs_signals
def test_it_ends_by_itself(tmp_path: Path) -> None:
    """``--seconds`` ends it in order, wherever it has come to by then."""
    with demonstration(tmp_path, "--seconds", "1") as process:
        told, logged = rest_of(process)
    assert (process.returncode, logged) == (0, "ending the processes\n"), told
    assert is_all_gone(tmp_path)


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("word", ["server", "pick"])
def test_a_signal_ends_all_of_it(tmp_path: Path, number: int, word: str) -> None:
    """Ctrl-C and SIGTERM are the way to end it, while it starts too."""
    with demonstration(tmp_path) as process:
        read_until(process, word)
        process.send_signal(number)
        rest_of(process)
        assert process.returncode == 0
    assert is_all_gone(tmp_path)


@needs_signals
def test_nothing_outlives_it_even_if_it_is_killed(tmp_path: Path) -> None:
    """The processes end with a pipe that only the demonstration holds."""
    with demonstration(tmp_path) as process:
        read_until(process, "joined")
        process.kill()
    wait_until(lambda: is_all_gone(tmp_path))


@needs_signals
def test_it_ends_where_nobody_reads_any_more(tmp_path: Path) -> None:
    """``asyncmgr demo | head`` leaves nothing behind either."""
    with demonstration(tmp_path) as process:
        read_until(process, "server")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
    assert is_all_gone(tmp_path)


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
    assert "The page: http://127.0.0.1:" in shown
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


def test_an_answer_is_wrapped() -> None:
    """Eighty columns are enough to read it; it stands apart from the lines of what happens."""
    lines = demonstrating._quoted(
        "asyncmgr explain Reports.send", "Reports.send: " + "word " * 40
    ).splitlines()
    assert (lines[0], lines[-1]) == ("", "  " + lines[-1].strip())
    assert lines[1] == "  $ asyncmgr explain Reports.send"
    assert max(map(len, lines)) <= 80


def test_help_says_what_it_does(invoke: Invoke) -> None:
    """What is started, what happens, what is left and what is needed can be read before (53)."""
    text = " ".join(invoke("demo", "--help").stdout.split())
    for said in (
        "real NATS server",
        "is killed",
        "no process and no file",
        "asyncmgr[demo]",
        "simulated",
        "asyncmgr explain",
    ):
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
