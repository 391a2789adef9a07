"""What a relying organisation gets on accept: a signed statement that it can check offline, with a public key.

An assertion is a JSON Web Token (RFC 7519) signed with EdDSA over Ed25519 (RFC 8037), so that any library reads it. It
says that a claim was accepted, at which false match rate, what that rests on, what an audit says of it, and what stood
between a picture before the camera and the comparison. It never says who somebody is: there is no field for it, and an
assertion with any other field is refused. The subject is a pseudonym of an account towards that one audience: it stays
when a template is renewed, and two audiences cannot tell that they talk about the same person.

`verify_assertion` follows RFC 8725: one algorithm, an explicit type, every claim required and checked, no header that
is not known. Payload and header have one form: what parses would be written in the same way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.presentation.levels import PadLevel
from federation.rates import Audited, StatedRate
from federation.secrecy import Secret
from federation.statements import (
    DIGEST_BYTES,
    PUBLIC_KEY_BYTES,
    require_address,
    require_length,
    require_name,
    require_period,
    require_text,
)

if TYPE_CHECKING:
    from jwt.api_jws import PyJWS

TYPE: Final = "intaglio-assertion-3+jwt"
ALGORITHM: Final = "EdDSA"
ACCOUNT_BYTES: Final = 16
NONCE_BYTES: Final = 32
CLOCK_SKEW_SECONDS: Final = 30
"""How far issuer's and verifier's clocks may differ."""
LONGEST_LIFETIME_SECONDS: Final = 600
MOST_TOKEN_CHARACTERS: Final = 4096
WORDING: Final = "{audited}: claim accepted at {rate}; {pad}"
"""All that an assertion says about a person. What no audit has passed begins with a word in capitals."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_PAIRWISE_TAG = b"intaglio-pairwise-subject/2\0"
_LARGEST_INDEX = 2**53 - 1


@cache
def _jws() -> PyJWS:
    from jwt.api_jws import PyJWS  # noqa: PLC0415 - slow to import, and most that a device does has no assertion

    return PyJWS(algorithms=[ALGORITHM])


class PairwiseSecret(Secret):
    """The issuer's key for pseudonyms. Whoever has it and knows accounts can link them across audiences.

    Args:
        value: 32 random bytes.
    """

    def __init__(self, value: bytes) -> None:
        require_length("the pairwise secret", value, 32)
        self._value = value

    def secret_bytes(self) -> bytes:
        """32 bytes."""
        return self._value

    def subject(self, *, account: bytes, audience: str) -> str:
        """Pseudonym of an account towards one audience: HMAC-SHA-256 of both, 64 hex digits.

        The way of OpenID Connect Core 1.0, section 8.1, with a keyed function. It takes the account and not the key of
        a device, so that a relying organisation knows a person again after a template was renewed.

        Args:
            account: 16 bytes, as the storage has it beside a template.
            audience: the one that is told.
        """
        require_length("the account", account, ACCOUNT_BYTES)
        require_name("the audience", audience)
        return hmac.new(self._value, _PAIRWISE_TAG + account + audience.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class LogPosition:
    """Where the attempt stands in the transparency log.

    Attributes:
        origin: name of the log.
        index: of the entry, from 0.
        tree_size: of the checkpoint that includes it.
        root_hash: of that checkpoint, 32 bytes.
    """

    origin: str
    index: int
    tree_size: int
    root_hash: bytes

    def __post_init__(self) -> None:
        require_text("the log's origin", self.origin, most=200)
        require_length("a root hash", self.root_hash, DIGEST_BYTES)
        if type(self.index) is not int or type(self.tree_size) is not int:
            raise UsageError("index and tree size are whole numbers")
        if not 0 <= self.index < self.tree_size <= _LARGEST_INDEX:
            raise UsageError("the index of an entry is below the size of its tree")


@dataclass(frozen=True)
class Assertion:
    """That a claim was accepted.

    Attributes:
        issuer: https address of who verified.
        audience: the one organisation that may rely on it.
        subject: pseudonym of the account towards that audience; see `PairwiseSecret.subject`.
        purpose: what for.
        nonce: 32 bytes that the audience chose, used once.
        issued_at: seconds since 1970.
        expires_at: first second at which it is worth nothing; at most ten minutes later.
        release_digest: SHA-256 of the model release.
        rate: false match rate that the release states, with what it rests on.
        audited: what the release's audit says, and whether it is a trial.
        pad: what stood between a presentation attack and the comparison.
        log: where the attempt stands.
        contest: address to contest the decision at.
    """

    issuer: str
    audience: str
    subject: str
    purpose: str
    nonce: bytes
    issued_at: int
    expires_at: int
    release_digest: bytes
    rate: StatedRate
    audited: Audited
    pad: PadLevel
    log: LogPosition
    contest: str

    def __post_init__(self) -> None:
        require_address("the issuer", self.issuer)
        require_name("the audience", self.audience)
        require_name("the purpose", self.purpose)
        require_address("the address to contest at", self.contest)
        if not isinstance(self.subject, str) or not re.fullmatch(r"[0-9a-f]{64}", self.subject):
            raise UsageError("the subject is a pseudonym of 64 hex digits")
        require_length("the nonce", self.nonce, NONCE_BYTES)
        require_length("the release digest", self.release_digest, DIGEST_BYTES)
        require_period("an assertion", self.issued_at, self.expires_at)
        if self.expires_at - self.issued_at > LONGEST_LIFETIME_SECONDS:
            raise UsageError(f"an assertion is valid for at most {LONGEST_LIFETIME_SECONDS} seconds")
        if not isinstance(self.rate, StatedRate) or not isinstance(self.audited, Audited):
            raise UsageError("an assertion says at what rate, and what an audit says of it")
        if not isinstance(self.pad, PadLevel):
            raise UsageError("an assertion says what stood between a presentation attack and the comparison")

    @property
    def wording(self) -> str:
        """The one sentence: a claim was accepted, at what risk, whether anybody has checked that, and who looked."""
        return WORDING.format(audited=self.audited.text, rate=self.rate.text, pad=self.pad.text)

    def claims(self) -> dict[str, Any]:
        """The payload."""
        return {
            "aud": self.audience,
            "audit": self.audited.to_json(),
            "contest": self.contest,
            "exp": self.expires_at,
            "iat": self.issued_at,
            "iss": self.issuer,
            "log": {
                "index": self.log.index,
                "origin": self.log.origin,
                "root_hash": self.log.root_hash.hex(),
                "tree_size": self.log.tree_size,
            },
            "nonce": self.nonce.hex(),
            "pad": self.pad.value,
            "purpose": self.purpose,
            "rate": self.rate.to_json(),
            "release": self.release_digest.hex(),
            "statement": self.wording,
            "sub": self.subject,
        }

    def sign(self, key: Ed25519PrivateKey) -> str:
        """The token."""
        headers = _headers(key.public_key().public_bytes_raw())
        return _jws().encode(_json(self.claims()), key, algorithm=ALGORITHM, headers=headers)

    @classmethod
    def from_claims(cls, claims: dict[str, Any]) -> Self:
        """Reads what `claims` gave; the caller compares the bytes. Raises what a wrong object provokes."""
        log = claims["log"]
        return cls(
            issuer=claims["iss"],
            audience=claims["aud"],
            subject=claims["sub"],
            purpose=claims["purpose"],
            nonce=bytes.fromhex(claims["nonce"]),
            issued_at=claims["iat"],
            expires_at=claims["exp"],
            release_digest=bytes.fromhex(claims["release"]),
            rate=StatedRate.from_json(claims["rate"]),
            audited=Audited.from_json(claims["audit"]),
            pad=PadLevel(claims["pad"]),
            log=LogPosition(log["origin"], log["index"], log["tree_size"], bytes.fromhex(log["root_hash"])),
            contest=claims["contest"],
        )


def verify_assertion(
    token: str,
    *,
    issuer_public_key: bytes,
    expected_issuer: str,
    expected_audience: str,
    expected_purpose: str,
    expected_nonce: bytes,
    now: int,
    largest_fmr: float = 1.0,
    accepts_trials: bool = False,
    least_pad: PadLevel = PadLevel.NONE,
) -> Assertion:
    """The assertion in `token`, when it is what a relying organisation insists on. Needs no network.

    The caller must see that a nonce is used once.

    Args:
        token: compact serialisation of the JWT.
        issuer_public_key: Ed25519, 32 bytes, got from the issuer over a trusted way.
        expected_issuer: whom the caller trusts.
        expected_audience: its own name.
        expected_purpose: what it asked for.
        expected_nonce: the 32 bytes that it chose for this one request.
        now: seconds since 1970.
        largest_fmr: the largest false match rate that it accepts.
        accepts_trials: whether a release will do that is a trial, or that no audit has passed.
        least_pad: what must at least have stood between a presentation attack and the comparison.

    Raises:
        UsageError: key or nonce have another length.
        MalformedMessageError: no assertion of this version, whoever signed it.
        ProofError: wrong key or algorithm, altered, expired, from the future, or not what was expected.
    """
    require_length("the issuer's public key", issuer_public_key, PUBLIC_KEY_BYTES)
    require_length("the nonce", expected_nonce, NONCE_BYTES)
    assertion = _authentic(token, issuer_public_key)
    checks = (
        ("comes from another issuer", assertion.issuer == expected_issuer),
        ("is for another audience", assertion.audience == expected_audience),
        ("is for another purpose", assertion.purpose == expected_purpose),
        ("answers another nonce", hmac.compare_digest(assertion.nonce, expected_nonce)),
        ("is from the future", assertion.issued_at <= now + CLOCK_SKEW_SECONDS),
        ("has expired", now < assertion.expires_at + CLOCK_SKEW_SECONDS),
        ("states a larger false match rate than is accepted", assertion.rate.fmr <= largest_fmr),
        (
            "is of a release that no audit has passed, and trials are not accepted here",
            assertion.audited.is_passed or accepts_trials,
        ),
        ("says less of presentation attacks than is asked", assertion.pad.reaches(least_pad)),
    )
    for fault, passed in checks:
        if not passed:
            raise ProofError(f"the assertion {fault}")
    return assertion


def _authentic(token: str, public_key: bytes) -> Assertion:
    """The assertion that this key signed, whatever it says."""
    if not isinstance(token, str) or len(token) > MOST_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
        raise MalformedMessageError(
            f"an assertion is three parts of base64url, at most {MOST_TOKEN_CHARACTERS} characters"
        )
    if not names_key(token, public_key):
        raise ProofError("the assertion is not of this type, algorithm and key")
    from jwt.exceptions import InvalidTokenError  # noqa: PLC0415 - see `_jws`

    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        payload: bytes = _jws().decode_complete(token, key, algorithms=[ALGORITHM])["payload"]
    except (InvalidTokenError, ValueError) as error:
        raise ProofError("the assertion is not signed with the issuer's key, or was altered") from error
    try:
        assertion = Assertion.from_claims(json.loads(payload, parse_constant=_refuse_constant))
        same = _json(assertion.claims()) == payload
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, UsageError) as error:
        raise MalformedMessageError("the token is signed, but it is no assertion of this version") from error
    if not same:
        raise MalformedMessageError("the token is signed, but it says more or other than an assertion does")
    return assertion


def names_key(token: str, public_key: bytes) -> bool:
    """Whether a token says that it is an assertion under this key, which it may not be.

    Compared as a whole, the header leaves the token nothing to choose, neither algorithm nor key.

    Args:
        token: of ASCII characters.
        public_key: Ed25519, 32 bytes.
    """
    header = base64.urlsafe_b64encode(_json(_headers(public_key) | {"alg": ALGORITHM})).rstrip(b"=").decode()
    return hmac.compare_digest(token.partition(".")[0], header)


def key_name(public_key: bytes) -> str:
    """Thumbprint of an Ed25519 key (RFC 7638 as RFC 8037, appendix A.3, applies it): the token's ``kid``."""
    require_length("the public key", public_key, PUBLIC_KEY_BYTES)
    key = {"crv": "Ed25519", "kty": "OKP", "x": base64.urlsafe_b64encode(public_key).rstrip(b"=").decode()}
    return base64.urlsafe_b64encode(hashlib.sha256(_json(key)).digest()).rstrip(b"=").decode()


def _headers(public_key: bytes) -> dict[str, str]:
    return {"kid": key_name(public_key), "typ": TYPE}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
