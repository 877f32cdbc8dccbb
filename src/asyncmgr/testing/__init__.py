"""Virtual time for tests and simulations (extra ``asyncmgr[testing]``): the loop and its helpers.

The pytest plugin is opt-in: ``pytest_plugins = ["asyncmgr.testing.plugin"]`` in the root ``conftest.py``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncmgr.testing._virtual import (
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


def __getattr__(name: str) -> Any:
    # At first use, since `testing.nats` beside it must do without time-machine.
    if name not in __all__:
        raise AttributeError(f"module 'asyncmgr.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module("asyncmgr.testing._virtual"), name)
    return value
