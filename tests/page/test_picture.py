"""The picture of a rehearsal in a real browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from asyncmgr import Manager

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOOK = ("*=2s±1s", "*.t?0=50s±30s", "*.t?9=40m±20m")


def fleet(tasks: int) -> Manager:
    """Return a manager with so many tasks."""

    class Fleet(Manager):
        name = "a-manager-with-quite-a-long-name"

    async def body(context: Any) -> None: ...

    manager = Fleet()
    for number in range(tasks):
        spacing = (60, 300, 3600)[number % 3]
        manager.add_periodic_task(body, name=f"t{number:02}", spacing=spacing, timeout=1800)
    manager.add_periodic_task(body, name="nightly", cron="30 2 * * *", tz="Europe/Berlin")
    return manager


def small() -> Manager:
    """Return a manager with six tasks."""
    return fleet(5)


def large() -> Manager:
    """Return a manager with fifty tasks."""
    return fleet(49)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Draw both by the command, in a process of its own: the browser's loop occupies this one."""
    home = tmp_path_factory.mktemp("pictures")
    return {name: _drawn(name, length, home) for name, length in (("small", "1h"), ("large", "24h"))}


def _drawn(name: str, length: str, home: Path) -> str:
    plot = home / f"{name}.svg"
    command = [sys.executable, "-m", "asyncmgr", "simulate", f"{__file__}:{name}", "--for", length]
    command += ["--start", "2026-03-28T22:00+00:00", "--plot", str(plot)]
    for took in TOOK if name == "large" else TOOK[:2]:
        command += ["--took", took]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return plot.read_text(encoding="utf-8")


_OUTSIDE = """() => {
    const svg = document.querySelector('svg').getBoundingClientRect();
    return [...document.querySelectorAll('text')].filter(one => {
        const box = one.getBoundingClientRect();
        return box.left < svg.left || box.right > svg.right || box.bottom > svg.bottom || box.top < svg.top;
    }).map(one => one.textContent);
}"""

_CROSSING = """() => {
    const boxes = [...document.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
    return boxes.filter(([name, one], at) => boxes.some(([_, other], number) => number > at
        && one.left < other.right - 1 && other.left < one.right - 1
        && one.top < other.bottom - 4 && other.top < one.bottom - 4)).map(([name]) => name);
}"""

_CONTRAST = """() => {
    const shine = colour => {
        const [r, g, b] = colour.match(/\\d+/g).slice(0, 3).map(one => one / 255)
            .map(one => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = shine(getComputedStyle(document.querySelector('.bg')).fill);
    return Math.min(...[...document.querySelectorAll('text')].map(one => {
        const text = shine(getComputedStyle(one).fill);
        return (Math.max(text, ground) + .05) / (Math.min(text, ground) + .05);
    }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["small", "large"])
def test_every_word_can_be_read(
    browser: Browser, pictures: dict[str, str], shots: Path, name: str, scheme: Literal["light", "dark"]
) -> None:
    """No word lies outside of the picture or on another one, and each stands out from its ground."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 1200})
    page = context.new_page()
    page.set_content(f"<body style='margin:0'>{pictures[name]}")
    assert page.evaluate(_OUTSIDE) == []
    assert page.evaluate(_CROSSING) == []
    assert page.evaluate(_CONTRAST) >= 3
    page.screenshot(path=shots / f"rehearsal-{name}-{scheme}.png", full_page=True)
    context.close()
