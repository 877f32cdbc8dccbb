"""``asyncmgr info``, and schemas in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncmgr._rpc.interface.signatures import signature_of, type_in_words
from tests.cli.conftest import Elsewhere, Invoke
from tests.cli.remote import Compute, Zones


@pytest.fixture(autouse=True)
def _compute(elsewhere: Elsewhere) -> None:
    elsewhere.start(Compute("info"), Zones(), host="n1")


def test_info_reads_like_code(invoke: Invoke) -> None:
    """Interfaces with their versions, methods as signatures, and tasks."""
    result = invoke("info", "info")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("info on n1, asyncmgr ")
    assert lines[2:10] == [
        "Compute, version 1.3",
        "  resize(volume: str, gib: int = ..., kind: 'thin' | 'thick' = ..., **tags: int) -> Volume".replace(
            "**tags", "**others"
        ),
        "      Make a volume larger.",
        "  echo(value)",
        "      Give the value back.",
        "  wait() -> None",
        "  tell() -> None",
        "",
    ]
    (sync,) = [line for line in lines if line.startswith("  Compute.sync ")]
    assert sync.split()[1:5] == ["every", "3600", "s", "never"]
    assert lines[-2:] == ["Zones, namespace zones, version 1.0", "  count() -> int"]


def test_info_as_json_is_the_document(invoke: Invoke) -> None:
    """Programs get what the service told."""
    told = json.loads(invoke("info", "info", "--at", "n1", "--json").stdout)
    assert (told["service"], told["host"]) == ("info", "n1")
    assert [manager["version"] for manager in told["managers"]] == ["1.3", "1.0"]


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
    assert signature_of({"name": "f", "arguments": arguments}) == "f(b: int, a=..., **others)"
