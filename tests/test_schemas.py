"""Validating what goes in and out of methods, and describing it."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from asyncmgr import InvalidArguments, InvalidRpcMethod
from asyncmgr._rpc.validation import Method, to_json_values


class Colour(enum.Enum):
    RED = "red"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    count: int = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Api:
    async def types(
        self,
        number: int = 0,
        colour: Colour = Colour.RED,
        *,
        strict: Strict | None = None,
        point: Point | None = None,
        ids: set[UUID] = frozenset(),  # type: ignore[assignment]
        short: Annotated[str, Field(max_length=3)] = "",
        span: timedelta = timedelta(),
        price: Decimal = Decimal(0),
        exact: StrictInt = 0,
        model_config: Literal["a", "b"] = "a",
        _hidden: int = 1,
    ) -> list[Point]:
        """Take all kinds.

        And more of it.
        """
        return []

    async def plain(self, value, other=None):  # type: ignore[no-untyped-def]
        return value

    async def open(self, name: str, **others: int) -> None: ...

    async def anything(self, **others: Any) -> Any: ...

    async def free(self, /, **others: Any) -> None: ...

    async def aliased(self, gib: Annotated[int, Field(alias="size")]) -> None: ...

    async def nothing(self) -> None: ...

    async def number(self) -> float: ...  # type: ignore[empty-body]


def method(name: str) -> Method:
    return Method(getattr(Api(), name), f"Api.{name}")


@pytest.mark.parametrize(
    ("argument", "given", "read"),
    [
        ("number", "7", 7),
        ("number", 7.0, 7),
        ("colour", "red", Colour.RED),
        ("strict", {"at": "2026-01-01T00:00:00Z"}, Strict(at=datetime(2026, 1, 1, tzinfo=UTC))),
        ("strict", None, None),
        ("point", {"x": 1, "later": 2}, Point(1)),
        ("ids", ["12345678-1234-5678-1234-567812345678"] * 2, {UUID("12345678123456781234567812345678")}),
        ("short", "abc", "abc"),
        ("span", "PT5M", timedelta(minutes=5)),
        ("span", 300, timedelta(minutes=5)),
        ("price", "1.10", Decimal("1.10")),
        ("exact", 5, 5),
        ("model_config", "b", "b"),
        ("_hidden", 2, 2),
    ],
)
def test_arguments_become_what_the_hints_say(argument: str, given: Any, read: Any) -> None:
    """Out of what JSON has for them, strict types too; what is left out is left to the method."""
    assert method("types").read({argument: given}) == {argument: read}


@pytest.mark.parametrize(
    ("argument", "given", "told"),
    [
        ("number", "x", "'number': Input should be a valid integer"),
        ("number", None, "'number': Input should be a valid integer"),
        ("colour", "blue", "'colour': Input should be 'red'"),
        (
            "strict",
            {"at": "2026-01-01T00:00:00Z", "count": "1"},
            "'strict.count': Input should be a valid integer",
        ),
        ("point", {}, "'point.x': Field required"),
        ("short", "abcd", "'short': String should have at most 3 characters"),
        ("exact", "5", "'exact': Input should be a valid integer"),
        ("model_config", "c", "'model_config': Input should be 'a' or 'b'"),
    ],
)
def test_arguments_that_do_not_fit(argument: str, given: Any, told: str) -> None:
    """The text has the path and what is accepted, and no value of the caller's."""
    with pytest.raises(InvalidArguments) as raised:
        method("types").read({argument: given})
    assert str(raised.value).startswith(f"Api.types: {told}")


def test_many_problems_are_told_in_part() -> None:
    """Five of them, and how many more."""
    wrong: dict[str, Any] = {
        key: [[]] for key in ["number", "colour", "ids", "short", "span", "price", "exact"]
    }
    with pytest.raises(InvalidArguments, match=r"; and \d+ more$"):
        method("types").read(wrong)


def test_arguments_without_hints_are_any_json() -> None:
    """As they came."""
    value = {"a": [1, None, {"b": 2.5}]}
    assert method("plain").read({"value": value}) == {"value": value}
    with pytest.raises(InvalidArguments, match="'value': Field required"):
        method("plain").read({})
    with pytest.raises(InvalidArguments, match="has no argument 'x', 'y'; it takes other, value"):
        method("plain").read({"value": 1, "x": 1, "y": 2})


def test_other_arguments_cannot_be_called_self() -> None:
    """The method would get it twice; one whose own is positional only takes it."""
    with pytest.raises(InvalidArguments, match=r"Api\.anything has no argument 'self'; it takes none"):
        method("anything").read({"self": 1, "other": 2})
    assert method("free").read({"self": 1}) == {"self": 1}


def test_a_parameter_with_an_alias_is_refused() -> None:
    """Callers could name it neither way."""
    with pytest.raises(InvalidRpcMethod, match="'gib' has an alias, though arguments are known by"):
        method("aliased")


def test_other_arguments_where_the_method_takes_any() -> None:
    """Each is what their hint says."""
    assert method("open").read({"name": "a", "b": "5"}) == {"name": "a", "b": 5}
    with pytest.raises(InvalidArguments, match="'b': Input should be a valid integer"):
        method("open").read({"name": "a", "b": "x"})
    assert method("anything").read({"a": [1]}) == {"a": [1]}
    with pytest.raises(InvalidArguments, match="has no argument 'a'; it takes none"):
        method("nothing").read({"a": 1})


@pytest.mark.parametrize(
    ("name", "returned", "written"),
    [
        ("types", [Point(1, 2)], [{"x": 1, "y": 2}]),
        ("types", [{"x": "1"}], [{"x": 1, "y": 0}]),
        (
            "plain",
            {"at": datetime(2026, 1, 1, tzinfo=UTC), "ids": {1}},
            {"at": "2026-01-01T00:00:00Z", "ids": [1]},
        ),
        ("anything", Strict(at=datetime(2026, 1, 1, tzinfo=UTC)), {"at": "2026-01-01T00:00:00Z", "count": 1}),
        ("nothing", None, None),
        ("number", 1, 1.0),
    ],
)
def test_results_are_written_as_json_values(name: str, returned: Any, written: Any) -> None:
    """Models, dates and sets as pydantic writes them."""
    assert method(name).write(returned) == written


@pytest.mark.parametrize(
    ("name", "returned"), [("types", [1]), ("types", None), ("nothing", 1), ("number", "x")]
)
def test_results_that_are_not_what_was_promised(name: str, returned: Any) -> None:
    """The method's name and what it returned are told."""
    with pytest.raises(TypeError, match=rf"Api\.{name} returned "):
        method(name).write(returned)


def test_description() -> None:
    """JSON Schemas, and the first line of the documentation."""
    described = method("types").describe()
    assert described["summary"] == "Take all kinds."
    assert described["arguments"]["properties"]["short"]["maxLength"] == 3
    assert "required" not in described["arguments"]
    assert described["arguments"]["additionalProperties"] is False
    assert described["result"]["items"] == {"$ref": "#/$defs/Point"}
    assert method("open").describe()["arguments"]["additionalProperties"] == {"type": "integer"}
    assert method("anything").describe()["arguments"]["additionalProperties"] is True
    assert method("anything").describe()["result"] == {}
    assert method("nothing").describe()["result"] == {"type": "null"}


def test_a_type_without_a_schema_is_described_as_anything() -> None:
    """A validator need not have one."""

    class Odd:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            return core_schema.no_info_plain_validator_function(lambda value: value)

    class Local:
        async def take(self, value: Any) -> None: ...

    Local.take.__annotations__["value"] = Odd
    described = Method(Local().take, "Local.take").describe()
    assert described["arguments"] == {"additionalProperties": False}


@pytest.mark.parametrize("value", [object(), {"a": object()}, b"\xff"])
def test_what_has_no_json_values(value: Any) -> None:
    """It is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own, of several texts
        to_json_values(value)
