"""The example messages on the page of the wire format mean what the page says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import Manager, RpcError, Service, Settings, open_transport, rpc
from asyncmgr._rpc.admission import EARLY_KEPT, NESTED_LIMIT, WAITING_LIMIT
from asyncmgr._rpc.messages import (
    ID_LIMIT,
    NAME_LIMIT,
    OFFERED_LIMIT,
    TEXT_LIMIT,
    THROUGH_LIMIT,
    Request,
    Withdrawal,
    decode_request,
    encode_error,
    read_reply,
    subject_of_any,
)
from asyncmgr.capabilities._announcement import Announcement
from asyncmgr.wire import NESTING, SIZE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "wire.md").read_text(encoding="utf-8")
VECTORS = {
    name: json.loads(block) for name, block in re.findall(r"```json vectors=(\w+)\n(.*?)```", PAGE, re.DOTALL)
}


def vectors(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[name], ids=range(len(VECTORS[name])))


@vectors("requests")
def test_messages_to_a_service(vector: dict[str, Any]) -> None:
    """Requests with all their fields, withdrawals, and what is neither."""
    message = vector["message"].encode()
    if "malformed" in vector:
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared
            decode_request(message)
        assert str(raised.value) == vector["malformed"]
        return
    read = decode_request(message)
    if "withdrawal" in vector:
        assert read == Withdrawal(vector["withdrawal"])
        return
    assert isinstance(read, Request)
    assert json.loads(json.dumps(dataclasses.asdict(read))) == vector["request"]
    assert decode_request(read.encode()) == read


@vectors("replies")
def test_replies_to_a_caller(vector: dict[str, Any]) -> None:
    """Results, errors by their kind, and what is an error without a name."""
    message = vector["message"].encode()
    if "result" in vector:
        assert read_reply(message) == vector["result"]
        return
    with pytest.raises(RpcError) as raised:
        read_reply(message)
    if vector["error"] is None:
        assert type(raised.value) is RpcError
    else:
        assert json.loads(encode_error(raised.value))["error"]["kind"] == vector["error"]


class Volumes(Manager):
    """The service of the page's conversation."""

    RPC_API_VERSION = "1.2"

    @rpc
    async def resize(self, volume: str, gib: int = 1) -> int:
        if gib < 0:
            raise ValueError("gib is negative")
        return gib


@pytest.mark.virtual_time
@vectors("conversation")
async def test_a_conversation(vector: dict[str, Any]) -> None:
    """Each request gets the reply beside it, to the last character of its text."""
    service = Service(Volumes(), host="n1", transport="memory://page", settings=Settings(seed=1))
    async with open_transport("memory://page") as transport, service:
        data = json.dumps(vector["request"]).encode()
        reply = json.loads(await transport.request(subject_of_any("volumes"), data, timeout=5))
        if vector["reply"].get("error", {}).get("kind") == "remote_error":
            assert reply["error"]["text"] == vector["reply"]["error"]["text"]
        assert reply == vector["reply"]


@vectors("announcements")
def test_announcements(vector: dict[str, Any]) -> None:
    """Those that a reader takes, and those that it leaves aside."""
    message = vector["message"].encode()
    if vector["read"]:
        read = Announcement.decode("compute.n1", message)
        assert Announcement.decode("compute.n1", read.encode()) == read
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - of several texts
            Announcement.decode("compute.n1", message)


def test_there_are_vectors_of_every_kind() -> None:
    """At least a dozen, so that the checks above are about something."""
    assert set(VECTORS) == {"requests", "replies", "conversation", "announcements"}
    assert sum(map(len, VECTORS.values())) >= 12


@pytest.mark.parametrize(
    "words",
    [
        f"at most 1 MiB ({SIZE:,} bytes) and {NESTING} levels deep",
        f"at most {ID_LIMIT} characters; unique",
        f"at most {NAME_LIMIT} characters; that of the interface",
        f"at most {THROUGH_LIMIT}; see",
        f"at most {TEXT_LIMIT:,} characters",
        f"versions; at most {OFFERED_LIMIT}",
        f"{WAITING_LIMIT:,} more wait for a place",
        f"at most {NESTED_LIMIT:,} of these in progress",
        f"the latest {EARLY_KEPT:,} ids",
        f"serves {Settings().rpc_concurrency} calls at once",
    ],
)
def test_the_limits_on_the_page_are_those_of_the_code(words: str) -> None:
    """A number that moves here moves there."""
    assert words in PAGE


def test_readme_leads_to_the_page() -> None:
    """By a link that is there."""
    assert "(docs/reference/wire.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
