"""Sends log events to the application's structlog, and keeps local variables out of its tracebacks."""

from __future__ import annotations

import copy
from collections.abc import Coroutine
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from asyncmgr._common.log_errors import error_of, has_text, plain_traceback
from asyncmgr._common.safe_text import printable_lines

_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)


def configuration() -> dict[str, Any]:
    """Return structlog's present configuration as a value that can be compared later."""
    now = structlog.get_config()
    return {**now, "processors": [*now["processors"]]}


def send(level: str, event: str, keys: dict[str, Any]) -> None:
    """Log the event as the application configured structlog, but without local variables in tracebacks."""
    options: dict[str, Any] = {}
    error = error_of(keys.pop("exc_info", None))
    if error is not None:
        keys |= {"exc_info": error} if has_text(error) else {"exception": plain_traceback(error)}
        options["processors"] = without_locals(structlog.get_config()["processors"])
    if _is_asynchronous(structlog.get_config()["wrapper_class"]):
        options["wrapper_class"] = structlog.stdlib.BoundLogger
    # A new logger for each event: a cached one would keep the configuration of the moment when it was made.
    logger = structlog.wrap_logger(None, logger_factory_args=("asyncmgr",), **options)
    answer = getattr(logger, level)(event, **keys)
    if isinstance(answer, Coroutine):
        answer.close()  # the method of this bound logger is `async def`, and this function cannot await


def _is_asynchronous(wrapper: Any) -> bool:
    """Whether this is structlog's deprecated asynchronous logger, which logs in a thread."""
    known = getattr(structlog.stdlib, "AsyncBoundLogger", None)
    return known is not None and isinstance(wrapper, type) and issubclass(wrapper, known)


# Local variables hold passwords


def without_locals(processors: Any) -> Any:
    """Replace the processors that would print local variables of a traceback's frames; return all of them.

    Where there is nothing to replace, return the very same list, because `capture_logs` changes this list in place.
    """
    found = [_without_locals(one) for one in processors]
    return processors if all(new is old for new, old in zip(found, processors, strict=True)) else found


def _without_locals(processor: Processor) -> Processor:
    if isinstance(processor, structlog.dev.ConsoleRenderer):
        return _Plainly(processor)
    if isinstance(processor, structlog.processors.ExceptionRenderer):
        transform: Any = processor.format_exception
        if getattr(transform, "show_locals", False):
            transform = copy.copy(transform)
            transform.show_locals = False
            return structlog.processors.ExceptionRenderer(transform)
    return processor


class _Plainly:
    """A console renderer that prints Python's own traceback.

    Where `rich` is installed, structlog's renderer prints the traceback by it: this took 22 ms and printed local
    variables.
    """

    def __init__(self, renderer: structlog.dev.ConsoleRenderer) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, name: str, event: EventDict) -> str:
        error = error_of(event.pop("exc_info", None))
        text = event.pop("exception", None) if error is None else plain_traceback(error)
        line = self._renderer(logger, name, event)
        return line if text is None else f"{line}\n{printable_lines(text)}"
