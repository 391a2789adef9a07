"""How a device asks for the certificate that follows its own, and what it takes.

::

    request   PKCS#10 (RFC 2986) for a new key, signed with it: whoever asks has it
    proof     ECDSA of the certificate's key over TAG || SHA-256 of certificate || SHA-256 of request: its holder asks

The authority signs for nobody else. So whatever carries and keeps a request, the matching service, its database, a
file, can lose it and can not make one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.errors import MalformedMessageError, ProofError, RefusedError
from federation.wire.checks import require_no_unknown_fields
from federation.wire.v1 import certificates_pb2 as pb

RENEWAL_DAYS: Final = 30
"""Before its end a certificate is followed by another, and not earlier: whoever has a key for a day gains no year."""
MOST_REQUEST_BYTES: Final = 2048
MOST_CERTIFICATE_BYTES: Final = 8192
_TAG: Final = b"intaglio-certificate-renewal/1\0"
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class Renewal:
    """A device's wish for another certificate. Parsing proves nothing: `require_of` does.

    Attributes:
        request: PKCS#10 in DER, signed with the new key.
        proof: signature of the key of the certificate that is in force, in DER.
    """

    request: bytes = field(repr=False)
    proof: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.request) <= MOST_REQUEST_BYTES or not 0 < len(self.proof) <= MOST_REQUEST_BYTES:
            raise MalformedMessageError(f"request and proof have 1 to {MOST_REQUEST_BYTES} bytes each")

    @classmethod
    def sign(
        cls, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, new: ec.EllipticCurvePrivateKey
    ) -> Renewal:
        """A wish of the device that has `certificate` and its `key`, for the key `new`."""
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(new, hashes.SHA256())
        request = asked.public_bytes(serialization.Encoding.DER)
        return cls(request, key.sign(_statement(certificate, request), _ALGORITHM))

    def require_of(self, certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
        """The new key, when whoever has the key of `certificate` asks for it and has it too.

        Raises:
            MalformedMessageError: the request is none for a key of NIST P-256.
            ProofError: one of the two signatures is not good.
            RefusedError: the certificate has no key of that kind, or the key is not new.
        """
        try:
            asked = x509.load_der_x509_csr(self.request)
            new, is_signed = asked.public_key(), asked.is_signature_valid
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise MalformedMessageError("the request is no PKCS#10 in DER") from error
        if not isinstance(new, ec.EllipticCurvePublicKey) or not isinstance(new.curve, ec.SECP256R1):
            raise MalformedMessageError("the request is for another kind of key than NIST P-256")
        if not is_signed:
            raise ProofError("the request is not signed with the key that it is for")
        old = certificate.public_key()
        if not isinstance(old, ec.EllipticCurvePublicKey):
            raise RefusedError("this certificate has another kind of key; whoever made it renews it")
        if new == old:
            raise RefusedError("ask for a certificate of a new key")
        try:
            old.verify(self.proof, _statement(certificate, self.request), _ALGORITHM)
        except InvalidSignature as error:
            raise ProofError("the request is not signed with the key of the certificate that ends") from error
        return new

    @classmethod
    def from_proto(cls, message: pb.RenewCertificateRequest) -> Renewal:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(message.request, message.proof)

    def to_proto(self) -> pb.RenewCertificateRequest:
        """The message."""
        return pb.RenewCertificateRequest(request=self.request, proof=self.proof)


def certificate_in(message: pb.RenewCertificateResponse) -> x509.Certificate | None:
    """What a server answered; None while nobody has signed it. Whether it is the right one is not looked at here.

    Raises:
        MalformedMessageError: it is no certificate, or a field is unknown.
    """
    require_no_unknown_fields(message)
    if not message.certificate:
        return None
    if len(message.certificate) > MOST_CERTIFICATE_BYTES:
        raise MalformedMessageError(f"a certificate has at most {MOST_CERTIFICATE_BYTES} bytes")
    try:
        return x509.load_der_x509_certificate(message.certificate)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedMessageError("the answer is no certificate in DER") from error


def is_due(certificate: x509.Certificate, *, now: dt.datetime) -> bool:
    """Whether a certificate is in force and ends so soon that another may follow it."""
    end = certificate.not_valid_after_utc
    return end - dt.timedelta(days=RENEWAL_DAYS) <= now < end


def require_due(certificate: x509.Certificate, *, now: dt.datetime) -> None:
    """Raises `RefusedError` unless `is_due`."""
    end = certificate.not_valid_after_utc
    if end <= now:
        raise RefusedError(f"this certificate ended on {end:%Y-%m-%d} and renews nothing; ask the operator for another")
    if not is_due(certificate, now=now):
        raise RefusedError(
            f"this certificate ends on {end:%Y-%m-%d}; another follows it in its last {RENEWAL_DAYS} days"
        )


def require_follows(
    new: x509.Certificate,
    old: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    *,
    now: dt.datetime,
) -> None:
    """Returns when a device may show `new` in the place of `old`.

    Raises:
        ProofError: the authority did not sign it; or it is not for that key, name and use, not in force, or ends first.
    """
    try:
        new.verify_directly_issued_by(authority)
        uses = new.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ProofError("the new certificate is not signed by ca.pem, or says no use") from error
    if new.public_key() != key or new.subject != old.subject or ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise ProofError("the new certificate is for another key, name or use")
    end = new.not_valid_after_utc
    if not new.not_valid_before_utc <= now < end or end <= old.not_valid_after_utc:
        raise ProofError("the new certificate is not in force, or ends no later than the old one: is the clock right?")


def digest_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a public key (SubjectPublicKeyInfo), 32 bytes: requests for one key are one request."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).digest()


def _statement(certificate: x509.Certificate, request: bytes) -> bytes:
    return _TAG + certificate.fingerprint(hashes.SHA256()) + hashlib.sha256(request).digest()
