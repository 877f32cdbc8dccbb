"""What a NATS server takes from a user, at the start or later, and gives back: told at once, and retried."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.nats_servers import PATIENCE, eventually, killed
from tests.transports.nats_identities import operator_config_and_creds
from tests.transports.nats_peers import at, client_of, link_of, refusal, works

from asyncmgr._settings.model import Settings
from asyncmgr.errors import TransportError
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import Transport, open_transport
from asyncmgr.transports._nats import reconnect as nats_link


class Strict(NatsServer):
    """A server with one user, ``me:p``, whose permissions can be changed while it runs."""

    def __init__(self, permissions: str = "", *, jetstream: bool = False) -> None:
        super().__init__(self._table(permissions), jetstream=jetstream)

    def _table(self, permissions: str) -> str:
        return f"authorization {{ users: [ {{ user: me, password: p, permissions: {{ {permissions} }} }} ] }}"

    @property
    def url(self) -> str:
        return at(self, "me:p@")

    def permit(self, permissions: str) -> None:
        """From now on these."""
        self._config = self._table(permissions)
        (self._home / "server.conf").write_text(self._config)
        assert self._process
        self._process.send_signal(signal.SIGHUP)


DENIED = 'subscribe: { deny: ["lost", "lost.>"] }'


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_link, "RETAKE_FIRST", 0.01)
    monkeypatch.setattr(nats_link, "RETAKE_MOST", 0.05)
    monkeypatch.setattr(nats_link, "RECONNECT_FIRST", 0.02)


@pytest.mark.parametrize("group", [None, "servers"])
async def test_subscription_that_is_taken_away_and_given_back(group: str | None) -> None:
    """It is told as a problem until it is had again, and messages then come as before (41)."""
    changes: list[list[str]] = []
    async with (
        Strict() as server,
        open_transport(server.url) as one,
        one.subscribe("lost", group=group) as messages,
        one.subscribe("kept"),
    ):
        one.add_trouble_listener(lambda: changes.append(list(one.problems())))
        with capture_logs() as logged:
            server.permit(DENIED)
            await eventually(lambda: bool(one.problems()))
            assert one.connected
            (text,) = one.problems().values()
            assert text == "lost: the server lets this user not subscribe to it; permit it there"
            await asyncio.sleep(0.1)  # some tries
            server.permit("")
            await eventually(lambda: not one.problems())
        await one.publish("lost", b"again")
        assert (await asyncio.wait_for(anext(messages), PATIENCE)).data == b"again"
    assert changes == [["lost"], []]
    events = [event["event"] for event in logged]
    assert events == ["subscription.lost", "subscription.regained"]


async def test_reconnecting_during_the_denial() -> None:
    """The connection comes back without the route, which is a problem from then on, and comes back too (41)."""
    async with Strict() as server, open_transport(server.url) as one, one.subscribe("lost") as messages:
        async with killed(server, one):
            server._config = server._table(DENIED)
        assert list(one.problems()) == ["lost"]
        server.permit("")
        await eventually(lambda: not one.problems())
        await one.publish("lost", b"again")
        assert (await asyncio.wait_for(anext(messages), PATIENCE)).data == b"again"


async def test_lost_subscription_that_is_left() -> None:
    """It is no problem any more, and not asked for again (41)."""
    async with Strict() as server, open_transport(server.url) as one:
        async with one.subscribe("lost"):
            server.permit(DENIED)
            await eventually(lambda: bool(one.problems()))
        assert one.problems() == {}
        assert len(link_of(one)._routes.handlers) == 1


async def test_watch_whose_subject_is_taken_away() -> None:
    """Its reader is told that changes may be missed (41)."""
    async with Strict(jetstream=True) as server, open_transport(server.url) as one:
        store = await one.store("s", ttl=60)
        async with store.watch() as watch:
            await anext(watch)
            inbox = link_of(one)._inbox
            server.permit('subscribe: { deny: "_INBOX.>" }')
            with pytest.raises(TransportError, match="lets this user not subscribe"):
                await asyncio.wait_for(anext(watch), PATIENCE)
            await eventually(lambda: list(one.problems()) == [f"{inbox}*"])
            # Requests, whose answers could not come, fail at once.
            with pytest.raises(TransportError, match=r"not subscribe to _INBOX\.>, where answers come"):
                await one.request("x", b"", timeout=PATIENCE)


async def test_request_that_may_not_be_published() -> None:
    """Its caller is told at once, not after the timeout (46)."""
    async with (
        Strict('publish: { deny: ["b", "$JS.>"] }', jetstream=True) as server,
        open_transport(server.url) as one,
    ):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(
                TransportError, match=r"^b: the server lets this user not publish to it; permit"
            ):
                await one.request("b", b"", timeout=1000)
            with pytest.raises(TransportError, match=r"^\$JS\.API\.STREAM\.INFO\.KV_s: the server lets this"):
                await one.store("s", ttl=60)


async def test_publishing_what_is_refused() -> None:
    """The first is sent before anybody knows; then each is told, at once, until it is permitted again (46)."""
    async with Strict('publish: { deny: "b" }') as server, open_transport(server.url) as one:
        await one.publish("b", b"")
        await client_of(one).round_trip()
        for attempt in (one.publish("b", b""), one.publish("b", b"")):
            with pytest.raises(TransportError, match=r"^b: the server lets this user not publish to it"):
                await attempt
        results = await asyncio.gather(*(one.publish("b", b"") for _ in range(8)), return_exceptions=True)
        assert {type(result) for result in results} == {TransportError}
        server.permit("")
        async with asyncio.timeout(PATIENCE):
            while await _is_refused(one, "b"):
                await client_of(one).round_trip()
        assert "b" not in link_of(one)._suspects


async def _is_refused(transport: Transport, subject: str) -> bool:
    try:
        await transport.publish(subject, b"")
    except TransportError:
        return True
    return False


async def test_inbox_that_is_not_permitted() -> None:
    """The setting that helps is named, and helps (46, 44)."""
    async with Strict('subscribe: { allow: "mine.>" }') as server:
        text = await refusal(server.url)
        assert (
            "lets this user not subscribe to _INBOX.>, where answers come; permit it there, or set inbox_prefix"
            in text
        )
        async with (
            open_transport(server.url, Settings(nats={"inbox_prefix": "mine.in"})) as one,
            one.subscribe("mine.s") as requests,
        ):
            asking = asyncio.create_task(one.request("mine.s", b"", timeout=PATIENCE))
            reply_to = (await anext(requests)).reply_to
            assert reply_to
            assert reply_to.startswith("mine.in.")
            await one.publish(reply_to, b"yes")
            assert await asking == b"yes"


async def test_expired_credentials(tmp_path: Path) -> None:
    """They are told as that, with the file and the time; new ones are read at the next connect (46)."""
    config, creds = operator_config_and_creds()
    file = tmp_path / "me.creds"
    file.write_text(creds)
    async with NatsServer(config, jetstream=False) as server:
        assert await works(server.url, credentials_file=file)
        file.write_text(expired(creds))
        text = await refusal(server.url, credentials_file=file)
        assert f"the credentials in {file} expired at 2023-11-14 22:13:20 UTC; put new ones there" in text


def expired(creds: str) -> str:
    """With another token, whose time is over (and whose signature is none)."""
    begin, token, rest = creds.split("\n", 2)
    head, claims, signature = token.split(".")
    fields = json.loads(base64.urlsafe_b64decode(claims + "=="))
    changed = (
        base64.urlsafe_b64encode(json.dumps(fields | {"exp": 1_700_000_000}).encode()).decode().rstrip("=")
    )
    return "\n".join((begin, f"{head}.{changed}.{signature}", rest))
