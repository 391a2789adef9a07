"""The public rules, and what follows from them: rows S4 to S6, S8 and D4 to D9 of the demands."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.consent import purposes
from federation.consent.purposes import TIERS, Category, RedLine, Tier, red_line_of
from federation.consent.receipts import ReceiptFault
from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.presentation.levels import PadLevel
from federation.rules.entries import LONGEST_EXCEPTION_SECONDS, Issuer, PurposeRule
from federation.rules.policy import LONGEST_RULES_AGE_SECONDS, Allowed, Attempts, Reason, Refused, Request, decide
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from federation.statements import canonical_bytes, is_name
from server.storage.limits import AttemptHistory, AttemptLimits
from tests.agreeing import (
    AUDIENCE,
    BINDING,
    DAY,
    DEVICE,
    NOW,
    OTHER_AUDIENCE,
    OTHER_PURPOSE,
    PURPOSE,
    REASON,
    RULE_SIGNERS,
    SIGNERS,
    STRANGER,
    TRIAL,
    a_consent,
    a_deployment,
    a_kiosk,
    a_lifting,
    a_moratorium,
    a_pack,
    a_receipt,
    a_rule,
    a_rulebook,
    an_exception,
    ask,
    by,
    public,
    sha256,
)

# One name for every kind of use that was named in 2020, spelled in the ways that somebody might try.
RED_LINE_PURPOSES = {
    RedLine.SEARCH: [
        "search", "face-search", "facesearch", "re-search", "s/e/a/r/c/h", "identification", "person_identify",
        "watchlist", "watch-list-check", "black.list", "face-recognition", "1-to-n", "deduplication", "find",
        "law-enforcement-search", "mugshots",
    ],
    RedLine.SURVEILLANCE: ["mass-surveillance", "tracking", "body-cam", "cctv", "crowd-control", "employee-monitoring"],
    RedLine.EMOTION: ["emotion", "emotion-detection", "mood-board", "lie-detector", "attention-tracker"],
    RedLine.ATTRIBUTES: ["gender", "gender-estimation", "ethnicity", "race", "age-check", "attributes", "demographics"],
    RedLine.PROFILING: ["profiling", "social-scoring", "credit.score", "ad-targeting", "predictive", "criminality"],
    RedLine.LAW_ENFORCEMENT: ["police", "law-enforcement", "immigration", "border", "ice", "suspects", "intelligence"],
}  # fmt: skip
HARMLESS = [
    "door-access", "account-sign-in", "payment", "exam-entry", "patient-check-in", "benefits-claim", "device-unlock",
    "package-pickup", "storage-room", "village-hall", "model-training", "model-audit", "voting-hall", "office-entrance",
]  # fmt: skip
STEMS = sorted(stem for stems in purposes._STEMS.values() for stem in stems)
times = st.integers(NOW - 20 * 3600, NOW + 20 * 3600)
periods = st.tuples(times, times).filter(lambda pair: pair[0] < pair[1])


def reason_of(answer):
    assert isinstance(answer, Refused), answer
    return answer.reason


# ---------------------------------------------------------------- the usual way


def test_a_registered_deployment_with_a_receipt_may_verify():
    answer = ask()
    until = NOW + LONGEST_RULES_AGE_SECONDS + 1
    assert answer == Allowed(Category.PHYSICAL_ACCESS, Tier.MINIMAL, PadLevel.NONE, until)


def test_each_deployment_has_its_own_purpose_release_and_tier():
    binding = replace(BINDING, release_digest=sha256("another release"))
    consent = a_consent(audience=OTHER_AUDIENCE, purposes=(OTHER_PURPOSE,), release_digest=binding.release_digest)
    request = {"deployment": "munich-office", "audience": OTHER_AUDIENCE, "purpose": OTHER_PURPOSE, "binding": binding}
    answer = ask(**request, consent=consent)
    assert (answer.category, answer.tier) == (Category.SIGN_IN, Tier.LIMITED)
    assert reason_of(ask(**request | {"binding": BINDING}, consent=consent)) is Reason.DEPLOYMENT_OTHER_USE


def test_the_same_question_always_gets_the_same_answer():
    assert ask() == ask()
    assert ask(purpose="payment") == ask(purpose="payment")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"purpose": "face-search"}, Reason.RED_LINE),
        ({"now": NOW + LONGEST_RULES_AGE_SECONDS + 1}, Reason.RULES_STALE),
        ({"deployment": "in-the-cellar"}, Reason.DEPLOYMENT_UNREGISTERED),
        ({"rules": a_rulebook(a_deployment(begins_at=NOW + 1))}, Reason.DEPLOYMENT_NOT_IN_FORCE),
        ({"rules": a_rulebook(a_deployment(ends_at=NOW))}, Reason.DEPLOYMENT_NOT_IN_FORCE),
        ({"audience": "elsewhere.org"}, Reason.DEPLOYMENT_OTHER_USE),
        ({"purpose": "payment"}, Reason.DEPLOYMENT_OTHER_USE),
        ({"purpose": OTHER_PURPOSE}, Reason.DEPLOYMENT_OTHER_USE),
        ({"audience": OTHER_AUDIENCE}, Reason.DEPLOYMENT_OTHER_USE),
        ({"deployment": "munich-office"}, Reason.DEPLOYMENT_OTHER_USE),
        ({"binding": replace(BINDING, release_digest=sha256("another release"))}, Reason.DEPLOYMENT_OTHER_USE),
        ({"binding": replace(BINDING, release_digest=sha256("another"))}, Reason.DEPLOYMENT_OTHER_USE),
        ({"rules": a_rulebook(a_deployment(), a_pack("DE"))}, Reason.NO_POLICY),
        ({"rules": a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", ends_at=NOW))}, Reason.NO_POLICY),
        ({"rules": a_rulebook(a_deployment(), a_pack("EU"), a_pack(rules=()))}, Reason.PURPOSE_NOT_ALLOWED),
        (
            {"rules": a_rulebook(a_deployment(), a_pack("DE"), a_pack("EU"), a_moratorium())},
            Reason.MORATORIUM,
        ),
        ({"begins_at": NOW + 1}, Reason.RELEASE_NOT_IN_FORCE),
        ({"ends_at": NOW}, Reason.RELEASE_NOT_IN_FORCE),
        (
            {
                "audited": TRIAL,
                "rules": a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(tier=Tier.LIMITED))),
            },
            Reason.RELEASE_ONLY_A_TRIAL,
        ),
        (
            {"rules": a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(pad=PadLevel.ON_DEVICE)))},
            Reason.PAD_TOO_LOW,
        ),
        ({"stated_fmr": 0.02}, Reason.FMR_TOO_LARGE),
        ({"stated_fmr": math.nan}, Reason.FMR_TOO_LARGE),
        ({"stated_fmr": 0.0}, Reason.FMR_TOO_LARGE),
        ({"consent": None}, Reason.RECEIPT_MISSING),
        ({"consent": a_consent(template_digest=sha256("another"))}, Reason.RECEIPT_OTHER_TEMPLATE),
        ({"consent": a_consent(key_id=sha256("another"))}, Reason.RECEIPT_OTHER_TEMPLATE),
        ({"consent": a_consent(key=STRANGER)}, Reason.RECEIPT_OTHER_DEVICE),
        ({"consent": a_consent(release_digest=sha256("another"))}, Reason.RECEIPT_OTHER_RELEASE),
        ({"consent": a_consent(audience="elsewhere.org")}, Reason.RECEIPT_OTHER_AUDIENCE),
        ({"consent": a_consent(purposes=("payment",))}, Reason.RECEIPT_OTHER_PURPOSE),
        ({"consent": a_consent(purposes=(OTHER_PURPOSE,))}, Reason.RECEIPT_OTHER_PURPOSE),
        ({"consent": a_consent(issued_at=NOW + DAY)}, Reason.RECEIPT_NOT_YET_VALID),
        ({"consent": a_consent(issued_at=NOW - DAY, expires_at=NOW)}, Reason.RECEIPT_EXPIRED),
        ({"consent": a_consent().withdraw(a_receipt().withdraw(DEVICE, now=NOW))}, Reason.RECEIPT_WITHDRAWN),
        ({"consent": a_consent(jurisdiction="FR")}, Reason.RECEIPT_OTHER_JURISDICTION),
        ({"consent": a_consent(expires_at=NOW + 366 * DAY)}, Reason.RECEIPT_TOO_LONG),
        ({"attempts": Attempts(used_up=True)}, Reason.ATTEMPTS_USED_UP),
        ({"attempts": Attempts(wait_until=NOW + 1)}, Reason.TOO_SOON),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else "",
)
def test_every_thing_that_is_wrong_has_its_reason(change, reason):
    assert reason_of(ask(**change)) is reason


def two_packs(**changes):
    """Rules of which one place asks for more than the other."""
    return a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(**changes)))


OTHER_USE = "the deployment 'berlin-office' is registered for another audience, purpose or model release"
ANOTHER_WAY = "or take the way without a face that the terms name"
CAMERA = f"verify with the camera and the movements that it asks for (`intaglio verify --challenge`), {ANOTHER_WAY}"
KIOSK = f"verify at a kiosk of the operator's that the public rules name, {ANOTHER_WAY}"
SENTENCES = [
    ({"purpose": "face-search"}, f"the purpose 'face-search' is never allowed: {RedLine.SEARCH.value}"),
    ({"now": NOW + DAY + 1}, "the public rules were last read more than a day ago; read the log again"),
    ({"deployment": "cellar"}, "no deployment 'cellar' stands in the public registry"),
    ({"rules": a_rulebook(a_deployment(ends_at=NOW))}, "the deployment 'berlin-office' is not in force now"),
    ({"audience": "elsewhere.org"}, OTHER_USE),
    ({"rules": a_rulebook(a_deployment(), a_pack("DE"))}, "no policy is in force in EU"),
    (
        {"rules": a_rulebook(a_deployment(), a_pack("DE"), a_pack("EU", rules=()))},
        f"the policy of EU does not allow {PURPOSE!r} now",
    ),
    (
        {
            "rules": a_rulebook(
                a_deployment(),
                a_pack("DE"),
                a_pack("EU"),
                a_moratorium(identifier="later", begins_at=NOW + 1),
                a_moratorium(),
            )
        },
        "stopped by the moratorium 'pause-2030'",
    ),
    ({"ends_at": NOW}, "the model release is not valid now; it must be audited again"),
    (
        {"audited": TRIAL, "rules": two_packs(tier=Tier.LIMITED)},
        f"the model release is a trial that no audit has passed, and {PURPOSE!r} is no trial's purpose",
    ),
    (
        {"stated_fmr": 0.0025, "rules": two_packs(tier=Tier.LIMITED)},
        f"{PURPOSE!r} needs a release with a false match rate of at most 0.001; this one states 0.0025",
    ),
    (
        {"pad": PadLevel.NONE, "rules": two_packs(pad=PadLevel.ON_DEVICE)},
        f"{PURPOSE!r} asks for presentation attack detection 'on-device', and here it is 'none'; {CAMERA}",
    ),
    (
        {"pad": PadLevel.ON_DEVICE, "rules": two_packs(pad=PadLevel.SUPERVISED)},
        f"{PURPOSE!r} asks for presentation attack detection 'supervised', and here it is 'on-device'; {KIOSK}",
    ),
    ({"consent": None}, f"the consent receipt is refused: {ReceiptFault.MISSING.value}"),
    ({"consent": a_consent(jurisdiction="FR")}, "the consent receipt is for another jurisdiction"),
    (
        {"consent": a_consent(expires_at=NOW + 181 * DAY), "rules": two_packs(tier=Tier.LIMITED)},
        f"a consent receipt for {PURPOSE!r} may be valid for at most 180 days",
    ),
    ({"attempts": Attempts(used_up=True)}, "this template is closed after too many failures; enrol anew"),
    ({"attempts": Attempts(wait_until=NOW + 77)}, "too many attempts in a row have failed; try again in 77 seconds"),
]


@pytest.mark.parametrize(("change", "sentence"), SENTENCES, ids=[sentence[:40] for _, sentence in SENTENCES])
def test_a_refusal_says_to_its_owner_what_was_asked_what_there_is_and_what_helps(change, sentence):
    said = ask(**change)
    assert isinstance(said, Refused), said
    assert (said.detail, said.retry_after_seconds) == (sentence, 77 if "77" in sentence else 0)
    assert sentence in str(said.to_error(to_owner=True))
    assert (sentence in str(said.to_error(to_owner=False))) is not said.reason.is_personal
    for to_owner in (True, False):
        comes_later = to_owner and said.reason is Reason.TOO_SOON
        assert type(said.to_error(to_owner=to_owner)) is (UnavailableError if comes_later else RefusedError)


def test_s8_without_a_valid_receipt_of_the_owner_nothing_is_allowed():
    """No receipt, a foreign one, one for another template, an altered one."""
    altered = replace(a_receipt(), signature=bytes(64))
    consents = [None, a_consent(key=STRANGER), a_consent(template_digest=bytes(32))]
    consents.append(replace(a_consent(), receipts=(altered,)))
    assert all(reason_of(ask(consent=consent)).name.startswith("RECEIPT_") for consent in consents)


def test_s1_a_purpose_that_no_signed_policy_names_is_refused():
    """Also when deployment and receipt both name it."""
    other = {"purposes": ("locker",)}
    rules = a_rulebook(a_deployment(**other), a_pack("DE"), a_pack("EU"))
    assert reason_of(ask(rules=rules, purpose="locker", consent=a_consent(**other))) is Reason.PURPOSE_NOT_ALLOWED


def test_every_fault_of_a_receipt_has_a_reason_and_every_reason_a_sentence():
    assert {Reason.of_receipt(fault).value for fault in ReceiptFault} <= {reason.value for reason in Reason}
    assert all(is_name(reason.value) for reason in Reason)  # they become labels of counters


# ---------------------------------------------------------------- D6: red lines


@pytest.mark.parametrize(("line", "names"), RED_LINE_PURPOSES.items(), ids=lambda value: getattr(value, "name", ""))
def test_d6_every_red_line_is_known_by_many_names(line, names):
    assert [name for name in names if red_line_of(name) is None] == []
    assert line in {red_line_of(name) for name in names}


@pytest.mark.parametrize("purpose", HARMLESS)
def test_a_harmless_purpose_crosses_no_red_line(purpose):
    assert red_line_of(purpose) is None


red_purposes = st.tuples(
    st.sampled_from(["", "a-", "door-access/", "consented."]), st.sampled_from(STEMS), st.sampled_from(["", "-1", "/x"])
).map("".join)


@given(
    purpose=red_purposes,
    category=st.sampled_from(Category),
    tier=st.sampled_from(Tier),
    signatures=st.integers(0, 3),
    in_exception=st.booleans(),
    cut=st.sampled_from(["", "-", "."]),
    at=st.integers(1, 5),
)
def test_d6_no_policy_file_can_allow_a_red_line_purpose(purpose, category, tier, signatures, in_exception, cut, at):
    before, after = purpose[:at], purpose[at:]
    if before[-1:].isalnum() and after[:1].isalnum():
        purpose = before + cut + after
    # The value cannot be built ...
    with pytest.raises(UsageError, match=r"the purpose '.*' is never allowed: "):
        a_rule(purpose=purpose, category=category, tier=max(tier, category.lowest_tier))
    # ... a file that says it, signed by everybody, does not parse ...
    rule = an_exception() if in_exception else a_pack()
    edited = json.loads(canonical_bytes(rule.to_json()).replace(PURPOSE.encode(), purpose.encode()))
    body = canonical_bytes(edited)
    signed = {
        key.public_key().public_bytes_raw().hex(): key.sign(b"intaglio-rule/1\0" + body).hex()
        for key in SIGNERS[:signatures]
    }
    with pytest.raises(MalformedMessageError, match="the bytes are not a rule of this version"):
        SignedRule.from_bytes(canonical_bytes({"rule": edited, "signatures": signed}))
    # ... and were all of that forged, the decision would still be no.
    assert reason_of(ask(purpose=purpose, rules=forged_rulebook(purpose, category))) is Reason.RED_LINE


def forged_rulebook(purpose, category):
    """What a rulebook would look like had somebody got round every check."""
    book = a_rulebook()
    for rule in book.rules.values():
        for one in getattr(rule, "rules", ()):
            object.__setattr__(one, "purpose", purpose)
            object.__setattr__(one, "category", category)
        if hasattr(rule, "purposes"):
            object.__setattr__(rule, "purposes", (purpose,))
    return book


def test_d6_there_is_no_category_for_a_red_line():
    assert all(red_line_of(category.value) is None for category in Category)
    assert len(Category) == 4


# ---------------------------------------------------------------- S4: no threshold


def test_s4_a_threshold_is_no_argument_anywhere():
    names = set(inspect.signature(decide).parameters)
    for kind in (Request, Attempts, Allowed, PurposeRule, Rulebook):
        names |= {field.name for field in dataclasses.fields(kind)}
    assert not {name for name in names if "threshold" in name or "score" in name}


def test_s4_a_rule_with_a_threshold_does_not_parse():
    value = json.loads(by(2, a_pack()).to_bytes())
    value["rule"]["rules"][0]["threshold"] = 700
    with pytest.raises(MalformedMessageError, match="a rule is not in canonical form"):
        SignedRule.from_bytes(canonical_bytes(value))


@pytest.mark.parametrize(("tier", "limits"), TIERS.items(), ids=lambda value: getattr(value, "name", ""))
def test_s4_a_purpose_whose_tier_needs_a_smaller_fmr_than_the_release_states_is_refused(tier, limits):
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(tier=tier)))
    consent = a_consent(expires_at=NOW + limits.longest_receipt_seconds)
    assert ask(rules=rules, consent=consent, stated_fmr=limits.largest_fmr).tier is tier
    too_large = math.nextafter(limits.largest_fmr, 1)
    assert reason_of(ask(rules=rules, consent=consent, stated_fmr=too_large)) is Reason.FMR_TOO_LARGE


# ---------------------------------------------------------------- D3: an audit ends


def test_d3_a_release_is_used_until_the_second_at_which_its_audit_ends():
    assert ask(ends_at=NOW + 1).valid_until == NOW + 1
    assert reason_of(ask(ends_at=NOW)) is Reason.RELEASE_NOT_IN_FORCE


def test_d1_a_trial_serves_the_lowest_tier_only():
    for tier in Tier:
        rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(tier=tier)))
        answer = ask(rules=rules, audited=TRIAL, stated_fmr=1e-4, consent=a_consent(expires_at=NOW + 30 * DAY))
        assert isinstance(answer, Allowed) == (tier is Tier.MINIMAL)


# ---------------------------------------------------------------- D9: risk tiers


def test_d9_a_higher_tier_asks_for_a_smaller_fmr_and_a_shorter_receipt():
    rows = [(TIERS[tier].largest_fmr, TIERS[tier].longest_receipt_seconds // DAY) for tier in Tier]
    assert rows == [(1e-2, 365), (1e-3, 180), (1e-4, 90)]


@pytest.mark.parametrize("tier", Tier)
def test_d9_a_receipt_longer_than_its_tier_allows_is_refused(tier):
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(tier=tier)))
    longest = TIERS[tier].longest_receipt_seconds
    assert isinstance(ask(rules=rules, stated_fmr=1e-4, consent=a_consent(expires_at=NOW + longest)), Allowed)
    longer = a_consent(expires_at=NOW + longest + 1)
    for now in (NOW, NOW + 600):  # what counts is for how long it was given, and not how much of that is left
        assert reason_of(ask(rules=rules, stated_fmr=1e-4, consent=longer, now=now)) is Reason.RECEIPT_TOO_LONG


@pytest.mark.parametrize("category", Category)
def test_d9_a_policy_may_raise_a_tier_and_never_lower_it(category):
    for tier in Tier:
        if tier < category.lowest_tier:
            with pytest.raises(UsageError, match="is at least of tier"):
                a_rule(category=category, tier=tier)
        else:
            assert a_rule(category=category, tier=tier).tier is tier


@pytest.mark.parametrize(("germany", "union"), [(Tier.HIGH, Tier.MINIMAL), (Tier.MINIMAL, Tier.HIGH)])
def test_d9_the_strictest_tier_of_all_jurisdictions_counts(germany, union):
    rules = a_rulebook(a_deployment(), a_pack("DE", a_rule(tier=germany)), a_pack("EU", a_rule(tier=union)))
    assert ask(rules=rules, stated_fmr=1e-4).tier is Tier.HIGH


# ---------------------------------------------------------------- D4: deployments


def test_d4_an_unregistered_deployment_is_refused():
    assert reason_of(ask(rules=a_rulebook(a_pack("DE"), a_pack("EU")))) is Reason.DEPLOYMENT_UNREGISTERED


def test_d4_a_deployment_cannot_leave_out_the_wider_law():
    for places in ((), ("US-CA",), ("DE",), ("DE-BY", "EU"), ("EU", "DE")):
        with pytest.raises(UsageError, match="jurisdictions"):
            a_deployment(jurisdictions=places)
    assert a_deployment(jurisdictions=("US", "US-CA")).jurisdictions == ("US", "US-CA")


def test_d4_a_deployment_is_registered_by_the_rule_signers_only():
    registered = SignedRule(a_deployment())
    for signed in (registered, by(1, a_deployment()), registered.signed_by(DEVICE).signed_by(STRANGER)):
        with pytest.raises(ProofError, match="deployment berlin-office"):
            a_rulebook().admit(signed)


# ---------------------------------------------------------------- D7: dates and places


PLACES = ("DE", "DE-BY", "EU")


def in_three_places(place, *more, missing=False, rules=None, **changes):
    """Rules of three places, one of which says something else than the two others."""
    packs = [a_pack(other) for other in PLACES if other != place]
    own = [] if missing else [a_pack(place, **{"rules": rules or (a_rule(),)} | changes)]
    return a_rulebook(a_deployment(jurisdictions=PLACES), *packs, *own, *more)


@pytest.mark.parametrize("place", PLACES)
def test_what_one_of_several_places_says_counts_whichever_it_is(place):
    def until(**changes):
        return ask(rules=in_three_places(place, **changes)).valid_until

    usual = NOW + LONGEST_RULES_AGE_SECONDS + 1
    assert until() == usual
    assert until(rules=(a_rule(ends_at=NOW + 100),)) == NOW + 100
    assert until(ends_at=NOW + 100) == NOW + 100
    banned = a_pack(place, version=2, begins_at=NOW + 100, rules=())
    assert ask(rules=in_three_places(place, banned)).valid_until == NOW + 100
    assert reason_of(ask(rules=in_three_places(place, banned), now=NOW + 100)) is Reason.PURPOSE_NOT_ALLOWED
    for refused, reason in (
        (in_three_places(place, missing=True), Reason.NO_POLICY),
        (in_three_places(place, ends_at=NOW), Reason.NO_POLICY),
        (in_three_places(place, rules=(a_rule(purpose=OTHER_PURPOSE),)), Reason.PURPOSE_NOT_ALLOWED),
        (in_three_places(place, a_moratorium(jurisdictions=(place,))), Reason.MORATORIUM),
    ):
        answer = ask(rules=refused)
        assert reason_of(answer) is reason
        assert reason is Reason.MORATORIUM or answer.detail.endswith(f"in {place}") or f"of {place} " in answer.detail
    for lacks in ({"missing": True}, {"ends_at": NOW}):  # what has ended already is no end of the answer
        allowed_there = in_three_places(place, an_exception(jurisdiction=place), **lacks)
        assert ask(rules=allowed_there).valid_until == usual
    stricter = in_three_places(place, rules=(a_rule(category=Category.SIGN_IN, tier=Tier.LIMITED),))
    watched = in_three_places(place, rules=(a_rule(pad=PadLevel.ON_DEVICE),))
    for rules, answered in (
        (stricter, Allowed(Category.SIGN_IN, Tier.LIMITED, PadLevel.NONE, usual)),
        (watched, Allowed(Category.PHYSICAL_ACCESS, Tier.MINIMAL, PadLevel.ON_DEVICE, usual)),
    ):
        assert ask(rules=rules, pad=PadLevel.SUPERVISED) == answered
    for other in set(PLACES) - {place}:
        allowed_elsewhere = in_three_places(place, an_exception(jurisdiction=other), missing=True)
        assert reason_of(ask(rules=allowed_elsewhere)) is Reason.NO_POLICY
    assert ask(rules=in_three_places(place), consent=a_consent(jurisdiction=place)).valid_until == usual


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("category", Category)
def test_a_moratorium_on_a_category_stops_what_any_of_several_places_puts_into_it(place, category):
    rule = a_rule(category=category, tier=category.lowest_tier)
    for stopped in Category:
        rules = in_three_places(place, a_moratorium(categories=(stopped.value,)), rules=(rule,))
        answer = ask(rules=rules, stated_fmr=1e-5)
        is_stopped = stopped in {category, Category.PHYSICAL_ACCESS}
        assert (reason_of(answer) is Reason.MORATORIUM) if is_stopped else (answer.tier is category.lowest_tier)
    strict = ask(rules=in_three_places(place, rules=(rule,)), stated_fmr=TIERS[category.lowest_tier].largest_fmr * 1.01)
    assert reason_of(strict) is Reason.FMR_TOO_LARGE


def test_d7_crossing_the_date_flips_allow_to_deny_to_the_second():
    ban = a_pack("DE", version=2, begins_at=NOW + 3600, rules=())
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE"), ban)
    before = ask(rules=rules, now=NOW + 3599)
    assert isinstance(before, Allowed)
    assert before.valid_until == NOW + 3600
    assert reason_of(ask(rules=rules, now=NOW + 3600)) is Reason.PURPOSE_NOT_ALLOWED


def test_d7_a_rule_ends_to_the_second():
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", a_rule(begins_at=NOW + 10, ends_at=NOW + 20)))
    allowed = [isinstance(ask(rules=rules, now=NOW + second), Allowed) for second in (9, 10, 19, 20)]
    assert allowed == [False, True, True, False]


def test_d7_a_local_ban_counts_although_the_wider_law_allows():
    places = ("US", "US-CA")
    rules = a_rulebook(a_deployment(jurisdictions=places), a_pack("US"), a_pack("US-CA", rules=()))
    refused = ask(rules=rules, consent=a_consent(jurisdiction="US"))
    assert reason_of(refused) is Reason.PURPOSE_NOT_ALLOWED
    assert "US-CA" in refused.detail


def test_d7_when_the_newest_pack_runs_out_the_one_before_does_not_come_back():
    newest = a_pack("DE", version=2, ends_at=NOW + 10)
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE"), newest)
    assert isinstance(ask(rules=rules, now=NOW + 9), Allowed)
    assert reason_of(ask(rules=rules, now=NOW + 10)) is Reason.NO_POLICY


@settings(max_examples=150)
@given(
    pack=periods,
    rule=periods,
    second=st.none() | periods,
    exception=st.none() | periods,
    stop=st.none() | times,
    deployment=periods,
    now=times,
    receipt_ends=st.integers(1, 20 * 3600),
    share=st.floats(0, 1),
)
def test_an_allowed_use_stays_allowed_until_the_second_that_the_answer_names(
    pack, rule, second, exception, stop, deployment, now, receipt_ends, share
):
    entries = [
        a_deployment(begins_at=deployment[0], ends_at=deployment[1]),
        a_pack("EU"),
        a_pack("DE", a_rule(begins_at=rule[0], ends_at=rule[1]), begins_at=pack[0], ends_at=pack[1]),
    ]
    if second:
        entries.append(a_pack("DE", version=2, begins_at=second[0], ends_at=second[1], rules=()))
    if exception:
        entries.append(an_exception(rule=a_rule(begins_at=exception[0], ends_at=exception[1])))
    if stop is not None:
        entries.append(a_moratorium(begins_at=stop))
    consent = a_consent(issued_at=now, expires_at=now + receipt_ends)
    rules = a_rulebook(*entries, read_at=now)
    answer = ask(rules=rules, consent=consent, now=now)
    if isinstance(answer, Allowed):
        assert answer.valid_until > now
        later = now + int(share * (answer.valid_until - 1 - now))
        assert isinstance(ask(rules=rules, consent=consent, now=later), Allowed)


@pytest.mark.parametrize(
    ("rules", "consent"),
    [
        (a_rulebook(a_deployment(ends_at=NOW + 60), a_pack("DE"), a_pack("EU")), a_consent()),
        (a_rulebook(a_deployment(), a_pack("DE"), a_pack("EU", ends_at=NOW + 60)), a_consent()),
        (a_rulebook(a_deployment(), a_pack("DE"), a_pack("EU", a_rule(ends_at=NOW + 60))), a_consent()),
        (a_rulebook(), a_consent(expires_at=NOW + 60)),
        (a_rulebook(read_at=NOW + 59 - LONGEST_RULES_AGE_SECONDS), a_consent()),
    ],
    ids=["deployment", "pack", "rule", "receipt", "age of the rules"],
)
def test_the_first_thing_that_ends_is_the_end_of_an_answer(rules, consent):
    assert ask(rules=rules, consent=consent).valid_until == NOW + 60
    assert isinstance(ask(rules=rules, consent=consent, now=NOW + 59), Allowed)
    assert isinstance(ask(rules=rules, consent=consent, now=NOW + 60), Refused)


# ---------------------------------------------------------------- S5: exceptions


def test_s5_an_exception_allows_one_use_and_ends_to_the_second():
    exception = an_exception(rule=a_rule(begins_at=NOW, ends_at=NOW + 60))
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", rules=()), exception)
    allowed = [isinstance(ask(rules=rules, now=NOW + second), Allowed) for second in (-1, 0, 59, 60)]
    assert allowed == [False, True, True, False]
    assert ask(rules=rules, now=NOW).valid_until == NOW + 60


@pytest.mark.parametrize(
    "change",
    [{"audience": "elsewhere.org"}, {"jurisdiction": "FR"}, {"rule": a_rule(purpose="payment", ends_at=NOW + DAY)}],
    ids=str,
)
def test_s5_an_exception_for_another_use_allows_nothing(change):
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", rules=()), an_exception(**change))
    assert reason_of(ask(rules=rules)) is Reason.PURPOSE_NOT_ALLOWED


def test_s5_an_exception_lifts_no_moratorium_no_tier_and_no_receipt():
    entries = (a_deployment(), a_pack("EU"), a_pack("DE", rules=()), an_exception())
    assert reason_of(ask(rules=a_rulebook(*entries, a_moratorium()))) is Reason.MORATORIUM
    assert reason_of(ask(rules=a_rulebook(*entries), stated_fmr=0.5)) is Reason.FMR_TOO_LARGE
    assert reason_of(ask(rules=a_rulebook(*entries), consent=None)) is Reason.RECEIPT_MISSING


def _with_signature(index, change):
    def edit(value):
        key, signature = sorted(value["signatures"].items())[index]
        del value["signatures"][key]
        value["signatures"].update(change(key, signature))

    return edit


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda v: v.update(signatures={}), ProofError),
        (_with_signature(0, lambda *_: {}), ProofError),
        (_with_signature(0, lambda key, signature: {key.upper(): signature}), MalformedMessageError),
        (_with_signature(0, lambda key, _: {key: "00" * 64}), ProofError),
        (_with_signature(0, lambda key, signature: {key: signature[:-2]}), MalformedMessageError),
        (_with_signature(0, lambda _, signature: {"11" * 32: signature}), ProofError),
        (lambda v: v["rule"].update(reason="it was decided in another way"), ProofError),
        (lambda v: v["rule"].update(reason=""), MalformedMessageError),
        (lambda v: v["rule"].pop("reason"), MalformedMessageError),
        (lambda v: v["rule"].update(audience="*"), MalformedMessageError),
        (lambda v: v["rule"].update(audience=""), MalformedMessageError),
        (lambda v: v["rule"].update(jurisdiction="*"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].pop("ends_at"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].update(ends_at="9999-12-31T23:59:59Z"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].update(ends_at="2029-01-01T00:00:00Z"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].update(purpose="face-search"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].update(purpose="watchlist"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].update(category="search"), MalformedMessageError),
        (lambda v: v["rule"]["rule"].update(category="payment"), MalformedMessageError),  # its tier would be too low
        (lambda v: v["rule"]["rule"].update(tier=0), MalformedMessageError),
        (lambda v: v["rule"].update(search=1), MalformedMessageError),
    ],
    ids=[
        "no-signature", "one-signature", "one-key-twice", "wrong-signature", "short-signature", "foreign-signature",
        "reason-altered", "reason-empty", "reason-missing", "every-audience", "no-audience", "everywhere", "no-expiry",
        "never-expires", "expires-before", "search", "watchlist", "search-as-category", "tier-too-low", "no-tier",
        "field-more",
    ],
)  # fmt: skip
def test_s5_each_malformed_exception_is_refused(edit, error):
    value = json.loads(by(2, an_exception()).to_bytes())
    edit(value)
    with pytest.raises(
        error,
        match=r"a rule of this version|canonical form|not that of the key|needs 2 different|no rule signer's",
    ):
        a_rulebook().admit(SignedRule.from_bytes(canonical_bytes(value)))


def test_s5_an_exception_needs_two_signatures_also_where_one_makes_a_policy():
    one_is_enough = replace(a_rulebook(), signers=replace(RULE_SIGNERS, threshold=1))
    one_is_enough.admit(by(1, a_pack("FR")))
    with pytest.raises(ProofError, match="needs 2 different signatures"):
        one_is_enough.admit(by(1, an_exception()))
    one_is_enough.admit(by(2, an_exception()))
    alone = Rulebook(RuleSigners(frozenset({SIGNERS[0].public_key().public_bytes_raw()}), 1), NOW)
    with pytest.raises(ProofError, match="exception fair-2030 is signed with a key that"):
        alone.admit(by(2, an_exception()))


@pytest.mark.parametrize("order", [(60, 90), (90, 60)], ids=["the longer one last", "first"])
def test_s5_of_two_exceptions_the_one_that_lasts_longer_counts(order):
    both = [an_exception(identifier=f"fair-{end}", rule=a_rule(begins_at=NOW, ends_at=NOW + end)) for end in order]
    rules = a_rulebook(a_deployment(), a_pack("EU"), a_pack("DE", rules=()), *both)
    assert ask(rules=rules, now=NOW).valid_until == NOW + 90


def test_s5_an_exception_is_short():
    begins = NOW
    an_exception(rule=a_rule(begins_at=begins, ends_at=begins + LONGEST_EXCEPTION_SECONDS))
    with pytest.raises(UsageError, match="an exception lasts at most 90 days"):
        an_exception(rule=a_rule(begins_at=begins, ends_at=begins + LONGEST_EXCEPTION_SECONDS + 1))


# ---------------------------------------------------------------- S6: moratoria


def test_s6_a_moratorium_stops_from_its_second_until_another_entry_lifts_it():
    entries = (a_deployment(), a_pack("DE"), a_pack("EU"))
    stopped = a_rulebook(*entries, a_moratorium(begins_at=NOW + 10))
    assert isinstance(ask(rules=stopped, now=NOW + 9), Allowed)
    assert ask(rules=stopped, now=NOW + 9).valid_until == NOW + 10
    assert reason_of(ask(rules=stopped, now=NOW + 10)) is Reason.MORATORIUM
    assert reason_of(ask(rules=stopped.read_again(NOW + 80 * DAY), now=NOW + 80 * DAY)) is Reason.MORATORIUM
    lifted = stopped.admit(by(2, a_lifting(lifted_at=NOW + 60)))
    assert reason_of(ask(rules=lifted, now=NOW + 59)) is Reason.MORATORIUM
    assert isinstance(ask(rules=lifted, now=NOW + 60), Allowed)


@pytest.mark.parametrize(
    ("scope", "stops"),
    [
        ({}, True),
        ({"jurisdictions": ("DE",)}, True),
        ({"jurisdictions": ("EU", "US")}, True),
        ({"jurisdictions": ("FR",)}, False),
        ({"audiences": (AUDIENCE,)}, True),
        ({"audiences": ("elsewhere.org",)}, False),
        ({"categories": ("physical-access",)}, True),
        ({"categories": ("payment", "sign-in")}, False),
        ({"jurisdictions": ("DE",), "categories": ("payment",)}, False),
        ({"jurisdictions": ("DE",), "audiences": (AUDIENCE,), "categories": ("physical-access",)}, True),
    ],
    ids=str,
)
def test_s6_a_moratorium_stops_what_is_in_its_scope(scope, stops):
    answer = ask(rules=a_rulebook(a_deployment(), a_pack("DE"), a_pack("EU"), a_moratorium(**scope)))
    assert isinstance(answer, Refused if stops else Allowed)


def test_s6_stopping_needs_one_signature_and_lifting_two():
    stopped = a_rulebook().admit(by(1, a_moratorium()))
    assert reason_of(ask(rules=stopped)) is Reason.MORATORIUM
    with pytest.raises(ProofError, match="lifting pause-2030 needs 2 different"):
        stopped.admit(by(1, a_lifting()))
    assert isinstance(ask(rules=stopped.admit(by(2, a_lifting()))), Allowed)


def test_s6_a_lifting_of_nothing_is_refused():
    with pytest.raises(RefusedError, match="lifting pause-2030 does not follow on a"):
        a_rulebook().admit(by(2, a_lifting()))
    with pytest.raises(RefusedError, match="lifting pause-2030 does not follow on a"):
        a_rulebook().admit(by(1, a_moratorium())).admit(by(2, a_lifting(lifted_at=NOW - DAY)))


def test_s6_device_and_server_decide_alike_from_the_same_entries():
    """Both call `decide`; the device knows no counters, and reads the log by itself."""
    entries = [by(2, rule).to_bytes() for rule in (a_deployment(), a_pack("DE"), a_pack("EU"), a_moratorium())]
    server, device = (Rulebook.read(RULE_SIGNERS, entries, read_at=NOW) for _ in range(2))
    assert ask(rules=server, attempts=Attempts(wait_until=NOW - 1)) == ask(rules=device)


def test_s6_rules_that_were_not_read_for_a_day_allow_nothing():
    """Otherwise an operator could hide a moratorium by showing the device an old log."""
    old = a_rulebook(read_at=NOW - LONGEST_RULES_AGE_SECONDS)
    assert isinstance(ask(rules=old), Allowed)
    assert reason_of(ask(rules=old, now=NOW + 1)) is Reason.RULES_STALE
    assert isinstance(ask(rules=old.read_again(NOW), now=NOW + 1), Allowed)


# ---------------------------------------------------------------- the rulebook


ISSUER = Issuer("https://verify.example.org", SIGNERS[0].public_key().public_bytes_raw())
RULES = [
    a_pack(),
    a_deployment(),
    a_deployment(identifier="munich-office", issuer=ISSUER),
    an_exception(),
    a_moratorium(),
    a_lifting(),
    a_kiosk(),
    a_pack("EU", a_rule(pad=PadLevel.SUPERVISED), a_rule(purpose="payment-x", pad=PadLevel.ON_DEVICE)),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_signed_rule_that_is_read_is_the_one_that_was_written(rule):
    assert SignedRule.from_bytes(by(3, rule).to_bytes()) == by(3, rule)


@given(st.sampled_from(RULES), st.data())
def test_no_bit_of_a_signed_rule_can_be_flipped(rule, data):
    good = by(2, rule).to_bytes()
    bit = data.draw(st.integers(0, len(good) * 8 - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    book = a_rulebook(a_moratorium())
    with pytest.raises(
        (MalformedMessageError, ProofError),
        match=r"not a rule of this version|not that of the key over this statement|no rule signer's|canonical form",
    ):
        book.admit(SignedRule.from_bytes(bytes(flipped)))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_rule_or_a_malformed_message(data):
    with pytest.raises(MalformedMessageError, match="the bytes are not a rule of this version"):
        SignedRule.from_bytes(data)


def test_the_signature_of_a_receipt_signs_no_rule():
    rule = a_moratorium()
    signature = SIGNERS[0].sign(b"intaglio-consent-receipt/1\0" + canonical_bytes(rule.to_json()))
    with pytest.raises(ProofError, match="the signature is not that of the key over"):
        a_rulebook().admit(SignedRule(rule, ((SIGNERS[0].public_key().public_bytes_raw(), signature),)))


def test_a_rule_is_admitted_once_and_never_edited():
    book = a_rulebook(a_pack("DE"), a_pack("EU"), a_deployment())
    assert book.admit(by(3, a_pack("DE"))) is book
    with pytest.raises(RefusedError, match="never edited"):
        book.admit(by(2, a_pack("DE", rules=())))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("damage", ["a flipped bit", "another rule's", "another signer's", "nothing"])
def test_every_signature_of_a_rule_is_looked_at_also_of_those_that_are_not_needed(which, damage):
    """Two of three are needed. Whichever is wrong, the rule is none: in memory, and as it comes from a file."""
    good = by(3, an_exception())
    pairs = list(good.signatures)
    key, signature = pairs[which]
    pairs[which] = (
        key,
        {
            "a flipped bit": bytes([signature[0] ^ 1]) + signature[1:],
            "another rule's": dict(by(3, a_moratorium()).signatures)[key],
            "another signer's": pairs[which - 1][1],
            "nothing": bytes(64),
        }[damage],
    )
    damaged = SignedRule(good.rule, tuple(pairs))
    for signed in (damaged, SignedRule.from_bytes(damaged.to_bytes())):
        with pytest.raises(ProofError, match="not that of the key over this statement"):
            a_rulebook().admit(signed)
    assert a_rulebook().admit(SignedRule.from_bytes(good.to_bytes())).rules


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_signer_of_a_rule_is_a_rule_signer(which):
    """Also where the others are enough."""
    keys = [*SIGNERS[:which], STRANGER, *SIGNERS[which:2]]
    signed = SignedRule(an_exception())
    for key in keys:
        signed = signed.signed_by(key)
    assert len(signed.signatures) == 3
    with pytest.raises(ProofError, match="no rule signer's"):
        a_rulebook().admit(signed)
    narrower = RuleSigners(frozenset(public(key) for key in SIGNERS if key is not SIGNERS[which]), threshold=2)
    with pytest.raises(ProofError, match="no rule signer's"):
        Rulebook(narrower, NOW).admit(by(3, an_exception()))


def test_signatures_that_are_out_of_order_twice_or_of_a_wrong_length_make_no_rule():
    first, second, third = by(3, an_exception()).signatures
    for wrong in ((second, first), (first, third, second), (first, second, second), (first, first)):
        with pytest.raises(UsageError, match="in order of their keys, each key once"):
            SignedRule(an_exception(), wrong)
    for short in ((third[0], third[1][:-1]), (third[0][:-1], third[1])):
        with pytest.raises(UsageError, match=r"a signer's key has 32 bytes|a signature has 64 bytes"):
            SignedRule(an_exception(), tuple(sorted((first, second, short))))


def test_the_list_of_rule_signers_comes_back_whole_and_is_of_keys():
    assert RuleSigners.from_bytes(RULE_SIGNERS.to_bytes()) == RULE_SIGNERS
    assert len(RULE_SIGNERS.public_keys) == 3
    for wrong in range(3):
        keys = [public(key)[: 31 if number == wrong else 32] for number, key in enumerate(SIGNERS)]
        with pytest.raises(UsageError, match="a signer's key has 32 bytes"):
            RuleSigners(frozenset(keys), 2)


def test_signing_twice_with_one_key_is_one_signature():
    assert len(by(1, a_pack()).signed_by(SIGNERS[0]).signatures) == 1


def test_rule_signers_need_a_threshold_that_they_can_reach():
    for threshold in (0, 4):
        with pytest.raises(UsageError, match="the threshold is between one and the number"):
            replace(RULE_SIGNERS, threshold=threshold)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: a_pack("Germany"), "jurisdictions are ISO 3166 codes such as DE"),
        (lambda: a_pack(version=0), "the version of a pack is 1, 2, 3 ..."),
        (lambda: a_pack("DE", a_rule(), a_rule()), "the purposes of a pack: a tuple in order,"),
        (lambda: a_pack("DE", a_rule(purpose="payment-x"), a_rule()), "the purposes of a pack: a tuple in order,"),
        (lambda: a_pack(ends_at=NOW - DAY), "a pack must end after it begins"),
        (lambda: a_moratorium(categories=("search",)), "a moratorium names categories that do not"),
        (lambda: a_moratorium(reason="no"), "the reason of a moratorium needs 20 to 500"),
        (lambda: a_deployment(purposes=("face-search",)), "the purpose 'face-search' is never allowed:"),
        (lambda: a_deployment(release_digests=(b"short",)), "a release digest has 32 bytes"),
        (lambda: a_deployment(contact="nowhere"), "the operator's contact is an address that"),
        (lambda: replace(ISSUER, address="nowhere"), "the issuer is an address that begins with"),
        (lambda: replace(ISSUER, public_key=b"short"), "the issuer's public key has 32 bytes"),
        (lambda: a_rule(begins_at=0), "the beginning of a rule is a whole number"),
        (lambda: a_rule(purpose="Door Access"), "a purpose is 1 to 64 of a-z 0-9 . _ / -"),
        (lambda: a_rule(purpose=""), "a purpose is 1 to 64 of a-z 0-9 . _ / -"),
        (lambda: a_rule(ends_at=1.5), "the end of a rule is a whole number of"),
        (lambda: an_exception(identifier="A B"), "an exception's identifier is 1 to 64 of a-z"),
        (lambda: an_exception(audience="A B"), "an exception's audience is 1 to 64 of a-z"),
        (lambda: an_exception(jurisdiction="Germany"), "jurisdictions are ISO 3166 codes such as DE"),
        (lambda: an_exception(reason="x" * 19), "the reason of an exception needs 20 to 500"),
        (lambda: a_moratorium(identifier="A B"), "a moratorium's identifier is 1 to 64 of a-z"),
        (lambda: a_moratorium(begins_at=0.5), "the beginning of a moratorium is a whole number"),
        (lambda: a_moratorium(jurisdictions=("EU", "DE")), "jurisdictions are ISO 3166 codes such as DE"),
        (lambda: a_moratorium(audiences=("b.example", "a.example")), "audiences: a tuple in order,"),
        (lambda: a_moratorium(categories=("sign-in", "payment")), "categories: a tuple in order,"),
        (lambda: a_moratorium(categories=("payment", "searching")), "a moratorium names categories that do not"),
        (lambda: a_moratorium(reason="x" * 501), "the reason of a moratorium needs 20 to 500"),
        (lambda: a_lifting(moratorium="A B"), "a moratorium's identifier is 1 to 64 of a-z"),
        (lambda: a_lifting(lifted_at=0.5), "the end of a moratorium is a whole number"),
        (lambda: a_lifting(reason="x" * 19), "the reason of a lifting needs 20 to 500"),
        (lambda: a_pack(version=True), "the version of a pack is 1, 2, 3 ..."),
        (lambda: a_rule(category=Category.PAYMENT), "is at least of tier"),
        (lambda: a_rule(ends_at=NOW - DAY), "a rule must end after it begins"),
        (lambda: a_deployment(identifier="A B"), "a deployment's identifier is 1 to 64 of a-z"),
        (lambda: a_deployment(operator="x" * 201), "the operator's name needs 1 to 200"),
        (lambda: a_deployment(audience="A B"), "a deployment's audience is 1 to 64 of a-z"),
        (lambda: a_deployment(purposes=("b-purpose", "a-purpose")), "the purposes of a deployment: a tuple in order,"),
        (lambda: a_deployment(release_digests=(bytes(32),) * 2), "release digests stand in order, each once"),
        (lambda: a_deployment(release_digests=(b"b" * 32, b"a" * 32)), "release digests stand in order, each once"),
        (lambda: a_deployment(ends_at=NOW - DAY), "a deployment must end after it begins"),
        (lambda: a_kiosk(identifier="A B"), "a kiosk's identifier is 1 to 64 of a-z 0-9"),
        (lambda: a_kiosk(certificate=b"short"), "the digest of a kiosk's certificate has 32"),
        (lambda: a_kiosk(place=""), "the place of a kiosk needs 1 to 500"),
        (lambda: a_kiosk(deployment="Berlin"), "a kiosk's deployment is 1 to 64 of a-z 0-9"),
        (lambda: a_kiosk(ends_at=NOW - DAY), "a kiosk must end after it begins"),
        (lambda: a_kiosk(ends_at=NOW + 89 * DAY + 1), "a kiosk is believed for at most 90 days"),
    ],
)
def test_a_rule_that_makes_no_sense_cannot_be_built(build, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        build()


# ---------------------------------------------------------------- attempts and errors


def test_the_counters_of_the_server_give_the_standing_that_policy_asks_for():
    limits = AttemptLimits(free_failures=5, first_delay_seconds=30, lifetime_failures=50)
    standing = {
        failures: limits.standing(AttemptHistory(failures, failures, failures, NOW))
        for failures in (0, 4, 5, 7, 49, 50)
    }
    assert standing == {
        0: Attempts(used_up=False, wait_until=0),
        4: Attempts(used_up=False, wait_until=0),
        5: Attempts(used_up=False, wait_until=NOW + 30),
        7: Attempts(used_up=False, wait_until=NOW + 120),
        49: Attempts(used_up=False, wait_until=NOW + DAY),
        50: Attempts(used_up=True, wait_until=NOW + DAY),
    }


def test_too_soon_says_when_to_come_back():
    refused = ask(attempts=Attempts(wait_until=NOW + 30))
    error = refused.to_error(to_owner=True)
    assert isinstance(error, UnavailableError)
    assert error.retry_after_seconds == 30
    assert isinstance(ask(attempts=Attempts(wait_until=NOW)), Allowed)


def test_a_stranger_cannot_tell_a_missing_receipt_from_any_other_personal_reason():
    personal = [Refused(reason, f"detail of {reason}", 5) for reason in Reason if reason.is_personal]
    errors = {(type(refused.to_error(to_owner=False)), str(refused.to_error(to_owner=False))) for refused in personal}
    assert len(errors) == 1
    assert len({str(refused.to_error(to_owner=True)) for refused in personal}) == len(personal)


def test_public_reasons_come_before_personal_ones():
    """So that what a stranger learns about a person is nothing, whatever is wrong with the rules."""
    for change in ({"deployment": "in-the-cellar"}, {"stated_fmr": 0.5}, {"purpose": "face-search"}):
        assert ask(**change, consent=None) == ask(**change)
        assert not ask(**change).reason.is_personal


def test_of_all_that_is_wrong_the_same_thing_is_said_first_on_device_and_server():
    """The rules, the deployment, the release, what stands before a camera, the receipt, and the counters last."""
    faults = [
        ({"purpose": "face-search"}, Reason.RED_LINE),
        ({"now": NOW + LONGEST_RULES_AGE_SECONDS + 1}, Reason.RULES_STALE),
        ({"deployment": "in-the-cellar"}, Reason.DEPLOYMENT_UNREGISTERED),
        ({"audience": "elsewhere.org"}, Reason.DEPLOYMENT_OTHER_USE),
        ({"ends_at": NOW}, Reason.RELEASE_NOT_IN_FORCE),
        ({"audited": TRIAL}, Reason.RELEASE_ONLY_A_TRIAL),
        ({"stated_fmr": 0.5}, Reason.FMR_TOO_LARGE),
        ({"pad": PadLevel.NONE}, Reason.PAD_TOO_LOW),
        ({"consent": a_consent(key=STRANGER, jurisdiction="FR")}, Reason.RECEIPT_OTHER_DEVICE),
        ({"consent": a_consent(jurisdiction="FR", expires_at=NOW + 366 * DAY)}, Reason.RECEIPT_OTHER_JURISDICTION),
        ({"consent": a_consent(expires_at=NOW + 366 * DAY)}, Reason.RECEIPT_TOO_LONG),
        ({"attempts": Attempts(used_up=True, wait_until=NOW + 9)}, Reason.ATTEMPTS_USED_UP),
        ({"attempts": Attempts(wait_until=NOW + 9)}, Reason.TOO_SOON),
    ]
    both = (a_rule(tier=Tier.LIMITED, pad=PadLevel.ON_DEVICE),)
    fine = {"rules": a_rulebook(a_deployment(), a_pack("DE", *both), a_pack("EU", *both)), "pad": PadLevel.ON_DEVICE}
    assert isinstance(ask(**fine), Allowed)
    wrong = fine
    for change, reason in reversed(faults):
        wrong = wrong | change
        assert reason_of(ask(**wrong)) is reason


def test_a_request_has_names_and_a_reason_is_written_for_people():
    with pytest.raises(UsageError, match=r"the deployment is 1 to 64 of a-z 0-9 \. _ / -"):
        Request("Berlin Office", AUDIENCE, PURPOSE, BINDING)
    assert REASON not in ask(rules=a_rulebook(a_deployment(), a_moratorium())).detail
