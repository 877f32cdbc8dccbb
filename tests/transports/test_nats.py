"""What nats:// promises beyond the contract of transports: credentials, secrets, outages and crowds."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import nats
import pytest
from structlog.testing import capture_logs
from tests.lives import turns
from tests.nats_servers import PATIENCE, eventually, killed
from tests.transports.nats_identities import Certificates, Key, operator_config_and_creds
from tests.transports.nats_peers import (
    SECRET,
    Pretender,
    at,
    client_of,
    count_calls,
    link_of,
    refusal,
    works,
)

from asyncmgr._settings.model import NatsSettings, Settings
from asyncmgr.errors import InvalidName, MessageTooLarge, NoResponders, TransportClosed, TransportError
from asyncmgr.testing.nats import NatsServer
from asyncmgr.transports import (
    SNAPSHOT_DONE,
    Entry,
    Transport,
    open_transport,
)
from asyncmgr.transports._nats import connection as nats_client
from asyncmgr.transports._nats import reconnect as nats_link
from asyncmgr.transports._nats import store as nats_store
from asyncmgr.transports._nats.options import read_options


async def after_turns(count: int, act: Callable[[], object]) -> None:
    """Do it when the loop has turned so often."""
    await turns(count)
    act()


# Credentials


@pytest.fixture(scope="module")
def user_server() -> Iterator[NatsServer]:
    with NatsServer(f"authorization {{ user: me, password: {SECRET} }}", jetstream=False) as server:
        yield server


@pytest.fixture(scope="module")
def token_server() -> Iterator[NatsServer]:
    with NatsServer(f"authorization {{ token: {SECRET} }}", jetstream=False) as server:
        yield server


async def test_user_and_password(user_server: NatsServer) -> None:
    """They may be in the settings or in the URL."""
    assert await works(user_server.url, user="me", password=SECRET)
    assert await works(at(user_server, f"me:{SECRET}@"))


async def test_token(token_server: NatsServer) -> None:
    """It may be in the settings or in the URL."""
    assert await works(token_server.url, token=SECRET)
    assert await works(at(token_server, f"{SECRET}@"))


async def test_nkey(tmp_path: Path) -> None:
    """The file holds the seed, the server knows the public key."""
    key, file = Key.make(), tmp_path / "seed"
    file.write_text(key.seed + "\n")
    async with NatsServer(
        f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}", jetstream=False
    ) as server:
        assert await works(server.url, nkey_seed_file=file)
        file.write_text(Key.make().seed)
        assert "refuses the credentials given" in await refusal(server.url, nkey_seed_file=file)


async def test_credentials_file(tmp_path: Path) -> None:
    """The file holds a user's signed token and seed."""
    config, creds = operator_config_and_creds()
    file = tmp_path / "me.creds"
    file.write_text(creds)
    async with NatsServer(config, jetstream=False) as server:
        assert await works(server.url, credentials_file=file)
        assert "asks for credentials" in await refusal(server.url)


@pytest.mark.parametrize(
    ("userinfo", "table"),
    [
        (f"me:{SECRET}x@", {}),
        (f"{SECRET}x@", {}),
        ("", {"user": "me", "password": f"{SECRET}x"}),
        ("", {"token": f"{SECRET}x"}),
    ],
)
async def test_wrong_credentials(user_server: NatsServer, userinfo: str, table: dict[str, str]) -> None:
    """The error names server, fact and cure, and shows no secret."""
    text = await refusal(at(user_server, userinfo), **table)
    assert text == (
        f"127.0.0.1:{user_server.port} refuses the credentials given; "
        "set user and password, token, nkey_seed_file or credentials_file in [nats]"
    )


async def test_no_credentials(user_server: NatsServer) -> None:
    """A server that asks for some where none are set is told from one that refuses them."""
    assert "asks for credentials; set user and password" in await refusal(user_server.url)


async def test_nothing_shows_secrets(user_server: NatsServer) -> None:
    """Neither the transport's text nor what is logged of a loss and a return holds the password."""
    async with NatsServer(f"authorization {{ user: me, password: {SECRET} }}", jetstream=False) as server:
        with capture_logs() as logged:
            async with open_transport(at(server, f"me:{SECRET}@")) as transport, killed(server, transport):
                pass
        assert len(logged) >= 2
        assert SECRET not in repr(logged) + repr(vars(transport)) + repr(vars(transport._link))  # type: ignore[attr-defined]


async def test_settings_are_read_where_none_are_given(
    user_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a transport by its URL alone uses the credentials of the environment and the files too."""
    monkeypatch.setenv("ASYNCMGR_NATS__USER", "me")
    monkeypatch.setenv("ASYNCMGR_NATS__PASSWORD", SECRET)
    async with open_transport(user_server.url) as transport:
        assert transport.connected


# TLS


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates) -> Iterator[NatsServer]:
    with NatsServer(certificates.config(), jetstream=False) as server:
        yield server


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_tls(tls_server: NatsServer, certificates: Certificates, scheme: str) -> None:
    """With the CA and the name of the certificate all is well."""
    url = at(tls_server, scheme=scheme)
    assert await works(url, tls_ca_file=certificates.ca, tls_hostname="nats.test")


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_tls_is_always_verified(
    tls_server: NatsServer, certificates: Certificates, scheme: str
) -> None:
    """An unknown CA and a wrong name are refused, with the settings that could be meant, whoever asked for TLS."""
    url = at(tls_server, scheme=scheme)
    for table in ({}, {"tls_hostname": "nats.test"}, {"tls_ca_file": certificates.ca}):
        text = await refusal(url, **table)
        assert "no TLS comes about" in text
        assert "see tls_ca_file, tls_cert_file and tls_hostname of [nats]" in text


async def test_client_certificate(certificates: Certificates) -> None:
    """Where the server verifies its clients, the certificate of the settings is shown."""
    table = {"tls_ca_file": certificates.ca, "tls_hostname": "nats.test"}
    shown = {"tls_cert_file": certificates.cert, "tls_key_file": certificates.key}
    async with NatsServer(certificates.config(verify="true"), jetstream=False) as server:
        assert await works(at(server, scheme="tls"), **table, **shown)
        await refusal(at(server, scheme="tls"), **table)


async def test_no_tls_where_it_is_wanted() -> None:
    """A server without TLS is refused before it gets any credentials."""
    async with Pretender(b'INFO {"server_id": "x", "max_payload": 1048576, "headers": true}\r\n') as server:
        text = await refusal(f"tls://me:{SECRET}@{server}")
        await server.left.wait()
    assert text == (
        f"{server} offers no TLS, which tls:// or a tls_ setting asks for; enable it there, or use nats://"
    )
    assert not server.received


async def test_tls_that_is_offered_is_used(certificates: Certificates) -> None:
    """tls:// takes up TLS also where the server leaves it to its clients."""
    async with NatsServer(certificates.config() + "allow_non_tls: true", jetstream=False) as server:
        assert await works(server.url)
        assert await works(at(server, scheme="tls"), tls_ca_file=certificates.ca, tls_hostname="nats.test")
        assert "no TLS comes about" in await refusal(at(server, scheme="tls"))


async def test_tls_outage(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection with TLS that is lost comes back too."""
    monkeypatch.setattr(nats_link, "RECONNECT_FIRST", 0.02)
    table = {"tls_ca_file": certificates.ca, "tls_hostname": "nats.test"}
    async with (
        NatsServer(certificates.config(), jetstream=False) as server,
        open_transport(server.url, Settings(nats=table)) as transport,
    ):
        async with killed(server, transport):
            pass
        await transport.publish("s", b"")


# Connecting


async def test_nobody_answers(nats_server: NatsServer) -> None:
    """The error names host and port without what stands before them, the reason and the cure."""
    nats_server.kill()
    text = await refusal(at(nats_server, f"me:{SECRET}@"))
    assert text.startswith(f"no NATS server answers at 127.0.0.1:{nats_server.port} (")
    assert text.endswith("; start it, or correct the transport URL")


async def test_silent_server() -> None:
    """What accepts the connection and says nothing is given up after `connect_timeout`."""
    async with Pretender() as server:
        text = await refusal(f"nats://{server}", connect_timeout=0.1)
        assert text.startswith(f"no NATS server answers at {server} (not within 0.1 s)")
        await server.left.wait()


async def test_no_nats_server() -> None:
    """What speaks something else is told from a server that is not there."""
    async with Pretender(b"220 mail.test ESMTP\r\n") as server:
        assert f"{server} does not accept the connection" in await refusal(f"nats://{server}")


async def test_one_of_several_servers(nats_server: NatsServer) -> None:
    """One that answers is enough; where none does, each is named."""
    dead = "127.0.0.1:1"
    for _ in range(4):
        assert await works(f"nats://{dead},127.0.0.1:{nats_server.port}")
    nats_server.kill()
    text = await refusal(f"nats://{dead},127.0.0.1:{nats_server.port}")
    assert dead in text
    assert f"127.0.0.1:{nats_server.port}" in text


async def test_cancelled_while_connecting() -> None:
    """Who gives up connecting leaves no socket and no task behind."""
    async with Pretender() as server:
        opening = asyncio.create_task(works(f"nats://{server}"))
        await server.reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await server.left.wait()


async def test_cancelled_again_while_connecting(nats_server: NatsServer) -> None:
    """At whichever step, and at each turn of the loop, as anyio does: nothing of the connection is left."""
    before = asyncio.all_tasks()
    for step in range(20):
        with anyio.CancelScope() as scope:
            cancelling = asyncio.create_task(after_turns(step, scope.cancel))
            await works(nats_server.url)
        await cancelling
    async with Pretender() as server:
        with anyio.move_on_after(0.05):
            await works(f"nats://{server}")
        await asyncio.wait_for(server.left.wait(), PATIENCE)
    await eventually(lambda: asyncio.all_tasks() <= before)


# Outages


async def test_one_event_for_each_change(nats_server: NatsServer) -> None:
    """However many attempts it takes, an outage is two log events."""
    with capture_logs() as logged:
        async with open_transport(nats_server.url) as transport:
            link = link_of(transport)
            attempts = count_calls(link, "_connect_any")
            async with killed(nats_server, transport):
                await eventually(lambda: len(attempts) >= 3)
    server = f"127.0.0.1:{nats_server.port}"
    assert [(event["event"], event["server"]) for event in logged] == [
        ("transport.disconnected", server),
        ("transport.reconnected", server),
    ]


async def test_refused_on_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are no longer accepted are said once in an outage, and tried again for ever."""
    monkeypatch.setattr(nats_link, "RECONNECT_FIRST", 0.01)
    monkeypatch.setattr(nats_link, "RECONNECT_MOST", 0.05)
    async with (
        NatsServer(jetstream=False) as server,
        open_transport(at(server, f"me:{SECRET}@")) as transport,
    ):
        attempts = count_calls(link_of(transport), "_connect_any")
        server._config = "authorization { user: me, password: other }"
        with capture_logs() as logged:
            await asyncio.to_thread(server.restart)
            await eventually(lambda: len(attempts) >= 5)
            assert not transport.connected
            server._config = ""
            await asyncio.to_thread(server.restart)
            await eventually(lambda: transport.connected)
    events = [event["event"] for event in logged]
    assert events == ["transport.disconnected", "transport.refused", "transport.reconnected"]
    assert SECRET not in repr(logged)


async def test_many_do_not_return_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay before each attempt is random, and its bound doubles up to a limit."""
    bounds: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr("random.uniform", draw)
    async with NatsServer(jetstream=False) as server, open_transport(server.url) as transport:
        server.kill()
        await eventually(lambda: len(bounds) >= 7)
        assert not transport.connected
    assert bounds[:7] == [(0, 0.5), (0, 1), (0, 2), (0, 4), (0, 8), (0, 8), (0, 8)]


async def test_nothing_is_kept_for_later(nats_server: NatsServer) -> None:
    """What is published during an outage is refused, and not sent after it."""
    async with open_transport(nats_server.url) as one, one.subscribe("kept-for-later") as messages:
        async with killed(nats_server, one):
            with pytest.raises(TransportError, match="not connected; try again once"):
                await one.publish("kept-for-later", b"during")
        await one.publish("kept-for-later", b"after")
        assert (await anext(messages)).data == b"after"


async def test_servers_that_others_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of the cluster that the URL does not name takes over from the one that it names."""
    monkeypatch.setattr(nats_link, "RECONNECT_FIRST", 0.02)
    listening = 'cluster { name: test, listen: "127.0.0.1:-1"'
    async with NatsServer(listening + " }", jetstream=False) as named:
        (ports,) = named._home.glob("*.ports")
        route = json.loads(ports.read_text())["cluster"][0]
        async with (
            NatsServer(f'{listening}, routes: ["{route}"] }}', jetstream=False) as other,
            open_transport(named.url) as transport,
        ):
            link = link_of(transport)
            await eventually(lambda: bool(client_of(transport).discovered))
            named.kill()
            await eventually(lambda: transport.connected and link.server.port == other.port)
            await transport.publish("s", b"")


@pytest.mark.parametrize(
    ("uri", "asked_for", "name"),
    [
        ("10.0.0.2:4222", None, "a.test"),
        ("10.0.0.2:4222", "nats.test", "nats.test"),
        ("b.test:4222", None, None),
    ],
)
async def test_names_of_servers_that_others_told_of(
    uri: str, asked_for: str | None, name: str | None
) -> None:
    """One known by its address alone has to show the name of the server that told of it."""
    options = read_options("tls://a.test", NatsSettings(tls_hostname=asked_for))
    link = nats_link.Link(options, lambda _: None, lambda: None)
    host, _, port = uri.rpartition(":")
    teller = SimpleNamespace(server=options.servers[0], discovered=[(host, int(port))])
    known, found = link._known_servers(cast("nats_client.Connection", teller))
    assert known is options.servers[0]
    assert (str(found), found.tls_hostname) == (uri, name)


async def test_lost_while_subscribing(nats_server: NatsServer) -> None:
    """A subscription whose confirmation is lost with the connection is an error."""
    async with open_transport(nats_server.url) as transport:
        nats_server.pause()
        subscribing = asyncio.create_task(transport.subscribe("s").__aenter__())
        await asyncio.sleep(0)
        async with killed(nats_server, transport):
            with pytest.raises(TransportError, match="not connected"):
                await subscribing
        assert len(link_of(transport)._routes) == 1


async def test_answer_by_the_next_connection(nats_server: NatsServer) -> None:
    """A request in flight outlives an outage, where its responder does."""
    async with (
        open_transport(nats_server.url) as one,
        open_transport(nats_server.url) as other,
        other.subscribe("outlives") as requests,
    ):
        call = asyncio.create_task(one.request("outlives", b"", timeout=20))
        request = await anext(requests)
        async with killed(nats_server, one):
            pass
        await eventually(lambda: other.connected)
        assert request.reply_to
        await other.publish(request.reply_to, b"late, but there")
        assert await call == b"late, but there"


async def test_left_during_an_outage(nats_server: NatsServer) -> None:
    """A subscription that was left meanwhile is not taken up again."""
    async with open_transport(nats_server.url) as one:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(one.subscribe("left"))
            async with killed(nats_server, one):
                await stack.aclose()
        with pytest.raises(NoResponders):
            await one.request("left", b"", timeout=20)
        assert len(link_of(one)._routes.handlers) == 1


async def test_stopped_server(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stands still costs requests their timeout, and is lost once it leaves pings without an answer."""
    monkeypatch.setattr(nats_client, "PING_INTERVAL", 0.1)
    async with open_transport(nats_server.url) as transport, transport.subscribe("s") as messages:
        nats_server.pause()
        try:
            with pytest.raises(TimeoutError, match="s: no answer within"):
                await transport.request("s", b"", timeout=0.01)
            await eventually(lambda: not transport.connected)
        finally:
            nats_server.resume()
        await eventually(lambda: transport.connected)
        await transport.publish("s", b"again")
        while (await anext(messages)).data != b"again":
            pass


async def test_stopped_server_and_full_buffers(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishers who wait for a socket that takes no more get an error, and closing does not wait for it either."""
    monkeypatch.setattr(nats_client, "PING_INTERVAL", 0.1)
    async with open_transport(nats_server.url) as transport:
        nats_server.pause()
        try:
            with pytest.raises(TransportError):
                await _publish_without_end(transport)
            assert not transport.connected
            async with asyncio.timeout(5):
                await transport.aclose()
        finally:
            nats_server.resume()


async def _publish_without_end(transport: Transport) -> None:
    while True:
        await transport.publish("full", bytes(1_000_000))


async def test_closing_with_a_stopped_server(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing takes leave of the server, but not for long; who waits for an answer is told at once."""
    monkeypatch.setattr(nats_client, "GOODBYE_WITHIN", 0.05)
    async with open_transport(nats_server.url) as transport, transport.subscribe("s"):
        call = asyncio.create_task(transport.request("s", b"", timeout=100))
        await asyncio.sleep(0)
        nats_server.pause()
        try:
            async with asyncio.timeout(5):
                await transport.aclose()
            with pytest.raises(TransportClosed):
                await call
        finally:
            nats_server.resume()


async def test_cancelled_closing(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing that is cancelled has closed the socket all the same."""
    monkeypatch.setattr(nats_client, "GOODBYE_WITHIN", 0.05)
    async with open_transport(nats_server.url) as transport:
        before = asyncio.all_tasks()
        nats_server.pause()
        closing = asyncio.create_task(transport.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        nats_server.resume()
        assert not client_of(transport).alive
        await eventually(lambda: asyncio.all_tasks() <= before)


# Crowds


async def test_slow_consumer(nats_server: NatsServer) -> None:
    """A reader that takes nothing for a long time loses the oldest messages only, and no connection."""
    async with (
        open_transport(nats_server.url) as one,
        open_transport(nats_server.url) as other,
        other.subscribe("crowd", pending_limit=100) as slow,
    ):
        for number in range(20_000):
            await one.publish("crowd", str(number).encode())
        await eventually(lambda: slow.dropped == 19_900)
        got = [int((await anext(slow)).data) for _ in range(100)]
        assert got == list(range(19_900, 20_000))
        assert other.connected


async def test_publishing_without_end(nats_server: NatsServer) -> None:
    """Who publishes in a loop waits for the socket, so that others run and little is held in memory."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with open_transport(nats_server.url) as one:
        other = asyncio.create_task(turn())
        most = 0
        for _ in range(300):
            await one.publish("endless", bytes(100_000))
            most = max(most, client_of(one)._out_size)
        other.cancel()
        assert turns >= 300
        assert most <= nats_client.WRITE_LIMIT + 101_000


async def test_smaller_messages() -> None:
    """A server that takes less than 1 MiB is not sent more, which would cost the connection."""
    async with NatsServer("max_payload: 1000", jetstream=False) as server, open_transport(server.url) as one:
        await one.publish("s", bytes(1000))
        for call in (one.publish("s", bytes(1001)), one.request("s", bytes(1001), timeout=1)):
            with pytest.raises(MessageTooLarge, match="s: 1001 bytes, at most 1000 fit"):
                await call
        assert one.connected


async def test_smaller_values() -> None:
    """The same for what is kept, with the headers that it is sent with."""
    async with NatsServer("max_payload: 4000") as server, open_transport(server.url) as one:
        store = await one.store("small", ttl=60)
        with pytest.raises(MessageTooLarge, match="key: 5000 bytes, at most 4000 fit"):
            await store.put("key", bytes(5000))
        with pytest.raises(MessageTooLarge):
            await store.create("key", bytes(4000))
        revision = await store.put("key", bytes(4000))
        with pytest.raises(MessageTooLarge):
            await store.update("key", bytes(4000), revision)
        assert one.connected


async def test_what_is_not_permitted() -> None:
    """Subscribing raises where the server refuses it; a refused message is logged, once."""
    permissions = 'permissions: { publish: "a", subscribe: "_INBOX.>" }'
    config = f"authorization {{ users: [ {{ user: me, password: p, {permissions} }} ] }}"
    async with NatsServer(config, jetstream=False) as server, open_transport(at(server, "me:p@")) as one:
        with capture_logs() as logged:
            with pytest.raises(
                TransportError, match="Forbidden: the server lets this user not subscribe to it"
            ):
                async with one.subscribe("Forbidden"):
                    pass
            for _ in range(3):
                await one.publish("b", b"")
            await client_of(one).round_trip()
        assert one.connected
    assert [event["event"] for event in logged] == ["transport.refused"] * 2
    assert 'Publish to "b"' in logged[1]["error"]


async def test_answers_that_are_not_permitted() -> None:
    """They fill no log, though each goes to a subject of its own, and do not hide what is asked for later."""
    permissions = 'permissions: { publish: { deny: "_INBOX.>" }, subscribe: { deny: "forbidden" } }'
    config = f"authorization {{ users: [ {{ user: me, password: p, {permissions} }} ] }}"
    async with NatsServer(config, jetstream=False) as server, open_transport(at(server, "me:p@")) as one:
        with capture_logs() as logged:
            for attempt in range(2):
                for number in range(200):
                    await one.publish(f"_INBOX.other.{attempt}.{number}", b"")
                with pytest.raises(TransportError, match="lets this user not subscribe"):
                    async with one.subscribe("forbidden"):
                        pass
    assert [event["error"] for event in logged] == [
        'Permissions Violation for Publish to "_INBOX.>"',
        'Permissions Violation for Subscription to "forbidden"',
    ]


async def test_a_subject_to_reply_to_that_is_no_text(nats_server: NatsServer) -> None:
    """The message arrives; answering it is refused as for any other subject that is none."""
    async with open_transport(nats_server.url) as one, one.subscribe("odd") as requests:
        with capture_logs() as logged:
            client_of(one)._send(b"PUB odd \xff\xfe 2\r\nhi\r\n")
            message = await asyncio.wait_for(anext(requests), PATIENCE)
        assert (message.data, logged) == (b"hi", [])
        with pytest.raises(InvalidName):
            await one.publish(message.reply_to or "", b"")


async def test_stray_answers(nats_server: NatsServer) -> None:
    """What somebody publishes to the inbox of requests harms no later answer, and fills no log."""
    async with open_transport(nats_server.url) as one, one.subscribe("stray") as requests:
        call = asyncio.create_task(one.request("stray", b"", timeout=20))
        reply_to = (await anext(requests)).reply_to
        assert reply_to
        with capture_logs() as logged:
            await one.publish(f"{reply_to}9", b"nobody")
            await one.publish(f"{reply_to.rpartition('.')[0]}.x", b"no number")
            await one.publish(reply_to, b"mine")
            assert await call == b"mine"
        assert not logged


async def test_nothing_is_kept_of_what_ended(nats_server: NatsServer) -> None:
    """Requests of every outcome, subscriptions and watches leave no entry behind."""
    async with open_transport(nats_server.url) as one:
        store = await one.store("ended", ttl=60)
        async with one.subscribe("ended"), store.watch():
            with pytest.raises(TimeoutError):
                await one.request("ended", b"", timeout=0.01)
        with pytest.raises(NoResponders):
            await one.request("ended", b"", timeout=10)
        with pytest.raises(ValueError, match="NaN"):
            await one.request("ended", b"", timeout=float("nan"))
        link = link_of(one)
        assert not len(link._questions)
        assert len(link._routes.handlers) == len(link._routes) == 1


# Stores


async def test_no_jetstream(token_server: NatsServer) -> None:
    """A server without JetStream is named, with what to start it with."""
    async with open_transport(at(token_server, f"{SECRET}@")) as transport:
        with pytest.raises(TransportError, match=r"127\.0\.0\.1:\d+ has no JetStream.*start it with -js"):
            await transport.store("s", ttl=60)


async def test_server_that_lost_its_stores(nats_server: NatsServer) -> None:
    """After a restart without what was stored, every call finds an empty store."""
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("lost", ttl=60)
        await store.put("key", b"before")
        for first in ("get", "put", "update", "delete", "watch"):
            await asyncio.to_thread(nats_server.restart, empty=True)
            await eventually(lambda: transport.connected and client_of(transport).alive)
            await _use_again(store, first)
            assert await store.create(f"key-{first}", b"after")
            entry = await store.get(f"key-{first}")
            assert entry
            assert entry.value == b"after"


async def _use_again(store: Any, first: str) -> None:
    if first == "get":
        assert await store.get("key") is None
    elif first == "put":
        await store.put("key", b"x")
    elif first == "update":
        with pytest.raises(TransportError):
            await store.update("key", b"x", 1)
    elif first == "delete":
        await store.delete("key")
    else:
        assert await store.keys() == []


async def test_server_that_kept_its_stores(nats_server: NatsServer) -> None:
    """A killed server has its keys again, and revisions go on."""
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("kept", ttl=60)
        revision = await store.put("key", b"before")
        async with killed(nats_server, transport):
            pass
        entry = await store.get("key")
        assert entry
        assert (entry.value, entry.revision) == (b"before", revision)
        assert await store.update("key", b"after", revision) > revision


async def test_other_clients_see_the_same_bucket(nats_server: NatsServer) -> None:
    """A store is a key-value bucket as NATS' own clients know it, in both directions."""
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("shared-bucket", ttl=60)
        revision = await store.put("a.b", b"ours")
        client = await nats.connect(nats_server.url)
        bucket = await client.jetstream().key_value("shared-bucket")
        assert (await bucket.get("a.b")).value == b"ours"
        theirs = await bucket.update("a.b", b"theirs", revision)
        entry = await store.get("a.b")
        assert entry
        assert (entry.value, entry.revision) == (b"theirs", theirs)
        await bucket.purge("a.b")
        assert await store.get("a.b") is None
        assert await store.keys() == []
        assert await store.create("a.b", b"ours again") > theirs
        await client.close()


async def test_store_of_others(nats_server: NatsServer) -> None:
    """A bucket that was made otherwise is used as it is, where its TTL is the same."""
    client = await nats.connect(nats_server.url)
    await client.jetstream().create_key_value(bucket="theirs", history=5, ttl=60)
    await client.jetstream().create_key_value(bucket="endless")
    await client.close()
    async with open_transport(nats_server.url) as transport:
        assert await (await transport.store("theirs", ttl=60)).put("key", b"") == 1
        with pytest.raises(
            TransportError, match=r"stream KV_endless max_age \(the TTL\) is none, not 60 s; ch"
        ):
            await transport.store("endless", ttl=60)


async def test_jetstream_that_is_silent(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stands still costs a call of a store so long, and says why."""
    monkeypatch.setattr(nats_store, "ANSWER_WITHIN", 0.05)
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("silent", ttl=60)
        nats_server.pause()
        try:
            with pytest.raises(
                TransportError, match=r"store silent: no answer from JetStream within 0\.05 s"
            ):
                await store.put("key", b"")
        finally:
            nats_server.resume()


async def test_store_call_during_a_loss(nats_server: NatsServer) -> None:
    """A call of a store that waits for its answer fails with the connection, not at its timeout."""
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("loss", ttl=60)
        nats_server.pause()
        call = asyncio.create_task(store.put("key", b""))
        await asyncio.sleep(0)
        async with killed(nats_server, transport):
            with pytest.raises(TransportError, match="the connection was lost before the answer"):
                await call


async def test_watch_of_a_large_store(nats_server: NatsServer) -> None:
    """A snapshot of more than the server sends at once is complete."""
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("large", ttl=60)
        for number in range(40):
            await store.put(f"key.{number}", bytes(500_000))
        async with store.watch() as watch:
            found = 0
            while (change := await anext(watch)) is not SNAPSHOT_DONE:
                assert isinstance(change, Entry)
                found += len(change.value)
        assert found == 40 * 500_000


async def test_many_watches_come_and_go(nats_server: NatsServer) -> None:
    """Each watch takes its consumer along when it is left."""
    async with open_transport(nats_server.url) as transport:
        store = await transport.store("consumers", ttl=60)
        for _ in range(20):
            async with store.watch():
                pass
        info = await store._manage("STREAM.INFO")  # type: ignore[attr-defined]
        assert info["state"].get("consumer_count", 0) <= 1


async def test_without_the_client_library(nats_server: NatsServer) -> None:
    """Nothing of nats-py is loaded by a transport that works (8.4)."""
    code = (
        "import asyncio, sys\n"
        "from asyncmgr import open_transport\n"
        "async def main():\n"
        f"    async with open_transport({nats_server.url!r}) as one, one.subscribe('s') as messages:\n"
        "        await (await one.store('library', ttl=60)).put('key', b'')\n"
        "        await one.publish('s', b'')\n"
        "        await anext(messages)\n"
        "asyncio.run(main())\n"
        "print('nats' in sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert (process.returncode, said.strip()) == (0, b"False")
