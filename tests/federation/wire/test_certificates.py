"""A wish for the next certificate: only the holder of the one that ends makes one; a device takes only what follows."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, ProofError, RefusedError
from federation.wire import certificates
from federation.wire.certificates import Renewal, certificate_in, digest_of, is_due, require_due, require_follows
from federation.wire.v1 import certificates_pb2 as pb

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def a_key():
    return ec.generate_private_key(ec.SECP256R1())


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def made(
    key, *, signer=None, name="alice", issuer="authority", begins=NOW - DAY, ends=NOW + 10 * DAY, use="CLIENT_AUTH"
):
    """A certificate that some authority made; not by the code that this project's own does."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if use:
        builder = builder.add_extension(x509.ExtendedKeyUsage([getattr(x509.ExtendedKeyUsageOID, use)]), critical=False)
    return builder.sign(signer or key, hashes.SHA256())


AUTHORITY, OTHER_AUTHORITY, ALICE, BEN, NEW, SECOND = (a_key() for _ in range(6))
CA = made(AUTHORITY, name="authority", ends=NOW + 1000 * DAY, use=None)
OLD = made(ALICE, signer=AUTHORITY)
WISH = Renewal.sign(OLD, ALICE, NEW)


def csr(key):
    built = x509.CertificateSigningRequestBuilder().subject_name(named("root")).sign(key, _hash_for(key))
    return built.public_bytes(serialization.Encoding.DER)


def _hash_for(key):
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def signed_for(request, certificate=OLD, key=ALICE):
    """A request of somebody else's making, with a proof that is good."""
    return Renewal(request, key.sign(certificates._statement(certificate, request), ec.ECDSA(hashes.SHA256())))


def test_a_wish_of_the_holder_gives_the_new_key_and_names_nobody():
    assert WISH.require_of(OLD) == NEW.public_key()
    assert not list(x509.load_der_x509_csr(WISH.request).subject)
    assert b"alice" not in WISH.request
    assert Renewal.from_proto(WISH.to_proto()) == WISH


def test_the_proof_is_over_tag_certificate_and_request():
    """Put together here by hand, as another program would from docs/formats.md."""
    digests = [hashes.Hash(hashes.SHA256()) for _ in range(2)]
    digests[0].update(OLD.public_bytes(serialization.Encoding.DER))
    digests[1].update(WISH.request)
    statement = b"intaglio-certificate-renewal/1\0" + b"".join(each.finalize() for each in digests)
    ALICE.public_key().verify(WISH.proof, statement, ec.ECDSA(hashes.SHA256()))


OTHER_WISH = Renewal.sign(OLD, ALICE, SECOND)
FORGED = {
    "proof of somebody else": (
        dataclasses.replace(WISH, proof=Renewal.sign(OLD, BEN, NEW).proof),
        "the key of the certi",
    ),
    "proof of another wish": (
        dataclasses.replace(WISH, proof=OTHER_WISH.proof),
        "the key of the certificate that ends",
    ),
    "proof for another certificate": (
        Renewal.sign(made(ALICE, signer=AUTHORITY), ALICE, NEW),
        "the key of the certificate",
    ),
    "proof that is no signature": (dataclasses.replace(WISH, proof=b"\0" * 70), "the key of the certificate that ends"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_nobody_else_s_wish_is_one(forged):
    renewal, said = FORGED[forged]
    with pytest.raises(ProofError, match=said):
        renewal.require_of(OLD)


def test_a_key_that_whoever_asks_does_not_have_gets_nothing():
    request = bytearray(WISH.request)
    request[-1] ^= 1  # of the signature with the new key
    with pytest.raises(ProofError, match="not signed with the key that it is for"):
        signed_for(bytes(request)).require_of(OLD)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"\x30\x00", "no PKCS#10"),
        (WISH.request.replace(b"\x02\x01\x00", b"\x02\x01\x0a", 1), "no PKCS#10"),  # a version that there is not
        (csr(ec.generate_private_key(ec.SECP384R1())), "another kind of key"),
        (csr(ed25519.Ed25519PrivateKey.generate()), "another kind of key"),
    ],
)
def test_a_request_for_another_kind_of_key_is_malformed(request_, said):
    with pytest.raises(MalformedMessageError, match=said):
        signed_for(request_).require_of(OLD)


def test_the_old_key_is_no_new_one_and_another_kind_of_certificate_is_renewed_elsewhere():
    with pytest.raises(RefusedError, match="a certificate of a new key"):
        signed_for(csr(ALICE)).require_of(OLD)
    other = made(rsa.generate_private_key(65537, 2048), signer=AUTHORITY)
    with pytest.raises(RefusedError, match="another kind of key"):
        WISH.require_of(other)


@given(request=st.binary(max_size=300), proof=st.binary(max_size=80))
def test_any_bytes_are_a_wish_or_malformed_and_prove_nothing(request, proof):
    try:
        renewal = Renewal.from_proto(pb.RenewCertificateRequest(request=request, proof=proof))
    except MalformedMessageError:
        return
    assert (renewal.request, renewal.proof) == (request, proof)
    with pytest.raises((MalformedMessageError, ProofError), match="request"):
        renewal.require_of(OLD)


@pytest.mark.parametrize("field", ["request", "proof"])
@pytest.mark.parametrize("length", [0, 2049])
def test_a_wish_has_a_bounded_size(field, length):
    with pytest.raises(MalformedMessageError, match="1 to 2048 bytes"):
        dataclasses.replace(WISH, **{field: b"x" * length})


@pytest.mark.parametrize("changed", [b"\x0a", b"\x01"], ids=["a version that there is not", "version 2"])
def test_what_is_answered_is_a_certificate_of_version_3_or_malformed(changed):
    version, whole = b"\xa0\x03\x02\x01", OLD.public_bytes(serialization.Encoding.DER)
    answer = whole.replace(version + b"\x02", version + changed, 1)
    assert certificate_in(pb.RenewCertificateResponse(certificate=whole)) == OLD
    with pytest.raises(MalformedMessageError, match="no certificate in DER"):
        certificate_in(pb.RenewCertificateResponse(certificate=answer))


@pytest.mark.parametrize("message", [WISH.to_proto(), pb.RenewCertificateResponse()])
def test_a_field_that_nobody_knows_is_refused(message):
    foreign = type(message).FromString(message.SerializeToString() + b"\x7a\x01x")
    with pytest.raises(MalformedMessageError, match="unknown fields"):
        (Renewal.from_proto if message.DESCRIPTOR.name.endswith("Request") else certificate_in)(foreign)


# ---------------------------------------------------------------------- when


@pytest.mark.parametrize(("days", "due"), [(30, True), (31, False), (1, True), (0, False), (-1, False)], ids=str)
def test_a_certificate_is_due_in_its_last_thirty_days_and_not_from_its_end_on(days, due):
    certificate = made(ALICE, begins=NOW - 300 * DAY, ends=NOW + days * DAY)
    assert is_due(certificate, now=NOW) is due
    if due:
        require_due(certificate, now=NOW)
    else:
        with pytest.raises(RefusedError, match="renews nothing" if days <= 0 else "in its last 30 days"):
            require_due(certificate, now=NOW)


# ---------------------------------------------------------------------- what a device takes

LATER = {"ends": NOW + 300 * DAY}


def followed(new, *, authority=CA):
    require_follows(new, OLD, NEW.public_key(), authority, now=NOW)


def test_what_the_authority_made_for_the_new_key_follows():
    followed(made(NEW, signer=AUTHORITY, **LATER))


WRONG = {
    "of another authority": (lambda: made(NEW, signer=OTHER_AUTHORITY, **LATER), "not signed by ca.pem"),
    "of another issuer's name": (lambda: made(NEW, signer=AUTHORITY, issuer="x", **LATER), "not signed by ca.pem"),
    "for the old key": (lambda: made(ALICE, signer=AUTHORITY, **LATER), "another key, name or use"),
    "for another name": (lambda: made(NEW, signer=AUTHORITY, name="ben", **LATER), "another key, name or use"),
    "for a server": (lambda: made(NEW, signer=AUTHORITY, use="SERVER_AUTH", **LATER), "another key, name or use"),
    "for no use": (lambda: made(NEW, signer=AUTHORITY, use=None, **LATER), "says no use"),
    "that has not begun": (lambda: made(NEW, signer=AUTHORITY, begins=NOW + DAY, **LATER), "not in force"),
    "that has ended": (lambda: made(NEW, signer=AUTHORITY, begins=NOW - 9 * DAY, ends=NOW - DAY), "not in force"),
    "that ends with the old one": (lambda: made(NEW, signer=AUTHORITY), "ends no later"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_device_takes_no_certificate(wrong):
    make, said = WRONG[wrong]
    with pytest.raises(ProofError, match=said):
        followed(make())


def test_an_answer_is_a_certificate_or_not_there_yet_or_malformed():
    new = made(NEW, signer=AUTHORITY, **LATER)
    der = new.public_bytes(serialization.Encoding.DER)
    assert certificate_in(pb.RenewCertificateResponse(certificate=der)) == new
    assert certificate_in(pb.RenewCertificateResponse()) is None
    with pytest.raises(MalformedMessageError, match="no certificate in DER"):
        certificate_in(pb.RenewCertificateResponse(certificate=der[:-1]))
    with pytest.raises(MalformedMessageError, match="at most 8192 bytes"):
        certificate_in(pb.RenewCertificateResponse(certificate=der + b"\0" * 8192))


def test_wishes_for_one_key_have_one_digest_however_they_are_signed():
    again = Renewal.sign(OLD, ALICE, NEW)
    assert again != WISH
    assert digest_of(again.require_of(OLD)) == digest_of(WISH.require_of(OLD)) != digest_of(OTHER_WISH.require_of(OLD))


SECOND_LATER = dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"begins": NOW}, None),
        ({"begins": NOW + SECOND_LATER}, "not in force"),
        ({"begins": NOW - 9 * DAY, "ends": NOW + 10 * DAY + SECOND_LATER}, None),
        ({"begins": NOW - 9 * DAY, "ends": NOW + 10 * DAY - SECOND_LATER}, "ends no later"),
    ],
)
def test_the_next_certificate_is_in_force_from_its_first_second_and_ends_a_second_later_at_least(changes, said):
    new = made(NEW, signer=AUTHORITY, **(LATER | changes))
    if said is None:
        followed(new)
        return
    with pytest.raises(ProofError, match=said):
        followed(new)


def test_the_next_certificate_is_over_at_its_last_second_though_it_ends_after_the_old_one():
    ended = made(ALICE, signer=AUTHORITY, begins=NOW - 300 * DAY, ends=NOW - DAY)
    for late, is_taken in ((-1, True), (0, False)):
        new = made(NEW, signer=AUTHORITY, begins=NOW - 2 * DAY, ends=NOW)
        now = NOW + dt.timedelta(seconds=late)
        if is_taken:
            require_follows(new, ended, NEW.public_key(), CA, now=now)
            continue
        with pytest.raises(ProofError, match="not in force"):
            require_follows(new, ended, NEW.public_key(), CA, now=now)


def test_a_certificate_of_several_uses_follows_when_one_is_a_client_s_and_the_key_is_the_one_that_was_asked_for():
    both = [x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = x509.CertificateBuilder(
        issuer_name=named("authority"),
        subject_name=named("alice"),
        public_key=NEW.public_key(),
        serial_number=7,
        not_valid_before=NOW - DAY,
        not_valid_after=NOW + 300 * DAY,
    )
    new = builder.add_extension(x509.ExtendedKeyUsage(both), critical=True).sign(AUTHORITY, hashes.SHA256())
    followed(new)
    for wrong in (SECOND, ALICE):
        with pytest.raises(ProofError, match="another key, name or use"):
            require_follows(new, OLD, wrong.public_key(), CA, now=NOW)


def test_due_and_renewable_are_the_same_seconds():
    certificate = made(ALICE, begins=NOW - 300 * DAY, ends=NOW + 30 * DAY)
    for late, due, said in (
        (dt.timedelta(seconds=-1), False, "ends on 2026-12-01; another follows it in its last 30 days"),
        (dt.timedelta(0), True, ""),
        (30 * DAY - SECOND_LATER, True, ""),
        (30 * DAY, False, "ended on 2026-12-01 and renews nothing; ask the operator"),
    ):
        assert is_due(certificate, now=NOW + late) is due
        if due:
            require_due(certificate, now=NOW + late)
            continue
        with pytest.raises(RefusedError, match=said):
            require_due(certificate, now=NOW + late)


def test_what_is_wrong_with_a_wish_is_said_in_one_order():
    """Its form, then the key that it is for, then its own signature, then the certificate, and the proof last."""
    unsigned = bytearray(WISH.request)
    unsigned[-1] ^= 1
    other = made(rsa.generate_private_key(65537, 2048), signer=AUTHORITY)
    own = bytearray(csr(ALICE))
    own[-1] ^= 1
    for renewal, certificate, kind, said in (
        (Renewal(bytes(unsigned), b"x"), other, ProofError, "not signed with the key that it is for"),
        (Renewal(bytes(own), b"x"), OLD, ProofError, "not signed with the key that it is for"),
        (Renewal(WISH.request, b"x"), other, RefusedError, "this certificate has another kind of key"),
        (Renewal(csr(ALICE), b"x"), OLD, RefusedError, "ask for a certificate of a new key"),
        (Renewal(WISH.request, b"x"), OLD, ProofError, "the key of the certificate that ends"),
    ):
        with pytest.raises(kind, match=said):
            renewal.require_of(certificate)


def test_a_key_is_known_by_the_hash_of_its_whole_public_form():
    written = NEW.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(written)
    assert digest_of(NEW.public_key()) == digest.finalize()


@pytest.mark.parametrize("length", [8192, 8193])
def test_an_answer_is_read_up_to_its_longest(length):
    with pytest.raises(
        MalformedMessageError, match="no certificate in DER" if length == 8192 else "at most 8192 bytes"
    ):
        certificate_in(pb.RenewCertificateResponse(certificate=bytes(length)))


@pytest.mark.parametrize("field", ["request", "proof"])
@pytest.mark.parametrize("length", [1, 2048])
def test_a_wish_of_the_least_and_of_the_most_bytes_is_one(field, length):
    assert len(getattr(dataclasses.replace(WISH, **{field: b"x" * length}), field)) == length
