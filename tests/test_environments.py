"""The life of a service in all environments: loops, task factories, debug modes, threads, neighbours."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asyncmgr.testing import run_virtual
from tests.environments import CASES, observe, own_factory, run_in_thread, run_plain

Run = Callable[[Coroutine[Any, Any, None]], None]

needs_uvloop = pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="uvloop is not installed")
needs_eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")


def run_on_uvloop(main: Coroutine[Any, Any, None], **options: Any) -> None:
    import uvloop

    run_plain(main, new=uvloop.new_event_loop, **options)


def run_eagerly(main: Coroutine[Any, Any, None], **options: Any) -> None:
    run_plain(main, factory=getattr(asyncio, "eager_task_factory"), **options)  # noqa: B009 - not on 3.11


def environment(name: str, run: Run, *marks: Any, beside: bool = False) -> Any:
    return pytest.param(run, beside, id=name, marks=marks)


EACH_ENVIRONMENT = pytest.mark.parametrize(
    ("run", "beside"),
    [
        environment("plain", run_plain),
        environment("debug", functools.partial(run_plain, debug=True)),
        environment("own-tasks", functools.partial(run_plain, factory=own_factory)),
        environment("eager", run_eagerly, needs_eager),
        environment("eager-debug", functools.partial(run_eagerly, debug=True), needs_eager),
        environment("uvloop", run_on_uvloop, needs_uvloop),
        environment("uvloop-debug", functools.partial(run_on_uvloop, debug=True), needs_uvloop),
        environment("thread", run_in_thread),
        environment("beside-another", run_plain, beside=True),
        environment("uvloop-beside-another", run_on_uvloop, needs_uvloop, beside=True),
        environment("virtual", run_virtual),
    ],
)


@EACH_ENVIRONMENT
@pytest.mark.parametrize("case", CASES)
def test_life(case: str, run: Run, beside: bool) -> None:
    """Every case is the same everywhere, leaves no Task, and gives the loop nothing to complain of."""
    run(observe(CASES[case], beside=beside))


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["-X", "dev", "-W", "error"], {}),
        ([], {"PYTHONASYNCIODEBUG": "1"}),
    ],
    ids=["dev-mode", "asyncio-debug"],
)
def test_interpreters(options: list[str], variables: dict[str, str]) -> None:
    """All cases, in a process of their own: no warning, no ignored exception, nothing left open."""
    ended = subprocess.run(
        [sys.executable, *options, "-m", "tests.environments"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **variables},
    )
    assert ended.returncode == 0, ended.stderr
    for complaint in ("never awaited", "never retrieved", "was destroyed", "Exception ignored", "Warning"):
        assert complaint not in ended.stderr, ended.stderr
