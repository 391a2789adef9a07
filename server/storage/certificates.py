"""What a database keeps about certificates: wishes for the next one, what was signed, and which were ever revoked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from federation.wire.certificates import Renewal


@dataclass(frozen=True)
class WaitingRenewal:
    """A wish that nobody has answered yet, as a database has it: whoever took that over wrote what they liked.

    Attributes:
        serial: number of the certificate that ends.
        key_digest: SHA-256 of the new key, 32 bytes.
        request: see `Renewal`, as `proof`.
        proof: likewise.
    """

    serial: int
    key_digest: bytes = field(repr=False)
    request: bytes = field(repr=False)
    proof: bytes = field(repr=False)

    @property
    def renewal(self) -> Renewal:
        """As the device signed it.

        Raises:
            MalformedMessageError: no device did.
        """
        return Renewal(self.request, self.proof)


class CertificateStorage(Protocol):
    """The part of `Storage` that is about certificates. There is at most one wish for each certificate."""

    def ask_for_certificate(self, serial: int, renewal: Renewal, *, key_digest: bytes, ends_at: int) -> bytes | None:
        """Keeps a wish until the certificate ends, if there is none; doing it again changes nothing.

        Args:
            serial: of the certificate that ends.
            renewal: of its holder, which was checked.
            key_digest: of the new key.
            ends_at: first second at which the certificate is not valid, seconds since 1970.

        Returns:
            What was signed for it, in DER; None as long as nothing was.

        Raises:
            RefusedError: there is one for another key.
        """

    def waiting_renewals(self, *, now: int) -> list[WaitingRenewal]:
        """Those that nobody has answered and whose certificate has not ended."""

    def answer_renewal(self, waiting: WaitingRenewal, certificate: bytes) -> None:
        """Keeps what was signed, in DER, until the device fetches it or its old certificate ends."""

    def seen_revoked(self, authority: bytes) -> frozenset[int]:
        """Numbers of the certificates of an authority that were ever on its list, as far as anybody has told.

        Args:
            authority: SHA-256 of its certificate, 32 bytes.
        """

    def see_revoked(self, authority: bytes, serials: frozenset[int]) -> None:
        """Remembers for good that they were on the list."""
