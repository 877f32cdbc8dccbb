"""What type checkers make of the package: `typing/api.py` shows the decorators as users write them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

API = Path(__file__).parent / "typing" / "api.py"
ROOT = Path(__file__).parent.parent


needs_pyright = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="pyright is not installed"
)


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    python = Path(sys.executable)
    # For --verifytypes pyright asks the Python on the path, whatever it is told.
    env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = (str(python), "-m", *command)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def pyright(*arguments: str, cwd: Path) -> dict[str, Any]:
    """What pyright reports; it finds no configuration in `cwd`."""
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, *arguments, cwd=cwd)
    assert done.stdout.startswith("{"), f"pyright cannot run here: {done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_is_content() -> None:
    """In strict mode, with every `type: ignore` of the file needed."""
    done = run("mypy", "--strict", "--config-file", "pyproject.toml", str(API), cwd=ROOT)
    assert (done.stdout, done.returncode) == ("Success: no issues found in 1 source file\n", 0), done.stderr


@pytest.mark.slow
@needs_pyright
def test_pyright_is_content(tmp_path: Path) -> None:
    """In strict mode, whatever the project's own configuration says."""
    report = pyright(str(API), cwd=tmp_path)
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == 1


@pytest.mark.slow
@needs_pyright
def test_few_names_are_exported_and_all_have_known_types(tmp_path: Path) -> None:
    """Users of type checkers see every type, and a public name is there for them, not by accident."""
    report = pyright("--verifytypes", "asyncmgr", "--ignoreexternal", cwd=tmp_path)
    assert report["generalDiagnostics"] == []
    counts = report["typeCompleteness"]["exportedSymbolCounts"]
    assert counts.pop("withKnownType") in range(100, 450)
    assert counts == {"withAmbiguousType": 0, "withUnknownType": 0}
