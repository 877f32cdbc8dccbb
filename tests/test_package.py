"""The package as a whole: what importing it loads, what it calls its names, what no module of it may use."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
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


def imported_by(path: Path) -> set[str]:
    """What a file imports, for type checkers and inside functions too; `from room import module` is the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            folder = ROOT.parent.joinpath(*node.module.split("."))
            modules = {name.name for name in node.names if any(folder.glob(f"{name.name}*"))}
            found |= {f"{node.module}.{name}" for name in modules}
            found |= set() if len(modules) == len(node.names) else {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@pytest.mark.slow
def test_no_module_imports_the_room_that_it_lies_in() -> None:
    """That is a circle through its `__init__`, where import-linter looks for circles between neighbours only."""
    rooms = [path.parent for path in ROOT.rglob("__init__.py") if path.parent != ROOT]
    circles = {
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in room.rglob("*.py")
        if path != room / "__init__.py" and ".".join(room.relative_to(ROOT.parent).parts) in imported_by(path)
    }
    assert circles == set()


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
