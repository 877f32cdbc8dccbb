"""Plugins of the suite, and what of it is left out where it has run already."""

from __future__ import annotations

import signal

import hypothesis
import pytest

pytest.register_assert_rewrite("asyncmgr.testing.conformance")

pytest_plugins = [
    "asyncmgr.testing.plugin",
    "pytester",
    "tests.nats_servers",
    "tests.postgres_servers",
    "tests.valkey_servers",
]

hypothesis.settings.register_profile("suite", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("suite")

REAL_FIXTURES = {"pytester", "shared_nats_server", "shared_postgres_server", "shared_valkey_server"}
REAL_MODULES = {
    "test_blocked_loop",
    "test_completion",
    "test_control_socket",
    "test_demo",
    "test_examples",
    "test_fork",
    "test_http",
    "test_history_kills",
    "test_interop",
    "test_key_processes",
    "test_nats",
    "test_nats_buckets",
    "test_nats_cluster",
    "test_nats_connection",
    "test_nats_contract",
    "test_nats_permissions",
    "test_nats_server",
    "test_outage",
    "test_page",
    "test_picture",
    "test_page_commands",
    "test_postgres",
    "test_postgres_contract",
    "test_readme",
    "test_run",
    "test_signals",
    "test_valkey",
    "test_valkey_contract",
    "test_valkey_cluster",
    "test_sqlite",
    "test_sqlite_contract",
    "test_stalls",
    "test_stranger",
}


def pytest_configure() -> None:
    """Have Ctrl-C work in the programs that tests start.

    A shell that runs the suite in the background (`nox &`) ignores SIGINT, and they would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs servers, processes and real seconds; `-m "not real"` leaves it out."""
    for item in items:
        module = item.path.stem
        if module in REAL_MODULES or not REAL_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("real")
