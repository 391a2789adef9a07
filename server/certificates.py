"""Certificates for TLS and their renewal: a small authority of one's own, a server certificate, one for each client.

It suits a demo, a test and a small deployment. A larger one brings certificates of its own in the same files::

    ca.pem  ca-key.pem           the authority; take ca-key.pem off the machine once all certificates are made, or
                                 let it say in which token the key is
    server.pem  server-key.pem   for localhost and 127.0.0.1, or the names that were asked for
    NAME.pem  NAME-key.pem       one pair for each client
    former/NUMBER.pem            every certificate that was made here for a client, also those that were moved away
    revoked.pem                  the authority's list of those that open nothing any more; none is none

The service knows devices by their own keys, not by these certificates: the certificate only admits to the port.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.commandline.signing_keys import file_of, new_p256_key, p256_key
from federation.errors import UsageError
from server.files import PRIVATE, PUBLIC, make_directory, write_durably, write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CRL_FILE: Final = "revoked.pem"
FORMER: Final = "former"
AUTHORITY_DAYS: Final = 3650
"""How long an authority of ours lives: no certificate of it can live longer."""
CERTIFICATE_DAYS: Final = 397
"""How long a certificate lives when nobody says."""
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


def write_loopback(certificate: Path, key: Path, *, now: dt.datetime) -> None:
    """A new self-signed certificate for 127.0.0.1 with its key, in place of the last ones.

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
    write_durably(key, file_of(private))
    write_durably(certificate, built.public_bytes(serialization.Encoding.PEM), mode=PUBLIC)


def write_pki(
    directory: Path,
    *,
    hosts: Sequence[str],
    clients: Sequence[str],
    now: dt.datetime,
    token: str | None = None,
    days: int | None = None,
) -> list[Path]:
    """Makes an authority and all certificates in `directory`, which is made when missing.

    A crash leaves some of the files; delete the directory and start again.

    Args:
        directory: of the files.
        hosts: what the server is called.
        clients: a pair for each.
        now: when they begin.
        token: URI of the authority's key, when it shall lie in a token.
        days: how long the certificates live, but not the authority; None: `CERTIFICATE_DAYS`.

    Returns:
        The files written.

    Raises:
        UsageError: a file is there already (nothing is ever overwritten), a name cannot be used, or the authority ends
            before `days` are over.
    """
    if not hosts or len(set(clients) | {"ca", "server"}) != len(clients) + 2:
        raise UsageError("name at least one host, and clients that differ from each other, from 'ca' and from 'server'")
    for name in clients:
        require_client_name(name)
    authority = make_authority(now=now, token=token)
    issued = {"ca": authority, "server": issue_server(authority, hosts, now=now, days=days)}
    issued |= {name: issue_client(authority, name, now=now, days=days) for name in clients}
    written = []
    try:
        make_directory(directory, mode=0o700)
        for name, pair in issued.items():
            for path, content, mode in (
                (directory / f"{name}.pem", _public_bytes(pair), PUBLIC),
                (directory / f"{name}-key.pem", file_of(pair.key), PRIVATE),
            ):
                write_new(path, content, mode=mode)
                written.append(path)
        for name in clients:  # a pair may be moved to its device, and is revoked all the same
            keep(directory, issued[name].certificate)
    except FileExistsError as error:
        raise UsageError(f"{error.filename} exists and is not overwritten; name an empty directory") from error
    except OSError as error:
        raise UsageError(f"cannot write certificates to {directory}: {error.strerror}") from error
    return written


def require_client_name(name: str) -> None:
    """Raises `UsageError` unless a client, its certificate and its file may have that name."""
    if not name.isascii() or not name.replace("-", "").isalnum() or name.endswith("-key"):
        raise UsageError("client names are letters, digits and dashes, and do not end in -key")
    if name in {"ca", "server", "revoked"}:
        raise UsageError(f"{name!r} is the name of a file that is no client's")


def keep(directory: Path, certificate: x509.Certificate) -> None:
    """Writes a certificate into the register of its authority's folder, by its number. Doing it again changes nothing.

    Raises:
        OSError: it cannot be written.
    """
    folder = directory / FORMER
    make_directory(folder, mode=0o700)
    content = certificate.public_bytes(serialization.Encoding.PEM)
    write_durably(folder / f"{certificate.serial_number:x}.pem", content, mode=PUBLIC)


def write_pair(directory: Path, name: str, issued: Issued) -> list[Path]:
    """Writes a key and its certificate, in the place of what is there. The key is first; see `renew_pki`."""
    key, certificate = directory / f"{name}-key.pem", directory / f"{name}.pem"
    write_durably(key, file_of(issued.key))
    write_durably(certificate, _public_bytes(issued), mode=PUBLIC)
    return [certificate, key]


def renew_pki(
    directory: Path,
    *,
    now: dt.datetime,
    hosts: Sequence[str] = (),
    days: int | None = None,
    is_due: Callable[[Path, x509.Certificate], bool] = lambda _path, _old: True,
    before: Callable[[x509.Certificate], None] = lambda _: None,
) -> list[Path]:
    """Makes every certificate in `directory` again, with a new key, for the same name and use, by the same authority.

    Keys are replaced before certificates: a crash between the two leaves a pair that does not fit, and doing it again
    mends it.

    Args:
        directory: that `write_pki` made, with the authority's key.
        now: when they begin.
        hosts: the names of a server's certificate; without any, those that it has.
        days: how long the new ones live; None: `CERTIFICATE_DAYS`.
        is_due: whether one is made again.
        before: gets the old one before it goes.

    Returns:
        The certificates that were written, the authority's not among them.

    Raises:
        UsageError: the authority's key is not there, or has ended, or ends before `days` are over; or a file cannot be
            read or written.
    """
    authority = read_authority(directory, now=now)
    renewed = []
    try:
        for path in sorted(directory.glob("*.pem")):
            if path.name.endswith("-key.pem") or not path.with_name(f"{path.stem}-key.pem").exists():
                continue
            old = x509.load_pem_x509_certificate(path.read_bytes())
            if path.name == "ca.pem" or old.issuer != authority.certificate.subject or not is_due(path, old):
                continue
            issued = _again(authority, old, hosts, now=now, days=days)
            before(old)
            write_pair(directory, path.stem, issued)
            renewed.append(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot renew the certificates in {directory}: {error}") from error
    return renewed


def replace_authority(directory: Path, *, now: dt.datetime) -> None:
    """Makes another authority in place of the one in `directory`. Renew the certificates next: none is of this one.

    Raises:
        UsageError: it cannot be written.
    """
    authority = make_authority(now=now)
    try:
        write_durably(directory / "ca-key.pem", file_of(authority.key))
        write_durably(directory / "ca.pem", authority.certificate.public_bytes(serialization.Encoding.PEM), mode=PUBLIC)
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror}") from error


def _again(
    authority: Issued, old: x509.Certificate, hosts: Sequence[str], *, now: dt.datetime, days: int | None
) -> Issued:
    name = str(old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    usage = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        return issue_client(authority, name, now=now, days=days)
    if hosts:
        return issue_server(authority, hosts, now=now, days=days)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return _issue(authority, name, ExtendedKeyUsageOID.SERVER_AUTH, now=now, days=days, names=names)


def read_authority(directory: Path, *, now: dt.datetime) -> Issued:
    """The authority in a folder, to sign with.

    Raises:
        UsageError: its certificate or its key is not there or not its own, or it has ended.
    """
    path = directory / "ca.pem"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = p256_key(directory / "ca-key.pem")
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(f"this needs ca.pem and ca-key.pem in {directory}: {error}") from error
    if key.public_key() != certificate.public_key():
        raise UsageError(f"ca-key.pem is not the key of {path}")
    if certificate.not_valid_after_utc <= now:
        raise UsageError(f"the authority in {directory} ended on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return Issued(certificate, key)


def read_revoked(directory: Path, authority: x509.Certificate) -> dict[int, dt.datetime]:
    """Serial numbers of certificates that were revoked, with the time. No file is none.

    Raises:
        UsageError: the file cannot be read, or is no list that this authority signed.
    """
    path = directory / CRL_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    key = authority.public_key()
    try:
        listed = x509.load_pem_x509_crl(content)
        is_ours = isinstance(key, ec.EllipticCurvePublicKey) and listed.is_signature_valid(key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        is_ours = False
    if not is_ours:
        raise UsageError(f"{path} is no list of revoked certificates that the authority beside it signed")
    return {one.serial_number: one.revocation_date_utc for one in listed}


def client_credentials(directory: Path, name: str) -> grpc.ChannelCredentials:
    """Reads ca.pem, NAME.pem and NAME-key.pem, for a command that asks a server something.

    Raises:
        UsageError: a file is missing or unreadable.
    """
    try:
        authority, certificate, key = (
            (directory / file).read_bytes() for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem")
        )
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}; make certificates with `intaglio-server pki init`") from error
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _public_bytes(issued: Issued) -> bytes:
    return issued.certificate.public_bytes(serialization.Encoding.PEM)


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
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
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
