"""Calling methods of other services: what callers get, what a host limits, and how calls end."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
import structlog
from pydantic import BaseModel, BeforeValidator

from asyncmgr import (
    Caller,
    InvalidArguments,
    InvalidName,
    InvalidRpcMethod,
    Manager,
    MessageTooLarge,
    NoResponders,
    NoSuchMethod,
    RemoteError,
    RpcClient,
    RpcError,
    RpcTimeout,
    RunContext,
    Service,
    ServiceBusy,
    Settings,
    Transport,
    TransportClosed,
    TransportError,
    UnsupportedVersion,
    current_call,
    open_transport,
    periodic_task,
    rpc,
)
from asyncmgr._rpc import admission
from asyncmgr._rpc import server as serving
from asyncmgr._rpc.messages import (
    decode_request,
    encode_result,
    subject_of_all,
    subject_of_any,
    subject_of_host,
)
from asyncmgr.transports import Message
from asyncmgr.transports._memory import MemoryTransport
from tests.helpers import log_processors
from tests.lives import hang, turns

pytestmark = pytest.mark.virtual_time


class Volume(BaseModel):
    name: str
    gib: int
    made: datetime


class Volumes(Manager):
    """Does what tests need, and notes what it did."""

    RPC_API_VERSION = "1.3"

    def __init__(self) -> None:
        super().__init__()
        self.began: list[Any] = []
        self.cancelled: list[Any] = []
        self.gate = asyncio.Event()

    @rpc
    async def create(self, name: str, gib: int = 1, *, at: datetime | None = None) -> Volume:
        return Volume(name=name, gib=gib, made=at or datetime(2026, 1, 1, tzinfo=UTC))

    @rpc
    async def echo(self, value: Any = None) -> Any:
        self.began.append(value)
        return value

    @rpc
    async def fail(self) -> None:
        raise LookupError("no such volume")

    @rpc
    async def sleep(self, seconds: float) -> float:
        self.began.append(seconds)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(seconds)
            raise
        return seconds

    @rpc
    async def pass_gate(self, number: int = 0) -> int:
        self.began.append(number)
        await self.gate.wait()
        return number

    @rpc
    async def about(self) -> dict[str, Any]:
        call = current_call()
        caller = call.caller
        assert caller is not None
        return {
            "caller": [caller.service, caller.host],
            "version": call.version,
            "method": call.method,
            "remaining": call.remaining,
        }

    @rpc
    async def raises(self, what: str) -> Any:
        errors: dict[str, BaseException] = {
            "invalid": InvalidArguments("of another call"),
            "timeout": RpcTimeout("of another call"),
            "plain timeout": TimeoutError(),
            "stray": asyncio.CancelledError("nobody asked"),
            "base": Unusual("not an Exception"),
            "unspeakable": Unspeakable(),
            "group": ExceptionGroup("several", [ValueError("one")]),
        }
        raise errors[what]

    @rpc
    async def returns(self, what: str) -> Any:
        return {
            "nan": math.nan,
            "object": object(),
            "large": "x" * (1024 * 1024),
            "set": {1},
            "half": "\ud800",
            "deep": nested(100),
        }[what]

    @rpc
    async def promises(self) -> int:
        return "seven"  # type: ignore[return-value]

    async def hidden(self) -> None:
        raise AssertionError

    @periodic_task(spacing=3600)
    async def sync(self, context: RunContext) -> None: ...


def odd(value: Any) -> Any:
    errors = {
        "key": KeyError("x"),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError("at random"),
        "base": Unusual("x"),
        "interrupted": KeyboardInterrupt(),
    }
    raise errors[value]


class Unusual(BaseException):
    """As those of test tools and of Rust's panics."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot be said")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


class Site:
    """One service on one host, and a client on a connection of its own."""

    def __init__(self, service: Service, manager: Volumes, transport: MemoryTransport) -> None:
        self.service = service
        self.manager = manager
        self.transport = transport
        self.client = RpcClient(transport, "volumes", version="1.0")


@asynccontextmanager
async def other() -> AsyncIterator[MemoryTransport]:
    async with open_transport("memory://rpc") as transport:
        assert isinstance(transport, MemoryTransport)
        yield transport


@asynccontextmanager
async def serve(host: str = "n1", *managers: Manager, **settings: Any) -> AsyncIterator[Site]:
    manager = Volumes()
    service = Service(
        manager, *managers, host=host, transport="memory://rpc", settings=Settings(seed=1, **settings)
    )
    async with other() as transport, service:
        yield Site(service, manager, transport)


def now() -> float:
    return asyncio.get_running_loop().time()


# What callers get


async def test_a_call_returns_what_the_method_returned() -> None:
    """As JSON values; arguments are made what the hints say, and defaults are the method's own."""
    async with serve() as site:
        made = await site.client.call("create", name="v1", gib="20")
        assert made == {"name": "v1", "gib": 20, "made": "2026-01-01T00:00:00Z"}
        at = datetime(2027, 2, 3, tzinfo=UTC)
        assert (await site.client.call("create", name="v", at=at))["made"] == "2027-02-03T00:00:00Z"
        assert await site.client.call("echo", value={"a": [1, None, 2.5, "x", True]}) == {
            "a": [1, None, 2.5, "x", True]
        }
        assert await site.client.call("echo") is None


async def test_arguments_may_have_any_name() -> None:
    """Also those of the client's own parameters."""

    class Odd(Manager):
        @rpc
        async def take(self, method: int, timeout: int, host: int) -> int:
            return method + timeout + host

    async with serve("n1", Odd()) as site:
        assert await site.client.call("take", method=1, timeout=2, host=3) == 6


async def test_errors_that_a_call_can_meet() -> None:
    """Each has its own class; the body runs for none of the first."""
    async with serve() as site:
        client = site.client
        with pytest.raises(NoSuchMethod, match=r"no method 'hidden' in version 1\.0; it has about, create"):
            await client.call("hidden")
        with pytest.raises(UnsupportedVersion) as unsupported:
            await client.at(version="1.4").call("echo")
        assert unsupported.value.offered == ("1.3",)
        with pytest.raises(UnsupportedVersion, match="the interface 'x' is not served"):
            await client.at(namespace="x").call("echo")
        with pytest.raises(InvalidArguments, match="'name': Field required"):
            await client.call("create")
        with pytest.raises(InvalidArguments, match="has no argument 'nam'; it takes at, gib, name"):
            await client.call("create", nam="v")
        with pytest.raises(NoResponders, match=r"volumes at n9: echo\(\): no instance can be reached"):
            await client.at(host="n9").call("echo")
        with pytest.raises(NoResponders):
            await RpcClient(site.transport, "nobody").call("echo")
        with pytest.raises(RemoteError, match=r"^LookupError: no such volume$") as remote:
            await client.call("fail")
        assert (remote.value.type, remote.value.text) == ("LookupError", "no such volume")
        assert site.manager.began == []


@pytest.mark.parametrize(
    "name", ["__init__", "__class__", "_asyncmgr", "hidden", "sync", "reload", "periodic_tasks", "name", ""]
)
async def test_nothing_but_rpc_methods_can_be_reached(name: str) -> None:
    """No attribute, private or task, whatever a request names."""
    async with serve() as site:
        with pytest.raises(NoSuchMethod):
            await site.client.call(name)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("invalid", "InvalidArguments: of another call"),
        ("timeout", "RpcTimeout: of another call"),
        ("plain timeout", "TimeoutError"),
        ("stray", "CancelledError: nobody asked"),
        ("base", "Unusual: not an Exception"),
        ("unspeakable", "Unspeakable: <Unspeakable whose str() raised RuntimeError>"),
        ("group", "ExceptionGroup: several (1 sub-exception)"),
    ],
)
async def test_what_a_method_raises_is_a_remote_error(what: str, told: str) -> None:
    """Also where it is an error that a call itself may meet; nothing but type and text is told."""
    async with serve() as site:
        with pytest.raises(RemoteError) as remote:
            await site.client.call("raises", what=what)
        assert str(remote.value) == told
        assert remote.value.__cause__ is None
        assert await site.client.call("echo", value=1) == 1


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nan", "ValueError: Out of range float values"),
        ("object", "PydanticSerializationError: Unable to serialize unknown type"),
        ("large", "MessageTooLarge: "),
        ("half", "UnicodeEncodeError: "),
    ],
)
async def test_a_result_that_cannot_be_sent_is_a_remote_error(what: str, told: str) -> None:
    """The caller is told, and does not wait for its deadline."""
    async with serve() as site:
        with pytest.raises(RemoteError, match=told):
            await site.client.call("returns", what=what)
        assert now() < 1


async def test_values_deeper_than_a_message_may_be() -> None:
    """They are refused by whoever would send them."""
    async with serve() as site:
        assert await site.client.call("returns", what="set") == [1]
        with pytest.raises(RemoteError, match="ValueError: nested deeper than 64 levels"):
            await site.client.call("returns", what="deep")
        with pytest.raises(InvalidArguments, match="nested deeper than 64 levels"):
            await site.client.call("echo", value=nested(63))
        assert site.manager.began == []


async def test_a_service_that_a_call_starts_outlives_it() -> None:
    """The deadline of that call is none for what it started."""

    class Starts(Manager):
        @rpc
        async def start(self) -> None:
            assert self.service is not None
            self.child = Service(Volumes(), name="child", transport=self.service.transport)
            await self.child.start()

    starts = Starts()
    async with serve("n1", starts) as site:
        await site.client.at(timeout=1).call("start")
        await asyncio.sleep(5)
        child = RpcClient(site.transport, "child")
        assert (await child.call("about"))["remaining"] == pytest.approx(60)
        with pytest.raises(RpcError, match="no call is being served"):
            starts.child._context.run(current_call)
        await starts.child.stop()


async def test_a_result_is_validated_too() -> None:
    """A host cannot break what its hints promise without anybody noticing."""
    async with serve() as site:
        with pytest.raises(
            RemoteError, match=r"TypeError: Volumes\.promises returned 'seven': Input should be a valid"
        ):
            await site.client.call("promises")


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), "\ud800", {1: object()}])
async def test_arguments_that_are_not_json_never_leave(value: Any) -> None:
    """They are refused where they are given."""
    async with serve() as site:
        for send in (site.client.call, site.client.cast, site.client.fanout):
            with pytest.raises(InvalidArguments, match=r"volumes: echo\(\): "):
                await send("echo", value=value)
        await turns()
        assert site.manager.began == []


async def test_arguments_that_are_too_large_never_leave() -> None:
    """The transport's own error says so."""
    async with serve() as site:
        with pytest.raises(MessageTooLarge, match="at most 1048576 fit"):
            await site.client.call("echo", value="x" * 1024 * 1024)


async def test_a_method_knows_its_call() -> None:
    """Who calls, in which version, and how long anybody waits; tasks and methods of a service speak as it."""

    class Asking(Manager):
        @rpc
        async def ask(self) -> Any:
            assert self.service is not None
            return await RpcClient(self.service.transport, "volumes", version="1.2").call("about")

    async with serve() as site, Service(Asking(), host="n7", transport="memory://rpc"):
        told = await site.client.at(timeout=10).call("about")
        assert told["version"] == "1.0"
        assert told["method"] == "about"
        assert told["remaining"] == pytest.approx(10)
        assert told["caller"][0] is None
        told = await RpcClient(site.transport, "asking", timeout=5).call("ask")
        assert told["caller"] == ["asking", "n7"]
        assert told["version"] == "1.2"
        assert told["remaining"] == pytest.approx(5), "the call that is being served has no more than that"


async def test_methods_get_the_services_context_each_its_own() -> None:
    """What one call sets, another does not see."""
    variable: ContextVar[str] = ContextVar("variable", default="none")

    class Setting(Manager):
        @rpc
        async def set(self, value: str) -> str:
            before = variable.get()
            variable.set(value)
            return before

    variable.set("start")
    async with serve("n1", Setting()) as site:
        variable.set("later")
        assert [await site.client.call("set", value=each) for each in "ab"] == ["start", "start"]


# Clients


async def test_a_client_checks_what_it_is_given() -> None:
    """At once, and each narrowed copy too."""

    class Fake:
        pass

    transport: Any = Fake()
    with pytest.raises(ValueError, match="'1' is no version"):
        RpcClient(transport, "s", version="1")
    with pytest.raises(InvalidName, match="service name"):
        RpcClient(transport, "s" * 200)
    with pytest.raises(ValueError, match="timeout is 0"):
        RpcClient(transport, "s", timeout=0)
    client = RpcClient(transport, "s")
    with pytest.raises(ValueError, match="timeout is inf"):
        client.at(timeout=math.inf)
    with pytest.raises(InvalidName, match="host name"):
        client.at(host="h" * 200)
    with pytest.raises(ValueError, match="is no version"):
        client.at(version="x")


async def test_narrowing_makes_copies() -> None:
    """What is left out stays; None is given where it is meant."""
    transport: Any = None
    client = RpcClient(transport, "s", version="2.5", namespace="a", timeout=3)
    narrow = client.at(host="h", timeout=1)
    assert (narrow.host, narrow.version, narrow.namespace, narrow.timeout) == ("h", "2.5", "a", 1)
    again = narrow.at(host=None, namespace=None, version="2.6")
    assert (again.host, again.version, again.namespace, again.timeout) == (None, "2.6", None, 1)
    assert (client.host, client.version, client.namespace, client.timeout) == (None, "2.5", "a", 3)


async def test_covers() -> None:
    """While some hosts are old, callers ask before they use what is new."""
    transport: Any = None
    client = RpcClient(transport, "s", version="2.5")
    assert client.covers("2.5")
    assert client.covers("2.0")
    assert not client.covers("2.6")
    assert not client.covers("1.5")
    with pytest.raises(ValueError, match="is no version"):
        client.covers("2")


async def test_any_host_a_certain_one_or_all() -> None:
    """A call or cast reaches one; `at` says which; a fanout reaches all, also from a narrowed client."""
    async with serve("n1") as one, serve("n2") as two:
        for number in range(4):
            await one.client.call("echo", value=number)
        assert sorted(one.manager.began + two.manager.began) == [0, 1, 2, 3]
        assert one.manager.began
        assert two.manager.began
        one.manager.began, two.manager.began = [], []
        await one.client.at(host="n2").call("echo", value="to n2")
        await one.client.at(host="n2").cast("echo", value="cast to n2")
        await one.client.cast("echo", value="to one")
        await one.client.at(host="n1").fanout("echo", value="to all")
        await turns(10)
        assert sorted(one.manager.began + two.manager.began) == [
            "cast to n2",
            "to all",
            "to all",
            "to n2",
            "to one",
        ]
        assert {"to n2", "cast to n2", "to all"} <= set(two.manager.began)


async def test_several_managers_the_first_that_fits_serves() -> None:
    """By namespace, version and method."""

    class Old(Manager):
        RPC_API_VERSION = "1.1"

        @rpc
        async def which(self) -> str:
            return "old"

    class New(Manager):
        RPC_API_VERSION = "2.0"

        @rpc
        async def which(self) -> str:
            return "new"

    class Named(Manager):
        RPC_API_NAMESPACE = "admin"

        @rpc
        async def which(self) -> str:
            return "named"

    async with serve("n1", Old(), New(), Named()) as site:
        ask = site.client.at
        assert await ask(version="1.0").call("which") == "old"
        assert await ask(version="2.0").call("which") == "new"
        assert await ask(namespace="admin").call("which") == "named"
        with pytest.raises(UnsupportedVersion) as raised:
            await ask(version="1.2").call("which")
        assert raised.value.offered == ("1.1", "2.0")


# Time and cancellation


async def test_no_answer_within_the_timeout() -> None:
    """The caller gets `RpcTimeout`, which is a `TimeoutError`, and the method is cancelled."""
    async with serve() as site:
        began = now()
        with pytest.raises(RpcTimeout, match=r"volumes: sleep\(\): no answer within 2 s") as raised:
            await site.client.at(timeout=2).call("sleep", seconds=50)
        assert isinstance(raised.value, TimeoutError)
        assert now() - began == pytest.approx(2)
        await turns(10)
        assert site.manager.cancelled == [50]


async def test_a_method_that_will_not_be_cancelled_at_its_deadline() -> None:
    """Its caller has long had its error, and its place is free when it ends."""

    class Stubborn(Manager):
        @rpc
        async def hold(self) -> str:
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError:
                await asyncio.sleep(5)
            return "late"

    async with serve("n1", Stubborn(), rpc_concurrency=1) as site:
        with pytest.raises(RpcTimeout):
            await site.client.at(timeout=1).call("hold")
        assert await site.client.call("echo", value=1) == 1
        assert now() == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("timeout", [1e15, 1e303, 1.7e308])
async def test_a_timeout_of_any_length(timeout: float) -> None:
    """Also one that is more than can be counted; it is answered once."""
    async with serve() as site:
        with structlog.testing.capture_logs() as logged:
            assert await site.client.at(timeout=timeout).call("echo", value=1) == 1
        assert not logged


async def test_a_method_whose_task_somebody_cancels() -> None:
    """Its caller is told, and does not wait for its deadline."""

    class Jobs(Manager):
        @rpc
        async def work(self) -> None:
            self.job = asyncio.current_task()
            await hang()

        @rpc
        async def abort(self) -> None:
            assert self.job is not None
            self.job.cancel("aborted")

    async with serve("n1", Jobs()) as site:
        working = asyncio.create_task(site.client.call("work"))
        await asyncio.sleep(1)
        await site.client.call("abort")
        with pytest.raises(RemoteError, match=r"^CancelledError: aborted$"):
            await working
        assert now() < 2


async def test_a_call_that_is_cancelled_before_its_first_step() -> None:
    """It is answered all the same, and never begins."""
    async with serve() as site:
        assert site.service._presence.server is not None
        request = decode_request(b'{"v":1,"id":"a","method":"echo"}')
        async with site.transport.subscribe("replies") as replies:
            message = Message(subject_of_any("volumes"), b'{"v":1,"id":"a","method":"echo"}', "replies")
            site.service._presence.server._admit(request, message)  # type: ignore[arg-type]
            site.service._presence.server.cancel(site.service._presence.server.waiting)
            answer = await asyncio.wait_for(anext(replies), timeout=5)
        assert b"the service stops" in answer.data
        assert site.manager.began == []


async def test_a_call_has_no_more_time_than_the_call_it_serves() -> None:
    """However long its client's own timeout is."""

    class Asking(Manager):
        @rpc
        async def ask(self) -> Any:
            assert self.service is not None
            await asyncio.sleep(3)
            return await RpcClient(self.service.transport, "volumes").call("sleep", seconds=50)

        @rpc
        async def ask_late(self) -> None:
            assert self.service is not None
            try:
                await hang()
            except asyncio.CancelledError:
                client = RpcClient(self.service.transport, "volumes")
                with pytest.raises(RpcTimeout, match="no time left"):
                    await client.call("echo", value="too late")
                raise

    async with serve() as site, Service(Asking(), host="n2", transport="memory://rpc"):
        client = RpcClient(site.transport, "asking", timeout=5)
        with pytest.raises(RpcTimeout):
            await client.call("ask")
        await asyncio.sleep(0.01)
        assert site.manager.cancelled == [50]
        with pytest.raises(RpcTimeout):
            await client.call("ask_late")
        await asyncio.sleep(0.01)
        assert site.manager.began == [50]


@pytest.mark.parametrize("host", [None, "n1"])
async def test_cancelling_the_caller_cancels_the_method(host: str | None) -> None:
    """Wherever it was sent; another call goes on."""
    async with serve() as site:
        client = site.client.at(host=host)
        staying = asyncio.create_task(client.call("sleep", seconds=7))
        leaving = asyncio.create_task(client.call("sleep", seconds=8))
        await asyncio.sleep(1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await turns(10)
        assert site.manager.cancelled == [8]
        assert await staying == 7


async def test_cancelling_a_caller_whose_call_waits_for_a_place() -> None:
    """It is never started."""
    async with serve(rpc_concurrency=1) as site:
        first = asyncio.create_task(site.client.call("pass_gate", number=1))
        await turns(10)
        second = asyncio.create_task(site.client.call("pass_gate", number=2))
        await turns(10)
        second.cancel()
        await turns(10)
        site.manager.gate.set()
        assert await first == 1
        await turns(10)
        assert site.manager.began == [1]


async def test_cancelling_a_caller_after_the_transport_closed_is_silent() -> None:
    """Nobody can be told, and nothing is left behind."""
    async with serve() as site:
        before = asyncio.all_tasks()
        async with other() as transport:
            calling = asyncio.create_task(RpcClient(transport, "volumes").call("sleep", seconds=5))
            await asyncio.sleep(1)
            await transport.aclose()
            with pytest.raises(TransportClosed):
                await calling
        await turns(5)
        assert {task for task in asyncio.all_tasks() - before if "sleep" not in task.get_name()} == set()
        await asyncio.sleep(5)
        assert site.manager.cancelled == []


async def test_a_withdrawal_that_overtakes_its_request() -> None:
    """They come by different subjects, whose readers take turns; the method is never started."""
    async with serve() as site:
        deliver = site.transport._fabric.deliver
        for number in range(serving._AT_ONCE):
            deliver(Message(subject_of_any("volumes"), b'{"v":1,"id":"e%d","method":"echo"}' % number))
        deliver(Message(subject_of_any("volumes"), b'{"v":1,"id":"late","method":"pass_gate"}'))
        deliver(Message(subject_of_all("volumes"), b'{"v":1,"withdraw":"late"}'))
        await turns(10)
        assert site.manager.began == [None] * serving._AT_ONCE


async def test_withdrawals_of_calls_that_others_serve_are_not_kept_for_ever() -> None:
    """Every host gets them where the request went to any."""
    async with serve() as site:
        for number in range(3000):
            await site.transport.publish(subject_of_all("volumes"), b'{"v":1,"withdraw":"w%d"}' % number)
        await turns(10)
        server = site.service._presence.server
        assert server is not None
        assert list(server._admission._early)[-1] == "w2999"
        assert len(server._admission._early) == admission.EARLY_KEPT


# Limits


async def test_calls_beyond_the_limit_wait_for_a_place() -> None:
    """In the order in which they came."""
    async with serve(rpc_concurrency=3) as site:
        calls = [asyncio.create_task(site.client.call("pass_gate", number=number)) for number in range(10)]
        await turns(20)
        assert site.manager.began == [0, 1, 2]
        site.manager.gate.set()
        assert await asyncio.gather(*calls) == list(range(10))
        assert site.manager.began == list(range(10))


async def test_sixty_four_calls_run_at_once_unless_set_otherwise() -> None:
    """The default of `rpc_concurrency`."""
    async with serve() as site:
        for number in range(70):
            await site.client.cast("pass_gate", number=number)
        await turns(20)
        assert site.manager.began == list(range(64))
        site.manager.gate.set()


async def test_a_call_whose_deadline_passes_while_it_waits_is_never_started() -> None:
    """Nobody waits for it any more."""
    async with serve(rpc_concurrency=1) as site:
        first = asyncio.create_task(site.client.call("pass_gate", number=1))
        await turns(10)
        with pytest.raises(RpcTimeout):
            await site.client.at(timeout=2).call("pass_gate", number=2)
        site.manager.gate.set()
        assert await first == 1
        assert await site.client.call("pass_gate", number=3) == 3
        assert site.manager.began == [1, 3]


async def test_more_calls_than_may_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error of its own, so that a caller may try another host; `ping` still answers."""
    monkeypatch.setattr(admission, "WAITING_LIMIT", 4)
    async with serve(rpc_concurrency=2) as site:
        calls = [asyncio.create_task(site.client.call("pass_gate", number=number)) for number in range(6)]
        await turns(20)
        with pytest.raises(ServiceBusy, match="n1 is at its limit of calls, and 4 wait"):
            await site.client.call("pass_gate")
        assert await site.client.at(namespace="asyncmgr").call("ping") == {"service": "volumes", "host": "n1"}
        site.manager.gate.set()
        assert await asyncio.gather(*calls) == list(range(6))
        assert await site.client.call("pass_gate", number=9) == 9


async def test_requests_that_come_faster_than_they_are_read_are_refused() -> None:
    """Each caller has its result or knows at once that it may try another host; casts are lost."""
    async with serve() as site:
        calls = [site.client.call("echo", value=number) for number in range(3000)]
        casts = [site.client.cast("echo", value="cast") for _ in range(10)]
        *answers, _ = await asyncio.gather(*casts, *calls, asyncio.sleep(0), return_exceptions=True)
        answers = answers[len(casts) :]
        refused = [answer for answer in answers if isinstance(answer, ServiceBusy)]
        assert str(refused[0]) == "n1 gets more requests than it can read; try later"
        assert sum(answer == number for number, answer in enumerate(answers)) == 3000 - len(refused) >= 1000
        assert now() < 1


async def test_a_burst_leaves_the_loop_to_others() -> None:
    """Other code gets its turn while many requests are taken."""
    async with serve() as site:
        turn = 0
        request = b'{"v":1,"id":"a","method":"echo"}'
        for _ in range(500):
            site.transport._fabric.deliver(Message(subject_of_any("volumes"), request))
        while len(site.manager.began) < 500:
            await asyncio.sleep(0)
            turn += 1
        assert turn >= 500 / 50 - 2


# The start and the stop


async def test_hints_that_cannot_be_resolved_fail_the_start() -> None:
    """With the method and the cure."""

    class Wrong(Manager):
        @rpc
        async def take(self, value: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(
        InvalidRpcMethod, match=r"Wrong.take has a hint that cannot be resolved .*'Nowhere'.*import"
    ):
        await Service(Wrong()).start()

    class Odd(Manager):
        @rpc
        async def take(self, value: asyncio.Future[int]) -> None: ...

    with pytest.raises(InvalidRpcMethod, match=r"Odd.take has a hint that cannot be validated"):
        await Service(Odd()).start()


@pytest.mark.parametrize("version", ["1", "", "1.0.0", None, 1.0])
async def test_a_manager_whose_version_is_none_fails_the_start(version: Any) -> None:
    """With what it should be."""
    manager = Volumes()
    manager.RPC_API_VERSION = version
    with pytest.raises(InvalidRpcMethod, match=r"Volumes\.RPC_API_VERSION"):
        await Service(manager).start()


async def test_the_services_own_namespace_cannot_be_taken() -> None:
    """A manager that has it fails the start."""
    manager = Volumes()
    manager.RPC_API_NAMESPACE = "asyncmgr"
    with pytest.raises(InvalidRpcMethod, match="'asyncmgr' is every service's own"):
        await Service(manager).start()


async def test_calls_are_served_between_the_two_hooks() -> None:
    """Not before `pre_start_hook` has ended, and already in `post_start_hook`."""
    told: list[str] = []

    class Hooked(Manager):
        async def pre_start_hook(self) -> None:
            assert self.service is not None
            with pytest.raises(NoResponders):
                await RpcClient(self.service.transport, "hooked").call("ask")
            told.append("not before")

        async def post_start_hook(self) -> None:
            assert self.service is not None
            told.append(await RpcClient(self.service.transport, "hooked").call("ask"))

        @rpc
        async def ask(self) -> str:
            return "served"

    async with Service(Hooked()):
        assert told == ["not before", "served"]


async def test_calls_in_progress_are_drained_at_a_stop() -> None:
    """They end and are answered; new ones find nobody; the report names them beside the runs."""
    async with serve() as site:
        calling = asyncio.create_task(site.client.call("sleep", seconds=3))
        await asyncio.sleep(1)
        stopping = asyncio.create_task(site.service.stop())
        await asyncio.sleep(1)
        with pytest.raises(NoResponders):
            await site.client.call("echo")
        assert await calling == 3
        report = await stopping
        assert report.drained == ("Volumes.sleep",)
        assert report.cancelled == report.leaked == ()


async def test_calls_that_wait_for_a_place_are_drained_too() -> None:
    """What had come is served."""
    async with serve(rpc_concurrency=1) as site:
        calls = [asyncio.create_task(site.client.call("sleep", seconds=2)) for _ in range(3)]
        await asyncio.sleep(1)
        report = await site.service.stop()
        assert await asyncio.gather(*calls) == [2, 2, 2]
        assert report.drained == ("Volumes.sleep",) * 3
        assert now() == pytest.approx(6, abs=0.1)


async def test_calls_that_do_not_end_in_time_are_cancelled_and_their_callers_told() -> None:
    """Those in progress and those that wait for a place, at once and not at their own deadline."""
    async with serve(rpc_concurrency=1, drain_timeout=2) as site:
        calls = [asyncio.create_task(site.client.call("sleep", seconds=50)) for _ in range(3)]
        await asyncio.sleep(1)
        report = await site.service.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(result) for result in results] == ["CancelledError: the service stops"] * 3
        assert report.cancelled == ("Volumes.sleep",) * 3
        assert site.manager.cancelled == [50]
        assert now() == pytest.approx(3, abs=0.1)


async def test_a_call_that_outlives_its_cancellation_is_leaked() -> None:
    """The stop ends without it, and says so."""

    class Stubborn(Manager):
        @rpc
        async def hold(self) -> None:
            while now() < 20:
                try:
                    await asyncio.sleep(20 - now())
                except asyncio.CancelledError:
                    continue

    with structlog.testing.capture_logs() as logs:
        async with serve("n1", Stubborn(), drain_timeout=1) as site:
            await site.client.cast("hold")
            await asyncio.sleep(1)
            report = await site.service.stop()
            assert report.leaked == ("Stubborn.hold",)
            assert now() == pytest.approx(7, abs=0.1)
            await asyncio.sleep(20)
    assert [log["method"] for log in logs if log["event"] == "call.leaked"] == ["Stubborn.hold"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_a_method_that_wants_the_process_to_end(error: BaseException) -> None:
    """The caller gets its error, the service drains and stops, and `wait` raises it; the loop never sees it."""

    class Exits(Manager):
        @rpc
        async def leave(self) -> None:
            raise error

    transport_url = "memory://rpc"
    async with other() as transport:
        service = Service(Exits(), transport=transport_url)
        await service.start()
        with pytest.raises(RemoteError, match=type(error).__name__):
            await RpcClient(transport, "exits").call("leave")
        with pytest.raises(type(error)):
            await service.wait()


async def test_a_start_that_fails_after_calls_were_served_undoes_that() -> None:
    """Nobody is left to answer, and what was under way is cancelled in time."""

    class Fails(Manager):
        async def post_start_hook(self) -> None:
            assert self.service is not None
            await RpcClient(self.service.transport, "fails").cast("hold")
            await asyncio.sleep(1)
            raise ValueError("no")

        @rpc
        async def hold(self) -> None:
            await hang()

    async with other() as transport:
        before = asyncio.all_tasks()
        with pytest.raises(ValueError, match="no"):
            await Service(Fails(), transport="memory://rpc", settings=Settings(drain_timeout=2)).start()
        assert now() == pytest.approx(3, abs=0.1)
        assert asyncio.all_tasks() == before
        with pytest.raises(NoResponders):
            await RpcClient(transport, "fails").call("hold")


# Outages


async def test_calls_during_an_outage_fail_at_once() -> None:
    """Those under way fail by their deadline."""
    async with serve() as site:
        calling = asyncio.create_task(site.client.at(timeout=4).call("sleep", seconds=2))
        await asyncio.sleep(1)
        with site.transport.outage():
            with pytest.raises(TransportError, match="not connected"):
                await site.client.call("echo")
            with pytest.raises(TransportError, match="not connected"):
                await site.client.cast("echo")
            with pytest.raises(RpcTimeout):
                await calling
            assert now() == pytest.approx(4, abs=0.1)
        assert await site.client.call("echo", value=1) == 1


async def test_a_service_is_called_again_after_an_outage_of_its_own() -> None:
    """Its subscriptions outlive it; a reply that cannot be sent is lost and hurts nothing."""
    async with other() as transport, other() as callers:
        manager = Volumes()
        async with Service(manager, host="n1", transport=transport):
            client = RpcClient(callers, "volumes", timeout=3)
            calling = asyncio.create_task(client.call("sleep", seconds=2))
            await asyncio.sleep(1)
            with transport.outage():
                with pytest.raises(NoResponders):
                    await client.call("echo")
                with pytest.raises(RpcTimeout):
                    await calling
            assert await client.call("echo", value=1) == 1


async def test_a_service_that_starts_in_an_outage_serves_when_it_ends() -> None:
    """The start does not fail, one event tells of each change, and the tasks run meanwhile."""
    with structlog.testing.capture_logs() as logs:
        async with other() as transport, other() as callers:
            with transport.outage():
                service = Service(Volumes(), host="n1", transport=transport)
                await service.start()
                await asyncio.sleep(600)
            await asyncio.sleep(3)
            assert await RpcClient(callers, "volumes").call("echo", value=1) == 1
            await service.stop()
    told = [log["event"] for log in logs if log["event"].startswith("rpc.")]
    assert told == ["rpc.failed", "rpc.resumed"]


@pytest.mark.parametrize("error", [OSError("x"), asyncio.CancelledError("of its own")])
@pytest.mark.parametrize("step", ["subscribe", "store"])
async def test_a_transport_that_raises_what_it_should_not(
    monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """The service starts all the same, and the step is tried again."""
    async with other() as transport, other() as mine:
        genuine, failures = getattr(mine, step), iter([error])

        def raising(*args: Any, **options: Any) -> Any:
            for failure in failures:
                raise failure
            return genuine(*args, **options)

        monkeypatch.setattr(mine, step, raising)
        with structlog.testing.capture_logs() as logged:
            async with Service(Volumes(), host="n1", transport=mine, settings=Settings(seed=1)):
                await asyncio.sleep(1)
                assert await RpcClient(transport, "volumes").call("echo", value=1) == 1
        assert [event["event"].partition(".")[2] for event in logged if "service." not in event["event"]] == [
            "failed",
            "resumed",
        ]


async def test_a_stop_in_an_outage_does_not_wait_for_it() -> None:
    """Neither where calls were served, nor where they never were."""
    async with other() as transport:
        service = Service(Volumes(), host="n1", transport=transport)
        with transport.outage():
            await service.start()
            began = now()
            await service.stop()
            assert now() == began
        service = Service(Volumes(), host="n1", transport=transport)
        await service.start()
        with transport.outage():
            await service.stop()
            assert now() == began


# What anybody may send


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"v":2,"id":"a","method":"echo"}',
        b'{"v":true,"id":"a","method":"echo"}',
        b'{"v":1,"id":"a"}',
        b'{"v":1,"method":"echo"}',
        b'{"v":1,"id":"a","method":7}',
        b'{"v":1,"id":"a","method":"echo","arguments":[]}',
        b'{"v":1,"id":"a","method":"echo","timeout":-1}',
        b'{"v":1,"id":"a","method":"echo","timeout":1e999}',
        b'{"v":1,"id":"a","method":"echo","arguments":{"value":NaN}}',
        b'{"v":1,"id":"a","method":"echo","arguments":{"value":"\\ud800"}}',
        b'{"v":1,"id":"' + b"a" * 65 + b'","method":"echo"}',
        b'{"v":1,"id":"a","method":"' + b"m" * 257 + b'"}',
        b'{"v":1,"id":"a","method":"echo","arguments":{"value":' + b"[" * 63 + b"]" * 63 + b"}}",
        b"[" * 200_000,
        b'{"v":1,"id":"a","method":"echo","caller":{"host":1}}',
        b'{"v":1,"id":"a","method":"echo","arguments":{"value":' + b"9" * 5000 + b"}}",
        b'{"v":1,"withdraw":7}',
    ],
)
async def test_what_is_no_request_is_answered_and_forgotten(data: bytes) -> None:
    """With the fact; the next request is served."""
    async with serve() as site:
        reply = json.loads(await site.transport.request(subject_of_any("volumes"), data, timeout=5))
        assert reply["error"]["kind"] == "malformed"
        assert len(reply["error"]["text"]) < 500
        assert await site.client.call("echo", value=1) == 1
        assert site.manager.began == [1]


async def test_a_flood_of_malformed_requests_does_not_fill_the_log() -> None:
    """It is told at the first, second, fourth and so on."""
    with structlog.testing.capture_logs() as logs:
        async with serve() as site:
            for _ in range(1000):
                await site.transport.publish(subject_of_any("volumes"), b"x")
            assert await site.client.call("echo", value=1) == 1
    counts = [log["count"] for log in logs if log["event"] == "request.malformed"]
    assert counts == [2**power for power in range(10)]


async def test_a_cast_that_is_refused_is_logged() -> None:
    """Its caller waits for nothing, so nobody else would know; a call's caller is told itself."""
    with structlog.testing.capture_logs() as logs:
        async with serve() as site:
            for _ in range(5):
                await site.client.cast("ecko", value=1)
            await site.client.fanout("create")
            with pytest.raises(NoSuchMethod):
                await site.client.call("ecko", value=1)
            await turns(10)
    refused = [log for log in logs if log["event"] == "cast.refused"]
    assert [(log["method"], log["count"]) for log in refused] == [("ecko", 1), ("ecko", 2), ("ecko", 4)]
    assert "has no method 'ecko'" in refused[0]["error"]


async def test_a_log_that_raises_costs_no_answer() -> None:
    """Failures, refusals and malformed requests are told to a log processor that is broken."""

    def broken(logger: Any, method: str, event: Any) -> Any:
        raise RuntimeError("processor")

    with log_processors(broken):
        async with serve() as site:
            with pytest.raises(RemoteError, match="LookupError"):
                await site.client.call("fail")
            with pytest.raises(RpcTimeout):
                await site.client.at(timeout=1).call("sleep", seconds=5)
            await site.client.cast("ecko")
            await site.transport.publish(subject_of_any("volumes"), b"x")
            with site.transport.outage():
                await asyncio.sleep(60)
            assert await site.client.call("echo", value=1) == 1


async def test_withdrawing_what_is_not_there_does_nothing() -> None:
    """It may have ended in the meantime."""
    async with serve() as site:
        await site.transport.publish(subject_of_any("volumes"), b'{"v":1,"withdraw":"x"}')
        assert await site.client.call("echo", value=1) == 1


async def test_a_type_that_raises_something_odd_is_a_remote_error() -> None:
    """A validator is the host's own code; whatever it raises, the service goes on."""

    class Odd(Manager):
        @rpc
        async def take(self, value: Annotated[Any, BeforeValidator(odd)]) -> None: ...

    async with serve("n1", Odd()) as site:
        for value, told in {
            "key": "KeyError: 'x'",
            "exit": "SystemExit: 3",
            "cancelled": "CancelledError: at random",
            "base": "Unusual: x",
        }.items():
            with pytest.raises(RemoteError, match=told):
                await site.client.call("take", value=value)
            assert await site.client.call("echo", value=1) == 1


async def test_a_type_that_is_interrupted_ends_the_service() -> None:
    """As a method that is, and after its caller was told."""

    class Odd(Manager):
        @rpc
        async def take(self, value: Annotated[Any, BeforeValidator(odd)]) -> None: ...

    async with other() as transport:
        service = Service(Odd(), host="n1", transport="memory://rpc", settings=Settings(seed=1))
        await service.start()
        with pytest.raises(RemoteError, match="KeyboardInterrupt"):
            await RpcClient(transport, "odd").call("take", value="interrupted")
        with pytest.raises(KeyboardInterrupt):
            await service.wait()


async def test_two_calls_with_one_id_are_two_calls() -> None:
    """An id is the caller's word; a withdrawal ends the later one."""
    request = b'{"v":1,"id":"same","method":"sleep","arguments":{"seconds":%d}}'
    async with serve() as site:
        for seconds in (5, 6):
            await site.transport.publish(subject_of_any("volumes"), request % seconds)
        await asyncio.sleep(1)
        await site.transport.publish(subject_of_any("volumes"), b'{"v":1,"withdraw":"same"}')
        await asyncio.sleep(10)
        assert site.manager.cancelled == [6]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"", "the answer is not a reply"),
        (b'{"v":1}', "the answer is not a reply"),
        (b'{"v":1,"error":{}}', "the answer is not a reply"),
        (b'{"v":1,"error":{"kind":"unsupported_version","text":"x"}}', "the answer is not a reply"),
        (b'{"v":1,"error":{"kind":"remote_error","text":"x"}}', "the answer is not a reply"),
        (b'{"v":1,"error":{"kind":"some day","text":"x"}}', "^x$"),
        (b'{"v":2,"result":1}', "version 2 of the wire format"),
    ],
)
async def test_an_answer_that_is_no_reply(reply: bytes, told: str) -> None:
    """Is an `RpcError` for its caller; so is an error of a kind that it does not know."""
    async with other() as transport, transport.subscribe(subject_of_any("s")) as requests:
        calling = asyncio.create_task(RpcClient(transport, "s").call("m"))
        request = await anext(requests)
        assert request.reply_to is not None
        await transport.publish(request.reply_to, reply)
        with pytest.raises(RpcError, match=told) as raised:
            await calling
        assert type(raised.value) is RpcError


async def test_fields_that_nobody_knows_are_ignored() -> None:
    """Of a request and of a reply: a later version may have more."""
    async with other() as transport, transport.subscribe(subject_of_host("s", "h")) as requests:
        calling = asyncio.create_task(RpcClient(transport, "s").at(host="h").call("m", a=1))
        request = await anext(requests)
        fields = json.loads(request.data)
        assert fields | {"later": 1} == {
            **fields,
            "v": 1,
            "method": "m",
            "namespace": None,
            "version": "1.0",
            "arguments": {"a": 1},
            "timeout": 60.0,
            "later": 1,
        }
        decoded = decode_request(json.dumps(fields | {"later": 1}).encode())
        assert decoded == decode_request(request.data)
        assert request.reply_to is not None
        await transport.publish(request.reply_to, encode_result(5)[:-1] + b',"later":1}')
        assert await calling == 5


# The service's own interface


async def test_ping_and_info() -> None:
    """Always there, under their own namespace, with all that a caller needs to know."""

    class Snapshots(Manager):
        RPC_API_NAMESPACE = "snapshots"
        RPC_API_VERSION = "4.2"

        @rpc
        async def take(self, volume: str, keep: int = 3) -> list[str]:
            """Take a snapshot.

            And more.
            """
            return []

        @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
        async def nightly(self, context: RunContext) -> None: ...

    async with serve("n1", Snapshots()) as site:
        inside = site.client.at(namespace="asyncmgr")
        assert await inside.call("ping") == {"service": "volumes", "host": "n1"}
        info = await inside.call("info")
        assert (info["service"], info["host"]) == ("volumes", "n1")
        assert info["version"]
        volumes, snapshots = info["managers"]
        assert (volumes["name"], volumes["namespace"], volumes["version"]) == ("Volumes", None, "1.3")
        assert [task["name"] for task in volumes["tasks"]] == ["Volumes.sync"]
        assert volumes["tasks"][0]["spacing"] == 3600
        assert datetime.fromisoformat(volumes["tasks"][0]["next_due"]).tzinfo is not None
        (nightly,) = snapshots["tasks"]
        assert (nightly["schedule"], nightly["tz"], nightly["spacing"]) == (
            "30 2 * * *",
            "Europe/Berlin",
            None,
        )
        (take,) = snapshots["methods"]
        assert (snapshots["namespace"], snapshots["version"]) == ("snapshots", "4.2")
        assert (take["name"], take["summary"]) == ("take", "Take a snapshot.")
        assert take["arguments"]["required"] == ["volume"]
        assert take["arguments"]["additionalProperties"] is False
        assert take["result"]["items"] == {"type": "string"}


async def test_a_service_without_methods_has_its_own_interface() -> None:
    """So it can be asked all the same."""

    class Quiet(Manager): ...

    async with other() as transport, Service(Quiet(), host="n1", transport=transport):
        assert await RpcClient(transport, "quiet", namespace="asyncmgr").call("ping")
        with pytest.raises(NoSuchMethod, match="it has none"):
            await RpcClient(transport, "quiet").call("anything")


async def test_errors_survive_pickling_and_copying() -> None:
    """They travel between processes of the user's own."""
    import copy
    import pickle

    for error in (RemoteError("T", "text"), UnsupportedVersion("text", ("1.0",)), RpcTimeout("late")):
        for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


async def test_callers_are_values() -> None:
    """Compared by what they are."""
    assert Caller("s", "h") == Caller("s", "h") != Caller(None, "h")


async def test_transports_are_what_clients_take() -> None:
    """The client's type says so; nothing of it is a connection of its own."""
    assert RpcClient.__init__.__annotations__["transport"] == Transport.__name__
