"""Runs the Python of a page: its blocks as one program in virtual time, and its test files by pytest."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import Any

from asyncmgr import Settings
from asyncmgr.testing import run_virtual
from tests.documentation.blocks import ROOT, Block, Kind, blocks, files
from tests.documentation.output import missing

CONFTEST = 'pytest_plugins = ["asyncmgr.testing.plugin"]\n'


def run_program(page: Path) -> list[Block]:
    """Run the blocks that are one program, in virtual time; the blocks that were run."""
    wanted = (Kind.PROGRAM, Kind.OUTPUT)
    found = [block for block in blocks(page) if block.kind in wanted]
    if any(block.kind is Kind.PROGRAM for block in found):
        with _quiet_logging():
            return run_virtual(_run(found))
    return []


async def _run(found: list[Block]) -> list[Block]:
    names: dict[str, Any] = {"__name__": "page"}
    done, printed = [], io.StringIO()
    for block in found:
        if block.kind is Kind.PROGRAM:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                await _execute(block, names)
            done.append(block)
        elif done:
            lacking = missing(block.text, printed.getvalue())
            assert not lacking, f"{block.place}: not printed: {lacking}; printed was\n{printed.getvalue()}"
            done.append(block)
    return done


async def _execute(block: Block, names: dict[str, Any]) -> None:
    """Run one block, with its lines where they are on the page, so that a traceback shows them."""
    text = "\n" * block.line + block.text
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(text, str(block.page), "exec", flags, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
    else:
        exec(code, names)


@contextlib.contextmanager
def _quiet_logging() -> Any:
    """Take back what a page does to the standard library's logging."""
    root, ours = logging.getLogger(), logging.getLogger("asyncmgr")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


def write_files(page: Path, directory: Path) -> list[str]:
    """Write the files of a page; their names."""
    found = files(page)
    for name, text in found.items():
        (directory / name).write_text(text, encoding="utf-8")
    return list(found)


def run_files(page: Path, directory: Path) -> list[Block]:
    """Run the test files of a page as a reader would, and import the others; the blocks that were run."""
    names = [name for name in write_files(page, directory) if name.endswith(".py")]
    if not names:
        return []
    tests = [name for name in names if name.startswith("test_")]
    if tests:
        if "conftest.py" not in names:
            (directory / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestWarning"]
        done = _python(["-m", "pytest", *options], directory)
        assert re.search(r"\d+ passed", done), done
    for name in names:
        if name not in tests and name != "conftest.py":
            _python(["-c", f"import {name.removesuffix('.py')}"], directory)
    return [block for block in blocks(page) if block.kind is Kind.FILE]


def _python(arguments: list[str], directory: Path) -> str:
    env = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory, env=env, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_settings(page: Path, directory: Path) -> list[Block]:
    """Read each block of settings as a service would; the blocks that were read."""
    found = [block for block in blocks(page) if block.kind is Kind.SETTINGS]
    for number, block in enumerate(found):
        place = directory / str(number)
        place.mkdir()
        (place / "asyncmgr.toml").write_text(block.text, encoding="utf-8")
        with contextlib.chdir(place):
            Settings()
    return found


__all__ = ["ROOT", "read_settings", "run_files", "run_program", "write_files"]
