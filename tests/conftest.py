"""Plugins of the suite."""

from __future__ import annotations

import signal

import pytest

pytest.register_assert_rewrite("asyncmgr.testing.conformance")

pytest_plugins = ["asyncmgr.testing.plugin", "pytester", "tests.nats_servers"]


def pytest_configure() -> None:
    """Have Ctrl-C work in the programs that tests start.

    A shell that runs the suite in the background (`nox &`) ignores SIGINT, and they would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
