"""Ends the process: runs one service in a loop of its own, and leaves even if a task or a thread does not end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any

import click

from asyncmgr._cli.error_text import without_our_frames
from asyncmgr._cli.output import lines_of
from asyncmgr._common.log import log
from asyncmgr.errors import AsyncmgrError

EXIT_GRACE = 5.0
"""Seconds that tasks and threads get to end after the service; then the process leaves without them."""


class ExitCode(IntEnum):
    """How a command ended, for the shell."""

    OK = 0
    """It did what it was asked to. A service stopped in order."""
    FAILED = 1
    """It failed, or something is wrong: the target or a setting, a service that does not answer, a run that failed."""
    USAGE = 2
    """It was called wrongly, or did not say which of several services is meant."""
    UNHEALTHY = 3
    """A service needs somebody (`health`), or does not answer: its event loop is blocked, or it was stopped."""
    INTERRUPTED = 130
    """Ctrl-C, as shells write it: 128 + SIGINT. Of `run`: a second signal, which cancels what still runs."""


INTERRUPTED = ExitCode.INTERRUPTED


def run_to_the_end(
    main: Callable[[], Coroutine[Any, Any, object]], explain: Callable[[AsyncmgrError], None]
) -> int:
    """Run `main` until it ends, and return the exit code. `explain` shows errors that asyncmgr raises on purpose."""
    runner = asyncio.Runner()
    code = 1
    try:
        code = _exit_code(runner, main, explain)
    finally:
        guard = leave_within(1.0 if code == INTERRUPTED else EXIT_GRACE, code, runner.get_loop())
        runner.close()
        guard.cancel()
    return code


def _exit_code(
    runner: asyncio.Runner,
    main: Callable[[], Coroutine[Any, Any, object]],
    explain: Callable[[AsyncmgrError], None],
) -> int:
    try:
        runner.run(main())
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as exc:
        if isinstance(exc.code, str):
            click.echo(lines_of(exc.code), err=True)
        return code_of(exc)
    except AsyncmgrError as exc:
        explain(exc)
        return 1
    except Exception as exc:
        log.critical("service.failed", exc_info=without_our_frames(exc))
        return 1
    return 0


def code_of(exc: SystemExit) -> int:
    """Return the exit code that Python would use for this exception."""
    return (exc.code or 0) if exc.code is None or isinstance(exc.code, int) else 1


def threads_left() -> list[str]:
    """Names of the threads that Python waits for at its end."""
    threads = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return [thread.name for thread in threads if not thread.daemon]


def leave_within(seconds: float, code: int, loop: asyncio.AbstractEventLoop | None = None) -> threading.Timer:
    """End the process after this many seconds, unless it has ended or the returned timer was cancelled."""
    timer = threading.Timer(seconds, _leave, (code, loop))
    timer.daemon = True
    timer.start()
    return timer


def _leave(code: int, loop: asyncio.AbstractEventLoop | None) -> None:
    tasks = asyncio.all_tasks(loop) if loop is not None else set()
    log.critical(
        "process.abandoned", tasks=[task.get_name() for task in tasks], threads=threads_left(), code=code
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
