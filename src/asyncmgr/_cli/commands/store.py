"""``asyncmgr store sql``: prints what an owner of a database runs, where the services' role may not make the table."""

from __future__ import annotations

import click

from asyncmgr._cli import options
from asyncmgr._common.safe_text import printable
from asyncmgr.transports._postgres.options import read_options
from asyncmgr.transports._postgres.sql import script

_WITH_TABLE = ("postgresql", "postgres")


@click.group("store")
def store() -> None:
    """Prepare what keeps capabilities, leases and slots."""


@store.command(
    "sql",
    epilog=options.examples(
        "asyncmgr store sql postgresql://app@db.example/prod",
        "asyncmgr store sql 'postgresql://app@db.example/prod?schema=asyncmgr' | psql prod",
    ),
)
@click.argument("url")
def sql(url: str) -> None:
    """Print the SQL for the table of the store at URL, and what the role of the URL has to be granted.

    The table is made by itself where the role may create tables in its schema. Nothing is connected to.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _WITH_TABLE:
        raise click.UsageError(
            f"only postgresql:// has a table to prepare, and not {printable(scheme, 20)}://: other stores need nothing"
        )
    wanted = read_options(url)
    click.echo(script(wanted.schema, wanted.user), nl=False)
