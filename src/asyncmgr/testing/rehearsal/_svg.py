"""The few elements of SVG that the picture needs. Pure; every text is escaped here and nowhere else."""

from __future__ import annotations

from xml.sax.saxutils import escape

from asyncmgr._common.safe_text import printable

_LONGEST = 2000


def safe(words: str) -> str:
    """Escape a text: what XML cannot hold (control characters, lone surrogates) becomes an escape of Python."""
    return escape(printable(words, _LONGEST), {'"': "&quot;"})


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Write words at a place; `kind` are classes of the style."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{safe(words)}</text>'


def rect(
    x: float, y: float, width: float, height: float, kind: str, *, radius: float = 0, title: str = ""
) -> str:
    """Draw a rectangle."""
    round_ = f' rx="{radius:g}"' if radius else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    if not title:
        return f'<rect {place}{round_} class="{kind}"/>'
    return f'<rect {place}{round_} class="{kind}"><title>{safe(title)}</title></rect>'


def titled(element: str, title: str) -> str:
    """Put an element into a group that has a title."""
    return f"<g>{element}<title>{safe(title)}</title></g>"
