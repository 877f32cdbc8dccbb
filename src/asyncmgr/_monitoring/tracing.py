"""Makes an OpenTelemetry span of each run and each call, and carries traces with calls. Only its api is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncmgr._common.safe_text import error_text, type_name
from asyncmgr._rpc.traces import outgoing
from asyncmgr._service.service import Service, insight_of
from asyncmgr._service.version import own_version
from asyncmgr._tasks.runs import judge
from asyncmgr.errors import MissingExtra, RemoteError
from asyncmgr.events import Event, LoopBlocked, Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from asyncmgr._rpc.served_call import ServedCall
    from asyncmgr._rpc.server import CallServer
    from asyncmgr._tasks.runner import Runner
    from asyncmgr._tasks.runs import Run

BLOCKED = "asyncmgr.loop.blocked"
"""The event of the span of a run that blocked the event loop; where none is known, of the runs in progress."""


def trace(service: Service, *, tracer_provider: TracerProvider | None = None) -> None:
    """Make a span of each run and each served call of the service, from now on.

    Calls that this process makes, also those outside of the service, have a span each, and carry the trace to the host
    that serves them, whose span is then a part of it. A run begins a trace of its own.

    Parameters
    ----------
    tracer_provider
        Default: the global one.

    Raises
    ------
    MissingExtra
        opentelemetry-api is not installed.
    """
    try:
        from opentelemetry.trace import get_tracer
    except ImportError as exc:
        raise MissingExtra("asyncmgr.trace needs opentelemetry-api: pip install 'asyncmgr[otel]'") from exc
    insight = insight_of(service)
    if "tracing" in insight.parts:
        return
    spans = Spans(service.name, get_tracer("asyncmgr", own_version(), tracer_provider))
    insight.parts["tracing"] = spans
    service.add_listener(spans.note_block, LoopBlocked)
    insight.with_runner(spans.follow_runs)
    insight.with_server(spans.follow_calls)
    outgoing.read, outgoing.around = present_trace, spans.outgoing


def present_trace() -> Mapping[str, str]:
    """Read the present trace as W3C Trace Context writes it."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


class Spans:
    """The spans of one service."""

    def __init__(self, service: str, tracer: Tracer) -> None:
        self._service = service
        self._tracer = tracer
        self._open: dict[Run, Span] = {}

    def follow_runs(self, runner: Runner) -> None:
        """Make a span of each run; where it makes several attempts, of each of them."""
        runner.call_by(self.run)

    def follow_calls(self, server: CallServer) -> None:
        """Make a span of each served call."""
        server.around = self.call

    async def run(self, run: Run) -> None:
        """Call the body of a run inside a span, which begins a trace."""
        from opentelemetry.context import Context

        with self._tracer.start_as_current_span(
            run.full_name,
            Context(),
            attributes=_attributes_of(run),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            self._open[run] = span
            error: BaseException | None = None
            try:
                await run.managed.call(run)
            except BaseException as exc:
                error = exc
                raise
            finally:
                del self._open[run]
                _end(span, run, error)

    @contextmanager
    def call(self, call: ServedCall) -> Iterator[None]:
        """Make a span of a served call, in the trace of its caller."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        with self._tracer.start_as_current_span(
            call.full_name,
            TraceContextTextMapPropagator().extract(dict(call.facts.trace)),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "asyncmgr",
                "rpc.service": self._service,
                "rpc.method": call.full_name,
                "asyncmgr.call": call.facts.id,
            },
        ):
            yield

    @contextmanager
    def outgoing(self, service: str, host: str | None, method: str) -> Iterator[None]:
        """Make a span of a call to another service, in the present trace."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        attributes = {"rpc.system": "asyncmgr", "rpc.service": service, "rpc.method": method}
        if host is not None:
            attributes["server.address"] = host
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as exc:
                # The type that was raised there says more than `RemoteError`.
                span.set_attribute("error.type", exc.type if isinstance(exc, RemoteError) else type_name(exc))
                span.set_status(Status(StatusCode.ERROR, error_text(exc)))
                raise

    def note_block(self, event: Event) -> None:
        """Add an event to the span of the run that blocked the loop; where none is known, to those in progress."""
        if not isinstance(event, LoopBlocked):
            return
        facts = {
            "asyncmgr.kind": event.kind,
            "asyncmgr.seconds": round(event.seconds, 3),
            "code.where": event.where,
        }
        for run, span in self._open.items():
            if event.run_id in (None, run.run_id):
                span.add_event(BLOCKED, facts)


def _attributes_of(run: Run) -> dict[str, str | float | int]:
    found: dict[str, str | float | int] = {
        "asyncmgr.task": run.full_name,
        "asyncmgr.slot": run.slot.isoformat(),
        "asyncmgr.trigger": run.trigger,
        "asyncmgr.run_id": run.run_id,
        "asyncmgr.lateness": run.lateness,
        "asyncmgr.attempt": run.attempt,
    }
    if run.fencing_token is not None:
        found["asyncmgr.fencing_token"] = run.fencing_token
    return found


def _end(span: Span, run: Run, error: BaseException | None) -> None:
    from opentelemetry.trace import Status, StatusCode

    outcome, judged = judge(run, error)
    span.set_attribute("asyncmgr.fate", outcome.value)
    if outcome in (Outcome.FAILED, Outcome.TIMED_OUT) and judged is not None:
        span.set_attribute("error.type", type_name(judged))
        span.record_exception(judged)
        span.set_status(Status(StatusCode.ERROR, error_text(judged)))
