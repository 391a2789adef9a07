"""One file for a person: certificate, ticket and everything that is public here, sealed with a passphrase."""

from __future__ import annotations

import base64
import datetime as dt
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from federation.addresses import split
from federation.errors import UsageError
from federation.sealing import SHORTEST_PASSPHRASE, Passphrase, ScryptCost, sealed
from federation.wire.person import PERSON, PersonFile
from federation.wire.ticket import Ticket
from server.files import write_new
from server.issuing import is_for
from server.people import authority
from server.people.tickets import DAY_SECONDS, issue_ticket

if TYPE_CHECKING:
    from server.storage.storage import Storage

_PASSPHRASE_BYTES = 10
_PAIR_BYTES = 16 << 10
"""More than a certificate, its key and the seal add to everything else."""


def draw_passphrase() -> Passphrase:
    """80 random bits as four groups of four letters: to be read out, and not to be guessed at any cost."""
    letters = base64.b32encode(secrets.token_bytes(_PASSPHRASE_BYTES)).decode().lower()
    return Passphrase("-".join(letters[start : start + 4] for start in range(0, len(letters), 4)))


def read_passphrase(path: Path) -> Passphrase:
    """The first line of a file.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    try:
        return Passphrase(_read(path).decode().partition("\n")[0].rstrip("\r"))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None  # the cause quotes the bytes


def write_person(
    path: Path,
    name: str,
    storage: Storage,
    *,
    tls: Path,
    public: Mapping[str, Path],
    server: str,
    deployment: str,
    ticket_days: int,
    certificate_days: int | None = None,
    passphrase: Passphrase,
    now: dt.datetime,
    cost: ScryptCost | None = None,
) -> None:
    """Issues a certificate and a ticket that only it may bring, and writes the file for the person.

    Everything that can be wrong is looked at before anything is issued. A crash leaves a name that has a certificate
    and no file: revoke the name, and do it again.

    Args:
        path: of the file, which is not there yet.
        name: of the person, in the certificate.
        storage: of the service.
        tls: folder of the authority, with its key.
        public: where everything lies that is no certificate, by its name in `federation.wire.person.FILES`.
        server: HOST:PORT.
        deployment: identifier in the public rules.
        ticket_days: how long the ticket is good.
        certificate_days: how long the certificate lives; None: the usual time.
        passphrase: that seals it.
        now: the time.
        cost: of the passphrase.

    Raises:
        UsageError: a file is missing, or there already, or all of them are more than a device reads; the name has a
            certificate; the service's certificate, where it lies there too, is for other hosts; or the authority ends
            before `certificate_days` are over.
        UnavailableError: the database takes nothing.
    """
    try:
        if path.exists() or path.is_symlink():  # also one that leads nowhere
            raise UsageError(f"{path} exists and is not overwritten; choose another file")
    except OSError as error:  # its name is too long, or nobody may look there
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise UsageError(f"the passphrase needs at least {SHORTEST_PASSPHRASE} characters")
    contents = {each: _read(place) for each, place in public.items()}
    contents["ca.pem"] = _read(tls / "ca.pem")
    if path.suffix == ".pem" and path.parent.samefile(tls):
        raise UsageError(f"{path} would lie among the certificates as one of them; choose another file")
    _require_named(tls / "server.pem", server)
    absent = {"client.pem": b"", "client-key.pem": b""}
    ticket_end = int(now.timestamp()) + ticket_days * DAY_SECONDS
    trial = PersonFile(server, deployment, Ticket.draw(), contents | absent)  # what is wrong with it is said now
    if (size := len(trial.to_secret_bytes()) + _PAIR_BYTES) > PERSON.most_bytes:
        raise UsageError(f"{path} would have up to {size} bytes, and {PERSON.most_bytes} are read")
    try:
        with tempfile.TemporaryFile(dir=path.parent) as room:  # a crash leaves nothing of it
            room.write(bytes(size))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    storage.ping()
    certificate, key = authority.issue(tls, name, now=now, days=certificate_days)
    own = {"client.pem": _read(certificate), "client-key.pem": _read(key)}
    ticket = issue_ticket(storage, ends_at=ticket_end, client=name)
    person = PersonFile(trial.server, trial.deployment, ticket, contents | own)
    data = sealed(person.to_secret_bytes(), PERSON, passphrase, cost or ScryptCost())
    try:
        write_new(path, data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _require_named(path: Path, server: str) -> None:
    """Raises UsageError: the certificate of the service is there, and a device that looks for `server` refuses it."""
    if not path.exists():
        return  # it lies with the service alone
    host = split(server)[0]
    try:
        certificate = x509.load_pem_x509_certificate(_read(path))
        if is_for(certificate, host):
            return
    except (ValueError, x509.ExtensionNotFound):
        raise UsageError(f"{path} is no certificate of a server; restore it, or move it away") from None
    raise UsageError(
        f"{path} is not for {host}, so no device would connect to {server}: write a host that it is for, or run"
        f" `intaglio-server pki renew {path.parent} server --host {host}` with all of its hosts, and give the service"
        " the new pair"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
