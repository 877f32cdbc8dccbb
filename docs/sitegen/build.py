"""Builds the whole site below a directory: ``source`` is what Sphinx reads, ``html`` the site."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sitegen import check, tree, twins


def build(directory: Path) -> int:
    """Build and check the site; the exit code. Every warning is an error, and nothing is asked of the network."""
    from sphinx.cmd.build import main as sphinx

    begun = time.monotonic()
    directory = directory.resolve()
    source, site = directory / "source", directory / "html"
    tree.lay_out(source)
    arguments = [
        "-b",
        "html",
        "-W",
        "--keep-going",
        "-q",
        "-E",
        "-j",
        "auto",
        "-d",
        str(directory / "doctrees"),
    ]
    code = sphinx([*arguments, str(source), str(site)])
    twins.add_twins(source, site)
    (site / "llms.txt").write_text(twins.llms_txt(), encoding="utf-8")
    found = [*tree.problems(), *check.problems(site)]
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages in {time.monotonic() - begun:.1f} s: {site}/index.html")
    return code or int(bool(found))
