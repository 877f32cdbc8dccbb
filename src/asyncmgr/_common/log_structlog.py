"""Hands events to the structlog of the application."""

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
    """What structlog would use now, as a value to compare."""
    now = structlog.get_config()
    return {**now, "processors": [*now["processors"]]}


def send(level: str, event: str, keys: dict[str, Any]) -> None:
    """Log it as the application configured, but for the local variables in its tracebacks."""
    options: dict[str, Any] = {}
    error = error_of(keys.pop("exc_info", None))
    if error is not None:
        keys |= {"exc_info": error} if has_text(error) else {"exception": plain_traceback(error)}
        options["processors"] = without_locals(structlog.get_config()["processors"])
    if _is_asynchronous(structlog.get_config()["wrapper_class"]):
        options["wrapper_class"] = structlog.stdlib.BoundLogger
    # A new one for each event: where loggers are cached, an older one would keep a configuration that has changed.
    logger = structlog.wrap_logger(None, logger_factory_args=("asyncmgr",), **options)
    answer = getattr(logger, level)(event, **keys)
    if isinstance(answer, Coroutine):
        answer.close()  # a bound logger's own method that is `async def`: nobody here can await it


def _is_asynchronous(wrapper: Any) -> bool:
    """Whether it is the deprecated asynchronous logger, which is an ordinary one in front of a thread."""
    known = getattr(structlog.stdlib, "AsyncBoundLogger", None)
    return known is not None and isinstance(wrapper, type) and issubclass(wrapper, known)


# Local variables hold passwords


def without_locals(processors: Any) -> Any:
    """Give these processors, with those replaced that would print the local variables of a traceback's frames.

    The very same list where there are none, so that `capture_logs` can change it.
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
    """A console renderer with Python's own traceback.

    Its default is rich where that is installed, which took 22 ms a traceback and printed local variables.
    """

    def __init__(self, renderer: structlog.dev.ConsoleRenderer) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, name: str, event: EventDict) -> str:
        error = error_of(event.pop("exc_info", None))
        text = event.pop("exception", None) if error is None else plain_traceback(error)
        line = self._renderer(logger, name, event)
        return line if text is None else f"{line}\n{printable_lines(text)}"
