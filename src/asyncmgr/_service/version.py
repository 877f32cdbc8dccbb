"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Return the version of asyncmgr, or ``(not installed)`` where it runs from a bare tree."""
    try:
        return version("asyncmgr")
    except PackageNotFoundError:
        return "(not installed)"
