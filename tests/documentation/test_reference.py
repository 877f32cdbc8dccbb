"""The reference that is written from the code is complete, and nothing public is without a text."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import asyncmgr
from asyncmgr._cli.exit import ExitCode
from asyncmgr._settings.model import TaskSettings
from sitegen import commands, events, generated, metrics, names, settings, tree, twins
from sitegen.check import problems
from sitegen.docstrings import attribute_docs
from tests.documentation.blocks import ROOT

if not (ROOT / "docs").exists():
    pytest.skip("these are not the sources", allow_module_level=True)

SOURCE = Path(asyncmgr.__file__).parent


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generated.pages()


def test_every_page_is_written(pages: dict[str, str]) -> None:
    """And no other: links to them are checked by this list."""
    assert set(pages) == set(generated.PATHS)


@pytest.mark.parametrize("module", names.MODULES)
def test_every_public_name_has_a_place(module: str, pages: dict[str, str]) -> None:
    """With a heading, so that it can be linked to."""
    page = pages[f"api/{module}.md"]
    for name in names.public_names(import_module(module)):
        assert f"\n## {name}\n" in page


def test_every_public_name_says_what_it_is() -> None:
    """A name without a docstring is not finished."""
    assert names.missing_texts() == []


def test_every_setting_has_a_row(pages: dict[str, str]) -> None:
    """Of each table, with its variable."""
    page = pages["settings.md"]
    for table, model in settings.tables().items():
        for name in model.model_fields:
            variable = f"ASYNCMGR_{table.upper()}__{name.upper()}" if table else f"ASYNCMGR_{name.upper()}"
            assert f"| `{name}`<br>`{variable}` |" in page


def test_every_option_of_tasks_is_explained() -> None:
    """Each key of a task's table has a meaning, from its own text or from the decorator's."""
    texts = attribute_docs(TaskSettings)
    lacking = set(TaskSettings.model_fields) - set(texts) - set(settings.option_texts())
    assert not lacking


def test_every_event_is_there(pages: dict[str, str]) -> None:
    """The classes that listeners get, with their fields."""
    page = pages["api/asyncmgr.events.md"]
    assert len(events.event_classes()) > 10
    for cls in events.event_classes():
        assert f"\n## {cls.__name__}\n" in page


def test_every_metric_is_there(pages: dict[str, str]) -> None:
    """Those that the code names, and those that `Metrics` makes."""
    told = {name for name, *_ in metrics.families()}
    assert len(told) > 25
    text = (SOURCE / "_monitoring" / "metrics.py").read_text(encoding="utf-8")
    for name in re.findall(r'"(asyncmgr_[a-z_]+)"', text):
        assert name in told or f"{name}_total" in told
    monitoring = (ROOT / "docs" / "how-to" / "monitoring.md").read_text(encoding="utf-8")
    for name in told:
        assert f"`{name}`" in monitoring or f"`{name}_total`" in monitoring
        assert f"`{name}`" in pages["metrics.md"]


def test_every_command_and_option_is_there(pages: dict[str, str]) -> None:
    """Also the commands of groups."""
    page = pages["commands.md"]
    found = dict(commands.commands())
    assert {"asyncmgr run", "asyncmgr rpc diff"} <= set(found)
    for name, command in found.items():
        assert f"\n## {name}\n" in page
        for parameter in command.params:
            assert all(option in page for option in parameter.opts if option.startswith("--"))


def test_every_exit_code_is_there(pages: dict[str, str]) -> None:
    """With its meaning."""
    for code in ExitCode:
        assert re.search(
            rf"^\| {code.value} \| `{code.name}` \| .{{10,}} \|$", pages["exit-codes.md"], re.MULTILINE
        )


def test_every_page_is_in_a_list() -> None:
    """A page that no ``index.md`` names would have no way to it."""
    assert list(tree.problems()) == []


def test_the_map_for_programs_has_every_page() -> None:
    """``llms.txt`` names each page with what it is about."""
    text = twins.llms_txt()
    assert text.startswith("# asyncmgr\n\n> ")
    for page in [*tree.own_pages(), *(Path("reference", name) for name in generated.PATHS)]:
        if page.name != "index.md":
            assert re.search(rf"^- \[.+\]\({re.escape(page.as_posix())}\): .{{10,}}$", text, re.MULTILINE), (
                page
            )


BAD = """<html><head><link rel="stylesheet" href="https://fonts.example/a.css"><style>@import url(//x.example/b.css)
</style></head><body><img src="http://x.example/c.png"><a href="gone.html">1</a><a href="#nowhere">2</a>
<a href="https://fine.example/">3</a><a href="#here">4</a><p id="here"></p></body></html>"""


def test_what_is_wrong_with_a_site_is_found(tmp_path: Path) -> None:
    """Assets of other sites, links to no page, to no place of one, and of the Markdown beside it."""
    (tmp_path / "index.html").write_text(BAD, encoding="utf-8")
    (tmp_path / "index.md").write_text("[1](gone.md) [2](index.md) `[3](gone.md)`\n", encoding="utf-8")
    (tmp_path / "a.css").write_text("p {background: url('https://x.example/d.png')}", encoding="utf-8")
    (tmp_path / "llms.txt").write_text("- [1](gone.md): no\n", encoding="utf-8")
    found = [line.split(": ", 1)[1] for line in problems(tmp_path)]
    assert [sum(word in line for line in found) for word in ("another site", "nowhere", "no such place")] == [
        4,
        4,
        1,
    ]
