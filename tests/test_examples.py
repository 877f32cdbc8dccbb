"""Every example is executed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples import host_agent, minimal, web_app

from asyncmgr import Hosts, Service
from asyncmgr.testing import VirtualTime, run_for

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.virtual_time
async def test_minimal(capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest service syncs each two seconds."""
    await run_for(Service(minimal.Volumes()), seconds=61)
    assert capsys.readouterr().out.count("sync,") == 31


async def test_host_agent_measures_this_host() -> None:
    """The agent publishes what this machine really has, and its watcher sees it."""
    service = Service(host_agent.HostAgent(), host_agent.Watch(), transport="memory://examples", host="here")
    async with service, Hosts("memory://examples", service="compute") as hosts:
        (state,) = hosts.snapshot()
    assert state.host == "here"
    assert state.capabilities["memory_total_mib"] > 100
    assert state.capabilities["cpus"] >= 1
    assert state.capabilities["disks"] or state.capabilities["addresses"]


async def test_host_agent_lives_through_a_day(
    virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day of the agent's service passes in virtual time: 4,320 measurements, hosts watched all along."""
    measured = host_agent.measure()
    count = 0

    async def measure(function: Any) -> host_agent.Capabilities:
        nonlocal count
        count += 1
        return measured.model_copy(update={"load": float(count % 7)})

    # A thread is waited for in real time, which a simulated day has none of.
    monkeypatch.setattr(asyncio, "to_thread", measure)
    await virtual_time.run_for(Service(host_agent.HostAgent(), host_agent.Watch()), hours=24)
    assert count in (4_320, 4_321)


async def test_web_app_serves_while_its_tasks_run() -> None:
    """The service lives as long as the application."""
    async with web_app.lifespan(web_app.app):
        service = web_app.app.state.service
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(web_app.app), base_url="http://app"
        ) as client:
            (task,) = (await client.get("/tasks")).json()
            assert task["task"] == "Cache.refresh"
            assert (await client.get("/health")).json()["ok"]
    assert service.state == "stopped"


def test_frozen_clock_example_passes() -> None:
    """The example of a user's own tests is green under pytest."""
    file = EXAMPLES / "test_frozen_clock.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "asyncmgr.testing.plugin", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES.parent)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
