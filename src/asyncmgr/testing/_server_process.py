"""What servers that tests start have in common: one process, with files in a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

ENDS_WITHIN = 20.0
"""Seconds after which a server that was told to end is killed."""


class ServerProcess:
    """One process of a server. Needs no event loop: its methods block while the process starts or ends."""

    _name: str
    """In the name of its directory."""

    port: int = 0
    """Chosen at the first start, and kept."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def _home(self) -> Path:
        """Its directory."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"asyncmgr-{self._name}-"))
        return self._directory

    @property
    def log(self) -> str:
        """The log of the server so far."""
        file = self._home / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Start the server if it does not run, and return when it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the server in order, and remove its files."""
        self._end(signal.SIGTERM)
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End the server at once, as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers, until `resume`. Not on Windows."""
        if self._process and not self._paused:
            self._paused = True
            self._process.send_signal(signal.SIGSTOP)
            # Wait for the stop: else it answers for a moment more.
            os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let the process run again after `pause`."""
        if self._process and self._paused:
            self._paused = False
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self.resume()  # a paused process would not see the signal
        process, self._process = self._process, None
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._ended(process.pid)

    def _ended(self, pid: int) -> None:
        """Called when the process has ended."""
