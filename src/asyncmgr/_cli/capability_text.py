"""Capabilities in one line. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def in_short(capabilities: Mapping[str, Any]) -> str:
    """``cpus=4 load=0.5 disks=[2 items]``; the node's name is left out, as it stands beside."""
    return " ".join(f"{key}={_brief(value)}" for key, value in capabilities.items() if key != "node")


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{_count(len(value), 'key')}}}"
    if isinstance(value, list):
        return f"[{_count(len(value), 'item')}]"
    if isinstance(value, str) and _is_plain(value):
        return value
    # What cannot be printed is escaped, so that no capability moves the cursor.
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _is_plain(text: str) -> bool:
    """It needs no quotes to be told from its neighbours, and does nothing to a terminal."""
    return bool(text) and text.isprintable() and not any(sign in text for sign in ' ="')


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
