"""Chooses a service's name, and checks that its managers fit together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncmgr._common.safe_text import safe_repr
from asyncmgr._service.manager import Manager
from asyncmgr.errors import AsyncmgrError


def service_name(managers: Sequence[Manager]) -> str:
    """Return the first `service_name` among the managers, else the first manager's class name in lower case."""
    for manager in managers:
        name = getattr(manager, "service_name", None)
        if name is not None:
            return str(name)
    if not managers:
        raise AsyncmgrError(
            "Service() has neither a manager nor a name; give it a manager, or name= for plugins to fill"
        )
    return type(managers[0]).__name__.lower()


def check_manager(manager: object, others: Iterable[Manager], service: str) -> None:
    """Raise `AsyncmgrError` for no manager instance, for a name that is taken, or for another service's manager."""
    if isinstance(manager, type):
        raise AsyncmgrError(
            f"{manager.__name__} is a class; give the service an instance: {manager.__name__}()"
        )
    if not isinstance(manager, Manager):
        raise AsyncmgrError(
            f"{safe_repr(manager)} is no Manager; give the service instances of asyncmgr.Manager"
        )
    if any(other.name == manager.name for other in others):
        raise AsyncmgrError(
            f"two managers are named {manager.name!r}; give one of the classes another name ="
        )
    named = getattr(manager, "service_name", None)
    if named is not None and any(
        getattr(other, "service_name", None) not in (None, named) for other in others
    ):
        raise AsyncmgrError(
            f"{manager.name} has service_name {named!r}, and another manager has another; "
            f"one service has one name (here {service!r}): make two services"
        )
