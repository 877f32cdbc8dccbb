"""`web`: one ASGI application with health, metrics, the verbs and the page of a service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from asyncmgr._common.safe_text import printable
from asyncmgr._monitoring.detail import detail_of
from asyncmgr._monitoring.exposition import OPENMETRICS, PROMETHEUS, wants_openmetrics
from asyncmgr._monitoring.guard import HEADER, Guard
from asyncmgr._monitoring.metrics import metrics_of
from asyncmgr._monitoring.neighbours import Neighbours
from asyncmgr._monitoring.page import document
from asyncmgr._monitoring.readers import EventStream
from asyncmgr._monitoring.stream import Feed
from asyncmgr._monitoring.streams import Streams
from asyncmgr._service.health import Verdict, as_json, judge, live, ready
from asyncmgr._service.service import Service, insight_of
from asyncmgr._tasks.actions import Actor
from asyncmgr.errors import AsyncmgrError, MissingExtra

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

LONGEST_BODY = 64 * 1024
"""Bytes of a request for a verb."""

_VERBS_ELSEWHERE = ("trigger", "pause", "resume", "reschedule", "enable", "disable", "cancel")

LONGEST_STREAM = 30.0
"""Seconds after which an event stream ends where the application is mounted in another one."""

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the link with the token must not reach anybody
}


def web(
    service: Service,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    longest_stream: float | None = LONGEST_STREAM,
) -> Web:
    """Make the ASGI application of a service: ``app.mount("/jobs", asyncmgr.web(service))``.

    Make it before the service starts: its metrics count from then on. It has ``/livez``, ``/readyz``, ``/health``,
    ``/metrics``, the verbs at ``/api/VERB``, and a page at ``/``.

    Parameters
    ----------
    token
        What a program or browser has to know to use verbs such as `pause`. Default: the setting
        ``[monitoring] http_token``; without one the application only reads.
    hosts
        Names under which requests may come, beside ``localhost`` and addresses; ``*`` = any. `None`: the application
        around it looks at the ``Host``.
    longest_stream
        Seconds after which an event stream ends, so that the server around it can stop; `None` = never.

    Raises
    ------
    MissingExtra
        starlette is not installed.
    """
    if token is None and service.settings.monitoring.http_token is not None:
        token = service.settings.monitoring.http_token.get_secret_value()
    return Web(service, Guard(token, hosts, salt=f"{service.name}/{service.host}"), Streams(longest_stream))


class Web:
    """The ASGI application."""

    def __init__(self, service: Service, guard: Guard, streams: Streams) -> None:
        self.service = service
        self.guard = guard
        self.streams = streams
        self._insight = insight_of(service)
        self._metrics = metrics_of(service)
        self._neighbours = Neighbours(service)
        self._feed = Feed(service, self._insight, self._neighbours)
        self._app = self._routed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _routed(self) -> Starlette:
        try:
            from starlette.applications import Starlette
            from starlette.routing import Route
        except ImportError as exc:
            raise MissingExtra("asyncmgr.web needs starlette: pip install 'asyncmgr[web]'") from exc
        paths = {
            "/": self._page,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/health": self._health,
            "/metrics": self._write_metrics,
            "/events": self._events,
            "/detail": self._detail,
            "/api/{verb}": self._read,
        }
        routes = [Route(path, self._guarded(answer), methods=["GET"]) for path, answer in paths.items()]
        return Starlette(routes=[*routes, Route("/api/{verb}", self._guarded(self._steer), methods=["POST"])])

    def _guarded(self, answer: Any) -> Any:
        """Answer only requests whose ``Host`` is known."""

        async def guarded(request: Request) -> Response:
            refusal = self.guard.refuse_host(request.headers.get("host", ""))
            if refusal is not None:
                return _json({"ok": False, "error": "NotAllowed", "text": refusal}, 403)
            response: Response = await answer(request)
            return response

        return guarded

    # Health

    async def _livez(self, request: Request) -> Response:
        return _verdict(live(self._insight.facts()))

    async def _readyz(self, request: Request) -> Response:
        return _verdict(ready(self._insight.facts()))

    async def _health(self, request: Request) -> Response:
        for survey in self._insight.surveys():
            last = survey
            await asyncio.sleep(0)
        report = judge(self._insight.facts(), last)
        return _json(as_json(report), 200 if report.ok else 503)

    # Metrics

    async def _write_metrics(self, request: Request) -> Response:
        from starlette.responses import StreamingResponse

        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        return StreamingResponse(
            self._metrics.chunks(openmetrics=openmetrics),
            headers={**_HEADERS, "Content-Type": OPENMETRICS if openmetrics else PROMETHEUS},
        )

    # The page

    async def _page(self, request: Request) -> Response:
        from starlette.responses import RedirectResponse, Response

        given = request.query_params.get("token")
        if given is None:
            html, packed, policy = document()
            headers = {**_HEADERS, "Content-Security-Policy": policy, "Vary": "Accept-Encoding"}
            if "gzip" in request.headers.get("accept-encoding", ""):
                return Response(
                    packed, headers={**headers, "Content-Encoding": "gzip"}, media_type="text/html"
                )
            return Response(html, headers=headers, media_type="text/html")
        if not self.guard.knows(given):
            return _json({"ok": False, "error": "NotAllowed", "text": "this is not the token"}, 403)
        # The token goes out of the address, and so out of the history and of what is copied from it. Relative, and a
        # cookie without a path: what is in front of this may take a prefix off that only the browser knows.
        response = RedirectResponse("./", 303, headers=_HEADERS)
        response.set_cookie(
            self.guard.cookie,
            self.guard.ticket,
            path=None,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def _events(self, request: Request) -> EventStream:
        asked = request.query_params
        span = int(asked["span"]) if asked.get("span", "").isdecimal() else 3600
        may_steer = self._refusal(request, header="") is None
        events = self._feed.follow(span, asked.get("last", ""), verbs=may_steer)
        return EventStream(self.streams.until_closed(events), _HEADERS)

    async def _detail(self, request: Request) -> Response:
        asked = request.query_params
        task, host, at = asked.get("task", ""), asked.get("host", ""), asked.get("at")
        try:
            found = await detail_of(self.service, self._insight, self._neighbours, task, host, at)
        except AsyncmgrError as exc:
            return _json({"ok": False, "error": type(exc).__name__, "text": str(exc)}, 400)
        return _json({"ok": True, **found}, 200)

    # The verbs

    async def _read(self, request: Request) -> Response:
        verb = request.path_params["verb"]
        if not self.service.control.reads(verb):
            text = f"{printable(verb, 60)} is no verb that only reads; others need POST"
            return _json({"ok": False, "error": "NotAllowed", "text": text}, 405)
        arguments = {name: _read_text(value) for name, value in request.query_params.items()}
        return await self._perform(verb, arguments, request)

    async def _steer(self, request: Request) -> Response:
        refusal = self._refusal(request, request.headers.get(HEADER))
        if refusal is not None:
            return _json({"ok": False, "error": "NotAllowed", "text": refusal}, 403)
        body = await _read_body(request)
        if not isinstance(body, dict):
            text = f"the body has to be a JSON object of up to {LONGEST_BODY} bytes"
            return _json({"ok": False, "error": "InvalidRequest", "text": text}, 400)
        return await self._perform(request.path_params["verb"], body, request)

    def _refusal(self, request: Request, header: str | None) -> str | None:
        return self.guard.refuse_verb(
            cookie=request.cookies.get(self.guard.cookie),
            authorization=request.headers.get("authorization"),
            header=header,
        )

    async def _perform(self, verb: str, arguments: Mapping[str, Any], request: Request) -> Response:
        where = "somewhere" if request.client is None else request.client.host
        who = Actor(f"a browser or program at {printable(where, 60)}", "http")
        host = arguments.get("host")
        arguments = {name: value for name, value in arguments.items() if name != "host"}
        if isinstance(host, str) and host not in ("", self.service.host):
            return await self._perform_there(host, verb, arguments, who)
        answer = await self.service.control.answer({**arguments, "verb": verb}, who)
        if answer["ok"]:
            return _json(answer, 200)
        return _json(answer, 400 if answer["error"] == "InvalidRequest" else 409)

    async def _perform_there(
        self, host: str, verb: str, arguments: Mapping[str, Any], who: Actor
    ) -> Response:
        """Have another host of the service do it."""
        if verb not in _VERBS_ELSEWHERE:
            text = (
                f"{printable(verb, 60)} is no verb for another host; there are {', '.join(_VERBS_ELSEWHERE)}"
            )
            return _json({"ok": False, "error": "InvalidRequest", "text": text}, 400)
        try:
            answer = await self._neighbours.perform(
                host, verb, arguments, f"{who.name} via {self.service.host}"
            )
        except AsyncmgrError as exc:
            return _json({"ok": False, "error": type(exc).__name__, "text": str(exc)}, 409)
        return _json({"ok": True, **answer}, 200)


async def _read_body(request: Request) -> object:
    """Read the body as JSON; `None` = it is too long or no JSON. An empty one is an empty object."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LONGEST_BODY:
            return None
    try:
        read: object = json.loads(data or b"{}")
    except ValueError:
        return None
    return read


def _read_text(value: str) -> object:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else value


def _verdict(verdict: Verdict) -> Response:
    return _json({"ok": verdict.ok, "reason": verdict.reason}, 200 if verdict.ok else 503)


def _json(value: object, status: int) -> Response:
    from starlette.responses import Response

    text = json.dumps(value, ensure_ascii=False) + "\n"
    return Response(text, status, headers=_HEADERS, media_type="application/json")
