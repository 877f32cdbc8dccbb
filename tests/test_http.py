"""``asyncmgr run --http`` as a process, and its server: addresses, signals, silence while idle (15)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._monitoring.server import Address, read_address, serve_http
from asyncmgr.errors import HttpUnavailable, InvalidSettings

APP = """\
import asyncio
from asyncmgr import Manager, periodic_task

class Volumes(Manager):
    @periodic_task(spacing=3600)
    async def sync(self, context): ...

class Failing(Manager):
    @periodic_task(spacing=3600, run_immediately=True)
    async def fail(self, context):
        raise ValueError("no disk")
"""
PATIENCE = 60.0


class Process:
    """``asyncmgr run`` with HTTP at a free port."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError("".join(self.lines))

    def ask(self, url: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()


@contextmanager
def running(directory: Path, target: str, *options: str, **environ: str) -> Iterator[Process]:
    (directory / "jobs.py").write_text(APP)
    command = [
        sys.executable,
        "-m",
        "asyncmgr",
        "run",
        f"jobs.py:{target}",
        "--http",
        "127.0.0.1:0",
        *options,
    ]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(directory), **environ}
    process = subprocess.Popen(command, cwd=directory, env=env, stderr=subprocess.PIPE, text=True)
    try:
        yield Process(process)
    finally:
        process.kill()
        process.communicate()


def test_the_endpoints_of_a_process_and_its_end(tmp_path: Path) -> None:
    """The log says where it listens; SIGTERM ends it as without HTTP, also while a connection is open."""
    with running(tmp_path, "Volumes", "--log-format", "json") as shop:
        url = "http://" + shop.wait_for(r'"http.opened".*"address": "([^"]+)"')[1]
        shop.wait_for("service.started")
        assert shop.ask(f"{url}/livez")[0] == 200
        assert json.loads(shop.ask(f"{url}/readyz")[1])["ok"] is True
        assert "asyncmgr_tasks{" in shop.ask(f"{url}/metrics")[1]
        assert shop.ask(f"{url}/metrics", Host="evil.example")[0] == 403
        assert "<title>asyncmgr" in shop.ask(f"{url}/")[1]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as idle:
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(100).startswith(b"HTTP/1.1 200")
            shop.process.send_signal(signal.SIGTERM)
            assert shop.process.wait(PATIENCE) == 0


def test_a_service_that_is_not_well_answers_503_and_the_command_exits_with_3(tmp_path: Path) -> None:
    """Over HTTP, and by the control socket."""
    with running(tmp_path, "Failing", "--log-format", "json") as shop:
        url = "http://" + shop.wait_for(r'"http.opened".*"address": "([^"]+)"')[1]
        shop.wait_for("task.failed")
        assert shop.ask(f"{url}/health")[0] == 503
        command = [sys.executable, "-m", "asyncmgr", "health"]
        env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert told.returncode == 3, told
        assert "not well, Failing.fail failed: ValueError: no disk" in told.stdout
        as_json = subprocess.run([*command, "--json"], env=env, capture_output=True, text=True, check=False)
        assert json.loads(as_json.stdout)[0]["tasks"][0]["state"] == "failing"


def test_the_link_with_the_token_is_printed_once(tmp_path: Path) -> None:
    """And works; the log does not have it."""
    with running(tmp_path, "Volumes", "--http-token", "--log-format", "console") as shop:
        link = shop.wait_for(r"(http://127\.0\.0\.1:\d+/\?token=\S+)")[1]
        shop.wait_for("service.started")
        url, _, token = link.partition("/?token=")
        request = urllib.request.Request(
            f"{url}/api/pause",
            data=b'{"task": "Volumes.sync"}',
            headers={"X-Asyncmgr": "1", "Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert json.load(answer)["task"]["paused"]["by"] == "a browser or program at 127.0.0.1"
        assert sum(token in line for line in shop.lines) == 1


def test_a_json_log_gets_no_secret(tmp_path: Path) -> None:
    """It is kept somewhere; the setting is for that."""
    with running(tmp_path, "Volumes", "--http-token", "--log-format", "json") as shop:
        assert shop.process.wait(PATIENCE) == 2
        assert shop.process.stderr is not None
        assert "ASYNCMGR_MONITORING__HTTP_TOKEN" in shop.process.stderr.read()


def test_systemd_is_told_by_the_process(tmp_path: Path) -> None:
    """Only `asyncmgr run` does."""
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("there is no systemd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        path = str(tmp_path / "notify")
        systemd.bind(path)
        systemd.settimeout(PATIENCE)
        with running(tmp_path, "Volumes", NOTIFY_SOCKET=path, WATCHDOG_USEC="400000") as shop:
            heard = [systemd.recv(100) for _ in range(4)]
            assert sorted(set(heard)) == [b"READY=1", b"WATCHDOG=1"]
            shop.process.send_signal(signal.SIGTERM)
            while systemd.recv(100) != b"STOPPING=1":
                pass
            assert shop.process.wait(PATIENCE) == 0


# The server, in this process


class Volumes(Manager):
    @periodic_task(spacing=3600)
    async def sync(self, context: RunContext) -> None: ...


def service_of() -> Service:
    return Service(Volumes(), host="nyx", name="compute", settings=Settings(seed=1))


async def test_an_idle_server_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn's own main loop would wake ten times a second."""
    service = service_of()
    opened: list[str] = []
    serve_http(service, "127.0.0.1:0", opened=opened.append)
    async with service:
        loop = asyncio.get_running_loop()
        timers: list[Any] = []
        for name in ("call_later", "call_at"):
            original = getattr(loop, name)

            def note(*args: Any, _original: Any = original, **options: Any) -> Any:
                timers.append(args)
                return _original(*args, **options)

            monkeypatch.setattr(loop, name, note)
        before = signal.getsignal(signal.SIGTERM)
        for _ in range(100):
            await asyncio.sleep(0)
        assert timers == []
        assert signal.getsignal(signal.SIGTERM) is before
        monkeypatch.undo()
        assert len(opened) == 1


async def test_an_address_that_is_taken_ends_the_start() -> None:
    """With its name and the reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = service_of()
        serve_http(service, f"127.0.0.1:{port}")
        with pytest.raises(HttpUnavailable, match=f"127.0.0.1:{port} cannot be listened on"):
            await service.start()


@pytest.mark.virtual_time
async def test_nothing_listens_in_virtual_time() -> None:
    """Real programs cannot talk to it, and it would hold time up."""
    service = service_of()
    opened: list[str] = []
    serve_http(service, "127.0.0.1:0", opened=opened.append)
    async with service:
        await asyncio.sleep(3600)
    assert opened == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", Address("127.0.0.1", 8080)),
        (":8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("127.0.0.1", 0)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:80", Address("::1", 80)),
        ("jobs.example:80", Address("jobs.example", 80)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    """A port alone is of this machine only."""
    assert read_address(text) == address


@pytest.mark.parametrize("text", ["", "a", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "::1", "::1:80"])
def test_what_is_no_address(text: str) -> None:
    """It is said how to write one."""
    with pytest.raises(InvalidSettings, match="write HOST:PORT"):
        read_address(text)


def test_an_address_is_shown_as_it_is_written() -> None:
    """With brackets where they are needed."""
    assert [str(Address("::1", 80)), str(Address("a", 1))] == ["[::1]:80", "a:1"]


with contextlib.suppress(ImportError):
    import uvicorn

    def test_the_version_of_uvicorn_has_what_is_overridden() -> None:
        """Its public methods, which a later version might rename."""
        for name in ("capture_signals", "main_loop", "serve"):
            assert callable(getattr(uvicorn.Server, name))
