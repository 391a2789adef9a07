"""What binds a person's face to one site's question: the nonce of a login, and what an ID token says in OpenID's words.

A login is a verification whose audience's nonce is the SHA-256 of everything that the site asked (`LoginRequest`). The
device makes the nonce itself from what it shows, and signs it; the assertion that comes of it carries it. So an
assertion answers one request of one client and no other, and whoever has the request can check that, whatever passed
between: the ID token carries the assertion and the salt.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self

from federation.consent.assertion import Assertion
from federation.errors import UsageError
from federation.presentation.levels import PadLevel
from federation.rates import Audited, StatedRate
from federation.statements import canonical_bytes, parse, require_length, require_name

SALT_BYTES: Final = 32
MOST_NONCE_CHARACTERS: Final = 512
AMR: Final = ("face", "swk")
"""RFC 8176: a face was compared, and a key kept in software signed for it."""

_TAG = b"intaglio-login-nonce/1\0"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VISIBLE = re.compile(r"[!-~]*")
_MOST_ADDRESS = 700


@dataclass(frozen=True)
class LoginRequest:
    """One request of one client, as far as an answer must be bound to it.

    Attributes:
        provider: address of the provider, the ID token's ``iss``.
        client: its identifier.
        purpose: what for.
        redirect_uri: where the answer goes.
        nonce: what the client sent under that name; may be empty.
        code_challenge: SHA-256 of the client's verifier (RFC 7636, S256), in base64url.
        salt: 32 random bytes of the provider's, so that the same request twice is two.
    """

    provider: str
    client: str
    purpose: str
    redirect_uri: str
    nonce: str
    code_challenge: str
    salt: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require_name("the client", self.client)
        require_name("the purpose", self.purpose)
        for text, most in (
            (self.provider, _MOST_ADDRESS),
            (self.redirect_uri, _MOST_ADDRESS),
            (self.nonce, MOST_NONCE_CHARACTERS),
        ):
            if not isinstance(text, str) or len(text) > most or not _VISIBLE.fullmatch(text):
                raise UsageError(f"addresses and nonce of a login are at most {most} visible ASCII characters each")
        if not isinstance(self.code_challenge, str) or not _CHALLENGE.fullmatch(self.code_challenge):
            raise UsageError("a code challenge is 43 characters of base64url")
        require_length("the salt of a login", self.salt, SALT_BYTES)

    @property
    def audience_nonce(self) -> bytes:
        """The nonce of the verification, 32 bytes."""
        return hashlib.sha256(_TAG + self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """The canonical form."""
        return canonical_bytes(
            {
                "client": self.client,
                "code_challenge": self.code_challenge,
                "nonce": self.nonce,
                "provider": self.provider,
                "purpose": self.purpose,
                "redirect_uri": self.redirect_uri,
                "salt": self.salt.hex(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        return parse(
            data,
            lambda value: cls(
                value["provider"],
                value["client"],
                value["purpose"],
                value["redirect_uri"],
                value["nonce"],
                value["code_challenge"],
                bytes.fromhex(value["salt"]),
            ),
            what="a login request",
        )


def acr_of(rate: StatedRate, audited: Audited, pad: PadLevel = PadLevel.NONE) -> str:
    """How much a login is worth, as OpenID's ``acr``: what the audit says, the stated false match rate, and who looked.

    ``trial`` and ``not-passed`` stand in the place of ``pass``. Where somebody looked for a picture before the camera,
    the level stands at the end.

    >>> from federation.rates import Basis
    >>> from federation.verdict import Verdict
    >>> rate = StatedRate(0.001, 0.0005, 0.002, Basis.CHECKED, 24)
    >>> acr_of(rate, Audited(Verdict.PASS, 812, 0.001, 0.05, False))
    'urn:intaglio:face:pass:fmr-0.001'
    >>> acr_of(rate, Audited(Verdict.PASS, 812, 0.001, 0.05, False), PadLevel.ON_DEVICE)
    'urn:intaglio:face:pass:fmr-0.001:pad-on-device'
    """
    standing = "trial" if audited.is_trial else "pass" if audited.is_passed else "not-passed"
    looked = "" if pad is PadLevel.NONE else f":pad-{pad.value}"
    return f"urn:intaglio:face:{standing}:fmr-{rate.fmr:g}{looked}"


def login_claims(assertion: Assertion, token: str, request: LoginRequest) -> dict[str, Any]:
    """What an ID token says beside the times: the assertion's claims, and the assertion with what its nonce is made of.

    Args:
        assertion: verified, for `request`.
        token: the same as it was signed.
        request: that it answers.
    """
    said = assertion.claims()
    kept = ("audit", "contest", "log", "pad", "purpose", "rate", "release", "statement", "sub")
    claims = {name: said[name] for name in kept}
    claims |= {"aud": request.client, "iss": request.provider, "auth_time": assertion.issued_at}
    claims |= {
        "acr": acr_of(assertion.rate, assertion.audited, assertion.pad),
        "amr": list(AMR),
        "assertion": token,
        "salt": request.salt.hex(),
    }
    return claims | ({"nonce": request.nonce} if request.nonce else {})
