"""Walks the places where objects of an application are shown: none of them ends anything by what it raises then."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from unittest import mock

import pytest
import structlog

from asyncmgr import Manager, Outcome, RemoteError, RpcClient, Service, Settings, open_transport, rpc
from asyncmgr._cli.error_text import in_short, in_words
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import type_name
from asyncmgr._service.plugins import Plugin
from asyncmgr.capabilities import HostState
from asyncmgr.capabilities._selection import _weigh
from asyncmgr.events import Event, RunFinished, SettingsReloaded
from asyncmgr.transports._retries import Retries
from tests.helpers import Recorded, log_processors, task
from tests.unshowable import Anonymous, Secretive, Unshowable

T = TypeVar("T")


virtual_time = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


def annotated(error: Exception) -> Exception:
    """Give it notes that cannot be shown."""
    error.add_note("said by the application")
    error.__notes__.append(Unshowable())  # type: ignore[arg-type]
    return error


ERRORS: dict[str, Callable[[], Exception]] = {
    "its text raises": lambda: ValueError(Unshowable()),
    "its notes raise": lambda: Secretive("wrong row"),
    "a note raises": lambda: annotated(ValueError("wrong row")),
    "its class has no name": lambda: Anonymous("wrong row"),
    "in a group": lambda: ExceptionGroup("several", [ValueError(Unshowable()), Secretive("wrong row")]),
}


@pytest.fixture(params=ERRORS.values(), ids=list(ERRORS))
def make(request: pytest.FixtureRequest) -> Callable[[], Exception]:
    """Make one of the errors that resist being shown."""
    given: Callable[[], Exception] = request.param
    return given


@pytest.fixture(autouse=True, params=["logging", "structlog"])
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What a log of each kind wrote, in which errors are formatted."""
    stream = io.StringIO()
    structlog.reset_defaults()
    handler = logging.StreamHandler(stream)
    logging.getLogger("asyncmgr").addHandler(handler)
    if request.param == "structlog":
        structlog.configure(
            processors=[
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=repr),
            ],
            logger_factory=structlog.WriteLoggerFactory(stream),
        )
    yield stream
    structlog.reset_defaults()
    logging.getLogger("asyncmgr").removeHandler(handler)


async def is_well(recorded: Recorded) -> bool:
    """Whether health answers and the task beside the broken part still runs each second."""
    before = len([run for run in recorded.of(RunFinished) if run.task == "M.well"])
    await asyncio.sleep(5.5)
    after = len([run for run in recorded.of(RunFinished) if run.task == "M.well"])
    return after - before >= 5 and recorded.service.health.ok


async def well(context: Any) -> None:
    """Run beside what is broken."""


WELL = task(well, spacing=1, name="well")


@virtual_time
async def test_a_task(make: Callable[[], Exception], written: io.StringIO) -> None:
    """Its first failure, its reminders, its recovery and the record of each run."""
    fails = True

    async def broken(context: Any) -> None:
        if fails:
            raise make()

    recorded = Recorded(task(broken, spacing=1, name="broken"), WELL)
    async with recorded.service:
        await asyncio.sleep(8.5)
        fails = False
        assert await is_well(recorded)
    assert [repr(run) for run in recorded.of(RunFinished)]
    assert sum(run.outcome is Outcome.FAILED for run in recorded.of(RunFinished)) == 8
    text = written.getvalue()
    assert (text.count("task.failed"), text.count("task.still_failing")) == (1, 3)
    assert "in broken" in text  # of the traceback


@virtual_time
async def test_a_listener(make: Callable[[], Exception], written: io.StringIO) -> None:
    """Neither what it raises nor the object that it belongs to can be shown."""

    class Owner(Unshowable):
        def hear(self, event: Event) -> None:
            raise make()

    recorded = Recorded(WELL)
    recorded.service.add_listener(Owner().hear)
    async with recorded.service:
        assert await is_well(recorded)
    assert "Owner.hear" in written.getvalue()
    assert "in hear" in written.getvalue()


class Broken(Manager):
    """A manager that cannot be shown, of whose hooks one raises."""

    name = "B"

    def __init__(self, hook: str, make: Callable[[], Exception]) -> None:
        super().__init__()

        async def broken() -> None:
            raise make()

        setattr(self, hook, broken)

    def __repr__(self) -> str:
        raise RuntimeError("detached")


@pytest.mark.parametrize("hook", ["init_host", "pre_start_hook", "post_start_hook"])
@virtual_time
async def test_a_hook_of_the_start(hook: str, make: Callable[[], Exception]) -> None:
    """The start raises it as it is."""
    service = Service(Broken(hook, make), settings=Settings(seed=1))
    with pytest.raises(type(make())):
        await service.start()


@virtual_time
async def test_a_hook_of_the_end(make: Callable[[], Exception], written: io.StringIO) -> None:
    """The stop goes on to its end."""
    service = Service(Broken("cleanup_host", make), settings=Settings(seed=1))
    async with service:
        pass
    assert service.health.reason
    assert "service.step_failed" in written.getvalue()


@virtual_time
async def test_a_reload(make: Callable[[], Exception], written: io.StringIO) -> None:
    """It is logged, and the other managers are asked."""
    recorded = Recorded(WELL)
    recorded.service.add_manager(Broken("reload", make))
    async with recorded.service:
        await recorded.service.reload()
        assert await is_well(recorded)
    assert recorded.of(SettingsReloaded)
    assert "reload.failed" in written.getvalue()


@virtual_time
async def test_a_plugin(
    make: Callable[[], Exception], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service starts without it."""

    def hook(service: Service) -> None:
        raise make()

    monkeypatch.setattr(
        "asyncmgr._service.plugins.load_plugins", lambda **_: [Plugin("broken", "a:b", hook, None)]
    )
    recorded = Recorded(WELL)
    async with recorded.service:
        assert await is_well(recorded)
    assert recorded.service.failed_plugins == ("broken",)
    assert "plugin.failed" in written.getvalue()


class Calls(Manager):
    service_name = "s"

    def __init__(self, make: Callable[[], Exception]) -> None:
        super().__init__()
        self._make = make

    @rpc
    async def broken(self) -> None:
        raise self._make()


@virtual_time
async def test_a_method_that_is_called(make: Callable[[], Exception], written: io.StringIO) -> None:
    """Its caller is told what can be, and the service goes on."""
    recorded = Recorded(WELL)
    recorded.service.add_manager(Calls(make))
    async with recorded.service:
        client = RpcClient(recorded.service.transport, "s")
        with pytest.raises(RemoteError) as caught:
            await client.call("broken")
        assert caught.value.type in ("ValueError", "Secretive", "Anonymous", "ExceptionGroup")
        assert await is_well(recorded)
    assert "call.failed" in written.getvalue()


@virtual_time
async def test_a_log_processor(make: Callable[[], Exception]) -> None:
    """Whatever it raises, it is not shown anywhere."""

    async def broken(context: Any) -> None:
        raise make()

    def processor(*_: Any) -> Any:
        raise make()

    recorded = Recorded(task(broken, spacing=1, name="broken"), WELL)
    with log_processors(processor):
        async with recorded.service:
            assert await is_well(recorded)


def test_a_line_of_json_is_whole(make: Callable[[], Exception], written: io.StringIO) -> None:
    """Each event is one line for programs."""
    log.warning("request.malformed", subject=Unshowable(), error=make())
    for line in written.getvalue().splitlines():
        assert not line.startswith("{") or json.loads(line)["event"] == "request.malformed"


# Of the parts that have their own texts


def unharmed(call: Callable[[], T]) -> T:
    """Call it; where it raises, fail without showing what: pytest cannot either."""
    try:
        return call()
    except BaseException as exc:
        raised = type_name(exc)
    raise AssertionError(f"it raised {raised}")


@virtual_time
async def test_a_service_that_ends() -> None:
    """What ended it is raised, and its health says so."""

    class Ending(SystemExit):
        def __repr__(self) -> str:
            raise RuntimeError("detached")

        __str__ = __repr__

    async def ends(context: Any) -> None:
        raise Ending(3)

    recorded = Recorded(task(ends, spacing=1, name="ends"))
    with pytest.raises(SystemExit):
        async with recorded.service:
            await recorded.service.wait()
    assert "Ending" in unharmed(lambda: recorded.service.health.reason)


@virtual_time
async def test_a_listener_of_a_transport(written: io.StringIO) -> None:
    """The connection is noted, and the other listeners are told."""

    class Owner(Unshowable):
        def hear(self, connected: bool) -> None:
            raise ValueError(self)

    heard: list[bool] = []
    async with open_transport("memory://") as transport:
        transport.add_state_listener(Owner().hear)
        transport.add_state_listener(heard.append)
        with transport.outage():  # type: ignore[attr-defined]
            pass
    assert heard[:2] == [False, True]
    assert "listener.failed" in written.getvalue()


def test_a_retry() -> None:
    """A transport of somebody's own may raise anything."""

    async def fail() -> None:
        for make in ERRORS.values():
            retries = Retries(mock.Mock(), "rpc.failed", "rpc.resumed", spread=random.Random(1))
            unharmed(lambda: retries.failed(make()))  # noqa: B023 - called at once

    asyncio.run(fail())


def test_a_weigher() -> None:
    """The error names what can be named."""

    class Weigher(Unshowable):
        def __call__(self, state: HostState) -> Any:
            return Unshowable()

    with pytest.raises(ValueError, match=r"Weigher.* gave"):
        _weigh(Weigher(), mock.Mock())


@pytest.mark.parametrize("words", [in_words, in_short])
def test_the_command_line(words: Callable[[BaseException], str]) -> None:
    """A target that raises while it is imported is told in a line."""
    for make in ERRORS.values():
        assert unharmed(lambda: words(make()))  # noqa: B023 - called at once
