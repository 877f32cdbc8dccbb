"""Writes the page of exit codes, and finds the event classes."""

from __future__ import annotations

from dataclasses import is_dataclass

import asyncmgr.events as module
from asyncmgr._cli.exit import ExitCode
from sitegen.docstrings import attribute_docs, cell


def event_classes() -> list[type]:
    """The records that listeners get."""
    own = (value for value in vars(module).values() if isinstance(value, type) and is_dataclass(value))
    return [cls for cls in own if cls.__module__ == module.__name__ and not cls.__name__.startswith("_")]


def pages() -> dict[str, str]:
    """The page of exit codes, by its path below ``reference/``."""
    texts = attribute_docs(ExitCode)
    rows = "\n".join(f"| {code.value} | `{code.name}` | {cell(texts[code.name])} |" for code in ExitCode)
    head = "# Exit codes\n\nOf every command of `asyncmgr`.\n\n| code | name | meaning |\n|---|---|---|\n"
    return {"exit-codes.md": head + rows + "\n"}
