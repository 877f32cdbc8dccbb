"""Annotations that only type checkers can resolve, wherever a signature is read (PEP 649, Python 3.14)."""

# No `from __future__ import annotations` here: with it annotations are texts, which nobody evaluates.

import sys
from typing import TYPE_CHECKING, Any

import pytest

from asyncmgr import Manager, periodic_task
from asyncmgr._cli.construct import construct
from asyncmgr._cli.loading import find
from asyncmgr._common.functions import annotations_of, signature_of

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found] # noqa: TC004

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="annotations are evaluated where they are written"
)


def test_signatures_and_annotations_are_read() -> None:
    """What cannot be resolved stays a reference; the rest is there."""

    def make(size: int, other: Missing) -> Missing: ...

    assert list(signature_of(make).parameters) == ["size", "other"]
    assert annotations_of(make)["size"] is int


async def test_a_task_runs() -> None:
    """Also one whose decoration has to look closely, as it has a keyword of its own."""
    seen = []

    class Volumes(Manager):
        @periodic_task
        async def sync(self, context: Missing, *, limit: Missing = 1) -> Missing:
            seen.append(limit)

    await Volumes().periodic_tasks(None, raise_on_error=True)
    assert seen == [1]


def test_a_manager_is_made_from_settings() -> None:
    """Arguments that are given are checked by their hints; one that is not may have any hint."""

    class Volumes(Manager):
        def __init__(self, size: int, driver: Missing = None) -> None:
            super().__init__()
            self.size = size

    assert construct(Volumes, {"size": "3"}, place="managers.Volumes").size == 3


def test_a_factory_is_called(tmp_path: Any) -> None:
    """A target may say what it returns in a name for checkers only."""
    (tmp_path / "made.py").write_text(
        "from asyncmgr import Manager\n"
        "def make(name: Missing = 'volumes') -> Missing:\n"
        "    return type('Volumes', (Manager,), {})()\n"
    )
    (found,) = find(f"{tmp_path / 'made.py'}:make", str(tmp_path))
    assert isinstance(found.value, Manager)
