"""Why a server cannot be reached: in memory, with who may stand at its address, and what is done there in order."""

from __future__ import annotations

import datetime as dt
import socket
import ssl

import pytest

from client import unreachable
from client.unreachable import why_unreachable
from server.certificates import write_pki

NOW = dt.datetime.now(dt.UTC)
BROKE_OFF = "localhost:7443 broke off; if it does so again, it does not take this device's certificate"
ASK = "ask the operator for the ca.pem of this server"
NO_TLS = "what listens at {} does not speak TLS: is that the server's port?"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Authorities by name; what each has signed for a server."""
    made = tmp_path_factory.mktemp("pki")
    for name, hosts, days in (
        ("ours", ["localhost", "::1"], 0),
        ("another", ["localhost"], 0),
        ("ended", ["localhost"], -900),
        ("early", ["localhost"], 9),
    ):
        write_pki(made / name, hosts=hosts, clients=[], now=NOW + dt.timedelta(days=days))
    return made


class Peer:
    """Stands in for a socket: who listens there, and what was done with the connection.

    Args:
        pki: of the server that speaks TLS; None for one that does not.
        says: what is sent whatever comes; None for nothing at all.
        piece: most bytes that arrive at once.
        protocols: that it speaks within TLS.
    """

    def __init__(self, pki=None, *, says=None, piece=1 << 14, protocols=("h2",)):
        self.told, self.now, self._says, self._piece = [], 100.0, says, piece
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None
        if pki is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pki / "server.pem", pki / "server-key.pem")
            context.set_alpn_protocols(protocols)
            self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)

    @property
    def spoken(self):
        return self._tls.selected_alpn_protocol()

    def monotonic(self):
        return self.now

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.told.append("closed")

    def settimeout(self, seconds):
        self.told.append(seconds)

    def sendall(self, data):
        self._received.write(data)
        if self._tls is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLError:
                """It waits for more, or has said what is wrong."""

    def recv(self, most):
        assert len(self.told) < 99, "no end"
        self.now += 1.5
        said = self._says if self._tls is None else self._to_send.read(min(most, self._piece))
        if said is None or (self._tls is not None and not said):
            raise TimeoutError
        return said


@pytest.fixture
def asked(pki, monkeypatch):
    """Asks why, with somebody at the address or an error instead; by default as whoever trusts `ours`."""

    def ask(there, target="localhost:7443", *, authority=None):
        connected = []

        def connect(*given):
            connected.append(given)
            if isinstance(there, Exception):
                raise there
            return there

        monkeypatch.setattr(socket, "create_connection", connect)
        if isinstance(there, Peer):
            monkeypatch.setattr(unreachable, "time", there)
        said = why_unreachable(target, authority or (pki / "ours" / "ca.pem").read_bytes(), timeout_seconds=4.0)
        return said, connected

    return ask


def test_a_server_of_ours_that_does_not_answer_broke_off_and_the_connection_is_closed(pki, asked):
    there = Peer(pki / "ours")
    assert asked(there) == (BROKE_OFF, [(("localhost", 7443), 4.0)])
    assert there.told == [4.0, "closed"]
    assert there.spoken == "h2"


def test_each_wait_has_what_is_left_of_the_time_and_never_none_at_all(pki, asked):
    there = Peer(pki / "ours", piece=150)
    assert asked(there)[0] == BROKE_OFF
    assert there.told[:5] == [4.0, 2.5, 1.0, 0.001, 0.001]


def test_an_address_with_brackets_is_looked_for_without_them_and_said_with_them(pki, asked):
    said, connected = asked(Peer(pki / "ours"), "[::1]:7443")
    assert said == BROKE_OFF.replace("localhost", "[::1]")
    assert connected == [(("::1", 7443), 4.0)]


@pytest.mark.parametrize(
    ("authority", "target", "said"),
    [
        ("another", "localhost:7443", f"is not signed by ca.pem; {ASK}"),
        ("ended", "localhost:7443", "has expired: the operator renews it with `intaglio-server pki renew`"),
        ("early", "localhost:7443", "is not yet valid: is this machine's clock right?"),
        ("ours", "door:7443", "is for another name than door: use the name that the operator gave to `intaglio-server"),
        ("ours", "192.0.2.1:7443", "is for another name than 192.0.2.1: use the name that the operator gave to"),
    ],
)
def test_whose_certificate_is_not_good_is_named_with_what_is_wrong_and_closed(pki, asked, authority, target, said):
    there = Peer(pki / authority)
    trusted = (pki / ("ours" if authority == "another" else authority) / "ca.pem").read_bytes()
    found, _ = asked(there, target, authority=trusted)
    assert found.startswith(f"the certificate of {target} {said}")
    assert there.told[-1] == "closed"


@pytest.mark.parametrize(
    ("says", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", NO_TLS.format("localhost:7443")),
        (b"", NO_TLS.format("localhost:7443")),
        (None, "something takes connections at localhost:7443 and says nothing: is it busy, or what stands before it?"),
    ],
    ids=["something else", "nothing more", "nothing"],
)
def test_who_does_not_speak_tls_is_left_and_closed(asked, says, said):
    there = Peer(says=says)
    assert asked(there)[0] == said
    assert there.told == [4.0, "closed"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "localhost:7443 cannot be reached: no answer came"),
        (OSError(113, "No route to host"), "localhost:7443 cannot be reached: No route to host"),
        (
            ConnectionRefusedError(111, "Connection refused"),
            "nobody listens at localhost:7443: is the server running, and is that its port?",
        ),
        (
            socket.gaierror(-2, "Name or service not known"),
            "nobody knows the name localhost: is it spelt right, and is this machine connected?",
        ),
    ],
)
def test_where_nobody_is_the_reason_is_said(asked, error, said):
    assert asked(error)[0] == said


@pytest.mark.parametrize("authority", [b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", b"x", b"\xff"])
def test_without_an_authority_nobody_is_looked_for(asked, authority):
    assert asked(OSError("not to be asked"), authority=authority) == (f"ca.pem holds no certificate; {ASK}", [])
