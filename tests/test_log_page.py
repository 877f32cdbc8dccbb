"""``docs/reference/logging.md`` has every event that the code logs, at its level, with its keys, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import asyncmgr

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "logging.md"
SOURCE = Path(asyncmgr.__file__).parent

if not PAGE.exists():
    pytest.skip("these are not the sources", allow_module_level=True)


class Logged(NamedTuple):
    event: str
    level: str
    keys: frozenset[str]
    place: str


def calls() -> Iterator[Logged]:
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield from read(node, f"{file.name}:{node.lineno}")


def read(node: ast.Call, place: str) -> Iterator[Logged]:
    """What a call logs: of the log itself, or of what logs a failure and its end under names that it is given."""
    keys = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
    texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    function = ast.unparse(node.func)
    if function.startswith("log.") and texts:
        yield Logged(texts[-1], function.removeprefix("log."), keys, place)
    elif function == "Retries":
        failed, resumed = texts
        yield Logged(failed, "warning", (keys | {"error"}) - {"spread"}, place)
        yield Logged(resumed, "info", (keys | {"after_failures"}) - {"spread"}, place)


def rows() -> Iterator[tuple[str, list[str]]]:
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            event, level, keys, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            yield event.strip("`"), [level, keys, meaning]


LOGGED = sorted(set(calls()), key=lambda one: (one.event, one.place))
TOLD = dict(rows())


def test_events_and_rows_are_the_same() -> None:
    """Nothing is logged that the page does not tell, and nothing is told that is not logged."""
    assert {one.event for one in LOGGED} == set(TOLD)
    assert len(TOLD) == len(list(rows()))


@pytest.mark.parametrize("logged", LOGGED, ids=lambda one: f"{one.event}@{one.place}")
def test_level_and_keys_are_told(logged: Logged) -> None:
    """At the level of the call, with the keys that it names."""
    level, keys, meaning = TOLD[logged.event]
    assert logged.level in level.split(", ") or (logged.level == "at" and "`log_level`" in level)
    assert logged.keys <= set(re.findall(r"\w+", keys))
    assert meaning


def test_events_are_named_alike() -> None:
    """``noun.what_happened``."""
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", event) for event in TOLD)
