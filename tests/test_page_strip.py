"""What is taken out of the page before it is sent (13)."""

from __future__ import annotations

import pytest

from asyncmgr._monitoring.page import SCRIPTS, document
from asyncmgr._monitoring.page.strip import strip_html, strip_script, strip_style

STRIPPED = {
    "const a = 1; // one\n  const b = x.const;\n": "let a=1;let b=x.const;",
    "a = {}\nb = 2": "a={}\nb=2",
    "f()\n[1].map(g)": "f()\n[1].map(g)",
    "a\n  .b()": "a.b()",
    "return {\n  a,\n};": "return{a,};",
    "x = a + +b - -c": "x=a+ +b- -c",
    "x = a / b / c": "x=a/b/c",
    'x = /[/ ]  \\/ "/.test(a) ? /  b/ : 1': 'x=/[/ ]  \\/ "/.test(a)?/  b/:1',
    "x = (a) / 2 // half": "x=(a)/2",
    'x = "a // b  c" + \'d  "\'': 'x="a // b  c"+\'d  "\'',
    "x = `a  ${ f({ b: `c  ${d}` }) }  // e`": "x=`a  ${f({b:`c  ${d}`})}  // e`",
    "x = `\\`  \\${ `": "x=`\\`  \\${ `",
    "if (a) return b; /* c\n */ else typeof d": "if(a)return b;else typeof d",
    "{ a(); b = 1; } { while (c(1)) ; }": "{a();b=1}{while(c(1));}",
    "a = b in c": "a=b in c",
    "a = b\n/* c */ + d": "a=b\n+d",
}


@pytest.mark.parametrize(("script", "stripped"), STRIPPED.items())
def test_a_script_means_the_same(script: str, stripped: str) -> None:
    """Strings, templates and regular expressions stay; so does the end of a line that may end a statement."""
    assert strip_script(script) == stripped
    assert strip_script(stripped) == stripped


def test_a_style_means_the_same() -> None:
    """A space before a colon is a descendant in a selector; `calc` needs its spaces."""
    style = 'a :hover, b > c { width: calc(1px + 2px); /* why */ font: "Segoe UI" }\n@media (max-width: 3px) { d { } }'
    stripped = 'a :hover,b>c{width:calc(1px + 2px);font:"Segoe UI"}@media (max-width:3px){d{}}'
    assert strip_style(style) == stripped
    assert strip_style(stripped) == stripped


def test_a_document_keeps_the_ends_of_its_lines() -> None:
    """They are white space between words."""
    assert strip_html("<p>\n  a\n\n  b</p>\n") == "<p>\na\nb</p>\n"


def test_it_is_light() -> None:
    """Less than 60 kB, and a third of that by gzip."""
    assert len(document().html) < 60_000
    assert len(document().packed) < 23_000


def test_all_of_the_page_is_in_it() -> None:
    """Each script is there, in its order, without its comments; nothing ends the script early."""
    html = document().html.decode()
    places = [html.index(name) for name in ('"use strict"', "let S=", "let drawer=", "setInterval(forget")]
    assert places == sorted(places)
    assert len(SCRIPTS) == 14
    assert "// " not in html.replace("http://", "")
    assert (html.count("<script>"), html.count("</script>")) == (1, 1)
