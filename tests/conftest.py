"""Plugins of the suite."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("asyncmgr.testing.conformance")

pytest_plugins = ["asyncmgr.testing.plugin", "pytester", "tests.nats_servers"]
