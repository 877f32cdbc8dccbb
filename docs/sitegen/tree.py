"""Copies the pages of ``docs/`` and the generated ones to where Sphinx reads them.

The list of links in an ``index.md`` is the table of contents of its folder, so that a page says nothing of its place.
Links to files beside ``docs/``, such as examples, lead to copies of them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sitegen.generated import pages as generated_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = ("tutorial", "how-to", "reference", "explanation")

_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)")
_LISTED = re.compile(r"^- \[(.+?)\]\((?!https?://)([^)#]+\.md)\):? *(.*)$", re.MULTILINE)


class Listed(NamedTuple):
    """A page as the list of an ``index.md`` names it."""

    title: str
    path: str
    """From the folder of the list."""
    text: str


def listed(index: Path) -> list[Listed]:
    """The pages that a list names, in its order."""
    return [Listed(*match.groups()) for match in _LISTED.finditer(index.read_text(encoding="utf-8"))]


def own_pages() -> list[Path]:
    """The pages that people write, from ``docs/``."""
    return sorted(path.relative_to(DOCS) for path in DOCS.rglob("*.md"))


def problems() -> Iterator[str]:
    """Pages that lie in no folder or that no list names."""
    named = {Path(folder, one.path) for folder in FOLDERS for one in listed(DOCS / folder / "index.md")}
    for page in own_pages():
        if page.parts[0] not in FOLDERS and page.name != "index.md":
            yield f"docs/{page}: lies in none of {', '.join(FOLDERS)}; move it with 'git mv'"
        elif page.name != "index.md" and page not in named:
            yield f"docs/{page}: is not in the list of docs/{page.parent}/index.md; add a line for it"


def lay_out(source: Path) -> None:
    """Write all pages, with their tables of contents, and what they link to."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    shutil.copy(DOCS / "conf.py", source)
    for path in own_pages():
        _write(source / path, _at_home(path, source) + _contents(path))
    for name, text in generated_pages().items():
        _write(source / "reference" / name, text)
    for picture in [*DOCS.rglob("*.png"), *DOCS.rglob("*.svg")]:
        target = source / picture.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _at_home(path: Path, source: Path) -> str:
    """The text of a page, with links to files beside ``docs/`` changed into links to copies of them."""

    def replace(match: re.Match[str]) -> str:
        target = (DOCS / path.parent / match[1]).resolve()
        if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT):
            return match[0]
        copy = source / "files" / target.relative_to(ROOT)
        copy = (
            copy.with_suffix(".txt") if copy.suffix == ".md" else copy
        )  # else it would be a page of the site
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, copy)
        return f"]({Path(os.path.relpath(copy, (source / path).parent)).as_posix()})"

    return _LINK.sub(replace, (DOCS / path).read_text(encoding="utf-8"))


def _contents(path: Path) -> str:
    """The table of contents that Sphinx needs, hidden, from the list of an ``index.md``."""
    if path.name != "index.md":
        return ""
    entries = [one.path.removesuffix(".md") for one in listed(DOCS / path)]
    return "\n".join(["", "```{toctree}", ":hidden:", ":titlesonly:", "", *entries, "```", ""])
