"""``asyncmgr store``."""

from __future__ import annotations

from asyncmgr.transports._postgres.sql import script
from tests.cli.conftest import Invoke


def test_sql_is_printed(invoke: Invoke) -> None:
    """``asyncmgr store sql`` prints what an owner runs, and refuses stores that have no table."""
    result = invoke("store", "sql", "postgresql://app:hunter2@db/prod?schema=jobs")
    assert result.exit_code == 0
    assert result.stdout == script("jobs", "app")
    assert "hunter2" not in result.output
    result = invoke("store", "sql", "sqlite:///x.db")
    assert result.exit_code == 2
    assert "need nothing" in result.stderr
    assert invoke("store", "sql", "postgresql://db/prod?connections=x").exit_code == 1
