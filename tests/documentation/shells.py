"""Runs the commands of a page in an empty directory with its files, as a reader would type them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.documentation.blocks import ROOT, Block, Kind, blocks
from tests.documentation.output import missing
from tests.documentation.programs import write_files

PATIENCE = float(os.environ.get("PATIENCE", "120"))
"""Seconds after which a command is given up."""

PORT = re.compile(r"\b(?:8000|8080|4222)\b")
DATABASE = "postgresql://agent@db.example/jobs"


ALONE = """\
import os
import pathlib

iterdir = pathlib.Path.iterdir
elsewhere = f"/tmp/asyncmgr-{os.getuid()}"
pathlib.Path.iterdir = lambda self: iter(()) if str(self) == elsewhere else iterdir(self)
"""
"""Hides the services of this user that run beside the tests: commands look for sockets in ``/tmp`` in any case."""


class Shell:
    """Runs commands, and keeps those that go on in the background."""

    def __init__(self, directory: Path, database: str | None) -> None:
        self.directory = directory
        self.database = database
        self.ports: dict[str, str] = {}
        self.waiting: list[tuple[Block, subprocess.Popen[str], Path]] = []
        self.stack = contextlib.ExitStack()

    def run(self, block: Block) -> None:
        """Run the commands of one block, and compare what they print with what it shows."""
        steps = list(_commands(block))
        for number, (command, shown) in enumerate(steps, 1):
            if block.mark == "in the background":
                self._begin(block, command, shown)
                continue
            done = subprocess.run(
                ["bash", "-c", self.here(command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                cwd=self.directory,
                env=self.environment(),
                timeout=PATIENCE,
            )
            told = f"{block.place}: {command}\n{done.stdout}{self._of_others()}"
            assert done.returncode == _expected(block, shown, last=number == len(steps)), told
            lacking = missing(shown, done.stdout)
            assert not lacking, f"not printed: {lacking} by {told}"

    def _begin(self, block: Block, command: str, shown: str) -> None:
        path = self.directory / f".output-{len(self.waiting)}"
        output: IO[str] = self.stack.enter_context(path.open("w"))
        process = subprocess.Popen(
            ["bash", "-c", f"exec {self.here(command)}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=self.environment(),
        )
        self.waiting.append((block, process, path))
        until = time.monotonic() + PATIENCE
        while lacking := missing(shown, path.read_text()):
            told = f"{block.place}: not printed: {lacking}; printed was\n{path.read_text()}"
            assert process.poll() is None, told
            assert time.monotonic() < until, told
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)

    def _of_others(self) -> str:
        return "".join(f"\nin the background:\n{path.read_text()}" for _, _, path in self.waiting)

    def end(self) -> None:
        """Stop what goes on, as Ctrl-C or a supervisor would."""
        for _, process, _ in self.waiting:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for block, process, path in self.waiting:
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            assert code in (0, -signal.SIGTERM), f"{block.place}: exit code {code}\n{path.read_text()}"
        self.stack.close()

    def here(self, text: str) -> str:
        """A text of the page with the ports, database and examples of this machine."""
        if self.database is not None:
            text = text.replace(DATABASE, self.database)
        text = re.sub(r"(?<![\w/])examples/", f"{ROOT}/examples/", text)
        return PORT.sub(lambda match: self.ports.setdefault(match[0], _free_port()), text)

    def environment(self) -> dict[str, str]:
        """The variables of a shell in which nothing of this machine is set."""
        run_time = self.directory / "run"
        run_time.mkdir(mode=0o700, exist_ok=True)
        (run_time / "sitecustomize.py").write_text(ALONE, encoding="utf-8")
        kept = {key: os.environ[key] for key in ("LANG", "SYSTEMROOT") if key in os.environ}
        paths = [str(run_time), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "HOME": str(self.directory),
            "XDG_RUNTIME_DIR": str(run_time),
            "XDG_STATE_HOME": str(run_time),
            "TMPDIR": str(run_time),
            "ASYNCMGR_HOST": "web-1",
            "ASYNCMGR_LOG_FORMAT": "console",
            "COLUMNS": "150",
            "TZ": "UTC",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def _expected(block: Block, shown: str, *, last: bool) -> int:
    """A command ends with 0, with the code of the mark, or with 1 where the page shows an error."""
    if last and (match := re.fullmatch(r"exit code (\d+)", block.mark)):
        return int(match[1])
    return int(bool(re.search(r"^Error: ", shown, re.MULTILINE)))


def _commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with what the page shows after it."""
    if block.language == "sh":
        yield block.text.strip(), ""
        return
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = re.sub(r"\\\n *", "", part).partition("\n")
        yield command, shown


def run_commands(page: Path, directory: Path, database: str | None = None) -> list[Block]:
    """Run the commands of a page one after the other; the blocks that were run."""
    found = [block for block in blocks(page) if block.kind is Kind.SHELL]
    shell = Shell(directory, database)
    for name in write_files(page, directory):
        path = directory / name
        path.write_text(shell.here(path.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        for block in found:
            shell.run(block)
    finally:
        shell.end()
    return found
