"""One contract for every implementation of the scheme: the real one and the plaintext double, in both sets."""

import dataclasses
import hashlib
import os
from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, PeerError, ProofError, UsageError
from federation.onebit import Decision, Operation, SessionKey, hamming_distance, match, wire
from federation.onebit.session import NO_MATCH, DeviceSession, ServerSession, SessionTerms, run_session
from tests.federation.onebit.plaintext_double import InsecurePlaintextKey, insecure_plaintext_match

SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = SIGNING_KEY.public_key().public_bytes_raw()
OTHER_DIGEST = hashlib.sha256(b"another").digest()


def _probed(device, server, owner):
    probe, signature = device.send_probe(owner.padded)
    return probe, server.receive_probe(probe, signature)


class SessionContract:
    """What one session promises, whoever does the arithmetic."""

    key = None
    match = None

    @pytest.fixture
    def terms(self, owner):
        return SessionTerms(
            parameters=owner.parameters.name,
            operation=Operation.VERIFY,
            session_id=os.urandom(16),
            nonce=os.urandom(32),
            purpose="door access",
            audience="example.org",
            key_id=hashlib.sha256(PUBLIC_KEY).digest(),
            template_digest=wire.digest(owner.template),
            release_digest=bytes(32),
            audience_nonce=b"nonce",
            log_size=7,
        )

    @pytest.fixture
    def device(self, terms, owner):
        return DeviceSession(terms, self.key.generate(owner.parameters), SIGNING_KEY)

    @pytest.fixture
    def server(self, terms):
        return ServerSession(terms, PUBLIC_KEY)

    def compare(self, owner, threshold):
        return partial(self._compare, owner.template, threshold)

    def _compare(self, template, threshold, probe, transcript):
        return self.match(template, probe, transcript, threshold)

    @pytest.mark.parametrize("threshold", [0, 1, 300])
    @pytest.mark.parametrize("beyond", [0, 1])
    def test_the_decision_is_whether_the_distance_is_within_the_threshold(
        self, device, server, owner, threshold, beyond
    ):
        decision = run_session(device, server, owner.at(threshold + beyond), self.compare(owner, threshold))
        assert decision is (Decision.NON_MATCH if beyond else Decision.MATCH)

    def test_the_largest_distance_is_decided_too(self, device, server, owner):
        everything = owner.parameters.slots
        decision = run_session(device, server, owner.at(everything), self.compare(owner, everything - 1))
        assert decision is Decision.NON_MATCH

    @settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**32), share=st.floats(0, 1), offset=st.integers(-2, 2))
    def test_any_two_strings_are_decided_as_in_the_clear(self, owner, terms, seed, share, offset):
        left, right = (np.random.default_rng(seed + i).integers(0, 2, owner.parameters.slots) for i in range(2))
        flips = np.random.default_rng(seed).random(owner.parameters.slots) < share
        left, right = left.astype(np.uint8), np.where(flips, right, left).astype(np.uint8)
        distance = hamming_distance(left, right)
        threshold = min(max(distance + offset, 0), owner.parameters.slots - 1)
        template = wire.PaddedTemplate(bytes(32), left).to_bytes(owner.parameters)
        device = DeviceSession(terms, self.key.generate(owner.parameters), SIGNING_KEY)
        compare = partial(self._compare, template, threshold)
        decision = run_session(device, ServerSession(terms, PUBLIC_KEY), right, compare)
        assert (decision is Decision.MATCH) is (distance <= threshold)

    @pytest.mark.parametrize(
        "change",
        [
            {"parameters": "intaglio-onebit-4096/2"},
            {"operation": Operation.ENROL},
            {"operation": Operation.RENEW_CONSENT},
            {"session_id": bytes(16)},
            {"nonce": bytes(32)},
            {"purpose": "advertising"},
            {"audience": "example.net"},
            {"audience_nonce": b""},
            {"audience_nonce": b"chosen in between"},
            {"key_id": OTHER_DIGEST},
            {"template_digest": OTHER_DIGEST},
            {"release_digest": OTHER_DIGEST},
            {"change_digest": OTHER_DIGEST},
            {"log_size": 8},
        ],
        ids="-".join,
    )
    def test_a_server_with_other_terms_refuses_the_signature(self, terms, device, owner, change):
        server = ServerSession(dataclasses.replace(terms, **change), PUBLIC_KEY)
        probe, signature = device.send_probe(owner.padded)
        with pytest.raises(ProofError, match="does not fit this device and session"):
            server.receive_probe(probe, signature)
        with pytest.raises(PeerError, match="start a new one"):
            server.receive_probe(probe, signature)

    def test_a_signature_does_not_carry_over_to_another_probe_or_device(self, terms, device, owner):
        probe, signature = device.send_probe(owner.padded)
        other = self.key.generate(owner.parameters).encrypt(owner.padded)
        stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        for public_key, sent in ((PUBLIC_KEY, other), (stranger, probe)):
            with pytest.raises(ProofError, match="does not fit"):
                ServerSession(terms, public_key).receive_probe(sent, signature)

    def test_an_old_probe_cannot_be_sent_again(self, terms, device, server, owner):
        recorded = device.send_probe(owner.padded)
        server.receive_probe(*recorded)
        later = ServerSession(dataclasses.replace(terms, nonce=os.urandom(32)), PUBLIC_KEY)
        with pytest.raises(ProofError, match="does not fit"):
            later.receive_probe(*recorded)

    @pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
    def test_bytes_that_are_no_signature_are_refused(self, server, device, owner, signature):
        probe, _ = device.send_probe(owner.padded)
        with pytest.raises(ProofError, match="does not fit"):
            server.receive_probe(probe, signature)

    def test_a_reply_to_another_session_gives_no_match(self, terms, device, server, owner):
        other_terms = dataclasses.replace(terms, nonce=os.urandom(32))
        other_device = DeviceSession(other_terms, self.key.generate(owner.parameters), SIGNING_KEY)
        other_server = ServerSession(other_terms, PUBLIC_KEY)
        server.receive_probe(*device.send_probe(owner.padded))
        probe, signature = other_device.send_probe(owner.padded)
        transcript = other_server.receive_probe(probe, signature)
        reply = other_server.send_reply(self.compare(owner, 300)(probe, transcript))
        assert device.receive_reply(reply) == NO_MATCH
        assert other_server.receive_token(other_device.receive_reply(reply)) is Decision.MATCH

    def test_a_forged_or_flipped_token_is_a_non_match(self, terms, owner):
        forgeries = [lambda _: NO_MATCH, lambda _: b"", lambda _: os.urandom(16), lambda token: token + b"\0"]
        flips = [lambda t, i=i: bytes([*t[:i], t[i] ^ 1, *t[i + 1 :]]) for i in range(16)]
        for forge in [*forgeries, lambda token: token[:15], *flips]:
            device = DeviceSession(terms, self.key.generate(owner.parameters), SIGNING_KEY)
            server = ServerSession(terms, PUBLIC_KEY)
            probe, signature = device.send_probe(owner.padded)
            challenge = self.compare(owner, 0)(probe, server.receive_probe(probe, signature))
            token = device.receive_reply(server.send_reply(challenge))
            assert token == challenge.token
            assert server.receive_token(forge(token)) is Decision.NON_MATCH

    def test_each_step_of_a_device_runs_once_and_in_its_turn(self, device, owner):
        with pytest.raises(PeerError, match="not waiting for a reply"):
            device.receive_reply(b"")
        with pytest.raises(PeerError, match="not waiting for a probe"):  # a machine that raised is over
            device.send_probe(owner.padded)

    def test_a_device_sends_one_probe_and_opens_one_reply(self, terms, owner):
        device = DeviceSession(terms, self.key.generate(owner.parameters), SIGNING_KEY)
        device.send_probe(owner.padded)
        with pytest.raises(PeerError, match="not waiting for a probe"):
            device.send_probe(owner.padded)
        other = DeviceSession(terms, self.key.generate(owner.parameters), SIGNING_KEY)
        other.send_probe(owner.padded)
        assert other.receive_reply(b"junk") == NO_MATCH
        with pytest.raises(PeerError, match="not waiting for a reply"):
            other.receive_reply(b"junk")

    @pytest.mark.parametrize("early", ["send_reply", "receive_token"])
    def test_each_step_of_a_server_runs_once_and_in_its_turn(self, server, early):
        with pytest.raises(PeerError, match="not waiting for a"):
            getattr(server, early)(b"")
        with pytest.raises(PeerError, match="not waiting for a probe"):
            server.receive_probe(b"", b"")

    def test_a_server_takes_one_token(self, terms, device, owner):
        server = ServerSession(terms, PUBLIC_KEY)
        probe, signature = device.send_probe(owner.padded)
        challenge = self.compare(owner, 0)(probe, server.receive_probe(probe, signature))
        server.send_reply(challenge)
        with pytest.raises(PeerError, match="not waiting for a reply"):
            server.send_reply(challenge)
        with pytest.raises(PeerError, match="not waiting for a token"):
            server.receive_token(challenge.token)

    def test_a_token_is_compared_in_constant_time_with_the_one_of_the_challenge(
        self, server, device, owner, monkeypatch
    ):
        compared = []
        monkeypatch.setattr(
            "federation.onebit.session.hmac.compare_digest", lambda *both: compared.append(both) or False
        )
        challenge = self.compare(owner, 0)(*_probed(device, server, owner))
        server.send_reply(challenge)
        assert server.receive_token(challenge.token) is Decision.NON_MATCH
        assert compared == [(challenge.token, challenge.token)]

    def test_a_second_guess_at_the_token_is_out_of_turn(self, server, device, owner):
        probe, signature = device.send_probe(owner.padded)
        challenge = self.compare(owner, 0)(probe, server.receive_probe(probe, signature))
        server.send_reply(challenge)
        assert server.receive_token(NO_MATCH) is Decision.NON_MATCH
        with pytest.raises(PeerError, match="not waiting for a token"):
            server.receive_token(challenge.token)

    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(reply=st.binary(max_size=300))
    def test_any_bytes_as_a_reply_give_no_match(self, owner, terms, reply):
        device = DeviceSession(terms, self.key.generate(owner.parameters), SIGNING_KEY)
        device.send_probe(owner.padded)
        assert device.receive_reply(reply) == NO_MATCH

    def test_a_probe_of_no_form_is_malformed_even_with_a_good_signature(self, owner):
        for probe in (b"", b"probe", bytes(90_184)):
            with pytest.raises(MalformedMessageError, match="probe"):
                self.match(owner.template, probe, b"transcript", 0)

    def test_a_key_encrypts_once_and_opens_once_after_that(self, owner):
        key = self.key.generate(owner.parameters)
        with pytest.raises(UsageError, match="session key"):
            key.open_reply(b"", b"")
        key.encrypt(owner.padded)
        with pytest.raises(UsageError, match="session key"):
            key.encrypt(owner.padded)
        assert key.open_reply(b"", b"") is None
        with pytest.raises(UsageError, match="session key"):
            key.open_reply(b"", b"")


class TestHomomorphicScheme(SessionContract):
    key = SessionKey
    match = staticmethod(match)


class TestPlaintextDouble(SessionContract):
    key = InsecurePlaintextKey
    match = staticmethod(insecure_plaintext_match)
