"""Reads the URL of a SQLite store, and says why its file does not serve. Opens no file for writing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from asyncmgr.errors import InvalidSettings, TransportError

_FORM = "write it like sqlite:///var/lib/app/stores.db, an absolute path after sqlite://"
_SYNCHRONOUS = ("normal", "full")

_OVER_NETWORK = frozenset(
    (
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "nfs",
    )
) | frozenset(("ncpfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"))


@dataclass(frozen=True, slots=True)
class Options:
    """What the URL says."""

    path: Path
    synchronous: str
    """``normal``: a killed process loses nothing, a power cut perhaps the last writes. ``full``: neither loses any."""


def read_options(url: str) -> Options:
    """Path and parameters; raises `InvalidSettings` for a URL that cannot be meant."""
    parts = urlsplit(url)
    if parts.netloc:
        raise InvalidSettings(f"the store URL names a host, or a relative path; {_FORM}")
    text = unquote(parts.path)
    if ":memory:" in text:
        raise InvalidSettings(
            "sqlite in memory is seen by nobody else; give memory:// as the store, or a path"
        )
    path = Path(text.lstrip("/") if sys.platform == "win32" else "/" + text.lstrip("/"))
    if "\0" in text or not path.name or text.endswith("/"):
        raise InvalidSettings(f"the store URL names no file; {_FORM}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    synchronous = query.pop("synchronous", "normal").lower()
    if query or parts.fragment or synchronous not in _SYNCHRONOUS:
        raise InvalidSettings(
            f"the store URL of {path} takes ?synchronous=normal or full, and nothing else; "
            "write '?' and '#' of a path as %3F and %23"
        )
    return Options(path, synchronous)


def check_place(path: Path) -> None:
    """Raise `TransportError` where no database can be kept at `path`."""
    directory = path.parent
    if not directory.is_dir():
        raise TransportError(
            f"the directory {directory} of the store is not there; make it, or correct the store URL"
        )
    if path.is_dir():
        raise TransportError(f"{path} is a directory; give the store URL a file in it")
    if kind := network_file_system(os.path.realpath(directory), _mounts()):
        raise TransportError(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not hold; "
            "give a local path, or keep the store in postgresql:// or redis://"
        )


def network_file_system(path: str, mounts: str) -> str | None:
    """The type of the file system of `path` where it is one over a network; `mounts` is /proc/self/mountinfo."""
    best, kind = "", None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ").rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind if kind in _OVER_NETWORK else None


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None = none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return ""
