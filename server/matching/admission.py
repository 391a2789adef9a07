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
from cryptography.hazmat.primitives import serialization

from federation.errors import RefusedError, UsageError
from server.certificates import read_revoked
from server.expiry import days_left, notice_of_end
from server.visitors.peers import serial_of

_Context = grpc.aio.ServicerContext[Any, Any]
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
        self._directory, self._clock = directory, clock
        self._served = self._files()
        self._authority, self._certificate = _pair_of(directory, self._served)
        self._revoked = frozenset(read_revoked(directory, self._authority))
        self._renewed: grpc.ServerCertificateConfiguration | None = None
        self._warned_on: dt.date | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For a listener. Clients must show a certificate of the authority."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._served),
            self._fetch,  # type: ignore[arg-type] # gRPC takes None for "as before"; the stubs do not know it
            require_client_authentication=True,
        )

    def require(self, context: _Context) -> None:
        """Raises `RefusedError` when the caller's certificate was revoked."""
        if self._revoked and serial_of(context) in self._revoked:
            raise RefusedError("this certificate was revoked; ask the operator for another one")

    @property
    def days_left(self) -> dict[str, float]:
        """Until each certificate ends; negative once it has."""
        now = self._clock()
        return {name: days_left(one.not_valid_after_utc, now) for name, one in self._certificates().items()}

    def look(self) -> list[str]:
        """Takes up what was renewed and what was revoked. Call it often.

        What was revoked stays revoked while the list cannot be read.

        Returns:
            Sentences about certificates that end soon, or have ended.

        Raises:
            UsageError: a file is missing or damaged.
        """
        files = self._files()
        if files != self._served:
            try:
                authority, certificate = _pair_of(self._directory, files)
            except UsageError:
                pass  # the key is new and the certificate is not yet; or a renewal died in between
            else:
                self._served, self._renewed = files, _configuration(files)
                self._authority, self._certificate = authority, certificate
                log.info("certificate_renewed", ends=f"{certificate.not_valid_after_utc:%Y-%m-%d}")
        listed = frozenset(read_revoked(self._directory, self._authority))
        is_back = bool(self._revoked - listed)
        self._revoked |= listed  # who was revoked on an older list that was put back, is revoked too
        if is_back:
            raise UsageError("certificates that were revoked are not on the list any more; put revoked.pem back")
        return self._notices()

    def _notices(self) -> list[str]:
        now, advice = self._clock(), {"server": _RENEW_SERVER, "authority": _RENEW_AUTHORITY}
        told = [
            notice_of_end(f"the {name}'s certificate", one.not_valid_after_utc, now, advice[name])
            for name, one in self._certificates().items()
        ]
        notices = [line for line in told if line]
        if notices and self._warned_on != now.date():
            self._warned_on = now.date()
            for line in notices:
                log.warning("certificate_ends", says=line)
        return notices

    def _certificates(self) -> dict[str, x509.Certificate]:
        return {"server": self._certificate, "authority": self._authority}

    def _files(self) -> tuple[bytes, bytes, bytes]:
        try:
            authority, certificate, key = (
                (self._directory / name).read_bytes() for name in ("ca.pem", "server.pem", "server-key.pem")
            )
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename}; make certificates with `intaglio-server pki init`"
            ) from error
        return authority, certificate, key

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each handshake: what to show from now on, or None for the same as before."""
        renewed, self._renewed = self._renewed, None
        return renewed


def _configuration(files: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    authority, certificate, key = files
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)


def _pair_of(directory: Path, files: tuple[bytes, bytes, bytes]) -> tuple[x509.Certificate, x509.Certificate]:
    """Authority and server's certificate, when its key is its own."""
    try:
        authority, certificate = (x509.load_pem_x509_certificate(one) for one in files[:2])
        key = serialization.load_pem_private_key(files[2], password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"ca.pem, server.pem or server-key.pem in {directory} is damaged: {error}") from error
    if key.public_key() != certificate.public_key():
        raise UsageError(f"server-key.pem is not the key of server.pem in {directory}; run `intaglio-server pki renew`")
    return authority, certificate
