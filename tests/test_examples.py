"""Every example is executed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from examples import device_poller, host_agent, minimal, placement, web_app

from asyncmgr import Hosts, RemoteError, RpcClient, Service
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


def sized(memory_free_mib: int) -> Callable[[], host_agent.Capabilities]:
    """Measure as a host with this memory would."""
    measured = host_agent.measure()
    return lambda: measured.model_copy(update={"memory_free_mib": memory_free_mib})


async def test_placement_picks_the_host_with_the_most_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reserved on one host makes another the next choice; none is left in the end."""
    url = "memory://placement"
    async with contextlib.AsyncExitStack() as stack:
        for host, memory in (("small", 1000), ("large", 1500)):
            monkeypatch.setattr(host_agent, "measure", sized(memory))
            agent = host_agent.HostAgent()
            await stack.enter_async_context(Service(agent, host=host, transport=url))
            monkeypatch.setattr(agent, "measure", functools.partial(remeasure, agent, memory))
        service = Service(placement.Placement(), transport=url)
        await stack.enter_async_context(service)
        hosts = await stack.enter_async_context(Hosts(service.transport, service="compute"))
        client = RpcClient(service.transport, "placement")

        async def pick(memory_mib: int) -> Any:
            changes = hosts.changes()
            picked = await client.call("pick", memory_mib=memory_mib)
            await anext(changes)  # what is reserved is known
            return picked

        assert await pick(800) == {"host": "large", "memory_free_mib": 700}
        assert await pick(600) == {"host": "small", "memory_free_mib": 400}
        assert await pick(600) == {"host": "large", "memory_free_mib": 100}
        with pytest.raises(RemoteError, match="no host has 600 MiB of free memory"):
            await client.call("pick", memory_mib=600)
        with pytest.raises(RemoteError, match="600 MiB are wanted, 400 MiB are free"):
            await RpcClient(service.transport, "compute").at(host="small").call("reserve", memory_mib=600)


async def remeasure(agent: host_agent.HostAgent, memory: int, context: Any) -> None:
    """Stand in for the agent's own measuring."""
    agent.measured = sized(memory - agent.reserved_mib)()
    agent.update_service_capabilities(agent.measured)


@pytest.mark.virtual_time
async def test_placement_counts_hosts() -> None:
    """Every twenty seconds the placement service says how many hosts there are."""
    with structlog.testing.capture_logs() as logs:
        await run_for(Service(placement.Placement()), seconds=61)
    assert [line["hosts"] for line in logs if line["event"] == "hosts.counted"] == [0, 0, 0]


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


async def test_device_poller_asks_every_device() -> None:
    """All 500 sockets are polled, and go on being polled."""
    async with device_poller.devices(500) as ports:
        thermometers = device_poller.Thermometers(ports)
        async with Service(thermometers) as service, asyncio.timeout(60):  # a busy machine
            for _ in range(2):
                thermometers.degrees.clear()
                while len(thermometers.degrees) < 500:  # noqa: ASYNC110 - real sockets, which nobody waits for
                    await asyncio.sleep(0.01)
            found = service.history(thermometers.poll, key=ports[7])
            assert len({record.slot for record in found}) == len(found) >= 2
            assert str(service.explain(thermometers.poll, key=ports[7])).startswith("Thermometers.poll[")
