"""Whose certificate opens the port, and what the server shows for itself: read again while it runs.

A renewed certificate is shown to whoever connects from then on, and open connections keep the old one. One that was
revoked is refused at each call, so that a connection that was open before is worth nothing either.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from federation.errors import RefusedError, UsageError
from server.certificates import read_revoked
from server.pairs import Ends, Pair
from server.storage.certificates import CertificateStorage
from server.visitors.peers import certificate_of

_Context = grpc.aio.ServicerContext[Any, Any]
_NAME = "server"
_RENEW_SERVER = "run `intaglio-server pki renew` on the folder of the certificates; the service takes it up by itself"
_RENEW_AUTHORITY = "make another folder with `intaglio-server pki init`, and give every device its new certificates"

log = structlog.get_logger(__name__)


class Admission:
    """The folder of certificates that a server has.

    Args:
        directory: with ca.pem, server.pem and server-key.pem, and revoked.pem if something was.
        clock: the time.

    Raises:
        UsageError: a file is missing or damaged, or key and certificate do not belong together.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._directory = directory
        self._ends = Ends({"server": _RENEW_SERVER, "authority": _RENEW_AUTHORITY}, _warn, clock)
        self._served = Pair.read(directory, _NAME)
        self._authority, self._certificate = self._served.certificates()
        self._listed = self._revoked = frozenset(read_revoked(directory, self._authority))
        self._lacking = 0  # certificates that the list does not have and the database knows to be revoked
        self._storage: CertificateStorage | None = None
        self._renewed: grpc.ServerCertificateConfiguration | None = None

    def remember(self, storage: CertificateStorage) -> None:
        """From now on whoever was ever on the list of any front end on that database is revoked here too.

        So neither a start without the list lets anybody in again, nor one whose copy is old; both are said.

        Raises:
            UsageError: the list is damaged.
            UnavailableError: the database cannot be used.
        """
        self._storage = storage
        self._take_list()

    def credentials(self) -> grpc.ServerCredentials:
        """For a listener. Clients must show a certificate of the authority."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._served),
            self._fetch,  # type: ignore[arg-type] # gRPC takes None for "as before"; the stubs do not know it
            require_client_authentication=True,
        )

    def require(self, context: _Context) -> None:
        """Raises `RefusedError` when the caller's certificate was revoked."""
        if self._revoked and certificate_of(context).serial_number in self._revoked:
            raise RefusedError("this certificate was revoked; ask the operator for another one")

    @property
    def days_left(self) -> dict[str, float]:
        """Until each certificate ends; negative once it has."""
        return self._ends.days_left(self._certificates())

    def look(self) -> list[str]:
        """Takes up what was renewed and what was revoked. Call it often.

        What was revoked stays revoked while the list cannot be read.

        Returns:
            Sentences about certificates that end soon, or have ended, about new files that cannot be taken up, and
            about a list that lacks some.

        Raises:
            UsageError: a file is missing, the list is damaged, or somebody has left it while this ran.
            UnavailableError: the database cannot be used.
        """
        pair, unfit = Pair.read(self._directory, _NAME), list[str]()
        if pair != self._served:
            try:
                authority, certificate = pair.certificates()
            except UsageError as error:  # the key is new and the certificate is not yet, for a moment or since a crash
                unfit = [str(error)]
            else:
                self._served, self._renewed = pair, _configuration(pair)
                self._authority, self._certificate = authority, certificate
                log.info("certificate_renewed", ends=f"{certificate.not_valid_after_utc:%Y-%m-%d}")
        lacking = self._take_list()
        return [*self._ends.notices(self._certificates()), *unfit, *lacking]

    def _take_list(self) -> list[str]:
        """What is on the list, and what the database knows to have been on it; a sentence if the list lacks some."""
        listed = frozenset(read_revoked(self._directory, self._authority))
        self._revoked |= listed  # whatever the database does
        name = self._authority.fingerprint(hashes.SHA256())
        seen = self._storage.seen_revoked(name) if self._storage else frozenset()
        lost, self._listed = self._listed - listed, self._listed | listed
        self._revoked = self._listed | seen
        if self._storage and not self._listed <= seen:
            self._storage.see_revoked(name, self._listed)
        if lost:
            raise UsageError("certificates that were revoked are not on the list any more; put revoked.pem back")
        lacking, before = len(seen - listed), self._lacking
        self._lacking = lacking
        if lacking > before:
            log.warning("list_of_revoked_lacks", certificates=lacking)
        return [f"revoked.pem lacks {lacking} certificates that were revoked, and are; put it back"] if lacking else []

    def _certificates(self) -> dict[str, x509.Certificate]:
        return {"server": self._certificate, "authority": self._authority}

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each handshake: what to show from now on, or None for the same as before."""
        renewed, self._renewed = self._renewed, None
        return renewed


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], root_certificates=pair.authority)


def _warn(line: str) -> None:
    log.warning("certificate_ends", says=line)
