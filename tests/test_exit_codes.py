"""The exit codes are those of `ExitCode`, which the site shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from asyncmgr import _cli
from asyncmgr._cli.exit import ExitCode

SOURCE = Path(_cli.__file__).parent


def numbers() -> Iterator[int]:
    """The numbers that commands leave with."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Exit", "SystemExit")):
                inner = (one for argument in node.args for one in ast.walk(argument))
                yield from (
                    one.value for one in inner if isinstance(one, ast.Constant) and isinstance(one.value, int)
                )


def test_commands_leave_with_known_codes() -> None:
    """No command has a code of its own."""
    found = set(numbers())
    assert found
    assert found <= set(ExitCode)
