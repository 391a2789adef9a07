"""The releases that a server goes by: the one that it serves, and those that people come over from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from federation.errors import UsageError
from federation.onebit import Parameters, parameters_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from federation.release.bundle import Bundle
    from federation.release.manifest import Standing


@dataclass(frozen=True)
class ServedRelease:
    """What a comparison takes from a release, and from nowhere else.

    Attributes:
        digest: SHA-256 of the model release, 32 bytes.
        parameters: of the match.
        threshold: largest number of bits in which a probe may differ.
        standing: what its signed manifest says.
        manifest: that manifest, signed, for the log.
    """

    digest: bytes
    parameters: Parameters
    threshold: int
    standing: Standing
    manifest: bytes

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The release of a bundle."""
        release = bundle.release
        return cls(
            bytes.fromhex(release.digest),
            parameters_for(release.code_length),
            release.threshold,
            bundle.manifest.standing,
            bundle.signed.to_bytes(),
        )


class Releases:
    """The present release, under which people enrol and verify, and former ones, under which they come over to it.

    Args:
        present: the bundle that is served.
        former: bundles of those under which people enrolled before.

    Raises:
        UsageError: a release stands there twice.
    """

    def __init__(self, present: Bundle, former: Iterable[Bundle] = ()) -> None:
        self.present = ServedRelease.of(present)
        self.every = (self.present, *map(ServedRelease.of, former))
        self._by_digest = {one.digest: one for one in self.every}
        if len(self._by_digest) < len(self.every):
            raise UsageError("the release that is served and the former ones are different ones, each named once")

    def find(self, digest: bytes, parameters: str) -> ServedRelease | None:
        """The release of a template, by what is stored with it; None for one that this server does not know."""
        found = self._by_digest.get(digest)
        return found if found is not None and found.parameters.name == parameters else None
