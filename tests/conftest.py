"""Plugins of the suite."""

from __future__ import annotations

pytest_plugins = ["asyncmgr.testing.plugin", "pytester"]
