"""Which context variables hold a tracing span, and a copy of a context without them.

A span belongs to the work that opened it. What a service does for weeks is no part of the request or of the start-up
in which somebody happened to start it.
"""

from __future__ import annotations

import contextvars
import re

_NAMES = frozenset({"current_context", "datadog_contextvar", "elasticapm_transaction_var"})
"""Of OpenTelemetry (its whole context: span, baggage, suppressed instrumentation), ddtrace and Elastic APM."""


def without_spans(context: contextvars.Context) -> contextvars.Context:
    """A copy that lacks the variables which hold a span; they have their default there."""
    kept = contextvars.Context()  # nothing can be taken out of a copy
    for variable, value in context.items():
        if not holds_span(variable.name, value):
            kept.run(variable.set, value)
    return kept


def holds_span(name: str, value: object) -> bool:
    """Whether this is where a tracing library keeps its current span.

    The contextvars of the common libraries are known by name. Of others a variable counts that has the word ``span``
    in its name, or whose value is a span: an object of a class named ``Span`` or ``...Span``.
    """
    if name in _NAMES or re.search(r"(?<![a-z])spans?(?![a-z])", name.lower()):
        return True
    if name == "current_scope":  # a common name, and Sentry's
        return type(value).__module__.partition(".")[0] == "sentry_sdk"
    return any(base.__name__.endswith("Span") for base in type(value).__mro__)
