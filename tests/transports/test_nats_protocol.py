"""The wire format of NATS: what comes of bytes in whatever pieces, and which bytes are refused."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr.transports._nats import protocol
from asyncmgr.transports._nats.protocol import (
    LINE_LIMIT,
    Err,
    Event,
    Info,
    Msg,
    Ok,
    Parser,
    Ping,
    Pong,
    ProtocolError,
)

TOKENS = st.binary(min_size=1, max_size=12).filter(lambda raw: not {*b" \t\r\n"} & {*raw})


def read(data: bytes, cuts: list[int] | None = None, limit: int = 1024) -> list[Event]:
    """The events of `data`, given to a parser in the pieces that `cuts` make."""
    parser, events = Parser(limit), []
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts or ()}), len(data)]
    for begin, end in itertools.pairwise(places):
        events += parser.feed(data[begin:end])
    return events


def on_wire(event: Event) -> bytes:
    """As a server writes it."""
    if isinstance(event, Msg):
        reply = event.reply + b" " if event.reply else b""
        head = b"%b %d %b" % (event.subject, event.number, reply)
        if event.headers is None:
            return b"MSG %b%d\r\n%b\r\n" % (head, len(event.data), event.data)
        sizes = b"%d %d" % (len(event.headers), len(event.headers) + len(event.data))
        return b"HMSG %b%b\r\n%b%b\r\n" % (head, sizes, event.headers, event.data)
    if isinstance(event, Err):
        return f"-ERR '{event.text}'\r\n".encode()
    if isinstance(event, Info):
        return b'INFO {"max_payload": 1, "x": {"y": "\\u00fc"}}\r\n'
    return {Ping: b"PING\r\n", Pong: b"PONG\r\n", Ok: b"+OK\r\n"}[type(event)]


messages = st.builds(
    Msg,
    number=st.integers(0, 2**32),
    subject=TOKENS,
    reply=st.one_of(st.just(b""), TOKENS),
    data=st.binary(max_size=200),
    headers=st.one_of(st.none(), st.binary(max_size=50)),
    left_out=st.just(0),
)
others = st.sampled_from(
    [Ping(), Pong(), Ok(), Err("Stale Connection"), Info({"max_payload": 1, "x": {"y": "ü"}})]
)


@given(st.lists(st.one_of(messages, others), max_size=8), st.lists(st.integers(0, 5000), max_size=20))
def test_every_split(events: list[Event], cuts: list[int]) -> None:
    """However the bytes are cut up, the same events come out; subjects and data may be any bytes."""
    data = b"".join(map(on_wire, events))
    assert read(data, cuts) == events
    assert read(data, list(range(len(data)))) == events


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_garbage(data: bytes, cuts: list[int]) -> None:
    """Bytes of anything else are refused or wait for more; no other error comes out, and no message."""
    with contextlib.suppress(ProtocolError):
        assert b"MSG " in data or not any(isinstance(event, Msg) for event in read(data, cuts))


@given(
    st.integers(1025, 5000),
    st.one_of(st.none(), st.just(b"NATS/1.0\r\nk: v\r\n\r\n")),
    st.lists(st.integers(0, 6000)),
)
def test_data_above_the_limit(size: int, headers: bytes | None, cuts: list[int]) -> None:
    """It is skipped and counted, its headers are kept, and what follows it is read; in whatever pieces it comes."""
    large = Msg(7, b"s", b"r", bytes(size), headers)
    events = read(on_wire(large) + b"PING\r\n", cuts)
    assert events == [Msg(7, b"s", b"r", b"", headers, size), Ping()]


def test_skipping_holds_nothing() -> None:
    """A message of 2 GiB would cost no memory."""
    parser = Parser(limit=1024)
    (message,) = parser.feed(b"MSG s 1 %d\r\n" % (2**31 - 1))
    assert isinstance(message, Msg)
    assert message.left_out == 2**31 - 1
    for _ in range(100):
        assert parser.feed(bytes(100_000)) == []
        assert not parser._kept


@pytest.mark.parametrize("verb", [b"INFO ", b"MSG ", b"-ERR ", b""])
def test_line_without_end(verb: bytes) -> None:
    """It is refused as soon as it is too long, not kept until it ends."""
    with pytest.raises(ProtocolError, match="a line of"):
        read((verb + b"x" * 1000) * 70, list(range(0, 70_000, 1000)))
    with pytest.raises(ProtocolError, match="a line of"):
        Parser().feed(verb + b"x" * (LINE_LIMIT + 1) + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"MSG s 1",
        b"MSG s 1 r 2 3",
        b"MSG s x 2",
        b"MSG s -1 2",
        b"MSG s 1 +2",
        b"MSG s 1 2_0",
        b"MSG  1 2",
        b"MSG s 1 99999999999",
        b"MSG s 1 4294967296",
        b"HMSG s 1 3 2",
        b"HMSG s 1 70000 80000",
        b"INFO",
        b"INFO []",
        b"INFO {",
        b"INFO \xff\xfe",
        b"INFO " + b"[" * 50_000,
        b"SUB s 1",
        b"220 mail ESMTP",
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_lines_that_no_server_writes(line: bytes) -> None:
    """They are refused; the text shows how they begin."""
    with pytest.raises(ProtocolError):
        Parser().feed(line + b"\r\n")


def test_message_that_is_longer_than_announced() -> None:
    """What follows would be read as commands."""
    with pytest.raises(ProtocolError, match="longer than was announced"):
        Parser().feed(b"MSG s 1 2\r\nabcd\r\n")


def test_clear() -> None:
    """What was incomplete is forgotten, be it a line, a message or one that is skipped."""
    for begun in (b"PIN", b"MSG s 1 5\r\nab", b"MSG s 1 5000\r\nab"):
        parser = Parser(limit=1024)
        parser.feed(begun)
        parser.clear()
        assert parser.feed(b"PONG\r\n") == [Pong()]


def test_errors_are_text() -> None:
    """Whatever bytes they have."""
    assert Parser().feed(b"-ERR 'no \xff'\r\n-ERR\r\n") == [Err("no \ufffd"), Err("")]


def test_commands() -> None:
    """As the protocol's page has them."""
    assert protocol.publish("a.b", b"hi") == b"PUB a.b  2\r\nhi\r\n"
    assert protocol.publish("a", b"", "r") == b"PUB a r 0\r\n\r\n"
    block = protocol.encode_headers({"K": "v"})
    assert block == b"NATS/1.0\r\nK: v\r\n\r\n"
    assert protocol.publish("a", b"hi", "r", block) == b"HPUB a r 18 20\r\n" + block + b"hi\r\n"
    assert protocol.subscribe(5, "a", "g") + protocol.subscribe(6, "b") == b"SUB a g 5\r\nSUB b  6\r\n"
    assert protocol.unsubscribe(5) == b"UNSUB 5\r\n"
    assert protocol.connect({"verbose": False}) == b'CONNECT {"verbose": false}\r\n'


def test_headers() -> None:
    """They come back as they went, also beside a status line; a status is told from none."""
    headers = {"Nats-Sequence": "7", "KV-Operation": "DEL"}
    assert protocol.decode_headers(protocol.encode_headers(headers)) == headers
    assert protocol.encode_headers({}) == b""
    assert protocol.decode_headers(None) == {}
    assert protocol.decode_headers(b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n") == {"A": "b"}
    assert Msg(1, b"s", b"", b"", b"NATS/1.0 503\r\n\r\n").status == b"503"
    assert Msg(1, b"s", b"", b"", b"NATS/1.0\r\nA: b\r\n\r\n").status == b""
    assert Msg(1, b"s", b"", b"", None).status == b""
