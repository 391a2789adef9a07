"""Clients: sites that may send people to the login page, registered as public rules.

What OpenID Connect calls a client is an audience here: it relies on decisions, and its identifier is that name. A rule
says what it is called, what for, and to which addresses answers may go. It holds no secret: the digest of one that is
long and random, or a public key. So what a person is asked to agree to, and where the answer goes, stands in the log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from federation.consent.purposes import require_purpose
from federation.errors import UsageError
from federation.statements import (
    DIGEST_BYTES,
    JsonValue,
    require_length,
    require_name,
    require_names,
    require_period,
    require_text,
    text_of_time,
    time_of_text,
)

MOST_REDIRECT_URIS: Final = 8
_REDIRECT_URI = re.compile(
    r"(?:https://[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?|http://(?:localhost|127\.0\.0\.1))(?::[1-9][0-9]{0,4})?"
    r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,400}"
)
"""A host in lower case, no user, fragment, backslash or space, so that everybody reads it in one way. With http only
programs on the same machine (RFC 8252, section 7.3)."""


KEY_BYTES: Final = 64
"""x and y of a point on P-256, 32 bytes each."""


class SigningAlgorithm(StrEnum):
    """With which the ID tokens for a client are signed."""

    ES256 = "ES256"
    EDDSA = "EdDSA"


@dataclass(frozen=True)
class Client:
    """Registers a site for a deployment. A change is a higher version; one without purposes ends it.

    Attributes:
        deployment: identifier of the deployment.
        identifier: ``client_id``, and the audience of receipts and assertions.
        version: the highest one that has begun counts, also after it has run out.
        operator: who runs the site, as people are shown it.
        purposes: what for, in order; each must be one of the deployment's.
        redirect_uris: where answers may go, in order. Compared letter by letter.
        algorithm: of its ID tokens.
        begins_at: first second at which it counts.
        ends_at: first second at which it may not log anybody in any more.
        secret_digest: SHA-256 of a secret of 32 random bytes in hex, or None.
        key: with which it signs when it asks for tokens, x and y on P-256, or None. A client with neither is a public
            one: it has nothing but PKCE.
    """

    deployment: str
    identifier: str
    version: int
    operator: str
    purposes: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    algorithm: SigningAlgorithm
    begins_at: int
    ends_at: int
    secret_digest: bytes | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        require_name("a client's deployment", self.deployment)
        require_name("a client's identifier", self.identifier)
        if type(self.version) is not int or self.version < 1:
            raise UsageError("the version of a client is 1, 2, 3 ...")
        require_text("the name of who runs a client", self.operator, most=200)
        require_names("the purposes of a client", self.purposes)
        for purpose in self.purposes:
            require_purpose(purpose)
        if not 1 <= len(self.redirect_uris) <= MOST_REDIRECT_URIS:
            raise UsageError(f"a client has 1 to {MOST_REDIRECT_URIS} redirect URIs")
        if list(self.redirect_uris) != sorted(set(self.redirect_uris)):
            raise UsageError("redirect URIs stand in order, each once")
        if not all(_REDIRECT_URI.fullmatch(uri) for uri in self.redirect_uris):
            raise UsageError("a redirect URI is https://HOST/PATH, or http://localhost:PORT/PATH, without # and user")
        require_period("a client", self.begins_at, self.ends_at)
        if self.secret_digest is not None:
            require_length("the digest of a client's secret", self.secret_digest, DIGEST_BYTES)
        if self.key is not None:
            require_length("a client's key", self.key, KEY_BYTES)
        if self.secret_digest is not None and self.key is not None:
            raise UsageError("a client shows its secret or signs with its key; one of them")

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"client {self.deployment} {self.identifier} {self.version}"

    def is_in_force(self, now: int) -> bool:
        """Whether it may log anybody in at `now`."""
        return self.begins_at <= now < self.ends_at

    def is_secret(self, secret: str) -> bool:
        """Whether that is its secret. Compared in constant time."""
        digest = hashlib.sha256(secret.encode()).digest()
        return self.secret_digest is not None and hmac.compare_digest(digest, self.secret_digest)

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        shown: dict[str, JsonValue] = {}
        if self.secret_digest is not None:
            shown["secret_digest"] = self.secret_digest.hex()
        if self.key is not None:
            shown["key"] = self.key.hex()
        return shown | {
            "algorithm": self.algorithm.value,
            "begins_at": text_of_time(self.begins_at),
            "deployment": self.deployment,
            "ends_at": text_of_time(self.ends_at),
            "identifier": self.identifier,
            "kind": "client",
            "operator": self.operator,
            "purposes": list(self.purposes),
            "redirect_uris": list(self.redirect_uris),
            "version": self.version,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            value["deployment"],
            value["identifier"],
            value["version"],
            value["operator"],
            tuple(value["purposes"]),
            tuple(value["redirect_uris"]),
            SigningAlgorithm(value["algorithm"]),
            time_of_text(value["begins_at"]),
            time_of_text(value["ends_at"]),
            bytes.fromhex(value["secret_digest"]) if "secret_digest" in value else None,
            bytes.fromhex(value["key"]) if "key" in value else None,
        )
