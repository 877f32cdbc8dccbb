"""``asyncmgr hosts``."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from asyncmgr._cli import output
from asyncmgr._cli.capability_text import capabilities_in_short
from asyncmgr._cli.commands import hosts
from tests.cli.conftest import Elsewhere, Invoke
from tests.cli.remote import Compute
from tests.cli.test_run import needs_signals


def test_hosts_are_a_table(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """A line for each host with its capabilities in short."""
    elsewhere.start(Compute("table", {"cpus": 4, "zones": ["a", "b"]}), host="n1")
    elsewhere.start(Compute("table", {"os": "Debian 12", "disk": {"free": 1}}), host="n2")
    result = invoke("hosts", "table")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "service  host  state  age  capabilities",
        "table    n1    fresh  0s   cpus=4 zones=[2 items]",
        'table    n2    fresh  0s   os="Debian 12" disk={1 key}',
    ]


def test_nodes_have_a_column_where_they_are_named(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """Of a host with nodes each is a line."""
    elsewhere.start(Compute("nodes", {"node": "a", "free": 1}, {"node": "b", "free": 2}), host="n1")
    lines = invoke("hosts", "nodes").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["nodes", "n1", "a", "fresh", "0s", "free=1"],
        ["nodes", "n1", "b", "fresh", "0s", "free=2"],
    ]


def test_hosts_as_json_are_whole(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """Programs get all that is known."""
    elsewhere.start(Compute("whole", {"zones": ["a", "b"]}), host="n1")
    (host,) = json.loads(invoke("hosts", "whole", "--json").stdout)
    assert (host["service"], host["host"], host["state"]) == ("whole", "n1", "fresh")
    assert host["capabilities"] == {"zones": ["a", "b"]}
    assert host["age"] < 20


def test_nobody_is_an_answer(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """Where nobody announces itself, stderr says where was looked; it is no failure."""
    result = invoke("hosts", "absent")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no hosts of the service 'absent' at {elsewhere.url}" in result.stderr
    assert json.loads(invoke("hosts", "absent", "--json").stdout) == []


def test_hosts_of_a_store(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """Hosts are looked for in the store that they are announced in, whatever carries their calls."""
    elsewhere.start(Compute("kept", {"cpus": 4}), host="n1", store=elsewhere.url, transport="memory://")
    for words in (
        ("--store", elsewhere.url),
        ("--store", elsewhere.url, "--transport", "memory://"),
        ("--transport", elsewhere.url),
    ):
        result = invoke("hosts", "kept", *words)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "n1" in result.stdout
    result = invoke("hosts", "absent", "--store", elsewhere.url.replace("//", "//me:hunter2@"))
    place = elsewhere.url.replace("//", "//***@")
    assert f"no hosts of the service 'absent' at {place}" in result.stderr
    assert f"'asyncmgr run TARGET --store {place}'" in result.stderr


def test_hosts_of_a_store_that_nobody_else_has(invoke: Invoke) -> None:
    """A store in this process, or one of a scheme that nothing opens, is refused."""
    result = invoke("hosts", "--store", "memory://")
    assert result.exit_code == 1
    assert "memory:// reaches nothing outside of this process" in result.stderr
    result = invoke("hosts", "--store", "nosuch://me:hunter2@h")
    assert result.exit_code == 1
    assert "no store for nosuch://" in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "k=1.5"),
        (True, "k=true"),
        ("a/b-c", "k=a/b-c"),
        ("", 'k=""'),
        ("a=b", 'k="a=b"'),
        ("\x1b[2J", 'k="\\u001b[2J"'),
        ("\x9b", 'k="\\u009b"'),
        ("München", "k=München"),
        ([1], "k=[1 item]"),
        ({"a": 1, "b": 2}, "k={2 keys}"),
    ],
)
def test_capabilities_in_short(value: object, text: str) -> None:
    """Texts are quoted where they could be misread, and what is nested is counted."""
    assert capabilities_in_short({"node": "n", "k": value}) == text


class Terminal(io.StringIO):
    """Takes text as a terminal does."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (60, "wide     n1    fresh  0s   a=100 b=200 c=300 d=400 e=500 f=…"),
        (30, "wide/n1: fresh, 0s old\n  a=100 b=200 c=300 d=400 e=500 f=600 g=700"),
    ],
)
def test_a_narrow_terminal_cuts_or_folds(
    elsewhere: Elsewhere, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, columns: int, expected: str
) -> None:
    """Long capabilities are cut on a terminal; where little would be left, each host is a paragraph."""
    capabilities = {name: number * 100 for number, name in enumerate("abcdefg", 1)}
    elsewhere.start(Compute("wide", capabilities), host="n1")
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    monkeypatch.setattr(hosts, "_width", lambda _: columns)
    monkeypatch.setattr(
        hosts, "write_table", lambda head, rows, _, **more: output.write_table(head, rows, stream, **more)
    )
    invoke("hosts", "wide")
    assert expected in stream.getvalue()


# Watching, in a process of its own


@contextmanager
def watching(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``asyncmgr hosts --watch``."""
    command = [sys.executable, "-m", "asyncmgr", "hosts", "--watch", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


@needs_signals
def test_watching_writes_a_line_for_each_change(elsewhere: Elsewhere) -> None:
    """What is there comes first, then what changes; Ctrl-C is the way to end it, and no failure."""
    first = elsewhere.start(Compute("watch", {"free": 1}), host="n1")
    with watching("watch") as process:
        assert line(process.stdout).split()[1:] == ["found", "watch/n1", "free=1"]
        elsewhere.stop(first)
        assert line(process.stdout).split()[1:] == ["left", "watch/n1", "free=1"]
        process.send_signal(2)
        assert process.wait(20) == 0


def test_watching_as_json_writes_an_object_a_line(elsewhere: Elsewhere) -> None:
    """Programs get the same, whole; stderr says that nobody was there at first."""
    with watching("lines", "--json") as process:
        assert "no hosts of the service 'lines'" in line(process.stderr)
        elsewhere.start(Compute("lines", {"zones": ["a"]}), host="n1")
        change = json.loads(line(process.stdout))
    assert (change["kind"], change["host"]) == ("joined", "n1")
    assert change["at"].endswith("+00:00")


@needs_signals
def test_watching_on_a_terminal_redraws(elsewhere: Elsewhere) -> None:
    """On a terminal there is one table, which follows the changes."""
    pytest.importorskip("rich")
    pty = pytest.importorskip("pty")
    elsewhere.start(Compute("live", {"free": 1}), host="n1")
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "asyncmgr", "hosts", "live", "--watch"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = _read_until(ours, "free=1")
        second = elsewhere.start(Compute("live", {"free": 2}), host="n2")
        shown += _read_until(ours, "free=2")
        elsewhere.stop(second)
        shown += _read_until(ours, "1 host\r")
        process.send_signal(2)
        assert process.wait(20) == 0
    os.close(ours)
    assert "live at nats://" in shown
    assert ": 2 hosts" in shown


def _read_until(descriptor: int, text: str) -> str:
    shown = ""
    while text not in shown:
        shown += os.read(descriptor, 4096).decode(errors="replace")
    return shown
