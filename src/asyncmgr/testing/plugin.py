"""The pytest plugin: a virtual-time loop for the tests that ask for one, and for no others.

Opt-in by one line in the root ``conftest.py``: ``pytest_plugins = ["asyncmgr.testing.plugin"]``.
"""

from __future__ import annotations

import asyncio
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
    from collections.abc import Callable, Generator, Mapping

    Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

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


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, Factories | None, Factories]:
    """Choose the loop of one async test.

    pytest-asyncio refuses `None` as soon as any plugin implements this hook, so tests in real time get what
    other plugins say, or else the loop that they would have without the hook.
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
    """Return an aware datetime, or `None` for what is none."""
    try:
        instant = given if isinstance(given, datetime) else datetime.fromisoformat(str(given))
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


@pytest_asyncio.fixture
async def virtual_time() -> VirtualTime:
    """Give the virtual time of this test: `start`, `now()`, `elapsed`, `advance(...)`, `run_for(...)`.

    Async fixtures of the test run on the same loop, in the same time.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise VirtualTimeError(
            "virtual_time needs an async test that names it, or has a fixture that does, at collection; "
            "in a plain test use asyncmgr.testing.run_virtual, and do not ask for it by getfixturevalue"
        )
    return VirtualTime(loop)
