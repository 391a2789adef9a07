"""What an address counts for, whose certificate a call shows, and what is told to a door. No sockets."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from types import SimpleNamespace

import pytest

from federation.errors import ProofError, UnavailableError
from server.visitors import entrance
from server.visitors.door import networks_of
from server.visitors.entrance import serve_at, welcome_at
from server.visitors.peers import PeerRate, PeerRates, certificate_of, peer_of
from server.visitors.sessions import OpenSessions
from tests.running import a_pki


@pytest.mark.parametrize(
    ("host", "networks"),
    [
        ("192.0.2.7", ("192.0.2.7",)),
        ("::ffff:192.0.2.7", ("192.0.2.7",)),
        ("2001:db8:1:2:3:4:5:6", ("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("fe80::1%eth0", ("fe80::/64", "fe80::/48")),
    ],
)
def test_an_address_counts_for_itself_or_for_its_link_and_its_customer(host, networks):
    assert networks_of(host) == networks


def test_a_caller_is_whose_certificate_comes_first(tmp_path):
    a_pki(tmp_path)
    shown = [(tmp_path / name).read_bytes() for name in ("client.pem", "server.pem")]
    for first, second in (shown, shown[::-1]):
        context = SimpleNamespace(auth_context=lambda both=(first, second): {"x509_pem_cert": both})
        der = ssl.PEM_cert_to_DER_cert(first.decode())
        assert peer_of(context) == hashlib.sha256(der).digest()
        assert certificate_of(context).tbs_certificate_bytes in der
    for nothing in ({}, {"x509_pem_cert": ()}):
        for read in (peer_of, certificate_of):
            with pytest.raises(ProofError, match="show a client certificate"):
                read(SimpleNamespace(auth_context=lambda nothing=nothing: nothing))


def test_whoever_calls_too_often_is_told_so_and_when_there_is_room():
    rates = PeerRates(PeerRate(0.5, burst=1), "wait a little", clock=lambda: 0.0)
    rates.require_room(b"a")
    with pytest.raises(UnavailableError, match=r"^wait a little$") as caught:
        rates.require_room(b"a")
    assert caught.value.retry_after_seconds == 2.0


def test_a_session_lives_from_when_it_was_opened_and_not_from_when_it_was_asked_for():
    now = [0.0]
    sessions = OpenSessions(1, 60.0, clock=lambda: now[0])
    with sessions.opening(b"a") as opened:
        now[0] = 5.0
        opened(b"1")
    now[0] = 64.9
    assert sessions.count == 1
    now[0] = 65.0
    assert sessions.count == 0


def test_a_door_is_told_both_ends_of_a_connection_and_the_narrowest_network():
    told = []
    welcome = welcome_at(SimpleNamespace(is_member=lambda *args: told.append(args)))
    client = SimpleNamespace(host="2001:db8:1:2::5")
    welcome(SimpleNamespace(client=client, scope={"server": ("::1", 443)}))
    welcome(SimpleNamespace(client=None, scope={"server": ("::1", 443)}))
    assert told == [(client, ("::1", 443), "2001:db8:1:2::/64")]


@pytest.mark.parametrize("error", [None, OSError("no more files")])
async def test_nobody_tends_a_door_whose_server_has_ended(error):
    ended = asyncio.Event()

    async def tend():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def serve(sockets):
        assert sockets == [door]
        await asyncio.sleep(0)
        if error:
            raise error

    door = SimpleNamespace(tend=tend)
    try:
        await serve_at(door, SimpleNamespace(serve=serve))
    except OSError as caught:
        assert caught is error  # noqa: PT017 - one of the two ends without one
    async with asyncio.timeout(5):
        await ended.wait()
    assert entrance.IN_ALL < entrance.MOST_CONNECTIONS
