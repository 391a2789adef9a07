"""A template in the making: seed and pad drawn for it alone, its message, and the consent to exactly this one."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from federation.consent.life import Consent
from federation.consent.purposes import DAY_SECONDS
from federation.consent.receipts import RECEIPT_ID_BYTES, Binding, Receipt, SignedReceipt, Terms
from federation.errors import UsageError
from federation.onebit import Parameters, TemplateSecret, hamming_distance
from federation.wire.convert import Change

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from client.wallet.wallet import Wallet


@dataclass(frozen=True)
class NewTemplate:
    """What an enrolment, or a renewal, wants to put in force.

    Attributes:
        wallet: with seed, pad and consent; must be on disk before anything leaves.
        change: for the server.
        consent: to exactly this template.
    """

    wallet: Wallet
    change: Change = field(repr=False)
    consent: Consent = field(repr=False)

    @classmethod
    def draw(
        cls,
        wallet: Wallet,
        reference: NDArray[np.float64],
        parameters: Parameters,
        *,
        terms: Terms,
        days: int,
        now: int,
    ) -> NewTemplate:
        """Draws seed and pad and makes the template. Whatever seed and pad the wallet had serve no more.

        Args:
            wallet: with an enrolment that says purpose, audience and release.
            reference: (k,) adapted embedding. Sensitive.
            parameters: of the release.
            terms: what the person agreed to.
            days: how long.
            now: seconds since 1970.
        """
        secret = TemplateSecret.generate(parameters)
        template = secret.template(reference)
        binding = Binding(
            device_public_key=wallet.device_public_key,
            key_id=wallet.key_id,
            template_digest=hashlib.sha256(template).digest(),
            release_digest=wallet.require_enrolment().release_digest,
        )
        signed = a_receipt(wallet, binding, terms=terms, days=days, now=now)
        change = Change(signed.to_bytes(), wallet.device_public_key, template)
        enrolment = replace(wallet.require_enrolment(), receipt=change.receipt)
        return cls(wallet.with_template_secret(secret).with_enrolment(enrolment), change, Consent((signed,)))

    def require_agreement(self, reference: NDArray[np.float64], second: NDArray[np.float64], *, threshold: int) -> None:
        """Returns when two captures match under the new code. The pad is the same in both, so it drops out.

        Raises:
            UsageError: they do not.
        """
        secret = self.wallet.require_template_secret()
        if hamming_distance(secret.padded_code(reference), secret.padded_code(second)) > threshold:
            raise UsageError(
                "the last picture does not match the others; take new ones of the same person, from the front and in "
                "even light. Nothing was sent"
            )


def a_receipt(
    wallet: Wallet, binding: Binding, *, terms: Terms, days: int, now: int, renews: bytes | None = None
) -> SignedReceipt:
    """A signed consent to one template for some days.

    Args:
        wallet: of the device that the binding names.
        binding: the template.
        terms: what the person agreed to.
        days: how long.
        now: seconds since 1970.
        renews: the receipt that this one replaces.
    """
    receipt = Receipt(
        receipt_id=secrets.token_bytes(RECEIPT_ID_BYTES),
        terms=terms,
        binding=binding,
        issued_at=now,
        expires_at=now + days * DAY_SECONDS,
        renews=renews,
    )
    return receipt.sign(wallet.signing_key)


def without_template(wallet: Wallet) -> Wallet:
    """The wallet after a try that came to nothing: seed, pad and consent of it are gone, what was counted stays."""
    enrolment = replace(wallet.require_enrolment(), receipt=None)
    return wallet.with_template_secret(None).with_enrolment(enrolment)
