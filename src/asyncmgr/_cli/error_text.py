"""Writes errors for people: one line, then the lines of the user's own code that raised it."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator

import anyio
import click
import pydantic

import asyncmgr
from asyncmgr._cli.output import lines_of
from asyncmgr._common.safe_text import safe_str, type_name
from asyncmgr.errors import InvalidSettings

_FRAMES = 5
"""Most frames of the user's code that are shown: those nearest to the error."""

_PACKAGES = tuple(package.__path__[0] + os.sep for package in (anyio, asyncmgr, click, pydantic))
_STDLIB = sysconfig.get_path("stdlib") + os.sep


def in_words(error: BaseException) -> str:
    """Write the error's own text and, indented, where in the user's code it came from."""
    text = lines_of(text_of(error) or type_name(error))
    return "\n".join([text, *_where(error.__cause__ or error)])


def facts(error: BaseException) -> list[str]:
    """List the problems that an error holds: an `InvalidSettings` may hold many."""
    if not isinstance(error, InvalidSettings):
        return [in_words(error)]
    _, *several = lines_of(str(error)).split("\n  ")
    return several or [in_words(error)]


def in_short(error: BaseException) -> str:
    """Write type and text, for errors that are not asyncmgr's own."""
    return "\n".join([f"{type_name(error)}: {lines_of(text_of(error))}", *_where(error)])


def text_of(error: BaseException) -> str:
    """Return the error's text with its lines; if its `__str__` fails, a text that says so."""
    try:
        return str.__str__(str(error))
    except Exception:
        return safe_str(error)


def without_our_frames(error: Exception) -> Exception:
    """Cut the start of the traceback, up to the user's first frame, if there is one."""
    at = error.__traceback__
    while at is not None and not _is_users(at.tb_frame.f_code.co_filename):
        at = at.tb_next
    return error.with_traceback(at or error.__traceback__)


def _where(error: BaseException) -> Iterator[str]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    for frame in frames[-_FRAMES:]:
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
        yield from [f"    {frame.line}"] if frame.line else []


def _is_users(file: str) -> bool:
    if file.startswith((*_PACKAGES, "<frozen ")):
        return False
    return "site-packages" in file or not file.startswith(_STDLIB)
