"""The encrypted wallet: everything secret that one device holds, in one file.

`client.wallet.sealed` encrypts it. The content is JSON: the signing key, seed and pad of the one template, and what the
device remembers of its enrolment and of the log.

Seed and pad serve one template and no other. So a wallet has none until an enrolment draws them; a second try draws
others, whatever became of the first; a renewed template lies in another wallet; and a revoked one has none any more.

A wallet that is lost does not come back: its backup (`client.wallet.backup`), or the operator, revokes; then create
another and enrol again.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.log.watching import LogMemory
from client.wallet.sealed import seal, unseal
from federation.consent.life import Consent, consent_of
from federation.consent.receipts import ReceiptFault
from federation.errors import IntaglioError, RefusedError, UsageError
from federation.onebit import TemplateSecret, parameters_for
from federation.sealing import Passphrase, ScryptCost, SealedKind
from federation.statements import is_name, require_name
from federation.transparency import SignedCheckpoint
from federation.wire.checks import DIGEST_BYTES

WALLET: Final = SealedKind("wallet", b"intaglio wallet\0", version=2, when_older="create a new wallet and enrol again")
MOST_ANSWERS = 500
"""Sessions that one template's device answers in its life: a lying server learns at most one bit in each (ADR 0081)."""


class EnrolmentState(enum.Enum):
    """How far this device got. The server's word counts; this is what the device remembers of it."""

    STARTED = "started"
    """An enrolment was begun; the answer may have been lost. Enrol again, or try to verify."""
    ENROLLED = "enrolled"
    REVOKED = "revoked"
    """Final: a new template needs a new wallet."""


@dataclass(frozen=True)
class Enrolment:
    """Where and for what this device enrolled.

    Attributes:
        purpose: what for; verification repeats it.
        audience: who relies on the decision; verification repeats it.
        release_digest: SHA-256 of the model release that adapted the reference, 32 bytes.
        state: how far it got.
        deployment: identifier in the public registry of who verifies here.
        receipt: what the owner agreed to: a signed receipt and its renewals, one in a line; None before that.
        answers: sessions that this device let begin, each worth one bit to a server that lies.
    """

    purpose: str
    audience: str
    release_digest: bytes
    state: EnrolmentState
    deployment: str | None = None
    receipt: bytes | None = field(default=None, repr=False)
    answers: int = 0

    def __post_init__(self) -> None:
        if self.deployment is not None:
            require_name("the deployment", self.deployment)
        if not is_name(self.purpose) or not is_name(self.audience):
            raise UsageError("purpose and audience are 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")
        if len(self.release_digest) != DIGEST_BYTES:
            raise UsageError("the release digest is a SHA-256 digest of 32 bytes")
        if type(self.answers) is not int or not 0 <= self.answers <= MOST_ANSWERS:
            raise UsageError(f"a device answers 0 to {MOST_ANSWERS} sessions")

    def require_consent(self) -> Consent:
        """What the owner agreed to so far.

        Raises:
            RefusedError: to nothing.
        """
        if self.receipt is None:
            raise ReceiptFault.MISSING.to_error()
        return consent_of(self.receipt)

    def with_one_more_answer(self) -> Enrolment:
        """The enrolment after one more session may begin.

        Raises:
            RefusedError: the template's device has answered often enough.
        """
        if self.answers == MOST_ANSWERS:
            raise RefusedError(
                f"this wallet has answered {MOST_ANSWERS} sessions, all that one template may; revoke it, then create "
                "a new wallet and enrol with it"
            )
        return replace(self, answers=self.answers + 1)


@dataclass(frozen=True, repr=False, eq=False)
class Wallet:
    """The secrets of one device. Runs on the device only; never pickled, never printed.

    Attributes:
        signing_key: Ed25519 key of the device. It names one template, for good.
        template_secret: seed and pad of that template; None before an enrolment and after a revocation.
        enrolment: what the device remembers of its enrolment, or None.
        log: the last checkpoint of the server's log that the device believed, or None.
    """

    signing_key: Ed25519PrivateKey
    template_secret: TemplateSecret | None = field(default=None)
    enrolment: Enrolment | None = field(default=None)
    log: LogMemory | None = field(default=None)

    @classmethod
    def generate(cls) -> Wallet:
        """A fresh signing key from the operating system."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def key_id(self) -> bytes:
        """Name of this device and its template towards the server: SHA-256 of `device_public_key`, 32 bytes."""
        return hashlib.sha256(self.device_public_key).digest()

    @property
    def device_public_key(self) -> bytes:
        """Ed25519 public key, 32 bytes."""
        return self.signing_key.public_key().public_bytes_raw()

    def with_template_secret(self, secret: TemplateSecret | None) -> Wallet:
        """The same key with seed and pad of another try to enrol, or with none."""
        return replace(self, template_secret=secret)

    def with_enrolment(self, enrolment: Enrolment) -> Wallet:
        """The same secrets with another memory of the enrolment."""
        return replace(self, enrolment=enrolment)

    def with_log(self, log: LogMemory | None) -> Wallet:
        """The same secrets with another memory of the log."""
        return replace(self, log=log)

    def with_state(self, state: EnrolmentState) -> Wallet:
        """The same enrolment, one step further. What is revoked needs no seed and no pad, so they go.

        Raises:
            UsageError: there is no enrolment.
        """
        wallet = self.with_enrolment(replace(self.require_enrolment(), state=state))
        return wallet.with_template_secret(None) if state is EnrolmentState.REVOKED else wallet

    def require_enrolment(self) -> Enrolment:
        """The enrolment.

        Raises:
            UsageError: none was ever begun, or it was revoked.
        """
        if self.enrolment is None:
            raise UsageError("this wallet is not enrolled; run `intaglio enrol` first")
        if self.enrolment.state is EnrolmentState.REVOKED:
            raise UsageError(
                "this wallet's template was revoked for good; create a new wallet and enrol with it, or name the one "
                "that `intaglio renew` made with --wallet"
            )
        return self.enrolment

    def require_template_secret(self) -> TemplateSecret:
        """Seed and pad of the template.

        Raises:
            UsageError: there is no template.
        """
        if self.template_secret is None:
            raise UsageError("this wallet is not enrolled; run `intaglio enrol` first")
        return self.template_secret

    def __repr__(self) -> str:
        state = self.enrolment.state.value if self.enrolment else "not enrolled"
        return f"Wallet(key_id={self.key_id.hex()[:16]}, {state}, secrets=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wallet is not pickled; write it with write_wallet")


def write_wallet(path: Path, wallet: Wallet, passphrase: str | Passphrase, cost: ScryptCost | None = None) -> None:
    """Encrypts `wallet` into `path`, replacing what is there: the old one or the new one is whole, whatever happens.

    Raises:
        UsageError: the passphrase is shorter than 8 characters, or the file cannot be written.
    """
    seal(path, _content_of(wallet), WALLET, passphrase, cost)


def create_wallet(path: Path, passphrase: str | Passphrase, cost: ScryptCost | None = None) -> Wallet:
    """Generates a wallet and writes it to `path`, where nothing may be yet.

    Raises:
        UsageError: `path` exists, or `write_wallet` refuses.
    """
    if path.exists():
        raise UsageError(f"{path} exists; a wallet is never overwritten by a new one: choose another path")
    wallet = Wallet.generate()
    write_wallet(path, wallet, passphrase, cost)
    return wallet


def require_wallet(path: Path) -> None:
    """Raises `UsageError` when there is no file at `path`."""
    if not path.is_file():
        raise UsageError(
            f"there is no wallet at {path}; create one with `intaglio wallet create`,"
            " or, where somebody gave you a file, enrol with `intaglio enrol --from FILE`"
        )


def read_wallet(path: Path, passphrase: str | Passphrase) -> Wallet:
    """Opens what `write_wallet` wrote.

    Raises:
        UsageError: missing, unreadable, not a wallet, of an older version, damaged, or the wrong passphrase; each says
            which.
    """
    require_wallet(path)
    return _wallet_from_content(unseal(path, WALLET, passphrase), path)


def _content_of(wallet: Wallet) -> bytes:
    enrolment, secret = wallet.enrolment, wallet.template_secret
    return json.dumps(
        {
            "signing_key": base64.b64encode(wallet.signing_key.private_bytes_raw()).decode(),
            "template_secret": secret
            and {
                "code_length": secret.parameters.slots,
                "seed_and_pad": base64.b64encode(secret.secret_bytes()).decode(),
            },
            "enrolment": enrolment
            and {
                "purpose": enrolment.purpose,
                "audience": enrolment.audience,
                "release_digest": enrolment.release_digest.hex(),
                "state": enrolment.state.value,
                "deployment": enrolment.deployment,
                "receipt": enrolment.receipt and enrolment.receipt.decode(),
                "answers": enrolment.answers,
            },
            "log": wallet.log and wallet.log.checkpoint.to_bytes().decode(),
        }
    ).encode()


def _wallet_from_content(content: bytes, path: Path) -> Wallet:
    """Reads authenticated content, so a failure here means another version wrote it, not an attack."""
    try:
        fields: dict[str, Any] = json.loads(content)
        remembered = fields["enrolment"]
        return Wallet(
            Ed25519PrivateKey.from_private_bytes(base64.b64decode(fields["signing_key"], validate=True)),
            _template_secret_from(fields["template_secret"]),
            remembered
            and Enrolment(
                purpose=remembered["purpose"],
                audience=remembered["audience"],
                release_digest=bytes.fromhex(remembered["release_digest"]),
                state=EnrolmentState(remembered["state"]),
                deployment=remembered["deployment"],
                receipt=remembered["receipt"] and remembered["receipt"].encode(),
                answers=remembered["answers"],
            ),
            fields["log"] and LogMemory(SignedCheckpoint.from_bytes(fields["log"].encode())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IntaglioError):
        # `from None`: the cause may quote the content.
        raise UsageError(f"the wallet at {path} opens, but another version of this program wrote it") from None


def _template_secret_from(fields: dict[str, Any] | None) -> TemplateSecret | None:
    if fields is None:
        return None
    secret = base64.b64decode(fields["seed_and_pad"], validate=True)
    return TemplateSecret.from_secret_bytes(secret, parameters_for(fields["code_length"]))
