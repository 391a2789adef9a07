"""One contract for every implementation of the scheme: the real one and the plaintext double."""

import dataclasses
import hashlib
import os
from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

from federation.errors import MalformedMessageError, PeerError, ProofError, UsageError
from federation.onebit import BITS, Decision, DeviceSecret, Operation, check_template, match
from federation.onebit.session import NO_MATCH, DeviceSession, ServerSession, SessionTerms, run_session
from federation.onebit.transcript import PadFunction
from tests.onebit.plaintext_double import (
    InsecurePlaintextDevice,
    insecure_plaintext_check_template,
    insecure_plaintext_match,
)

TAU = 600


class SessionContract:
    """What one session promises, whoever does the arithmetic."""

    new_device = None
    match = None
    check_template = None

    @pytest.fixture(scope="class")
    @classmethod
    def owner(cls):
        return cls.new_device()

    @pytest.fixture(scope="class")
    @classmethod
    def signing_key(cls):
        return Ed25519PrivateKey.generate()

    @pytest.fixture(scope="class")
    @classmethod
    def enrolled(cls, owner, template_code):
        return owner.encrypt(template_code)

    @pytest.fixture
    def terms(self, owner):
        return SessionTerms(
            operation=Operation.VERIFY,
            session_id=os.urandom(16),
            nonce=os.urandom(32),
            purpose="door access",
            audience="example.org",
            key_id=owner.key_id,
            release_digest=bytes(32),
        )

    @pytest.fixture
    def parties(self, terms, owner, signing_key):
        return self.pair(terms, owner, signing_key)

    @staticmethod
    def pair(terms, owner, signing_key):
        server = ServerSession(terms, signing_key.public_key().public_bytes_raw())
        return DeviceSession(terms, owner, signing_key), server

    def compare(self, owner, enrolled):
        return lambda probe, transcript: self.match(owner.public_key, enrolled, probe, transcript, TAU)

    @pytest.mark.parametrize(
        ("distance", "decision"), [(0, Decision.MATCH), (TAU, Decision.MATCH), (TAU + 1, Decision.NON_MATCH)]
    )
    def test_the_decision_is_whether_the_distance_is_within_the_threshold(
        self, parties, owner, enrolled, flipped, distance, decision
    ):
        assert run_session(*parties, flipped(distance), self.compare(owner, enrolled)) is decision

    def test_enrolment_accepts_the_owners_template(self, terms, owner, signing_key, template_code):
        enrol = dataclasses.replace(terms, operation=Operation.ENROL)
        check = self.check_template
        outcome = run_session(*self.pair(enrol, owner, signing_key), template_code, partial(check, owner.public_key))
        assert outcome is Decision.MATCH

    def test_a_template_under_another_key_is_refused(self, parties, owner, template_code):
        strangers = self.new_device().encrypt(template_code)
        assert run_session(*parties, template_code, self.compare(owner, strangers)) is Decision.NON_MATCH

    @pytest.mark.parametrize(
        "change",
        [
            {"session_id": bytes(16)},
            {"nonce": bytes(32)},
            {"purpose": "advertising"},
            {"audience": "example.net"},
            {"release_digest": b"\1" * 32},
            {"operation": Operation.ENROL},
        ],
    )
    def test_a_server_with_other_terms_refuses_the_signature(self, terms, owner, signing_key, template_code, change):
        device, _ = self.pair(terms, owner, signing_key)
        _, server = self.pair(dataclasses.replace(terms, **change), owner, signing_key)
        with pytest.raises(ProofError):
            server.receive_ciphertext(*device.send_ciphertext(template_code))

    def test_a_signature_does_not_carry_over_to_another_ciphertext_or_device(self, terms, owner, signing_key, enrolled):
        device, server = self.pair(terms, owner, signing_key)
        ciphertext, signature = device.send_ciphertext(np.zeros(BITS, np.uint8))
        with pytest.raises(ProofError):
            server.receive_ciphertext(enrolled, signature)
        _, other = self.pair(terms, owner, Ed25519PrivateKey.generate())
        with pytest.raises(ProofError):
            other.receive_ciphertext(ciphertext, signature)

    def test_a_reply_to_another_session_gives_no_match(self, terms, owner, signing_key, enrolled, template_code):
        device, server = self.pair(terms, owner, signing_key)
        other_terms = dataclasses.replace(terms, nonce=os.urandom(32))
        other_device, other_server = self.pair(other_terms, owner, signing_key)
        server.receive_ciphertext(*device.send_ciphertext(template_code))
        ciphertext, signature = other_device.send_ciphertext(template_code)
        transcript = other_server.receive_ciphertext(ciphertext, signature)
        reply = other_server.send_reply(self.compare(owner, enrolled)(ciphertext, transcript))
        assert device.receive_reply(reply) == NO_MATCH

    def test_a_forged_or_flipped_token_is_a_non_match(self, terms, owner, signing_key, enrolled, template_code):
        for forge in (lambda _: bytes(32), lambda _: os.urandom(32), lambda t: bytes([t[0] ^ 1]) + t[1:]):
            device, server = self.pair(terms, owner, signing_key)
            ciphertext, signature = device.send_ciphertext(template_code)
            challenge = self.compare(owner, enrolled)(ciphertext, server.receive_ciphertext(ciphertext, signature))
            token = device.receive_reply(server.send_reply(challenge))
            assert server.receive_token(forge(token)) is Decision.NON_MATCH

    def test_each_step_runs_once_and_in_its_turn(self, parties, owner, enrolled, template_code):
        device, server = parties
        with pytest.raises(PeerError):
            self.pair(device._terms, owner, device._signing_key)[0].receive_reply(b"")
        ciphertext, signature = device.send_ciphertext(template_code)
        with pytest.raises(PeerError):
            device.send_ciphertext(template_code)
        transcript = server.receive_ciphertext(ciphertext, signature)
        with pytest.raises(PeerError):
            server.receive_token(NO_MATCH)
        with pytest.raises(PeerError):  # a machine that raised is over
            server.send_reply(self.compare(owner, enrolled)(ciphertext, transcript))

    def test_a_malformed_reply_ends_the_session_without_an_answer(self, parties, template_code):
        device, _ = parties
        device.send_ciphertext(template_code)
        with pytest.raises(MalformedMessageError):
            device.receive_reply(b"junk")
        with pytest.raises(PeerError):
            device.receive_reply(b"junk")

    def test_terms_of_another_key_are_our_own_mistake(self, terms, signing_key):
        with pytest.raises(UsageError):
            DeviceSession(terms, self.new_device(), signing_key)


class TestHomomorphicScheme(SessionContract):
    new_device = staticmethod(DeviceSecret.generate)
    match = staticmethod(match)
    check_template = staticmethod(check_template)


class TestPlaintextDouble(SessionContract):
    new_device = staticmethod(InsecurePlaintextDevice.generate)
    match = staticmethod(insecure_plaintext_match)
    check_template = staticmethod(insecure_plaintext_check_template)


def test_the_pad_is_the_single_step_key_derivation_of_the_standard():
    coefficients, transcript = os.urandom(16), os.urandom(300)
    fixed_info = hashlib.sha256(b"intaglio one-bit pad v1" + transcript).digest()
    expected = ConcatKDFHash(hashes.SHA256(), 32, fixed_info).derive(coefficients)
    assert PadFunction(transcript)(coefficients) == expected
