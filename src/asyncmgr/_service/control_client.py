"""Finds the control sockets of this user's services on this machine, and asks at one. Blocking; for command lines."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncmgr._service.control_paths import LONGEST_PATH, sockets
from asyncmgr._service.control_socket import is_taken, why_unavailable
from asyncmgr.errors import ControlUnavailable

ANSWER_WITHIN = 10.0
"""Seconds that a service gets for an answer; one that does not keep them has a blocked event loop."""

LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Found:
    """A running service, as it describes itself."""

    path: Path
    service: str
    host: str
    pid: int
    facts: dict[str, Any]


def ask(path: Path, request: dict[str, Any], *, timeout: float | None = ANSWER_WITHIN) -> dict[str, Any]:
    """Send one request and return the answer.

    Parameters
    ----------
    timeout
        Seconds to wait for each part of the answer; `None` = for ever, as for the end of a run.

    Raises
    ------
    ControlUnavailable
        Nobody listens there, no answer came in time, or what came is no answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_WITHIN)
            connection.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # it has said already why it does not listen
                connection.sendall(json.dumps(request).encode("ascii") + b"\n")
            connection.settimeout(timeout)
            line = _read_line(connection)
    except TimeoutError:
        raise ControlUnavailable(
            f"{path.name} does not answer: the service's event loop is blocked, or its process is stopped"
        ) from None
    except OSError as exc:
        raise ControlUnavailable(f"{path} cannot be reached: {exc.strerror or exc}") from exc
    try:
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise ControlUnavailable(f"{path} sends no answer that this version can read") from None
    return answer


def _read_line(connection: socket.socket) -> bytes:
    parts, size = [], 0
    while part := connection.recv(1 << 16):
        parts.append(part)
        size += len(part)
        if part.endswith(b"\n") or size > LONGEST_ANSWER:
            break
    return b"".join(parts)


def find(*, timeout: float = ANSWER_WITHIN) -> Iterator[Found | ControlUnavailable]:
    """Ask all services of this user on this machine who they are; one that does not answer gives the error.

    Raises
    ------
    ControlUnavailable
        This platform has no control sockets.
    """
    reason = why_unavailable()
    if reason is not None:
        raise ControlUnavailable(f"{reason}: services are reached by --transport only")
    for path in sockets(os.environ, os.geteuid()):
        if len(os.fsencode(path)) > LONGEST_PATH or not is_taken(path):
            continue
        try:
            facts = ask(path, {"verb": "hello"}, timeout=timeout)
            yield Found(path, str(facts["service"]), str(facts["host"]), int(facts["pid"]), facts)
        except ControlUnavailable as exc:
            yield exc
        except (KeyError, TypeError, ValueError):
            yield ControlUnavailable(f"{path} sends no answer that this version can read")
