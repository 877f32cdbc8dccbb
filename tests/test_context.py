"""Context variables: what start hooks leave reaches everything of the service, and no span of who starts it does."""

from __future__ import annotations

import asyncio
import contextvars
from contextvars import ContextVar
from typing import Any

import pytest

from asyncmgr import Manager, RpcClient, Service, periodic_task, rpc
from asyncmgr._common.spans import holds_span, without_spans
from tests.helpers import Bare

variable: ContextVar[str] = ContextVar("variable", default="unset")
opentelemetry_like: ContextVar[dict[str, object]] = ContextVar("current_context", default={})  # noqa: B039 - as theirs
current_span: ContextVar[str] = ContextVar("current_span", default="none")


class FakeSpan:
    """As tracing libraries have them."""


# Which variables hold a span


def made_in(module: str, name: str = "Scope") -> object:
    return type(name, (), {"__module__": module})()


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("current_context", {}, True),
        ("datadog_contextvar", None, True),
        ("elasticapm_transaction_var", None, True),
        ("elasticapm_spans_var", (), True),
        ("current_span", "x", True),
        ("Span", "x", True),
        ("my-span.1", "x", True),
        ("anything", FakeSpan(), True),
        ("anything", type("Child", (FakeSpan,), {})(), True),
        ("current_scope", made_in("sentry_sdk.scope"), True),
        ("current_scope", made_in("app.scope"), False),
        ("current_scope", "tenant", False),
        ("lifespan", "x", False),
        ("makespans", "x", False),
        ("spanner", "x", False),
        ("request_id", "x", False),
        ("decimal_context", None, False),
        ("anything", made_in("app", "SpanOfTime"), False),
    ],
)
def test_which_variables_hold_a_span(name: str, value: object, holds: bool) -> None:
    """Those of the common libraries, those that say so, and those whose value is one."""
    assert holds_span(name, value) is holds


def test_a_copy_without_spans_keeps_all_the_rest() -> None:
    """And what is set in one is not seen in the other."""
    context = contextvars.Context()
    context.run(variable.set, "kept")
    context.run(current_span.set, "open")
    copy = without_spans(context)
    assert dict(copy) == {variable: "kept"}
    copy.run(variable.set, "changed")
    assert (context[variable], context[current_span]) == ("kept", "open")


# In a service


class Telling(Manager):
    """Binds variables in the start hooks, and notes what each of its pieces sees."""

    RPC_API_NAMESPACE = None

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, tuple[str, str, object]] = {}

    def _note(self, place: str) -> None:
        self.seen.setdefault(place, (variable.get(), current_span.get(), opentelemetry_like.get()))

    async def init_host(self) -> None:
        self._note("init_host")
        variable.set("init_host")

    async def pre_start_hook(self) -> None:
        self._note("pre_start_hook")
        variable.set("pre_start_hook")

    async def post_start_hook(self) -> None:
        self._note("post_start_hook")
        variable.set("post_start_hook")

    async def reload(self) -> None:
        self._note("reload")

    async def cleanup_host(self) -> None:
        self._note("cleanup_host")

    @periodic_task(spacing=1, run_immediately=True)
    async def short(self, context: Any) -> None:
        self._note("a run that never waits")
        variable.set("left behind")

    @periodic_task(spacing=1, run_immediately=True)
    async def long(self, context: Any) -> None:
        self._note("a run that waits")
        variable.set("left behind")
        await asyncio.sleep(0.1)
        self._note("the end of a run that waits")

    @periodic_task(spacing=1, initial_delay=3)
    async def late(self, context: Any) -> None:
        self._note("a later run")

    @rpc
    async def tell(self) -> None:
        self._note("a call")
        variable.set("left behind")

    @rpc
    async def tell_again(self) -> None:
        self._note("a later call")


@pytest.mark.virtual_time
async def test_what_start_hooks_leave_reaches_everything() -> None:
    """Hooks see what those before them set; runs, calls, reload and cleanup see what all of them left."""
    telling = Telling()
    variable.set("caller")
    service = Service(telling, name="s", transport="memory://context")
    await service.start()
    assert variable.get() == "caller"
    variable.set("later")
    client = RpcClient(service.transport, "s")
    await client.call("tell")
    await client.call("tell_again")
    await asyncio.sleep(5)
    await service.reload()
    await service.stop()
    assert {place: what for place, (what, _, _) in telling.seen.items()} == {
        "init_host": "caller",
        "pre_start_hook": "init_host",
        "post_start_hook": "pre_start_hook",
        "a run that never waits": "post_start_hook",
        "a run that waits": "post_start_hook",
        "the end of a run that waits": "left behind",
        "a later run": "post_start_hook",
        "a call": "post_start_hook",
        "a later call": "post_start_hook",
        "reload": "post_start_hook",
        "cleanup_host": "post_start_hook",
    }


@pytest.mark.virtual_time
async def test_a_span_of_who_starts_the_service_reaches_nothing_of_it() -> None:
    """Neither runs and calls nor the hooks are its children, for as long as the service lives."""
    telling = Telling()
    span: dict[str, object] = {"current-span": FakeSpan()}
    token, other = opentelemetry_like.set(span), current_span.set("start-up")
    async with Service(telling, name="s", transport="memory://context") as service:
        assert (opentelemetry_like.get(), current_span.get()) == (span, "start-up"), (
            "the caller keeps its own"
        )
        opentelemetry_like.reset(token)
        current_span.reset(other)
        await RpcClient(service.transport, "s").call("tell")
        await asyncio.sleep(5)
        await service.reload()
    assert len(telling.seen) == 10
    assert {(name, str(context)) for _, name, context in telling.seen.values()} == {("none", "{}")}


@pytest.mark.virtual_time
async def test_a_span_that_a_hook_leaves_open_is_the_hooks_own_wish() -> None:
    """The rule is about who starts the service, not about what the hooks leave."""

    class Spanning(Telling):
        async def init_host(self) -> None:
            current_span.set("life")

    telling = Spanning()
    async with Service(telling):
        await asyncio.sleep(1)
    assert telling.seen["a run that waits"][1] == telling.seen["cleanup_host"][1] == "life"


@pytest.mark.virtual_time
async def test_a_span_of_opentelemetry() -> None:
    """Its own current span, by its own interface."""
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=2, is_remote=False))
    manager, seen = Bare(), list[Any]()

    async def work(context: Any) -> None:
        seen.append(trace.get_current_span())

    manager.add_periodic_task(work, spacing=1)
    with trace.use_span(span):
        assert trace.get_current_span() is span
        async with Service(manager):
            await asyncio.sleep(1.5)
    assert seen == [trace.INVALID_SPAN]
