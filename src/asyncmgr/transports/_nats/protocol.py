"""NATS' wire format: bytes in, events out, and commands as bytes. Pure: no await, no socket, no clock.

https://docs.nats.io/reference/reference-protocols/nats-protocol has the format. Subjects stay bytes, as NATS does not
promise that they are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from asyncmgr.transports._given import MESSAGE_LIMIT

LINE_LIMIT = 64 * 1024
"""Bytes of a line, and of a message's headers. The longest are those that list the servers of a large cluster."""

SKIP_LIMIT = 2**31
"""Bytes of a payload that is not even skipped; servers count them in 32 bits."""

PING, PONG = b"PING\r\n", b"PONG\r\n"

_END = b"\r\n"
_DIGITS = 10

_plain = re.compile(rb"MSG ([^ \r\n]{1,4096}) (\d{1,10}) (?:([^ \r\n]{1,4096}) )?(\d{1,10})\r\n").match


class ProtocolError(Exception):
    """The bytes are not those of a NATS server. Nothing after them can be read."""


class Info(NamedTuple):
    """What a server says of itself, first and whenever that changes."""

    fields: dict[str, Any]


class Msg(NamedTuple):
    """A message for a subscription."""

    number: int
    """Of the subscription, as given to `subscribe`."""
    subject: bytes
    reply: bytes
    """Empty where no answer is awaited."""
    data: bytes
    headers: bytes | None
    """As on the wire, with the status line."""
    left_out: int = 0
    """Bytes of the data, where they are more than the limit; `data` is empty then."""

    @property
    def status(self) -> bytes:
        """What a server says instead of a message: ``503``, ``404``; empty where somebody sent it."""
        return self.headers[9:12] if self.headers and self.headers.startswith(b"NATS/1.0 ") else b""


class Ping(NamedTuple):
    """The server wants a PONG."""


class Pong(NamedTuple):
    """The answer to the oldest PING that has none yet."""


class Ok(NamedTuple):
    """Comes only where it was asked for, which `connect` does not."""


class Err(NamedTuple):
    """The server did not do something; mostly it ends the connection."""

    text: str


Event: TypeAlias = Info | Msg | Ping | Pong | Ok | Err


# Of a message whose payload is not complete: number, subject, reply, bytes of the data, whether there are headers,
# bytes of headers and data. A bare tuple, as one is made for each message.
_Head: TypeAlias = "tuple[int, bytes, bytes, int, bool, int]"


class Parser:
    """Takes bytes as they come, in whatever pieces; holds at most one line or one message of the limit's size.

    Parameters
    ----------
    limit
        Bytes of data that a message may have. More are skipped as they come, and only counted.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget what is incomplete."""
        self._kept = bytearray()
        self._head: _Head | None = None
        self._skip = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises
        ------
        ProtocolError
            These are no bytes of a NATS server, or a line or headers without end. Events before them are lost.
        """
        events: list[Event] = []
        if self._kept:
            self._kept += data
            if self._is_incomplete(data):
                return events
            data = bytes(self._kept)
            self._kept.clear()
        at = 0
        while (after := self._step(data, at, events)) is not None:
            at = after
        self._kept += data[at:]
        if self._head is None and len(self._kept) > LINE_LIMIT:
            raise ProtocolError(f"a line of more than {LINE_LIMIT:,} bytes")
        return events

    def _is_incomplete(self, data: bytes) -> bool:
        """Whether what is kept cannot be read even with `data`; so pieces are put together once only."""
        if self._head is not None:
            return len(self._kept) < self._needed(self._head)
        return b"\n" not in data and len(self._kept) <= LINE_LIMIT

    def _step(self, data: bytes, at: int, events: list[Event]) -> int | None:
        """Read one thing at `at`; returns where it ends, or `None` where more bytes are needed."""
        if self._skip:
            step = min(self._skip, len(data) - at)
            self._skip -= step
            return at + step if step else None
        if self._head is not None:
            return self._read_payload(self._head, data, at, events)
        if (after := self._read_plain(data, at, events)) is not None:
            return after
        end = data.find(_END, at)
        if end < 0:
            return None
        if end - at > LINE_LIMIT:
            raise ProtocolError(f"a line of {end - at:,} bytes, at most {LINE_LIMIT:,} are read")
        line = data[at:end]
        if not line.startswith((b"MSG ", b"HMSG ")):
            events.append(_read_line(line))
            return end + 2
        self._head = _read_head(line)
        return end + 2

    def _read_plain(self, data: bytes, at: int, events: list[Event]) -> int | None:
        """Read a complete message without headers, in one look, as nearly all are; `None` for all else."""
        if (found := _plain(data, at)) is None:
            return None
        subject, number, reply, size = found.groups(b"")
        begin = found.end()
        end = begin + int(size)
        if end - begin > self._limit or data[end : end + 2] != _END:
            return None
        events.append(Msg(int(number), subject, reply, data[begin:end], None))
        return end + 2

    def _read_payload(self, head: _Head, data: bytes, at: int, events: list[Event]) -> int | None:
        number, subject, reply, size, with_headers, total = head
        if len(data) - at < (total + 2 if size <= self._limit else total - size):
            return None
        self._head = None
        split, end = at + total - size, at + total
        headers = data[at:split] if with_headers else None
        if size > self._limit:
            events.append(Msg(number, subject, reply, b"", headers, size))
            self._skip = size + len(_END)
            return split
        if data[end : end + 2] != _END:
            raise ProtocolError("a message is longer than was announced")
        events.append(Msg(number, subject, reply, data[split:end], headers))
        return end + 2

    def _needed(self, head: _Head) -> int:
        """Bytes from which on the payload can be read, or its data be skipped."""
        *_, size, _, total = head
        return total + len(_END) if size <= self._limit else total - size


def _read_head(line: bytes) -> _Head:
    """Of ``MSG subject number [reply] size`` or ``HMSG subject number [reply] headers total``."""
    parts = line.split(b" ")
    with_headers, headers, reply = parts[0] == b"HMSG", b"0", b""
    if with_headers and len(parts) > 4:
        headers = parts.pop(-2)
    if len(parts) == 5:
        reply = parts.pop(3)
    _, subject, number, total = parts if len(parts) == 4 else (b"", b"", b"", b"")
    is_sound = subject and number.isdigit() and headers.isdigit() and total.isdigit()
    if not is_sound or max(len(number), len(headers), len(total)) > _DIGITS:
        raise ProtocolError(f"a message begins {line[:60]!r}")
    size = int(total) - int(headers)
    if size < 0 or int(headers) > LINE_LIMIT or int(total) > SKIP_LIMIT:
        raise ProtocolError(f"a message of {int(total):,} bytes with {int(headers):,} bytes of headers")
    return int(number), subject, reply, size, with_headers, int(total)


def _read_line(line: bytes) -> Event:
    verb, _, rest = line.strip().partition(b" ")
    match verb.upper():
        case b"PING":
            return Ping()
        case b"PONG":
            return Pong()
        case b"+OK":
            return Ok()
        case b"-ERR":
            return Err(rest.decode(errors="replace").strip().strip("'"))
        case b"INFO":
            return Info(_read_info(rest))
    raise ProtocolError(f"a line begins {line[:60]!r}")


def _read_info(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ProtocolError(f"INFO holds no JSON object: {text[:60]!r}")
    return fields


# Commands


def connect(fields: Mapping[str, Any]) -> bytes:
    """Introduce oneself; the first command."""
    return f"CONNECT {json.dumps(fields)}\r\n".encode()


def publish(subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> bytes:
    """Send a message; `headers` as `encode_headers` makes them."""
    if headers:
        size = len(headers)
        return b"%b%b%b\r\n" % (
            f"HPUB {subject} {reply} {size} {size + len(data)}\r\n".encode(),
            headers,
            data,
        )
    return b"%b%b\r\n" % (f"PUB {subject} {reply} {len(data)}\r\n".encode(), data)


def subscribe(number: int, subject: str, group: str | None = None) -> bytes:
    """Have messages of `subject` sent under this number, or every member of the group its share of them."""
    return f"SUB {subject} {group or ''} {number}\r\n".encode()


def unsubscribe(number: int) -> bytes:
    """End what `subscribe` began."""
    return f"UNSUB {number}\r\n".encode()


# Headers


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The block for `publish`; empty for none. Names and values are the caller's own, without line ends."""
    if not headers:
        return b""
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def decode_headers(block: bytes | None) -> dict[str, str]:
    """By name, without the status line."""
    lines = (block or b"").decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {key.strip(): value.strip() for key, _, value in pairs}
