"""Recognises the variables that Kubernetes puts into the environment of every container, one family for each Service.

The variables of a Service named ``asyncmgr`` or ``asyncmgr-agent`` begin like those of the settings. They are
recognised by the end of their name and the form of their value.
"""

from __future__ import annotations

import ipaddress
import re

_PROTOCOL = r"(?:TCP|UDP|SCTP)"
_URL = re.compile(r"(?:tcp|udp|sctp)://(?P<address>.+):(?P<port>\d{1,5})", re.ASCII)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535


def _is_url(text: str) -> bool:
    found = _URL.fullmatch(text)
    return found is not None and _is_address(found["address"]) and _is_port(found["port"])


def _is_protocol(text: str) -> bool:
    return text in {"tcp", "udp", "sctp"}


_SHAPES = tuple(
    (re.compile(rf"ASYNCMGR_(?:[A-Z0-9]+_)*{end}", re.ASCII), fits)
    for end, fits in (
        ("SERVICE_HOST", _is_address),
        (r"SERVICE_PORT(?:_[A-Z0-9]+)*", _is_port),
        ("PORT", _is_url),
        (rf"PORT_\d+_{_PROTOCOL}", _is_url),
        (rf"PORT_\d+_{_PROTOCOL}_PROTO", _is_protocol),
        (rf"PORT_\d+_{_PROTOCOL}_PORT", _is_port),
        (rf"PORT_\d+_{_PROTOCOL}_ADDR", _is_address),
    )
)


def is_of_a_service(variable: str, text: str) -> bool:
    """Whether this is a variable that Kubernetes sets for a Service, and not a setting."""
    return any(name.fullmatch(variable) and fits(text) for name, fits in _SHAPES)
