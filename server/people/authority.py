"""A certificate for one more person, another in the place of one that ends, and an end to one that was lost.

What is made here is never forgotten: it lies in ``former/`` too, also when another one took its place, or when somebody
moved the pair to a device instead of copying it. So whoever revokes a name ends all that it ever had. Which those are
stands in ``revoked.pem``, a list in the common form (RFC 5280, section 5) that the authority signs. The service reads
it every few seconds (`server.matching.admission`).

Theory of operation
-------------------
Whatever changes the folder holds its lock, so that two who work in it at once do it one after the other. A certificate
is kept in ``former/`` before another takes its place, and is on the list before its file goes. So a crash leaves each
certificate that was ever handed out in its own file or in ``former/``, and doing the same again does the rest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import UsageError
from server.certificates import (
    CRL_FILE,
    Issued,
    issue_client,
    read_authority,
    read_revoked,
    renew_pki,
    require_client_name,
    write_pair,
)
from server.files import PUBLIC, locked, make_directory, sync_directory, write_durably

_FORMER: Final = "former"
_LOCK: Final = ".lock"
_LAST: Final = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
"""The list has no end of its own: one that was not renewed in time must not let everybody in."""


@dataclass(frozen=True)
class Known:
    """A certificate that this authority made.

    Attributes:
        name: in it, and of its file.
        is_client: whether a device shows it; else the server does.
        serial: number.
        ends_at: when.
        revoked_at: when it was put on the list, or None.
        is_present: whether it lies under its name; else another one took its place.
    """

    name: str
    is_client: bool
    serial: int
    ends_at: dt.datetime
    revoked_at: dt.datetime | None
    is_present: bool

    def state(self, now: dt.datetime) -> str:
        """In a word or two."""
        if self.revoked_at is not None:
            return f"revoked on {self.revoked_at:%Y-%m-%d}"
        if self.ends_at <= now:
            return "ended"
        return "in force" if self.is_present else "in force, and another was made since"


def issue(directory: Path, name: str, *, now: dt.datetime) -> list[Path]:
    """Makes a certificate for one more client: NAME.pem and NAME-key.pem.

    A crash leaves no certificate of that name, or a key without one: doing it again replaces that.

    Raises:
        UsageError: the name is taken or cannot be used; the authority's key is not there, or has ended.
    """
    require_client_name(name)
    with _working_in(directory):
        authority = read_authority(directory, now=now)
        if (directory / f"{name}.pem").exists():
            raise UsageError(
                f"{name} has a certificate in {directory}: `intaglio-server pki renew` makes another for the same"
                " device, and after `intaglio-server pki revoke` the name is free"
            )
        issued = issue_client(authority, name, now=now)
        _keep(directory, issued.certificate)  # whoever gets the pair may get it by a move, and is revoked all the same
        return write_pair(directory, name, issued)


def renew(
    directory: Path, *, now: dt.datetime, names: tuple[str, ...] = (), ending_within: dt.timedelta | None = None
) -> list[Path]:
    """Makes certificates again, with new keys, for the same names. The old ones stay in force until they end.

    Args:
        directory: of the authority, with its key.
        now: when they begin.
        names: which; all of them when there are none.
        ending_within: only those that end so soon.

    Returns:
        The certificates that were written.

    Raises:
        UsageError: a name has no certificate; see also `renew_pki`.
    """
    with _working_in(directory):
        for name in names:
            if name == "ca" or not (directory / f"{name}.pem").exists():
                raise UsageError(
                    f"there is no certificate of {name!r} in {directory}; `intaglio-server pki list` shows all"
                )

        def is_due(path: Path, old: x509.Certificate) -> bool:
            return (not names or path.stem in names) and (
                ending_within is None or old.not_valid_after_utc - now <= ending_within
            )

        renewed = renew_pki(directory, now=now, is_due=is_due, before=lambda old: _keep(directory, old))
        for path in renewed:
            _keep(directory, _read(path))
        return renewed


def revoke(directory: Path, name: str, *, now: dt.datetime) -> list[int]:
    """Ends every certificate that a client ever had here, and frees its name. Doing it twice changes nothing.

    Returns:
        Serial numbers that were not on the list before.

    Raises:
        UsageError: nobody of that name ever had one; it is no client's; or the authority's key is not there.
    """
    require_client_name(name)
    with _working_in(directory):
        authority = read_authority(directory, now=now)
        theirs = [one for one in _made(directory, authority.certificate) if _name_of(one) == name and _is_client(one)]
        if not theirs:
            raise UsageError(
                f"no certificate of {name!r} was ever made in {directory}; `intaglio-server pki list` shows all"
            )
        before = read_revoked(directory, authority.certificate)
        added = {one.serial_number: now for one in theirs if one.serial_number not in before}
        if added:
            write_durably(directory / CRL_FILE, _list_of(authority, before | added, now), mode=PUBLIC)
        # A crash before this line leaves a name that is not free; it is revoked, and doing it again frees it.
        path = directory / f"{name}.pem"
        if path.exists():
            _keep(directory, x509.load_pem_x509_certificate(path.read_bytes()))
            path.unlink()
        path.with_name(f"{name}-key.pem").unlink(missing_ok=True)
        sync_directory(directory)
        return list(added)


def known(directory: Path) -> list[Known]:
    """Everything that the authority made, by name and end. Needs no key.

    Raises:
        UsageError: there is no authority, or its list is not its own.
    """
    authority = _read(directory / "ca.pem")
    revoked = read_revoked(directory, authority)
    present = {one.serial_number for one in _present(directory, authority)}
    found = {
        one.serial_number: Known(
            _name_of(one),
            _is_client(one),
            one.serial_number,
            one.not_valid_after_utc,
            revoked.get(one.serial_number),
            one.serial_number in present,
        )
        for one in _made(directory, authority)
    }
    return sorted(found.values(), key=lambda one: (one.is_client, one.name, one.ends_at))


@contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    try:
        with locked(directory / _LOCK):
            yield
    except OSError as error:
        raise UsageError(f"cannot work in {directory}: {error.strerror or error}") from error


def _keep(directory: Path, old: x509.Certificate) -> None:
    folder = directory / _FORMER
    make_directory(folder, mode=0o700)
    content = old.public_bytes(serialization.Encoding.PEM)
    write_durably(folder / f"{old.serial_number:x}.pem", content, mode=PUBLIC)


def _made(directory: Path, authority: x509.Certificate) -> list[x509.Certificate]:
    former = [_read(path) for path in sorted((directory / _FORMER).glob("*.pem"))]
    return [*_present(directory, authority), *(one for one in former if one.issuer == authority.subject)]


def _present(directory: Path, authority: x509.Certificate) -> list[x509.Certificate]:
    paths = [path for path in sorted(directory.glob("*.pem")) if not path.name.endswith("-key.pem")]
    found = [_read(path) for path in paths if path.name not in {"ca.pem", CRL_FILE}]
    return [one for one in found if one.issuer == authority.subject]


def _list_of(authority: Issued, serials: dict[int, dt.datetime], now: dt.datetime) -> bytes:
    builder = x509.CertificateRevocationListBuilder(authority.certificate.subject, now, _LAST)
    for serial, at in sorted(serials.items()):
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no certificate: {error}") from error


def _name_of(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _is_client(certificate: x509.Certificate) -> bool:
    return (
        ExtendedKeyUsageOID.CLIENT_AUTH in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )
