"""Writes the page of all settings from the models: key, variable, default, meaning, what is accepted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from asyncmgr._settings.model import Settings, TaskSettings
from asyncmgr._settings.sources import NESTED, PREFIX
from asyncmgr._tasks.options import OPTIONS
from sitegen.docstrings import attribute_docs, cell

HEAD = "| key, and its variable | default | meaning |\n|---|---|---|"

TASK_VARIABLE = "TASKS__VOLUMES__SYNC"
"""How a variable names the table of the task ``Volumes.sync``."""


def tables() -> dict[str, type[BaseModel]]:
    """The models by the name of their table; the one of the top has no name."""
    nested = {
        name: type(field.default)
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
    }
    return {"": Settings, **nested}


def pages() -> dict[str, str]:
    """The page by its path below ``reference/``."""
    return {"settings.md": "\n".join(_page())}


def _page() -> Iterator[str]:
    yield "# Settings\n"
    yield (
        "Each setting may be written as an argument of `Settings`, as a variable, in `asyncmgr.toml`, or in "
        "`[tool.asyncmgr]` of `pyproject.toml`; the first of these places that says something decides. "
        "A key that is unknown or wrong stops the start, and says where it is. "
        "[How they are read](configuration.md) is told on a page of its own.\n"
    )
    for name, model in tables().items():
        yield f"## [{name}]\n" if name else "## At the top\n"
        if name:
            yield cell(model.__doc__ or "").replace("\n", " ") + "\n"
        yield from _table(model, f"{PREFIX}{name.upper()}{NESTED}" if name else PREFIX)
    yield '## [tasks."Manager.task"]\n'
    yield (
        "What the code declares for a task, changed without it. Keys that are not set leave the declaration as it "
        "is. The name of a task is written with its dot, or in a variable with two underscores.\n"
    )
    yield from _table(TaskSettings, f"{PREFIX}{TASK_VARIABLE}{NESTED}")
    yield "## [managers.Name]\n"
    yield "The arguments of a manager's constructor, checked against their type hints.\n"


def _table(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield HEAD
    texts = attribute_docs(model)
    for name, field in model.model_fields.items():
        default = _default(field)
        meaning = cell(texts.get(name) or _of_option(name, model))
        accepted = f"Accepted: {cell(field.description)}." if field.description else ""
        told = " ".join(part for part in (meaning, accepted) if part)
        yield f"| `{name}`<br>`{prefix}{name.upper()}` | {default} | {told} |"
    yield ""


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value is PydanticUndefined:
        return "not set"
    if isinstance(value, BaseModel | Mapping) or value == ():
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _of_option(name: str, model: type[BaseModel]) -> str:
    if model is TaskSettings and name in OPTIONS:
        return option_texts().get(name, "")
    return ""


def option_texts() -> dict[str, str]:
    """What the docstring of `@periodic_task` says of each option."""
    from asyncmgr import periodic_task

    text = inspect.getdoc(periodic_task) or ""
    found = re.finditer(r"^([a-z_]+)\n((?: {4,}.*\n?)+)", text, re.MULTILINE)
    return {match[1]: " ".join(match[2].split()) for match in found}
