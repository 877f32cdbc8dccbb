"""Which calls begin, on a host that stood still, is full, calls itself or gets more than it can read."""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from asyncmgr import Manager, RemoteError, RpcClient, RpcError, RpcTimeout, Service, ServiceBusy, rpc
from asyncmgr._rpc import admission
from asyncmgr._rpc import server as serving
from asyncmgr._rpc.messages import (
    THROUGH_LIMIT,
    decode_request,
    subject_of_all,
    subject_of_any,
    subject_of_host,
)
from asyncmgr.testing._virtual import VirtualTimeLoop
from asyncmgr.transports import Message
from tests.lives import turns
from tests.test_rpc import Site, Volumes, now, other, serve

pytestmark = pytest.mark.virtual_time


def stand_still(seconds: float) -> None:
    """As a process that is stopped, or one whose loop is blocked: time passes and nothing happens."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._advance(round(seconds * 1_000_000))


def request(call_id: str, method: str = "echo", **fields: Any) -> bytes:
    return json.dumps({"v": 1, "id": call_id, "method": method, **fields}).encode()


def deliver(site: Site, data: bytes, subject: str = subject_of_any("volumes"), **fields: Any) -> None:
    site.transport._fabric.deliver(Message(subject, data, **fields))


def answer_by(monkeypatch: pytest.MonkeyPatch, site: Site, send: Callable[..., Any]) -> None:
    """Have the service's replies go to `send`, which gets the subject and the data."""
    for way in ("publish", "reply"):
        monkeypatch.setattr(site.service.transport, way, send, raising=False)


# Time that is over


async def test_a_caller_whose_timeout_passes_withdraws_its_call() -> None:
    """As one that is cancelled does: nobody needs the answer."""
    async with (
        other() as transport,
        transport.subscribe(subject_of_any("s")) as requests,
        transport.subscribe(subject_of_all("s")) as withdrawals,
    ):
        with pytest.raises(RpcTimeout):
            await RpcClient(transport, "s", timeout=1).call("m")
        asked = decode_request((await anext(requests)).data)
        withdrawn = decode_request((await anext(withdrawals)).data)
        assert withdrawn.id == asked.id


async def test_calls_that_were_given_up_while_the_service_stood_still_never_begin() -> None:
    """Their time counts from when they reached the process, and not from when it came to read them."""
    async with serve() as site, site.transport.subscribe("replies") as replies:
        for number in range(3):
            deliver(site, request(f"r{number}", timeout=1), reply_to="replies")
        stand_still(5)
        for _ in range(3):
            answer = json.loads((await anext(replies)).data)
            assert answer["error"]["kind"] == "timeout"
        assert site.manager.began == []
        assert await site.client.call("echo", value="later") == "later"


async def test_a_transport_may_know_that_a_message_came_earlier() -> None:
    """Its stamp counts, so long as it is not of the future."""
    async with serve() as site:
        deliver(site, request("old", timeout=1), arrived=now() - 2)
        deliver(site, request("young", timeout=1, arguments={"value": "young"}), arrived=now() - 0.5)
        deliver(site, request("odd", timeout=1, arguments={"value": "odd"}), arrived=now() + 1e9)
        await turns(10)
        assert site.manager.began == ["young", "odd"]


async def test_a_call_whose_time_passes_between_its_start_and_its_first_step_never_begins() -> None:
    """Where something else blocks the loop just then."""
    async with serve() as site:
        server = site.service._presence.server
        assert server is not None
        message = Message(subject_of_any("volumes"), request("a", timeout=1))
        asked = decode_request(message.data)
        server._admit(asked, message)  # type: ignore[arg-type]
        stand_still(2)
        await turns(5)
        assert site.manager.began == []
        assert not server.waiting


@pytest.mark.parametrize("subject", [subject_of_any("volumes"), subject_of_host("volumes", "n1")])
async def test_withdrawals_count_before_requests_that_are_still_to_be_read(subject: str) -> None:
    """However many there are, and though they came later: all of them were read from the socket at one time."""
    async with serve() as site:
        where = subject_of_all("volumes") if subject.endswith("any") else subject
        for number in range(500):
            deliver(site, request(f"r{number}"), subject)
        for number in range(500):
            deliver(site, b'{"v":1,"withdraw":"r%d"}' % number, where)
        await turns(30)
        assert site.manager.began == []


async def test_a_call_that_waits_is_answered_when_its_time_is_over() -> None:
    """It leaves its place in the queue then, and not when a place gets free."""
    async with serve(rpc_concurrency=1) as site, site.transport.subscribe("replies") as replies:
        deliver(site, request("first", "pass_gate"))
        deliver(site, request("second", "pass_gate", timeout=2), reply_to="replies")
        answer = json.loads((await anext(replies)).data)
        assert (answer["error"]["kind"], round(now())) == ("timeout", 2)
        await turns(2)
        assert site.service._presence.server is not None
        assert len(site.service._presence.server.waiting) == 1
        site.manager.gate.set()
        await turns(5)
        assert site.manager.began == [0]


# Calls of a service to itself


class Nesting(Manager):
    """Calls its own service, so often as it is told."""

    service_name = "nesting"

    def __init__(self) -> None:
        super().__init__()
        self.deepest = 0

    @rpc
    async def nest(self, levels: int) -> int:
        if not levels:
            await asyncio.sleep(1)
            return 0
        return 1 + await self.client.call("nest", into=int, levels=levels - 1)

    @rpc
    async def nest_by_way(self) -> Any:
        assert self.service is not None
        return await RpcClient(self.service.transport, "between").call("ask")

    @rpc
    async def spread(self) -> None:
        await self.client.cast("hold")

    @rpc
    async def hold(self) -> None:
        await asyncio.sleep(50)

    @property
    def client(self) -> RpcClient:
        assert self.service is not None
        return RpcClient(self.service.transport, "nesting")


class Between(Manager):
    """Calls the service that calls it."""

    service_name = "between"

    @rpc
    async def ask(self) -> Any:
        assert self.service is not None
        return await RpcClient(self.service.transport, "nesting").call("nest", levels=0)


async def test_calls_that_call_their_own_service_do_not_wait_for_one_another() -> None:
    """64 of them hold all places; what they wait for needs none, at any depth."""
    async with serve("n1", Nesting()) as site:
        assert site.service.name == "nesting"
        client = RpcClient(site.transport, "nesting")
        assert await asyncio.gather(*(client.call("nest", levels=3) for _ in range(64))) == [3] * 64
        assert now() == pytest.approx(1, abs=0.1)


async def test_calls_that_come_back_by_way_of_another_service() -> None:
    """That is the same circle, only longer."""
    async with (
        serve("n1", Nesting(), rpc_concurrency=2) as site,
        Service(Between(), host="n2", transport="memory://rpc"),
    ):
        client = RpcClient(site.transport, "nesting")
        assert await asyncio.gather(*(client.call("nest_by_way") for _ in range(2))) == [0, 0]


async def test_only_calls_that_somebody_waits_for_need_no_place() -> None:
    """A cast of a service to itself is as any other."""
    async with serve("n1", Nesting(), rpc_concurrency=2) as site:
        client = RpcClient(site.transport, "nesting")
        for _ in range(5):
            await client.call("spread")
        assert site.service._presence.server is not None
        assert len([call for call in site.service._presence.server.waiting if call.future is not None]) == 2


async def test_a_service_that_calls_itself_without_end_is_refused() -> None:
    """By the depth of the way, and by the number of calls without a place."""
    async with serve("n1", Nesting()) as site:
        client = RpcClient(site.transport, "nesting")
        with pytest.raises(RemoteError, match=r"calls wait for it already; do not nest so deep"):
            await client.call("nest", levels=THROUGH_LIMIT + 5)


async def test_calls_without_a_place_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says that it is within a call is believed only so often."""
    monkeypatch.setattr(admission, "NESTED_LIMIT", 3)
    async with serve(rpc_concurrency=1) as site, site.transport.subscribe("replies") as replies:
        for number in range(4):
            data = request(f"r{number}", "sleep", arguments={"seconds": 5}, through=["volumes"])
            deliver(site, data, reply_to="replies")
        answer = json.loads((await anext(replies)).data)
        assert answer["error"] == {"kind": "busy", "text": "n1 makes 3 calls of itself already; try later"}
        await asyncio.sleep(6)
        deliver(site, request("again", through=["volumes"]), reply_to="replies")
        assert [json.loads((await anext(replies)).data).get("result") for _ in range(4)] == [5.0] * 3 + [None]


# More than can be read


async def test_each_of_a_burst_of_requests_gets_one_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result or a refusal, never nothing and never two."""
    async with serve() as site:
        answers: collections.Counter[str] = collections.Counter()
        kinds: collections.Counter[str] = collections.Counter()

        async def publish(subject: str, data: bytes, **_: Any) -> None:
            answers[subject] += 1
            kinds["result" if b'"result"' in data else json.loads(data)["error"]["kind"]] += 1

        answer_by(monkeypatch, site, publish)
        for number in range(40_000):
            deliver(site, request(f"r{number}"), reply_to=f"replies.{number}")
        await asyncio.sleep(1)
        assert set(answers.values()) == {1}
        assert kinds["result"] == len(site.manager.began) >= 1024
        assert kinds["busy"] == 40_000 - kinds["result"]


async def test_replies_never_go_to_the_servers_own_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    """There they might be taken for orders."""
    async with serve() as site, site.transport.subscribe("replies") as replies:
        sent: list[str] = []

        async def publish(subject: str, data: bytes, **_: Any) -> None:
            sent.append(subject)

        answer_by(monkeypatch, site, publish)
        for subject in ("$JS.API.STREAM.DELETE.orders", "$SYS.x", "_INBOX.a+b", "user@corp", "replies"):
            deliver(site, request("a"), reply_to=subject)
            deliver(site, b"x", reply_to=subject)
        await turns(20)
        assert sorted(sent) == ["_INBOX.a+b"] * 2 + ["replies"] * 2 + ["user@corp"] * 2
        assert len(site.manager.began) == 5
        assert not replies._pending


# What is left afterwards


@contextmanager
def kept(most: int) -> Iterator[None]:
    """At most so many bytes more may be there at the end, without any help of the garbage collector."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < most


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("echo", {}, None),
        ("fail", {}, RpcError),
        ("ecko", {}, RpcError),
        ("sleep", {"seconds": 60}, RpcTimeout),
    ],
)
async def test_calls_that_have_ended_keep_nothing(
    method: str, arguments: dict[str, Any], error: type[Exception] | None
) -> None:
    """Neither their arguments nor their results, on either side, however they ended."""

    class Taking(Volumes):
        @rpc
        async def take(self, how: str, ballast: str, arguments: dict[str, Any]) -> Any:
            found = getattr(self, how, None)
            if found is None:
                raise LookupError(ballast)
            return [await found(**arguments), ballast if how == "echo" else None]

    async with other() as transport, Service(Taking(), host="n1", transport=transport, name="taking"):
        client = RpcClient(transport, "taking", timeout=5)

        async def once() -> None:
            ballast = "x" * 300_000
            if error is None:
                await client.call("take", how=method, ballast=ballast, arguments=arguments)
                return
            with pytest.raises(error):
                await client.call("take", how=method, ballast=ballast, arguments=arguments)

        with structlog.testing.capture_logs():
            await once()
            with kept(3_000_000):
                for _ in range(60):
                    await once()


# The log


async def test_a_method_that_fails_again_and_again_does_not_fill_the_log() -> None:
    """The first failure of a kind is told with its traceback, then the second, fourth and so on without."""
    with structlog.testing.capture_logs() as logs:
        async with serve() as site:
            for what in ("invalid", "base"):
                for _ in range(100):
                    with pytest.raises(RemoteError):
                        await site.client.call("raises", what=what)
            with pytest.raises(RemoteError):
                await site.client.call("fail")
    told = [log for log in logs if log["event"] == "call.failed"]
    assert [log["count"] for log in told] == [1, 2, 4, 8, 16, 32, 64] * 2 + [1]
    assert [log["count"] for log in told if "exc_info" in log] == [1, 1, 1]


async def test_calls_that_time_out_again_and_again_do_not_fill_the_log() -> None:
    """Each method by itself."""
    with structlog.testing.capture_logs() as logs:
        async with serve() as site:
            for number in range(20):
                method = "sleep" if number % 2 else "pass_gate"
                deliver(
                    site,
                    request(f"r{number}", method, timeout=1, arguments={"seconds": 9} if number % 2 else {}),
                )
            await asyncio.sleep(5)
    told = [(log["method"], log["count"]) for log in logs if log["event"] == "call.timed_out"]
    assert sorted(told) == [
        (f"Volumes.{name}", count) for name in ("pass_gate", "sleep") for count in (1, 2, 4, 8)
    ]


async def test_texts_of_others_reach_the_log_short_and_without_escapes() -> None:
    """Whoever reads them at a terminal, or line by line, gets what was sent as text."""

    class Loud(Manager):
        @rpc
        async def shout(self) -> None:
            raise ValueError("\x1b[2J" + "x" * 900_000)

    evil = "\x1b]0;owned\x07\n"
    with structlog.testing.capture_logs() as logs:
        async with serve("n1", Loud()) as site:
            caller = {"service": evil * 10, "host": evil}
            deliver(site, request(evil, "shout", caller=caller))
            deliver(site, request(evil, evil, caller=caller))
            deliver(site, request(evil, "sleep", caller=caller, timeout=1, arguments={"seconds": 9}))
            deliver(site, b'{"v":1,"id":"' + b"x" * 500_000 + b'"}')
            deliver(site, b'{"v":1,"id":"a","method":{"\x1b":1}}')
            await asyncio.sleep(3)
            with pytest.raises(RemoteError) as raised:
                await site.client.call("shout")
    assert (raised.value.text[:8], len(str(raised.value)) < 5000) == ("\\x1b[2Jx", True)
    events = [log for log in logs if log["event"].startswith(("call.", "cast.", "request."))]
    assert {log["event"] for log in events} == {
        "call.failed",
        "cast.refused",
        "call.timed_out",
        "request.malformed",
    }
    for log in events:
        for value in log.values():
            assert not isinstance(value, str) or (value.isprintable() and len(value) < 600), log


async def test_a_busy_host_says_so_before_it_validates() -> None:
    """What is refused must cost little."""
    async with serve(rpc_concurrency=1) as site:
        server = site.service._presence.server
        assert server is not None
        server._admission._waiting = dict.fromkeys(range(admission.WAITING_LIMIT))  # type: ignore[arg-type]
        server._admission._free = 0
        with pytest.raises(ServiceBusy):
            await site.client.call("sleep", seconds="not a number")
        server._admission._waiting = {}
        server._admission._free = 1
        assert serving._AT_ONCE < serving._REFUSED_AT_ONCE
