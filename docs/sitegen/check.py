"""Looks through a built site for what a reader would stumble over: broken links, and requests to other sites."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_OUTSIDE = re.compile(r"^(https?:)?//")
_IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)['"]?((?:https?:)?//[^'")\s]+)""")
_MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")
_LOADED = {"script", "img", "iframe", "source", "video", "audio", "embed", "object", "track"}
_LOADED_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest"}


class Page(HTMLParser):
    """What an HTML page has: anchors, links, and what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names, links to or loads."""
        given = {key: value for key, value in attrs if value is not None}
        self.anchors.update(given[key] for key in ("id", "name") if key in given)
        self.loaded += _IN_STYLE.findall(given.get("style", ""))
        if tag in _LOADED:
            self.loaded += [given[key] for key in ("src", "data", "poster") if key in given]
        elif tag == "link" and _LOADED_RELATIONS.intersection(given.get("rel", "").split()):
            self.loaded.append(given.get("href", ""))
        elif tag in ("a", "link") and "href" in given:
            self.links.append(given["href"])

    def handle_data(self, data: str) -> None:
        """Note what a style inside the page loads."""
        self.loaded += _IN_STYLE.findall(data)


def problems(site: Path) -> Iterator[str]:
    """Everything that is wrong, a line each."""
    for path in sorted(site.rglob("*.html")):
        page = _page(path)
        name = path.relative_to(site)
        for address in page.loaded:
            if _OUTSIDE.match(address):
                yield f"{name}: the browser would load {address} from another site"
            elif why := _broken(path, address, site):
                yield f"{name}: {address} {why}"
        yield from (f"{name}: {link} {why}" for link in page.links if (why := _broken(path, link, site)))
    for path in sorted(site.rglob("*.css")):
        for address in _IN_STYLE.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: the browser would load {address} from another site"
    for path in [*site.rglob("*.md"), site / "llms.txt"]:
        if "files" not in path.relative_to(site).parts:
            yield from _of_text(path, site)


def _of_text(path: Path, site: Path) -> Iterator[str]:
    text = re.sub(
        r"^ *```.*?^ *```$|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for link in _MARKDOWN_LINK.findall(text):
        target = path.parent / urlsplit(link).path
        if not urlsplit(link).scheme and urlsplit(link).path and not target.exists():
            yield f"{path.relative_to(site)}: {link} leads nowhere"


@cache
def _page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def _broken(path: Path, address: str, site: Path) -> str | None:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not address:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site) or not target.exists():
        return "leads nowhere"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _page(target).anchors:
        return "has no such place on its page"
    return None
