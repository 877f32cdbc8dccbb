"""Transports are found by the scheme of their URL."""

from __future__ import annotations

import importlib.metadata
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import asyncmgr.transports
from asyncmgr.errors import InvalidSettings
from asyncmgr.transports import ENTRY_POINTS, Transport, open_transport, register_scheme
from asyncmgr.transports._memory import MemoryTransport, open_memory

opened: list[tuple[str, Any]] = []


def open_here(url: str, settings: Any) -> AbstractAsyncContextManager[Transport]:
    """Open memory:// in place of something else, and remember how that was asked for."""
    opened.append((url, settings))
    return open_memory("memory://", settings)


@pytest.fixture(autouse=True)
def _schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered schemes do not outlive the test."""
    monkeypatch.setattr(asyncmgr.transports, "_openers", {"memory": open_memory})
    opened.clear()


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three installed plugins: one that works, one whose package is missing, one without such an attribute."""
    values = {"fake": f"{__name__}:open_here", "nats": "no_such_package:open", "bad": "json:no_such_opener"}
    found = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, ENTRY_POINTS) for name, value in values.items()
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[open_here.__module__])


@pytest.mark.parametrize("url", ["memory://", "memory://name", "MEMORY://"])
async def test_memory(url: str) -> None:
    """memory:// is always there, and closed at the end of the block."""
    async with open_transport(url) as transport:
        assert isinstance(transport, MemoryTransport)
        assert transport.connected
    assert not transport.connected


async def test_closed_after_an_error() -> None:
    """A block that raises closes its transport too."""
    with pytest.raises(ZeroDivisionError):
        async with open_transport("memory://") as transport:
            raise ZeroDivisionError
    assert not transport.connected


async def test_registered_scheme() -> None:
    """A scheme registered in code gets the URL as written, and the settings; a later one replaces it."""
    register_scheme("fake", open_memory)
    register_scheme("fake", open_here)
    async with open_transport("fake://somewhere/else?x=1", "settings"):
        pass
    assert opened == [("fake://somewhere/else?x=1", "settings")]


@pytest.mark.usefixtures("entry_points")
async def test_entry_point() -> None:
    """An installed package adds a scheme by an entry point."""
    async with open_transport("fake://x") as transport:
        assert transport.connected
    assert opened == [("fake://x", None)]


@pytest.mark.usefixtures("entry_points")
def test_unknown_scheme() -> None:
    """A scheme that nobody knows is named, with those that are known and where more come from."""
    with pytest.raises(
        InvalidSettings, match=r"radio://; known are bad://, fake://, memory://, nats://; install"
    ):
        open_transport("radio://user:secret@host")


def test_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a scheme that asyncmgr has an extra for, and no package adds, the cure is that extra."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints())
    with pytest.raises(InvalidSettings, match=r"nats://.*pip install 'asyncmgr\[nats\]'"):
        open_transport("nats://user:secret@host")


@pytest.mark.usefixtures("entry_points")
@pytest.mark.parametrize(
    ("scheme", "cause", "cure"),
    [
        ("nats", "ModuleNotFoundError: No module named 'no_such_package'", "pip install 'asyncmgr[nats]'"),
        ("bad", "AttributeError", "install the package that adds it"),
    ],
)
def test_plugin_that_cannot_be_loaded(scheme: str, cause: str, cure: str) -> None:
    """A plugin that fails to import is named with the cause and the cure."""
    with pytest.raises(InvalidSettings) as caught:
        open_transport(f"{scheme}://user:secret@host")
    text = str(caught.value)
    assert f"{scheme}://" in text
    assert cause in text
    assert cure in text
    assert caught.value.__cause__ is not None


@pytest.mark.usefixtures("entry_points")
@pytest.mark.parametrize("url", ["user:secret@host", "radio://user:secret@h", "bad://user:secret@h", ""])
def test_no_error_shows_the_url(url: str) -> None:
    """URLs hold passwords, so errors quote no more of them than the scheme."""
    with pytest.raises(InvalidSettings) as caught:
        open_transport(url)
    assert "secret" not in str(caught.value)
    assert "://" in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "1x", "a b", "FAKE", "fake://"])
def test_scheme_that_no_url_has(scheme: str) -> None:
    """A scheme that could never be found is refused when it is registered."""
    with pytest.raises(InvalidSettings, match="scheme"):
        register_scheme(scheme, open_memory)
