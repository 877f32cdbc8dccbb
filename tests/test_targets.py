"""Targets and import strings: what they find, and what is said where they find nothing."""

from __future__ import annotations

import collections
import sys
from typing import TYPE_CHECKING

import pytest

from asyncmgr import errors
from asyncmgr._cli.targets import import_string, load_target
from asyncmgr.errors import InvalidTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = """
import dataclasses, helper
from asyncmgr import Manager, Service

class Volumes(Manager):
    class Inner: pass

@dataclasses.dataclass
class Size:
    value: "int" = helper.VALUE

snapshots = Volumes()
service = Service(Volumes())
limit = 5
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write an application into an empty current directory; forget its modules afterwards."""
    (tmp_path / "app_one.py").write_text(APP)
    (tmp_path / "helper.py").write_text("VALUE = 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("collections:OrderedDict", collections.OrderedDict),
        ("asyncmgr.errors:InvalidTarget", InvalidTarget),
        ("asyncmgr:errors.InvalidTarget.__name__", "InvalidTarget"),
    ],
)
def test_imports_what_is_named(text: str, found: object) -> None:
    """A module and an attribute of it, nested ones too."""
    assert import_string(text) is found or import_string(text) == found


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("my.pkg.Lvm", "'my.pkg.Lvm' is not of the form 'module:attribute'; write 'my.pkg:Lvm'"),
        ("lvm", "'lvm' is not of the form 'module:attribute'"),
        ("a:b:c", "'a:b:c' is not of the form 'module:attribute'"),
        ("..a:b", "'..a:b' is not of the form 'module:attribute'"),
        (5, "5 is not of the form 'module:attribute'"),
        ("asyncmgrr:x", "no module 'asyncmgrr' on the import path (did you mean 'asyncmgr'?)"),
        ("asyncmgr.erors:x", "package 'asyncmgr' has no module 'erors' (did you mean 'errors'?); it has: "),
        ("asyncmgr.errors.x:y", "'asyncmgr.errors' is a module, not a package; write 'asyncmgr.errors:x'"),
        ("asyncmgr.errors:RpcEror", "asyncmgr.errors has no attribute 'RpcEror' (did you mean 'RpcError'?)"),
        ("asyncmgr.errors:RpcError.x", "asyncmgr.errors.RpcError has no attribute 'x'; it has: "),
    ],
)
def test_says_what_was_found_instead(text: object, fact: str) -> None:
    """What is missing is named, with the closest of what is there."""
    with pytest.raises(InvalidTarget) as caught:
        import_string(text)
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        ("1 / 0", "importing broken raised ZeroDivisionError: division by zero"),
        ("import nowhere_at_all", "importing broken raised ModuleNotFoundError: No module named 'nowhere"),
        ("raise SystemExit(3)", "importing broken raised SystemExit: 3"),
        ("def f(:", "importing broken raised SyntaxError: "),
        (
            "def __getattr__(name): raise RuntimeError('no luck')",
            "looking up 'x' in broken raised RuntimeErr",
        ),
    ],
)
@pytest.mark.parametrize("target", ["broken:x", "broken.py:x"])
def test_a_module_that_fails(app: Path, target: str, body: str, fact: str) -> None:
    """What a module raises while it is imported is told and chained; the broken module is not kept."""
    (app / "broken.py").write_text(body)
    with pytest.raises(InvalidTarget) as caught:
        load_target(target, app)
    assert str(caught.value).startswith(fact)
    assert caught.value.__cause__ is not None
    assert ("broken" in sys.modules) is ("__getattr__" in body)


def test_app_dir_is_searched_first(app: Path) -> None:
    """A module of the application's directory is found; without the directory a hint is given."""
    with pytest.raises(InvalidTarget, match=r"the file app_one\.py is here: give --app-dir \."):
        load_target("app_one:Volumes")
    assert load_target("app_one:Volumes", ".").__name__ == "Volumes"
    assert load_target("app_one:Volumes.Inner", app).__name__ == "Inner"
    assert sys.path.count(str(app)) == 1


def test_app_dir_must_be_there(app: Path) -> None:
    """A directory that is not there is named."""
    with pytest.raises(InvalidTarget, match="there is no directory gone"):
        load_target("app_one:Volumes", "gone")


@pytest.mark.parametrize("prefix", ["", "./", "{app}/"])
def test_a_file_by_its_path(app: Path, prefix: str) -> None:
    """A file is loaded by path, finds modules beside it, and is loaded once for several targets."""
    file = prefix.format(app=app) + "app_one.py"
    assert load_target(f"{file}:Size")().value == 7
    assert load_target(f"{file}:Volumes") is load_target(f"{file}:Volumes")
    assert load_target(f"{file}:Volumes").__module__ == "app_one"


def test_a_file_named_like_a_module_of_python(app: Path) -> None:
    """A file does not take the place of a module that has its name."""
    (app / "collections.py").write_text("made = object()")
    made = load_target("collections.py:made")
    assert made is load_target("collections.py:made")
    assert sys.modules["collections"] is collections


def test_a_file_that_is_not_there(app: Path) -> None:
    """A wrong path is told with the closest file beside it."""
    with pytest.raises(
        InvalidTarget, match=r"no file app_on\.py \(did you mean 'app_one\.py'\?\), seen from"
    ):
        load_target("app_on.py:Volumes")
    with pytest.raises(InvalidTarget, match=r"no file \S+app_one \(did you mean 'app_one\.py'\?\)"):
        load_target(f"{app}/app_one:Volumes")


def test_a_file_that_is_no_python(app: Path) -> None:
    """A file whose name does not end with .py is refused."""
    (app / "app").write_text("")
    with pytest.raises(InvalidTarget, match=r"is no Python file; its name must end with \.py"):
        load_target("./app:x")


@pytest.mark.parametrize("target", ["app_one", "app_one.py", "app_one:", "app_one.py:"])
def test_without_an_attribute_candidates_are_offered(app: Path, target: str) -> None:
    """A target without an attribute is refused, with the managers and services that are there."""
    location = target.rstrip(":")
    with pytest.raises(InvalidTarget) as caught:
        load_target(target, app)
    assert str(caught.value) == (
        f"'{target}' names no attribute; write '{location}:Volumes'. "
        "Managers and services in it: Volumes, snapshots, service"
    )


def test_without_candidates_the_names_are_listed(app: Path) -> None:
    """Where there is no manager and no service, what is there is listed; imported modules are not."""
    (app / "plain.py").write_text("import json\nfrom asyncmgr.errors import InvalidTarget\nlimit = 5")
    with pytest.raises(
        InvalidTarget, match=r"no manager and no service in it; it has: InvalidTarget, limit$"
    ):
        load_target("plain", app)


@pytest.mark.parametrize("target", ["", ":", "no module", "1a:b"])
def test_what_cannot_be_a_target(target: str) -> None:
    """A text that names no module is refused with the two forms there are."""
    with pytest.raises(InvalidTarget, match=r"write 'module:attribute' or 'path/to/file\.py:attribute'"):
        load_target(target)


def test_the_package_itself_is_found() -> None:
    """The library's own classes are no candidates: they are not what anybody wants to run."""
    with pytest.raises(InvalidTarget, match="no manager and no service"):
        load_target(errors.__name__)
