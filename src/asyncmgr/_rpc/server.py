"""Serves calls: reads requests from the transport, runs the methods that `admission` lets begin, and sends replies.

A request is read at once, and then waits for one of the places (the setting `rpc_concurrency`). Every request gets one
reply, unless its caller withdraws it. A request is refused if it comes faster than requests can be read, or if too many
others wait. No request, and nothing that a method raises, stops the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, TypeAlias

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.deadlines import Deadlines
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text, printable, safe_str, type_name
from asyncmgr._rpc.admission import Admission
from asyncmgr._rpc.context import Caller, served
from asyncmgr._rpc.declare import callable_methods
from asyncmgr._rpc.floods import Counts, kind_of_error
from asyncmgr._rpc.messages import (
    SERVERS,
    TEXT_LIMIT,
    Request,
    Withdrawal,
    decode_request,
    encode_error,
    encode_result,
    subject_of_all,
    subject_of_any,
    subject_of_host,
    withdrawn_id,
)
from asyncmgr._rpc.served_call import Cause, Needs, ServedCall, in_words, is_refusal
from asyncmgr._rpc.validation import Method
from asyncmgr._rpc.values import check_secrets
from asyncmgr._rpc.versions import Endpoint, choose, parse_version
from asyncmgr.errors import (
    InvalidRpcMethod,
    MessageTooLarge,
    NoSuchMethod,
    NotAllowed,
    RemoteError,
    RpcError,
    RpcTimeout,
    ServiceBusy,
    UnsupportedVersion,
)
from asyncmgr.transports._base import Transport
from asyncmgr.transports._retries import Retries
from asyncmgr.transports._streams import Message, Subscription

ANSWER_WITHIN = 5.0
"""Seconds that the transport may take to subscribe, and again to unsubscribe."""

_CHOICES_KEPT = 256

_AT_ONCE = 50
"""Requests that are taken before other code gets its turn."""

_REFUSED_AT_ONCE = 500
"""Refusals that are sent before other code gets its turn. Many, because they must keep pace with the requests."""

_UNREAD_KEPT = 1024 * 1024
"""Unread requests whose refusal has not been sent: at most 100 MB of subjects. Requests beyond these get no reply."""


def endpoint_of(manager: Any) -> Endpoint[Method]:
    """Gather the `@rpc` methods of a manager into the interface that `CallServer` serves.

    Raises
    ------
    InvalidRpcMethod
        The manager's version is malformed, or a type hint cannot be resolved.
    """
    version, namespace = manager.RPC_API_VERSION, manager.RPC_API_NAMESPACE
    try:
        parse_version(version)
    except (TypeError, ValueError) as exc:
        raise InvalidRpcMethod(f"{manager.name}.RPC_API_VERSION: {exc}") from None
    methods = {
        name: Method(getattr(manager, name), f"{manager.name}.{name}")
        for name in callable_methods(type(manager))
    }
    return Endpoint(manager.name, namespace, version, methods)


Code: TypeAlias = Literal["ok", "error", "timeout", "withdrawn", "stopping", "busy", "refused"]
"""How a call ended. `busy`: the host is at its limits. `refused`: there is no such method, or an argument is wrong."""

Observe: TypeAlias = Callable[[str, Code, float | None], object]
"""Is told the full name of a method (`UNKNOWN` for one that is not served), how the call ended, and its duration in
seconds; `None` = it never began. It raises nothing."""

UNKNOWN = "(unknown)"


def builtin_endpoint_of(inside: Any) -> Endpoint[Method]:
    """Gather the methods that every service has; their checks are made once in a process, which takes pydantic 5 ms."""
    kind = type(inside)
    if kind not in _BUILTINS:
        made = endpoint_of(inside)
        # Without the object, which would live on.
        methods = {name: method.bound_to(_nothing) for name, method in made.methods.items()}
        _BUILTINS[kind] = replace(made, methods=methods)
    made = _BUILTINS[kind]
    methods = {name: method.bound_to(getattr(inside, name)) for name, method in made.methods.items()}
    return replace(made, methods=methods)


_BUILTINS: dict[type, Endpoint[Method]] = {}


async def _nothing() -> None:
    """Stand for a method of no object."""


class CallServer:
    """Serves the calls of one service instance.

    Parameters
    ----------
    endpoints
        The interfaces that are served, in the order in which they are tried.
    builtin
        The interface that every service has.
    places
        How many methods run at once.
    context
        The variables that every method gets a copy of.
    on_exit
        Called with the `SystemExit` or `KeyboardInterrupt` that a method raised.
    """

    def __init__(
        self,
        transport: Transport,
        this: Caller,
        endpoints: Sequence[Endpoint[Method]],
        builtin: Endpoint[Method],
        *,
        places: int,
        context: contextvars.Context,
        on_exit: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._service, self._host = this.service or "", this.host
        # Callers ask for the same few methods again and again. Errors are not cached.
        self._choose = lru_cache(_CHOICES_KEPT)(partial(choose, (*endpoints, builtin)))
        self._builtin = builtin
        self._context = context
        self._on_exit = on_exit
        self._admission = Admission(self._host, places, self._start)
        self._running: set[ServedCall] = set()
        self._by_id: dict[str, ServedCall] = {}
        self._unread: deque[str] = deque(maxlen=_UNREAD_KEPT)
        """The reply subjects of requests that were dropped unread."""
        self._deadlines: Deadlines[ServedCall] = Deadlines(lambda call: self._cancel(call, "timed_out"))
        self._counts = Counts()
        self.methods: tuple[str, ...] = tuple(
            method.name for endpoint in (*endpoints, builtin) for method in endpoint.methods.values()
        )
        """The full names of all methods that are served."""
        self.observe: Observe | None = None
        """Is told of each call that has ended or was refused; `None` = nobody counts them."""
        self.around: Callable[[ServedCall], AbstractContextManager[object]] | None = None
        """Is entered around each method that runs; `None` = there is nothing around it."""
        self._tried = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # Called by the service

    async def start(self) -> None:
        """Begin to serve; if the transport is down, as soon as it is back."""
        self._task = asyncio.create_task(self._serve(), name=f"asyncmgr calls of {self._service}")
        await self._tried.wait()

    async def close(self) -> None:
        """Stop reading requests. Requests that have already arrived are still served."""
        self._closing.set()
        if self._task is not None:
            try:
                await asyncio.wait({self._task}, timeout=ANSWER_WITHIN)
            finally:
                self._task.cancel()

    @property
    def waiting(self) -> frozenset[ServedCall]:
        """The calls that have arrived and not ended."""
        return frozenset((*self._admission, *self._running))

    def cancel(self, calls: Iterable[ServedCall]) -> None:
        """Ask these calls to end. Calls that wait for a place are refused."""
        for call in calls:
            self._cancel(call, "stopping")

    def give_up(self) -> frozenset[ServedCall]:
        """Log the calls that did not end although they were cancelled, and return them."""
        for call in self._running:
            log.error("call.leaked", **call.keys)
        return frozenset(self._running)

    # Reading requests

    async def _serve(self) -> None:
        spread = random.Random(zlib.crc32(f"{self._service}/{self._host}".encode()))
        keys = {"service": self._service, "host": self._host}
        with Retries(self._transport, "rpc.failed", "rpc.resumed", spread=spread, **keys) as retries:
            while not self._closing.is_set():
                try:
                    async with contextlib.AsyncExitStack() as subscribed:
                        subscriptions = await self._subscribe(subscribed)
                        retries.succeeded()
                        self._tried.set()
                        readers = [asyncio.create_task(self._read(each)) for each in subscriptions]
                        await self._closing.wait()
                    await asyncio.wait(readers)
                except (Exception, asyncio.CancelledError) as exc:
                    if is_cancelled():
                        raise
                    retries.failed(exc)  # whatever the transport raised, the next try is planned
                self._tried.set()
                await self._pause(retries)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects on which calls of this service and host arrive."""
        return (
            subject_of_any(self._service),
            subject_of_host(self._service, self._host),
            subject_of_all(self._service),
        )

    async def _subscribe(self, stack: contextlib.AsyncExitStack) -> list[Subscription]:
        subscribe = self._transport.subscribe
        async with asyncio.timeout(ANSWER_WITHIN):
            subscriptions = [
                await stack.enter_async_context(subscribe(subject, group=group))
                for subject, group in zip(self.subjects, (SERVERS, SERVERS, None), strict=True)
            ]
        for subscription in subscriptions:
            subscription.take_at_once = self._take_withdrawal
            subscription.on_drop = self._note_unread
        return subscriptions

    async def _pause(self, retries: Retries) -> None:
        """Wait until the next try is due or the server closes."""
        waits = [asyncio.ensure_future(wait) for wait in (retries.due(), self._closing.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _read(self, subscription: Subscription) -> None:
        taken = 0
        async for message in subscription:
            await self._take(message)
            taken += 1
            if taken % _AT_ONCE == 0:
                await self._refuse_unread()
                await asyncio.sleep(0)
        await self._refuse_unread()

    def _note_unread(self, message: Message) -> None:
        if message.reply_to is not None:
            self._unread.append(message.reply_to)

    async def _refuse_unread(self) -> None:
        refusal = ServiceBusy(f"{self._host} gets more requests than it can read; try later")
        refused = 0
        while self._unread:
            await self._reply(self._unread.popleft(), refusal)
            self._note_end(UNKNOWN, "busy")
            refused += 1
            if refused % _REFUSED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _take_withdrawal(self, message: Message) -> bool:
        """Handle a withdrawal on arrival, before queued requests begin. Returns False for any other message."""
        call_id = withdrawn_id(message.data)
        if call_id is not None:
            self._withdraw(call_id)
        return call_id is not None

    async def _take(self, message: Message) -> None:
        """Start, queue or refuse the call that a message asks for. Raises nothing."""
        try:
            request = decode_request(message.data)
        except ValueError as exc:
            self._note_malformed(message.subject, exc)
            return await self._reply(message.reply_to, RpcError(f"the request cannot be read: {exc}"))
        if isinstance(request, Withdrawal):
            return self._withdraw(request.id)
        try:
            self._admit(request, message)
        except RpcError as exc:
            self._note_end(self._name_of(request, exc), "busy" if isinstance(exc, ServiceBusy) else "refused")
            self._note_refused(request, message.reply_to, exc)
            await self._reply(message.reply_to, exc)
        except BaseException as exc:  # raised by the type of an argument; nothing here awaits
            caller = in_words(request.caller)
            keys = {"method": printable(request.method), "id": printable(request.id), "caller": caller}
            await self._reply(message.reply_to, self._note_failure(keys, exc))
            if isinstance(exc, KeyboardInterrupt):
                self._on_exit(exc)
        return None

    def _note_end(self, method: str, code: Code, duration: float | None = None) -> None:
        if self.observe is not None:
            self.observe(method, code, duration)

    def _name_of(self, request: Request, refusal: RpcError) -> str:
        """Find the full name of the method that a refused request asks for."""
        if self.observe is None or isinstance(refusal, NoSuchMethod | UnsupportedVersion):
            return UNKNOWN
        try:
            endpoint = self._choose(request.method, request.version, request.namespace)
        except RpcError:
            return UNKNOWN
        return endpoint.methods[request.method].name

    def _note_malformed(self, subject: str, error: ValueError) -> None:
        if count := self._counts.note("malformed"):
            log.warning("request.malformed", subject=subject, error=safe_str(error), count=count)

    def _note_refused(self, request: Request, reply_to: str | None, error: RpcError) -> None:
        """Log a cast that was refused. Other callers get the error as their reply."""
        if reply_to is None and (count := self._counts.note("cast refused")):
            log.warning(
                "cast.refused",
                method=printable(request.method),
                id=printable(request.id),
                caller=in_words(request.caller),
                error=safe_str(error),
                count=count,
            )

    def _admit(self, request: Request, message: Message) -> None:
        """Start the call or queue it; raises the `RpcError` that refuses it."""
        if self._admission.was_withdrawn(request.id):
            return
        endpoint = self._choose(request.method, request.version, request.namespace)
        needs = self._needs_of(request, endpoint)
        self._admission.check(needs)
        method = endpoint.methods[request.method]
        call = ServedCall(
            request,
            method,
            method.read(request.arguments, message.data),
            arrived=min(message.arrived, self._loop.time()),
            needs=needs,
            reply_to=message.reply_to,
        )
        self._by_id[call.facts.id] = call
        if call.facts.deadline < math.inf:
            self._deadlines.add(call, call.facts.deadline)
        self._admission.admit(call)

    def _needs_of(self, request: Request, endpoint: Endpoint[Method]) -> Needs:
        if endpoint is self._builtin:
            return Needs.NOTHING
        # A call of this service, here or on another host, holds a place until this one has ended.
        return Needs.NESTED if self._service in request.through else Needs.PLACE

    def _withdraw(self, call_id: str) -> None:
        call = self._by_id.get(call_id)
        if call is None:
            self._admission.note_withdrawal(call_id)
        else:
            self._cancel(call, "withdrawn")

    def _cancel(self, call: ServedCall, cause: Cause) -> None:
        """End a call, whether it has begun or not. The first cause counts."""
        if call.cause is not None and cause != "stopping":
            return  # a caller withdraws at its deadline, which passes here too; its method may be cleaning up
        call.cause = call.cause or cause
        if self._admission.drop(call):
            if cause == "withdrawn":
                self._note_end(call.full_name, "withdrawn")
                self._end(call)
            else:
                self._start(call)  # only to send the reply
        elif call.future is not None and call.begun:
            call.future.cancel()
        # A call that has not begun sees its cause when it begins; a task cancelled before that would send no reply.

    # Running methods

    def _start(self, call: ServedCall) -> None:
        context = self._context.copy()
        context.run(served.set, call.facts)
        name = f"{call.full_name} {printable(call.facts.id)}"
        call.future = asyncio.Task(self._run(call), loop=self._loop, name=name, context=context)
        call.future.add_done_callback(lambda _: self._end(call))
        self._running.add(call)

    def _end(self, call: ServedCall) -> None:
        self._running.discard(call)
        if call.place is not None:
            self._deadlines.remove(call)
        if self._by_id.get(call.facts.id) is call:
            del self._by_id[call.facts.id]
        self._admission.release(call)

    async def _run(self, call: ServedCall) -> None:
        if not call.facts.remaining:
            call.cause = call.cause or "timed_out"  # the loop was blocked until after the deadline
        call.begun = True
        began = self._loop.time()
        reply = self._explain_end(call) if call.cause else await self._perform(call)
        call.failed = isinstance(reply, RpcError) and call.cause != "stopping" and not call.refused
        self._note_end(call.full_name, _code_of(call, reply), self._loop.time() - began)
        if reply is not None:
            await self._reply(call.reply_to, reply, within=call.facts.remaining)

    async def _perform(self, call: ServedCall) -> bytes | RpcError | None:
        """Run the method. Returns its reply, or `None` if nobody waits for one."""
        try:
            with nullcontext() if self.around is None else self.around(call):
                result = await call.method.function(**call.arguments)
            reply = encode_result(call.method.write(result))
            check_secrets(result, reply)
            return reply
        except asyncio.CancelledError as exc:
            # Without a cause, other code cancelled the task, or the method raised this by itself.
            return self._note_failure(call.keys, exc) if call.cause is None else self._explain_end(call)
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as exc:
            if isinstance(exc, SystemExit | KeyboardInterrupt):
                self._on_exit(exc)
            if call.needs is Needs.NOTHING and is_refusal(exc):
                return self._note_refusal(call, exc)
            return self._note_failure(call.keys, exc)

    def _explain_end(self, call: ServedCall) -> RpcError | None:
        """Make the reply to a call that was cancelled, or that never began."""
        if call.cause == "timed_out":
            if count := self._counts.note(("timed out", call.full_name)):
                log.warning("call.timed_out", **call.keys, count=count)
            return RpcTimeout(f"{call.full_name} did not end within the time that the caller gave it")
        return _STOPPING if call.cause == "stopping" else None

    def _note_failure(self, keys: dict[str, Any], error: BaseException) -> RpcError:
        """Log what a method raised, the first of its kind with a traceback. Returns the error for the caller."""
        if count := self._counts.note((keys["method"], kind_of_error(error))):
            trace = {"exc_info": error} if count == 1 else {}
            log.error("call.failed", **keys, error=error_text(error), count=count, **trace)
        return RemoteError(type_name(error), safe_str(error, TEXT_LIMIT))

    def _note_refusal(self, call: ServedCall, error: BaseException) -> RpcError:
        """Log that the service's own interface said no, which is the caller's error. Returns it for the caller."""
        call.refused = True
        if count := self._counts.note((call.full_name, "refused", kind_of_error(error))):
            said = {**call.keys, "error": error_text(error), "count": count}
            if isinstance(error, NotAllowed):
                log.warning("call.refused", **said)
            else:
                log.info("call.refused", **said)
        return RemoteError(type_name(error), safe_str(error, TEXT_LIMIT))

    async def _reply(self, subject: str | None, reply: bytes | RpcError, *, within: float = 0.0) -> None:
        """Send a reply if one is wanted. Waits at most `within` seconds for a lost connection to come back.

        If the transport does not take the reply, the caller runs into its deadline.
        """
        if subject is None:
            return
        if subject.startswith("$"):  # the NATS server's own: it might take a reply for a command
            log.debug("reply.refused", service=self._service, host=self._host, subject=printable(subject))
            return
        try:
            raw = reply if isinstance(reply, bytes) else encode_error(reply)
            await self._transport.reply(subject, raw, within=within)
        except MessageTooLarge as exc:
            await self._reply(subject, RemoteError(type_name(exc), safe_str(exc)))
        except Exception as exc:
            log.debug("reply.lost", service=self._service, host=self._host, error=error_text(exc))


def _code_of(call: ServedCall, reply: bytes | RpcError | None) -> Code:
    if not isinstance(reply, RpcError):
        return "ok" if reply is not None else "withdrawn"
    if isinstance(reply, RpcTimeout):
        return "timeout"
    if call.refused:
        return "refused"
    return "stopping" if call.cause == "stopping" else "error"


_STOPPING = RemoteError("CancelledError", "the service stops")
