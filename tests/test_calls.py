"""Declaring what other hosts may call, versions, and the choice of the method that serves a call."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmgr
from asyncmgr import (
    InvalidPeriodicTaskArg,
    InvalidRpcMethod,
    Manager,
    NoResponders,
    RpcClient,
    RpcError,
    TransportError,
    current_call,
    open_transport,
    periodic_task,
    rpc,
)
from asyncmgr._common.functions import signature_of
from asyncmgr._rpc.declare import callable_methods
from asyncmgr._rpc.versions import Endpoint, choose, is_compatible, parse_version

CASES = Path(__file__).parent / "cases"


def cases(name: str) -> list[Any]:
    found: list[Any] = json.loads((CASES / name).read_text())
    return found


@pytest.mark.parametrize(
    "case", cases("rpc_version_cases.json"), ids=lambda case: f"{case['requested']}-{case['implemented']}"
)
def test_versions(case: dict[str, Any]) -> None:
    """The collected cases: same major, requested minor at most the offered one, as integers."""
    if case["expect"] == "malformed":
        with pytest.raises(ValueError, match=r"is no version; write two whole numbers, such as '1\.0'"):
            is_compatible(case["requested"], case["implemented"])
    else:
        assert is_compatible(case["requested"], case["implemented"]) is case["expect"]


@pytest.mark.parametrize("case", cases("rpc_dispatch_cases.json"), ids=lambda case: case["name"])
def test_dispatch(case: dict[str, Any]) -> None:
    """The collected cases, most of them of oslo.messaging's dispatcher."""
    message, expected = case["message"], case["expect"]
    endpoints = [
        Endpoint(
            "M",
            each.get("namespace"),
            each.get("version", "1.0"),
            dict.fromkeys(each.get("methods", ["m"]), index),
        )
        for index, each in enumerate(case["endpoints"])
    ]

    def chosen() -> int:
        version, namespace = message.get("version", "1.0"), message.get("namespace")
        endpoint = choose(endpoints, message["method"], version=version, namespace=namespace)
        return endpoint.methods[message["method"]]

    if "raises" in expected:
        with pytest.raises(getattr(asyncmgr, expected["raises"])):
            chosen()
    else:
        assert chosen() == expected["endpoint"]


@given(st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8))
def test_a_later_minor_serves_an_earlier_one(major: int, minor: int, more: int) -> None:
    """And not the other way round, unless they are the same."""
    earlier, later = f"{major}.{minor}", f"{major}.{minor + more}"
    assert is_compatible(earlier, later)
    assert is_compatible(later, earlier) is (more == 0)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1", "1.", ".1", "1.0.0", "1.0\n", " 1.0", "+1.0", "1.٣", "1_0.0", "9" * 10 + ".0", "1,0"],
)
def test_what_is_no_version(text: str) -> None:
    """Two whole numbers in ASCII digits, nine at most, and nothing around them."""
    with pytest.raises(ValueError, match="is no version"):
        parse_version(text)


def test_unsupported_version_carries_what_is_offered() -> None:
    """Of endpoints that have the method, else of all with the namespace."""
    endpoints = [
        Endpoint("A", None, "1.2", {"a": 1}),
        Endpoint("B", None, "3.0", {"b": 2}),
        Endpoint("C", "n", "7.0", {}),
    ]
    with pytest.raises(
        asyncmgr.UnsupportedVersion, match=r"serves 'a' in 1\.2, and not in version '2\.0'"
    ) as raised:
        choose(endpoints, "a", version="2.0", namespace=None)
    assert raised.value.offered == ("1.2",)
    with pytest.raises(asyncmgr.UnsupportedVersion) as raised:
        choose(endpoints, "z", version="2.0", namespace=None)
    assert raised.value.offered == ("1.2", "3.0")
    with pytest.raises(asyncmgr.UnsupportedVersion, match="the interface 'x' is not served") as raised:
        choose(endpoints, "a", version="1.0", namespace="x")
    assert raised.value.offered == ()


def test_no_such_method_names_those_there_are() -> None:
    """A misspelt name is put right without reading the other side's code."""
    with pytest.raises(
        asyncmgr.NoSuchMethod, match=r"has no method 'resiz' in version 1\.0; it has list, resize"
    ):
        choose([Endpoint("A", None, "1.3", {"resize": 1, "list": 2})], "resiz", version="1.0", namespace=None)


# Declaring


def refused(match: str) -> Any:
    return pytest.raises(InvalidRpcMethod, match=match)


def test_what_cannot_be_called_is_refused_where_it_is_written() -> None:
    """Each with what it is and what to write instead."""
    with refused("is a plain function; @rpc needs 'async def'"):

        @rpc
        def plain(self: Any) -> None: ...

    with refused("is a generator"):

        @rpc
        def generator(self: Any) -> Any:
            yield

    with refused("is an async generator"):

        @rpc
        async def stream(self: Any) -> Any:
            yield

    with refused("takes a, which has no name on the wire; make it a named parameter"):

        @rpc
        async def positional(self: Any, a: Any, /) -> None: ...

    with refused("does not take 'self'"):

        @rpc
        async def star(*args: Any) -> None: ...

    with refused(r"takes \*args, which has no name"):

        @rpc
        async def several(self: Any, *args: Any) -> None: ...

    with refused("does not take 'self'"):

        @rpc
        async def without() -> None: ...

    with refused("has the name of a private method"):

        @rpc
        async def _private(self: Any) -> None: ...

    with refused("a staticmethod; write it bare, above 'async def method"):

        class Static:
            @rpc
            @staticmethod
            async def method() -> None: ...

    with refused("write it bare"):
        rpc(None)  # type: ignore[type-var]


def test_a_periodic_task_cannot_be_called() -> None:
    """Whichever decorator is written first, and across inheritance."""
    with refused("is a periodic task"):

        class First(Manager):
            @rpc
            @periodic_task
            async def m(self, context: Any) -> None: ...

    with refused("has @rpc and @periodic_task"):

        class Second(Manager):
            @periodic_task
            @rpc
            async def m(self, context: Any) -> None: ...

    class Base(Manager):
        @rpc
        async def m(self, context: Any) -> None: ...

    with refused("has @rpc and @periodic_task"):

        class Third(Base):
            @periodic_task
            async def m(self, context: Any) -> None: ...


@pytest.mark.parametrize("name", ["reload", "cleanup_host", "periodic_tasks"])
def test_managers_own_names_are_refused(name: str) -> None:
    """A life-cycle hook can never be called from afar."""

    async def method(self: Any) -> None: ...

    method.__name__ = name
    with refused(f"'{name}' belongs to Manager"):
        type("M", (Manager,), {name: rpc(method)})


def test_overrides_and_deletions() -> None:
    """An override is callable without the decorator; `None` takes a method away, further down too."""

    class Base(Manager):
        @rpc
        async def a(self) -> None: ...

        @rpc
        async def b(self) -> None: ...

        async def hidden(self) -> None: ...

    class Middle(Base):
        async def a(self) -> None: ...

        b = None  # type: ignore[assignment]

    class Last(Middle):
        async def b(self) -> None: ...  # type: ignore[override]

        @rpc
        async def c(self) -> None: ...

    assert callable_methods(Base) == ["a", "b"]
    assert callable_methods(Middle) == ["a"]
    assert callable_methods(Last) == ["a", "c"]
    with refused("Wrong.a is a plain function"):

        class Wrong(Base):
            def a(self) -> None: ...  # type: ignore[override]


def test_mixin_methods_count() -> None:
    """A class that is no manager may offer methods to those that are."""

    class Mixin:
        @rpc
        async def extra(self) -> None: ...

    class Mixed(Mixin, Manager):
        @rpc
        async def own(self) -> None: ...

    assert sorted(callable_methods(Mixed)) == ["extra", "own"]


def test_marks_leave_the_function_alone() -> None:
    """It stays what it was for local callers."""

    async def method(self: Any) -> int:
        return 7

    assert rpc(method) is method


def test_no_call_is_served_outside_of_one() -> None:
    """`current_call` says so."""
    with pytest.raises(RpcError, match="no call is being served here"):
        current_call()


def test_a_task_error_is_no_rpc_error() -> None:
    """The two kinds of declarations have errors of their own."""
    assert not issubclass(InvalidRpcMethod, InvalidPeriodicTaskArg)


# Another event loop


def test_a_client_in_another_event_loop_is_told_so_at_once() -> None:
    """It would wait for an answer that nobody can hand over."""

    async def main() -> list[BaseException]:
        raised: list[BaseException] = []
        async with open_transport("memory://") as transport:
            client = RpcClient(transport, "s")

            async def use(send: Any) -> None:
                try:
                    await send("m")
                except Exception as exc:
                    raised.append(exc)

            def elsewhere() -> None:
                for send in (client.call, client.cast, client.fanout):
                    asyncio.run(use(send))
                asyncio.run(use(lambda _: client.offered()))

            await asyncio.to_thread(elsewhere)
            with pytest.raises(NoResponders):
                await client.call("m")
        return raised

    raised = asyncio.run(main())
    assert [type(error) for error in raised] == [TransportError] * 4
    assert all("opened in another event loop" in str(error) for error in raised)


# Annotations that only type checkers import


def test_a_method_may_be_annotated_with_what_only_type_checkers_import() -> None:
    """Where it is written and where its signature is read, nothing of it is resolved."""
    namespace: dict[str, Any] = {"rpc": rpc}
    # Without the future import: since Python 3.14 these annotations are evaluated when somebody asks.
    source = "@rpc\nasync def method(self, value: 'Missing', other: 'Missing' = 1) -> 'Missing': ...\n"
    if sys.version_info >= (3, 14):
        source = source.replace("'", "")
    exec(compile(source, "<checked>", "exec", dont_inherit=True), namespace)
    signature = signature_of(namespace["method"])
    assert list(signature.parameters) == ["self", "value", "other"]
