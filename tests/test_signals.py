"""`asyncmgr.run` and signals: what each signal does, and whose handlers are touched. On the real loop, in a child."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import structlog

if sys.platform != "win32":
    import pty

import asyncmgr
from asyncmgr import AsyncmgrError, Manager, RunContext, Service, Settings, StopReport, periodic_task
from asyncmgr._service.lifecycle import Life
from asyncmgr._service.service import State
from asyncmgr._service.signals import Handlers, Interrupts
from tests.helpers import Bare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no signal handlers there")


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and nohup ignores SIGHUP: children inherit that."""
    usual: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


PRELUDE = """
import asyncio, contextlib, functools, os, signal, sys
import structlog
import asyncmgr, asyncmgr._service.lifecycle
from asyncmgr import Manager, Service, periodic_task
from asyncmgr.events import ServiceStarted, ServiceStopping

signal.alarm(120)  # nothing here may hang
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def say(*words):
    print(*words, flush=True)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]


class Volumes(Manager):
    async def init_host(self):
        self.stopping = asyncio.Event()
        self.service.add_listener(self.note_stop, ServiceStopping)

    def note_stop(self, event):
        say("stopping")
        self.stopping.set()

    async def cleanup_host(self):
        say("cleaned")

    @periodic_task(spacing=1000, run_immediately=True)
    async def work(self, context):
        say("ready")
        await self.stopping.wait()
        say("drained")
"""

OWN_TERMINAL = """
import fcntl, termios
fcntl.ioctl({0}, termios.TIOCSCTTY, 0)
os.close({0})
"""

ASYNCIO = "asyncio.run(main())"
UVLOOP = "import uvloop; uvloop.run(main())"
ANYIO = "import anyio; anyio.run(main)"

needs_uvloop = pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="uvloop is not installed")
EACH_LOOP = pytest.mark.parametrize(
    "loop", [ASYNCIO, ANYIO, pytest.param(UVLOOP, marks=needs_uvloop)], ids=["asyncio", "anyio", "uvloop"]
)


class Child:
    """A program that says on its stdout how far it is."""

    def __init__(self, program: str, directory: Path, terminal: int | None = None) -> None:
        self._stderr = directory / "stderr"
        inherited = () if terminal is None else (terminal,)
        prelude = PRELUDE if terminal is None else PRELUDE + OWN_TERMINAL.format(terminal)
        command = [sys.executable, "-c", prelude + program]
        with self._stderr.open("w") as stderr:
            # In a session of its own it has no controlling terminal, wherever the suite runs.
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=directory,
                text=True,
                start_new_session=True,
                pass_fds=inherited,
            )

    def wait_for(self, line: str) -> None:
        """Read on until it says this."""
        said = []
        while (read := self._stdout.readline().strip()) != line:
            said.append(read)
            assert read, f"it ended without {line!r}, after {said}: {self._stderr.read_text()}"

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[list[str], int, str]:
        """What it still says, its exit code and all of stderr."""
        said = self._stdout.read().split("\n")[:-1]
        return said, self._process.wait(), self._stderr.read_text()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdout.close()

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Any]:
    """Give a function that starts a child with such a program."""
    with contextlib.ExitStack() as stack:

        def start(program: str, terminal: int | None = None) -> Child:
            started = Child(program, tmp_path, terminal)
            stack.callback(started.close)
            return started

        yield start


def plain(text: str) -> str:
    """Without the colours of a terminal."""
    return re.sub(r"\x1b\[\d*m", "", text)


def assert_no_complaint(stderr: str) -> None:
    for complaint in ("was destroyed", "never retrieved", "never awaited", "Warning"):
        assert complaint not in stderr


RUN = """
async def main():
    report = await asyncmgr.run(Volumes())
    say("returned", *report.drained)
"""


@EACH_LOOP
def test_the_first_signal_drains(child: Any, loop: str) -> None:
    """Runs in progress end, hooks are undone, `run` returns its report, and the exit code is 0."""
    started = child(RUN + loop)
    started.wait_for("ready")
    started.send(signal.SIGINT if loop == ASYNCIO else signal.SIGTERM)
    assert started.end()[:2] == (["stopping", "drained", "cleaned", "returned Volumes.work"], 0)


STUBBORN = """
asyncmgr._service.lifecycle.GRACE = 0.05


class Stubborn(Volumes):
    @periodic_task(spacing=1000, run_immediately=True)
    async def work(self, context):
        say("ready")
        try:
            await asyncio.Event().wait()
        finally:
            say("cancelled")

    async def cleanup_host(self):
        say("cleaning")
        try:
            await asyncio.Event().wait()
        finally:
            say("cut short")


async def main():
    try:
        await asyncmgr.run(Stubborn())
    except KeyboardInterrupt:
        say("interrupted")
        raise
    finally:
        say("default" if handlers()[0] == signal.SIG_DFL else "changed")
"""


@EACH_LOOP
def test_the_second_signal_cancels(child: Any, loop: str) -> None:
    """Runs are cancelled, `cleanup_host` is cut short, and `KeyboardInterrupt` raised."""
    started = child(STUBBORN + loop)
    started.wait_for("ready")
    started.send(signal.SIGTERM)
    started.wait_for("stopping")
    started.send(signal.SIGINT)
    said, code, stderr = started.end()
    assert said == ["cancelled", "cleaning", "cut short", "interrupted", "default"]
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr
    assert_no_complaint(stderr)


HANGING_START = """
class Hangs(Volumes):
    async def init_host(self):
        say("starting")
        try:
            await asyncio.Event().wait()
        finally:
            say("cancelled")
            if len(sys.argv) > 1:
                await asyncio.Event().wait()


async def main():
    report = await asyncmgr.run(Hangs())
    say("returned")
"""


def test_a_signal_during_the_start_ends_it(child: Any) -> None:
    """The start is undone, and `run` returns as at any other time."""
    started = child(HANGING_START + ASYNCIO)
    started.wait_for("starting")
    started.send(signal.SIGTERM)
    assert started.end()[:2] == (["cancelled", "returned"], 0)


def test_two_signals_during_a_start_that_hangs(child: Any) -> None:
    """The second one leaves behind what will not end."""
    started = child(
        "sys.argv.append('x'); asyncmgr._service.lifecycle.GRACE = 0.05\n" + HANGING_START + ASYNCIO
    )
    started.wait_for("starting")
    started.send(signal.SIGTERM)
    started.wait_for("cancelled")
    started.send(signal.SIGTERM)
    assert started.end()[:2] == ([], -signal.SIGINT)


RELOADING = """
class Reloads(Volumes):
    name = "Volumes"

    async def reload(self):
        say("reloaded", self.settings.drain_timeout)


async def main():
    await asyncmgr.run(Reloads())
    say("returned")
"""


def test_sighup_reads_the_settings_again(child: Any, tmp_path: Path) -> None:
    """As often as it comes; wrong settings are logged, and it goes on with the old ones."""
    file = tmp_path / "asyncmgr.toml"
    started = child(RELOADING + ASYNCIO)
    started.wait_for("ready")
    for text, said in (
        ("drain_timeout = 7", "7.0"),
        ("drain_timeout = 8", "8.0"),
        ("drain_timeout = 8", "8.0"),
    ):
        file.write_text(text)
        started.send(signal.SIGHUP)
        started.wait_for(f"reloaded {said}")
    file.write_text("drain_timeout = 'soon'")
    started.send(signal.SIGHUP)
    started.send(signal.SIGTERM)
    said, code, _ = started.end()
    assert said[-3:] == ["drained", "cleaned", "returned"]
    assert code == 0


def test_sighup_while_it_stops(child: Any) -> None:
    """There is nothing to reload any more."""
    started = child(STUBBORN + ASYNCIO)
    started.wait_for("ready")
    started.send(signal.SIGTERM)
    started.wait_for("stopping")
    started.send(signal.SIGHUP)
    started.send(signal.SIGTERM)
    said, code, _ = started.end()
    assert (said[-1], code) == ("default", -signal.SIGINT)


class Terminal:
    """A window: a program has its other side as controlling terminal, and it can be closed."""

    def __init__(self) -> None:
        self._window, self.side = pty.openpty()

    def hand_over(self) -> None:
        """Leave the program's side to the program alone."""
        os.close(self.side)
        self.side = -1

    def close(self) -> None:
        for end in (self._window, self.side):
            if end != -1:
                os.close(end)
        self._window = self.side = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


@EACH_LOOP
def test_a_closed_terminal_drains(child: Any, terminal: Terminal, loop: str) -> None:
    """Who closes the window of a service wants it to end: it is not to run on unseen."""
    started = child(RUN + loop, terminal.side)
    terminal.hand_over()
    started.wait_for("ready")
    terminal.close()
    said, code, stderr = started.end()
    assert (said, code) == (["stopping", "drained", "cleaned", "returned Volumes.work"], 0)
    assert "terminal.hung_up" in stderr


def test_a_closed_terminal_where_sighup_is_ignored(child: Any, terminal: Terminal) -> None:
    """With `nohup` a service outlives its terminal, and says at its start that it will."""
    started = child("signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + RUN + ASYNCIO, terminal.side)
    terminal.hand_over()
    started.wait_for("ready")
    terminal.close()
    started.send(signal.SIGHUP)
    started.send(signal.SIGTERM)
    said, code, stderr = started.end()
    assert (said[-1], code) == ("returned Volumes.work", 0)
    assert "signal=SIGHUP" in plain(stderr)
    assert "terminal.hung_up" not in stderr


def test_the_command_line_on_a_closed_terminal(tmp_path: Path) -> None:
    """Where the log goes to the window that is gone, the end is as clean as any."""
    (tmp_path / "app.py").write_text(PRELUDE)
    window, side = pty.openpty()
    with (tmp_path / "said").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL], stdin=side, stdout=out, stderr=side, cwd=tmp_path
        )
    os.close(side)
    shown = b""
    while b"service.started" not in shown:
        shown += os.read(window, 4096)
    os.close(window)
    assert process.wait() == 0
    assert (tmp_path / "said").read_text().split() == ["ready", "stopping", "drained", "cleaned"]


ON_TERMINAL = """
import os, sys

out = os.dup(1)
os.login_tty(0)
os.dup2(out, 1)
os.execv(sys.executable, [sys.executable, "-m", "asyncmgr", "run", "app.py:Volumes"])
"""


RESTORED = """
async def main():
    loop_handlers = handlers()
    await asyncmgr.run(Volumes())
    say("restored" if handlers() == loop_handlers else "changed")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(30)


before = handlers()
try:
    {loop}
finally:
    say("again" if handlers() == before else "changed")
"""


def test_handlers_are_put_back(child: Any) -> None:
    """After `run` the signals mean what they meant before: SIGTERM ends the process."""
    started = child(RESTORED.format(loop=ASYNCIO))
    started.wait_for("ready")
    started.send(signal.SIGTERM)
    said, code, _ = started.end()
    assert said[-1:] == ["restored"]
    assert code == -signal.SIGTERM


APPLICATION = """
def told(number, frame):
    say("application", number)
    if number == signal.SIGINT:
        loop.call_soon_threadsafe(service.request_stop)


async def main():
    global loop, service
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    loop.add_signal_handler(signal.SIGHUP, lambda: say("application", 1))
    before = handlers()
    service = Service(Volumes())
    await asyncmgr.run(service)
    say("untouched" if handlers() == before else "changed")
"""


def test_handlers_of_the_application_are_left(child: Any) -> None:
    """They go on to be called, and ours are not."""
    started = child(APPLICATION + ASYNCIO)
    started.wait_for("ready")
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        started.send(number)
        started.wait_for(f"application {number.value}")
    said, code, _ = started.end()
    assert said == ["stopping", "drained", "cleaned", "untouched"]
    assert code == 0


EXITS = """
class Exits(Volumes):
    @periodic_task(spacing=1000, run_immediately=True)
    async def work(self, context):
        raise {error}


async def main():
    await asyncmgr.run(Exits())
"""


@pytest.mark.parametrize(
    ("error", "code"), [("SystemExit(3)", 3), ("KeyboardInterrupt", -signal.SIGINT), ("SystemExit", 0)]
)
def test_a_run_that_ends_the_process(child: Any, error: str, code: int) -> None:
    """The process ends as the run wanted, after the hooks were undone."""
    started = child(EXITS.format(error=error) + ASYNCIO)
    said, found, stderr = started.end()
    assert (said, found) == (["stopping", "cleaned"], code)
    assert_no_complaint(stderr)


FOREIGN = """
asyncmgr._service.lifecycle.GRACE = 0.05


class Hangs(Volumes):
    begun = False

    @periodic_task(spacing=1000, run_immediately=True)
    async def work(self, context):
        self.begun = True
        try:
            await self.wait(context)
        finally:
            say("cancelled")

    async def wait(self, context):
        await asyncio.Event().wait()


async def main(*others):
    hangs = Hangs()
    async with Service(hangs, *others):  # a signal that comes before it is entered is another story
        while not hangs.begun:
            await asyncio.sleep(0)
        say("ready")
        await asyncio.Event().wait()
"""

SECOND_WHILE_IT_WAITS = """
note_stop = Hangs.note_stop


# Said when nothing is left to do but to wait: what the signal interrupts is the loop itself.
Hangs.note_stop = lambda *args: asyncio.get_running_loop().call_later(0.05, note_stop, *args)
"""


@EACH_LOOP
def test_ctrl_c_without_run(child: Any, loop: str) -> None:
    """Where `asyncio.run` handles SIGINT itself, the first one drains too, and the second is quick and clean."""
    started = child(FOREIGN + SECOND_WHILE_IT_WAITS + loop)
    started.wait_for("ready")
    started.send(signal.SIGINT)
    started.wait_for("stopping")
    started.send(signal.SIGINT)
    said, code, stderr = started.end()
    assert (said, code) == (["cancelled", "cleaned"], -signal.SIGINT)
    assert_no_complaint(stderr)


SECOND_INSIDE = """
signal.setitimer(signal.ITIMER_REAL, 20)  # ends it before the 30 s of a drain are over
interrupted = []


def interrupt():
    if not interrupted:
        interrupted.append(True)
        os.kill(os.getpid(), signal.SIGINT)


def in_listener(self, event):
    self.stopping.set()
    interrupt()


async def in_run(self, context):
    await self.stopping.wait()
    interrupt()


async def in_cleanup(self):
    say("cleaned")
    interrupt()


async def hang(self):
    await asyncio.Event().wait()


def in_log(logger, method, event):
    if event["event"] == "service.stopping":
        interrupt()
    raise structlog.DropEvent


class Other(Manager):
    @periodic_task(spacing=1000, run_immediately=True)
    async def work(self, context):
        await asyncio.Event().wait()


main = functools.partial(main, Other())
"""

PLACES = {
    "a listener": ("Hangs.note_stop = in_listener", ["cancelled", "cleaned"]),
    "a run": ("Hangs.wait = in_run", ["stopping", "cancelled", "cleaned"]),
    "a log processor": ("structlog.configure(processors=[in_log])", ["cancelled", "cleaned"]),
    "a hook": (
        "Other.cleanup_host = in_cleanup; Hangs.cleanup_host = hang; os.environ['ASYNCMGR_DRAIN_TIMEOUT'] = '0'",
        ["stopping", "cancelled", "cleaned"],
    ),
}


@EACH_LOOP
@pytest.mark.parametrize("place", PLACES)
def test_the_second_ctrl_c_may_come_anywhere(child: Any, loop: str, place: str) -> None:
    """It ends what it interrupts, and is not lost there: runs do not get their 30 s, nor hooks all their time."""
    change, expected = PLACES[place]
    started = child(FOREIGN + SECOND_INSIDE + change + "\n" + loop)
    started.wait_for("ready")
    started.send(signal.SIGINT)
    said, code, stderr = started.end()
    assert (said, code) == (expected, -signal.SIGINT)
    assert_no_complaint(stderr)


LEFT = """
async def main():
    await Service(Volumes()).start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    say("left")
"""


@EACH_LOOP
def test_a_loop_that_ends_before_the_service(child: Any, loop: str) -> None:
    """Where nobody stops the service, the end of the loop does, without a complaint on stderr."""
    said, code, stderr = child(LEFT + loop).end()
    assert (said[-2:], code) == (["stopping", "cleaned"], 0)
    assert_no_complaint(stderr)


# Without a child


def test_an_interrupt_between_two_steps(caplog: pytest.LogCaptureFixture, logs: list[Any]) -> None:
    """It leaves the loop, as any does; the steps that are left are taken, and asyncio has nothing to complain of."""
    undone: list[str] = []

    async def undo(name: str) -> None:
        undone.append(name)

    class Back:
        """The steps back of a life, with a Ctrl-C at a bad moment."""

        def __init__(self) -> None:
            self._steps = iter("abc")

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> tuple[str, Any]:
            if undone == ["a"]:
                undone.append("interrupt")
                raise KeyboardInterrupt
            name = next(self._steps)
            return name, functools.partial(undo, name)

    lives: list[Life] = []

    async def live() -> None:
        lives.append(
            Life(
                lambda life: life.step("there", hang),
                functools.partial(next, Back(), None),
                name="s",
                context=contextvars.copy_context(),
            )
        )
        await asyncio.sleep(0)
        lives[0].ask(1)
        await lives[0].wait_out()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(live())
    assert undone == ["a", "interrupt", "b", "c"]
    assert isinstance(lives.pop().error, KeyboardInterrupt)
    assert [line["step"] for line in logs] == ["between steps"]
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def hang() -> None:
    await asyncio.Event().wait()


class Hanging(Manager):
    """Has a run in progress and a `cleanup_host` that hang; a signal comes at each of these seconds."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.ended: list[tuple[str, float]] = []
        for second in seconds:
            asyncio.get_running_loop().call_at(second, signal.raise_signal, signal.SIGINT)

    @periodic_task(spacing=1000, run_immediately=True)
    async def hold(self, context: RunContext) -> None:
        await self._hang("run")

    async def cleanup_host(self) -> None:
        await self._hang("cleanup")

    async def _hang(self, what: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append((what, asyncio.get_running_loop().time()))


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("seconds", "ended"),
    [
        ((5, 10), [("run", 10), ("cleanup", 11)]),
        ((5, 10, 10.5, 10.9), [("run", 10), ("cleanup", 11)]),
        ((5, 100), [("run", 35), ("cleanup", 101)]),
        ((5, 35.5), [("run", 35), ("cleanup", 36.5)]),
    ],
)
async def test_how_long_signals_let_live(seconds: tuple[float, ...], ended: list[Any]) -> None:
    """After the first signal runs have 30 s, after the second `cleanup_host` has one; a third changes nothing."""
    hanging = Hanging(*seconds)
    with pytest.raises(KeyboardInterrupt):
        await asyncmgr.run(hanging)
    assert [what for what, _ in hanging.ended] == [what for what, _ in ended]
    assert [at for _, at in hanging.ended] == pytest.approx([at for _, at in ended], abs=0.01)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("numbers", "ended"),
    [
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGHUP], 35),
        ([signal.SIGTERM, signal.SIGHUP], 35),
        ([signal.SIGHUP, signal.SIGTERM], 35),
        ([signal.SIGHUP, signal.SIGTERM, signal.SIGINT], 7),
    ],
)
async def test_hangups_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, numbers: list[signal.Signals], ended: float
) -> None:
    """A closed window sends one from the shell and one from the kernel: only SIGTERM and SIGINT cancel, the second."""
    monkeypatch.setattr(asyncmgr._service.signals, "has_terminal", lambda: True)
    hanging = Hanging()
    loop = asyncio.get_running_loop()
    for second, number in enumerate(numbers, start=5):
        loop.call_at(second, signal.raise_signal, number)
    loop.call_at(100, lambda: signal.raise_signal(signal.SIGTERM))
    loop.call_at(101, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        await asyncmgr.run(hanging)
    what, at = hanging.ended[0]
    assert (what, round(at, 1)) == ("run", ended)


@pytest.mark.virtual_time
async def test_the_first_signal_after_a_stop_hurries_nothing() -> None:
    """A signal while the service stops already is the first one, and only asks for what happens anyway."""

    class Slow(Hanging):
        async def cleanup_host(self) -> None:
            await asyncio.sleep(20)

    slow = Slow(15)
    service = Service(slow)
    asyncio.get_running_loop().call_at(10, service.request_stop)
    assert (await asyncmgr.run(service)).cancelled == ("Slow.hold",)
    assert asyncio.get_running_loop().time() == pytest.approx(60, abs=0.01)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]


async def stopped_soon(service: Service, seen: list[Any]) -> StopReport:
    """Run a service that is stopped at once, and note the handlers in between."""

    async def stop() -> None:
        await asyncio.sleep(0)
        seen.append(handlers())
        service.request_stop()

    _, report = await asyncio.gather(stop(), asyncmgr.run(service))
    return report


def test_not_in_the_main_thread(logs: list[Any]) -> None:
    """In another thread no handler is set, and one log line says so."""
    before, seen = handlers(), list[Any]()
    thread = threading.Thread(
        target=lambda: asyncio.run(stopped_soon(Service(Bare(), settings=Settings()), seen))
    )
    thread.start()
    thread.join()
    assert seen == [before]
    (line,) = [entry for entry in logs if entry["event"] == "signal.left"]
    assert "not the main thread" in line["reason"]


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (lambda *args: None, "the application handles it"),
        (signal.SIG_IGN, "the process was told to ignore it, as by nohup or by a shell's &"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_left_are_logged(
    logs: list[Any], number: signal.Signals, handler: Any, reason: str
) -> None:
    """One line for each signal that is left, with the reason; the others are handled."""
    signal.signal(number, handler)
    before, seen = handlers(), list[Any]()
    asyncio.run(stopped_soon(Service(Bare(), settings=Settings()), seen))
    (line,) = [entry for entry in logs if entry["event"] == "signal.left"]
    assert line["signal"] == number.name
    assert line["reason"].startswith(reason)
    (during,) = seen
    assert [was is now for was, now in zip(before, during, strict=True)] == [
        each == number for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ]


def test_a_loop_without_signal_handlers(logs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the service runs, and the log says what does not work."""

    def refuse(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", refuse)
    seen: list[Any] = []
    assert asyncio.run(stopped_soon(Service(Bare(), settings=Settings()), seen)).drained == ()
    assert len([entry for entry in logs if entry["event"] == "signal.left"]) == 3


def test_a_handler_that_the_application_sets_meanwhile_stays() -> None:
    """Only what is still ours is put back."""

    def theirs(*args: object) -> None: ...

    async def main() -> None:
        with Handlers().installed_for(Interrupts(Service(Bare(), settings=Settings()))):
            signal.signal(signal.SIGTERM, theirs)

    try:
        asyncio.run(main())
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.virtual_time
async def test_a_signal_is_for_all_that_runs_in_the_foreground() -> None:
    """Two services that run side by side both stop, and the handlers are put back when the last one has."""
    before = handlers()
    services = [Service(Slow(), settings=Settings()) for Slow in (Napping, LongerNapping)]
    running = [asyncio.create_task(asyncmgr.run(service)) for service in services]
    await asyncio.sleep(1)
    signal.raise_signal(signal.SIGINT)
    await asyncio.sleep(15)
    assert [service.state for service in services] == [State.STOPPED, State.STOPPING]
    assert handlers() != before
    assert [(await run).drained for run in running] == [(), ()]
    assert handlers() == before


class Napping(Manager):
    seconds = 10

    async def cleanup_host(self) -> None:
        await asyncio.sleep(self.seconds)


class LongerNapping(Napping):
    seconds = 20


@pytest.mark.virtual_time
async def test_run_takes_managers_or_a_service() -> None:
    """Managers with the service's arguments, or a service alone: what it has already is refused, not ignored."""

    class Stops(Manager):
        async def post_start_hook(self) -> None:
            assert self.service is not None
            seen.append((self.service.name, self.service.host, self.service.settings))
            self.service.request_stop()

    seen: list[Any] = []
    settings = Settings(seed=3)
    assert await asyncmgr.run(Stops(), name="n", host="h", settings=settings) == StopReport()
    assert seen == [("n", "h", settings)]
    with pytest.raises(AsyncmgrError, match="which has its name already; leave name= out"):
        await asyncmgr.run(Service(Bare()), name="n")
    with pytest.raises(AsyncmgrError, match="is no Manager"):
        await asyncmgr.run(Service(Bare()), Service(Bare()))


@pytest.mark.virtual_time
async def test_run_of_a_service_that_was_stopped_before() -> None:
    """There is nothing to run, and that is no error: who stops it need not know whether `run` has begun."""
    service = Service(Bare())
    await service.stop()
    assert await asyncmgr.run(service) == StopReport()


@pytest.mark.virtual_time
async def test_run_raises_what_the_start_raises() -> None:
    """A failing start leaves `run`, and the handlers are put back."""
    before = handlers()

    class Fails(Manager):
        async def init_host(self) -> None:
            assert handlers() != before
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        await asyncmgr.run(Fails())
    assert handlers() == before
