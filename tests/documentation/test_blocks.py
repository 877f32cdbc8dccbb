"""Every block of code on every page is executed, or says why it is not; every link leads somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.documentation.blocks import PAGES, ROOT, Block, Kind, blocks, fences, shown
from tests.documentation.programs import read_settings, run_files, run_program

if not (ROOT / "docs").exists():
    pytest.skip("these are not the sources", allow_module_level=True)

_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def of_kind(page: Path, *kinds: Kind) -> list[Block]:
    return [block for block in blocks(page) if block.kind in kinds]


def test_every_block_is_executed_or_says_why_not() -> None:
    """A fence in an unknown language, or under an unknown mark, is not forgotten: the text says what to write."""
    unknown = [block.place for block in shown(PAGES) if block.kind is Kind.UNKNOWN]
    cure = "write '<!-- not executed: REASON -->' above it, or see tests/documentation/blocks.py"
    assert not unknown, f"nobody executes {', '.join(unknown)}; {cure}"


def test_most_blocks_are_executed(record_property: Callable[[str, object], None]) -> None:
    """Reasons are the exception; and no fence is overlooked."""
    found = shown(PAGES)
    assert len(found) == sum(map(fences, PAGES))
    marked = [block for block in found if block.kind is Kind.MARKED]
    record_property(
        "blocks", f"{len(found) - len(marked)} executed, {len(marked)} marked, {len(PAGES)} pages"
    )
    assert len(marked) * 4 < len(found), [block.place for block in marked]


@each_page
def test_other_tests_know_what_they_execute(page: Path) -> None:
    """Where a page says that another test executes a block, that test is there and names the page."""
    for block in of_kind(page, Kind.ELSEWHERE):
        test = ROOT / block.mark.removeprefix("executed by ")
        assert test.exists(), f"{block.place}: there is no {test}"
        assert page.name in test.read_text(encoding="utf-8"), (
            f"{test} does not name {page.name} ({block.place})"
        )


@each_page
def test_python_runs_in_virtual_time(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other, in one namespace; what they are said to print is printed."""
    monkeypatch.chdir(tmp_path)
    wanted = of_kind(page, Kind.PROGRAM)
    assert [block for block in run_program(page) if block.kind is Kind.PROGRAM] == wanted


@each_page
def test_output_belongs_to_something(page: Path) -> None:
    """What is marked as output follows the block that prints it."""
    found = blocks(page)
    for before, block in pairwise(found):
        if block.kind is Kind.OUTPUT:
            assert before.kind is Kind.PROGRAM, f"{block.place} is the output of nothing"


@each_page
def test_settings_are_settings(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown as a settings file is one: every key is known, and every value is accepted."""
    for name in ("TRANSPORT", "STORE", "HOST"):
        monkeypatch.delenv(f"ASYNCMGR_{name}", raising=False)
    assert read_settings(page, tmp_path) == of_kind(page, Kind.SETTINGS)


@each_page
def test_json_is_json(page: Path) -> None:
    """What is shown as JSON can be read."""
    for block in of_kind(page, Kind.JSON):
        json.loads(block.text)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """What a page points to is in the tree, or is written when the site is built."""
    from sitegen.names import MODULES

    generated = {"settings", "commands", "exit-codes", "metrics", *(f"api/{name}" for name in MODULES)}
    made = {ROOT / "docs" / "reference" / f"{name}.md" for name in generated}
    targets = [(page.parent / link).resolve() for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    assert not [path for path in targets if not path.exists() and path not in made]


def files_of(page: Path) -> bool:
    return bool(of_kind(page, Kind.FILE))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if files_of(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_work_in_an_empty_directory(page: Path, tmp_path: Path) -> None:
    """Copied as they stand, without any configuration, the files of a page are green under pytest (50)."""
    assert run_files(page, tmp_path) == of_kind(page, Kind.FILE)
