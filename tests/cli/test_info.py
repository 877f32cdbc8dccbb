"""``asyncmgr info``, and schemas in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncmgr import AsyncmgrError
from asyncmgr._cli.commands.info import _described
from asyncmgr._rpc.interface.signatures import method_in_words, models_of, type_in_words
from tests.cli.conftest import Elsewhere, Invoke
from tests.cli.remote import Compute, Zones


@pytest.fixture
def _compute(elsewhere: Elsewhere) -> None:
    elsewhere.start(Compute("info"), Zones(), host="n1")


@pytest.mark.usefixtures("_compute")
def test_info_reads_like_code(invoke: Invoke) -> None:
    """Interfaces with their versions, methods as signatures, and tasks."""
    result = invoke("info", "info")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("info on n1, asyncmgr ")
    assert lines[2:11] == [
        "Compute, version 1.3",
        "  resize(volume: str, gib: int = ..., kind: 'thin' | 'thick' = ..., **tags: int) -> Volume".replace(
            "**tags", "**others"
        ),
        "      Make a volume larger.",
        "  echo(value)",
        "      Give the value back.",
        "  wait() -> None",
        "  tell() -> None",
        "  Volume(name: str, gib: int = ...)",
        "",
    ]
    (sync,) = [line for line in lines if line.startswith("  Compute.sync ")]
    assert sync.split()[1:4] == ["every", "1h", "never"]
    assert lines[-2:] == ["Zones, namespace zones, version 1.0", "  count() -> int"]


@pytest.mark.usefixtures("_compute")
def test_info_as_json_is_the_document(invoke: Invoke) -> None:
    """Programs get what the service told."""
    told = json.loads(invoke("info", "info", "--at", "n1", "--json").stdout)
    assert (told["service"], told["host"]) == ("info", "n1")
    assert [manager["version"] for manager in told["managers"]] == ["1.3", "1.0"]


@pytest.mark.usefixtures("_compute")
def test_nobody_to_ask_is_one_line(invoke: Invoke) -> None:
    """A service that is not there has no information."""
    result = invoke("info", "info", "--at", "n9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: NoResponders: info at n9: info()")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "Any"),
        (True, "Any"),
        (False, "Never"),
        ({"type": "string", "format": "date-time"}, "datetime"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int | None"),
        ({"type": ["integer", "null"]}, "int | None"),
        ({"const": "a"}, "'a'"),
        ({"enum": ["a", 1, None, True]}, "'a' | 1 | None | true"),
        ({"type": "array", "items": {"$ref": "#/$defs/Disk"}}, "list[Disk]"),
        ({"type": "array", "uniqueItems": True, "items": {"type": "string"}}, "set[str]"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {}]}, "tuple[str, Any]"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "dict[str, float]"),
        ({"type": "object", "properties": {}, "title": "Disk"}, "Disk"),
        ({"type": "nonsense"}, "Any"),
    ],
)
def test_types_read_like_hints(schema: Any, words: str) -> None:
    """A JSON Schema is shown as the hint that it was made of."""
    assert type_in_words(schema) == words


def test_what_may_be_left_out_comes_last() -> None:
    """Arguments are shown as Python would have them."""
    arguments = {
        "properties": {"a": {}, "b": {"type": "integer"}},
        "required": ["b"],
        "additionalProperties": True,
    }
    assert method_in_words({"name": "f", "arguments": arguments}) == "f(b: int, a=..., **others)"


def test_models_are_shown_with_their_fields() -> None:
    """Each model that a method takes or gives is written out once, nested ones and choices too (53)."""
    disk = {"properties": {"gib": {"type": "number"}, "kind": {"$ref": "#/$defs/Kind"}}, "required": ["gib"]}
    kind = {"enum": ["thin", "thick"], "type": "string"}
    volume = {
        "properties": {"disks": {"type": "array", "items": {"$ref": "#/$defs/Disk"}}},
        "title": "Volume",
    }
    definitions = {"$defs": {"Disk": disk, "Kind": kind}}
    methods = [
        {
            "name": "get",
            "arguments": {"properties": {}, "title": "Arguments"},
            "result": definitions | volume,
        },
        {"name": "put", "arguments": definitions | {"properties": {"disk": {"$ref": "#/$defs/Disk"}}}},
    ]
    assert models_of(methods) == [
        "Disk(gib: float, kind: Kind = ...)",
        "Kind = 'thin' | 'thick'",
        "Volume(disks: list[Disk] = ...)",
    ]


def described(**changes: Any) -> dict[str, Any]:
    """What a service tells, with something else in its one manager."""
    manager: dict[str, Any] = {"name": "M", "namespace": None, "version": "1.0", "methods": [], "tasks": []}
    return {"service": "s", "host": "h", "version": "9", "managers": [manager | changes]}


TASK = {"name": "M.t", "schedule": "every 5s", "last_run": None, "next_due": None}


@pytest.mark.parametrize(
    "told",
    [
        None,
        5,
        "text\n\x1b[2J",
        [],
        {},
        {"service": "s"},
        described(methods=5),
        described(methods=[{"name": "f"}]),
        described(methods=[{"name": "f", "summary": "", "arguments": {"properties": 5}}]),
        described(
            methods=[{"name": "f", "summary": "", "arguments": {"required": 5, "properties": {"a": {}}}}]
        ),
        described(methods=[{"name": "f", "summary": "", "result": {"anyOf": 5}}]),
        described(tasks=[{}]),
        described(tasks=[TASK | {"next_due": "tomorrow"}]),
        described(tasks=[TASK | {"next_due": "2026-01-01T00:00:00"}]),
        described(tasks=[TASK | {"name": 5}]),
    ],
)
def test_an_odd_answer_is_one_line(told: Any) -> None:
    """Whatever a program that calls itself a service answers, there is no traceback (53)."""
    with pytest.raises(AsyncmgrError) as caught:
        _described("s\x1b[2J", told)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(r"s\x1b[2J answered with no description of a service")


def test_an_odd_answer_ends_the_command(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """The exit code is 1; as JSON the answer is shown whatever it is (53)."""
    elsewhere.answer("odd", {"odd": "\u009b2J"})
    result = invoke("info", "odd")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: odd answered with no description of a service")
    assert invoke("info", "odd", "--json").stdout == '{\n  "odd": "\\u009b2J"\n}\n'


def test_what_is_told_moves_no_cursor() -> None:
    """Names, summaries and schedules come from other hosts: control characters are shown as escapes (40)."""
    bad = "\x1b[2J\x07\u009b\u202e"
    method = {"name": bad, "summary": bad, "arguments": {"properties": {bad: {}}}, "result": {"title": bad}}
    told = described(name=bad, namespace=bad, version=bad, methods=[method], tasks=[TASK | {"schedule": bad}])
    shown = _described("s", told | {"host": bad})
    assert all(line.isprintable() for line in shown.split("\n"))
    assert shown.count(r"\x1b[2J") >= 7
