"""A certificate for one more person, another in the place of one that ends, and an end to one that was lost.

What is made here is never forgotten: it lies in ``former/`` too, from its beginning, also when another one took its
place, or when somebody moved the pair to a device instead of copying it. So whoever revokes a name ends all that it
ever had. Which those are stands in ``revoked.pem``, a list in the common form (RFC 5280, section 5) that the authority
signs. The service reads it every few seconds (`server.matching.admission`).

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
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import RefusedError, UsageError
from federation.wire.certificates import Renewal, require_due
from server.certificates import (
    CRL_FILE,
    FORMER,
    keep,
    read_authority,
    read_revoked,
    renew_pki,
    require_client_name,
    write_pair,
)
from server.expiry import read_certificate
from server.files import PUBLIC, locked, sync_directory, write_durably
from server.issuing import Issued, certify_client, issue_client

_LOCK: Final = ".lock"
_SERIAL_BITS: Final = 160
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


def issue(directory: Path, name: str, *, now: dt.datetime, days: int | None = None) -> list[Path]:
    """Makes a certificate for one more client: NAME.pem and NAME-key.pem. It lives `days`, or the usual time.

    A crash leaves no certificate of that name, or a key without one: doing it again replaces that.

    Raises:
        UsageError: the name is taken or cannot be used; the authority's key is not there, has ended, or ends before
            `days` are over.
    """
    require_client_name(name)
    with _working_in(directory):
        authority = read_authority(directory, now=now)
        if (directory / f"{name}.pem").exists():
            raise UsageError(
                f"{name} has a certificate in {directory}: `intaglio-server pki renew` makes another for the same"
                " device, and after `intaglio-server pki revoke` the name is free"
            )
        issued = issue_client(authority, name, now=now, days=days)
        keep(directory, issued.certificate)  # whoever gets the pair may get it by a move, and is revoked all the same
        return write_pair(directory, name, issued)


def renew(
    directory: Path,
    *,
    now: dt.datetime,
    names: tuple[str, ...] = (),
    ending_within: dt.timedelta | None = None,
    days: int | None = None,
) -> list[Path]:
    """Makes certificates again, with new keys, for the same names. The old ones stay in force until they end.

    Args:
        directory: of the authority, with its key.
        now: when they begin.
        names: which; all of them when there are none.
        ending_within: only those that end so soon.
        days: how long the new ones live; None: the usual time.

    Returns:
        The certificates that were written.

    Raises:
        UsageError: a name has no certificate; see also `renew_pki`.
    """
    with _working_in(directory):
        there = {path.stem for path in _files(directory)}
        for name in names:
            if name not in there:
                raise UsageError(
                    f"there is no certificate of {name!r} in {directory}; `intaglio-server pki list` shows all"
                )
            if not (directory / f"{name}-key.pem").exists():
                raise UsageError(
                    f"the key of {name} is with its device, which asks for the next certificate by itself:"
                    " `intaglio-server pki sign` answers. Where it is lost, revoke the name and issue it again"
                )

        def is_due(path: Path, old: x509.Certificate) -> bool:
            return (not names or path.stem in names) and (
                ending_within is None or old.not_valid_after_utc - now <= ending_within
            )

        return renew_pki(directory, now=now, days=days, is_due=is_due, before=lambda one: keep(directory, one))


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
        theirs = [one for one in _made(directory, authority.certificate) if name_of(one) == name and _is_client(one)]
        if not theirs:
            raise UsageError(
                f"no certificate of {name!r} was ever made in {directory}; `intaglio-server pki list` shows all"
            )
        added = _put_on_list(directory, authority, [one.serial_number for one in theirs], now)
        # A crash before this line leaves a name that is not free; it is revoked, and doing it again frees it.
        _free(directory, name)
        return added


def revoke_number(directory: Path, serial: int, *, now: dt.datetime) -> bool:
    """Ends one certificate by its number, also one that nobody kept here. What else its holder has stays in force.

    Returns:
        Whether it was not on the list before.

    Raises:
        UsageError: it is no number of a certificate, or one that a server shows, or the authority's own; or the
            authority's key is not there.
    """
    if not 0 < serial < 1 << _SERIAL_BITS:
        raise UsageError("a certificate's number is 1 to 40 hex digits, as `intaglio-server pki list --json` shows it")
    with _working_in(directory):
        authority = read_authority(directory, now=now)
        if serial == authority.certificate.serial_number:
            raise UsageError("that is the number of the authority itself, which no list of its own ends")
        found = next((one for one in _made(directory, authority.certificate) if one.serial_number == serial), None)
        if found is not None and not _is_client(found):
            raise UsageError("that is the number of a server's certificate: `intaglio-server pki renew` replaces it")
        added = _put_on_list(directory, authority, [serial], now)
        if found is not None and _lies_under_its_name(directory, found):
            _free(directory, name_of(found))
        return bool(added)


def follow(
    directory: Path, serial: int, renewal: Renewal, *, now: dt.datetime, days: int | None = None
) -> x509.Certificate:
    """Signs the certificate that follows one that ends soon, for its holder's new key. Doing it again makes no other.

    Nothing that the service says is believed: the name is the one that this authority wrote into the old certificate,
    and the old certificate's key has signed for the new one.

    Args:
        directory: of the authority, with its key.
        serial: of the certificate that ends.
        renewal: the device's wish.
        now: when it begins.
        days: how long it lives; None: the usual time.

    Returns:
        The new one. It lies under its name; a key that lay beside the old one is gone, since it is not of this one. A
        pair that was made here since stays as it is: whoever has only the former pair of a bridge takes it from nobody.

    Raises:
        RefusedError: the old one was revoked, has ended, does not end soon, or was never made here for a client; or the
            key that is asked for is in a certificate of another name or use, or in one that was revoked.
        MalformedMessageError, ProofError: the wish is not of its holder.
        UsageError: the authority's key is not there, or it ends before `days` are over.
    """
    with _working_in(directory):
        authority = read_authority(directory, now=now)
        made = _made(directory, authority.certificate)
        old = next((one for one in made if one.serial_number == serial), None)
        if old is None or not _is_client(old):
            raise RefusedError(f"no client's certificate with the number {serial:x} was made in {directory}")
        revoked = read_revoked(directory, authority.certificate)
        if serial in revoked:
            raise RefusedError(f"the certificate of {name_of(old)} was revoked")
        require_due(old, now=now)
        key, name = renewal.require_of(old), name_of(old)
        new = next((one for one in (authority.certificate, *made) if one.public_key() == key), None)
        if new is not None and (name_of(new) != name or not _is_client(new) or new.serial_number in revoked):
            raise RefusedError(f"what is asked for {name} is a key that has another certificate already")
        new = certify_client(authority, name, key, now=now, days=days) if new is None else new
        # A crash before this line leaves nothing, after it what the next call finds.
        keep(directory, new)
        if not _was_made_again(directory, name, old):
            (directory / f"{name}-key.pem").unlink(missing_ok=True)  # first: beside the new one it would seem its key
            sync_directory(directory)
            write_durably(directory / f"{name}.pem", new.public_bytes(serialization.Encoding.PEM), mode=PUBLIC)
        return new


def _was_made_again(directory: Path, name: str, old: x509.Certificate) -> bool:
    """Whether a pair lies under a name, key and all, that `renew` made after `old`."""
    path, key = directory / f"{name}.pem", directory / f"{name}-key.pem"
    return path.exists() and key.exists() and read_certificate(path) != old


def known(directory: Path) -> list[Known]:
    """Everything that the authority made, by name and end. Needs no key.

    Raises:
        UsageError: there is no authority, or its list is not its own.
    """
    authority = read_certificate(directory / "ca.pem")
    revoked = read_revoked(directory, authority)
    present = {one.serial_number for one in _present(directory, authority)}
    found = {
        one.serial_number: Known(
            name_of(one),
            _is_client(one),
            one.serial_number,
            one.not_valid_after_utc,
            revoked.get(one.serial_number),
            one.serial_number in present,
        )
        for one in _made(directory, authority)
    }
    return sorted(found.values(), key=lambda one: (one.is_client, one.name, one.ends_at))


def _put_on_list(directory: Path, authority: Issued, serials: list[int], now: dt.datetime) -> list[int]:
    before = read_revoked(directory, authority.certificate)
    added = {serial: now for serial in serials if serial not in before}
    if added:
        write_durably(directory / CRL_FILE, _list_of(authority, before | added, now), mode=PUBLIC)
    return list(added)


def _lies_under_its_name(directory: Path, certificate: x509.Certificate) -> bool:
    """Whether NAME.pem is this one: where somebody kept it as another file, NAME.pem and its key are of another."""
    path = directory / f"{name_of(certificate)}.pem"
    return path.exists() and read_certificate(path) == certificate


def _free(directory: Path, name: str) -> None:
    path = directory / f"{name}.pem"
    if path.exists():
        keep(directory, read_certificate(path))
        path.unlink()
    path.with_name(f"{name}-key.pem").unlink(missing_ok=True)
    sync_directory(directory)


@contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    try:
        with locked(directory / _LOCK):
            yield
    except OSError as error:
        raise UsageError(f"cannot work in {directory}: {error.strerror or error}") from error


def _made(directory: Path, authority: x509.Certificate) -> list[x509.Certificate]:
    former = [read_certificate(path) for path in sorted((directory / FORMER).glob("*.pem"))]
    return [*_present(directory, authority), *(one for one in former if _is_of(one, authority))]


def _present(directory: Path, authority: x509.Certificate) -> list[x509.Certificate]:
    found = [read_certificate(path) for path in _files(directory)]
    return [one for one in found if _is_of(one, authority)]


def _files(directory: Path) -> list[Path]:
    """What lies in a folder and is a certificate's, but for the authority's own."""
    paths = [path for path in sorted(directory.glob("*.pem")) if not path.name.endswith("-key.pem")]
    return [path for path in paths if path.name not in {"ca.pem", CRL_FILE}]


def _is_of(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether this very authority signed it: another may have the same name."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _list_of(authority: Issued, serials: dict[int, dt.datetime], now: dt.datetime) -> bytes:
    builder = x509.CertificateRevocationListBuilder(authority.certificate.subject, now, _LAST)
    for serial, at in sorted(serials.items()):
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def name_of(certificate: x509.Certificate) -> str:
    """The name that its authority wrote into a certificate."""
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _is_client(certificate: x509.Certificate) -> bool:
    return (
        ExtendedKeyUsageOID.CLIENT_AUTH in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )
