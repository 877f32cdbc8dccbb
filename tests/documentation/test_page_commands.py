"""The commands that pages show are run, in an empty directory with the files of the page, and print what is shown."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documentation.blocks import PAGES, ROOT, Kind, blocks
from tests.documentation.shells import DATABASE, run_commands

if not (ROOT / "docs").exists():
    pytest.skip("these are not the sources", allow_module_level=True)


def has_commands(page: Path) -> bool:
    return any(block.kind is Kind.SHELL for block in blocks(page))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose sockets have a path that is short enough."""
    path = Path(tempfile.mkdtemp(prefix="pages"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_commands(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_do_what_is_shown(page: Path, short_path: Path, request: pytest.FixtureRequest) -> None:
    """Each command ends as it should, and prints the lines that the page shows."""
    database = None
    if DATABASE in page.read_text(encoding="utf-8"):
        database = request.getfixturevalue("shared_postgres_server").url
    assert run_commands(page, short_path, database) == [
        block for block in blocks(page) if block.kind is Kind.SHELL
    ]
