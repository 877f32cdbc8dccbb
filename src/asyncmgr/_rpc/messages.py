"""Requests and replies, and the subjects that they go to; `asyncmgr.wire` is the format. Pure."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncmgr._rpc.context import Caller
from asyncmgr.errors import (
    InvalidArguments,
    NoSuchMethod,
    RemoteError,
    RpcError,
    RpcTimeout,
    ServiceBusy,
    UnsupportedVersion,
)
from asyncmgr.transports._tokens import encode_token
from asyncmgr.wire import decode_json, encode_json, positive, typed

SERVERS = "servers"
"""The group in which the instances of a service share what is for any of them."""

NAME_LIMIT = 256
"""Characters of a method, a namespace, a version and the names of a caller."""

ID_LIMIT = 64

TEXT_LIMIT = 4096
"""Characters of an error's text; the rest is in the log of the host that wrote it."""

_VERSION = 1

_KINDS: dict[str, type[RpcError]] = {
    "malformed": RpcError,
    "no_such_method": NoSuchMethod,
    "unsupported_version": UnsupportedVersion,
    "invalid_arguments": InvalidArguments,
    "remote_error": RemoteError,
    "timeout": RpcTimeout,
    "busy": ServiceBusy,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def subject_of_any(service: str) -> str:
    """Where one instance of the service, whichever, is reached."""
    return f"{_subject(service)}.any"


def subject_of_all(service: str) -> str:
    """Where all instances of the service are reached."""
    return f"{_subject(service)}.all"


def subject_of_host(service: str, host: str) -> str:
    """Where the instance on this host is reached."""
    return f"{_subject(service)}.host.{encode_token(host, 'host name')}"


def _subject(service: str) -> str:
    return f"asyncmgr.rpc.{encode_token(service, 'service name')}"


@dataclass(slots=True)  # not frozen, which would double the time that making one takes
class Request:
    """One call, cast or fanout, as it travels."""

    id: str
    method: str
    namespace: str | None
    version: str
    arguments: Mapping[str, Any]
    """JSON values."""
    timeout: float | None
    """Seconds; `None` = no limit."""
    caller: Caller | None

    def encode(self) -> bytes:
        """The message.

        Raises
        ------
        ValueError
            The arguments hold NaN, an infinity, or text that is no Unicode.
        """
        caller = None if self.caller is None else {"service": self.caller.service, "host": self.caller.host}
        return encode_json(
            {
                "v": _VERSION,
                "id": self.id,
                "method": self.method,
                "namespace": self.namespace,
                "version": self.version,
                "arguments": self.arguments,
                "timeout": self.timeout,
                "caller": caller,
            }
        )


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Nobody waits for this call any more."""

    id: str

    def encode(self) -> bytes:
        """The message."""
        return encode_json({"v": _VERSION, "withdraw": self.id})


def decode_request(data: bytes) -> Request | Withdrawal:
    """Read what was sent to one of a service's subjects.

    Raises
    ------
    ValueError
        It is neither a request nor a withdrawal of version 1.
    """
    try:
        fields = _decode(data)
        return (
            Withdrawal(_text(fields["withdraw"], ID_LIMIT)) if "withdraw" in fields else _read_request(fields)
        )
    except (KeyError, TypeError, OverflowError) as exc:
        raise ValueError(f"not a request: {exc!r}") from exc


def _decode(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = typed(decode_json(data), dict)
    if typed(fields["v"], int) != _VERSION:
        raise ValueError(
            f"version {reprlib.repr(fields['v'])} of the wire format; this host reads {_VERSION}"
        )
    return fields


def _read_request(fields: Mapping[str, Any]) -> Request:
    namespace, timeout, caller = (fields.get(key) for key in ("namespace", "timeout", "caller"))
    return Request(
        _text(fields["id"], ID_LIMIT),
        _text(fields["method"], NAME_LIMIT),
        None if namespace is None else _text(namespace, NAME_LIMIT),
        _text(fields.get("version", "1.0"), NAME_LIMIT),
        typed(fields.get("arguments", {}), dict),
        None if timeout is None else positive(timeout),
        None if caller is None else _read_caller(typed(caller, dict)),
    )


def _read_caller(fields: Mapping[str, Any]) -> Caller:
    service = fields.get("service")
    return Caller(None if service is None else _text(service, NAME_LIMIT), _text(fields["host"], NAME_LIMIT))


def _text(value: Any, limit: int) -> str:
    text: str = typed(value, str)
    if len(text) > limit:
        raise ValueError(f"{reprlib.repr(text)} has {len(text)} characters, at most {limit} fit")
    return text


def encode_result(result: object) -> bytes:
    """The reply that holds a result, in JSON values.

    Raises
    ------
    ValueError
        It holds NaN, an infinity, or text that is no Unicode.
    """
    return encode_json({"v": _VERSION, "result": result})


def encode_error(error: RpcError) -> bytes:
    """The reply that holds an error; of a text that is too long the beginning."""
    fields: dict[str, Any] = {"kind": _NAMES.get(type(error), "malformed"), "text": _short(str(error))}
    if isinstance(error, RemoteError):
        fields |= {"type": _short(error.type), "text": _short(error.text)}
    if isinstance(error, UnsupportedVersion):
        fields["offered"] = error.offered
    return encode_json({"v": _VERSION, "error": fields})


def _short(text: str) -> str:
    """At most `TEXT_LIMIT` characters, with what is no Unicode written as escapes."""
    return text[:TEXT_LIMIT].encode(errors="backslashreplace").decode()


def read_reply(data: bytes) -> Any:
    """The result that a reply holds.

    Raises
    ------
    RpcError
        The error that it holds instead, or this class itself where it is no reply.
    """
    try:
        fields = _decode(data)
        if "error" not in fields:
            return fields["result"]
        error = _read_error(typed(fields["error"], dict))
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise RpcError(f"the answer is not a reply: {exc!r}") from exc
    raise error


def _read_error(fields: Mapping[str, Any]) -> RpcError:
    kind, text = _KINDS.get(typed(fields["kind"], str), RpcError), typed(fields["text"], str)
    if issubclass(kind, RemoteError):
        return kind(typed(fields["type"], str), text)
    if issubclass(kind, UnsupportedVersion):
        return kind(text, tuple(typed(version, str) for version in typed(fields["offered"], list)))
    return kind(text)
