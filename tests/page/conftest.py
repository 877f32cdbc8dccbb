"""A browser, and services in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

TOKEN = "0123456789abcdef-secret"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: nox -s page")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium on the PATH, or its path in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


class Scene:
    """A process that serves a page."""

    def __init__(self, name: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.page.scenes", name, str(port), TOKEN]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the scene did not start"
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def scenes(browser: Browser) -> Iterator[Callable[[str], Scene]]:
    """Start each scene once; after the browser, so that nothing starts where there is none."""
    running: dict[str, Scene] = {}

    def start(name: str) -> Scene:
        if name not in running:
            running[name] = Scene(name)
        return running[name]

    yield start
    for scene in running.values():
        scene.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """A directory for pictures: that of the variable `SHOTS`, to look at them."""
    given = os.environ.get("SHOTS")
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
    return Path(given) if given else tmp_path


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    yield context
    context.close()
