"""Reads docstrings, of attributes too, and writes them as Markdown. Pure, but for reading source code."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


def attribute_docs(cls: type) -> dict[str, str]:
    """The texts below the attributes of a class, its bases included, by the attribute's name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("asyncmgr"):
            found.update(_texts_of_classes(base.__module__).get(base.__name__, {}))
    return found


@functools.cache
def _texts_of_classes(module: str) -> dict[str, dict[str, str]]:
    classes = (node for node in ast.walk(_parsed(module)) if isinstance(node, ast.ClassDef))
    return {node.name: dict(_texts_below(node.body)) for node in classes}


@functools.cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def constant_doc(module: str, name: str) -> str:
    """The text below a constant or alias, in this module or in the one that it is imported from."""
    body = _parsed(module).body
    own = dict(_texts_below(body))
    if name in own:
        return own[name]
    for node in body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return constant_doc(node.module or "", name)
    return ""


def _texts_below(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement, following in itertools.pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)


def as_markdown(text: str) -> str:
    """A docstring as Markdown: its literals, literal blocks, and sections such as ``Raises``."""
    parts = _SECTION.split(inspect.cleandoc(text))
    prose, sections = parts[0], zip(parts[1::2], parts[2::2], strict=True)
    written = [_prose(prose), *(f"**{title}**\n\n{_entries(body)}" for title, body in sections)]
    return "\n\n".join(part for part in written if part)


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring, on one line, for a table or list."""
    return _inline(" ".join(inspect.cleandoc(text).split("\n\n")[0].split()))


def cell(text: str) -> str:
    """A docstring as the text of a table's cell."""
    return _inline(" ".join(text.split())).replace("|", "\\|")


def _prose(text: str) -> str:
    written: list[str] = []
    for block in re.split(r"\n{2,}", text.strip()):
        if written and written[-1].endswith("::") and block.startswith((" ", "│", "├")):
            written[-1] = written[-1].removesuffix("::").rstrip() + (":" if written[-1] != "::" else "")
            written.append(f"```text\n{textwrap.dedent(block)}\n```")
        else:
            written.append(_inline(block))
    return "\n\n".join(part for part in written if part)


def _inline(text: str) -> str:
    text = text if text.endswith("::") else re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([*<\[\]])", r"\\\1", text) if re.search(r"[*<\[\]]", text) else text


def _entries(body: str) -> str:
    """The entries of a section: a name on a line of its own, its text indented below it."""
    written = []
    for entry in re.split(r"\n(?=\S)", body.strip()):
        name, _, text = entry.partition("\n")
        written.append(f"- `{name}`: {_inline(' '.join(textwrap.dedent(text).split()))}")
    return "\n".join(written)
