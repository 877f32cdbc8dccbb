"""Takes comments and spare white space out of the page before it is sent. Pure.

Not a minifier: names and statements stay as they are written (but for `const`, which is sent as `let`), so that what
runs in the browser can be read.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""(?P<gap> (?: \s | //[^\n]* | /\*.*?\*/ )+ )
    | (?P<text> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
    | (?P<word> [\w$]+ )
    | (?P<sign> . )""",
    re.VERBOSE | re.DOTALL,
)
_REGEX = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_ENDS_VALUE = re.compile(r"[\w$)\]}`\"']")
"""After a value a slash divides; elsewhere it begins a regular expression, but for one right after ``if (...)``."""
_IN_TEMPLATE = re.compile(r"\\.|\$\{|`", re.DOTALL)

_GOES_ON_AFTER = frozenset("{([,;:?=&|<>*!.")
"""After these the end of a line ends no statement."""
_GOES_ON_BEFORE = frozenset("})],;:?=&|<>*.")


_HEADS = frozenset({"for", "if", "while", "with"})
"""After the brackets of these a semicolon is a statement; elsewhere the last one of a block says nothing."""


def strip_script(text: str) -> str:
    """Take comments and white space out of a script, but for the ends of lines that may end a statement."""
    return _strip(text, 0, until="")[0]


def _strip(text: str, at: int, *, until: str) -> tuple[str, int]:
    """Strip from this place to an unmatched `until`, or to the end of the text; return the end too."""
    kept: list[str] = []
    before_brackets: list[str] = []
    gap, depth, headed = "", 0, False
    while at < len(text):
        part, end, is_gap = _token(text, at, kept[-1] if kept else ";")
        depth += (part == "{") - (part == "}")
        if until and depth < 0:
            return "".join(kept), at
        at = end
        if is_gap:
            gap = "\n" if "\n" in part else " "
            continue
        if part == "(":
            before_brackets.append(kept[-1] if kept else "")
        elif part == ")":
            headed = before_brackets.pop() in _HEADS
        elif part == "}" and kept[-1:] == [";"] and not (headed and kept[-2:-1] == [")"]):
            kept.pop()
        if kept and gap:
            kept.extend(filter(None, [_between(kept[-1][-1], part[0], gap)]))
        kept.append(part)
        gap = ""
    return "".join(kept), at


def _token(text: str, at: int, before: str) -> tuple[str, int, bool]:
    """Read a token: its text, its end, and whether it is a gap, which is white space and comments."""
    found = _TOKEN.match(text, at)
    assert found is not None
    if found[0] == "`":
        return *_template(text, at + 1), False
    if found[0] == "/" and not _ENDS_VALUE.match(before[-1]):
        found = _REGEX.match(text, at)
        assert found is not None, text[at : at + 40]
    part = "let" if found[0] == "const" and before != "." else found[0]  # the same, and shorter
    return part, found.end(), found.lastgroup == "gap"


def _template(text: str, at: int) -> tuple[str, int]:
    """Read a template literal whose text begins here. What it says stays; the expressions in it are stripped."""
    kept = ["`"]
    while True:
        found = _IN_TEMPLATE.search(text, at)
        assert found is not None, "a template literal without an end"
        kept.append(text[at : found.end()])
        at = found.end()
        if found[0] == "`":
            return "".join(kept), at
        if found[0] == "${":
            expression, at = _strip(text, at, until="}")
            kept.append(expression)


def _between(before: str, after: str, gap: str) -> str:
    """Return what has to stand between two tokens that a gap was between."""
    if gap == "\n" and before not in _GOES_ON_AFTER and after not in _GOES_ON_BEFORE:
        return "\n"
    are_words = re.match(r"[\w$]{2}", before + after) is not None
    return " " if are_words or (before in "+-/" and after in "+-/") else ""


def strip_style(text: str) -> str:
    """Take comments and white space out of a style sheet. Its strings must not hold more than single spaces."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" ?([{};,>]) ?", r"\1", text)  # not ":", which a selector may have a space before
    return text.replace(": ", ":").replace(";}", "}").strip()


def strip_html(text: str) -> str:
    """Take the white space at both ends of each line out of a document."""
    return "\n".join(filter(None, map(str.strip, text.splitlines()))) + "\n"
