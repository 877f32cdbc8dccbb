"""Real processes of one machine: web servers with several workers, killed, stopped and forked ones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name == "nt", reason="the servers have workers on POSIX"),
]

KILLS = int(os.environ.get("KILLS", "20"))

APP = """
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI

from asyncmgr import Manager, Service, periodic_task
from asyncmgr.events import SlotSkipped, SlotsMissed


def note(*words):
    with open("notes", "a") as file:
        file.write(" ".join(map(str, (os.getpid(), *words))) + "\\n")


def note_event(event):
    if isinstance(event, SlotsMissed):
        note("missed", event.count, event.reason)
    else:
        note("skipped", event.reason, event.holder)


class Jobs(Manager):
    @periodic_task(spacing=0.5, tolerance=0, scope="host")
    async def first(self, context):
        note("ran", context.slot_number)

    @periodic_task(spacing=0.5, tolerance=0)
    async def everywhere(self, context):
        note("everywhere", 0)


def build():
    service = Service(Jobs())
    service.add_listener(note_event, SlotsMissed, SlotSkipped)
    return service


service = build()


@asynccontextmanager
async def lifespan(app):
    async with service:
        note("started")
        yield


app = FastAPI(lifespan=lifespan)
"""

ALONE = APP.replace("from fastapi import FastAPI\n", "import asyncio\n").replace(
    "app = FastAPI(lifespan=lifespan)",
    """
async def main():
    async with lifespan(None):
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
""",
)

FORKING = ALONE.replace(
    "    asyncio.run(main())",
    """
    import threading, time
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    while not os.path.exists("notes") or " ran " not in open("notes").read():
        time.sleep(0.01)
    for _ in range(2):
        if not os.fork():
            service = build()
            asyncio.run(main())
            os._exit(0)
    threading.Event().wait()
""",
)


class Note(NamedTuple):
    pid: int
    what: str
    words: tuple[str, ...]


class Site:
    """A directory with an application, the processes that were started in it, and what they noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[bytes]] = []
        run_time = path / "run"
        run_time.mkdir(mode=0o700)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(run_time), "PYTHONWARNINGS": "ignore"}

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.path,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def notes(self, what: str) -> list[Note]:
        try:
            lines = (self.path / "notes").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [Note(int(pid), word, tuple(words)) for pid, word, *words in map(str.split, lines)]
        return [note for note in found if note.what == what]

    def runs(self) -> list[tuple[int, int]]:
        """Process and slot number of each run."""
        return [(note.pid, int(note.words[0])) for note in self.notes("ran")]

    def told(self) -> int:
        """How many slots had no run of their own, as the processes said."""
        return sum(int(note.words[0]) for note in self.notes("missed"))

    def until(self, condition: Callable[[], Any]) -> Any:
        ends = time.monotonic() + 120
        while not (found := condition()):
            assert time.monotonic() < ends, (self.path / "log").read_text()[-3000:]
            time.sleep(0.02)
        return found

    def until_noted(self, what: str, count: int) -> None:
        self.until(lambda: len(self.notes(what)) >= count)

    def assert_each_slot_once(self) -> None:
        """None twice; each that is not there is told as missed by the run that stands for it, or cut off."""
        numbers = [number for _, number in self.runs()]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] - len(numbers) <= self.told()

    def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def uvicorn(workers: int) -> list[str]:
    return ["-m", "uvicorn", "app:app", "--port", "0", "--workers", str(workers)]


def gunicorn(workers: int, *options: str) -> list[str]:
    worker = "uvicorn_worker.UvicornWorker"
    return ["-m", "gunicorn", "app:app", "-b", "127.0.0.1:0", "-w", str(workers), "-k", worker, *options]


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        pytest.param(uvicorn(2), 2, id="uvicorn-2"),
        pytest.param(uvicorn(4), 4, id="uvicorn-4"),
        pytest.param(gunicorn(2), 2, id="gunicorn-2"),
        pytest.param(gunicorn(4, "--preload"), 4, id="gunicorn-4-preload"),
    ],
)
def test_one_worker_of_a_web_server_runs_it(site: Site, command: list[str], workers: int) -> None:
    """The others say who does; a task without a scope runs in all of them."""
    (site.path / "app.py").write_text(APP)
    site.start(*command)
    site.until(lambda: len(site.notes("started")) == workers)
    started = {note.pid for note in site.notes("started")}
    before = len(site.runs())
    site.until(lambda: len(site.runs()) >= before + 6)
    site.until(lambda: len({note.pid for note in site.notes("everywhere")}) == workers)
    site.until(lambda: len({note.pid for note in site.notes("skipped")}) == workers - 1)
    (holder,) = {pid for pid, _ in site.runs()}
    assert holder in started
    assert {note.words for note in site.notes("skipped")} == {("not_owner", "pid", str(holder))}
    site.assert_each_slot_once()


def test_the_page_shows_what_works(site: Site) -> None:
    """The example of docs/how-to/embedding.md, with a shorter spacing, under the command that it names."""
    page = Path(__file__).parents[1] / "docs" / "how-to" / "embedding.md"
    block = next(text for text in page.read_text().split("```") if text.startswith("python\n# app.py"))
    code = block.removeprefix("python\n").replace("spacing=60", "spacing=0.5").replace("print(", "note(")
    assert (code.count("spacing=0.5"), code.count("note(")) == (1, 1)
    (site.path / "app.py").write_text(
        f"import os\n{code}\ndef note(*words):\n"
        '    with open("notes", "a") as file:\n        print(os.getpid(), "ran", words[-1], file=file)\n'
    )
    site.start("-m", "uvicorn", "app:app", "--port", "0", "--workers", "2")
    site.until(lambda: (site.path / "log").read_text().count("Application startup complete") == 2)
    site.until_noted("ran", len(site.runs()) + 6)
    assert len({pid for pid, _ in site.runs()}) == 1
    site.assert_each_slot_once()


def test_a_holder_is_killed_again_and_again(site: Site) -> None:
    """Another one has the next slot; no slot is lost, none is run twice."""
    (site.path / "app.py").write_text(ALONE)
    draw = random.Random(1)
    for _ in range(4):
        site.start("app.py")
    for killed in range(KILLS):
        site.until_noted("started", killed + 2)
        site.until_noted("ran", len(site.runs()) + 1)
        time.sleep(draw.uniform(0, 0.5))  # anywhere between two slots, during a run too
        holder = site.runs()[-1][0]
        os.kill(holder, signal.SIGKILL)
        site.start("app.py")
        site.until_noted("ran", len(site.runs()) + 1)
    pids = [pid for pid, _ in site.runs()]
    assert len(set(pids)) == KILLS + 1
    site.assert_each_slot_once()


def test_a_frozen_holder_keeps_it(site: Site) -> None:
    """The lock is its own until it dies: nobody else runs the task while it is stopped, and it goes on afterwards."""
    (site.path / "app.py").write_text(ALONE)
    for _ in range(2):
        site.start("app.py")
    site.until(lambda: len(site.notes("started")) == 2 and len(site.runs()) > 2)
    holder = site.runs()[-1][0]
    os.kill(holder, signal.SIGSTOP)
    site.until(lambda: "State:\tT" in Path(f"/proc/{holder}/status").read_text())
    before, refused = len(site.runs()), len(site.notes("skipped"))
    site.until(lambda: len(site.notes("skipped")) >= refused + 4)
    assert len(site.runs()) == before
    os.kill(holder, signal.SIGCONT)
    site.until(lambda: len(site.runs()) > before + 1)
    assert {pid for pid, _ in site.runs()} == {holder}
    site.assert_each_slot_once()


def test_a_service_that_runs_as_the_process_forks(site: Site) -> None:
    """The children have not got its lock: they are refused while it lives, and one of them goes on after its death."""
    (site.path / "app.py").write_text(FORKING)
    parent = site.start("app.py")
    site.until(lambda: len({note.pid for note in site.notes("skipped")}) == 2)
    assert {pid for pid, _ in site.runs()} == {parent.pid}
    last = site.runs()[-1][1]
    os.kill(parent.pid, signal.SIGKILL)
    site.until(lambda: any(pid != parent.pid for pid, _ in site.runs()))
    site.until(lambda: site.runs()[-1][1] > last + 2)
    assert len({pid for pid, _ in site.runs()}) == 2
    site.assert_each_slot_once()
