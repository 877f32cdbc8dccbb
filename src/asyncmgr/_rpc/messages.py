"""Encodes and decodes requests and replies, names their subjects; ``docs/reference/wire.md`` is the format. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncmgr._common.safe_text import printable, safe_str
from asyncmgr._rpc.context import Caller
from asyncmgr._rpc.traces import read_trace
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
from asyncmgr.wire import decode_json, encode_json, positive, shown, typed

SERVERS = "servers"
"""The group in which the instances of a service share the calls to any host."""

NAME_LIMIT = 256
"""Most characters of a method, a namespace, a version and each name of a caller."""

ID_LIMIT = 64

TEXT_LIMIT = 4096
"""Most characters of an error's text. The host that wrote it logs the rest."""

THROUGH_LIMIT = 32
"""Most services that a call may come through; each of them waits in a call for the next one."""

OFFERED_LIMIT = 64
"""Most versions that an error lists."""

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
    """Name the subject that reaches any one instance of the service."""
    return f"{_subject(service)}.any"


def subject_of_all(service: str) -> str:
    """Name the subject that reaches every instance of the service."""
    return f"{_subject(service)}.all"


def subject_of_host(service: str, host: str) -> str:
    """Name the subject that reaches the instance on this host."""
    return f"{_subject(service)}.host.{encode_token(host, 'host name')}"


def _subject(service: str) -> str:
    return f"asyncmgr.rpc.{encode_token(service, 'service name')}"


@dataclass(slots=True)  # not frozen: that would double the time to make one
class Request:
    """One call, cast or fanout as it travels."""

    id: str
    method: str
    namespace: str | None
    version: str
    arguments: Mapping[str, Any]
    """JSON values."""
    timeout: float | None
    """In seconds; `None` = no limit."""
    caller: Caller | None
    through: tuple[str, ...] = ()
    """The services that wait for this call, each in a call of its own; the first caller comes first."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The trace that the call is part of, as ``traceparent`` and ``tracestate``; empty = none."""

    def encode(self) -> bytes:
        """Encode the request as a message.

        Raises
        ------
        ValueError
            The arguments hold NaN, an infinity, or text that is not Unicode.
        """
        caller = None if self.caller is None else {"service": self.caller.service, "host": self.caller.host}
        fields: dict[str, Any] = {
            "v": _VERSION,
            "id": self.id,
            "method": self.method,
            "namespace": self.namespace,
            "version": self.version,
            "arguments": self.arguments,
            "timeout": self.timeout,
            "caller": caller,
        }
        if self.through:
            fields["through"] = self.through
        return encode_json({**fields, **self.trace} if self.trace else fields)


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Says that nobody waits for this call any more."""

    id: str

    def encode(self) -> bytes:
        """Encode the withdrawal as a message."""
        return encode_json({"v": _VERSION, "withdraw": self.id})


def decode_request(data: bytes) -> Request | Withdrawal:
    """Decode a message that came to one of a service's subjects.

    Raises
    ------
    ValueError
        The message is neither a request nor a withdrawal of version 1.
    """
    try:
        fields = _decode(data)
        if "withdraw" in fields:
            return Withdrawal(_text(fields, "withdraw", ID_LIMIT))
        return _read_request(fields)
    except (TypeError, OverflowError) as exc:
        raise ValueError(str(exc)) from exc


def withdrawn_id(data: bytes) -> str | None:
    """Return the id of the call that a message withdraws; `None` if it is no withdrawal or cannot be read."""
    if b'"withdraw"' not in data:  # true of nearly all messages
        return None
    try:
        message = decode_request(data)
    except ValueError:
        return None
    return message.id if isinstance(message, Withdrawal) else None


def _decode(data: bytes) -> dict[str, Any]:
    return _checked(typed(decode_json(data), dict))


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields if they are of this version of the format; else raise."""
    if _typed(fields, "v", int) != _VERSION:
        raise ValueError(f"version {shown(fields['v'])} of the wire format; this host reads {_VERSION}")
    return fields


def _read_request(fields: Mapping[str, Any]) -> Request:
    timeout, caller = fields.get("timeout"), fields.get("caller")
    return Request(
        _text(fields, "id", ID_LIMIT),
        _text(fields, "method", NAME_LIMIT),
        _optional_text(fields, "namespace"),
        _text(fields, "version", NAME_LIMIT) if "version" in fields else "1.0",
        _typed(fields, "arguments", dict) if "arguments" in fields else {},
        None if timeout is None else _positive(fields, "timeout"),
        None if caller is None else _read_caller(_typed(fields, "caller", dict)),
        _texts(fields, "through", THROUGH_LIMIT) if "through" in fields else (),
        read_trace(fields),
    )


def _read_caller(fields: Mapping[str, Any]) -> Caller:
    return Caller(_optional_text(fields, "service"), _text(fields, "host", NAME_LIMIT))


# Errors name the field and use the words of JSON: the sender may be written in any language.


def _member(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"the field {name!r} is missing")
    return fields[name]


def _typed(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    try:
        return typed(_member(fields, name), kind)
    except TypeError as exc:
        raise ValueError(f"{name!r}: {exc}") from None


def _positive(fields: Mapping[str, Any], name: str) -> float:
    try:
        return positive(fields[name])
    except (TypeError, ValueError, OverflowError) as exc:
        raise ValueError(f"{name!r}: {exc}") from None


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields, name, NAME_LIMIT)


def _text(fields: Mapping[str, Any], name: str, limit: int) -> str:
    text: str = _typed(fields, name, str)
    if len(text) > limit:
        raise ValueError(f"{name!r} has {len(text)} characters, at most {limit} fit")
    return text


def _texts(fields: Mapping[str, Any], name: str, limit: int) -> tuple[str, ...]:
    texts = _typed(fields, name, list)
    if len(texts) > limit:
        raise ValueError(f"{name!r} has {len(texts)} items, at most {limit} fit")
    return tuple(_text({name: text}, name, NAME_LIMIT) for text in texts)


def encode_result(result: object) -> bytes:
    """Encode a reply with a result, which is made of JSON values.

    Raises
    ------
    ValueError
        The result holds NaN, an infinity, or text that is not Unicode.
    """
    return encode_json({"v": _VERSION, "result": result})


def encode_error(error: RpcError) -> bytes:
    """Encode a reply with an error. Cuts texts that are too long."""
    fields: dict[str, Any] = {
        "kind": _NAMES.get(type(error), "malformed"),
        "text": _short(safe_str(error, TEXT_LIMIT)),
    }
    if isinstance(error, RemoteError):
        fields |= {"type": _short(error.type), "text": _short(error.text)}
    if isinstance(error, UnsupportedVersion):
        fields["offered"] = error.offered[:OFFERED_LIMIT]
    return encode_json({"v": _VERSION, "error": fields})


def _short(text: str) -> str:
    """Make one line of at most `TEXT_LIMIT` characters: people read it, often at a terminal."""
    return printable(text, TEXT_LIMIT)[:TEXT_LIMIT]


def read_reply(data: bytes) -> Any:
    """Return the result that a reply holds.

    Raises
    ------
    RpcError
        The error that the reply holds; of this very class if the message is not a reply.
    """
    try:
        fields = _decode_reply(data)
        if "error" not in fields:
            return _member(fields, "result")
        error = _read_error(_typed(fields, "error", dict))
    except (TypeError, ValueError, OverflowError) as exc:
        raise RpcError(f"the answer is not a reply: {exc}") from None
    try:
        raise error
    finally:
        del error  # its traceback holds the request: free both now, not at the next garbage collection


def _decode_reply(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = typed(decode_json(data), dict)
    if "v" not in fields and "stream" in fields:
        raise ValueError(
            f"the JetStream stream {shown(fields['stream'])} captures the subjects of calls and acknowledged the "
            "request; take asyncmgr.rpc.> out of its subjects"
        )
    return _checked(fields)


def _read_error(fields: Mapping[str, Any]) -> RpcError:
    kind = _KINDS.get(_typed(fields, "kind", str), RpcError)
    text = _short(_typed(fields, "text", str))
    if issubclass(kind, RemoteError):
        return kind(_short(_typed(fields, "type", str)), text)
    if issubclass(kind, UnsupportedVersion):
        return kind(text, _texts(fields, "offered", OFFERED_LIMIT))
    return kind(text)
