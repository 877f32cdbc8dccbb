"""The command ``asyncmgr``: the outermost layer, and the only place that configures structlog.

stdout is data, stderr is logs and errors. Exit codes: 0 ok, 1 failure, 2 usage, 3 unhealthy.

Read `app` first: it puts the commands together. The package `commands` has one file for each command, and `options` the
options that they share. `targets`, `loading` and `construct` turn targets and settings into a service; `completion`
completes targets in a shell. `tasks` and `task_views` show tasks, `setting_changes` and `draining` what a running
service changes or waits for, `capability_text` capabilities. `connect` and `doors` talk to services that run,
`status_text` and `verb_text` write their answers. `output` writes data, `error_text` errors, `logs` configures the log,
and `exit` ends the process. The package `demo` is what ``asyncmgr demo`` runs, `top` the screen of ``asyncmgr top``.

May import every other package; only ``__main__`` imports this one.
"""

from __future__ import annotations

from asyncmgr._cli.app import command, main

__all__ = ["command", "main"]
