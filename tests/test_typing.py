"""What type checkers make of the decorators: `typing/api.py` shows them as users write them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

API = Path(__file__).parent / "typing" / "api.py"
ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_is_content() -> None:
    """In strict mode, with every `type: ignore` of the file needed."""
    done = run("mypy", "--strict", "--config-file", "pyproject.toml", str(API), cwd=ROOT)
    assert (done.stdout, done.returncode) == ("Success: no issues found in 1 source file\n", 0), done.stderr


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright_is_content(tmp_path: Path) -> None:
    """In strict mode, whatever the project's own configuration says."""
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, str(API), cwd=tmp_path)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright cannot run here: {done.stderr.strip()[-200:]}")
    report = json.loads(done.stdout)
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == 1
