"""Starts and ends the processes of the demonstration. Each ends with its standard input, so none outlives this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile

from asyncmgr.errors import AsyncmgrError

ENDS_WITHIN = 20.0
"""Seconds that a process gets to end in order."""

_LOG_SHOWN = 1500
_SERVER = "server"
_MANAGERS = "asyncmgr._cli.demo.managers"


class DemoFailed(AsyncmgrError):
    """A process of the demonstration did not start, or ended by itself; the text has the end of its log."""


def own_environment() -> dict[str, str]:
    """Return the environment without the user's settings, which are for other services."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ASYNCMGR_")}


class Processes:
    """Starts and kills the processes. A context manager: when it ends, no process is left."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as this object
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        hosts = [name for name in self._running if name != _SERVER]
        for names in (hosts, [*self._running]):  # the server ends last, so that the hosts can say goodbye
            for name in names:
                self._let_end(name)
            for name in names:
                self._end(name)
        self._log.close()

    async def start_server(self) -> str:
        """Start the NATS server, and return its URL."""
        process = self._start(_SERVER, [sys.executable, "-P", "-m", "asyncmgr._cli.demo.server"], {})
        assert process.stdout is not None
        url = (await asyncio.to_thread(process.stdout.readline)).decode().strip()
        if not url:
            process.wait(ENDS_WITHIN)
            self.check()
        return url

    def start(self, name: str, url: str, *targets: str, **variables: str) -> int:
        """Run these targets as the host of this name. Returns the process id."""
        command = [sys.executable, "-P", "-m", "asyncmgr", "run", "--host", name, "--transport", url]
        command += ["--log-format", "console", *targets, f"{_MANAGERS}:EndsWithParent"]
        return self._start(name, command, variables).pid

    def kill(self, name: str) -> None:
        """Kill a host as ``kill -9`` does, so that it cannot say goodbye."""
        process = self._running.pop(name)
        process.kill()
        _forget(process)

    def check(self) -> None:
        """Raise `DemoFailed` if a process has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoFailed(
                    f"{name} ended with code {process.returncode}; its log ends with:\n{self._told()}"
                )

    def _start(self, name: str, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        # In a session of its own: Ctrl-C reaches only the demonstration.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if name == _SERVER else subprocess.DEVNULL,
            stderr=self._log,
            env=own_environment() | variables,
            cwd=sys.prefix,
            start_new_session=True,
        )
        self._running[name] = process
        return process

    def _let_end(self, name: str) -> None:
        if (process := self._running.get(name)) and process.stdin:
            process.stdin.close()

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
        _forget(process)

    def _told(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-_LOG_SHOWN:].strip() or "(nothing)"


def _forget(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
