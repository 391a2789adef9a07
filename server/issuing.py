"""What a certificate of ours says: an authority's, a server's, a client's. Nothing here reads or writes a file."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.addresses import bare_host
from federation.commandline.signing_keys import new_p256_key
from federation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTHORITY_DAYS: Final = 3650
"""How long an authority of ours lives: no certificate of it can live longer."""
CERTIFICATE_DAYS: Final = 397
"""How long a certificate lives when nobody says."""
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_CLOCK_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key.

    Attributes:
        certificate: signed by the authority.
        key: NIST P-256, which every TLS library takes.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Issued({self.certificate.subject.rfc4514_string()}, key=<redacted>)"


def make_authority(*, now: dt.datetime, token: str | None = None) -> Issued:
    """A self-signed authority that may sign end certificates and no further authorities; `token`: URI of its key."""
    key = new_p256_key(token)
    name = _name("intaglio authority")
    certificate = (
        _builder(name, name, key.public_key(), now, dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issued(certificate, key)


def issue_server(authority: Issued, hosts: Sequence[str], *, now: dt.datetime, days: int | None = None) -> Issued:
    """A certificate for a server that is reached under each of `hosts` (names or IP addresses)."""
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return _issue(authority, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, now=now, days=days, names=names)


def issue_client(authority: Issued, name: str, *, now: dt.datetime, days: int | None = None) -> Issued:
    """A certificate that lets `name` connect."""
    return _issue(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, now=now, days=days, names=None)


def certify_client(
    authority: Issued, name: str, key: ec.EllipticCurvePublicKey, *, now: dt.datetime, days: int | None = None
) -> x509.Certificate:
    """A certificate that lets `name` connect with a key that only its device has."""
    return _certify(authority, name, key, ExtendedKeyUsageOID.CLIENT_AUTH, now=now, days=days, names=None)


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Whether a server's certificate names `host`, as gRPC compares.

    `*` stands for one label, the first, and two follow. Of an address only the shortest spelling counts (RFC 5952).
    """
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        host = host.lower()
        named, domain = [name.lower() for name in names.get_values_for_type(x509.DNSName)], host.partition(".")[2]
        return host in named or ("." in domain and f"*.{domain}" in named)
    return str(address) == host and address in names.get_values_for_type(x509.IPAddress)


def issue_again(
    authority: Issued, old: x509.Certificate, hosts: Sequence[str], *, now: dt.datetime, days: int | None
) -> Issued:
    """A certificate for the name and the use of `old`, with a new key; a server's is for `hosts`, or as it was."""
    name = str(old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    usage = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        return issue_client(authority, name, now=now, days=days)
    if hosts:
        return issue_server(authority, hosts, now=now, days=days)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return _issue(authority, name, ExtendedKeyUsageOID.SERVER_AUTH, now=now, days=days, names=names)


def issue_loopback(*, now: dt.datetime) -> Issued:
    """A self-signed certificate for 127.0.0.1.

    It is made at every start and nobody outside this machine sees it, so it ends with the authorities of today.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    name = _name("intaglio loopback")
    built = (
        _builder(name, name, private.public_key(), now, dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name("127.0.0.1")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    return Issued(built, private)


def _issue(
    authority: Issued,
    common_name: str,
    usage: x509.ObjectIdentifier,
    *,
    now: dt.datetime,
    days: int | None,
    names: x509.SubjectAlternativeName | None,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    return Issued(_certify(authority, common_name, key.public_key(), usage, now=now, days=days, names=names), key)


def _certify(
    authority: Issued,
    common_name: str,
    key: ec.EllipticCurvePublicKey,
    usage: x509.ObjectIdentifier,
    *,
    now: dt.datetime,
    days: int | None,
    names: x509.SubjectAlternativeName | None,
) -> x509.Certificate:
    issuer = authority.certificate
    builder = (
        _builder(_name(common_name), issuer.subject, key, now, _lifetime(authority, days, now))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def _lifetime(authority: Issued, days: int | None, now: dt.datetime) -> dt.timedelta:
    """What somebody asked for, which is nothing that the authority's end would cut short."""
    most = (authority.certificate.not_valid_after_utc - now).days
    if days is not None and not 1 <= days <= most:
        raise UsageError(
            f"a certificate of {days} days is none of this authority, which ends on"
            f" {authority.certificate.not_valid_after_utc:%Y-%m-%d}: 1 to {most} days are"
        )
    return dt.timedelta(days=CERTIFICATE_DAYS if days is None else days)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise UsageError(f"a certificate cannot carry the name {common_name!r}: {error}") from error


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(bare_host(host)))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise UsageError(
                f"{host!r} is no host: write a name (in its form with xn-- where it has other letters) or an address,"
                " without a port"
            ) from None
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
