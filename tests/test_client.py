"""Clients: results as models, and hosts of another version."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, Field

from asyncmgr import (
    Manager,
    RpcClient,
    RpcError,
    RpcTimeout,
    Service,
    Settings,
    UnsupportedVersion,
    rpc,
)
from asyncmgr._rpc.elsewhere import REMEMBERED
from asyncmgr._rpc.messages import subject_of_all, subject_of_any
from tests.test_rpc import now, other

pytestmark = pytest.mark.virtual_time


class Volume(BaseModel):
    name: str
    size: int = Field(alias="gib")


class Old(Manager):
    """What is served before an upgrade."""

    name = "Volumes"
    service_name = "volumes"
    RPC_API_VERSION = "1.0"

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    @rpc
    async def make(self, name: str) -> Volume:
        self.asked += 1
        return Volume(name=name, gib=7)

    @rpc
    async def names(self) -> list[str]:
        return ["a", "b"]


class New(Old):
    """What is served after it."""

    RPC_API_VERSION = "1.1"

    @rpc
    async def grow(self, name: str) -> str:
        self.asked += 1
        return name


@asynccontextmanager
async def hosts(**managers: Manager) -> Any:
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(other())
        for host, manager in managers.items():
            service = Service(manager, host=host, transport="memory://rpc", settings=Settings(seed=1))
            await stack.enter_async_context(service)
        yield RpcClient(transport, "volumes")


# Results


async def test_a_result_as_a_model() -> None:
    """By alias, as it travels; any type hint will do."""
    async with hosts(n1=Old()) as client:
        assert await client.call("make", name="v") == {"name": "v", "gib": 7}
        made = await client.call("make", into=Volume, name="v")
        assert made == Volume(name="v", gib=7)
        assert await client.call("names", into=tuple[str, ...]) == ("a", "b")
        assert await client.call("names", into=list[str] | None) == ["a", "b"]


async def test_a_result_that_is_not_what_the_caller_says() -> None:
    """An error of its own, with the method, the path and what was expected."""
    async with hosts(n1=Old()) as client:
        with pytest.raises(
            RpcError, match=r"volumes: names\(\): the result is not what into= says: '1'"
        ) as raised:
            await client.call("names", into=tuple[str, int])
        assert type(raised.value) is RpcError


async def test_an_argument_may_be_called_into_too() -> None:
    """No JSON value is a type, and no type is one."""

    class Odd(Manager):
        service_name = "volumes"

        @rpc
        async def take(self, into: Any) -> Any:
            return into

    async with hosts(n1=Odd()) as client:
        for value in ("list[int]", 7, None, [1], {"a": 1}):
            assert await client.call("take", into=value) == value


# Hosts of another version


async def test_a_call_that_meets_an_older_host_goes_to_a_newer_one() -> None:
    """While a service is upgraded, whoever needs what is new gets it from those that have it."""
    old, new = Old(), New()
    async with hosts(n1=old, n2=new) as client:
        for number in range(10):
            assert await client.at(version="1.1").call("grow", name=str(number)) == str(number)
            assert await client.call("make", into=Volume, name="v")
        assert new.asked >= 10


async def test_a_call_that_no_host_serves_is_refused_as_before() -> None:
    """With the versions that there are; so is one to a certain host, which goes nowhere else."""
    async with hosts(n1=Old(), n2=Old()) as client:
        with pytest.raises(UnsupportedVersion) as raised:
            await client.at(version="1.1").call("grow", name="x")
        assert raised.value.offered == ("1.0",)
    async with hosts(n1=Old(), n2=New()) as client:
        with pytest.raises(UnsupportedVersion):
            await client.at(version="1.1", host="n1").call("names")


async def test_hosts_are_asked_once_for_many_calls() -> None:
    """Not for each call that meets an older one; again when the answers are old."""
    async with (
        hosts(n1=Old(), n2=New()) as client,
        client._transport.subscribe(subject_of_all("volumes")) as asked,
    ):
        newer = client.at(version="1.1")
        for _ in range(10):
            assert await newer.call("grow", name="x")
        assert len(asked._pending) == 1
        await asyncio.sleep(REMEMBERED)
        for _ in range(2):
            assert await newer.call("grow", name="x")
        assert len(asked._pending) == 2


async def test_looking_for_another_host_ends_with_the_deadline() -> None:
    """All of it together takes no longer than the caller said."""
    async with other() as transport, transport.subscribe(subject_of_any("s")) as requests:

        async def answer() -> None:
            error = {"kind": "unsupported_version", "text": "too old", "offered": ["1.0"]}
            request = await anext(requests)
            assert request.reply_to is not None
            await transport.publish(request.reply_to, json.dumps({"v": 1, "error": error}).encode())

        answering = asyncio.create_task(answer())
        with pytest.raises(UnsupportedVersion):
            await RpcClient(transport, "s", timeout=0.1).call("m")
        assert now() <= 0.1
        await answering


async def test_which_versions_the_hosts_offer() -> None:
    """Asked of them, and not guessed from the client's own version."""
    async with hosts(n1=Old(), n2=New()) as client:
        assert await client.offered() == {"n1": ("1.0",), "n2": ("1.1",)}
        assert await client.at(namespace="x").offered() == {"n1": (), "n2": ()}
        assert (client.covers("1.0"), client.covers("1.1")) == (True, False)


async def test_answers_that_describe_nothing_are_left_out() -> None:
    """Whatever comes to the inbox."""
    async with other() as transport, transport.subscribe(subject_of_all("s")) as requests:
        asking = asyncio.create_task(RpcClient(transport, "s").offered())
        inbox = (await anext(requests)).reply_to
        assert inbox is not None
        info = {"host": "n1", "managers": [{"namespace": None, "version": "1.5", "methods": [{"name": "m"}]}]}
        for wrong in (
            {},
            {"host": "a", "managers": [{}]},
            {"host": "b", "managers": [{**info, "version": "x"}]},
            7,
        ):
            await transport.publish(inbox, json.dumps({"v": 1, "result": wrong}).encode())
        await transport.publish(inbox, b"\xff")
        await transport.publish(inbox, json.dumps({"v": 1, "result": info}).encode())
        assert await asking == {"n1": ("1.5",)}


async def test_a_timeout_is_told_in_seconds() -> None:
    """With what was called."""
    async with other() as transport, transport.subscribe(subject_of_any("s")):
        with pytest.raises(RpcTimeout, match=r"s: m\(\): no answer within 0.5 s"):
            await RpcClient(transport, "s", timeout=0.5).call("m")
