"""What a change of an interface means for those who call it."""

from __future__ import annotations

import copy
import json
from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from asyncmgr._rpc.interface.diff import Comparison, Move, compare
from asyncmgr._rpc.validation import Method

MAJOR, MINOR, NONE = Move.MAJOR, Move.MINOR, Move.NONE


def document(
    *functions: Any, version: str = "1.3", namespace: str | None = None, manager: str = "M"
) -> dict[str, Any]:
    """What `info` would tell of a manager with these methods."""
    methods = [
        {"name": function.__name__, **Method(function, function.__name__).describe()}
        for function in functions
    ]
    return {"managers": [{"name": manager, "namespace": namespace, "version": version, "methods": methods}]}


def compared(old: Any, new: Any) -> Comparison:
    """Compare two versions of one method."""
    (comparison,) = compare(document(old), document(new))
    return comparison


def taking(hint: Any) -> Any:
    async def method(value): ...  # type: ignore[no-untyped-def] # the hint comes next

    method.__annotations__ = {"value": hint, "return": None}
    return method


def giving(hint: Any) -> Any:
    async def method(): ...  # type: ignore[no-untyped-def] # the hint comes next

    method.__annotations__ = {"return": hint}
    return method


# Methods and arguments


async def f() -> None: ...
async def g() -> None: ...


def test_a_method_added_is_minor_and_one_removed_major() -> None:
    """Callers of the old methods must find them."""
    (added,) = compare(document(f), document(f, g))
    (removed,) = compare(document(f, g), document(f))
    assert [(change.move, change.method, change.what) for change in added.changes] == [(MINOR, "g", "added")]
    assert [(change.move, change.method, change.what) for change in removed.changes] == [
        (MAJOR, "g", "removed")
    ]


def _arguments() -> list[tuple[Any, Any, Move, str]]:
    async def none() -> None: ...
    async def required(a: int) -> None: ...
    async def optional(a: int = 1) -> None: ...
    async def more(a: int, b: int = 1) -> None: ...
    async def needed(a: int, b: int) -> None: ...
    async def others(**others: int) -> None: ...
    async def texts(**others: str) -> None: ...
    async def anything(a: int, **others: Any) -> None: ...

    return [
        (none, required, MAJOR, "argument a is added and must be there"),
        (none, optional, MINOR, "argument a is added"),
        (required, none, MAJOR, "argument a is removed"),
        (optional, none, MAJOR, "argument a is removed"),
        (required, optional, MINOR, "argument a may be left out"),
        (optional, required, MAJOR, "argument a must be there"),
        (required, more, MINOR, "argument b is added"),
        (more, needed, MAJOR, "argument b must be there"),
        (more, anything, MINOR, "other arguments are taken"),
        (anything, required, MAJOR, "other arguments are refused"),
        (optional, texts, MAJOR, "argument a is str, was int"),
        (texts, optional, MAJOR, "argument a is int, was str"),
        (optional, others, MINOR, "other arguments are taken"),
        (others, texts, MAJOR, "other argument is str, was int"),
    ]


@pytest.mark.parametrize(("old", "new", "move", "what"), _arguments())
def test_arguments(old: Any, new: Any, move: Move, what: str) -> None:
    """What old callers send must still be taken."""
    new.__name__ = old.__name__ = "method"
    comparison = compared(old, new)
    assert comparison.needed is move
    assert what in [change.what for change in comparison.changes]


# Types


class Plain(BaseModel):
    """One field."""

    a: int


class Longer(BaseModel):
    """One field more, which may be left out."""

    a: int
    b: int = 1


class Demanding(BaseModel):
    """One field more, which must be there."""

    a: int
    b: int


class Lax(BaseModel):
    """The field may be left out."""

    a: int = 1


class Closed(BaseModel):
    """Refuses other fields."""

    model_config = ConfigDict(extra="forbid")
    a: int


class Tree(BaseModel):
    """Holds itself."""

    children: list[Tree]


class OtherTree(BaseModel):
    """Holds itself, and is of another size."""

    children: list[OtherTree]
    size: int


TYPES = [
    # old, new, of an argument, of a result
    (int, float, MINOR, MAJOR),
    (int, str, MAJOR, MAJOR),
    (int, int | None, MINOR, MAJOR),
    (int, Any, MINOR, MAJOR),
    (int | str, int, MAJOR, MINOR),
    (Literal["a", "b"], Literal["a", "b", "c"], MINOR, MAJOR),
    (Literal["a"], Literal["b"], MAJOR, MAJOR),
    (Literal["a"], str, MINOR, MAJOR),
    (Literal[1], Literal[True], MAJOR, MAJOR),
    (Literal["a", "b"], Literal["b", "a"], NONE, NONE),
    (Annotated[int, Field(ge=1)], int, MINOR, MAJOR),
    (Annotated[int, Field(ge=1)], Annotated[int, Field(gt=0)], NONE, NONE),
    (Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)], MAJOR, MINOR),
    (Annotated[int, Field(le=10)], Annotated[int, Field(le=5)], MAJOR, MINOR),
    (Annotated[int, Field(ge=1, le=5)], Annotated[int, Field(ge=2, le=6)], MAJOR, MAJOR),
    (Annotated[str, Field(max_length=5)], Annotated[str, Field(max_length=9)], MINOR, MAJOR),
    (Annotated[str, Field(pattern="a")], str, MINOR, MAJOR),
    (Annotated[str, Field(pattern="a")], Annotated[str, Field(pattern="b")], MAJOR, MAJOR),
    (datetime, str, MINOR, MAJOR),
    (list[int], list[float], MINOR, MAJOR),
    (list[int], set[int], MAJOR, MINOR),
    (list[int], Annotated[list[int], Field(max_length=3)], MAJOR, MINOR),
    (tuple[int, str], tuple[int, int], MAJOR, MAJOR),
    (tuple[int, str], tuple[int], MAJOR, MAJOR),
    (dict[str, int], dict[str, int | None], MINOR, MAJOR),
    (Plain, Longer, MINOR, MINOR),
    (Longer, Plain, MAJOR, MAJOR),
    (Plain, Demanding, MAJOR, MINOR),
    (Longer, Demanding, MAJOR, MINOR),
    (Plain, Lax, MINOR, MAJOR),
    (Plain, Closed, MAJOR, NONE),
    (Plain, int, MAJOR, MAJOR),
    (list[Plain], list[Longer], MINOR, MINOR),
    (Plain | None, Longer | None, MINOR, MINOR),
    (Plain | Closed, Longer | Closed, MINOR, MINOR),
    (Tree, OtherTree, MAJOR, MINOR),
    (dict[str, Any], Plain, MAJOR, MAJOR),
    (Plain, dict[str, int], MAJOR, MAJOR),
]


@pytest.mark.parametrize(("old", "new", "argument", "result"), TYPES)
def test_types(old: Any, new: Any, argument: Move, result: Move) -> None:
    """Arguments may take more, results may hold less; what is ignored may be added."""
    assert compared(taking(old), taking(new)).needed is argument
    assert compared(giving(old), giving(new)).needed is result


@pytest.mark.parametrize("hint", [hint for old, new, *_ in TYPES for hint in (old, new)])
def test_the_same_needs_nothing(hint: Any) -> None:
    """An interface that did not change has no changes."""
    assert compared(taking(hint), taking(hint)).changes == ()
    assert compared(giving(hint), giving(hint)).changes == ()


def test_a_type_of_other_arguments_is_looked_into() -> None:
    """What ``**others`` takes is compared by its fields too."""

    async def plain(**others: Plain) -> None: ...
    async def demanding(**others: Demanding) -> None: ...

    demanding.__name__ = "plain"
    assert [change.what for change in compared(plain, demanding).changes] == [
        "other argument.b is added and must be there"
    ]


def test_titles_texts_and_defaults_are_no_change() -> None:
    """Only what is taken counts."""
    plain = {"type": "object", "properties": {"title": {"type": "string"}}}
    noted = {
        **plain,
        "title": "T",
        "description": "D",
        "properties": {"title": {"type": "string", "default": "a"}},
    }
    assert of_schemas(plain, noted).changes == ()


def test_a_field_may_be_called_like_a_keyword() -> None:
    """A field whose name is `title` is a field."""
    before = {"type": "object", "properties": {"title": {"type": "string"}}}
    after = {"type": "object", "properties": {"title": {"type": "integer"}}}
    assert of_schemas(before, after).needed is MAJOR


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"not": {"type": "string"}}, {"not": {"type": "integer"}}),
        ({"allOf": [{"minLength": 1}, {"maxLength": 2}]}, {"allOf": [{"minLength": 1}, {"maxLength": 1}]}),
        ({"$ref": "#/$defs/Gone"}, {"$ref": "#/$defs/Other"}),
        ({"patternProperties": {"a": {"type": "string"}}}, {"patternProperties": {"a": {"type": "null"}}}),
    ],
)
def test_what_cannot_be_told_is_major(old: Any, new: Any) -> None:
    """No change is called compatible that was not understood."""
    assert of_schemas(old, new).needed is MAJOR
    assert of_schemas(old, new, key="result").needed is MAJOR


def of_schemas(old: Any, new: Any, key: str = "arguments") -> Comparison:
    """Compare two schemas of a method's arguments, or result."""
    first, second = document(f), document(f)
    first["managers"][0]["methods"][0][key] = old
    second["managers"][0]["methods"][0][key] = new
    (comparison,) = compare(first, second)
    return comparison


# All types at once

simple = st.sampled_from(
    [int, float, str, bool, None, Any, Literal["a", "b"], Literal["a"], Plain, Longer, Closed, Tree]
)
bounded = st.builds(
    lambda low, high: Annotated[int, Field(ge=low, lt=high)], st.integers(0, 3), st.integers(4, 7)
)
hints = st.recursive(
    simple | bounded,
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda two: two[0] | two[1] if None not in two else Any),
    ),
    max_leaves=4,
)


def schema_of(hint: Any) -> Any:
    return TypeAdapter(hint).json_schema()


@settings(deadline=None, max_examples=150)
@given(hints)
def test_any_type_is_compatible_with_itself(hint: Any) -> None:
    """Reflexive, for arguments and results."""
    schema = schema_of(hint)
    for key in ("arguments", "result"):
        wrapped = {"type": "object", "properties": {"x": schema}, "$defs": schema.get("$defs", {})}
        assert of_schemas(wrapped, copy.deepcopy(wrapped), key).changes == ()


@settings(deadline=None, max_examples=150)
@given(hints, hints)
def test_only_equal_types_need_nothing(old: Any, new: Any) -> None:
    """Two types that differ need a move in one direction at least, the other way round too."""
    first, second = schema_of(old), schema_of(new)
    forth = of_schemas({"x": 1, **first}, {"x": 1, **second}, "result")
    back = of_schemas({"x": 1, **second}, {"x": 1, **first}, "result")
    assert bool(forth.changes) == bool(back.changes)
    if json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True):
        assert not forth.changes


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from("abcde"), unique=True), st.lists(st.sampled_from("abcde"), unique=True))
def test_added_and_removed_mirror(old: list[str], new: list[str]) -> None:
    """What is added one way is removed the other way."""
    forth, back = named(old, new), named(new, old)
    added = {(change.method, "removed") for change in forth if change.what == "added"}
    assert added == {(change.method, change.what) for change in back if change.what == "removed"}
    assert len(forth) == len(back) == len(set(old) ^ set(new))


def named(old: list[str], new: list[str]) -> list[Any]:
    """Changes between managers that have methods of these names, and one more."""
    first, second = document(f), document(f)
    for one, names in ((first, old), (second, new)):
        methods = one["managers"][0]["methods"]
        methods += [{**methods[0], "name": name} for name in names]
    (comparison,) = compare(first, second)
    return list(comparison.changes)


# Versions


@pytest.mark.parametrize(
    ("old", "new", "functions", "at_least", "ok"),
    [
        ("1.3", "1.3", (f,), "1.3", True),
        ("1.3", "1.4", (f,), "1.3", True),
        ("1.3", "2.0", (f,), "1.3", True),
        ("1.3", "1.2", (f,), "1.3", False),
        ("2.0", "1.9", (f,), "2.0", False),
        ("1.3", "1.3", (f, g), "1.4", False),
        ("1.9", "1.10", (f, g), "1.10", True),
        ("1.3", "2.0", (f, g), "1.4", True),
        ("1.3", "1.4", (g,), "2.0", False),
        ("1.3", "2.0", (g,), "2.0", True),
    ],
)
def test_versions(old: str, new: str, functions: Any, at_least: str, ok: bool) -> None:
    """The declared version must say at least as much as the changes do, and never goes back."""
    (comparison,) = compare(document(f, version=old), document(*functions, version=new))
    assert (comparison.at_least, comparison.ok) == (at_least, ok)
    assert comparison.went_back == ([*map(int, new.split("."))] < [*map(int, old.split("."))])


def test_a_manager_is_found_by_its_interface() -> None:
    """Callers do not see a manager's name, so another one is no change."""
    (renamed,) = compare(document(f, manager="Old"), document(f, manager="New"))
    assert renamed.changes == ()


def test_an_interface_that_is_gone_cannot_be_said_by_a_version() -> None:
    """Its callers are refused; a new interface harms nobody."""
    gone, new = compare(document(f, namespace="a"), document(f, namespace="b"))
    assert (gone.ok, gone.new, gone.needed) == (False, None, MAJOR)
    assert (new.ok, new.old, new.needed) == (True, None, NONE)


def test_two_majors_side_by_side_are_told_apart() -> None:
    """A service may serve an old and a new major; each is compared with itself."""
    both = {"managers": [*document(f)["managers"], *document(g, version="2.0", manager="M2")["managers"]]}
    assert [comparison.changes for comparison in compare(both, copy.deepcopy(both))] == [(), ()]


@pytest.mark.parametrize("wrong", [{}, {"managers": 1}, {"managers": [{}]}, {"managers": [{"name": "M"}]}])
def test_another_document_is_refused(wrong: Any) -> None:
    """The message says what to write."""
    with pytest.raises(ValueError, match="asyncmgr info SERVICE --json"):
        compare(wrong, document(f))
