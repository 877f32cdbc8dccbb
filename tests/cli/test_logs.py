"""What the command line writes of events whose texts come from elsewhere."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from asyncmgr._cli.logs import configure
from asyncmgr._common.log import log
from tests.unshowable import Anonymous


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def failure(text: str) -> ValueError:
    password = "hunter2"
    try:
        raise ValueError(text)
    except ValueError as exc:
        assert password
        return exc


def test_the_console_escapes_names_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that calls itself by a terminal escape clears no screen, and a line break forges no line."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure("info", "console", stream)
    log.error(
        "call.failed", method="a\x1b[2J\nb", error="two\nthings \x1b[3m", exc_info=failure("\x1b]0;title\x07")
    )
    logging.getLogger("app").error("two\nlines", exc_info=failure("\x1b[1m"))
    text = stream.getvalue()
    assert "method='a\\" in text
    assert "\nb" not in text
    assert "ValueError: \\x1b]0;title\\x07" in text
    assert "ValueError: \\x1b[1m" in text
    assert "\x1b" not in text
    assert "two\nlines" in text


def test_a_traceback_that_cannot_be_formatted_keeps_its_lines() -> None:
    """What stands in for it is text of several lines too."""
    stream = Terminal()
    configure("info", "console", stream)
    log.error("task.failed", exc_info=Anonymous("wrong row"))
    assert "\nAnonymous: wrong row\n" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_tracebacks_hold_no_local_variables(log_format: Any) -> None:
    """A password in a variable stays there, in both formats, for events of anybody's."""
    stream = io.StringIO()
    configure("info", log_format, stream)
    log.error("task.failed", exc_info=failure("broken"))
    logging.getLogger("app").error("oh", exc_info=failure("broken"))
    text = stream.getvalue()
    assert text.count("ValueError: broken") == 2
    assert "hunter2" not in text


def test_json_holds_the_texts_as_they_are() -> None:
    """JSON escapes by itself; nothing is escaped twice."""
    stream = io.StringIO()
    configure("info", "json", stream)
    log.warning("call.refused", method="a\x1b\nb", tasks=[{"task": "T.t"}])
    line = json.loads(stream.getvalue())
    assert (line["method"], line["tasks"]) == ("a\x1b\nb", [{"task": "T.t"}])
