"""Another language's program, played by a bare NATS client that knows nothing but the wire format's page."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import nats
import pytest

from asyncmgr import (
    Hosts,
    Manager,
    NoSuchMethod,
    RpcClient,
    RpcTimeout,
    SchedulerDependentManager,
    Service,
    Settings,
    open_transport,
    rpc,
)
from asyncmgr.testing.nats import NatsServer
from tests.nats_servers import eventually


class Agent(SchedulerDependentManager):
    """Adds, and has memory."""

    service_name = "interop"

    async def init_host(self) -> None:
        self.update_service_capabilities({"memory": 1024})

    @rpc
    async def add(self, a: int, b: int) -> int:
        return a + b


def message(**fields: Any) -> bytes:
    return json.dumps({"v": 1, **fields}).encode()


async def test_a_foreign_program_calls_a_service(nats_server: NatsServer) -> None:
    """Any instance, one host, and with what is wrong."""
    other = await nats.connect(nats_server.url)
    async with Service(Agent(), host="n 1", transport=nats_server.url, settings=Settings(seed=1)):

        async def ask(where: str, **fields: Any) -> Any:
            answer = await other.request(f"asyncmgr.rpc.interop.{where}", message(**fields), timeout=5)
            return json.loads(answer.data)

        request: dict[str, Any] = {"id": "1", "method": "add", "arguments": {"a": 1, "b": 2}}
        for where in ("any", "host.n=201", "all"):
            assert await ask(where, **request) == {"v": 1, "result": 3}
        wrong = await ask("any", **request | {"version": "2.0"})
        assert (wrong["error"]["kind"], wrong["error"]["offered"]) == ("unsupported_version", ["1.0"])
        pong = await ask("any", id="2", method="ping", namespace="asyncmgr")
        assert pong["result"] == {"service": "interop", "host": "n 1"}
    await other.close()


async def test_a_foreign_program_serves_calls(nats_server: NatsServer) -> None:
    """Results and errors reach the caller as from a service."""
    other = await nats.connect(nats_server.url)

    async def serve(request: Any) -> None:
        fields = json.loads(request.data)
        if fields["method"] == "double":
            await request.respond(message(result=2 * fields["arguments"]["value"]))
        else:
            await request.respond(message(error={"kind": "no_such_method", "text": "there is none"}))

    await other.subscribe("asyncmgr.rpc.foreign.any", "servers", serve)
    await other.flush()
    async with open_transport(nats_server.url) as transport:
        client = RpcClient(transport, "foreign")
        assert await client.call("double", value=21) == 42
        with pytest.raises(NoSuchMethod, match=r"^there is none$"):
            await client.call("halve", value=21)
    await other.close()


async def test_a_foreign_program_announces_and_watches_hosts(nats_server: NatsServer) -> None:
    """By the key-value bucket of NATS' own clients."""
    other = await nats.connect(nats_server.url)
    async with (
        Service(Agent(), host="n1", transport=nats_server.url, settings=Settings(seed=1)),
        open_transport(nats_server.url) as transport,
        Hosts(transport, service="interop") as hosts,
    ):
        bucket = await other.jetstream().key_value("asyncmgr-capabilities")
        entry = await bucket.get("interop.n1")
        assert entry.value is not None
        told = json.loads(entry.value)
        assert told["nodes"] == [{"node": "", "capabilities": {"memory": 1024}}]
        assert (told["service"], told["host"], told["ttl"]) == ("interop", "n1", 60.0)
        nodes = [{"node": "a", "capabilities": {"memory": 2048}}]
        foreign = message(service="interop", host="go-1", incarnation=1, sequence=1, ttl=30, nodes=nodes)
        await bucket.put("interop.go-1", foreign)
        await eventually(lambda: "go-1" in {state.host for state in hosts.snapshot()})
        (chosen,) = hosts.select(weighers=[lambda state: state.capabilities["memory"]], count=1)
        assert (chosen.host, chosen.node) == ("go-1", "a")
        await bucket.delete("interop.go-1")
        await eventually(lambda: "go-1" not in {state.host for state in hosts.snapshot()})
    await other.close()


async def test_calls_that_were_given_up_while_the_service_stood_still_never_begin(
    nats_server: NatsServer,
) -> None:
    """They and their withdrawals wait in its socket; whoever calls later is served."""
    begun: list[int] = []
    still, goes_on, over = threading.Event(), threading.Event(), threading.Event()

    class Standing(Manager):
        @rpc
        async def note(self, number: int) -> int:
            begun.append(number)
            return number

    async def serve() -> None:
        async with Service(Standing(), host="n1", transport=nats_server.url, settings=Settings(seed=1)):
            still.set()
            goes_on.wait(30)  # in the event loop, on purpose
            await asyncio.to_thread(over.wait, 30)

    serving = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    await asyncio.to_thread(still.wait, 30)
    try:
        async with open_transport(nats_server.url) as transport:
            client = RpcClient(transport, "standing", timeout=0.2)
            calls = [client.call("note", number=number) for number in range(3)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [RpcTimeout] * 3
            await transport.publish("asyncmgr.flushed", b"")
            async with transport.subscribe("asyncmgr.flushed"):  # the server has the withdrawals by now
                goes_on.set()
            assert await client.at(timeout=20).call("note", number=9) == 9
            assert begun == [9]
    finally:
        goes_on.set()
        over.set()
        await serving
