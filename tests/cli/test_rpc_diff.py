"""``asyncmgr rpc diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke


def write(file: str, version: str, *methods: dict[str, Any], service: str = "compute") -> str:
    """Write what `info` tells of a service with one interface."""
    manager = {"name": "Compute", "namespace": None, "version": version, "methods": list(methods)}
    Path(file).write_text(json.dumps({"service": service, "managers": [manager]}))
    return file


def method(name: str, *required: str) -> dict[str, Any]:
    properties = {one: {"type": "integer"} for one in required}
    arguments = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return {"name": name, "summary": "", "arguments": arguments, "result": {"type": "null"}}


def test_a_version_that_must_move_is_exit_code_1(invoke: Invoke) -> None:
    """Each change has a line with the move that it needs."""
    old = write("old.json", "1.3", method("resize", "gib"))
    new = write("new.json", "1.3", method("resize", "gib", "pool"), method("grow"))
    result = invoke("rpc", "diff", old, new)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "Compute (no namespace): 1.3 -> 1.3 must be at least 2.0 (major)",
        "  major  resize(): argument pool is added and must be there",
        "  minor  grow(): added",
    ]


@pytest.mark.parametrize(
    ("version", "methods", "code", "said"),
    [
        ("1.3", ["a"], 0, "ok, 1.3, nothing changed for callers"),
        ("1.4", ["a", "b"], 0, "ok, 1.3 -> 1.4 (minor)"),
        ("1.3", ["a", "b"], 1, "1.3 -> 1.3 must be at least 1.4 (minor)"),
        ("2.0", [], 0, "ok, 1.3 -> 2.0 (major)"),
        ("1.2", ["a"], 1, "1.3 -> 1.2 went back; it must be at least 1.3"),
    ],
)
def test_the_verdict_and_the_exit_code(
    invoke: Invoke, version: str, methods: list[str], code: int, said: str
) -> None:
    """0 where the declared version says as much as it must, else 1."""
    new = write("new.json", version, *map(method, methods))
    result = invoke("rpc", "diff", write("old.json", "1.3", method("a")), new)
    assert result.exit_code == code
    assert result.stdout.splitlines()[0] == f"Compute (no namespace): {said}"


def test_diff_as_json(invoke: Invoke) -> None:
    """Programs get the same, one object for each interface."""
    result = invoke("rpc", "diff", write("old.json", "1.3"), write("new.json", "1.3", method("a")), "--json")
    assert json.loads(result.stdout) == [
        {
            "manager": "Compute",
            "namespace": None,
            "old": "1.3",
            "new": "1.3",
            "needed": "minor",
            "at_least": "1.4",
            "ok": False,
            "verdict": "1.3 -> 1.3 must be at least 1.4 (minor)",
            "changes": [{"needs": "minor", "method": "a", "what": "added"}],
        }
    ]


def test_interfaces_come_and_go(invoke: Invoke) -> None:
    """An interface that is gone is no version's matter; two services are compared with a note."""
    old, new = write("old.json", "1.0", method("a")), write("new.json", "1.0", service="other")
    document = json.loads(Path(new).read_text())
    document["managers"][0] |= {"namespace": "new", "methods": [method("b")]}
    Path(new).write_text(json.dumps(document))
    result = invoke("rpc", "diff", old, new)
    assert result.exit_code == 1
    assert "1.0 is gone, and no version can say that" in result.stdout
    assert "Compute (new): ok, new in 1.0" in result.stdout
    assert "two services, compute and other" in result.stderr


def test_no_interfaces_is_an_answer(invoke: Invoke) -> None:
    """Without methods there is nothing that could break."""
    result = invoke("rpc", "diff", write("old.json", "1.0"), write("new.json", "1.0"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no interfaces" in result.stderr


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense", '{"managers": [{}]}', "[" * 100_000])
def test_a_file_that_is_something_else_is_exit_code_2(invoke: Invoke, content: str) -> None:
    """The message says how such a file is made."""
    Path("wrong.json").write_text(content)
    result = invoke("rpc", "diff", "wrong.json", write("new.json", "1.0"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "asyncmgr info SERVICE --json" in " ".join(result.stderr.split())


def test_a_file_that_is_not_there_is_exit_code_2(invoke: Invoke) -> None:
    """As everywhere, a path that is wrong is a usage error."""
    assert invoke("rpc", "diff", "absent.json", "absent.json").exit_code == 2
