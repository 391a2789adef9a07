"""Issues assertions on accept. Keys lie in a folder of their own; see `intaglio-server assertions init`."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.commandline.signing_keys import TokenKey, ed25519_key, is_token, new_ed25519_key, require_there
from federation.consent.assertion import Assertion, LogPosition, PairwiseSecret
from federation.consent.life import consent_to
from federation.errors import IntaglioError, RefusedError, UsageError
from federation.presentation.levels import PadLevel
from federation.release.bundle import Bundle
from federation.rules.entries import Issuer
from federation.statements import require_address
from federation.transparency import LoggedEntry
from federation.wire.convert import SessionRequest
from server.files import sync_directory, write_new
from server.storage.storage import StoredTemplate

LIFETIME_SECONDS = 300
_SECRETS_FILE, _PUBLIC_FILE = "secrets.json", "issuer.json"
_DAMAGED = (OSError, ValueError, LookupError, TypeError, RecursionError, IntaglioError)
"""What reading such a file may raise."""


class AssertionIssuer:
    """Says that a claim was accepted, at what risk, and where that is logged.

    Args:
        address: https address of who verifies.
        key: signs.
        pairwise: makes the pseudonyms.
        bundle: its release states the false match rate, its manifest what the audit says.
    """

    def __init__(self, address: str, key: Ed25519PrivateKey, pairwise: PairwiseSecret, bundle: Bundle) -> None:
        require_address("the issuer", address)
        self._address = address
        self._key = key
        self._pairwise = pairwise
        self._release, self._audited = bundle.release, bundle.manifest.audited

    @classmethod
    def read(cls, directory: Path, bundle: Bundle) -> AssertionIssuer:
        """An issuer whose keys `create` wrote.

        Raises:
            UsageError: they are missing or damaged, or the token of one cannot be used.
        """
        try:
            stored, public = _read(directory / _SECRETS_FILE), _read(directory / _PUBLIC_FILE)
            where, pairwise = str(stored["signing_key"]), _pairwise_of(stored)
            key = None if is_token(where) else Ed25519PrivateKey.from_private_bytes(bytes.fromhex(where))
            address = public["issuer"]
            require_address("the issuer", address)
        except _DAMAGED:
            # `from None`: the cause may quote the file.
            raise UsageError(
                f"{directory} holds no keys for assertions; make them with `intaglio-server assertions init`"
            ) from None
        return cls(address, key or ed25519_key(where), pairwise, bundle)

    def require_there(self) -> None:
        """Returns when the key can sign; see `federation.commandline.signing_keys.require_there`."""
        require_there(self._key)

    def require_registered(self, registered: Issuer | None) -> None:
        """Returns when devices can check what this issuer signs.

        Args:
            registered: what the public rules say of the deployment.

        Raises:
            UsageError: they register no issuer, or another address or key.
        """
        if registered != Issuer(self._address, self._key.public_key().public_bytes_raw()):
            raise UsageError(
                "the public rules register another issuer of assertions for this deployment, or none, so no device"
                " would hand one out; register a deployment that follows it, with `intaglio-server rules register RULES"
                " NAME --like FORMER --assertions FOLDER --key SIGNER`, and serve that with --deployment NAME"
            )

    def issue(
        self, request: SessionRequest, template: StoredTemplate, logged: LoggedEntry, *, pad: PadLevel, now: int
    ) -> str:
        """The token for one accepted claim.

        Args:
            request: of the session, with the audience's nonce.
            template: that the probe matched; its account makes the pseudonym, its consent names the address to
                contest at.
            logged: the entry about the comparison.
            pad: what stood between a presentation attack and it.
            now: seconds since 1970.
        """
        consent = consent_to(template.receipts, request.audience)
        if consent is None:  # it was there when the comparison was allowed; whoever revokes meanwhile ends the session
            raise RefusedError("the person withdrew")
        head = logged.checkpoint.head
        return Assertion(
            issuer=self._address,
            audience=request.audience,
            subject=self._pairwise.subject(account=template.account, audience=request.audience),
            purpose=request.purpose,
            nonce=request.audience_nonce,
            issued_at=now,
            expires_at=now + LIFETIME_SECONDS,
            release_digest=bytes.fromhex(self._release.digest),
            rate=self._release.rate,
            audited=self._audited,
            pad=pad,
            log=LogPosition(logged.checkpoint.checkpoint.origin, logged.index, head.size, head.root),
            contest=consent.current.terms.contest,
        ).sign(self._key)


def read_registration(directory: Path) -> Issuer:
    """What the public rules say of the issuer whose keys `create_issuer` wrote.

    Raises:
        UsageError: the file for everybody is missing or damaged.
    """
    try:
        public = _read(directory / _PUBLIC_FILE)
        return Issuer(public["issuer"], bytes.fromhex(public["public_key"]))
    except _DAMAGED:
        raise UsageError(
            f"{directory} holds no {_PUBLIC_FILE}; make it with `intaglio-server assertions init`"
        ) from None


def create_issuer(
    directory: Path, address: str, token: str | None = None, pseudonyms_of: Path | None = None
) -> dict[str, str]:
    """Makes keys in a new folder: secrets.json with mode 0600, and issuer.json for everybody.

    Args:
        directory: the new folder.
        address: of the issuer.
        token: URI of a key that signs in a token; secrets.json then says where. What makes pseudonyms is in the file.
        pseudonyms_of: folder of a former key. Organisations go on knowing people by the pseudonyms made with it; of
            its key nothing is taken over.

    Returns:
        What issuer.json says: the issuer's address and its public key in hex.

    Raises:
        UsageError: the folder exists, or cannot be written; the former one may not be read, or is not whole; or the
            token has the former key under that name, and so no new one.
    """
    require_address("the issuer", address)
    if directory.exists():  # before anything is made in a token
        raise UsageError(f"{directory} exists; name a new folder")
    pairwise, former = secrets.token_hex(32), None
    if pseudonyms_of is not None:
        try:
            pairwise = _pairwise_of(_read(pseudonyms_of / _SECRETS_FILE)).secret_bytes().hex()
            former = read_registration(pseudonyms_of).public_key
        except _DAMAGED:
            raise UsageError(
                f"{pseudonyms_of} holds no former key with the secret that pseudonyms are made with"
            ) from None
    key = new_ed25519_key(token)
    if key.public_key().public_bytes_raw() == former:
        raise UsageError(f"the key in the token is the one of {pseudonyms_of}: name another one, which is made there")
    signing_key = key.text if isinstance(key, TokenKey) else key.private_bytes_raw().hex()
    public = {"issuer": address, "public_key": key.public_key().public_bytes_raw().hex()}
    hidden = {"signing_key": signing_key, "pairwise_secret": pairwise}
    try:
        directory.mkdir(mode=0o700)
        sync_directory(directory.parent)
        for name, value in ((_SECRETS_FILE, hidden), (_PUBLIC_FILE, public)):
            # A crash before both are written leaves a folder that `read` refuses.
            write_new(directory / name, json.dumps(value).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write keys to {directory}: {error.strerror}; name a new folder") from error
    return public


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _pairwise_of(stored: dict[str, Any]) -> PairwiseSecret:
    return PairwiseSecret(bytes.fromhex(stored["pairwise_secret"]))
