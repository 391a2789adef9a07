"""What stands between a picture before the camera and a comparison, and what the public rules ask of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from federation.errors import MalformedMessageError, ProofError
from federation.presentation.levels import PadLevel
from federation.rules.kiosks import Kiosk
from federation.rules.policy import Allowed, Reason, Refused
from federation.rules.rulebook import SignedRule
from federation.statements import canonical_bytes
from tests.agreeing import (
    DAY,
    NOW,
    a_deployment,
    a_kiosk,
    a_pack,
    a_rule,
    a_rulebook,
    another_deployment,
    ask,
    by,
    sha256,
)

NONE, ON_DEVICE, SUPERVISED = PadLevel
MINE, OTHER = sha256("a kiosk's certificate"), sha256("a person's certificate")


def asking(germany: PadLevel, union: PadLevel = NONE):
    return a_rulebook(a_deployment(), a_pack("DE", a_rule(pad=germany)), a_pack("EU", a_rule(pad=union)))


def level(*kiosks: Kiosk, deployment="berlin-office", checked=True, certificate=MINE, now=NOW):
    rules = a_rulebook(a_deployment(), another_deployment(), a_pack("DE"), a_pack("EU"), *kiosks)
    return rules.pad_level(deployment, checked=checked, certificate=certificate, now=now)


@pytest.mark.parametrize(
    ("kiosks", "asked", "expected"),
    [
        ((), {}, ON_DEVICE),
        ((), {"checked": False}, NONE),
        ((a_kiosk(),), {}, SUPERVISED),
        ((a_kiosk(),), {"checked": False}, NONE),
        ((a_kiosk(),), {"certificate": OTHER}, ON_DEVICE),
        ((a_kiosk(),), {"deployment": "munich-office"}, ON_DEVICE),
        ((a_kiosk(deployment="munich-office"),), {}, ON_DEVICE),
        ((a_kiosk(deployment="munich-office"),), {"deployment": "munich-office"}, SUPERVISED),
        ((a_kiosk(begins_at=NOW + 1),), {}, ON_DEVICE),
        ((a_kiosk(begins_at=NOW),), {}, SUPERVISED),
        ((a_kiosk(ends_at=NOW),), {}, ON_DEVICE),
        ((a_kiosk(ends_at=NOW + 1),), {}, SUPERVISED),
        ((a_kiosk(identifier="hall-2", certificate=OTHER), a_kiosk()), {"certificate": OTHER}, SUPERVISED),
    ],
)
def test_supervised_comes_from_a_kiosk_that_the_rules_name_now_for_this_deployment_and_from_nothing_else(
    kiosks, asked, expected
):
    assert level(*kiosks, **asked) is expected


@pytest.mark.parametrize(("least", "there"), list(itertools.product(PadLevel, PadLevel)))
def test_a_purpose_that_asks_for_a_level_gets_it_or_is_refused(least, there):
    answer = ask(rules=asking(least), pad=there)
    enough = {NONE: {NONE, ON_DEVICE, SUPERVISED}, ON_DEVICE: {ON_DEVICE, SUPERVISED}, SUPERVISED: {SUPERVISED}}[least]
    if there in enough:
        assert isinstance(answer, Allowed)
        assert answer.pad is least
        return
    assert isinstance(answer, Refused)
    assert answer.reason is Reason.PAD_TOO_LOW
    assert not answer.reason.is_personal
    assert repr(least.value) in answer.detail
    assert repr(there.value) in answer.detail
    assert "the way without a face that the terms name" in answer.detail


@pytest.mark.parametrize(("germany", "union"), list(itertools.product(PadLevel, PadLevel)))
def test_the_highest_level_of_all_jurisdictions_counts(germany, union):
    highest = max(germany, union, key=[NONE, ON_DEVICE, SUPERVISED].index)
    answer = ask(rules=asking(germany, union), pad=SUPERVISED)
    assert isinstance(answer, Allowed)
    assert answer.pad is highest
    assert isinstance(ask(rules=asking(germany, union), pad=NONE), Allowed) is (highest is NONE)


@pytest.mark.parametrize(
    ("level", "value", "text", "reached"),
    [
        (NONE, "none", "nobody looked for a picture or a mask before the camera", {NONE}),
        (
            ON_DEVICE,
            "on-device",
            "the person's own device says that it looked for a picture or a mask before the camera",
            {NONE, ON_DEVICE},
        ),
        (
            SUPERVISED,
            "supervised",
            "a device of the organisation's looked for a picture or a mask before the camera",
            {NONE, ON_DEVICE, SUPERVISED},
        ),
    ],
)
def test_each_level_says_who_looked_and_reaches_itself_and_what_is_below(level, value, text, reached):
    assert (level.value, level.text) == (value, text)
    assert {least for least in PadLevel if level.reaches(least)} == reached


def test_whoever_enrols_is_verified_by_nothing_that_is_stored_so_no_level_is_asked():
    assert isinstance(ask(rules=asking(SUPERVISED), pad=None), Allowed)


def test_device_and_server_come_to_one_level_and_one_decision_from_the_same_entries():
    rules = [a_deployment(), a_pack("DE", a_rule(pad=SUPERVISED)), a_pack("EU"), a_kiosk()]
    server, device = a_rulebook(*rules), a_rulebook(*rules)
    for checked, certificate in itertools.product((False, True), (MINE, OTHER)):
        asked = {"checked": checked, "certificate": certificate, "now": NOW}
        levels = [book.pad_level("berlin-office", **asked) for book in (server, device)]
        assert levels[0] is levels[1]
        assert ask(rules=server, pad=levels[0]) == ask(rules=device, pad=levels[1])


def test_a_kiosk_is_named_by_the_rule_signers_only():
    with pytest.raises(ProofError, match="kiosk hall-1 needs 2 different signatures and has 1"):
        a_rulebook().admit(by(1, a_kiosk()))


def test_a_rule_that_asks_for_nothing_has_one_spelling():
    assert "pad" not in a_rule().to_json()
    value = by(2, a_pack("DE", a_rule(pad=ON_DEVICE)))
    spelled = canonical_bytes(
        {
            "rule": value.rule.to_json() | {"rules": [a_rule().to_json() | {"pad": "none"}]},
            "signatures": {key.hex(): signature.hex() for key, signature in value.signatures},
        }
    )
    with pytest.raises(MalformedMessageError, match="a rule"):
        SignedRule.from_bytes(spelled)


@pytest.mark.parametrize("pad", ["certified", "", "NONE", 2, ["supervised"]])
def test_a_rule_asks_for_no_level_that_does_not_exist(pad):
    value = by(2, a_pack("DE", a_rule(pad=ON_DEVICE)))
    wrong = canonical_bytes(
        {
            "rule": value.rule.to_json() | {"rules": [a_rule().to_json() | {"pad": pad}]},
            "signatures": {key.hex(): signature.hex() for key, signature in value.signatures},
        }
    )
    with pytest.raises(MalformedMessageError, match="a rule"):
        SignedRule.from_bytes(wrong)


def test_a_kiosk_is_believed_for_90_days_at_most():
    longest = replace(a_kiosk(), begins_at=NOW, ends_at=NOW + 90 * DAY)
    assert level(longest) is SUPERVISED
