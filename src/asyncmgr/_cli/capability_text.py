"""Writes capabilities in one line. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def capabilities_in_short(capabilities: Mapping[str, Any]) -> str:
    """Write ``cpus=4 load=0.5 disks=[2 items]``; leaves out the node's name, which has a column of its own."""
    return " ".join(f"{key}={_brief(value)}" for key, value in capabilities.items() if key != "node")


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{_count(len(value), 'key')}}}"
    if isinstance(value, list):
        return f"[{_count(len(value), 'item')}]"
    if isinstance(value, str) and _is_plain(value):
        return value
    # Escape unprintable text, so that no capability moves the cursor.
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _is_plain(text: str) -> bool:
    """Whether the text needs no quotes to stand out from its neighbours, and does nothing to a terminal."""
    return bool(text) and text.isprintable() and not any(sign in text for sign in ' ="')


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
