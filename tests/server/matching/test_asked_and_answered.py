"""What is asked of a server's health and of its certificate service, and what is made of the answer: no sockets."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2

from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from server.matching import renewals, serving
from server.matching.renewals import CertificateService
from server.matching.serving import health_of
from tests.server.matching.calls import Calls, Disk
from tests.stored import NOW

HEALTH = health_pb2.HealthCheckResponse


class SilentError(grpc.RpcError):
    """Nobody answered."""


class Server:
    """What `health_of` asks."""

    def __init__(self, monkeypatch, answer, trailing):
        self.calls, self.answer, self.trailing = Calls(), answer, trailing
        monkeypatch.setattr(serving.grpc, "secure_channel", lambda *of: self.calls.note("opened", *of) or self)
        monkeypatch.setattr(serving.health_pb2_grpc, "HealthStub", lambda channel: SimpleNamespace(Check=channel))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calls.note("closed")

    def with_call(self, request, *, timeout):
        self.calls.note("asked", request.service, timeout)
        if isinstance(self.answer, Exception):
            raise self.answer
        return HEALTH(status=self.answer), SimpleNamespace(trailing_metadata=lambda: self.trailing)


def asked():
    return health_of("verify.example.org:7443", "credentials", service="a service", timeout_seconds=7.5)


CALLS = [("opened", "verify.example.org:7443", "credentials"), ("asked", "a service", 7.5), ("closed",)]


@pytest.mark.parametrize(
    ("trailing", "told"),
    [
        (None, ""),
        ((), ""),
        ((("another", b"key"),), ""),
        ((("another", b"key"), ("cause-bin", b"a witness is silent")), ": a witness is silent"),
        ((("cause-bin", b"a\x1b[2J\nb"),), ": a [2J b"),
        ((("cause-bin", b"\xff" + b"x" * 600),), ": \ufffd" + "x" * 499),
    ],
)
def test_a_server_s_health_is_told_with_its_cause_which_writes_nothing_on_a_terminal(monkeypatch, trailing, told):
    server = Server(monkeypatch, HEALTH.SERVING, trailing)
    assert (asked(), server.calls) == (f"SERVING{told}", CALLS)
    for state in (HEALTH.NOT_SERVING, HEALTH.UNKNOWN, HEALTH.SERVICE_UNKNOWN):
        server = Server(monkeypatch, state, trailing)
        with pytest.raises(
            UnavailableError, match=f"^{re.escape(f'verify.example.org:7443 does not serve now{told}')}$"
        ):
            asked()
        assert server.calls == CALLS


def test_a_server_that_does_not_answer_is_named_and_its_channel_is_closed(monkeypatch):
    server = Server(monkeypatch, SilentError(), ())
    with pytest.raises(
        UnavailableError, match=r"^verify\.example\.org:7443 does not answer: .* is its certificate for that name "
    ) as caught:
        asked()
    assert isinstance(caught.value.__cause__, SilentError)
    assert server.calls == CALLS


def test_what_is_no_address_is_asked_nothing(monkeypatch):
    server = Server(monkeypatch, HEALTH.SERVING, ())
    with pytest.raises(UsageError, match="is no address: write HOST:PORT"):
        health_of("verify.example.org", "credentials", service="", timeout_seconds=7.5)
    assert server.calls == []


# ---------------------------------------------------------------------- a certificate for one that ends
END = dt.datetime(2030, 4, 1, 12, 0, 7, tzinfo=dt.UTC)


class Wish:
    """A certificate service whose parts note what they are told."""

    def __init__(self, monkeypatch, *, found=None):
        self.calls = calls = Calls()
        own = SimpleNamespace(serial_number=0xABC, not_valid_after_utc=END)
        self.renewal = SimpleNamespace(require_of=lambda shown: calls.note("own?", shown is own) or "a new key")
        storage = SimpleNamespace(ask_for_certificate=calls.of("asked", found))
        self.service = CertificateService(storage, Disk(calls), clock=lambda: NOW + 0.5)
        read = SimpleNamespace(from_proto=lambda request: calls.note("read", request) or self.renewal)
        monkeypatch.setattr(renewals, "Renewal", read)
        monkeypatch.setattr(renewals, "certificate_of", lambda context: calls.note("shown", context) or own)
        monkeypatch.setattr(renewals, "require_due", lambda shown, *, now: calls.note("due?", shown is own, now))
        monkeypatch.setattr(renewals, "digest_of", lambda key: hashlib.sha256(key.encode()).digest())

    def expected(self):
        key_digest = hashlib.sha256(b"a new key").digest()
        return [
            ("read", "a request"),
            ("shown", "a context"),
            ("due?", True, dt.datetime.fromtimestamp(NOW + 0.5, dt.UTC)),
            ("own?", True),
            ("asked", 0xABC, self.renewal, key_digest, int(END.timestamp())),
        ]


@pytest.mark.parametrize(("found", "answer"), [(None, b""), (b"what was signed", b"what was signed")])
async def test_a_wish_is_kept_for_the_certificate_that_is_shown_and_until_that_ends(monkeypatch, found, answer):
    wish = Wish(monkeypatch, found=found)
    told = await wish.service.RenewCertificate("a request", "a context")
    assert (told.certificate, wish.calls) == (answer, wish.expected())


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("read", MalformedMessageError("no")),
        ("shown", ProofError("no")),
        ("due?", RefusedError("no")),
        ("own?", ProofError("no")),
        ("asked", RefusedError("no")),
    ],
)
async def test_a_wish_that_is_refused_is_kept_nowhere(monkeypatch, part, error):
    wish = Wish(monkeypatch)
    wish.calls.failing[part] = error
    with pytest.raises(type(error), match=r"^no$"):
        await wish.service.RenewCertificate("a request", "a context")
    names = [call[0] for call in wish.expected()]
    assert wish.calls == wish.expected()[: names.index(part) + 1]
