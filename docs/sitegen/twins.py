"""Adds to the built site what programs read: ``llms.txt``, and beside each page its Markdown."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from sitegen.tree import DOCS, FOLDERS, listed

_CONTENTS = re.compile(r"\n```\{toctree\}.*?^```\n", re.DOTALL | re.MULTILINE)


def add_twins(source: Path, site: Path) -> None:
    """Write the Markdown of each page beside its HTML, and copy the files that it links to."""
    for page in source.rglob("*.md"):
        if page.is_relative_to(source / "files"):
            continue
        twin = site / page.relative_to(source)
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_text(_CONTENTS.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    for asset in [source / "files", *source.rglob("*.png"), *source.rglob("*.svg")]:
        target = site / asset.relative_to(source)
        if asset.is_dir():
            shutil.copytree(asset, target, dirs_exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(asset, target)


def llms_txt() -> str:
    """The map of the site for programs that read text, as llmstxt.org describes it."""
    return "\n".join(_llms_txt()) + "\n"


def _llms_txt() -> Iterator[str]:
    title, summary = (DOCS / "index.md").read_text(encoding="utf-8").split("\n\n")[:2]
    yield title
    yield ""
    yield f"> {' '.join(summary.split())}"
    for folder in FOLDERS:
        index = (DOCS / folder / "index.md").read_text(encoding="utf-8")
        yield ""
        yield f"## {index.splitlines()[0].removeprefix('# ')}"
        yield ""
        for one in listed(DOCS / folder / "index.md"):
            yield f"- [{one.title}]({folder}/{one.path}): {one.text}"
