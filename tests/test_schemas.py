"""Validating what goes in and out of methods, and describing it."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, Required, TypeVar
from uuid import UUID

import pytest
from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    SecretBytes,
    SecretStr,
    StrictInt,
)
from typing_extensions import TypedDict, Unpack

from asyncmgr import InvalidArguments, InvalidRpcMethod
from asyncmgr._rpc.validation import Method
from asyncmgr._rpc.values import check_secrets, to_json_values
from asyncmgr.wire import encode_json


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


def taken(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the method is called with, out of a request with these arguments."""
    return method(name).read(arguments, encode_json({"v": 1, "arguments": arguments}))


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
    assert taken("types", {argument: given}) == {argument: read}


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
        taken("types", {argument: given})
    assert str(raised.value).startswith(f"Api.types: {told}")


def test_many_problems_are_told_in_part() -> None:
    """Five of them, and how many more."""
    wrong: dict[str, Any] = {
        key: [[]] for key in ["number", "colour", "ids", "short", "span", "price", "exact"]
    }
    with pytest.raises(InvalidArguments, match=r"; and \d+ more$"):
        taken("types", wrong)


def test_arguments_without_hints_are_any_json() -> None:
    """As they came."""
    value = {"a": [1, None, {"b": 2.5}]}
    assert taken("plain", {"value": value}) == {"value": value}
    with pytest.raises(InvalidArguments, match="'value': Field required"):
        taken("plain", {})
    with pytest.raises(InvalidArguments, match="has no argument 'x', 'y'; it takes other, value"):
        taken("plain", {"value": 1, "x": 1, "y": 2})


def test_other_arguments_cannot_be_called_self() -> None:
    """The method would get it twice; one whose own is positional only takes it."""
    with pytest.raises(InvalidArguments, match=r"Api\.anything has no argument 'self'; it takes none"):
        taken("anything", {"self": 1, "other": 2})
    assert taken("free", {"self": 1}) == {"self": 1}


def test_a_parameter_with_an_alias_is_refused() -> None:
    """Callers could name it neither way."""
    with pytest.raises(InvalidRpcMethod, match="'gib' has an alias, though arguments are known by"):
        method("aliased")


def test_other_arguments_where_the_method_takes_any() -> None:
    """Each is what their hint says."""
    assert taken("open", {"name": "a", "b": "5"}) == {"name": "a", "b": 5}
    with pytest.raises(InvalidArguments, match="'b': Input should be a valid integer"):
        taken("open", {"name": "a", "b": "x"})
    assert taken("anything", {"a": [1]}) == {"a": [1]}
    with pytest.raises(InvalidArguments, match="has no argument 'a'; it takes none"):
        taken("nothing", {"a": 1})


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


def test_where_a_result_is_not_what_was_promised() -> None:
    """The whole path into it."""
    with pytest.raises(TypeError, match=r"returned \[\{'y': 1\}\]: '0.x': Field required"):
        method("types").write([{"y": 1}])


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


# Aliases


class Disk(BaseModel):
    """Has other names on the wire than in Python."""

    size: int = Field(alias="sizeGiB")
    kind: str = Field("ssd", validation_alias="diskKind", serialization_alias="diskKind")


class Aliases:
    async def hinted(self, disk: Disk) -> Disk:
        return disk

    async def bare(self, disk: Disk):  # type: ignore[no-untyped-def]
        return disk

    async def several(self, disk: Disk) -> dict[str, list[Disk]]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("name", ["hinted", "bare"])
def test_fields_go_by_their_alias_in_both_directions(name: str) -> None:
    """With a hint for the result and without one, and as the schema says."""
    serving = Method(getattr(Aliases(), name), name)
    disk = Disk.model_validate({"sizeGiB": 5, "diskKind": "hdd"})
    wire = {"sizeGiB": 5, "diskKind": "hdd"}
    assert to_json_values({"disk": disk}) == {"disk": wire}
    assert serving.read({"disk": wire}, encode_json({"arguments": {"disk": wire}})) == {"disk": disk}
    assert serving.write(disk) == wire
    described = serving.describe()
    assert set(described["arguments"]["$defs"]["Disk"]["properties"]) == set(wire)
    if name == "hinted":
        assert set(described["result"]["properties"]) == set(wire)
        assert Method(Aliases().several, "several").write({"a": [disk]}) == {"a": [wire]}


# Type variables

T = TypeVar("T")
U = TypeVar("U")
M = TypeVar("M", bound=BaseModel)


class Page(BaseModel, Generic[T]):
    items: list[T]


class Repo(Generic[T, U]):
    async def add(self, item: T, *, tags: dict[str, U] | None = None) -> list[T]:
        return [item]

    async def page(self, page: Page[T], note: Annotated[T | None, Field()] = None) -> Page[T]:
        return page

    async def echo(self, value: V) -> V:
        return value

    async def model(self, value: M) -> M:
        return value


V = TypeVar("V")
W = TypeVar("W")


class Middle(Repo[list[W], int], Generic[W]): ...


class Points(Middle[Point]): ...


class Unbound(Repo): ...  # type: ignore[type-arg]


def test_type_variables_stand_for_what_the_bases_say() -> None:
    """Through several bases, in whatever they are part of, and in models that are generic themselves."""
    add = Method(Points().add, "Points.add")
    arguments = {"item": [{"x": "1"}], "tags": {"a": "5"}}
    assert add.read(arguments, encode_json({"arguments": arguments})) == {
        "item": [Point(1)],
        "tags": {"a": 5},
    }
    assert add.write([[Point(1)]]) == [[{"x": 1, "y": 0}]]
    with pytest.raises(InvalidArguments, match=r"'item.0.x': Field required"):
        add.read({"item": [{}]}, encode_json({"arguments": {"item": [{}]}}))
    page = Method(Points().page, "Points.page")
    arguments = {"page": {"items": [[{"x": 2}]]}, "note": [{"x": 3}]}
    read = page.read(arguments, encode_json({"arguments": arguments}))
    assert read["page"].items == [[Point(2)]]
    assert read["note"] == [Point(3)]


def test_an_instance_may_say_what_type_variables_stand_for() -> None:
    """`Repo[Point, str]()`, without a class of its own."""
    add = Method(Repo[Point, str]().add, "add")
    arguments = {"item": {"x": 1}}
    assert add.read(arguments, encode_json({"arguments": arguments})) == {"item": Point(1)}


@pytest.mark.parametrize(("manager", "name"), [(Unbound(), "add"), (Unbound(), "page"), (Points(), "model")])
def test_type_variables_that_stand_for_nothing_fail_the_start(manager: Any, name: str) -> None:
    """Whatever came would be taken, and a model lose its fields."""
    with pytest.raises(
        InvalidRpcMethod, match=r"has the type variable ~?[TUM] in a hint, which stands for nothing"
    ):
        Method(getattr(manager, name), name)


def test_a_type_variable_of_the_method_alone_is_anything() -> None:
    """It says only that two of its types are the same."""
    echo = Method(Points().echo, "echo")
    assert echo.read({"value": [1]}, encode_json({"arguments": {"value": [1]}})) == {"value": [1]}


# What JSON has no word for


class Login(BaseModel):
    user: str
    token: SecretStr


class Options(TypedDict, total=False):
    """Of a method that unpacks them."""

    size: Required[int]
    note: str


class Odd:
    async def login(self, password: SecretStr) -> None: ...

    async def token(self) -> list[Login] | None: ...

    async def raw(self) -> SecretBytes: ...  # type: ignore[empty-body]

    async def encoded(self, data: Base64Bytes) -> Base64Bytes:
        return data

    async def parsed(self) -> Json[list[int]]: ...  # type: ignore[empty-body]

    async def data(self, data: bytes) -> bytes:
        return data

    async def unpacked(self, name: str, **options: Unpack[Options]) -> None: ...


def odd(name: str) -> Method:
    return Method(getattr(Odd(), name), f"Odd.{name}")


def test_a_secret_can_be_received() -> None:
    """Whoever calls sends the text itself; in the method it is not shown by accident."""
    read = odd("login").read({"password": "x"}, b'{"arguments":{"password":"x"}}')
    assert read["password"].get_secret_value() == "x"


@pytest.mark.parametrize(("name", "field"), [("token", "Login.token"), ("raw", "a value")])
def test_a_secret_in_a_result_fails_the_start(name: str, field: str) -> None:
    """Only asterisks would be sent; the field is named."""
    with pytest.raises(InvalidRpcMethod, match=rf"Odd\.{name} returns {field}, which pydantic hides"):
        odd(name)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (SecretStr("x"), "the value"),
        ({"login": Login(user="u", token=SecretStr("x"))}, "login.token"),
        ({"a": [1, {"b": SecretBytes(b"x")}]}, "a.1.b"),
    ],
)
def test_a_secret_that_would_be_sent_as_asterisks_is_refused(value: Any, path: str) -> None:
    """Its place is named; a text of ten asterisks is only a text."""
    with pytest.raises(ValueError, match=rf"^{path} is a secret, which pydantic hides"):
        check_secrets(value, encode_json(to_json_values(value)))
    check_secrets({"a": "*" * 10}, encode_json({"a": "*" * 10}))


def test_bytes_travel_as_text_or_by_base64() -> None:
    """Those of no text are refused with the cure; a hint for base64 means the same in both directions."""
    assert odd("data").write(b"text") == "text"
    with pytest.raises(ValueError, match="utf-8"):
        odd("data").write(b"\xff")
    with pytest.raises(ValueError, match=r"bytes that are no UTF-8 .*; send base64, and hint it Base64Bytes"):
        to_json_values({"data": b"\xff"})
    for data, text in ((b"\xff", "/w=="), (b"abcd", "YWJjZA==")):
        assert odd("encoded").write(data) == text
        arguments = {"data": text}
        assert odd("encoded").read(arguments, encode_json({"arguments": arguments})) == {"data": data}
    assert odd("parsed").write([1, 2]) == [1, 2]


def test_unpacked_options_are_arguments_of_their_own() -> None:
    """With their own types, required or not; others are refused."""
    unpacked = odd("unpacked")
    arguments = {"name": "n", "size": "5"}
    assert unpacked.read(arguments, encode_json({"arguments": arguments})) == {"name": "n", "size": 5}
    with pytest.raises(InvalidArguments, match="'size': Field required"):
        unpacked.read({"name": "n"}, b'{"arguments":{"name":"n"}}')
    with pytest.raises(InvalidArguments, match="has no argument 'other'; it takes name, note, size"):
        unpacked.read({"other": 1}, b'{"arguments":{"other":1}}')
    described = unpacked.describe()["arguments"]
    assert (set(described["properties"]), described["required"]) == (
        {"name", "note", "size"},
        ["name", "size"],
    )
