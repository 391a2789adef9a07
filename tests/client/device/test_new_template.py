"""A template in the making: what is drawn, what is signed, what is sent, and what is left of a try that failed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from client.device import outcomes
from client.device.new_template import NewTemplate, a_receipt, without_template
from client.device.outcomes import Stopwatch
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.consent.receipts import Binding, Receipt
from federation.errors import UsageError
from federation.onebit import TemplateSecret, hamming_distance
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.onebit.wire import PaddedTemplate
from federation.wire.convert import Change
from tests.agreeing import DAY, NOW, RECEIPT, TERMS, a_key

RELEASE = b"r" * 32
STARTED = Enrolment("door-access", "example.org", RELEASE, EnrolmentState.STARTED, "next", b"of before", 4)
BEFORE = TemplateSecret.generate(ONEBIT_1024)
WALLET = Wallet(a_key(21), BEFORE, STARTED, "what it knows of the log")


def a_vector(number):
    vector = np.random.default_rng(number).standard_normal(64)
    return vector / np.linalg.norm(vector)


def of_change(wallet, other):
    """What is not the same of two wallets."""
    return {name for name in vars(wallet) if getattr(wallet, name) != getattr(other, name)}


@pytest.mark.parametrize("parameters", [ONEBIT_1024, ONEBIT_2048], ids=lambda each: each.name)
def test_a_new_template_has_a_seed_and_a_pad_of_its_own_and_a_consent_to_exactly_it(parameters):
    new = NewTemplate.draw(WALLET, a_vector(1), parameters, terms=TERMS, days=30, now=NOW)
    (signed,) = new.consent.receipts
    secret = new.wallet.template_secret
    assert of_change(new.wallet, WALLET) == {"template_secret", "enrolment"}
    assert new.wallet.enrolment == replace(STARTED, receipt=signed.to_bytes())
    assert secret.parameters is parameters
    assert (secret.seed, secret.pad) != (BEFORE.seed, BEFORE.pad)
    assert new.change == Change(signed.to_bytes(), WALLET.device_public_key, new.change.template)
    sent = PaddedTemplate.from_bytes(new.change.template, parameters)
    np.testing.assert_array_equal(sent.bits, secret.padded_code(a_vector(1)))
    digest = hashlib.sha256(new.change.template).digest()
    binding = Binding(WALLET.device_public_key, WALLET.key_id, digest, RELEASE)
    assert signed.receipt == Receipt(signed.receipt.receipt_id, TERMS, binding, NOW, NOW + 30 * DAY, None)
    assert signed.find_fault(binding=binding, purpose="door-access", audience="example.org", now=NOW) is None
    assert repr(new) == f"NewTemplate(wallet={new.wallet!r})"
    assert repr(new) == f"NewTemplate(wallet={new.wallet!r})"
    with pytest.raises(UsageError, match="one template"):
        secret.template(a_vector(2))


def test_two_tries_share_nothing():
    first, second = (NewTemplate.draw(WALLET, a_vector(1), ONEBIT_1024, terms=TERMS, days=30, now=NOW) for _ in "ab")
    assert first.wallet.template_secret.secret_bytes()[:32] != second.wallet.template_secret.secret_bytes()[:32]
    assert first.wallet.template_secret.pad != second.wallet.template_secret.pad
    assert len({new.consent.current.receipt_id for new in (first, second)}) == 2


def test_two_captures_agree_up_to_the_threshold_and_not_one_bit_further():
    new = NewTemplate.draw(WALLET, a_vector(1), ONEBIT_1024, terms=TERMS, days=30, now=NOW)
    secret = new.wallet.template_secret
    apart = hamming_distance(secret.padded_code(a_vector(1)), secret.padded_code(a_vector(2)))
    assert apart > 300
    new.require_agreement(a_vector(1), a_vector(2), threshold=apart)
    with pytest.raises(UsageError, match=r"^the last picture does not match the others; .* Nothing was sent$"):
        new.require_agreement(a_vector(1), a_vector(2), threshold=apart - 1)


def test_a_receipt_says_what_was_agreed_to_from_when_and_until_and_what_it_replaces():
    binding = replace(RECEIPT.binding, device_public_key=WALLET.device_public_key)
    first = a_receipt(WALLET, binding, terms=TERMS, days=1, now=NOW)
    again = a_receipt(WALLET, binding, terms=TERMS, days=365, now=NOW + 5, renews=first.receipt.receipt_id)
    names = [signed.receipt.receipt_id for signed in (first, again)]
    assert first.receipt == Receipt(names[0], TERMS, binding, NOW, NOW + DAY, None)
    assert again.receipt == Receipt(names[1], TERMS, binding, NOW + 5, NOW + 5 + 365 * DAY, names[0])
    assert names[0] != names[1]


def test_after_a_try_that_failed_seed_pad_and_consent_are_gone_and_what_was_counted_stays():
    left = without_template(WALLET)
    assert of_change(left, WALLET) == {"template_secret", "enrolment"}
    assert left.template_secret is None
    assert left.enrolment == replace(STARTED, receipt=None)


def test_a_watch_adds_up_what_passes_within_also_when_it_fails(monkeypatch):
    times = iter([10.0, 10.25, 20.0, 20.5])
    monkeypatch.setattr(outcomes.time, "perf_counter", lambda: next(times))
    watch = Stopwatch()
    assert watch.milliseconds == 0
    with watch:
        pass
    assert watch.milliseconds == 250
    with pytest.raises(UsageError, match="made up"), watch:
        raise UsageError("made up")
    assert watch.milliseconds == 750
