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
from typing import Any, Self

from asyncmgr._rpc.context import Caller, remaining_time, speaking_as
from asyncmgr._rpc.messages import (
    Request,
    Withdrawal,
    read_reply,
    subject_of_all,
    subject_of_any,
    subject_of_host,
)
from asyncmgr._rpc.versions import is_compatible, parse_version
from asyncmgr.errors import InvalidArguments, NoResponders, RpcTimeout, TransportError
from asyncmgr.transports._base import Transport

_KEEP: Any = object()

_withdrawals: set[asyncio.Task[None]] = set()
"""Under way; the loop itself holds tasks weakly."""


class RpcClient:
    """Calls one service. Immutable; `at` gives a copy that is narrowed to a host, a version and so on.

    Parameters
    ----------
    transport
        An open one.
    service
        Its name on the wire.
    version
        Of its interface, as called: hosts that offer the same major and this or a later minor serve it.
    namespace
        Of its interface; `None` for managers that name none.
    timeout
        Seconds that a call gets, over all; in a method that serves a call no more than that call has left.

    Raises
    ------
    InvalidName
        No transport can carry the service's name.
    ValueError
        The version is none, or the timeout not positive and finite.
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
        """The one host that is called; `None` = any."""
        self.version: str = version
        self.namespace: str | None = namespace
        self.timeout: float = timeout
        self._numbers = itertools.count(1)
        self._nobody = Caller(None, socket.gethostname())
        _check(self)

    def at(
        self,
        *,
        host: str | None = _KEEP,
        version: str = _KEEP,
        namespace: str | None = _KEEP,
        timeout: float = _KEEP,
    ) -> Self:
        """A copy for this host, version, namespace and timeout, each as it is here where it is left out.

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

    def can_send(self, version: str) -> bool:
        """Whether hosts that offer this client's version serve calls of `version` too.

        While a service is upgraded host by host, its clients keep the version of the oldest host, and ask this before
        they use what is newer.

        Raises
        ------
        ValueError
            It is no version.
        """
        return is_compatible(version, self.version)

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Have the method run on one host, and return its result as JSON values.

        Where the caller is cancelled, the method is cancelled too.

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
        TransportError
            The transport is down, or the arguments are more than it carries.
        """
        timeout = min(self.timeout, remaining_time())
        if timeout <= 0:
            raise RpcTimeout(f"{self._called(method)}: the call being served here has no time left")
        call_id, request = self._encode(method, arguments, timeout)
        try:
            return read_reply(await self._transport.request(self._subject, request, timeout=timeout))
        except NoResponders:
            raise NoResponders(
                f"{self._called(method)}: no instance can be reached; is it running?"
            ) from None
        except RpcTimeout:
            raise
        except TimeoutError:
            raise RpcTimeout(f"{self._called(method)}: no answer within {timeout:.3g} s") from None
        except asyncio.CancelledError:
            self._withdraw(call_id)
            raise

    async def cast(self, method: str, /, **arguments: Any) -> None:
        """Send the call to one host and wait for nothing: whether it arrives, or fails there, is not told.

        Raises
        ------
        InvalidArguments
            They are not JSON.
        TransportError
            The transport is down, or the arguments are more than it carries.
        """
        await self._transport.publish(self._subject, self._encode(method, arguments)[1])

    async def fanout(self, method: str, /, **arguments: Any) -> None:
        """Send the call to every instance of the service, whatever the host of this client; otherwise like `cast`."""
        await self._transport.publish(subject_of_all(self.service), self._encode(method, arguments)[1])

    @cached_property
    def _id(self) -> str:
        """Drawn at the first call: processes that fork after construction would have one id, and withdraw by it."""
        return secrets.token_hex(8)

    @property
    def _subject(self) -> str:
        return subject_of_any(self.service) if self.host is None else subject_of_host(self.service, self.host)

    def _encode(
        self, method: str, arguments: dict[str, Any], timeout: float | None = None
    ) -> tuple[str, bytes]:
        """The id of a new call, and its request."""
        from asyncmgr._rpc.validation import to_json_values  # pydantic is slow to import

        call_id = f"{self._id}-{next(self._numbers)}"
        caller = speaking_as.get(self._nobody)
        try:
            values = to_json_values(arguments)
            request = Request(call_id, method, self.namespace, self.version, values, timeout, caller)
            return call_id, request.encode()
        except ValueError as exc:
            raise InvalidArguments(
                f"{self._called(method)}: {exc}; give what JSON can say, models or dates"
            ) from None

    def _withdraw(self, call_id: str) -> None:
        where = self._subject if self.host is not None else subject_of_all(self.service)
        task = asyncio.get_running_loop().create_task(self._tell(where, Withdrawal(call_id)))
        _withdrawals.add(task)
        task.add_done_callback(_withdrawals.discard)

    async def _tell(self, subject: str, withdrawal: Withdrawal) -> None:
        # Only a courtesy: the deadline ends the method too.
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
