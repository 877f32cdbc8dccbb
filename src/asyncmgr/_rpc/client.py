"""Calls methods of another service."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import math
import secrets
import socket
from functools import cached_property
from typing import Any, Self, TypeVar, get_origin, overload

from typing_extensions import TypeAliasType

from asyncmgr._common.safe_text import safe_str
from asyncmgr._rpc.context import Caller, callers_here, remaining_time, speaking_as
from asyncmgr._rpc.elsewhere import Elsewhere, serves
from asyncmgr._rpc.messages import (
    THROUGH_LIMIT,
    Request,
    Withdrawal,
    read_reply,
    subject_of_all,
    subject_of_any,
    subject_of_host,
)
from asyncmgr._rpc.traces import outgoing
from asyncmgr._rpc.versions import is_compatible, parse_version
from asyncmgr.errors import (
    InvalidArguments,
    NoResponders,
    RpcError,
    RpcTimeout,
    TransportError,
    UnsupportedVersion,
)
from asyncmgr.transports._base import Transport

T = TypeVar("T")

_KEEP: Any = object()
"""Default of parameters for which `None` is a value."""

_withdrawals: set[asyncio.Task[None]] = set()
"""Withdrawals that are being sent. The loop holds tasks only weakly, so they are kept here."""


class RpcClient:
    """Calls one service. Immutable; `at` makes a copy for one host, version, namespace or timeout.

    Parameters
    ----------
    transport
        An open transport.
    service
        The service's name on the wire.
    version
        The version of its interface that this client was written for. Hosts that offer the same major version and this
        or a later minor version serve it.
    namespace
        The namespace of the interface; `None` for managers that name none.
    timeout
        Seconds that a call may take in all. Inside a method that serves a call, at most the seconds that this call has
        left.

    Raises
    ------
    InvalidName
        No transport can carry the service's name.
    ValueError
        The version is malformed, or the timeout is not positive and finite.
    """

    def __init__(
        self,
        transport: Transport,
        service: str,
        *,
        version: str = "1.0",
        namespace: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._transport = transport
        self.service: str = service
        self.host: str | None = None
        """The only host that is called; `None` = any host."""
        self.version: str = version
        self.namespace: str | None = namespace
        self.timeout: float = timeout
        self._numbers = itertools.count(1)
        self._nobody = Caller(None, socket.gethostname())
        self._elsewhere = Elsewhere(transport, service)
        _check(self)

    def at(
        self,
        *,
        host: str | None = _KEEP,
        version: str = _KEEP,
        namespace: str | None = _KEEP,
        timeout: float = _KEEP,
    ) -> Self:
        """Make a copy with this host, version, namespace and timeout. What is left out stays as it is.

        Raises
        ------
        InvalidName, ValueError
            As for the class.
        """
        narrowed = copy.copy(self)
        given = {"host": host, "version": version, "namespace": namespace, "timeout": timeout}
        vars(narrowed).update({name: value for name, value in given.items() if value is not _KEEP})
        _check(narrowed)
        return narrowed

    def covers(self, version: str) -> bool:
        """Whether every host that serves this client's version also serves `version`. Sends nothing; see `offered`.

        Raises
        ------
        ValueError
            `version` is malformed.
        """
        return is_compatible(version, self.version)

    async def offered(self, *, within: float = 1.0) -> dict[str, tuple[str, ...]]:
        """Ask every host of the service which versions of this namespace it serves.

        While a service is upgraded host by host, use a newer method once every host offers it.

        Parameters
        ----------
        within
            Seconds to wait for answers. A host that does not answer in this time is not in the result.

        Raises
        ------
        TransportError
            The transport is down.
        """
        return {
            host: tuple(each["version"] for each in managers if each["namespace"] == self.namespace)
            for host, managers in (await self._elsewhere.ask(within)).items()
        }

    @overload
    async def call(self, method: str, /, *, into: type[T], **arguments: Any) -> T: ...
    @overload
    async def call(self, method: str, /, *, into: Any = ..., **arguments: Any) -> Any: ...
    async def call(self, method: str, /, *, into: Any = _KEEP, **arguments: Any) -> Any:
        """Run the method on one host, and return its result as JSON values, or as `into`.

        A caller that is cancelled or times out withdraws its call: a method that has begun is cancelled, and one that
        has not begun never begins. If a call to any host reaches one that does not serve this version, it is sent once
        more, to a host that does, if there is one.

        Parameters
        ----------
        into
            The type of the result: a pydantic model, or any other type hint. A value that is no type hint is passed to
            the method as its argument ``into``.

        Raises
        ------
        NoResponders
            No instance of the service, or none on this host, can be reached.
        NoSuchMethod, UnsupportedVersion, InvalidArguments
            The host that got the call does not serve it.
        RemoteError
            The method raised there.
        ServiceBusy
            The host is at its limits.
        RpcTimeout
            No answer came in time.
        RpcError
            The answer is not a reply, or its result is not what `into` says.
        TransportError
            The transport is down, belongs to another event loop, or does not carry arguments of this size.
        """
        if into is not _KEEP and not _is_hint(into):
            arguments, into = {**arguments, "into": into}, _KEEP
        timeout = min(self.timeout, remaining_time())
        if timeout <= 0:
            raise RpcTimeout(f"{self._called(method)}: the call being served here has no time left")
        with outgoing.call(self.service, self.host, method):
            reply, result = await self._ask_some_host(method, arguments, timeout)
            return result if into is _KEEP else self._read_into(into, reply, method)

    async def _ask_some_host(
        self, method: str, arguments: dict[str, Any], timeout: float
    ) -> tuple[bytes, Any]:
        """Ask a host, and where it does not serve this version another one; return the reply and its result."""
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            reply = await self._ask(self.host, method, arguments, timeout)
            return reply, read_reply(reply)
        except UnsupportedVersion:
            host = await self._find_other_host(method, deadline)
            if host is None:
                raise
            left = deadline - asyncio.get_running_loop().time()
            reply = await self._ask(host, method, arguments, left)
            return reply, read_reply(reply)

    async def _ask(self, host: str | None, method: str, arguments: dict[str, Any], timeout: float) -> bytes:
        """Send a request and wait for its reply. Withdraws the request if the wait ends without one."""
        self._transport.check_loop()
        call_id, request = self._encode(method, arguments, timeout)
        try:
            return await self._transport.request(self._subject_at(host), request, timeout=timeout)
        except NoResponders:
            raise NoResponders(
                f"{self._called(method)}: no instance can be reached; is it running?"
            ) from None
        except TimeoutError:
            self._withdraw(call_id, host)
            raise RpcTimeout(f"{self._called(method)}: no answer within {timeout:.3g} s") from None
        except asyncio.CancelledError:
            self._withdraw(call_id, host)
            raise

    async def _find_other_host(self, method: str, deadline: float) -> str | None:
        """Find a host that serves the method in this version. Only for calls to any host."""
        if self.host is not None:
            return None
        left = deadline - asyncio.get_running_loop().time()
        return await self._elsewhere.find(serves(method, self.version, self.namespace), left)

    def _read_into(self, into: Any, reply: bytes, method: str) -> Any:
        from asyncmgr._rpc.validation import read_result

        return read_result(reply, into, self._called(method))

    async def cast(self, method: str, /, **arguments: Any) -> None:
        """Send the call to one host and wait for nothing. The caller never learns whether it arrived or failed there.

        Raises
        ------
        InvalidArguments
            The arguments are not JSON.
        TransportError
            The transport is down, or does not carry arguments of this size.
        """
        self._transport.check_loop()
        with outgoing.call(self.service, self.host, method):
            await self._transport.publish(self._subject_at(self.host), self._encode(method, arguments)[1])

    async def fanout(self, method: str, /, **arguments: Any) -> None:
        """Send the call to every instance of the service, even if this client is for one host. Else like `cast`."""
        self._transport.check_loop()
        with outgoing.call(self.service, None, method):
            await self._transport.publish(subject_of_all(self.service), self._encode(method, arguments)[1])

    @cached_property
    def _id(self) -> str:
        """The start of the ids of this client's calls.

        Drawn at the first call, else processes that fork after construction would share ids.
        """
        return secrets.token_hex(8)

    def _subject_at(self, host: str | None) -> str:
        return subject_of_any(self.service) if host is None else subject_of_host(self.service, host)

    def _encode(
        self, method: str, arguments: dict[str, Any], timeout: float | None = None
    ) -> tuple[str, bytes]:
        """Make the id of a new call, and encode its request."""
        from asyncmgr._rpc.values import check_secrets, to_json_values  # pydantic is slow to import

        call_id = f"{self._id}-{next(self._numbers)}"
        caller = speaking_as.get(self._nobody)
        through = () if timeout is None else callers_here()  # nobody waits for a cast
        if len(through) > THROUGH_LIMIT:
            raise RpcError(
                f"{self._called(method)}: {len(through)} calls wait for it already; do not nest so deep"
            )
        try:
            values = to_json_values(arguments)
            request = Request(
                call_id,
                method,
                self.namespace,
                self.version,
                values,
                timeout,
                caller,
                through,
                outgoing.fields(),
            ).encode()
            check_secrets(arguments, request)
        except ValueError as exc:
            raise InvalidArguments(
                f"{self._called(method)}: {safe_str(exc)}; give what JSON can say, models or dates"
            ) from None
        return call_id, request

    def _withdraw(self, call_id: str, host: str | None) -> None:
        where = subject_of_all(self.service) if host is None else subject_of_host(self.service, host)
        task = asyncio.get_running_loop().create_task(self._tell(where, Withdrawal(call_id)))
        _withdrawals.add(task)
        task.add_done_callback(_withdrawals.discard)

    async def _tell(self, subject: str, withdrawal: Withdrawal) -> None:
        # A courtesy only: the deadline ends the method as well.
        with contextlib.suppress(TransportError, TimeoutError):
            await self._transport.publish(subject, withdrawal.encode())

    def _called(self, method: str) -> str:
        where = "" if self.host is None else f" at {self.host}"
        return f"{self.service}{where}: {method}()"


def _check(client: RpcClient) -> None:
    parse_version(client.version)
    if not 0 < client.timeout < math.inf:
        raise ValueError(f"timeout is {client.timeout}; give a positive and finite number of seconds")
    subject_of_host(client.service, client.host or "")


def _is_hint(value: object) -> bool:
    """Whether the value is a type hint: a class, ``list[int]``, ``int | None``, or a named alias."""
    return isinstance(value, type | TypeAliasType) or get_origin(value) is not None
