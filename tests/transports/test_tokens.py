"""Names become tokens and come back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr.errors import InvalidName
from asyncmgr.transports._given import check_name
from asyncmgr.transports._tokens import TOKEN_LIMIT, decode_token, encode_token

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=TOKEN_LIMIT // 12)
tokens = st.text("=ABCDEF0123456789abcxyz_-ä.", max_size=12)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("compute", "compute"),
        ("Node_1-a", "Node_1-a"),
        ("", "="),
        ("=", "=3D"),
        ("node1.example.com", "node1=2Eexample=2Ecom"),
        ("a b", "a=20b"),
        ("*", "=2A"),
        (">", "=3E"),
        ("ä", "=C3=A4"),
        ("x\r\n", "x=0D=0A"),
        ("a" * 128, "a" * 128),
    ],
)
def test_examples(name: str, token: str) -> None:
    """The encoding of the contract, byte by byte, in both directions."""
    assert encode_token(name) == token
    assert decode_token(token) == name


@given(names)
def test_every_name_comes_back(name: str) -> None:
    """Any name is one legal token, and that token is this name."""
    token = encode_token(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,128}", token)
    assert check_name(f"{token}.{token}") == f"{token}.{token}"
    assert decode_token(token) == name


@given(tokens)
def test_each_token_has_one_spelling(token: str) -> None:
    """Text is refused, or is exactly what its name is encoded to: no two tokens mean one name."""
    try:
        name = decode_token(token)
    except InvalidName:
        return
    assert encode_token(name) == token


@pytest.mark.parametrize(
    "token", ["", "=4", "=2e", "=41", "==", "a.b", "a b", "=FF", "=C3", "ä", "=3d", "a" * 129, "a="]
)
def test_what_is_no_token(token: str) -> None:
    """Lower-case, needless, cut and non-UTF-8 escapes are refused, as is what is too long."""
    with pytest.raises(InvalidName, match="no token of a host"):
        decode_token(token, "host")


@pytest.mark.parametrize(("name", "size"), [("x" * 129, 129), ("." * 43, 129), ("ä" * 22, 132)])
def test_too_long(name: str, size: int) -> None:
    """A refusal says what is too long, by how much, and what to do."""
    with pytest.raises(
        InvalidName, match=rf"host .* takes {size} bytes .* at most 128 .* choose a shorter host"
    ):
        encode_token(name, "host")


def test_no_unicode() -> None:
    """What an undecodable machine name leaves behind cannot be sent, and is refused by name."""
    with pytest.raises(InvalidName, match=r"service .* is no Unicode text; choose a plain service"):
        encode_token("disk\udc80", "service")
