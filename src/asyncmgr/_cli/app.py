"""Puts the commands together under ``asyncmgr``."""

from __future__ import annotations

import click

from asyncmgr._cli.commands.call import call
from asyncmgr._cli.commands.check import check
from asyncmgr._cli.commands.demo import demo
from asyncmgr._cli.commands.explain import explain, history
from asyncmgr._cli.commands.health import health
from asyncmgr._cli.commands.hosts import hosts
from asyncmgr._cli.commands.info import info
from asyncmgr._cli.commands.leases import leases
from asyncmgr._cli.commands.list import list_tasks
from asyncmgr._cli.commands.next import next_slots
from asyncmgr._cli.commands.rpc_diff import rpc
from asyncmgr._cli.commands.run import run
from asyncmgr._cli.commands.simulate import simulate
from asyncmgr._cli.commands.status import status
from asyncmgr._cli.commands.steer import VERBS
from asyncmgr._cli.commands.store import store
from asyncmgr._cli.commands.top import top
from asyncmgr._cli.error_text import in_words
from asyncmgr._cli.exit import EXIT_GRACE, INTERRUPTED, code_of, leave_within, threads_left
from asyncmgr._cli.output import lines_of
from asyncmgr._service.version import own_version
from asyncmgr.errors import AsyncmgrError


class _Commands(click.Group):
    """Lists commands in the order in which they were added. Shows an error of asyncmgr as text, with exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AsyncmgrError as exc:
            raise click.ClickException(in_words(exc)) from exc
        except click.ClickException as exc:
            exc.message = lines_of(exc.message)  # type: ignore[misc] # final, but for what nobody else has yet
            raise
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  asyncmgr run app.py:Volumes          run a manager until SIGTERM or Ctrl-C
  asyncmgr list app.py:Volumes         its tasks and when they would first run
  asyncmgr next app.py:Volumes sync    the next slots of one task
  asyncmgr check app.py:Volumes        say all that is wrong, start nothing
  asyncmgr simulate app.py:Volumes     a day of it in a second, with a picture
  asyncmgr status --watch              how the tasks of running services stand
  asyncmgr top                         the same as a screen, with the verbs at a key
  asyncmgr health                      whether they are well; exit code 3 = not
  asyncmgr pause Volumes.sync --for 2h start no run of one for a while
  asyncmgr hosts --watch               who announces itself, live
  asyncmgr leases                      who holds what only one process may have
  asyncmgr info compute                what can be called, and what runs there
  asyncmgr call compute ping --namespace asyncmgr
  asyncmgr rpc diff old.json new.json  which version number must move
  asyncmgr store sql postgresql://...  the table that a store needs there
  asyncmgr demo                        all of this on this machine, live

\b
A TARGET is 'module:attribute' or 'path/to/file.py:attribute' and names
  a manager class   its arguments come from the settings, [managers.NAME]
  a manager         several targets run together in one service
  a Service         alone
  a factory         a function that returns one of these, or a list of managers
Without one, the variable ASYNCMGR_APP is read (several are separated by spaces).

\b
Completion of commands, targets and tasks; zsh and fish likewise:
  eval "$(_ASYNCMGR_COMPLETE=bash_source asyncmgr)"

\b
Settings come from ASYNCMGR_* variables, asyncmgr.toml and [tool.asyncmgr] of
pyproject.toml in the current directory.
Exit codes: 0 ok, 1 failure, 2 usage, 3 unhealthy. stdout is data, stderr is logs.""",
)
@click.version_option(own_version(), message="%(prog)s %(version)s")
def command() -> None:
    """Run periodic tasks of async Python services, and look at what would run."""


for _command in (
    run,
    list_tasks,
    next_slots,
    check,
    simulate,
    status,
    top,
    health,
    explain,
    history,
    *VERBS,
    hosts,
    leases,
    info,
    call,
    rpc,
    store,
    demo,
):
    command.add_command(_command)


def main() -> None:
    """Run the command line. Ends the process even if a thread does not end."""
    try:
        command(prog_name="asyncmgr")
    except SystemExit as exc:
        if threads_left():
            leave_within(EXIT_GRACE, code_of(exc))
        raise
