"""The devices of an operator's that may say more of their cameras than a person's own: named in public, for a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from federation.consent.purposes import DAY_SECONDS
from federation.errors import UsageError
from federation.statements import (
    DIGEST_BYTES,
    JsonValue,
    require_length,
    require_name,
    require_period,
    require_text,
    text_of_time,
    time_of_text,
)

LONGEST_KIOSK_SECONDS: Final = 90 * DAY_SECONDS
"""So long somebody who carries one away, with its key, is believed at most."""


@dataclass(frozen=True)
class Kiosk:
    """A device of the operator's, which nobody else controls: what it says about a camera is more than anybody's word.

    Attributes:
        identifier: a name of its own. A change is a new kiosk.
        deployment: identifier of the one whose people come to it.
        certificate: SHA-256 of the client certificate that it shows to the matching service, 32 bytes. The certificate
            of a bridge is never one: behind it stand everybody's browsers.
        place: where it stands and who looks after it, for everybody to read.
        begins_at: first second at which it is believed.
        ends_at: first second at which it is not any more: at most 90 days later.
    """

    identifier: str
    deployment: str
    certificate: bytes
    place: str
    begins_at: int
    ends_at: int

    def __post_init__(self) -> None:
        require_name("a kiosk's identifier", self.identifier)
        require_name("a kiosk's deployment", self.deployment)
        require_length("the digest of a kiosk's certificate", self.certificate, DIGEST_BYTES)
        require_text("the place of a kiosk", self.place)
        require_period("a kiosk", self.begins_at, self.ends_at)
        if self.ends_at - self.begins_at > LONGEST_KIOSK_SECONDS:
            raise UsageError(f"a kiosk is believed for at most {LONGEST_KIOSK_SECONDS // DAY_SECONDS} days")

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"kiosk {self.identifier}"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "begins_at": text_of_time(self.begins_at),
            "certificate": self.certificate.hex(),
            "deployment": self.deployment,
            "ends_at": text_of_time(self.ends_at),
            "identifier": self.identifier,
            "kind": "kiosk",
            "place": self.place,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            value["identifier"],
            value["deployment"],
            bytes.fromhex(value["certificate"]),
            value["place"],
            time_of_text(value["begins_at"]),
            time_of_text(value["ends_at"]),
        )
