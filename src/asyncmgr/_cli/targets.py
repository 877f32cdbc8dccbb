"""Finds what a text names: ``module:attribute`` in settings; on the command line also a file.

If the text names nothing, the error says what is there instead.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import zlib
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from asyncmgr._settings.problems import listed, suggestion
from asyncmgr.errors import InvalidTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_MODULE = re.compile(_DOTTED)
_IMPORT_STRING = re.compile(rf"({_DOTTED}):({_DOTTED})")
_TARGET = re.compile(r"((?:[A-Za-z]:[\\/])?[^:]*):?(.*)", re.DOTALL)
# Compared by name, so that a look at a target does not import the runner.
_WANTED = {"asyncmgr._service.manager.Manager", "asyncmgr._service.service.Service"}


def is_import_string(value: object) -> TypeGuard[str]:
    """Whether `value` has the form ``module:attribute``."""
    return isinstance(value, str) and _IMPORT_STRING.fullmatch(value) is not None


def import_string(text: object) -> Any:
    """Import what ``"package.module:attribute.of_it"`` names.

    Raises
    ------
    InvalidTarget
        The text names nothing.
    """
    match = _IMPORT_STRING.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidTarget(f"{text!r} is not of the form 'module:attribute'{_corrected(text)}")
    return _find_attribute(_import_module(match[1]), match[2])


def load_target(text: str, app_dir: Path | str | None = None) -> Any:
    """Load ``module:attribute`` or ``path/to/file.py:attribute``.

    Puts `app_dir` at the front of ``sys.path``, and the directory of a file too, as ``python file`` does.

    Raises
    ------
    InvalidTarget
        The text names nothing.
    """
    if app_dir is not None:
        _put_on_path(Path(app_dir))
    match = _TARGET.fullmatch(text)
    location, attribute = match.groups() if match else (text, "")
    module = _load_file(Path(location)) if _is_file(location) else _import_module(location)
    if not attribute:
        raise InvalidTarget(f"{text!r} names no attribute{_offer(module, location)}")
    return _find_attribute(module, attribute)


def _corrected(text: object) -> str:
    if not isinstance(text, str) or ":" in text or not _MODULE.fullmatch(text) or "." not in text:
        return ""
    module, _, attribute = text.rpartition(".")
    return f"; write '{module}:{attribute}'"


def _is_file(location: str) -> bool:
    return location.endswith(".py") or "/" in location or "\\" in location


# Modules


def _import_module(name: str) -> ModuleType:
    if not _MODULE.fullmatch(name):
        raise InvalidTarget(f"{name!r} is no module; write 'module:attribute' or 'path/to/file.py:attribute'")
    try:
        with _explained(name):
            return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        raise InvalidTarget(_missing(exc.name or name)) from None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn an error in a module that is imported into `InvalidTarget`, except that the module itself is missing."""
    try:
        yield
    # SystemExit too: a script that calls main() when imported must not end the command line without a word.
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
            raise
        raise InvalidTarget(f"importing {name} raised {type(exc).__name__}: {exc}") from exc


def _missing(name: str) -> str:
    package, _, leaf = name.rpartition(".")
    if not package:
        here = f"; the file {name}.py is here: give --app-dir ." if Path(f"{name}.py").is_file() else ""
        known = [module.name for module in pkgutil.iter_modules()]
        return f"there is no module {name!r} on the import path{here or suggestion(name, known)}"
    path = getattr(sys.modules.get(package), "__path__", None)
    if path is None:
        return f"{package!r} is a module, not a package; write '{package}:{leaf}' for an attribute"
    known = [module.name for module in pkgutil.iter_modules(path)]
    return f"package {package!r} has no module {leaf!r}{suggestion(leaf, known)}; it has: {listed(known)}"


def _put_on_path(directory: Path) -> None:
    if not directory.is_dir():
        raise InvalidTarget(f"there is no directory {directory}")
    if str(directory.resolve()) not in sys.path:
        sys.path.insert(0, str(directory.resolve()))
    importlib.invalidate_caches()


# Files


def _load_file(file: Path) -> ModuleType:
    if not file.is_file():
        known = [path.name for path in file.parent.glob("*.py")]
        raise InvalidTarget(f"there is no file {file}{suggestion(file.name, known)}, seen from {Path.cwd()}")
    file = file.resolve()
    name = _module_name(file)
    # Two targets in one file share its module, and so its classes.
    return sys.modules[name] if name in sys.modules else _execute(file, name)


def _execute(file: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidTarget(f"{file} is no Python file; its name must end with .py")
    _put_on_path(file.parent)
    # Registered first: dataclasses and type hints look up their module by name.
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with _explained(name):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(file: Path) -> str:
    """Return the file's own name, unless another module has it: a ``queue.py`` must not replace Python's."""
    loaded = getattr(sys.modules.get(file.stem), "__file__", None)
    if loaded and Path(loaded).resolve() == file:
        return file.stem
    free = file.stem not in sys.modules and file.stem not in sys.stdlib_module_names
    return file.stem if free else f"{file.stem}_{zlib.crc32(bytes(file)):08x}"


# Attributes


def _find_attribute(module: ModuleType, dotted: str) -> Any:
    found: Any = module
    for depth, name in enumerate(parts := dotted.split(".")):
        try:
            found = getattr(found, name)
        except Exception as exc:
            owner = ".".join([module.__name__, *parts[:depth]])
            raise InvalidTarget(_no_attribute(owner, found, name, exc)) from exc
    return found


def _no_attribute(owner: str, found: object, name: str, exc: Exception) -> str:
    if not isinstance(exc, AttributeError):
        return f"looking up {name!r} in {owner} raised {type(exc).__name__}: {exc}"
    known = _public_names(found)
    return f"{owner} has no attribute {name!r}{suggestion(name, known)}; it has: {listed(known)}"


def _public_names(owner: object) -> list[str]:
    names = vars(owner) if isinstance(owner, ModuleType) else dir(owner)
    return [
        name for name in names if name[:1] != "_" and not isinstance(getattr(owner, name, None), ModuleType)
    ]


def _offer(module: ModuleType, location: str) -> str:
    names = _public_names(module)
    usable = [name for name in names if _is_usable(getattr(module, name, None))]
    if usable:
        return f"; write '{location}:{usable[0]}'. Managers and services in it: {listed(usable)}"
    return f", and there is no manager and no service in it; it has: {listed(names)}"


def _is_usable(value: object) -> bool:
    kind = value if isinstance(value, type) else type(value)
    if isinstance(value, type) and value.__module__.startswith("asyncmgr."):
        return False
    return any(f"{base.__module__}.{base.__qualname__}" in _WANTED for base in kind.__mro__)
