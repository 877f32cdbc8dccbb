"""The command line in this process: what it changes of the process is put back."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import structlog
from click.testing import CliRunner, Result

from asyncmgr.cli import command

TARGETS = str(Path(__file__).parent / "targets.py")

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty directory, in UTC, without settings; leave no module and no logging behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    others = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCMGR_")}
    with mock.patch.dict(os.environ, others | {"TZ": "UTC", "COLUMNS": "80"}, clear=True), _logging_kept():
        set_zone()
        with mock.patch.dict(sys.modules):
            yield
    set_zone()


def set_zone(name: str | None = None) -> None:
    """Make this the machine's time zone, or that of the environment; Windows has no such call."""
    if name is not None:
        os.environ["TZ"] = name
    if hasattr(time, "tzset"):
        time.tzset()


@pytest.fixture
def invoke() -> Invoke:
    """Give a function that runs ``asyncmgr`` with these words; ``"@Name"`` stands for that sample target."""

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(command, [target(word) for word in words], prog_name="asyncmgr")

    return invoke


def target(word: str) -> str:
    """Write out ``@Name``."""
    return f"{TARGETS}:{word[1:]}" if word.startswith("@") else word


class _logging_kept:  # noqa: N801 - used as a function
    def __enter__(self) -> None:
        root = logging.getLogger()
        self._handlers, self._level = [*root.handlers], root.level

    def __exit__(self, *_: object) -> None:
        structlog.reset_defaults()
        logging.captureWarnings(False)
        root = logging.getLogger()
        root.handlers[:] = self._handlers
        root.setLevel(self._level)
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
