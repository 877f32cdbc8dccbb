"""Finds the context variables that hold a tracing span, and copies a context without them.

A span belongs to the work that opened it. A service works for weeks, and this work is no part of the request or
start-up during which the service was started.
"""

from __future__ import annotations

import contextvars
import re

_NAMES = frozenset({"current_context", "datadog_contextvar", "elasticapm_transaction_var"})
"""The variables of OpenTelemetry (span, baggage, suppressed instrumentation), ddtrace and Elastic APM."""


def without_spans(context: contextvars.Context) -> contextvars.Context:
    """Copy the context, but leave out the variables that hold a span: they have their default in the copy."""
    kept = contextvars.Context()  # a new one, since a copy cannot lose a variable
    for variable, value in context.items():
        if not holds_span(variable.name, value):
            kept.run(variable.set, value)
    return kept


def holds_span(name: str, value: object) -> bool:
    """Whether a tracing library keeps its current span in this variable.

    The variables of the common libraries are known by name. Another variable counts where its name has the word
    ``span`` in it, or where its value is an object of a class named ``Span`` or ``...Span``.
    """
    if name in _NAMES or re.search(r"(?<![a-z])spans?(?![a-z])", name.lower()):
        return True
    if name == "current_scope":  # Sentry's name for it, which others use too
        return type(value).__module__.partition(".")[0] == "sentry_sdk"
    return any(base.__name__.endswith("Span") for base in type(value).__mro__)
