"""What ``asyncmgr run`` adds to a service beside its managers: HTTP, the messages to systemd, and spans."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import click

from asyncmgr._cli.logs import LogFormat
from asyncmgr._monitoring.systemd import find_notifier, tell_systemd
from asyncmgr._service.service import Service


def monitor(service: Service, http: str | None, *, with_token: bool, log_format: LogFormat) -> None:
    """Add what the settings, the options and the environment ask for. `http` is an address; `None` = the setting's.

    Raises
    ------
    AsyncmgrError
        The address makes no sense, or a library is missing.
    """
    notifier = find_notifier()
    if notifier is not None:
        tell_systemd(service, notifier)
    if service.settings.monitoring.opentelemetry:
        from asyncmgr._monitoring.tracing import trace

        trace(service)
    address = http or service.settings.monitoring.http
    if address is not None:
        _serve(service, address, with_token, log_format)
    elif with_token:
        raise click.UsageError("--http-token needs --http: say where to listen, as --http 127.0.0.1:8080")


def _serve(service: Service, address: str, with_token: bool, log_format: LogFormat) -> None:
    from asyncmgr._monitoring.server import serve_http

    if with_token and log_format == "json":
        raise click.UsageError(
            "--http-token prints a link with a secret for people, and a JSON log is kept; set "
            "ASYNCMGR_MONITORING__HTTP_TOKEN instead"
        )
    token = secrets.token_urlsafe(24) if with_token else None
    serve_http(
        service,
        address,
        token=token,
        hosts=service.settings.monitoring.hosts,
        opened=_nothing if token is None else _print_link(token),
    )


def _nothing(url: str) -> None:
    """Print nothing: the log has the address."""


def _print_link(token: str) -> Callable[[str], None]:
    """Print the link once: whoever opens it may use the verbs."""

    def show(url: str) -> None:
        click.echo(f"\nThe page, with the right to use its verbs:\n  {url}?token={token}\n", err=True)

    return show
