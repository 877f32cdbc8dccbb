"""Virtual time for tests and simulations (extra ``asyncmgr[testing]``): the loop and its helpers.

The pytest plugin is opt-in: ``pytest_plugins = ["asyncmgr.testing.plugin"]`` in the root ``conftest.py``.
"""

from __future__ import annotations

from asyncmgr.testing.virtual import (
    DeadlockError,
    VirtualTime,
    VirtualTimeError,
    VirtualTimeLoop,
    run_for,
    run_virtual,
)

__all__ = [
    "DeadlockError",
    "VirtualTime",
    "VirtualTimeError",
    "VirtualTimeLoop",
    "run_for",
    "run_virtual",
]
