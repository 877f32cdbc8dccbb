"""Capabilities as values: what is taken, what is refused and with which words, and the announcement on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import enum
import json
import math
import pickle
import threading
from collections import ChainMap, UserList
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Base64Bytes, BaseModel, Field, RootModel, SecretBytes, SecretStr

from asyncmgr import InvalidCapabilities
from asyncmgr.capabilities._announcement import STORE_TTL, Announcement, announcement_key
from asyncmgr.capabilities._board import Board
from asyncmgr.capabilities._values import NESTING, NODES_LIMIT, PRESENCE, read_capabilities, same
from asyncmgr.transports import VALUE_LIMIT
from tests.announcements import Agent


def stored(capabilities: Any) -> Any:
    """What an agent without a service remembers of one node."""
    agent = Agent()
    agent.update_service_capabilities(capabilities)
    assert agent.last_capabilities is not None
    ((_, values),) = agent.last_capabilities
    return values


def refusal(capabilities: Any) -> str:
    with pytest.raises(InvalidCapabilities) as caught:
        Agent().update_service_capabilities(capabilities)
    return str(caught.value)


# Taken as JSON values, at once


class Colour(str, enum.Enum):  # noqa: UP042 - not StrEnum: its str() is 'Colour.RED'
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


class Celsius(float):
    def __float__(self) -> float:
        return float("nan")


@pytest.mark.parametrize(
    ("given_value", "value"),
    [
        (True, True),
        (1, 1),
        (Level.HIGH, 3),
        (1.5, 1.5),
        (Celsius(21.5), 21.5),
        ("a", "a"),
        ("ä\u2028💾", "ä\u2028💾"),
        (Colour.RED, "red"),
        (Shouting("quiet"), "quiet"),
        ((1, (2, "x")), [1, [2, "x"]]),
        ([], []),
        ({}, {}),
        ({"deep": [{"er": (1,)}]}, {"deep": [{"er": [1]}]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (ChainMap({"a": 1}, {"b": 2}), {"b": 2, "a": 1}),
        ({Colour.RED: 1, Shouting("k"): 2}, {"red": 1, "k": 2}),
        (10**300, 10**300),
        (-0.0, -0.0),
    ],
)
def test_values_become_json_values(given_value: Any, value: Any) -> None:
    """Subclasses become the plain value, tuples lists, any mapping a dict."""
    kept = stored({"x": given_value})["x"]
    assert kept == value
    assert json.dumps(kept) == json.dumps(value)


def test_only_json_types_are_left() -> None:
    """Nothing of a subclass stays: not the type, not its methods."""
    kept = stored({"a": Level.HIGH, "b": Celsius(1.0), "c": Colour.RED, Colour.RED: True})
    assert [type(kept[key]) for key in "abc"] == [int, float, str]
    assert {type(key) for key in kept} == {str}


class Disk(BaseModel):
    mount: str
    free: float
    tags: set[str] = set()
    previous: Disk | None = None


class Host(BaseModel):
    node: str
    disks: tuple[Disk, ...] = ()
    level: Level = Level.HIGH


def test_models_become_json_values() -> None:
    """A pydantic model is taken, at the top and inside a mapping, list or tuple."""
    kept = stored(Host(node="n"))
    assert kept == {"node": "n", "disks": [], "level": 3}
    assert stored({"a": [Host(node="m")]})["a"][0]["node"] == "m"


def test_missing_value_of_a_model_is_refused_by_its_path() -> None:
    """A model's `None` is refused like any other, also deep inside."""
    text = refusal([{}, Host(node="n", disks=(Disk(mount="/", free=1),))])
    assert text.startswith("capabilities[1].disks[0].previous is None (NoneType)")
    assert "leave out what is not known" in text
    assert refusal({"disk": Disk(mount="/", free=1)}).startswith("capabilities.disk.previous is None")


def test_nan_of_a_model_is_refused_by_its_path() -> None:
    """A model's NaN is refused, whatever pydantic would make of it."""
    disk = Disk(mount="/", free=math.nan, previous=Disk(mount="/", free=1))
    assert refusal(Host(node="n", disks=(disk,))).startswith("capabilities.disks[0].free is nan")


class Opaque(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    what: object


def test_model_that_is_not_json_is_refused() -> None:
    """What pydantic cannot serialise is an InvalidCapabilities too; so is a model that holds itself."""
    assert refusal({"x": Opaque(what=object())}).startswith("capabilities.x is a Opaque that is not JSON")
    ring = Disk.model_construct(mount="/", free=1)
    ring.previous = ring
    assert refusal(ring).startswith("capabilities is a Disk that is not JSON")


class Login(BaseModel):
    user: str = "root"
    password: SecretStr = SecretStr("swordfish")


class Backend(BaseModel):
    logins: list[Login] = [Login()]
    keys: dict[str, SecretBytes] = {}


@pytest.mark.parametrize(
    ("given_value", "path"),
    [
        (Login(), "capabilities.password is a SecretStr"),
        ([{}, Backend()], "capabilities[1].logins[0].password is a SecretStr"),
        (Backend(logins=[], keys={"a": SecretBytes(b"x")}), "capabilities.keys.a is a SecretBytes"),
        ({"x": [Login()]}, "capabilities.x[0].password is a SecretStr"),
        ({"x": SecretStr("swordfish")}, "capabilities.x is SecretStr('**********') (SecretStr)"),
    ],
)
def test_secret_is_refused_by_its_path(given_value: Any, path: str) -> None:
    """Everybody reads capabilities: a secret is neither published nor replaced by asterisks (33)."""
    text = refusal(given_value)
    assert text.startswith(path)
    assert "swordfish" not in text


class Tunnel(BaseModel):
    name: str
    key: SecretStr = Field(exclude=True)
    stars: str = "**********"


def test_excluded_secret_and_asterisks_are_no_secret() -> None:
    """What the model leaves out is not published; a text of asterisks is a text."""
    assert stored(Tunnel(name="a", key=SecretStr("k"))) == {"name": "a", "stars": "**********"}


class Blob(BaseModel):
    raw: bytes = b""
    coded: Base64Bytes = b""


def test_bytes_of_a_model() -> None:
    """UTF-8 becomes text, Base64Bytes its code; other bytes are refused (33)."""
    assert stored(Blob(raw="ä".encode(), coded=b"AP8=")) == {"raw": "ä", "coded": "AP8="}
    assert refusal(Blob(raw=b"\xff")).startswith("capabilities is a Blob that is not JSON")


def test_model_class_is_no_model() -> None:
    """The class in place of an instance is refused, and so is a model that is no mapping."""
    assert refusal(Host).startswith("capabilities is <class")
    assert refusal(RootModel[list[int]]([1])).startswith("capabilities is [1]; give a mapping")


def test_later_mutation_changes_nothing() -> None:
    """The values are copied at once, at every depth."""
    inner = [1]
    model = Disk(mount="/", free=1, previous=Disk.model_construct(mount="/old"))
    capabilities: dict[str, Any] = {"list": inner, "dict": {"a": inner}}
    agent, with_model = Agent(), Agent()
    agent.update_service_capabilities(capabilities)
    with_model.update_service_capabilities({"model": Opaque(what=inner)})
    inner.append(2)
    capabilities["new"] = model
    assert agent.last_capabilities == (("", {"list": [1], "dict": {"a": [1]}}),)
    assert with_model.last_capabilities == (("", {"model": {"what": [1]}}),)


# Refused, with the path


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def nested(levels: int) -> dict[str, Any]:
    """Mappings and lists in turn, a mapping outermost."""
    inner: Any = 1
    for level in range(levels - 1, 0, -1):
        inner = [inner] if level % 2 else {"x": inner}
    return {"x": inner}


@pytest.mark.parametrize(
    ("capabilities", "text"),
    [
        (None, "capabilities is None; give a mapping"),
        ("free", "capabilities is 'free'; give a mapping"),
        (b"{}", "capabilities is b'{}'; give a mapping"),
        (bytearray(b"{}"), "capabilities is bytearray(b'{}'); give a mapping"),
        (5, "capabilities is 5; give a mapping"),
        ({1, 2}, "capabilities is {1, 2}; give a mapping"),
        (iter([{}]), "capabilities is <list_iterato"),
        ([{}, None], "capabilities[1] is None; give a mapping"),
        ([[{}]], "capabilities[0] is [{}]; give a mapping"),
        ({"a": None}, "capabilities.a is None (NoneType), which is not a JSON value"),
        ({"a": math.nan}, "capabilities.a is nan, which JSON cannot say"),
        ({"a": [1, math.inf]}, "capabilities.a[1] is inf, which JSON cannot say"),
        ({"a": {"b": -math.inf}}, "capabilities.a.b is -inf, which JSON cannot say"),
        ([{}, {"node": "x", "a": ({"b": b"x"},)}], "capabilities[1].a[0].b is b'x' (bytes)"),
        ({"a": {1}}, "capabilities.a is {1} (set)"),
        ({"a": Decimal(1)}, "capabilities.a is Decimal('1') (Decimal)"),
        ({"a": 1j}, "capabilities.a is 1j (complex)"),
        ({"a": object}, "capabilities.a is <class 'object'> (type)"),
        ({"a": Odd()}, "capabilities.a is <Odd whose repr() raised RuntimeError>"),
        ({1: "a"}, "capabilities has the key 1; keys of JSON are strings"),
        ({"a": {None: 1}}, "capabilities.a has the key None"),
        ({"a": {("x", 1): 1}}, "capabilities.a has the key ('x', 1)"),
        ({"a": "\ud800"}, "capabilities.a is '\\ud800', which is no Unicode text"),
        ({"\udcff": 1}, "the key of capabilities is '\\udcff', which is no Unicode text"),
        ({"a": 10**5000}, "capabilities.a is a number beyond the range of a float"),
        ({"a": [2**1024 - 1]}, "capabilities.a[0] is a number beyond the range of a float"),
        ({"a\x1b[2J": None}, "capabilities.a\\x1b[2J is None"),
        ({"k" * 1000: None}, "capabilities." + "k" * 60 + "... (1,000 characters) is None"),
        ({"node": 1}, "capabilities.node is 1; a node's name is a string"),
        ([{"node": True}], "capabilities[0].node is True; a node's name is a string"),
        ({"node": "x" * 129}, "capabilities.node: node name 'xxx"),
    ],
)
def test_what_is_not_json_is_refused_by_its_path(capabilities: Any, text: str) -> None:
    """Each refusal names the place, what is there and what to do."""
    assert refusal(capabilities).startswith(text)


def test_refusal_is_short() -> None:
    """However large the wrong value is, the message can be read."""
    assert len(refusal({"a": b"x" * 100_000})) < 250
    assert len(refusal({"a": {1: 2, **{str(i): i for i in range(1000)}}})) < 250


def test_depth_is_limited() -> None:
    """`NESTING` levels are taken, one more is not, and what holds itself is too deep as well."""
    assert stored(nested(NESTING))
    assert "is nested deeper than 61 levels; flatten it" in refusal(nested(NESTING + 1))
    ring: list[Any] = []
    ring += [ring, ring]
    assert "is nested deeper" in refusal({"ring": ring})
    loop: dict[str, Any] = {}
    loop["me"] = loop
    assert "is nested deeper" in refusal(loop)


def test_message_nests_no_deeper_than_64() -> None:
    """The deepest capabilities and what stands around them are 64 levels, the limit of a message."""
    value = announcement(nodes=read_capabilities(nested(NESTING))).encode().decode()
    depth = deepest = 0
    for character in value:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    assert deepest == 64


def test_refused_update_changes_nothing() -> None:
    """After a refusal, what was remembered before stays."""
    agent = Agent()
    agent.update_service_capabilities({"a": 1})
    with pytest.raises(InvalidCapabilities):
        agent.update_service_capabilities({"a": None})
    assert agent.last_capabilities == (("", {"a": 1}),)


def test_refusal_is_an_asyncmgr_error_and_a_value_error() -> None:
    """It can be caught as either."""
    with pytest.raises(ValueError, match="not a JSON value"):
        Agent().update_service_capabilities({"a": object()})


def test_size_is_limited() -> None:
    """What no transport could carry is refused at the update, with size and limit."""
    frame = len('[{"node":"","capabilities":{"a":""}}]')
    assert stored({"a": "x" * (NODES_LIMIT - frame)})
    text = refusal({"a": "x" * (NODES_LIMIT - frame + 1)})
    assert text.startswith(f"capabilities take {NODES_LIMIT + 1} bytes as JSON, at most {NODES_LIMIT} fit")


def test_largest_nodes_fit_into_a_value() -> None:
    """With the longest names and numbers around them too."""
    nodes = read_capabilities({"a": "x" * (NODES_LIMIT - 38)})
    name = "\x7f" * 42
    value = announcement(service=name, host=name, incarnation=10**18, sequence=10**12, ttl=1e-17, nodes=nodes)
    assert NODES_LIMIT < len(value.encode()) <= VALUE_LIMIT


# Nodes


@pytest.mark.parametrize("kind", [list, tuple, UserList])
def test_list_and_tuple_hold_nodes(kind: Any) -> None:
    """One mapping or model per node, named by the key `node`."""
    nodes = read_capabilities(kind([{"node": "a", "x": 1}, Host(node="b"), {"x": 2}]))
    assert [name for name, _ in nodes] == ["a", "b", ""]
    assert nodes[0][1] == {"node": "a", "x": 1}


def test_doubles_are_refused() -> None:
    """Two of one node are refused, also where both have no name."""
    assert "two capabilities are for the node 'a'" in refusal([{"node": "a"}, {"node": "a"}])
    assert "two capabilities are for the node ''" in refusal([{"x": 1}, {"node": "", "x": 2}])


def test_empty_list_withdraws_all() -> None:
    """The empty list is an update: of a host that has no nodes."""
    agent, board = Agent(), Board()
    assert board.nodes == PRESENCE
    agent.update_service_capabilities([])
    assert agent.last_capabilities == ()
    board.write("Agent", agent.last_capabilities)
    assert board.nodes == ()


# The board


def reported(*nodes: str) -> Any:
    return read_capabilities([{"node": node} for node in nodes])


def test_board_holds_the_nodes_of_all_authors() -> None:
    """Who reports nothing adds nothing; a report replaces the one before it."""
    board = Board()
    assert board.nodes == (("", {}),)
    board.write("one", reported("a"))
    board.write("two", reported("b", "c"))
    assert [name for name, _ in board.nodes] == ["a", "b", "c"]
    board.write("one", reported())
    assert [name for name, _ in board.nodes] == ["b", "c"]


def test_board_refuses_what_does_not_go_together() -> None:
    """A node of another author, or more than fits: what it held before stays, and nobody is woken."""
    board = Board()
    board.write("one", reported("a"))
    woken: list[Any] = []
    board.set_reader(lambda: woken.append(board.nodes))
    with pytest.raises(InvalidCapabilities, match="two capabilities are for the node 'a'"):
        board.write("two", reported("a"))
    with pytest.raises(InvalidCapabilities, match="bytes as JSON, at most"):
        board.write("two", read_capabilities([{"node": "b", "x": "x" * (NODES_LIMIT - 60)}]))
    assert [name for name, _ in board.nodes] == ["a"]
    assert woken == []
    board.write("two", reported("b"))
    board.set_reader(None)
    board.write("two", reported("c"))
    assert [[name for name, _ in nodes] for nodes in woken] == [["a", "b"]]


def test_board_may_be_written_by_threads() -> None:
    """No report of one author is lost to that of another."""
    board = Board()

    def write(author: str) -> None:
        for turn in range(200):
            board.write(author, read_capabilities({"node": author, "turn": turn}))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((name, values["turn"]) for name, values in board.nodes) == [(name, 199) for name in "abcd"]


async def test_publishing_without_a_service_does_nothing() -> None:
    """The periodic task runs in a pass without a service, before and after an update."""
    agent = Agent()
    await agent.periodic_tasks(None, raise_on_error=True)
    agent.update_service_capabilities({"a": 1})
    await agent.periodic_tasks(None, raise_on_error=True)
    assert [task.name for task in agent.task_status()] == ["publish_service_capabilities"]
    assert agent.task_status()[0].spacing == 0.0


# Nobody can change what is shared


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.update(a=2),
        lambda kept: kept.__setitem__("a", 2),
        lambda kept: kept.pop("a"),
        lambda kept: kept.popitem(),
        lambda kept: kept.setdefault("b", 1),
        lambda kept: kept.clear(),
        lambda kept: kept.__delitem__("a"),
        lambda kept: kept.__ior__({}),
        lambda kept: kept["a"].append(1),
        lambda kept: kept["a"].__setitem__(0, 1),
        lambda kept: kept["a"].extend([1]),
        lambda kept: kept["a"].insert(0, 1),
        lambda kept: kept["a"].pop(),
        lambda kept: kept["a"].remove({}),
        lambda kept: kept["a"].sort(),
        lambda kept: kept["a"].reverse(),
        lambda kept: kept["a"].clear(),
        lambda kept: kept["a"].__iadd__([1]),
        lambda kept: kept["a"].__imul__(2),
        lambda kept: kept["a"].__delitem__(0),
        lambda kept: kept["a"][0].update(b=1),
    ],
)
def test_values_cannot_be_changed(change: Any) -> None:
    """No method of a dict or list changes them, at any depth; the error says what to do."""
    kept = stored({"a": [{}]})
    with pytest.raises(TypeError, match=r"copy.deepcopy\(\)"):
        change(kept)
    assert kept == {"a": [{}]}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_copies_can_be_changed(copied: Any) -> None:
    """A deep copy is of plain dicts and lists."""
    kept = stored({"a": [{"b": 1}]})
    mine = copied(kept)
    mine["a"][0]["b"] = 2
    mine["a"].append(3)
    assert (mine, kept) == ({"a": [{"b": 2}, 3]}, {"a": [{"b": 1}]})
    copy.copy(kept)["a"] = kept.copy()["a"] = (kept | {})["a"] = 1
    assert type(mine) is dict


def test_values_are_hashable_and_equal_to_plain_ones() -> None:
    """They compare like the plain values, and equal ones hash alike."""
    one, two = stored({"a": [1, {"b": 1.0}], "c": 1}), stored({"c": True, "a": [1.0, {"b": 1}]})
    assert one == two == {"a": [1, {"b": 1}], "c": 1}
    assert hash(one) == hash(two)
    assert isinstance(one, Mapping)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), ([{"a": 0}], [{"a": False}]), ({"a": 1}, {})]
)
def test_values_that_json_tells_apart_are_not_the_same(one: Any, other: Any) -> None:
    """Python's equality is wider than JSON's."""
    assert not same(one, other)
    assert same(one, copy.deepcopy(one))


# On the wire


def announcement(**fields: Any) -> Announcement:
    sensible: dict[str, Any] = {
        "service": "compute",
        "host": "n1",
        "incarnation": 5,
        "sequence": 7,
        "ttl": 60.0,
        "nodes": (),
    }
    return Announcement(**(sensible | fields))


def test_announcement_on_the_wire() -> None:
    """The format that other languages implement."""
    value = announcement(
        nodes=read_capabilities([{"node": "a", "ram": 1, "zone": "ä"}, {"ok": True}])
    ).encode()
    assert value.decode() == (
        '{"v":1,"service":"compute","host":"n1","incarnation":5,"sequence":7,"ttl":60.0,"nodes":['
        '{"node":"a","capabilities":{"node":"a","ram":1,"zone":"ä"}},{"node":"","capabilities":{"ok":true}}]}'
    )


def test_key_is_made_of_tokens() -> None:
    """A name with dots or spaces is one token, and the longest names still make a key."""
    assert announcement_key("compute", "n1.example org") == "compute.n1=2Eexample=20org"
    assert len(announcement_key("s" * 128, "h" * 128)) == 257


Json = st.recursive(
    st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)  # a slow machine is no failure
@given(st.dictionaries(st.text().filter(lambda key: key != "node"), Json), st.text(max_size=10))
def test_readers_get_what_was_given(capabilities: dict[str, Any], host: str) -> None:
    """What goes over the wire comes back the same, for any JSON and any host name."""
    said = announcement(host=host, nodes=read_capabilities(capabilities))
    heard = Announcement.decode(announcement_key("compute", host), said.encode())
    assert same(heard.nodes, said.nodes)
    assert heard == said
    assert json.dumps(heard.nodes[0][1]) == json.dumps(capabilities)


def fields(**changes: Any) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(announcement(nodes=(("", {"a": 1}),)).encode())
    return read | changes


def test_unknown_fields_are_ignored() -> None:
    """A newer sender may say more, at each level."""
    node = {"node": "", "capabilities": {"a": 1}, "new": [None]}
    said = Announcement.decode("compute.n1", json.dumps(fields(more={"x": None}, nodes=[node])).encode())
    assert said == announcement(nodes=(("", {"a": 1}),))


MALFORMED: list[Any] = [
    b"",
    b"\xff",
    b"{",
    b"null",
    b"[]",
    b'"v"',
    b"[" * 100_000,
    b'{"v":' * 100_000,
    b"9" * 10_000,
    {},
    fields(v=2),
    fields(v=True),
    fields(v=1.0),
    fields(v="1"),
    fields(v=None),
    fields(service="other"),
    fields(service=1),
    fields(host="n2"),
    fields(host="x" * 200),
    fields(host="\ud800"),
    fields(incarnation="5"),
    fields(incarnation=5.0),
    fields(incarnation=True),
    fields(incarnation=-1),
    fields(incarnation=2**63),
    fields(sequence=10**4000),
    fields(sequence=None),
    fields(ttl=0),
    fields(ttl=-1),
    fields(ttl="60"),
    fields(ttl=True),
    fields(ttl=10**400),
    fields(ttl=math.nan),
    fields(ttl=math.inf),
    fields(nodes=None),
    fields(nodes={}),
    fields(nodes=""),
    fields(nodes=[1]),
    fields(nodes=[{}]),
    fields(nodes=[{"node": "", "capabilities": None}]),
    fields(nodes=[{"node": "", "capabilities": []}]),
    fields(nodes=[{"node": None, "capabilities": {}}]),
    fields(nodes=[{"node": "x" * 129, "capabilities": {}}]),
    fields(nodes=[{"node": "", "capabilities": {}}] * 2),
    fields(nodes=[{"node": "", "capabilities": {"a": None}}]),
    fields(nodes=[{"node": "", "capabilities": {"a": math.nan}}]),
    fields(nodes=[{"node": "", "capabilities": {"a": "\ud800"}}]),
    fields(nodes=[{"node": "", "capabilities": nested(NESTING + 1)}]),
    json.dumps(fields(ttl=60)).replace('"a": 1', '"a": 1e999').encode(),
    json.dumps(fields(ttl=60)).replace("60", "1e999").encode(),
]


@pytest.mark.parametrize(
    ("malformed", "text"),
    [
        (fields(v=True), "v is true, not an integer"),
        (fields(v=2), "v is 2; this reader knows version 1 of announcements"),
        ({}, "v is missing"),
        ([], "the announcement is an array, not an object"),
        (fields(host=None), "host is null, not a string"),
        (fields(sequence="7"), "sequence is '7', not an integer"),
        (fields(incarnation=2**63), "incarnation is 9223372036854775808, not a number from 0 to 2^63 - 1"),
        (fields(ttl=0), "ttl is 0, not a number greater than 0"),
        (fields(nodes=[{}]), "nodes[0].capabilities is missing"),
        (fields(nodes=[{"node": "", "capabilities": {}}, 1]), "nodes[1] is 1, not an object"),
        (
            fields(nodes=[{"node": "", "capabilities": {"a": [0, {"b": None}]}}]),
            "nodes[0].capabilities.a[1].b is null",
        ),
        (fields(nodes=[{"node": "", "capabilities": nested(62)}]), "nested deeper than 64 levels"),
        (fields(nodes=[{"node": 1, "capabilities": {}}]), "nodes[0].node is 1, not a string"),
        (
            fields(nodes=[{"node": "", "capabilities": {"a": None}}]),
            "nodes[0].capabilities.a is null; capabilities leave",
        ),
    ],
)
def test_what_is_malformed_is_named(malformed: Any, text: str) -> None:
    """The text has the field and speaks JSON, not Python: its reader may have written the sender in any language."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is what is tested
        Announcement.decode("compute.n1", json.dumps(malformed).encode())
    assert str(caught.value).startswith(text)


def test_too_large_announcement_is_refused() -> None:
    """Readers enforce the limit too, where an engine takes more (35)."""
    value = json.dumps(fields(nodes=[{"node": "", "capabilities": {"a": "x" * 8_000_000}}])).encode()
    with pytest.raises(ValueError, match=r"has 8000\d\d\d bytes, at most 1047552 are allowed"):
        Announcement.decode("compute.n1", value)


@pytest.mark.parametrize(
    ("ttl", "lifetime"), [(60, 60), (3600, 3600), (86_400, STORE_TTL), (1e300, STORE_TTL)]
)
def test_lifetime_is_capped(ttl: float, lifetime: float) -> None:
    """No announcement counts for longer than the store keeps it (43)."""
    assert Announcement.decode("compute.n1", json.dumps(fields(ttl=ttl)).encode()).lifetime == lifetime


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda value: str(value)[:60])
def test_malformed_announcements_are_refused(malformed: Any) -> None:
    """Whatever is stored, decoding raises ValueError with a short text, and nothing else."""
    value = malformed if isinstance(malformed, bytes) else json.dumps(malformed).encode()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the kind is all that is promised
        Announcement.decode("compute.n1", value)
    assert len(str(caught.value)) < 300


@settings(deadline=None)  # a slow machine is no failure
@given(st.data())
def test_damaged_announcements_never_break_a_reader(data: st.DataObject) -> None:
    """Any bytes put anywhere into a good one: it is read or refused by ValueError."""
    value = announcement(nodes=(("a", {"node": "a", "x": [1.5, "ä"]}),)).encode()
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(value))] * 2)))
    damaged = (
        value[:begin] + data.draw(st.binary(max_size=5) | st.text(max_size=3).map(str.encode)) + value[end:]
    )
    with contextlib.suppress(ValueError):
        Announcement.decode("compute.n1", damaged)


def test_importing_needs_no_loop() -> None:
    """A manager that reports is built, and updated, without an event loop."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert stored({"a": 1}) == {"a": 1}
