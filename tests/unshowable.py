"""Objects of an application that raise when they are to be shown."""

from __future__ import annotations

from typing import Any


class Unshowable:
    """A database row that its session has let go of."""

    def __repr__(self) -> str:
        raise RuntimeError("detached")


class Secretive(ValueError):
    """An error whose notes are computed, wrongly."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise RuntimeError("no notes")


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class Anonymous(ValueError, metaclass=Nameless):
    """An error whose class has its own idea of names; no version of Python formats its traceback."""
