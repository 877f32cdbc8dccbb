"""The command ``asyncmgr``: the outermost layer, and the only place that configures structlog.

stdout is data, stderr is logs and errors. Exit codes: 0 ok, 1 failure, 2 usage, 3 unhealthy.
"""

from __future__ import annotations

from asyncmgr._cli.app import command, main

__all__ = ["command", "main"]
