"""Virtual time for tests and simulations (extra ``asyncmgr[testing]``): the loop and its helpers.

The pytest plugin is opt-in: ``pytest_plugins = ["asyncmgr.testing.plugin"]`` in the root ``conftest.py``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncmgr.testing._contexts import context
    from asyncmgr.testing._reports import RunReport
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
    "RunReport",
    "VirtualTime",
    "VirtualTimeError",
    "VirtualTimeLoop",
    "context",
    "run_for",
    "run_virtual",
]

_ELSEWHERE = {"RunReport": "_reports", "context": "_contexts"}
"""Names whose module needs no time-machine."""


def __getattr__(name: str) -> Any:
    # At first use, since `testing.nats` beside it must do without time-machine.
    if name not in __all__:
        raise AttributeError(f"module 'asyncmgr.testing' has no attribute {name!r}")
    module = import_module(f"asyncmgr.testing.{_ELSEWHERE.get(name, '_virtual')}")
    value = globals()[name] = getattr(module, name)
    return value
