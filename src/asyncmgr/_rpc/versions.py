"""Chooses the interface that serves a request. Versions are ``major.minor``, compatible within one major. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from asyncmgr._common.safe_text import printable, safe_repr
from asyncmgr.errors import NoSuchMethod, UnsupportedVersion

M = TypeVar("M")


_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)


def parse_version(version: str) -> tuple[int, int]:
    """Read major and minor from text such as ``"1.10"``.

    Raises
    ------
    ValueError
        The text is not two whole numbers with a dot between them.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"{safe_repr(version)} is no version; write two whole numbers, such as '1.0'")
    return int(match[1]), int(match[2])


def is_compatible(requested: str, offered: str) -> bool:
    """Whether an interface of one version serves calls of another: same major version, and no older minor version.

    Raises
    ------
    ValueError
        One of the versions is malformed.
    """
    (wanted_major, wanted_minor), (major, minor) = parse_version(requested), parse_version(offered)
    return wanted_major == major and wanted_minor <= minor


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[M]):
    """One interface of a service: the methods of one manager, under its namespace and version."""

    manager: str
    namespace: str | None
    version: str
    methods: Mapping[str, M]


def choose(endpoints: Sequence[Endpoint[M]], method: str, version: str, namespace: str | None) -> Endpoint[M]:
    """Choose the first endpoint that serves this call. The rule is that of oslo.messaging's dispatcher.

    ==================  =====================  ==================  =================================
    the namespace       the version            the method          raises
    ==================  =====================  ==================  =================================
    nobody has it       any                    any                 UnsupportedVersion, nothing offered
    is there            is malformed           any                 UnsupportedVersion
    is there            fits no endpoint       any                 UnsupportedVersion
    is there            fits some endpoint     in other versions   UnsupportedVersion, those versions
    is there            fits some endpoint     in no version       NoSuchMethod
    ==================  =====================  ==================  =================================

    Raises
    ------
    UnsupportedVersion, NoSuchMethod
        As in the table.
    """
    named = [endpoint for endpoint in endpoints if endpoint.namespace == namespace]
    having = [endpoint for endpoint in named if method in endpoint.methods]
    for endpoint in having:
        if _fits(version, endpoint.version):
            return endpoint
    fitting = [endpoint for endpoint in named if _fits(version, endpoint.version)]
    if fitting and not having:
        methods = ", ".join(sorted({name for endpoint in fitting for name in endpoint.methods})) or "none"
        raise NoSuchMethod(
            f"{_called(namespace)} has no method {safe_repr(method)} in version {printable(version)}; it has {methods}"
        )
    offered = tuple(endpoint.version for endpoint in having or named)
    raise UnsupportedVersion(_misfit(method, version, namespace, offered), offered)


def _fits(requested: str, offered: str) -> bool:
    try:
        return is_compatible(requested, offered)
    except ValueError:
        return False


def _misfit(method: str, version: str, namespace: str | None, offered: Sequence[str]) -> str:
    if not offered:
        return f"{_called(namespace)} is not served"
    versions = ", ".join(offered)
    return f"{_called(namespace)} serves {safe_repr(method)} in {versions}, and not in version {safe_repr(version)}"


def _called(namespace: str | None) -> str:
    return (
        "the interface without a namespace" if namespace is None else f"the interface {safe_repr(namespace)}"
    )
