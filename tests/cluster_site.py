"""Real processes of a cluster over a real store, what is done to them, and what they noted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from asyncmgr.testing.nats import NatsServer

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds after which something that should happen did not."""

MANY = 5000
"""Notes from which on they are looked at less often."""

PRELOADED = [
    "asyncmgr.transports._nats.transport",
    "asyncmgr.transports._postgres.engine",
    "asyncmgr.transports._sqlite.engine",
    "asyncmgr.transports._valkey.engine",
    "tests.cluster_site",
]
"""What a process of a site has imported as it begins, since that takes longer than what is tested."""

Note = dict[str, Any]


class Child:
    """A process of its own, forked from one that has imported everything and runs nothing."""

    def __init__(self, plan: dict[str, Any], home: Path, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_live, args=(plan, str(home), environment))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code; `None` = it goes on."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _live(plan: dict[str, Any], home: str, environment: dict[str, str]) -> None:
    """Be a process of a site."""
    os.setsid()
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for output in (1, 2):
        os.dup2(log, output)
    from tests import cluster_worker  # here, since it opens a file of its home

    asyncio.run(cluster_worker.main(plan))


class Server(Protocol):
    """The process of a store."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self, *, empty: bool = False) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Database:
    """A file of SQLite in the place of a server: it cannot be killed, and can be emptied."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self, *, empty: bool = False) -> None:
        if empty:
            self.run("DELETE FROM asyncmgr_entries")
            self.run("DELETE FROM asyncmgr_stores")

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def run(self, sql: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection, connection:
            connection.execute(sql)


class Site:
    """A directory in which processes of one application run.

    Parameters
    ----------
    ttl
        Seconds: `[lease] ttl` of the processes, where `start` says no other.
    """

    def __init__(self, path: Path, server: Server, *, ttl: float = 2.0, application: str = "") -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.server, self.ttl = path, server, ttl
        self.application = application or f"app-{os.getpid()}-{path.name}"
        self.processes: list[Child] = []
        self._read, self._rest = 0, b""
        self._notes: list[Note] = []
        self._indexed: defaultdict[tuple[str, str | None], list[Note]] = defaultdict(list)
        """The same notes, by what they are and by their task; `None` = of all tasks."""
        run_time = path / "run"
        run_time.mkdir(mode=0o700, exist_ok=True)
        home = {"XDG_RUNTIME_DIR": str(run_time), "XDG_STATE_HOME": str(path / "state")}
        self.environment = {**os.environ, **home, "PYTHONWARNINGS": "ignore"}

    def start(
        self,
        host: str,
        tasks: dict[str, dict[str, Any]],
        *,
        leases: Iterable[str] = (),
        lasts: float = 0.0,
        **settings: Any,
    ) -> Child:
        """Start a process with these tasks, of `scope="cluster"` where nothing else is said."""
        # Over NATS, the transport's own store; all others beside one that connects nobody.
        where = "transport" if isinstance(self.server, NatsServer) else "store"
        plan = {
            "application": self.application,
            "host": host,
            "tasks": {name: {"scope": "cluster", **options} for name, options in tasks.items()},
            "leases": list(leases),
            "lasts": lasts,
            "settings": {where: self.server.url, "connect": "wait", "lease": {"ttl": self.ttl}, **settings},
        }
        process = Child(plan, self.path, self.environment)
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        file = self.path / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    # What was noted

    def notes(self, what: str | None = None, **facts: Any) -> list[Note]:
        """What was noted so far, the oldest first."""
        self._take_in()
        task = facts.pop("task", None)
        found = self._notes if what is None else self._indexed.get((what, task), ())
        if what is None and task is not None:
            facts["task"] = task
        return [note for note in found if all(note.get(key) == value for key, value in facts.items())]

    def _take_in(self) -> None:
        with contextlib.suppress(FileNotFoundError), (self.path / "notes").open("rb") as file:
            file.seek(self._read)
            text = self._rest + file.read()
            self._read = file.tell()
            *lines, self._rest = text.split(b"\n")
            for note in map(json.loads, lines):
                self._notes.append(note)
                for task in {None, note.get("task")}:
                    self._indexed[note["what"], task].append(note)

    def until(self, condition: Callable[[], T]) -> T:
        """Return what is found once it is true."""
        ends = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < ends, "\n".join([*map(str, self._notes[-20:]), self.log[-3000:]])
            time.sleep(0.01 if len(self._notes) < MANY else 0.5)
        return found

    def until_noted(self, what: str, count: int = 1, **facts: Any) -> list[Note]:
        """Return the notes of this kind, as soon as there are so many."""
        return self.until(lambda: found if len(found := self.notes(what, **facts)) >= count else [])

    def until_more(self, count: int = 1, **facts: Any) -> list[Note]:
        """Return the runs that begin from now on, as soon as there are so many."""
        before = len(self.notes("ran", **facts))
        return self.until_noted("ran", before + count, **facts)[before:]

    def until_each(self, tasks: Iterable[str], count: int = 1) -> None:
        """Return once so many runs of each task have begun from now on."""
        before = Counter(note["task"] for note in self.notes("ran"))
        wanted = {task: before[task] + count for task in tasks}

        def have_run() -> bool:
            runs = Counter(note["task"] for note in self.notes("ran"))
            return all(runs[task] >= number for task, number in wanted.items())

        self.until(have_run)

    def holder(self, task: str) -> Child:
        """The process that ran a task last."""
        pid = self.notes("ran", task=task)[-1]["pid"]
        return next(process for process in self.processes if process.pid == pid)

    # What is done

    def kill(self, process: Child) -> None:
        process.kill()
        process.wait()

    def terminate(self, process: Child) -> None:
        """Stop a process in order."""
        process.terminate()
        assert process.wait(PATIENCE) == 0, self.log[-3000:]

    def stop_at_once(self, process: Child) -> None:
        """Freeze a process wherever it is."""
        process.send_signal(signal.SIGSTOP)
        self._until_frozen(process)

    def _until_frozen(self, process: Child) -> None:
        self.until(lambda: "State:\tT" in Path(f"/proc/{process.pid}/status").read_text())

    def freeze(self, process: Child) -> Note:
        """Stop a process in the middle of its next body; return the note of that run."""
        (self.path / f"freeze-{process.pid}").touch()
        self.until_noted("frozen", pid=process.pid)
        self._until_frozen(process)
        return self.notes("ran", pid=process.pid)[-1]

    def thaw(self, process: Child) -> None:
        (self.path / f"freeze-{process.pid}").unlink(missing_ok=True)
        (self.path / "thaw").touch()
        process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop all processes in order, those that are left."""
        left = [process for process in self.processes if process.poll() is None]
        for process in left:
            process.terminate()
        for process in left:
            assert process.wait(PATIENCE) == 0, self.log[-3000:]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    # What must hold

    def assert_tokens_grow(self, task: str) -> None:
        """Neither slots nor tokens go back, and each slot starts once."""
        runs = self.notes("ran", task=task)
        numbers, tokens = [run["number"] for run in runs], [run["token"] for run in runs]
        assert numbers == sorted(set(numbers)), numbers
        assert tokens == sorted(tokens), tokens
        owners = {(run["token"], run["pid"]) for run in runs}
        assert len(owners) == len(set(tokens)), owners

    def assert_each_slot_once(self, task: str, *, cut_off: int = 0, unknown: int = 0) -> None:
        """Each slot starts once, or is told as missed.

        So many slots may have both, since their holder died (`cut_off`), or neither, since it had claimed them together
        with others (`unknown`).
        """
        self.assert_tokens_grow(task)
        runs = self.notes("ran", task=task)
        absent = runs[-1]["number"] - runs[0]["number"] + 1 - len(runs)
        last = runs[-1]["slot"] + 0.001
        missed = self.notes("missed", task=f"M.{task}", reason="lease_lost")
        told = sum(note["count"] for note in missed if note["slot"] <= last)
        assert absent - unknown <= told <= absent + cut_off, (task, absent, told, self.notes("missed"))
