"""Log events reach the logging that the application has, and cost nothing but their line where that is broken."""

from __future__ import annotations

import gc
import io
import json
import logging
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from asyncmgr._common.log import is_structlog_configured, log
from asyncmgr._common.log_errors import plain_traceback
from tests.unshowable import Anonymous, Secretive, Unshowable


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Begin with structlog as it is imported, and leave it and the logger ``asyncmgr`` like that."""
    structlog.reset_defaults()
    logger = logging.getLogger("asyncmgr")
    handlers, level, propagates = [*logger.handlers], logger.level, logger.propagate
    yield
    structlog.reset_defaults()
    logger.handlers[:], logger.propagate = handlers, propagates
    logger.setLevel(level)


class Kept(logging.Handler):
    """Keeps records, as a service that collects errors does."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []
        self.raised: type[BaseException] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.raised is not None:
            raise self.raised


@pytest.fixture
def kept() -> Kept:
    handler = Kept()
    logging.getLogger("asyncmgr").addHandler(handler)
    return handler


def failure(text: object = "broken") -> ValueError:
    """Give an error that was raised where a local variable holds a secret."""
    password = "hunter2"
    try:
        raise ValueError(text)
    except ValueError as exc:
        assert password
        return exc


# The standard library's logging, where structlog is not configured


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a service with a task that fails, in a process of its own, after these lines."""
    body = """
        import asyncio, asyncmgr, asyncmgr.events

        class Bills(asyncmgr.Manager):
            @asyncmgr.periodic_task(spacing=3600, run_immediately=True)
            async def send(self, context):
                password = "hunter2"
                raise LookupError("no such bill")

        async def main():
            ended = asyncio.Event()
            service = asyncmgr.Service(Bills())
            service.add_listener(lambda event: ended.set(), asyncmgr.events.RunFinished)
            async with service:
                await ended.wait()

        asyncio.run(main())
    """
    text = textwrap.dedent(script) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize("rich", ["as it is", "not installed"])
def test_where_nothing_is_configured_warnings_reach_stderr(rich: str, tmp_path: Path) -> None:
    """Nothing goes to stdout, no local variable is printed, and the whole is a page, with rich and without."""
    said = run("" if rich == "as it is" else "import sys; sys.modules['rich'] = None\n", tmp_path)
    assert said.stdout == ""
    assert said.stderr.startswith("task.failed task=Bills.send run_id=")
    assert "LookupError: no such bill\n" in said.stderr
    assert "hunter2" not in said.stderr.replace('password = "hunter2"', "")
    assert len(said.stderr.splitlines()) < 30
    assert "service.started" not in said.stderr


def test_basic_config_to_a_file(tmp_path: Path) -> None:
    """`logging.basicConfig` sees the events, at its level and in its format."""
    said = run(
        "import logging\n"
        "logging.basicConfig(filename='out.log', level='INFO', format='%(levelname)s %(name)s: %(message)s')\n",
        tmp_path,
    )
    lines = (tmp_path / "out.log").read_text().splitlines()
    assert (said.stdout, said.stderr) == ("", "")
    assert lines[0].startswith("INFO asyncmgr: service.started service=bills host=")
    assert any(line.startswith("ERROR asyncmgr: task.failed task=Bills.send") for line in lines)
    assert "LookupError: no such bill" in lines


def test_a_dict_config_before_the_first_event_does_not_disable_the_logger(tmp_path: Path) -> None:
    """`dictConfig` disables the loggers that exist; importing this package makes none."""
    run(
        "import asyncmgr, logging.config\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'INFO', 'handlers': ['file']},\n"
        "    'handlers': {'file': {'class': 'logging.FileHandler', 'filename': 'out.log'}}})\n",
        tmp_path,
    )
    assert "task.failed" in (tmp_path / "out.log").read_text()


def test_caplog_sees_events(caplog: pytest.LogCaptureFixture) -> None:
    """A test of an application can look for them as for any other library's."""
    with caplog.at_level("INFO", "asyncmgr"):
        log.info("service.started", service="shop", tasks=3)
        log.debug("reply.lost")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("asyncmgr", "INFO")
    assert record.getMessage() == "service.started service=shop tasks=3"


def test_a_record_has_what_handlers_need(kept: Kept) -> None:
    """A constant template, the keys as attributes, the error, and the place that logged."""
    error = failure()
    log.error("task.failed", task="Bills.send", name="n", message="m", exc_info=error)
    (record,) = kept.records
    assert record.msg == "task.failed task=%(task)s name=%(name)s message=%(message)s"
    assert record.getMessage() == "task.failed task=Bills.send name=n message=m"
    assert (record.event, record.task, record.name_, record.message_) == (
        "task.failed",
        "Bills.send",
        "n",
        "m",
    )
    assert record.exc_info == (ValueError, error, error.__traceback__)
    assert (record.pathname, record.funcName) == (__file__, "test_a_record_has_what_handlers_need")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_the_place_is_the_callers_at_every_level(level: str, kept: Kept) -> None:
    """Also through `at`."""
    logging.getLogger("asyncmgr").setLevel("DEBUG")
    getattr(log, level)("a.b")
    log.at(level, "a.b")
    assert [(one.funcName, one.levelname) for one in kept.records] == [
        ("test_the_place_is_the_callers_at_every_level", level.upper())
    ] * 2


def test_the_place_is_the_callers_where_structlog_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `LoggerFactory` puts a class of loggers in place that looks for the caller by other rules."""
    before = logging.getLoggerClass()
    structlog.stdlib.LoggerFactory()
    monkeypatch.setattr("asyncmgr._common.log.LOGGER", "asyncmgr.structlogs")
    handler = Kept()
    try:
        logging.getLogger("asyncmgr.structlogs").addHandler(handler)
    finally:
        logging.setLoggerClass(before)
    log.error("task.failed")
    assert handler.records[0].funcName == "test_the_place_is_the_callers_where_structlog_finds_it"


def test_errors_are_grouped_by_their_template(kept: Kept) -> None:
    """A service that groups by the message sees one kind of event, however many tasks and texts it has."""
    for number in range(3):
        log.warning("task.still_failing", task=f"Bills.t{number}", error=f"ValueError: {number} 100%")
    assert len({record.msg for record in kept.records}) == 1
    assert kept.records[2].getMessage() == "task.still_failing task=Bills.t2 error=ValueError: 2 100%"


def test_a_key_that_a_record_factory_has_taken_is_kept_apart(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application's own attribute of all records is not overwritten, and refuses no event."""
    made = logging.getLogRecordFactory()

    def with_host(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made(*args, **kwargs)
        record.host = "theirs"
        return record

    logging.setLogRecordFactory(with_host)
    try:
        log.warning("clock.stepped", host="ours")
    finally:
        logging.setLogRecordFactory(made)
    (record,) = kept.records
    assert (record.host, record.host_) == ("theirs", "ours")


def test_messages_are_one_line_without_control_characters(kept: Kept) -> None:
    """A name from the wire forges no line of the log and moves no cursor."""
    log.warning("request.malformed", subject="a\nERROR root: b\x1b[2J", odd=[Unshowable()], seconds=1.5)
    (record,) = kept.records
    assert record.getMessage() == (
        "request.malformed subject=a\\nERROR root: b\\x1b[2J "
        "odd=['<Unshowable whose str() raised RuntimeError>'] seconds=1.5"
    )


# Levels


def test_a_level_of_the_logger_holds_on_both_ways(kept: Kept) -> None:
    """`getLogger("asyncmgr").setLevel` is asked where structlog shows the events too."""
    lines = configure_json()
    for level in ("WARNING", "ERROR"):
        logging.getLogger("asyncmgr").setLevel(level)
        log.warning("clock.stepped", seconds=2)
    assert [line["event"] for line in lines()] == ["clock.stepped"]
    structlog.reset_defaults()
    log.warning("clock.stepped", seconds=2)
    log.error("task.failed")
    assert [record.levelname for record in kept.records] == ["ERROR"]


def test_the_root_level_is_not_asked_for_structlog() -> None:
    """An application that prints with structlog alone has never set one, so that it stands at WARNING."""
    lines = configure_json()
    log.info("service.started")
    assert [line["event"] for line in lines()] == ["service.started"]


# structlog, where the application configured it


def configure_json(**more: Any) -> Any:
    """Configure structlog as applications do, and give a function that reads the lines."""
    stream = io.StringIO()
    processors = [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        **{"processors": processors, "logger_factory": structlog.WriteLoggerFactory(stream), **more}
    )
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("cached", [False, True])
def test_structlog_is_asked_at_each_event(cached: bool, kept: Kept) -> None:
    """Configured after the first event or again, it shows what comes from then on."""
    log.error("task.failed", task="one")
    first = configure_json(cache_logger_on_first_use=cached)
    log.error("task.failed", task="two", exc_info=failure())
    second = configure_json(cache_logger_on_first_use=cached)
    log.error("task.failed", task="three")
    assert [record.task for record in kept.records] == ["one"]
    (line,) = first()
    assert (line["task"], line["level"]) == ("two", "error")
    assert line["exception"].endswith("ValueError: broken")
    assert [line["task"] for line in second()] == ["three"]


def test_structlog_before_the_first_event(tmp_path: Path) -> None:
    """An application that configures JSON before it imports this package gets JSON, and nothing else."""
    said = run(
        """
        import structlog
        structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
        """,
        tmp_path,
    )
    events = [json.loads(line) for line in said.stdout.splitlines()]
    assert events[0]["event"] == "service.started"
    assert (
        "LookupError: no such bill"
        in next(one for one in events if one["event"] == "task.failed")["exception"]
    )
    assert said.stderr == ""


def test_capture_logs_leaves_no_configuration_behind(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It makes structlog say that it is configured, with its defaults: they would print to stdout."""
    with structlog.testing.capture_logs() as events:
        log.warning("clock.stepped", seconds=2)
    log.warning("clock.stepped", seconds=3)
    assert [event["seconds"] for event in events] == [2]
    assert structlog.is_configured()
    assert not is_structlog_configured()
    assert [record.getMessage() for record in caplog.records] == ["clock.stepped seconds=3"]
    assert capsys.readouterr().out == ""


def console() -> Any:
    return structlog.dev.ConsoleRenderer(colors=False)


@pytest.mark.parametrize("rich", ["as it is", "not installed"])
def test_structlogs_console_shows_no_local_variables(rich: str, tmp_path: Path) -> None:
    """Its default is a traceback by rich, which takes 22 ms and prints them; `rich` is not even asked here."""
    said = run(
        "import sys, structlog\n"
        + ("" if rich == "as it is" else "sys.modules['rich'] = None\n")
        + "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))\n"
        "try:\n"
        "    import rich.traceback\n"
        "    rich.traceback.Traceback.extract = None\n"
        "except ImportError:\n"
        "    pass\n",
        tmp_path,
    )
    assert "task.failed" in said.stdout
    assert "LookupError: no such bill" in said.stdout
    assert "hunter2" not in said.stdout
    assert len(said.stdout.splitlines()) < 30


def test_dictionaries_of_tracebacks_hold_no_local_variables() -> None:
    """`dict_tracebacks` writes the values of locals unless it is told not to; the rest of it stays."""
    lines = configure_json(
        processors=[structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    log.error("task.failed", exc_info=failure())
    (line,) = lines()
    (shown,) = line["exception"]
    assert shown["exc_type"] == "ValueError"
    assert shown["frames"][-1]["name"] == "failure"
    assert "hunter2" not in json.dumps(line)
    assert structlog.processors.dict_tracebacks.format_exception.show_locals  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("error")
async def test_the_asynchronous_logger_of_structlog_writes_its_lines(kept: Kept) -> None:
    """It is an ordinary logger in front of a thread, and is asked without the thread; nothing is left unawaited."""
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    log.error("task.failed", task="Bills.send")
    assert [(record.msg, record.task) for record in kept.records] == [("task.failed", "Bills.send")]
    gc.collect()


def test_the_asynchronous_logger_needs_no_loop(kept: Kept) -> None:
    """Some events come before or after the loop."""
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    log.error("service.failed")
    assert len(kept.records) == 1


def test_a_bound_logger_whose_methods_are_async_loses_the_line() -> None:
    """Its coroutine is closed, so that Python has nothing to warn of."""

    class Elsewhere(structlog.BoundLogger):
        async def error(self, event: str, **keys: Any) -> None:
            raise AssertionError

    structlog.configure(wrapper_class=Elsewhere)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        log.error("task.failed")
        gc.collect()
    assert warned == []


# What is broken


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit, structlog.DropEvent, TimeoutError])
def test_what_a_processor_raises_costs_the_line(raised: type[BaseException]) -> None:
    """The work that logs goes on."""

    def broken(*_: Any) -> Any:
        raise raised

    structlog.configure(processors=[broken])
    log.error("task.failed", exc_info=failure())


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit])
def test_what_a_handler_raises_costs_the_line(raised: type[BaseException], kept: Kept) -> None:
    """A handler that lets its errors out loses the record; the next event is tried again."""
    kept.raised = raised
    log.error("task.failed")
    log.error("task.failed")
    assert len(kept.records) == 2


@pytest.mark.parametrize("way", ["handler", "processor"])
def test_a_keyboard_interrupt_goes_through(way: str, kept: Kept) -> None:
    """Ctrl-C that arrives in a handler or a processor is the person's: nobody else would hear of it."""

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    kept.raised = KeyboardInterrupt
    if way == "processor":
        structlog.configure(processors=[interrupted])
    with pytest.raises(KeyboardInterrupt):
        log.error("task.failed")


def test_an_unknown_level_costs_the_line(kept: Kept) -> None:
    """A level that the settings let through by mistake stops no run."""
    log.at("loud", "task.succeeded")
    assert kept.records == []


# Errors that cannot be shown


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as exc:
        return exc


ODD = {
    "its text raises": ValueError(Unshowable()),
    "its notes raise": Secretive("wrong row"),
    "its class has no name": Anonymous("wrong row"),
    "its cause's notes raise": ValueError("wrong row"),
    "a member's notes raise": ExceptionGroup("wrong row", [Secretive("inner")]),
    "its notes are no list": ValueError("wrong row"),
}
setattr(ODD["its notes are no list"], "__notes__", 5)  # noqa: B010 - its type is a list's


@pytest.mark.parametrize("error", ODD.values(), ids=ODD)
@pytest.mark.parametrize("way", ["logging", "json", "console", "json by the handler"])
def test_an_error_that_resists_is_logged_all_the_same(error: Exception, way: str, kept: Kept) -> None:
    """There is a traceback with the line that raised it, and as much of its text as can be had."""
    cause = Secretive("cause") if error is ODD["its cause's notes raise"] else None
    error = raised(error, cause)  # type: ignore[assignment]
    stream = io.StringIO()
    if way == "console":
        structlog.configure(processors=[console()], logger_factory=structlog.PrintLoggerFactory(stream))
    elif way != "logging":
        lines = configure_json()
    log.error("task.failed", task="Bills.send", exc_info=error)
    if way == "logging":
        text = logging.Formatter().format(kept.records[0])
    else:
        text = stream.getvalue() if way == "console" else str(lines()[0]["exception"])
    assert "in raised" in text
    assert "Unshowable" in text or "<exception str() failed>" in text or "wrong row" in text


def test_a_traceback_is_pythons_own() -> None:
    """Where nothing resists, it is what Python prints, causes and all."""
    error = raised(ValueError("b"), failure("a"))
    assert plain_traceback(error) == "".join(traceback.format_exception(error)).rstrip("\n")


@pytest.mark.parametrize("exc_info", [None, False, (None, None, None), "no error"])
def test_no_error_is_no_traceback(exc_info: Any, kept: Kept) -> None:
    """`exc_info` that means nothing adds nothing."""
    log.error("task.failed", exc_info=exc_info)
    assert kept.records[0].exc_info is None


def test_true_means_the_error_being_handled(kept: Kept) -> None:
    """As everywhere in `logging`."""
    error = failure()
    try:
        raise error
    except ValueError:
        log.error("message.failed", exc_info=True)
    assert kept.records[0].exc_info[1] is error


def test_an_event_that_nobody_wants_does_no_work(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a record is made nor an error looked at below the logger's level."""
    monkeypatch.setattr("asyncmgr._common.log_records.send", None)
    monkeypatch.setattr("asyncmgr._common.log_structlog.send", None)
    logging.getLogger("asyncmgr").setLevel("CRITICAL")
    seen: list[Any] = []
    monkeypatch.setattr("asyncmgr._common.log_errors.has_text", seen.append)
    log.error("task.failed", exc_info=failure())
    assert (kept.records, seen) == ([], [])


def test_a_failure_is_formatted_once_however_many_frames_it_has(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a failing task costs is Python's one traceback: the error is looked at, and nothing is formatted to try."""
    logging.getLogger("asyncmgr").propagate = False  # to pytest's handler, which formats too
    calls: list[object] = []
    made = traceback.TracebackException.__init__

    def count(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(self)
        made(self, *args, **kwargs)

    monkeypatch.setattr(traceback.TracebackException, "__init__", count)
    log.error("task.failed", exc_info=failure())
    assert calls == []
    logging.Formatter().format(kept.records[0])
    assert len(calls) == 1
