"""Completion in a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from asyncmgr._cli import command
from asyncmgr._cli.completion import targets_in

APP = """\
print("imported")
import asyncmgr
from asyncmgr import Manager, Service, periodic_task
from typing import Sequence

class Volumes(asyncmgr.Manager):
    @periodic_task(spacing=5)
    async def sync(self, context): ...
    @periodic_task(spacing=5)
    async def sweep(self, context): ...

class Small(Volumes): ...
class _Hidden(Volumes): ...
class Disk: ...

volumes = Volumes()
service: Service = Service(Volumes(), name="s")
other = Disk()

def build() -> Service: ...
def several() -> Sequence[Volumes]: ...
def helper() -> int: ...
async def later() -> Service: ...
"""
TARGETS = ["Volumes", "Small", "volumes", "service", "build", "several"]


@pytest.fixture(autouse=True)
def _app() -> None:
    Path("app.py").write_text(APP)
    Path("broken.py").write_text("def (")
    Path("shop").mkdir()
    Path("shop/__init__.py").write_text("")
    Path("shop/jobs.py").write_text(
        "from asyncmgr import Manager\nclass Orders(Manager): ...\nraise SystemExit(3)\n"
    )


def completed(*words: str) -> list[str]:
    """What the last word may become, as a shell is told it."""
    *args, incomplete = words
    shell = BashComplete(command, {}, "asyncmgr", "_ASYNCMGR_COMPLETE")
    return [
        f"({item.type})" if item.type != "plain" else item.value
        for item in shell.get_completions([*args], incomplete)
    ]


def test_targets_are_read_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    """What a file can be asked to run is found in its text (53)."""
    assert targets_in(Path("app.py")) == TARGETS
    assert targets_in(Path("broken.py")) == targets_in(Path("absent.py")) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["run", "list", "check", "next"])
def test_targets_are_completed(name: str) -> None:
    """By the file, by the module, by the attribute; where there is none, the shell completes files (53)."""
    assert completed(name, "ap") == [f"app.py:{target}" for target in TARGETS]
    assert completed(name, "app.py:V") == ["app.py:Volumes"]
    assert completed(name, "app:s") == ["app:service", "app:several"]
    assert completed(name, "shop.jo") == ["shop.jobs:Orders"]
    assert completed(name, "shop.jobs:") == ["shop.jobs:Orders"]
    assert completed(name, "sho") == completed(name, "shop/") == ["shop/jobs.py:Orders"]
    assert completed(name, "nowhere/") == ["(file)"]


def test_bash_ends_words_at_colons() -> None:
    """What arrives in pieces is put together (53)."""
    assert completed("list", "app.py", ":") == TARGETS
    assert completed("list", "app.py", ":", "Sm") == ["Small"]
    assert completed("next", "app.py", ":", "Volumes", "Volumes.s") == ["Volumes.sync", "Volumes.sweep"]


def test_tasks_are_completed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the full name, or by the task's own; nothing that a target prints gets into the prompt (53)."""
    assert completed("next", "app.py:Volumes", "Volumes.s") == ["Volumes.sync", "Volumes.sweep"]
    assert completed("next", "app.py:Volumes", "sy") == ["sync"]
    assert completed("run", "app.py:Small", "--only", "Small.sw") == ["Small.sweep"]
    assert completed("next", "shop/jobs.py:Orders", "x") == ["(file)"]
    monkeypatch.setenv("ASYNCMGR_APP", "app.py:Volumes")
    assert completed("next", "swe") == ["sweep"]
    assert completed("run", "--only", "sy") == ["sync"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_documented_line_works_in_bash(tmp_path: Path) -> None:
    """As documented, in a real shell: the line loads a function that completes (53)."""
    script = """\
eval "$(_ASYNCMGR_COMPLETE=bash_source asyncmgr)"
COMP_WORDS=(asyncmgr list app.py : Vol) COMP_CWORD=4
_asyncmgr_completion asyncmgr Vol :
echo "${COMPREPLY[@]}"
"""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "asyncmgr").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m asyncmgr "$@"\n')
    (programs / "asyncmgr").chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["Volumes"], done.stderr
