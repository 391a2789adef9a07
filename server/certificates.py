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
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.commandline.signing_keys import file_of, p256_key
from federation.errors import UsageError
from server.files import PRIVATE, PUBLIC, make_directory, write_durably, write_new
from server.issuing import Issued, issue_again, issue_client, issue_loopback, issue_server, make_authority

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CRL_FILE: Final = "revoked.pem"
FORMER: Final = "former"


def write_loopback(certificate: Path, key: Path, *, now: dt.datetime) -> None:
    """A new self-signed certificate for 127.0.0.1 with its key, in place of the last ones."""
    issued = issue_loopback(now=now)
    write_durably(key, file_of(issued.key))
    write_durably(certificate, _public_bytes(issued), mode=PUBLIC)


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
            if name in clients:  # first: a pair may be moved to its device, and is revoked all the same
                keep(directory, pair.certificate)
            for path, content, mode in (
                (directory / f"{name}.pem", _public_bytes(pair), PUBLIC),
                (directory / f"{name}-key.pem", file_of(pair.key), PRIVATE),
            ):
                write_new(path, content, mode=mode)
                written.append(path)
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
    mode = key.stat().st_mode & 0o777 if key.exists() else PRIVATE  # a service's group may read its key
    write_durably(key, file_of(issued.key), mode=mode)
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
        before: gets the old one and the new one before either file changes.

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
            issued = issue_again(authority, old, hosts, now=now, days=days)
            before(old)
            before(issued.certificate)
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


def _public_bytes(issued: Issued) -> bytes:
    return issued.certificate.public_bytes(serialization.Encoding.PEM)
