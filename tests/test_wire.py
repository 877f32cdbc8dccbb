"""What travels: JSON read with suspicion, requests and replies; nothing that anybody sends hurts the reader."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr._rpc.context import Caller
from asyncmgr._rpc.messages import (
    TEXT_LIMIT,
    Request,
    Withdrawal,
    decode_request,
    encode_error,
    encode_result,
    read_reply,
    subject_of_all,
    subject_of_any,
    subject_of_host,
)
from asyncmgr.capabilities._announcement import Announcement
from asyncmgr.errors import (
    InvalidArguments,
    InvalidName,
    NoSuchMethod,
    RemoteError,
    RpcError,
    RpcTimeout,
    ServiceBusy,
    UnsupportedVersion,
)
from asyncmgr.wire import NESTING, SIZE, decode_json, encode_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=256)
CALLERS = st.builds(Caller, st.none() | NAMES, NAMES)
REQUESTS = st.builds(
    Request,
    id=st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
    method=NAMES,
    namespace=st.none() | NAMES,
    version=NAMES,
    arguments=st.dictionaries(TEXT, JSON, max_size=4),
    timeout=st.none() | st.floats(1e-9, 1e9),
    caller=st.none() | CALLERS,
    through=st.lists(NAMES, max_size=5).map(tuple),
)


def nested(depth: int, brackets: bytes) -> bytes:
    opening, closing = (b'{"a":', b"}") if brackets == b"{}" else (b"[", b"]")
    return opening * depth + b"1" + closing * depth


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    """Whatever it is, but for what JSON cannot say."""
    assert decode_json(encode_json(value)) == value


@pytest.mark.parametrize("brackets", [b"[]", b"{}"])
def test_nesting_has_a_limit(brackets: bytes) -> None:
    """64 levels can be read and 65 not, nor so many that reading them would end the process."""
    assert decode_json(nested(NESTING, brackets))
    for depth in (NESTING + 1, 500, 100_000):
        with pytest.raises(ValueError, match="nested deeper than 64 levels"):
            decode_json(nested(depth, brackets))


def test_brackets_side_by_side_are_not_deep() -> None:
    """Only what is inside of one another counts, and nothing inside of text."""
    assert len(decode_json(b"[" + b",".join([b"[[]]"] * 1000) + b"]")) == 1000
    assert decode_json(b'["' + b"[" * 1000 + b'"]') == ["[" * 1000]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf1",
        b"1 2",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"[1e400]",
        b"\xff",
        b'"\\ud800"',
        b'{"\\udfff":1}',
    ]
    + [text.encode("utf-16") for text in ("1", "[]")]
    + [b"9" * 5000, b"1" + b"0" * 309, b"-" + b"9" * 309, b" " * SIZE + b"1"],
)
def test_what_is_not_json_here(data: bytes) -> None:
    """Not finite, not Unicode, not UTF-8, more than one value, too large a number, too long."""
    with pytest.raises(ValueError):  # noqa: PT011 - of many texts, some of them Python's own
        decode_json(data)


def test_integers_are_exact_within_the_range_of_a_float() -> None:
    """However many digits they have; a text may have any."""
    for number in (2**53 + 1, -(2**63), int(sys.float_info.max), -(10**308)):
        assert decode_json(encode_json([number])) == [number]
    assert decode_json(encode_json("9" * 5000)) == "9" * 5000


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": "\ud800"}, {"\udfff": 1}, [10**309], -2 * 10**308, [10**5000]],
    ids=range(7),
)
def test_what_json_cannot_say_is_not_written(value: Any) -> None:
    """It is refused where it is, and not where it would be read."""
    with pytest.raises(ValueError):  # noqa: PT011 - likewise
        encode_json(value)


@given(REQUESTS)
def test_requests_come_back_as_they_were(request: Request) -> None:
    """With whatever names and arguments."""
    assert decode_request(request.encode()) == request


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=64))
def test_withdrawals_come_back_as_they_were(call_id: str) -> None:
    """With whatever id."""
    assert decode_request(Withdrawal(call_id).encode()) == Withdrawal(call_id)


@given(JSON)
def test_results_come_back_as_they_were(result: Any) -> None:
    """Also `None`, which is a result like others."""
    assert read_reply(encode_result(result)) == result


@pytest.mark.parametrize(
    "error",
    [
        RpcError("text"),
        NoSuchMethod("text"),
        UnsupportedVersion("text", ("1.0", "2.3")),
        UnsupportedVersion("text"),
        InvalidArguments("text"),
        RemoteError("ValueError", "text"),
        RemoteError("ValueError", ""),
        RpcTimeout("text"),
        ServiceBusy("text"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_as_they_were(error: RpcError) -> None:
    """Of the same class, with the same text and what else they carry."""
    with pytest.raises(RpcError) as raised:
        read_reply(encode_error(error))
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    assert vars(raised.value) == vars(error)


def test_an_errors_text_is_bounded_and_unicode() -> None:
    """However much an exception says, and whatever: a caller is no log."""
    for error in (RemoteError("T" * 10_000, "x" * 10_000_000), RemoteError("\ud800", "\udfff" * 10_000)):
        data = encode_error(error)
        assert len(data) < 10 * TEXT_LIMIT
        with pytest.raises(RemoteError):
            read_reply(data)


def test_subjects_are_tokens() -> None:
    """Whatever a service and its host are called."""
    assert subject_of_any("a b") == "asyncmgr.rpc.a=20b.any"
    assert subject_of_all("a.b") == "asyncmgr.rpc.a=2Eb.all"
    assert subject_of_host("s", "n1.example") == "asyncmgr.rpc.s.host.n1=2Eexample"
    with pytest.raises(InvalidName, match="service name"):
        subject_of_any("s" * 129)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"id":"a"}', "the field 'v' is missing"),
        (b'{"v":true}', "'v': true is not an integer"),
        (b'{"v":1,"id":"a"}', "the field 'method' is missing"),
        (b'{"v":1,"method":"m"}', "the field 'id' is missing"),
        (b'{"v":1,"id":null,"method":"m"}', "'id': null is not a string"),
        (b'{"v":1,"id":"a","method":"m","arguments":[]}', "'arguments': [] is not an object"),
        (b'{"v":1,"id":"a","method":"m","timeout":false}', "'timeout': false is not a number"),
        (b'{"v":1,"id":"a","method":"m","timeout":0}', "'timeout': 0.0 is not positive and finite"),
        (b'{"v":1,"id":"a","method":"m","caller":{}}', "the field 'host' is missing"),
        (b'{"v":1,"id":"a","method":"m","through":["a",1]}', "'through': 1 is not a string"),
        (b'{"v":1,"id":"a","method":"m","through":[' + b'"a",' * 32 + b'"a"]}', "'through' has 33 items"),
        (b'{"v":1,"id":"a","method":{"\x7f":"x"}}', '\'method\': {"\\x7f":"x"} is not a string'),
        (b'{"v":1,"id":"' + b"a" * 65 + b'"}', "'id' has 65 characters, at most 64 fit"),
        (b"\xff", "not UTF-8, at byte 0"),
        (b'"\\ud800"', "a string holds half a character"),
        (b"[]", "[] is not an object"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_in_words_of_json(data: bytes, told: str) -> None:
    """Whoever wrote the other program may never have seen Python."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared
        decode_request(data)
    assert str(raised.value).startswith(told)


def test_an_acknowledgement_of_jetstream_is_no_reply() -> None:
    """A stream that captures the subjects of calls answers each before any host can; the cure is told."""
    for answer in (b'{"stream":"ORDERS", "seq":5}', b'{"error":{"code":503},"stream":"ORDERS","seq":0}'):
        with pytest.raises(
            RpcError, match=r'stream "ORDERS" captures .* take asyncmgr.rpc.> out of its subjects'
        ):
            read_reply(answer)


def test_the_texts_of_a_reply_can_be_shown() -> None:
    """At a terminal, whatever another host wrote; and no longer than a host should write."""
    evil = "\x1b[2J" * 5000
    for error in (
        {"kind": "busy", "text": evil},
        {"kind": "remote_error", "type": evil, "text": evil},
        {"kind": "unsupported_version", "text": evil, "offered": ["1.0"]},
    ):
        with pytest.raises(RpcError) as raised:
            read_reply(json.dumps({"v": 1, "error": error}).encode())
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) <= 2 * TEXT_LIMIT + 2
    many = {"kind": "unsupported_version", "text": "x", "offered": ["1.0"] * 65}
    with pytest.raises(RpcError, match="'offered' has 65 items, at most 64 fit"):
        read_reply(json.dumps({"v": 1, "error": many}).encode())


# Whatever anybody sends

REQUEST = Request(
    "id-1", "resize", "ns", "1.3", {"volume": "v", "gib": [1, 2.5, None]}, 4.5, Caller("s", "h")
).encode()
READERS: dict[str, tuple[Callable[[bytes], Any], bytes, type[Exception]]] = {
    "request": (decode_request, REQUEST, ValueError),
    "withdrawal": (decode_request, Withdrawal("id-1").encode(), ValueError),
    "result": (read_reply, encode_result({"gib": [1, "x"]}), RpcError),
    "error": (read_reply, encode_error(UnsupportedVersion("text", ("1.0",))), RpcError),
    "announcement": (
        lambda data: Announcement.decode("s.h", data),
        Announcement("s", "h", 1, 2, 60.0, (("", {"ram": [1, {"a": 2.5}]}),)).encode(),
        ValueError,
    ),
}
PIECES = [*rb'{ } [ ] " : , \u \ud800 null true NaN 1e999 -'.split(), b"\xff", b"\x00"]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """`data` with a few bytes changed, cut out, doubled or put in."""
    raw = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.randint(0, len(raw)) for _ in "ab")
        match draw.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del raw[at : min(end, at + 8)]
            case 2:
                raw[at:at] = raw[at : min(end, at + 16)]
            case 3:
                raw[at:at] = draw.choice(PIECES)
            case 4:
                raw[at:end] = draw.choice(PIECES) * draw.randrange(3)
    return bytes(raw)


@pytest.mark.parametrize("kind", READERS)
def test_bytes_that_went_wrong_raise_one_error_at_most(kind: str) -> None:
    """Of 100,000 mutated messages each is read, or refused by the one error that its reader expects."""
    read, valid, expected = READERS[kind]
    draw = random.Random(kind)
    refused = 0
    for _ in range(100_000 // len(READERS)):
        data = mutated(valid, draw)
        try:
            read(data)
        except expected:
            refused += 1
    assert 100 < refused < 100_000


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200) | JSON.map(encode_json))
def test_anything_at_all_raises_one_error_at_most(kind: str, data: bytes) -> None:
    """Bytes of no kind, and JSON of any shape."""
    read, _, expected = READERS[kind]
    with contextlib.suppress(expected):
        read(data)


@given(st.sampled_from(sorted(READERS)), st.data())
def test_fields_of_any_type_raise_one_error_at_most(kind: str, data: st.DataObject) -> None:
    """A message of the right shape, of which fields are something else."""
    read, valid, expected = READERS[kind]
    fields = json.loads(valid)
    for key in data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1)):
        fields[key] = data.draw(JSON)
    with contextlib.suppress(expected):
        read(encode_json(fields))
