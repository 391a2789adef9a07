"""Certificate, key and authority in a program's folder: read again while it runs; and what ends soon is said."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from federation.errors import UsageError
from server.expiry import days_left, notice_of_end


@dataclass(frozen=True)
class Pair:
    """What stands in ca.pem, NAME.pem and NAME-key.pem, read at one moment. They need not belong together.

    Attributes:
        directory: where.
        name: NAME.
        authority: PEM.
        certificate: PEM.
        key: PEM, secret.
    """

    directory: Path
    name: str
    authority: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, directory: Path, name: str) -> Pair:
        """Reads the three files.

        Raises:
            UsageError: one is missing or unreadable.
        """
        try:
            files = ((directory / file).read_bytes() for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem"))
            return cls(directory, name, *files)
        except OSError as error:
            raise UsageError(cannot_read(error)) from error

    def credentials(self) -> grpc.ChannelCredentials:
        """For a client's channel."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)

    def certificates(self) -> tuple[x509.Certificate, x509.Certificate]:
        """Authority and certificate, when the key is the certificate's own.

        Raises:
            UsageError: a file is damaged, or the key is not.
        """
        certificate, key = f"{self.name}.pem", f"{self.name}-key.pem"
        try:
            authority, own = (x509.load_pem_x509_certificate(one) for one in (self.authority, self.certificate))
            private = serialization.load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise UsageError(f"ca.pem, {certificate} or {key} in {self.directory} is damaged: {error}") from error
        if private.public_key() != own.public_key():
            raise UsageError(
                f"{key} is not the key of {certificate} in {self.directory}; run `intaglio-server pki renew`"
            )
        return authority, own


def client_credentials(directory: Path, name: str) -> grpc.ChannelCredentials:
    """Reads ca.pem, NAME.pem and NAME-key.pem, for a command that asks a server something.

    Raises:
        UsageError: a file is missing or unreadable.
    """
    return Pair.read(directory, name).credentials()


def cannot_read(error: OSError) -> str:
    """What is wrong with a file of a certificate or its key, and what to do."""
    if isinstance(error, PermissionError):
        return (
            f"cannot read {error.filename}: the user that this runs as, number {os.geteuid()}, may not. Give it to that"
            " user's group: `chgrp GROUP FILE` and `chmod g=r FILE`"
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"cannot read {error.filename}: it is not there; `intaglio-server pki init` makes the first ones, once, and"
            " `intaglio-server pki issue` those of another client"
        )
    return f"cannot read {error.filename}: {error.strerror}"


class Ends:
    """When certificates end: as numbers for whoever watches, and in words from 60 days before, once a day.

    Args:
        advice: what to do about the end of each, by its name.
        say: gets those words.
        clock: the time.
    """

    def __init__(self, advice: Mapping[str, str], say: Callable[[str], None], clock: Callable[[], dt.datetime]) -> None:
        self._advice, self._say, self._clock = advice, say, clock
        self._said_on: dt.date | None = None

    def days_left(self, certificates: Mapping[str, x509.Certificate]) -> dict[str, float]:
        """Until each ends; negative once it has."""
        now = self._clock()
        return {name: days_left(one.not_valid_after_utc, now) for name, one in certificates.items()}

    def notices(self, certificates: Mapping[str, x509.Certificate]) -> list[str]:
        """Sentences about those that end soon, or have ended."""
        now = self._clock()
        told = [
            notice_of_end(f"the {name}'s certificate", one.not_valid_after_utc, now, self._advice[name])
            for name, one in certificates.items()
        ]
        notices = [line for line in told if line]
        if notices and self._said_on != now.date():
            self._said_on = now.date()
            for line in notices:
                self._say(line)
        return notices
