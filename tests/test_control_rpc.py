"""The interface ``asyncmgr`` 1.2 over a transport: reading always, verbs where the service allows them (11)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from asyncmgr import Manager, RemoteError, RpcClient, RunContext, Service, Settings, periodic_task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


class Volumes(Manager):
    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        await asyncio.sleep(3)


def service_of(**settings: Any) -> Service:
    return Service(Volumes(), host="nyx", settings=Settings(seed=1, **settings))


def client_of(service: Service) -> RpcClient:
    return RpcClient(service.transport, "volumes", namespace="asyncmgr", version="1.2")


async def test_reading_is_always_on() -> None:
    """The status of all tasks or of one."""
    async with service_of() as service:
        client = client_of(service)
        answer = await client.call("status")
        assert [told["task"] for told in answer["tasks"]] == ["Volumes.sync"]
        assert (answer["service"], answer["host"], answer["next"]) == ("volumes", "nyx", None)
        assert (await client.call("status", task="sync"))["tasks"][0]["state"] == "new"


@pytest.mark.parametrize("verb", ["trigger", "pause", "resume", "reschedule", "enable", "disable", "cancel"])
async def test_verbs_are_off_unless_the_service_takes_them(verb: str) -> None:
    """The error says which setting opens them, and nothing was done."""
    async with service_of() as service:
        with pytest.raises(RemoteError, match="set rpc_control = true there") as raised:
            await client_of(service).call(verb, task="Volumes.sync")
        assert raised.value.type == "NotAllowed"
        assert service.journal.actions() == []


async def test_the_verbs_over_calls() -> None:
    """Each does what its handle does; the name that the caller gives is noted as its word."""
    async with service_of(rpc_control=True) as service:
        client = client_of(service)
        ran = await client.call("trigger", task="sync", wait=True, by="ops")
        assert ran["run"]["outcome"] == "succeeded"
        paused = await client.call("pause", task="sync", note="moves", by="ops")
        assert paused["task"]["paused"]["until"] == "2026-01-01T01:00:03+00:00"
        assert paused["task"]["paused"]["by"].startswith("said to be ops on ")
        assert (await client.call("pause", task="sync", seconds=60))["task"]["paused"]["by"].startswith(
            "said to be "
        )
        assert (await client.call("resume", task="sync", by="ops"))["changed"] is True
        assert (await client.call("reschedule", task="sync", spacing=20))["task"]["schedule"] == "every 20s"
        assert "said to be ops" in (await client.call("disable", task="sync", by="ops"))["task"]["off"]
        assert (await client.call("enable", task="sync"))["changed"] is True
        begun = await client.call("trigger", task="sync")
        assert (await client.call("cancel", task="sync"))["run_ids"] == [begun["run_id"]]
        with pytest.raises(RemoteError, match="has no task 'nope'"):
            await client.call("pause", task="nope")
        assert {action.via for action in service.journal.actions()} == {"rpc"}


@pytest.mark.parametrize(
    ("allowed", "verb", "arguments", "level"),
    [
        (True, "pause", {"task": "nope"}, "info"),
        (True, "pause", {"task": "sync", "seconds": 1, "ever": True}, "info"),
        (True, "trigger", {"task": "sync"}, "info"),
        (False, "status", {"task": "nope"}, "info"),
        (False, "pause", {"task": "sync"}, "warning"),
    ],
)
async def test_a_refusal_is_no_failure_of_the_service(
    allowed: bool, verb: str, arguments: dict[str, Any], level: str
) -> None:
    """It is the caller's error: told without a traceback, at the 1st, 2nd, 4th ..., and counted as refused."""
    service = service_of(rpc_control=allowed)
    codes: list[str] = []
    service._insight.with_server(
        lambda server: setattr(server, "observe", lambda _, code, took: codes.append(code))
    )
    with structlog.testing.capture_logs() as logs:
        async with service:
            if verb == "trigger":
                await service.task("Volumes.sync").trigger(wait=False)
            for _ in range(3):
                with pytest.raises(RemoteError):
                    await client_of(service).call(verb, **arguments)
    assert codes == ["refused"] * 3
    assert not [line for line in logs if line["log_level"] in ("error", "critical")]
    told = [line for line in logs if line["event"] == "call.refused"]
    assert [(line["log_level"], line["count"], "exc_info" in line) for line in told] == [
        (level, 1, False),
        (level, 2, False),
    ]


async def test_old_callers_are_still_served() -> None:
    """`ping` and `info` of version 1.0."""
    async with service_of() as service:
        client = RpcClient(service.transport, "volumes", namespace="asyncmgr", version="1.0")
        assert await client.call("ping") == {"service": "volumes", "host": "nyx"}
