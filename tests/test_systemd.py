"""What systemd is told: that a service has started, stops, and lives (15)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._monitoring.systemd import Notifier, find_notifier, tell_systemd
from asyncmgr._service import insight

pytestmark = [
    pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00"),
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there is no systemd"),
]


class Volumes(Manager):
    error: Exception | None = None

    @periodic_task(spacing=60)
    async def sync(self, context: RunContext) -> None:
        if self.error:
            raise self.error


class Systemd:
    """The other end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(1000).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    heard = Systemd(tmp_path)
    yield heard
    heard.close()


def service_of(*managers: Manager) -> Service:
    return Service(*managers, host="nyx", name="compute", settings=Settings(seed=1))


async def test_start_pings_and_stop(systemd: Systemd) -> None:
    """The pings come at half of the time that systemd waits, with the looks of the scheduler."""
    service = service_of(Volumes())
    tell_systemd(service, Notifier(systemd.path, 3.0))
    assert systemd.heard() == []
    async with service:
        assert [one for one in systemd.heard() if one != "WATCHDOG=1"] == ["READY=1"]
        pings = []
        for _ in range(10):  # the socket keeps few messages
            await asyncio.sleep(3)
            pings += systemd.heard()
        assert len(pings) in range(19, 24)
    assert systemd.heard()[0] == "STOPPING=1"


async def test_a_busy_scheduler_pings_no_more_than_it_has_to(systemd: Systemd) -> None:
    """It looks far more often."""

    class Busy(Manager):
        @periodic_task(spacing=0.01)
        async def tick(self, context: RunContext) -> None: ...

    service = service_of(Busy())
    tell_systemd(service, Notifier(systemd.path, 20.0))
    async with service:
        systemd.heard()
        await asyncio.sleep(26)
        assert len(systemd.heard()) in range(4, 7)


async def test_without_a_watchdog_there_are_no_pings(systemd: Systemd) -> None:
    """And no looks for them."""
    service = service_of(Volumes())
    tell_systemd(service, Notifier(systemd.path, None))
    async with service:
        await asyncio.sleep(30)
    assert systemd.heard() == ["READY=1", "STOPPING=1"]


async def test_a_failing_task_does_not_end_the_pings(systemd: Systemd) -> None:
    """A restart does not help."""
    volumes = Volumes()
    volumes.error = ValueError()
    service = service_of(volumes)
    tell_systemd(service, Notifier(systemd.path, 20.0))
    async with service:
        await asyncio.sleep(130)
        systemd.heard()
        await asyncio.sleep(30)
        assert systemd.heard().count("WATCHDOG=1") >= 2


async def test_a_critical_task_that_is_stuck_ends_the_pings(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systemd then restarts the process."""

    class Stuck(Manager):
        @periodic_task(spacing=10, run_immediately=True)
        async def load(self, context: RunContext) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(insight, "promise_of", lambda options: (True, 30_000_000))
    service = service_of(Stuck())
    tell_systemd(service, Notifier(systemd.path, 20.0))
    async with service:
        await asyncio.sleep(55)
        assert "WATCHDOG=1" in systemd.heard()
        await asyncio.sleep(10)
        systemd.heard()
        await asyncio.sleep(60)
        assert systemd.heard() == []
        await service.stop(timeout=0)


async def test_systemd_that_does_not_listen_harms_nothing(tmp_path: Path) -> None:
    """It is logged once."""
    service = service_of(Volumes())
    tell_systemd(service, Notifier(str(tmp_path / "nobody"), 10.0))
    async with service:
        await asyncio.sleep(30)
        assert service.health.ok


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({"NOTIFY_SOCKET": "/run/x"}, None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "no"}, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "0"}, None),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], watchdog: float | None) -> None:
    """A child process that inherits it is not meant."""
    notifier = find_notifier(environ)
    assert notifier is not None
    assert notifier.watchdog == watchdog


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:3"}])
def test_without_a_socket_nothing_is_told(environ: dict[str, str]) -> None:
    """Not under systemd, or a kind of socket that this does not speak."""
    assert find_notifier(environ) is None


async def test_a_socket_in_the_abstract_namespace() -> None:
    """As containers have it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"asyncmgr-test-{os.getpid()}"
        try:
            heard.bind(f"\0{name}")
        except OSError:
            pytest.skip("this system has no abstract sockets")
        Notifier(f"@{name}", None).send("READY=1")
        assert heard.recv(100) == b"READY=1"
