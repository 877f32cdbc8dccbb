"""The package as a whole: what importing it loads, which module may import which, what it calls its names."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import asyncmgr

ROOT = Path(asyncmgr.__file__).parent
HEAVY = [
    "click",
    "cronsim",
    "fastapi",
    "nats",
    "opentelemetry",
    "prometheus_client",
    "psutil",
    "pytest",
    "rich.console",
    "time_machine",
    "uvloop",
]


def loaded_by(statement: str) -> set[str]:
    # structlog itself imports rich where it is installed, which is no doing of ours.
    hide_rich = "import sys; sys.modules['rich'] = None"
    code = f"{hide_rich}; {statement}; import json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(json.loads(output))


def test_import_is_light() -> None:
    """`import asyncmgr` loads no command line, settings, cron, transport client, metrics or terminal library."""
    assert loaded_by("import asyncmgr").isdisjoint(HEAVY)


def test_declaring_and_running_stays_light() -> None:
    """Declaring tasks and building managers loads none of them either."""
    declare = (
        "import asyncmgr\n"
        "class M(asyncmgr.Manager):\n"
        "    @asyncmgr.periodic_task(spacing=1)\n"
        "    async def sync(self, context): ...\n"
        "M()"
    )
    assert loaded_by(f"exec({declare!r})").isdisjoint(HEAVY)


def test_first_use_loads_what_a_name_needs() -> None:
    """`asyncmgr.Settings` is loaded when it is first used."""
    assert "asyncmgr._settings.model" in loaded_by("import asyncmgr; asyncmgr.Settings")
    assert "asyncmgr._settings.model" not in loaded_by("import asyncmgr")


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name says what is missing."""
    with pytest.raises(AttributeError, match="Managers"):
        asyncmgr.Managers  # noqa: B018


@pytest.mark.parametrize("name", asyncmgr.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """What `__all__` lists can be imported, and has a docstring or is a plain value."""
    value = getattr(asyncmgr, name)
    assert value.__doc__ or isinstance(value, float)


def test_no_public_name_equals_a_modules_name() -> None:
    """A name that is both would depend on what was imported first."""
    modules = {module.name for module in pkgutil.iter_modules([str(ROOT)])}
    assert modules.isdisjoint(asyncmgr.__all__)


def imports_of(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports when it is run: not for types only, not inside functions."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("asyncmgr"):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [module for module in named if file_of(module)] or [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("asyncmgr"))


def file_of(module: str) -> Path | None:
    base = ROOT.parent / Path(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.exists()), None)


def test_modules_import_only_from_above() -> None:
    """The imports of the package form no cycle."""
    names = {
        path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in ROOT.rglob("*.py")
    }
    graph = {name: set(imports_of(path)) - {name} for path, name in names.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert (
        order.index("asyncmgr._common.clock")
        < order.index("asyncmgr._tasks.agenda")
        < order.index("asyncmgr._tasks.runner")
    )


def test_only_the_clock_reads_the_wall() -> None:
    """Nothing but `clock.py` reads the wall clock; virtual time, which moves it, is the exception."""
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}
    }
    assert readers <= {"_common/clock.py", "testing/_virtual.py"}
