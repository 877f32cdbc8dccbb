"""OpenTelemetry: a span a run, and traces that go with calls (15)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

import asyncmgr
from asyncmgr import (
    Manager,
    Retry,
    RpcClient,
    RunContext,
    Service,
    Settings,
    Skip,
    current_call,
    periodic_task,
    rpc,
)
from asyncmgr._monitoring.tracing import BLOCKED
from asyncmgr._rpc.messages import Request, decode_request
from asyncmgr._rpc.traces import outgoing, read_trace
from asyncmgr._service.service import insight_of
from asyncmgr.errors import RemoteError
from asyncmgr.events import LoopBlocked
from asyncmgr.transports import open_transport

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


class Volumes(Manager):
    error: BaseException | None = None
    lasts = 0.0

    @periodic_task(spacing=10, timeout=5)
    async def sync(self, context: RunContext) -> None:
        await asyncio.sleep(self.lasts)
        if self.error:
            raise self.error

    @rpc
    async def double(self, number: int) -> int:
        if number < 0:
            raise ValueError(number)
        return 2 * number

    @rpc
    async def trace_id(self) -> str | None:
        return current_call().trace.get("traceparent")


class Recorder:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    before = outgoing.read, outgoing.around
    recorder = Recorder()
    yield recorder
    outgoing.read, outgoing.around = before
    recorder.provider.shutdown()


def service_of(recorder: Recorder, *managers: Manager) -> Service:
    service = Service(*managers, host="nyx", name="compute", settings=Settings(seed=1))
    asyncmgr.trace(service, tracer_provider=recorder.provider)
    return service


def context_of(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


async def test_a_span_of_each_run(recorder: Recorder) -> None:
    """Each begins a trace, and has the facts of the run."""
    async with service_of(recorder, Volumes()):
        await asyncio.sleep(25)
    first, second = recorder.spans()
    assert first.name == "Volumes.sync"
    assert first.attributes is not None
    assert first.attributes["asyncmgr.task"] == "Volumes.sync"
    assert first.attributes["asyncmgr.slot"] == "2026-01-01T00:00:10+00:00"
    assert first.attributes["asyncmgr.trigger"] == "schedule"
    assert first.attributes["asyncmgr.fate"] == "succeeded"
    assert first.kind is SpanKind.INTERNAL
    assert parent_of(first) is None
    assert context_of(first)[0] != context_of(second)[0]


@pytest.mark.parametrize(
    ("error", "fate", "status"),
    [
        (ValueError("no disk"), "failed", StatusCode.ERROR),
        (Skip("no news"), "nothing", StatusCode.UNSET),
        (asyncio.CancelledError(), "cancelled", StatusCode.UNSET),
    ],
)
async def test_fates(recorder: Recorder, error: BaseException, fate: str, status: StatusCode) -> None:
    """A failure has its error; a run with nothing to do is none."""
    volumes = Volumes()
    volumes.error = error
    async with service_of(recorder, volumes):
        await asyncio.sleep(15)
    (span,) = recorder.spans()
    assert span.attributes is not None
    assert (span.attributes["asyncmgr.fate"], span.status.status_code) == (fate, status)
    assert [event.name for event in span.events] == (["exception"] if fate == "failed" else [])


async def test_a_timeout(recorder: Recorder) -> None:
    """The judge of the runner says so."""
    volumes = Volumes()
    volumes.lasts = 60
    async with service_of(recorder, volumes):
        await asyncio.sleep(17)
    (span,) = recorder.spans()
    assert span.attributes is not None
    assert (span.attributes["asyncmgr.fate"], span.attributes["error.type"]) == ("timed_out", "TimeoutError")


async def test_each_attempt_has_a_span(recorder: Recorder) -> None:
    """With its number, and how it ended."""

    class Flaky(Manager):
        @periodic_task(spacing=60, retry=Retry(2, delay=1))
        async def pull(self, context: RunContext) -> None:
            if context.attempt == 1:
                raise ValueError("not yet")

    async with service_of(recorder, Flaky()):
        await asyncio.sleep(65)
    told = [dict(span.attributes or {}) for span in recorder.spans()]
    assert [(one["asyncmgr.attempt"], one["asyncmgr.fate"]) for one in told] == [
        (1, "failed"),
        (2, "succeeded"),
    ]
    assert told[0]["asyncmgr.run_id"] == told[1]["asyncmgr.run_id"]


async def test_the_span_is_the_present_one_in_the_body(recorder: Recorder) -> None:
    """So that what the body does is part of it; afterwards there is none."""
    seen = []

    class Looking(Manager):
        @periodic_task(spacing=10)
        async def look(self, context: RunContext) -> None:
            await asyncio.sleep(1)
            seen.append(get_current_span().get_span_context().span_id)

    async with service_of(recorder, Looking()):
        await asyncio.sleep(15)
    (span,) = recorder.spans()
    assert seen == [context_of(span)[1]]
    assert not get_current_span().get_span_context().is_valid


async def test_a_call_is_part_of_its_callers_trace(recorder: Recorder) -> None:
    """From a program that is no service to the method that serves the call."""
    tracer = recorder.provider.get_tracer("test")
    async with open_transport("memory://") as transport:
        service = Service(
            Volumes(), host="nyx", name="compute", settings=Settings(seed=1), transport=transport
        )
        asyncmgr.trace(service, tracer_provider=recorder.provider)
        async with service:
            client = RpcClient(transport, "compute")
            with tracer.start_as_current_span("web request") as outer:
                assert await client.call("double", number=2) == 4
                told = await client.call("trace_id")
                with pytest.raises(RemoteError):
                    await client.call("double", number=-1)
            await client.call("double", number=1)
    served = [span for span in recorder.spans() if span.kind is SpanKind.SERVER]
    made = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    mine = outer.get_span_context()
    assert [parent_of(span) for span in made[:3]] == [(mine.trace_id, mine.span_id)] * 3
    assert [parent_of(span) for span in served] == [context_of(span) for span in made]
    trace_id, span_id = context_of(made[1])
    assert told.split("-")[1:3] == [f"{trace_id:032x}", f"{span_id:016x}"]
    assert served[2].status.status_code is StatusCode.ERROR
    assert served[0].attributes is not None
    assert served[0].attributes["rpc.method"] == "Volumes.double"
    assert parent_of(made[3]) is None  # it begins a trace of its own
    assert dict(made[0].attributes or {}) == {
        "rpc.system": "asyncmgr",
        "rpc.service": "compute",
        "rpc.method": "double",
    }
    assert made[2].attributes is not None
    assert (made[2].attributes["error.type"], made[2].status.status_code) == ("ValueError", StatusCode.ERROR)


async def test_a_run_a_call_and_what_serves_it_are_one_trace(recorder: Recorder) -> None:
    """Over two services: the run of one, its call, the method of the other; a cast too."""

    class Front(Manager):
        @periodic_task(spacing=60)
        async def ask(self, context: RunContext) -> None:
            assert self.service is not None
            client = RpcClient(self.service.transport, "compute").at(host="nyx")
            await client.call("double", number=2)
            await client.cast("double", number=3)

    async with open_transport("memory://") as transport:
        back = Service(Volumes(), host="nyx", name="compute", settings=Settings(seed=1), transport=transport)
        front = Service(Front(), host="eos", name="front", settings=Settings(seed=1), transport=transport)
        asyncmgr.trace(back, tracer_provider=recorder.provider)
        asyncmgr.trace(front, tracer_provider=recorder.provider)
        async with back, front:
            await asyncio.sleep(61)
    by_kind = {
        kind: [span for span in recorder.spans() if span.kind is kind]
        for kind in (SpanKind.SERVER, SpanKind.CLIENT)
    }
    (run,) = [span for span in recorder.spans() if span.name == "Front.ask"]
    assert [parent_of(span) for span in by_kind[SpanKind.CLIENT]] == [context_of(run)] * 2
    assert [parent_of(span) for span in by_kind[SpanKind.SERVER]] == [
        context_of(span) for span in by_kind[SpanKind.CLIENT]
    ]
    assert dict(by_kind[SpanKind.CLIENT][0].attributes or {})["server.address"] == "nyx"


async def test_a_blocked_loop_is_an_event_of_the_runs_in_progress(recorder: Recorder) -> None:
    """With its length."""
    volumes = Volumes()
    volumes.lasts = 3
    async with service_of(recorder, volumes) as service:
        await asyncio.sleep(11)
        began = datetime(2026, 1, 1, tzinfo=UTC)
        block = LoopBlocked("Volumes.sync", None, "computing", "render at reports.py:212", began, 1.5, 1.4)
        insight_of(service).reporter.listeners.tell(block)
        insight_of(service).reporter.listeners.tell(replace(block, run_id="another"))
        await asyncio.sleep(5)
    (span,) = recorder.spans()
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        (
            BLOCKED,
            {"asyncmgr.kind": "computing", "asyncmgr.seconds": 1.5, "code.where": "render at reports.py:212"},
        )
    ]


def test_a_trace_that_makes_no_sense_refuses_no_call() -> None:
    """It is left out."""
    assert read_trace({"traceparent": 7, "tracestate": "x" * 600}) == {}
    request = decode_request(b'{"v": 1, "id": "a", "method": "m", "traceparent": [], "tracestate": "a=b"}')
    assert isinstance(request, Request)
    assert dict(request.trace) == {"tracestate": "a=b"}


async def test_without_it_a_call_carries_nothing() -> None:
    """And nothing of OpenTelemetry is imported, though it is installed."""
    assert outgoing.read is None
    request = Request("a", "m", None, "1.0", {}, None, None, (), outgoing.fields())
    assert b"trace" not in request.encode()
    code = (
        "import asyncio, sys, asyncmgr\n"
        "class M(asyncmgr.Manager):\n"
        "    @asyncmgr.periodic_task(spacing=0.01)\n"
        "    async def tick(self, context): ...\n"
        "async def main():\n"
        "    async with asyncmgr.Service(M()): await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'starlette', 'uvicorn', "
        "'prometheus', 'asyncmgr._monitoring'))])"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
