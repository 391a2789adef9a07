"""The device's pair of certificate and key on disk, and how another one takes its place before it ends.

::

    NAME.pem  NAME-key.pem          what is shown
    NAME-next-key.pem               a new key, from the first wish for its certificate on
    NAME-next.pem                   that certificate, from its coming until the pair has changed

Theory of operation
-------------------
The new key is on disk before anybody hears of it, so a wish that was signed is always of a key that is still there. The
new certificate is on disk, and checked, before anything of the old pair goes. From then on whoever reads the pair first
finishes the change: key, certificate, and then away with the two others. So a crash leaves the old pair, or a change
that the next reader finishes, and never a certificate without its key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.files import alone_with, replace_file, sync_folder
from federation.errors import IntaglioError, UsageError
from federation.wire.certificates import Renewal, is_due, require_follows

Ask: TypeAlias = Callable[[Renewal], x509.Certificate | None]
"""Sends a wish; what was signed for it, or None."""


class Shown(Protocol):
    """What a device shows now: PEM of authority, certificate and key."""

    @property
    def authority(self) -> bytes: ...  # noqa: D102 - the class says it

    @property
    def certificate(self) -> bytes: ...  # noqa: D102

    @property
    def key(self) -> bytes: ...  # noqa: D102


@dataclass(frozen=True)
class PairFiles:
    """Where a device's pair lies.

    Attributes:
        directory: with ca.pem too.
        name: of the pair.
    """

    directory: Path
    name: str

    def read(self) -> tuple[bytes, bytes]:
        """Certificate and key, which belong together also while another command changes them.

        Raises:
            OSError: a file is missing or unreadable.
            UsageError: a change that a crash left cannot be finished.
            UnavailableError: another command is just finishing it.
        """
        while True:
            self._finish()
            certificate, key = self._certificate.read_bytes(), self._key.read_bytes()
            if not self._next.exists() and self._certificate.read_bytes() == certificate:
                return certificate, key

    def follow(self, tls: Shown, ask: Ask | None, say: Callable[[str], None], *, now: dt.datetime) -> None:
        """Asks for the next certificate when this one ends soon, and takes it up when it is there. Never raises.

        Args:
            tls: what is shown now, from this place.
            ask: sends a wish; None of a kiosk, whose next certificate the public rules must name before it is shown.
            say: gets a line for the person, in the certificate's last days.
            now: the time.
        """
        try:
            old, authority = (x509.load_pem_x509_certificate(pem) for pem in (tls.certificate, tls.authority))
        except ValueError:
            return  # the server took it, so it is one; how it is to be renewed, whoever made it knows
        if not is_due(old, now=now):
            return
        ends = f"this device's certificate ends on {old.not_valid_after_utc:%Y-%m-%d}"
        if ask is None:
            say(f"{ends}. The public rules name this kiosk by it: the operator issues another, and has them name that")
            return
        try:
            with alone_with(self._certificate):
                if tls.certificate != _read(self._certificate):
                    raise UsageError("another command has just taken it up")
                new = self._followed(old, _key_in(tls.key), authority, ask, now=now)
        except IntaglioError as error:
            say(f"{ends}, and no other was to be had: {error}")
            return
        if new is None:
            say(f"{ends}; another is asked for, and the operator has not signed it yet")
        else:
            say(f"this device has another certificate, which ends on {new.not_valid_after_utc:%Y-%m-%d}")

    def _followed(
        self,
        old: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        authority: x509.Certificate,
        ask: Ask,
        *,
        now: dt.datetime,
    ) -> x509.Certificate | None:
        new = self._new_key(old)
        found = ask(Renewal.sign(old, key, new))
        if found is not None:
            require_follows(found, old, new.public_key(), authority, now=now)
            replace_file(self._next, found.public_bytes(serialization.Encoding.PEM))
            self._change()
        return found

    def _new_key(self, old: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        """The one that waits, or another. One that a crash left of the change before is the old one's own."""
        if self._next_key.exists():
            kept = _key_in(_read(self._next_key))
            if kept.public_key() != old.public_key():
                return kept
        drawn = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        replace_file(
            self._next_key, drawn.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        )
        return drawn

    def _finish(self) -> None:
        if self._next.exists():
            with alone_with(self._certificate):
                self._change()

    def _change(self) -> None:
        """Puts what waits in its place. Needs the lock. A crash leaves what the next call finishes."""
        if not self._next.exists():
            return  # another command was faster
        replace_file(self._key, _read(self._next_key))
        replace_file(self._certificate, _read(self._next))
        for done in (self._next, self._next_key):  # the key goes last: there must be one as long as the other waits
            try:
                done.unlink()
                sync_folder(self.directory)
            except OSError as error:
                raise UsageError(f"cannot remove {done}: {error.strerror}") from error

    @property
    def _certificate(self) -> Path:
        return self.directory / f"{self.name}.pem"

    @property
    def _key(self) -> Path:
        return self.directory / f"{self.name}-key.pem"

    @property
    def _next(self) -> Path:
        return self.directory / f"{self.name}-next.pem"

    @property
    def _next_key(self) -> Path:
        return self.directory / f"{self.name}-next-key.pem"


def _key_in(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError("the device's key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("this device has another kind of key than NIST P-256; whoever made its certificate renews it")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
