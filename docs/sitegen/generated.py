"""The pages of the reference that are made from the code, by their path below ``reference/``."""

from __future__ import annotations

from sitegen import commands, events, metrics, names, settings

PATHS = (
    "settings.md",
    "commands.md",
    "exit-codes.md",
    "metrics.md",
    *(f"api/{name}.md" for name in names.MODULES),
)


def pages() -> dict[str, str]:
    """All of them."""
    found: dict[str, str] = {}
    for part in (settings, commands, events, metrics, names):
        found.update(part.pages())
    return found
