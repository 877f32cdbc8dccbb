"""The command line in this process: what it changes of the process is put back."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
import structlog
from click.testing import CliRunner, Result

from asyncmgr import Manager, Service, Settings, open_transport
from asyncmgr._cli import command
from asyncmgr.testing.nats import NatsServer

TARGETS = str(Path(__file__).parent / "targets.py")

T = TypeVar("T")
Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty directory, in UTC, without settings; leave no module and no logging behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    others = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCMGR_")}
    with mock.patch.dict(os.environ, others | {"TZ": "UTC", "COLUMNS": "80"}, clear=True), _logging_kept():
        set_zone()
        with mock.patch.dict(sys.modules):
            yield
    set_zone()


def set_zone(name: str | None = None) -> None:
    """Make this the machine's time zone, or that of the environment; Windows has no such call."""
    if name is not None:
        os.environ["TZ"] = name
    if hasattr(time, "tzset"):
        time.tzset()


@pytest.fixture
def invoke() -> Invoke:
    """Give a function that runs ``asyncmgr`` with these words; ``"@Name"`` stands for that sample target."""

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(command, [target(word) for word in words], prog_name="asyncmgr")

    return invoke


def target(word: str) -> str:
    """Write out ``@Name``."""
    return f"{TARGETS}:{word[1:]}" if word.startswith("@") else word


class _logging_kept:  # noqa: N801 - used as a function
    def __enter__(self) -> None:
        root = logging.getLogger()
        self._handlers, self._level = [*root.handlers], root.level

    def __exit__(self, *_: object) -> None:
        structlog.reset_defaults()
        logging.captureWarnings(False)
        root = logging.getLogger()
        root.handlers[:] = self._handlers
        root.setLevel(self._level)
        logging.getLogger("asyncio").setLevel(logging.NOTSET)


# Services elsewhere


class Elsewhere:
    """Services in a thread of their own, as other processes would have them, at a real server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._services: list[Service] = []
        self._answering: list[asyncio.Task[None]] = []

    def start(self, *managers: Manager, host: str, **settings: Any) -> Service:
        """Start a service with these managers; returns once it is announced."""
        settings = {"transport": self.url, **settings}
        service = Service(*managers, host=host, settings=Settings(**settings))
        self.run(service.start())
        self._services.append(service)
        return service

    def stop(self, service: Service) -> None:
        self._services.remove(service)
        self.run(service.stop())

    def answer(self, service: str, result: Any) -> None:
        """Be a program of somebody else's that answers every call of this service so."""
        self.run(self._begin_to_answer(service, json.dumps({"v": 1, "result": result}).encode()))

    async def _begin_to_answer(self, service: str, reply: bytes) -> None:
        ready = asyncio.Event()
        self._answering.append(asyncio.create_task(self._answer(service, reply, ready)))
        await ready.wait()

    async def _answer(self, service: str, reply: bytes, ready: asyncio.Event) -> None:
        async with (
            open_transport(self.url, Settings()) as transport,
            transport.subscribe(f"asyncmgr.rpc.{service}.any") as requests,
        ):
            ready.set()
            async for request in requests:
                assert request.reply_to is not None
                await transport.publish(request.reply_to, reply)

    async def _end_answering(self) -> None:
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def close(self) -> None:
        for service in tuple(self._services):
            self.stop(service)
        self.run(self._end_answering())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def elsewhere(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    """A place to start services in, which the command line reaches by its settings."""
    monkeypatch.setenv("ASYNCMGR_TRANSPORT", nats_server.url)
    place = Elsewhere(nats_server.url)
    yield place
    place.close()
