"""``asyncmgr demo``: hosts, a placement service and a real NATS server on this machine, shown live."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import signal
import sys
import textwrap
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from asyncmgr._cli import options
from asyncmgr._cli.demo.processes import Processes
from asyncmgr._cli.demo.story import KILL_AFTER, SHARES, Scene, Story
from asyncmgr._cli.error_text import in_words
from asyncmgr._cli.exit import run_to_the_end
from asyncmgr._cli.logs import configure
from asyncmgr._cli.output import discard_stdout, rich_table, room_for_last, shortened
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr.errors import AsyncmgrError

if TYPE_CHECKING:
    from rich.console import RenderableType

_NEEDED = ("psutil", "rich", "starlette", "uvicorn")
_KEPT = 8
"""Lines of each kind that a high screen shows."""
_OTHER_LINES = 16
"""Lines of the screen beside those."""
_WORD_WIDTH = 8
_BAR = 24
"""Columns of the longest bar on a wide terminal."""
_SHORTEST_BAR = 8
_REDRAW = 0.25
_READABLE = 78
"""Columns of an explanation, which is wrapped."""
_HEADERS = ("host", "process", "state", "age", "reserved", "free MiB", "")
_LESS_NEEDED = ("process", "age")
"""Columns that a narrow terminal leaves out."""


@click.command("demo", epilog=options.examples("asyncmgr demo", "asyncmgr demo --plain --seconds 40"))
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    metavar="N",
    help="End by itself.  [default: go on until Ctrl-C]",
)
@click.option(
    "--kill-after",
    type=click.FloatRange(min=0),
    metavar="N",
    default=KILL_AFTER,
    show_default=True,
    help="Seconds until the first host is killed.",
)
@click.option("--plain", is_flag=True, help="Write lines also on a terminal.")
def demo(*, seconds: float | None, kill_after: float, plain: bool) -> None:
    """Show on this machine how hosts share jobs out and call each other, and what happens when one dies.

    Starts a real NATS server, which only this machine reaches, and four services in processes of their own: three
    hosts, and one that places memory on the host with the most of it, by two calls each 3 s (each host has a
    simulated share of this machine's free memory; none is really taken). The hosts share four jobs out, each of which
    only one host runs: one is well, one fails, one hangs, one blocks the event loop. What 'asyncmgr explain' says of
    each is shown with the command. A page shows it all in your browser; the link with its token is printed once.

    After twenty seconds the host that sends the reports is killed: another takes its jobs over some five seconds
    later. Its announcement goes stale after 3 s, is gone after 6 s, and the host is started again. Then the next one.

    A terminal shows tables that change, a pipe a line for each thing that happens. Ctrl-C ends all of it and leaves
    no process and no file behind. Nothing of your own settings is read. Needs 'asyncmgr[demo]'.
    """
    _check_extra()
    configure("error", "console", sys.stderr)
    live = not plain and sys.stdout.isatty()
    raise click.exceptions.Exit(
        run_to_the_end(functools.partial(_demonstrate, seconds, kill_after, live), _explain)
    )


def _check_extra() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"the demonstration needs {', '.join(missing)}; pip install 'asyncmgr[demo]'"
        )


def _explain(error: AsyncmgrError) -> None:
    click.ClickException(in_words(error)).show()


async def _demonstrate(seconds: float | None, kill_after: float, live: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows; Ctrl-C cancels there
            loop.add_signal_handler(number, stop.set)
    scene = Scene()
    show = _Screen(scene) if live else _Lines(stop)
    with Processes() as processes:
        story = Story(scene, processes, show.tell, show.quote, kill_after=kill_after)
        with show:
            await _play([story.play(), show.draw()], stop, seconds)
        click.echo("ending the processes", err=True)


async def _play(
    acts: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event, seconds: float | None
) -> None:
    """Play until the stop, the end of the time, or the first act that fails."""
    playing = [asyncio.create_task(act) for act in acts]
    tasks = {*playing, asyncio.create_task(stop.wait())}
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


def _now() -> str:
    return to_datetime(read_wall()).astimezone().strftime("%H:%M:%S")


def _quoted(command: str, answer: str) -> str:
    """Write a command and its answer as in a shell."""
    wrapped = (textwrap.wrap(line, _READABLE - 2) for line in answer.splitlines())
    lines = [f"$ {command}", *(part for parts in wrapped for part in parts)]
    return "\n".join(("", *(f"  {line}" for line in lines), ""))


class _Lines:
    """Writes a line for each thing that happens."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        """Do nothing: there is no picture to keep."""

    def __exit__(self, *_: object) -> None:
        """Do nothing either."""

    def tell(self, word: str, sentence: str) -> None:
        try:
            click.echo(f"{_now()}  {word:<{_WORD_WIDTH}}  {sentence}")
        except BrokenPipeError:
            discard_stdout()
            self._stop.set()

    def quote(self, command: str, answer: str) -> None:
        try:
            click.echo(_quoted(command, answer))
        except BrokenPipeError:
            discard_stdout()
            self._stop.set()

    async def draw(self) -> None:
        await asyncio.Event().wait()


class _Screen:
    """Draws one picture that changes."""

    def __init__(self, scene: Scene) -> None:
        from rich.live import Live  # imported here: only the demonstration needs it

        self._scene = scene
        self._picks: deque[str] = deque(maxlen=_KEPT)
        self._events: deque[str] = deque(maxlen=_KEPT)
        self._live = Live(auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tell(self, word: str, sentence: str) -> None:
        if word == "page":  # printed once, above the picture: not cut, and easy to click
            self._print(f"\n  The page: {sentence}\n")
        elif word == "pick":
            self._picks.append(f"{_now()}  {sentence}")
        else:
            self._events.append(f"{_now()}  {word:<{_WORD_WIDTH}}  {sentence}")

    def quote(self, command: str, answer: str) -> None:
        self._print(_quoted(command, answer))

    def _print(self, text: str) -> None:
        """Print above the picture, where it stays."""
        from rich.text import Text

        self._live.console.print(Text(text), soft_wrap=True)

    async def draw(self) -> None:
        while True:
            self._live.update(self._picture(), refresh=True)
            await asyncio.sleep(_REDRAW)

    def _picture(self) -> RenderableType:
        from rich.console import Group

        kept = min(_KEPT, max(2, (shutil.get_terminal_size().lines - _OTHER_LINES) // 2))
        picks, events = [*self._picks][-kept:], [*self._events][-kept:]
        return Group(
            *_lines(f"Three hosts, one placement service, {self._scene.url or 'a NATS server'}"),
            *_lines("Memory is simulated: shares of this machine's free memory.", "", style="dim"),
            rich_table(*_fitted([self._row(host) for host in SHARES])),
            *_lines("", "Picks: placement.pick(), and from there compute.reserve()", style="bold"),
            *_lines(*picks or ["waiting for the hosts"]),
            *_lines("", "What happened", style="bold"),
            *_lines(*events),
            *_lines("", "Ctrl-C ends all of it", style="dim"),
        )

    def _row(self, host: str) -> Row:
        """Make the row of a host. Its last item compares the host's free memory with the most, from 0 to 1."""
        pid = self._scene.pids.get(host)
        process = "killed" if pid is None else str(pid)
        states = self._scene.states
        if host not in states:
            return host, process, "gone" if pid is None else "starting", "", "", "", 0.0
        offered = states[host].capabilities
        free, reserved = int(offered.get("memory_free_mib", 0)), int(offered.get("memory_reserved_mib", 0))
        most = max(int(state.capabilities.get("memory_free_mib", 0)) for state in states.values())
        age = f"{states[host].age:.0f}s"
        return host, process, states[host].state, age, f"{reserved:>8,}", f"{free:>8,}", free / max(1, most)


Row: TypeAlias = tuple[str, str, str, str, str, str, float]


def _fitted(rows: Sequence[Row]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return headers and rows with their bars, as wide as the terminal allows."""
    width = shutil.get_terminal_size().columns
    headers: Sequence[str] = _HEADERS
    cells: list[Sequence[str]] = [(*row[:-1], "") for row in rows]
    if room_for_last(headers, cells, width) < _SHORTEST_BAR:
        kept = [number for number, header in enumerate(headers) if header not in _LESS_NEEDED]
        headers = [headers[number] for number in kept]
        cells = [[row[number] for number in kept] for row in cells]
    longest = max(0, min(_BAR, room_for_last(headers, cells, width)))
    return headers, [
        [*cell[:-1], "█" * round(longest * row[-1])] for cell, row in zip(cells, rows, strict=True)
    ]


def _lines(*lines: str, style: str = "") -> Iterator[RenderableType]:
    """Cut lines instead of wrapping them, so that the picture keeps its height."""
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    return (Text(shortened(line, width), style) for line in lines)
