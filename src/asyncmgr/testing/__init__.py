"""Virtual time and helpers for tests and simulations (extra ``asyncmgr[testing]``).

The pytest plugin is opt-in: ``pytest_plugins = ["asyncmgr.testing.plugin"]`` in the root ``conftest.py``.

Read in this order. `_virtual` is the event loop in virtual time, with `run_virtual` and `run_for`. `_reports` is the
report that `run_for` returns. `_contexts` builds a `RunContext`, to call a task without a service. `plugin` is the
pytest plugin. `nats` starts a NATS server. The package `conformance` holds the tests that every transport passes;
`simulation` runs a cluster with faults, and `rehearsal` one application, for ``asyncmgr simulate``.

`simulation` and `rehearsal` may import `_service` and all below it; the rest only `_common`, `errors`, `wire`,
`events`, `_tasks`, `_settings` and `transports`.
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

_LIGHT = {"RunReport": "_reports", "context": "_contexts"}
"""The modules of names that do not need time-machine. All other names are in `_virtual`."""


def __getattr__(name: str) -> Any:
    # Imported at first use: `testing.nats` must work without time-machine.
    if name not in __all__:
        raise AttributeError(f"module 'asyncmgr.testing' has no attribute {name!r}")
    module = import_module(f"asyncmgr.testing.{_LIGHT.get(name, '_virtual')}")
    value = globals()[name] = getattr(module, name)
    return value
