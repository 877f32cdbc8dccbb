"""Writes a page of the reference for each public module: every public name, with its signature and docstring."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, get_overloads

from sitegen.docstrings import as_markdown, attribute_docs, constant_doc, first_sentence

MODULES = (
    "asyncmgr",
    "asyncmgr.errors",
    "asyncmgr.events",
    "asyncmgr.capabilities",
    "asyncmgr.transports",
    "asyncmgr.wire",
    "asyncmgr.testing",
    "asyncmgr.testing.simulation",
)
"""The public modules, in the order of the reference. `asyncmgr.choosing` is an old name of `asyncmgr.capabilities`."""


def public_names(module: ModuleType) -> list[str]:
    """What `__all__` says, or else all that the module itself defines under a name without underscore."""
    listed: list[str] | None = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed, key=str.casefold)
    own = (
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    )
    return sorted((name for name in own if not name.startswith("_")), key=str.casefold)


def missing_texts() -> list[str]:
    """The public names, and the public members of public classes, that say nothing of themselves."""
    return sorted(set(_missing()))


def _missing() -> Iterator[str]:
    for module in map(import_module, MODULES):
        for name in public_names(module):
            value = getattr(module, name)
            if not _text(module, name, value):
                yield f"{module.__name__}.{name}"


def pages() -> dict[str, str]:
    """The pages by their path below ``reference/``."""
    return {f"api/{name}.md": "\n".join(_page(import_module(name))) for name in MODULES}


def _page(module: ModuleType) -> Iterator[str]:
    yield f"# {module.__name__}\n"
    yield as_markdown(_summary(module)) + "\n"
    for name in public_names(module):
        value = getattr(module, name)
        yield f"## {name}\n"
        yield from _signature(name, value)
        yield as_markdown(_text(module, name, value)) + "\n"
        if inspect.isclass(value):
            yield from _members(value)


def _summary(module: ModuleType) -> str:
    """The docstring up to the map of the package, which is for those who read its code."""
    return re.split(r"\n\n(?=Read |Managers write|The package)", inspect.getdoc(module) or "")[0]


def _text(module: ModuleType, name: str, value: Any) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return inspect.getdoc(value) or ""
    return constant_doc(module.__name__, name)


def _signature(name: str, value: Any) -> Iterator[str]:
    if inspect.isroutine(value) or (inspect.isclass(value) and not issubclass(value, enum.Enum)):
        text = signature_of(value)
        kind = (
            "class " if inspect.isclass(value) else "async def " if inspect.iscoroutinefunction(value) else ""
        )
        bases = f"  # {_bases(value)}" if inspect.isclass(value) and issubclass(value, BaseException) else ""
        if text is not None:
            yield f"```python\n{kind}{name}{text}{bases}\n```\n"
    elif not inspect.isclass(value):
        yield f"```python\n{name} = {_shown(value)}\n```\n"


def _shown(value: Any) -> str:
    text = re.sub(r"\basyncmgr\.(?:\w+\.)*|typing\.|collections\.abc\.|contextlib\.", "", repr(value))
    return text if len(text) < 300 and "<" not in text else "..."


def _bases(value: type) -> str:
    return "is " + ", ".join(base.__name__ for base in value.__bases__)


def signature_of(value: Any) -> str | None:
    """The signature as written in the code, on several lines where it is long; `None` where there is none."""
    try:
        found = max(
            map(inspect.signature, [value, *get_overloads(value)]), key=lambda one: len(one.parameters)
        )
    except (TypeError, ValueError):
        return None
    text = _plain(str(found))
    if inspect.isclass(value):
        text = text.removesuffix(" -> None")
    if len(text) <= 90:
        return text
    own = [_plain(str(one)) for one in found.parameters.values()]
    kinds = {one.kind for one in found.parameters.values()}
    if "(*, " in text and inspect.Parameter.VAR_POSITIONAL not in kinds:
        own.insert(0, "*")
    returned = text.rpartition(") -> ")[2] if ") -> " in text else ""
    lines = ",\n    ".join(own)
    return f"(\n    {lines},\n)" + (f" -> {returned}" if returned else "")


def _plain(text: str) -> str:
    """A signature without quotes, modules, and the `repr` of defaults that nobody could write."""
    text = re.sub(r"\basyncmgr\.(?:\w+\.)*", "", text.replace("'", ""))
    return re.sub(r"<(\w+)\.(\w+): [^>]*>|<[^>]*>", lambda match: match[2] or "...", text)


def _members(cls: type) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        texts = attribute_docs(cls)
        for member in cls:
            yield f"- `{member.name}` = `{member.value!r}`: {first_sentence(texts.get(member.name, ''))}"
        yield ""
        return
    texts = attribute_docs(cls)
    if is_dataclass(cls) or (texts and not hasattr(cls, "model_fields")):
        yield from _fields(cls, texts)
    for name, member in _methods(cls):
        yield f"### {cls.__name__}.{name}\n"
        if isinstance(member, property):
            yield "*property*\n"
        else:
            kind = "async def " if inspect.iscoroutinefunction(member) else "def "
            yield f"```python\n{kind}{name}{signature_of(member) or '(...)'}\n```\n"
        yield as_markdown(inspect.getdoc(member) or "") + "\n"


def _fields(cls: type, texts: dict[str, str]) -> Iterator[str]:
    annotations = {key: kind for base in reversed(cls.__mro__) for key, kind in _annotations(base).items()}
    names = [name for name in annotations if not name.startswith("_")]
    for name in names:
        kind = re.sub(r"\basyncmgr\.(?:\w+\.)*", "", str(annotations[name]))
        text = first_sentence(texts.get(name, ""))
        yield f"- `{name}: {kind}`" + (f": {text}" if text else "")
    if names:
        yield ""


def _annotations(base: type) -> dict[str, Any]:
    return inspect.get_annotations(base) if base.__module__.startswith("asyncmgr") else {}


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that asyncmgr defines, inherited ones included."""
    seen = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("asyncmgr"):
            continue
        for name, value in vars(base).items():
            member = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            wanted = inspect.isfunction(member) or isinstance(member, property)
            if wanted and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member
