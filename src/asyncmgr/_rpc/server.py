"""Serves calls: takes requests off the transport, runs the methods, a bounded number at once, and replies.

A request is read at once and then waits for one of the places (the setting `rpc_concurrency`); one that finds
`WAITING_LIMIT` others waiting is refused, and so are those that come faster than they can be read. The service's own
interface needs no place, so that a busy host still answers there. Whatever a request holds and a method raises, the
service goes on.
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
from functools import lru_cache, partial
from typing import Any, Literal

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.deadlines import Deadlines
from asyncmgr._common.heap import NO_TICKET
from asyncmgr._common.log import is_reminder, log
from asyncmgr._rpc.context import Call, Caller, served
from asyncmgr._rpc.declare import callable_methods
from asyncmgr._rpc.messages import (
    SERVERS,
    Request,
    Withdrawal,
    decode_request,
    encode_error,
    encode_result,
    subject_of_all,
    subject_of_any,
    subject_of_host,
)
from asyncmgr._rpc.validation import Method
from asyncmgr._rpc.versions import Endpoint, choose, parse_version
from asyncmgr.errors import (
    InvalidRpcMethod,
    MessageTooLarge,
    RemoteError,
    RpcError,
    RpcTimeout,
    ServiceBusy,
)
from asyncmgr.transports._base import Transport
from asyncmgr.transports._retries import Retries
from asyncmgr.transports._streams import Message, Subscription

WAITING_LIMIT = 1024
"""Requests that wait for a place; one more is refused."""

ANSWER_WITHIN = 5.0
"""Seconds that the transport gets to subscribe, and again to leave."""

_CHOICES_KEPT = 256

_EARLY_KEPT = 1024
"""Withdrawals that are kept in case that they came before what they withdraw."""

_UNREAD_KEPT = 16 * 1024
"""Requests that are told to try later, of those that came faster than they could be read."""

_AT_ONCE = 50
"""Requests that are taken before other code gets its turn."""


def endpoint_of(manager: Any) -> Endpoint[Method]:
    """The interface of a manager: all its methods with `@rpc`, ready to be called.

    Raises
    ------
    InvalidRpcMethod
        Its version is none, or a type hint cannot be resolved.
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


class ServedCall:
    """One call from its request to its reply."""

    __slots__ = ("arguments", "begun", "cause", "facts", "has_place", "method", "reply_to", "task", "ticket")

    def __init__(
        self, request: Request, method: Method, arguments: dict[str, Any], reply_to: str | None
    ) -> None:
        timeout = math.inf if request.timeout is None else request.timeout
        self.facts: Call = Call(
            request.id,
            request.method,
            request.namespace,
            request.version,
            request.caller,
            deadline=asyncio.get_running_loop().time() + timeout,
        )
        self.arguments: dict[str, Any] = arguments
        self.method: Method = method
        self.reply_to: str | None = reply_to
        self.has_place: bool = False
        self.task: asyncio.Task[None] | None = None
        """`None` while it waits for a place."""
        self.begun: bool = False
        """Whether the task has made its first step."""
        self.ticket: int = NO_TICKET
        """Of its deadline."""
        self.cause: Literal["withdrawn", "stopping", "timed_out"] | None = None
        """Why it is cancelled: its caller wants no answer any more, the service stops, or its deadline passed."""

    @property
    def full_name(self) -> str:
        """``manager.method``."""
        return self.method.name


class CallServer:
    """The calls of one service instance.

    Parameters
    ----------
    endpoints
        What is served, in the order in which it is tried.
    inside
        The service's own interface.
    places
        So many methods run at once.
    context
        Holds the variables that every method gets a copy of.
    on_exit
        Is told of a method that raised `SystemExit` or `KeyboardInterrupt`.
    """

    def __init__(
        self,
        transport: Transport,
        this: Caller,
        endpoints: Sequence[Endpoint[Method]],
        inside: Endpoint[Method],
        *,
        places: int,
        context: contextvars.Context,
        on_exit: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._service, self._host = this.service or "", this.host
        # Callers ask for the same few methods again and again; errors are not kept.
        self._choose = lru_cache(_CHOICES_KEPT)(partial(choose, (*endpoints, inside)))
        self._inside = inside
        self._places = places
        self._context = context
        self._on_exit = on_exit
        self._waiting: deque[ServedCall] = deque()
        self._running: set[ServedCall] = set()
        self._by_id: dict[str, ServedCall] = {}
        self._early: dict[str, None] = {}
        """Withdrawn and not known, the oldest first."""
        self._unread: deque[str] = deque(maxlen=_UNREAD_KEPT)
        """Where those that were never read want their answer."""
        self._deadlines: Deadlines[ServedCall] = Deadlines(lambda call: self._cancel(call, "timed_out"))
        self._malformed = self._refused_casts = 0
        self._tried = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # What a service asks of it

    async def start(self) -> None:
        """Serve from now on, or, while the transport is down, as soon as it is back."""
        self._task = asyncio.create_task(self._serve(), name=f"asyncmgr calls of {self._service}")
        await self._tried.wait()

    async def close(self) -> None:
        """Take no more requests off the transport. What had come is served."""
        self._closing.set()
        if self._task is not None:
            try:
                await asyncio.wait({self._task}, timeout=ANSWER_WITHIN)
            finally:
                self._task.cancel()

    @property
    def waiting(self) -> frozenset[ServedCall]:
        """The calls that have come and not ended."""
        return frozenset((*self._waiting, *self._running))

    def cancel(self, calls: Iterable[ServedCall]) -> None:
        """Ask these calls to end; those that wait for a place are refused."""
        for call in calls:
            if call in self._waiting:
                self._waiting.remove(call)
                call.cause = "stopping"
                self._start(call)
            else:
                self._cancel(call, "stopping")

    def give_up(self) -> frozenset[ServedCall]:
        """Report the calls that did not end although they were cancelled."""
        for call in self._running:
            log.error("call.leaked", **_keys(call))
        return frozenset(self._running)

    # Taking requests

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

    async def _subscribe(self, stack: contextlib.AsyncExitStack) -> list[Subscription]:
        subscribe = self._transport.subscribe
        async with asyncio.timeout(ANSWER_WITHIN):
            subscriptions = [
                await stack.enter_async_context(subscribe(subject, group=group))
                for subject, group in (
                    (subject_of_any(self._service), SERVERS),
                    (subject_of_host(self._service, self._host), SERVERS),
                    (subject_of_all(self._service), None),
                )
            ]
        for subscription in subscriptions:
            subscription.on_drop = self._note_unread
        return subscriptions

    async def _pause(self, retries: Retries) -> None:
        """Wait for the time of the next try, or for the end."""
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
            refused += 1
            if refused % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _take(self, message: Message) -> None:
        """Start, keep or refuse what a message asks for. Raises nothing."""
        try:
            request = decode_request(message.data)
        except ValueError as exc:
            self._note_malformed(message.subject, exc)
            return await self._reply(message.reply_to, RpcError(f"the request cannot be read: {exc}"))
        if isinstance(request, Withdrawal):
            return self._withdraw(request.id)
        try:
            self._admit(request, message.reply_to)
        except RpcError as exc:
            self._note_refused(request, message.reply_to, exc)
            await self._reply(message.reply_to, exc)
        except BaseException as exc:  # from a type that an argument is validated by; nothing here awaits
            log.error("call.failed", method=request.method, id=request.id, exc_info=exc)
            if isinstance(exc, KeyboardInterrupt):
                self._on_exit(exc)
            await self._reply(message.reply_to, _remote(exc))
        return None

    # Of both kinds the first is told, the second, the fourth and so on: whoever sends them must not fill the log too.

    def _note_malformed(self, subject: str, error: ValueError) -> None:
        self._malformed += 1
        if is_reminder(self._malformed):
            log.warning("request.malformed", subject=subject, error=str(error), count=self._malformed)

    def _note_refused(self, request: Request, reply_to: str | None, error: RpcError) -> None:
        """A caller is told itself; of a cast that was refused nobody would know."""
        if reply_to is not None:
            return
        self._refused_casts += 1
        if is_reminder(self._refused_casts):
            caller = _in_words(request.caller)
            log.warning(
                "cast.refused",
                method=request.method,
                id=request.id,
                caller=caller,
                error=str(error),
                count=self._refused_casts,
            )

    def _admit(self, request: Request, reply_to: str | None) -> None:
        """Start the call, or let it wait; raises the `RpcError` for which it is refused."""
        if request.id in self._early:
            del self._early[request.id]
            return
        endpoint = self._choose(request.method, request.version, request.namespace)
        is_inside = endpoint is self._inside
        if not (is_inside or self._places or len(self._waiting) < WAITING_LIMIT):
            raise ServiceBusy(f"{self._host} is at its limit of calls, and {WAITING_LIMIT} wait; try later")
        method = endpoint.methods[request.method]
        call = ServedCall(request, method, method.read(request.arguments), reply_to)
        self._by_id[call.facts.id] = call
        if is_inside:
            self._start(call)
        elif self._places:
            self._take_place(call)
        else:
            self._waiting.append(call)

    def _withdraw(self, call_id: str) -> None:
        call = self._by_id.get(call_id)
        if call is None:
            # It has ended; or it has overtaken its request, as these come by other subjects.
            if len(self._early) == _EARLY_KEPT:
                del self._early[next(iter(self._early))]
            self._early[call_id] = None
        elif call in self._waiting:
            self._waiting.remove(call)
            self._forget(call)
        else:
            self._cancel(call, "withdrawn")

    def _cancel(self, call: ServedCall, cause: Literal["withdrawn", "stopping", "timed_out"]) -> None:
        """Have the method end; the first cause is the one that counts."""
        call.cause = call.cause or cause
        # One that has not begun sees the cause itself; a task that is cancelled so early would send no reply.
        if call.task is not None and call.begun:
            call.task.cancel()

    # Running methods

    def _take_place(self, call: ServedCall) -> None:
        self._places -= 1
        call.has_place = True
        self._start(call)

    def _start(self, call: ServedCall) -> None:
        context = self._context.copy()
        context.run(served.set, call.facts)
        name = f"{call.full_name} {call.facts.id}"
        call.task = asyncio.Task(self._run(call), loop=self._loop, name=name, context=context)
        call.task.add_done_callback(lambda _: self._end(call))
        self._running.add(call)
        if call.facts.deadline < math.inf:
            self._deadlines.add(call, call.facts.deadline)

    def _end(self, call: ServedCall) -> None:
        self._running.discard(call)
        if call.ticket != NO_TICKET:
            self._deadlines.remove(call)
        self._forget(call)
        if call.has_place:
            self._places += 1
        while self._places and self._waiting:
            following = self._waiting.popleft()
            if following.facts.remaining:
                self._take_place(following)
            else:
                self._forget(following)  # nobody waits for it any more

    def _forget(self, call: ServedCall) -> None:
        if self._by_id.get(call.facts.id) is call:
            del self._by_id[call.facts.id]

    async def _run(self, call: ServedCall) -> None:
        call.begun = True
        reply = self._explain_end(call) if call.cause else await self._perform(call)
        if reply is not None:
            await self._reply(call.reply_to, reply)

    async def _perform(self, call: ServedCall) -> bytes | RpcError | None:
        """Run the method: its reply, or `None` where nobody wants one."""
        try:
            result = await call.method.function(**call.arguments)
            return encode_result(call.method.write(result))
        except asyncio.CancelledError as exc:  # without a cause by whoever got hold of the task, or at random
            return self._note_failure(call, exc) if call.cause is None else self._explain_end(call)
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as exc:
            if isinstance(exc, SystemExit | KeyboardInterrupt):
                self._on_exit(exc)
            return self._note_failure(call, exc)

    def _explain_end(self, call: ServedCall) -> RpcError | None:
        """The reply to a call that was cancelled."""
        if call.cause == "timed_out":
            log.warning("call.timed_out", **_keys(call))
            return RpcTimeout(f"{call.full_name} did not end within the time that the caller gave it")
        return _STOPPING if call.cause == "stopping" else None

    def _note_failure(self, call: ServedCall, error: BaseException) -> RpcError:
        log.error("call.failed", **_keys(call), exc_info=error)
        return _remote(error)

    async def _reply(self, subject: str | None, reply: bytes | RpcError) -> None:
        """Send a reply where one is wanted. Where the transport does not take it, the caller's deadline tells."""
        if subject is None:
            return
        try:
            await self._transport.publish(subject, reply if isinstance(reply, bytes) else encode_error(reply))
        except MessageTooLarge as exc:
            await self._reply(subject, _remote(exc))
        except Exception as exc:
            log.debug("reply.lost", service=self._service, host=self._host, error=str(exc) or repr(exc))


_STOPPING = RemoteError("CancelledError", "the service stops")


def _remote(error: BaseException) -> RemoteError:
    """What a caller is told of an exception: its type and its text."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return RemoteError(type(error).__name__, text)


def _keys(call: ServedCall) -> dict[str, Any]:
    """What a log line says of a call."""
    return {"method": call.full_name, "id": call.facts.id, "caller": _in_words(call.facts.caller)}


def _in_words(caller: Caller | None) -> str | None:
    return None if caller is None else f"{caller.service or '-'}/{caller.host}"
