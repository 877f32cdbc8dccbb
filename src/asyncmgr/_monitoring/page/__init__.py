"""The page at ``/``: one HTML document with its style and script inside, and the policy that lets only these two run.

`page.html` is its body, `page.css` its style; the scripts are one script in several files, in the order of `SCRIPTS`.
`strip` takes comments and white space out. There is no build: the files are put together when the page is first asked
for.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from importlib.resources import files
from typing import NamedTuple

from asyncmgr._monitoring.page.strip import strip_html, strip_script, strip_style

SCRIPTS = (
    "text",
    "known",
    "times",
    "taking",
    "connection",
    "standing",
    "needs",
    "rows",
    "drawing",
    "pointer",
    "drawer",
    "verbs",
    "choices",
    "frames",
)


class Document(NamedTuple):
    """The page as it is sent. It has no facts in it: it asks for them."""

    html: bytes
    packed: bytes
    """The same, by gzip. It has no secrets in it, so that its length tells nothing."""
    policy: str
    """Its ``Content-Security-Policy``."""


@functools.cache
def document() -> Document:
    """Put the page together, and compute its policy from the hashes of what is inside."""
    style = strip_style(_read("page.css"))
    script = strip_script("".join(_read(f"{name}.js") for name in SCRIPTS))
    html = strip_html(_read("page.html"))
    for tag, inside in (("style", style), ("script", script)):
        assert html.count(f"<{tag}></{tag}>") == 1, f"the page has to have one empty <{tag}>"
        html = html.replace(f"<{tag}></{tag}>", f"<{tag}>{inside}</{tag}>")
    return Document(
        html.encode(),
        gzip.compress(html.encode(), mtime=0),
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    )


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
