"""Finds the blocks of code on a page, and says what is to be done with each.

By language: ``python`` is run in virtual time, all blocks of a page in one namespace, with ``await`` at the top; one
whose first line is a file's name (``# app.py``) is that file, and files ``test_*.py`` are run by pytest. ``toml`` is
read as settings. ``sh`` and ``console`` are run by a shell, beside the files of the page; what a ``console`` block
shows after a line ``$ command`` has to come. ``json`` is parsed.

A comment above the fence, ``<!-- MARK -->``, says what else is to be done:

``not executed: REASON``
    Nothing.
``executed by tests/FILE.py``
    Nothing here: that file does it. It has to name the page.
``output``
    The block is what the one before it prints.
``in the background``
    The command goes on until the end of the page. What is shown has to come; the next block waits for it.
``exit code N``
    The last command of the block ends with it.

Code in a comment, ``<!-- python``, is run and not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_PART = re.compile(
    r"^<!-- (?P<hidden>python|sh|console)(?P<with> [a-z ]+)?\n(?P<code>.*?)^-->$"
    r"|(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\S*)(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# ([\w.-]+\.(?:py|toml|json))\b")
MARKS = re.compile(r"not executed: .{3,}|executed by (tests/\S+\.py)|output|in the background|exit code \d+")


class Kind(Enum):
    """What is done with a block."""

    PROGRAM = "run in virtual time"
    FILE = "written to a file"
    SETTINGS = "read as settings"
    SHELL = "run by a shell"
    JSON = "parsed"
    OUTPUT = "compared with what was printed"
    ELSEWHERE = "executed by another test"
    MARKED = "not executed, for a reason"
    UNKNOWN = "nobody knows"


BY_LANGUAGE = {
    "python": Kind.PROGRAM,
    "toml": Kind.SETTINGS,
    "sh": Kind.SHELL,
    "console": Kind.SHELL,
    "json": Kind.JSON,
}


@dataclass(frozen=True)
class Block:
    """One block of code."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    hidden: bool = False

    @property
    def place(self) -> str:
        """Where it is, for error texts."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is."""
        match = _FILE.match(self.text) if self.language in ("python", "toml", "json") else None
        return match[1] if match else None

    @property
    def kind(self) -> Kind:
        """What is done with it."""
        if self.mark and not MARKS.fullmatch(self.mark):
            return Kind.UNKNOWN
        if self.mark.startswith("not executed"):
            return Kind.MARKED
        if self.mark.startswith("executed by"):
            return Kind.ELSEWHERE
        if self.mark == "output":
            return Kind.OUTPUT
        if self.file is not None and self.language == "python":
            return Kind.FILE
        return BY_LANGUAGE.get(self.language, Kind.UNKNOWN)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _PART.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["hidden"]:
            yield Block(
                page, line, match["hidden"], match["code"], (match["with"] or "").strip(), hidden=True
            )
        else:
            mark = match["mark"] or ""
            yield Block(page, line, match["language"], match["text"], mark)


def fences(page: Path) -> int:
    """The number of fences on a page, counted in another way."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return sum(line.lstrip().startswith("```") for line in lines) // 2


def files(page: Path) -> dict[str, str]:
    """The files that a page shows, by name; without those that are not executed, or by another test."""
    others = (Kind.MARKED, Kind.ELSEWHERE)
    return {block.file: block.text for block in blocks(page) if block.file and block.kind not in others}


def shown(pages: list[Path]) -> list[Block]:
    """All blocks that readers see."""
    return [block for page in pages for block in blocks(page) if not block.hidden]
