"""Takes the picture of the page that the documentation shows: ``python -m tests.page.picture FILE [MINUTES]``.

It is of the real demonstration, after so many minutes: `nox -s picture`. Needs Chromium, as the tests of the page do.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from tests.page.conftest import ARGUMENTS, NAMES

MINUTES = 14.0
"""Long enough that the shortest span of the page, 15 minutes, is nearly full."""
SIZE = (1280, 910)
MOST = 300_000
"""Bytes that a picture in the documentation may have."""

_HOSTS = 4
"""Three, and the one that serves the page."""
_TROUBLES = 2
_PATIENCE = 60_000


def take(file: Path, minutes: float) -> None:
    """Run the demonstration, and take the picture; one host is killed meanwhile, at three fifths of the time."""
    with tempfile.TemporaryDirectory() as directory:
        _take(file, minutes, directory)


def _take(file: Path, minutes: float, directory: str) -> None:
    # The control sockets are in a directory of their own: no command that runs meanwhile steers the demonstration.
    env = {**os.environ, "TZ": "UTC", "XDG_RUNTIME_DIR": directory}
    command = [sys.executable, "-m", "asyncmgr", "demo", "--plain", "--kill-after", str(minutes * 36)]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert demo.stdout is not None
        link = _find_link(demo.stdout)
        threading.Thread(target=demo.stdout.read, daemon=True).start()  # so that its pipe does not fill
        _shoot(link, file, minutes)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)


def _find_link(told: IO[str]) -> str:
    for line in told:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise SystemExit("the demonstration served no page")


def _shoot(link: str, file: Path, minutes: float) -> None:
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise SystemExit("needs Chromium on the PATH, or its path in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.goto(f"{link}#span=900")
        page.wait_for_timeout(minutes * 60_000)
        page.locator(".row").nth(_HOSTS).wait_for(timeout=_PATIENCE)
        page.locator(".need").nth(_TROUBLES - 1).wait_for(timeout=_PATIENCE)
        page.screenshot(path=file)
        browser.close()
    if file.stat().st_size > MOST:
        raise SystemExit(f"{file} has {file.stat().st_size:,} bytes; {MOST:,} are the most")


if __name__ == "__main__":
    take(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else MINUTES)
