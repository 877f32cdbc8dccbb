"""The page at ``/``: one HTML file with its style and script inside, and the policy that lets only these two run."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import re
from importlib.resources import files
from typing import NamedTuple


class Document(NamedTuple):
    """The page as it is sent. It has no facts in it: it asks for them."""

    html: bytes
    packed: bytes
    """The same, by gzip. It has no secrets in it, so that its length tells nothing."""
    policy: str
    """Its ``Content-Security-Policy``."""


@functools.cache
def document() -> Document:
    """Read the page, and compute its policy from the hashes of what is inside."""
    html = files(__name__).joinpath("page.html").read_text(encoding="utf-8")
    script, style = (_hash(_inside(html, tag)) for tag in ("script", "style"))
    return Document(
        html.encode(),
        gzip.compress(html.encode(), mtime=0),
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    )


def _inside(html: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert len(found) == 1, f"the page has to have one <{tag}>"
    return str(found[0])


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
