"""Entry points of plugins: loaded, failed, switched off."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from asyncmgr._service.plugins import GROUP, Plugin, load_plugins


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that installs entry points, as ``name=target``."""

    def install(**targets: str) -> None:
        points = [EntryPoint(name, target, GROUP) for name, target in targets.items()]
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda **select: EntryPoints(points * 2).select(**select)
        )

    return install


def stops(service: object) -> None:
    """Be a plugin."""


def test_plugins_are_loaded_by_name(install: Any) -> None:
    """Each entry point is loaded once, in the order of the names, though it is found twice."""
    install(beta=f"{__name__}:stops", alpha=f"{__name__}:stops")
    target = f"{__name__}:stops"
    assert load_plugins() == [Plugin("alpha", target, stops), Plugin("beta", target, stops)]


@pytest.mark.parametrize(
    ("target", "kind", "text"),
    [
        ("nowhere_at_all:x", ModuleNotFoundError, "nowhere_at_all"),
        ("asyncmgr.errors:nothing", AttributeError, "nothing"),
        ("asyncmgr.errors:__doc__", TypeError, "a plugin is a callable that takes the service"),
    ],
)
def test_a_plugin_that_fails_is_a_result(install: Any, target: str, kind: type[Exception], text: str) -> None:
    """What loading a plugin raises is kept with its name, and the others are loaded."""
    install(bad=target, good=f"{__name__}:stops")
    bad, good = load_plugins()
    assert (bad.name, bad.target, bad.hook) == ("bad", target, None)
    assert isinstance(bad.error, kind)
    assert text in str(bad.error)
    assert good.hook is stops


def test_a_plugin_that_ends_the_program_is_a_result(
    install: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that exits when it is imported stops nothing."""
    (tmp_path / "exiting_plugin.py").write_text("raise SystemExit(1)")
    monkeypatch.syspath_prepend(tmp_path)
    install(bad="exiting_plugin:x")
    assert isinstance(load_plugins()[0].error, SystemExit)


def test_plugins_that_are_switched_off_are_not_imported(install: Any) -> None:
    """A disabled name is left alone."""
    install(bad="nowhere_at_all:x", good=f"{__name__}:stops")
    assert [plugin.name for plugin in load_plugins(disabled=["bad"])] == ["good"]


def test_unreadable_metadata_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the installed packages cannot be read, that is one failed plugin."""

    def unreadable(**select: str) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(importlib.metadata, "entry_points", unreadable)
    (plugin,) = load_plugins()
    assert (plugin.name, str(plugin.error)) == (GROUP, "disk on fire")


def test_nothing_installed(install: Any) -> None:
    """Without entry points there are no plugins."""
    install()
    assert load_plugins() == []
