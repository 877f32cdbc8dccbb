"""Completes targets, options and tasks in a shell.

Finds targets by reading files, without running them. Finds the names of tasks by loading the targets that are already
written, as the command itself would.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from asyncmgr._cli.loading import load_service
from asyncmgr._cli.tasks import tasks_of
from asyncmgr._settings.sources import APP_VARIABLE

_FILES_AT_MOST = 200
"""Most files that one completion reads."""


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ``module:attribute`` or ``path/to/file.py:attribute``."""
    words = ctx.params.get(param.name or "") or ()
    app_dir = Path(ctx.params.get("app_dir") or ".")
    found = [CompletionItem(target) for target in _targets(words, incomplete, app_dir)]
    # No target yet: let the shell complete files.
    return found or [CompletionItem(incomplete, type="file")]


def complete_task(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the full name of a task of the targets; also its own name, if that is what was begun."""
    # If the last option needs a value, click parses no arguments: all words are left over.
    words = next((ctx.params[name] for name in ("targets", "words") if ctx.params.get(name)), ctx.args)
    return [CompletionItem(name) for name in _tasks(words, ctx.params.get("app_dir") or ".", incomplete)]


def complete_target_or_task(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete tasks once there is a target; and targets, as there may be several."""
    tasks = (
        []
        if _is_attribute(ctx.params.get(param.name or "") or (), incomplete)
        else (complete_task(ctx, param, incomplete))
    )
    return tasks or complete_target(ctx, param, incomplete)


# Tasks


def _tasks(words: Sequence[str], app_dir: str, incomplete: str) -> list[str]:
    targets = [word for word in _joined(words) if ":" in word] or os.environ.get(APP_VARIABLE, "").split()
    if not targets:
        return []
    silent = io.StringIO()
    try:
        # Also silence what the target prints and logs on import: this runs inside the user's prompt.
        with contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
            tasks = tasks_of(load_service(targets, app_dir))
    except (Exception, SystemExit):
        return []
    names = [name for task in tasks for name in (task.full_name, task.name)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete) and name.isprintable()]


# Targets. bash ends a word at a colon: "app.py:Vol" arrives as the words "app.py", ":" and "Vol".


def _joined(words: Sequence[str]) -> list[str]:
    joined: list[str] = []
    for word in words:
        if joined and (word == ":" or joined[-1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _is_attribute(words: Sequence[str], incomplete: str) -> bool:
    return ":" in incomplete or (len(words) > 1 and words[-1] == ":")


def _targets(words: Sequence[str], incomplete: str, app_dir: Path) -> Iterator[str]:
    if incomplete == ":" and words:
        yield from _attributes(words[-1], "", app_dir)
    elif ":" in incomplete:
        location, _, attribute = incomplete.rpartition(":")
        yield from (f"{location}:{name}" for name in _attributes(location, attribute, app_dir))
    elif _is_attribute(words, incomplete):
        yield from _attributes(words[-2], incomplete, app_dir)
    else:
        for location, file in _located(incomplete, app_dir):
            yield from (f"{location}:{name}" for name in targets_in(file))


def _attributes(location: str, start: str, app_dir: Path) -> list[str]:
    path = location if location.endswith(".py") else location.replace(".", "/")
    candidates = (
        [Path(path)] if location.endswith(".py") else [app_dir / f"{path}.py", app_dir / path / "__init__.py"]
    )
    file = next((one for one in candidates if one.is_file()), None)
    return [name for name in targets_in(file) if name.startswith(start)] if file is not None else []


def _located(incomplete: str, app_dir: Path) -> Iterator[tuple[str, Path]]:
    """Find the files whose path or module name begins with the incomplete word, each as a target names it."""
    if "." in incomplete and "/" not in incomplete and not Path(incomplete).exists():
        package, _, start = incomplete.rpartition(".")
        for file in _python_files(app_dir / package.replace(".", "/"), start):
            yield f"{package}.{file.stem}", file
    directory, start = os.path.split(incomplete)
    files = list(_python_files(Path(directory), start))
    with contextlib.suppress(OSError):
        below = [
            one for one in Path(directory or ".").iterdir() if one.is_dir() and one.name.startswith(start)
        ]
        files += [file for one in sorted(below) if one.name.isidentifier() for file in _python_files(one, "")]
    for file in files[:_FILES_AT_MOST]:
        yield str(file), file


def _python_files(directory: Path, start: str) -> list[Path]:
    return sorted(file for file in directory.glob("*.py") if file.name.startswith(start))


def targets_in(file: Path) -> list[str]:
    """List the names in a Python file that can be run, as far as its text shows. Executes nothing."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    known = {"Manager", "SchedulerDependentManager"}
    found: list[str] = []
    for statement in tree.body:
        for name in _usable(statement, known):
            known.add(name)
            found.append(name)
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def _usable(statement: ast.stmt, known: set[str]) -> Iterator[str]:
    """Yield the name of a manager class, a manager, a service, or a function that is annotated to return one."""
    match statement:
        case ast.ClassDef(name=name, bases=bases) if any(_last(base) in known for base in bases):
            yield name
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=made))
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=made))
        ) if _last(made) in {*known, "Service"}:
            yield name
        case ast.FunctionDef(name=name, returns=ast.expr() as returns) if _mentions(
            returns, {*known, "Service"}
        ):
            yield name
        case _:
            return


def _last(expression: ast.expr) -> str:
    """Return the last part of a dotted name."""
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _mentions(annotation: ast.expr, names: set[str]) -> bool:
    return any(isinstance(node, ast.expr) and _last(node) in names for node in ast.walk(annotation))
