"""A service that is made up, on a clock that stands still, and what the screen of ``asyncmgr top`` shows of it."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from textual.pilot import Pilot

from asyncmgr._cli.doors import Refused
from asyncmgr._cli.top.app import TopApp
from asyncmgr._cli.top.watching import Watch
from asyncmgr._cli.top.wires import Finder, Wire
from asyncmgr._history.slots import CODES
from asyncmgr._service.control_answers import status_as_json
from asyncmgr._tasks.status import LastStatus, PausedStatus, RunningStatus, TaskState, TaskStatus
from asyncmgr.errors import ControlUnavailable
from asyncmgr.events import Outcome

NOW = datetime(2026, 7, 1, 2, 58, 41, tzinfo=UTC)
SUCCEEDED, FAILED = CODES["succeeded", None], CODES["failed", None]
SUSPENDED, BACKOFF = CODES["missed", "suspended"], CODES["skipped", "backoff"]


class Clock:
    """Stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def read(self) -> int:
        return round(self.now.timestamp() * 1000)


def well(name: str = "Volumes.sync", **facts: Any) -> TaskStatus:
    status = TaskStatus(
        name.rpartition(".")[2],
        name,
        30.0,
        "every 30s",
        NOW - timedelta(seconds=11),
        NOW + timedelta(seconds=19),
        state=TaskState.OK,
        last=LastStatus(Outcome.SUCCEEDED, NOW - timedelta(seconds=11), 0.5, 2.0),
        last_success=NOW - timedelta(seconds=8),
        runs=120,
    )
    return replace(status, **facts)


def hung(name: str = "Backups.nightly", run: str = "abc-7") -> TaskStatus:
    running = RunningStatus(
        run, NOW - timedelta(minutes=47), "schedule", where="Backups.put at client.py:212"
    )
    return well(
        name,
        state=TaskState.HUNG,
        running=running,
        usual=190.0,
        schedule="10 2 * * *",
        spacing=None,
        tz="UTC",
    )


def failing(name: str = "Invoices.export", text: str = "HTTPStatusError: 503 from pay.example") -> TaskStatus:
    since = NOW - timedelta(minutes=41)
    return well(name, state=TaskState.FAILING, failures=5, failing_since=since, error=text)


def paused(name: str = "Mail.digest") -> TaskStatus:
    pause = PausedStatus("ana", NOW - timedelta(minutes=40), NOW + timedelta(minutes=79), "provider moves")
    return well(name, state=TaskState.PAUSED, paused=pause, next_due=None)


class FakeWire(Wire):
    """A service that tells what a test wants told."""

    def __init__(
        self, clock: Clock, *tasks: TaskStatus, host: str = "eu-1", service: str = "billing", pid: int = 1
    ):
        self.service, self.host, self.key = service, host, f"{service}/{host}/{pid}"
        self.label = f"{service} on {host}, pid {pid}"
        self.clock = clock
        self.tasks = {one.full_name: one for one in tasks}
        self.rows: dict[str, list[int]] = {}
        self.entries: list[dict[str, Any]] = []
        self.slots: list[dict[str, Any]] = []
        self.waits: list[dict[str, str]] = []
        self.changed: set[str] = set()
        self.marks: dict[str, list[list[int]]] = {}
        self.health = ""
        self.anew = False
        self.answers = asyncio.Event()
        """Clear = questions wait."""
        self.answers.set()
        self.error: Exception | None = None
        self.refusal = ""
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def change(self, *tasks: TaskStatus) -> None:
        """Have these tasks stand otherwise from now on."""
        self.tasks.update((one.full_name, one) for one in tasks)
        self.changed.update(one.full_name for one in tasks)

    def count(self, verb: str) -> int:
        return sum(one == verb for one, _ in self.asked)

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((verb, {name: value for name, value in arguments.items() if value is not None}))
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        reading: dict[str, Callable[..., dict[str, Any]]] = {
            "changes": self._changes,
            "status": self._status,
            "fates": self._fates,
            "journal": lambda **given: {"entries": self.entries},
            "explain": lambda task: {"text": f"{task}: the slot of 02:58:30 ran, and succeeded in 2 s."},
            "history": lambda **given: {"records": self.slots},
            "waits": lambda task: {"waits": self.waits},
        }
        if verb in reading:
            return reading[verb](**arguments)
        if self.refusal:
            raise Refused(self.refusal)
        told = status_as_json(self.tasks[arguments["task"]])
        return {"task": told, "run_id": "abc-8", "run_ids": ["abc-7"], "changed": True}

    def _changes(self, since: str | None = None, look: bool = False) -> dict[str, Any]:
        anew, self.anew = self.anew or since is None, False
        changed, self.changed = self.changed, set()
        marks, self.marks = self.marks, {}
        return {
            "place": "here",
            "now": self.clock.read(),
            "state": "running",
            "health": self.health,
            "count": len(self.tasks),
            "in_the_way": {},
            "anew": anew,
            "tasks": [status_as_json(self.tasks[name]) for name in changed],
            "marks": marks,
            "entries": [],
        }

    def _status(self, after: int = 0, task: str | None = None) -> dict[str, Any]:
        if task is not None:
            return {"tasks": [status_as_json(self.tasks[task])]}
        page = list(self.tasks.values())[after : after + 50]
        following = after + 50 if len(self.tasks) > after + 50 else None
        return {"tasks": [status_as_json(one) for one in page], "next": following}

    def _fates(self, span: int, bins: int, after: int) -> dict[str, Any]:
        end = self.clock.read()
        return {"begin": end - span * 1000, "end": end, "bins": bins, "rows": self.rows, "next": None}


GONE = ControlUnavailable("nobody listens at its control socket: the process is gone")


class FakeFinder(Finder):
    def __init__(self, *wires: Wire) -> None:
        self.wires: Sequence[Wire] = wires

    async def find(self) -> Sequence[Wire]:
        return self.wires


class Screen:
    """The application, as a person sees it and uses it."""

    def __init__(self, app: TopApp, pilot: Pilot[None], finder: FakeFinder) -> None:
        self.app, self._pilot, self.finder = app, pilot, finder

    async def step(self) -> None:
        await self.app.step()
        await self._pilot.pause()

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)
        await self.app.workers.wait_for_complete()
        await self._pilot.pause()

    async def resize(self, width: int, height: int) -> None:
        await self._pilot.resize_terminal(width, height)
        await self._pilot.pause()

    @property
    def lines(self) -> list[str]:
        return picture(self.app)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def words(self) -> str:
        """What is on the screen as one line, so that it does not matter where lines are broken."""
        return " ".join(self.text.split())

    def line(self, part: str, *, nth: int = 0) -> str:
        """Return the line with this text."""
        found = [one for one in self.lines if part in one]
        assert len(found) > nth, f"{part!r} is not on the screen:\n{self.text}"
        return found[nth]


@asynccontextmanager
async def opened(*wires: FakeWire, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Screen]:
    finder = FakeFinder(*wires)
    app = TopApp(Watch(finder, read=wires[0].clock.read), every=None)
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, pilot, finder)
        await screen.step()
        yield screen
    await app.services.close()


_TEXT = re.compile(
    r'<text class="[^"]*" x="([\d.]+)" y="[\d.]+" textLength="[\d.]+" clip-path="url\(#[\w-]+-line-(\d+)\)">([^<]*)<'
)


def picture(app: TopApp) -> list[str]:
    """Read what is on the screen from its screenshot, line by line."""
    rows: dict[int, str] = {}
    for x, number, text in _TEXT.findall(app.export_screenshot()):
        row = rows.get(int(number), "")
        rows[int(number)] = row.ljust(round(float(x) / 12.2)) + html.unescape(text).replace("\xa0", " ")
    return [rows.get(number, "").rstrip() for number in range(app.size.height)]
