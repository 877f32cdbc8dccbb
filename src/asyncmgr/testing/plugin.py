"""The pytest plugin: runs the tests that ask for it in virtual time, and no other tests.

Opt-in by one line in the root ``conftest.py``: ``pytest_plugins = ["asyncmgr.testing.plugin"]``. A test asks by the
fixture `virtual_time` or by the mark of that name, in either mode of pytest-asyncio; it needs no ``asyncio`` mark.

Tests of anyio's own plugin choose their loop by anyio's fixture, and call `asyncmgr.testing.run_for`::

    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualTimeLoop}
"""

from __future__ import annotations

import asyncio
import inspect
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncmgr.testing._virtual import START, VirtualTime, VirtualTimeError, VirtualTimeLoop

try:
    import pytest_asyncio
except ImportError as _missing:
    raise ImportError(
        "asyncmgr.testing.plugin needs pytest-asyncio, which is missing: pip install 'asyncmgr[testing]'"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]
    Collected = pytest.Item | pytest.Collector | Sequence[pytest.Item | pytest.Collector] | None

NAME = "virtual_time"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option for the instant at which tests begin."""
    parser.addini(
        "virtual_time_start",
        help="instant at which tests in virtual time begin (ISO 8601 with an offset)",
        default=START.isoformat(),
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, so that --strict-markers accepts it."""
    config.addinivalue_line(
        "markers",
        "virtual_time(start=None): run the async test in virtual time, from this instant "
        "(datetime with a time zone, or ISO 8601 with an offset; default: ini virtual_time_start)",
    )


# In strict mode pytest-asyncio takes no test without its own mark. It looks for the mark twice: when tests are
# generated from a function, after the inner wrappers of that hook; and at each test, inside the outer wrappers of the
# other hook.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    """Mark the function as an asyncio test."""
    _mark(metafunc.definition)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, Collected, Collected]:
    """Mark each test that was generated from the function as an asyncio test."""
    made = yield
    for node in made if isinstance(made, list | tuple) else (made,):
        if isinstance(node, pytest.Function):
            _mark(node)
    return made


def _mark(item: pytest.Function) -> None:
    marked = item.get_closest_marker("asyncio") is not None
    if _asks_for_virtual_time(item) and _is_async(item) and not _is_anyios(item) and not marked:
        item.add_marker("asyncio")


def _is_async(item: pytest.Function) -> bool:
    test = item.obj.hypothesis.inner_test if hasattr(item.obj, "hypothesis") else item.obj
    return inspect.iscoroutinefunction(test)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that asks for virtual time but would run in real time."""
    if not _asks_for_virtual_time(item):
        return
    if _is_anyios(item):
        pytest.fail(f"{item.nodeid}: {_ANYIO}", pytrace=False)
    if not pytest_asyncio.is_async_test(item) and _asks_itself(item):
        pytest.fail(f"{item.nodeid}: {_NOT_ASYNC}", pytrace=False)


_NOT_ASYNC = (
    "virtual_time needs an async test, and this is none; write 'async def', "
    "or use asyncmgr.testing.run_virtual(main()) in it and take virtual_time off"
)
_ANYIO = (
    "virtual_time has a loop of pytest-asyncio's, and this is a test of anyio's plugin; take virtual_time off and "
    'write a fixture anyio_backend that returns ("asyncio", {"loop_factory": asyncmgr.testing.VirtualTimeLoop}), '
    "or leave the anyio mark out"
)


def _asks_itself(item: pytest.Item) -> bool:
    """Whether the test itself asks, not only its module or class, whose mark is for the async tests in it."""
    marks = item.iter_markers_with_node(NAME)
    return NAME in getattr(item, "fixturenames", ()) or any(node is item for node, _ in marks)


def _is_anyios(item: pytest.Item) -> bool:
    return item.get_closest_marker("anyio") is not None or "anyio_backend" in getattr(
        item, "fixturenames", ()
    )


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, Factories | None, Factories]:
    """Choose the loop of one async test.

    pytest-asyncio refuses `None` as soon as any plugin implements this hook, so tests in real time get the
    loops that other plugins choose, or else the loop that they would have without the hook.
    """
    others = yield
    if not _asks_for_virtual_time(item):
        return others or {"asyncio": asyncio.new_event_loop}
    # A new function each time: tests that share a factory would share a loop of a wider scope, and its time.
    return {NAME: partial(VirtualTimeLoop, start=_start_of(item))}


def _asks_for_virtual_time(item: pytest.Item) -> bool:
    return NAME in getattr(item, "fixturenames", ()) or item.get_closest_marker(NAME) is not None


def _start_of(item: pytest.Item) -> datetime:
    marker = item.get_closest_marker(NAME)
    given = _argument(item, marker) if marker is not None else None
    start = _instant(given if given is not None else item.config.getini("virtual_time_start"))
    if start is None:
        pytest.fail(
            f"{item.nodeid}: start={given!r} of virtual_time is no instant with a time zone; "
            "write e.g. '2026-03-29T00:00:00+00:00'",
            pytrace=False,
        )
    return start


def _argument(item: pytest.Item, marker: pytest.Mark) -> object:
    if marker.args or set(marker.kwargs) - {"start"}:
        pytest.fail(f"{item.nodeid}: mark.virtual_time accepts only the keyword 'start'", pytrace=False)
    return marker.kwargs.get("start")


def _instant(given: object) -> datetime | None:
    """Return an aware datetime; `None` if `given` is not one."""
    try:
        instant = given if isinstance(given, datetime) else datetime.fromisoformat(str(given))
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


@pytest_asyncio.fixture
async def virtual_time() -> VirtualTime:
    """Return the virtual time of this test: `start`, `now()`, `elapsed`, `advance(...)`, `run_for(...)`.

    Async fixtures of the test run on the same loop, in the same time.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise VirtualTimeError(
            "virtual_time was asked for after the test's loop had been chosen: name it among the test's arguments, "
            "or those of a fixture, and do not ask by getfixturevalue"
        )
    return VirtualTime(loop)
