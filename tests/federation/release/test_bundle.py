"""Release bundles: what may be served, and every way in which it may not."""

import dataclasses
import hashlib
import io
import json
import math
import struct
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.audit.cells import Counts, Limits
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.groups import GroupBound, HeldFor, ThresholdFor
from federation.onebit.parameters import PARAMETER_SETS
from federation.privacy.gaussian import mu_of_epsilon
from federation.promise import AttackRates, PrivacyStatement
from federation.rates import Basis
from federation.recognition.model import CODE_LENGTHS
from federation.release import bundle as bundles
from federation.release.bundle import (
    PARAMETERS,
    Bundle,
    Papers,
    claims_of,
    require_no_worse,
    require_reproduced,
    require_servable,
)
from federation.release.manifest import (
    LONGEST_VALIDITY_SECONDS,
    Claims,
    ReleaseTrust,
    Role,
    SignedManifest,
    Use,
    WorstCell,
)
from federation.statements import text_of_time
from federation.transparency import PublicEntry, PublicKind
from federation.transparency.entries import entry_from_bytes
from federation.verdict import Verdict
from tests.bundles import (
    AUDITOR,
    MAKER,
    OTHER_AUDITOR,
    OTHER_MAKER,
    STRANGER,
    TRUST,
    TRUST_IN_TRIALS,
    VERDICTS,
    a_bundle,
    a_cell,
    a_report,
    an_attack,
    an_evaluation,
    public,
    signed,
    wolves,
)
from tests.running import a_release

BEGINS = 1_900_000_000
ENDS = BEGINS + 1_000_000
BUNDLE = a_bundle(begins_at=BEGINS, ends_at=ENDS)
SIGNED = signed(BUNDLE)
DATA = SIGNED.to_bytes()


def served(bundle, trust=TRUST, now=BEGINS):
    return require_servable(bundle, trust, now=now)


# ------------------------------------------------------------------------------------------------------------ serving


def test_a_release_that_maker_and_auditor_signed_is_served():
    assert served(Bundle.from_bytes(DATA)).digest == a_release().digest


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        pytest.param(BUNDLE, "not signed by its maker", id="nobody"),
        pytest.param(BUNDLE.signed_by(Role.MAKER, MAKER), "not signed by its auditor", id="maker-only"),
        pytest.param(BUNDLE.signed_by(Role.AUDITOR, AUDITOR), "not signed by its maker", id="auditor-only"),
        pytest.param(SIGNED.signed_by(Role.AUDITOR, STRANGER), "no trusted auditor", id="strange-auditor"),
        pytest.param(SIGNED.signed_by(Role.MAKER, STRANGER), "no trusted maker", id="strange-maker"),
        pytest.param(
            BUNDLE.signed_by(Role.MAKER, AUDITOR).signed_by(Role.AUDITOR, MAKER), "no trusted maker", id="swapped-keys"
        ),
        pytest.param(SIGNED.signed_by(Role.AUDITOR, OTHER_MAKER), "no trusted auditor", id="audited-by-a-maker"),
        pytest.param(SIGNED.signed_by(Role.MAKER, OTHER_AUDITOR), "no trusted maker", id="made-by-an-auditor"),
    ],
)
def test_without_both_signatures_nothing_is_served(bundle, message):
    with pytest.raises(ProofError, match=message):
        served(Bundle.from_bytes(bundle.to_bytes()))


def test_nobody_audits_themselves():
    with pytest.raises(UsageError, match="nobody audits themselves"):
        BUNDLE.signed_by(Role.MAKER, MAKER).signed_by(Role.AUDITOR, MAKER)
    with pytest.raises(UsageError, match="nobody audits themselves"):
        ReleaseTrust(TRUST.makers, TRUST.auditors | TRUST.makers)
    forged = json.loads(SIGNED.signed.to_bytes())
    forged["signatures"]["auditor"] = forged["signatures"]["maker"]
    with pytest.raises(MalformedMessageError, match="the bytes are not a release manifest of this"):
        SignedManifest.from_bytes(json.dumps(forged, sort_keys=True, separators=(",", ":")).encode())


def test_the_signature_of_one_role_is_none_of_the_other():
    makers = SIGNED.signed.signatures[Role.MAKER]
    moved = replace(
        SIGNED.signed, signatures={Role.AUDITOR: makers, Role.MAKER: SIGNED.signed.signatures[Role.AUDITOR]}
    )
    swapped = ReleaseTrust(TRUST.auditors, TRUST.makers)
    with pytest.raises(ProofError, match="signature is not that of the key"):
        moved.require_trusted(swapped)


def test_signatures_of_another_bundle_do_not_count():
    other = replace(SIGNED.signed, manifest=replace(BUNDLE.manifest, ends_at=ENDS + 1))
    with pytest.raises(ProofError, match="signature is not that of the key"):
        other.require_trusted(TRUST)


@given(position=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused(position, bit):
    damaged = bytearray(DATA)
    damaged[position] ^= 1 << bit
    with pytest.raises(
        (MalformedMessageError, ProofError), match=r"not a release bundle of this version|not in its one form"
    ):
        served(Bundle.from_bytes(bytes(damaged)))


@pytest.mark.parametrize("target", ["release.json", "audit-report.json", "data-statement.md"])
def test_another_file_under_the_same_signatures_is_refused(target):
    release = replace(a_release(), fmr=2e-3, reason="another")
    report = a_report(release, limits=Limits(1e-3, 0.2))
    other = signed(a_bundle(release, report=report, data_statement="other", begins_at=BEGINS, ends_at=ENDS))
    with zipfile.ZipFile(io.BytesIO(DATA)) as mine, zipfile.ZipFile(io.BytesIO(other.to_bytes())) as theirs:
        files = {name: (theirs if name == target else mine).read(name) for name in mine.namelist()}
    with pytest.raises(MalformedMessageError, match="another one than the manifest names"):
        Bundle.from_bytes(packed(files))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (BEGINS - 1, f"^the release is not valid before {text_of_time(BEGINS)}$"),
        (ENDS, f"^the release ran out at {text_of_time(ENDS)}; it must be audited again\\. Its maker has"),
        (ENDS * 2, f"^the release ran out at {text_of_time(ENDS)}; it must be audited again\\. Its maker has"),
    ],
)
def test_a_release_is_served_in_its_time_only(now, message):
    served(SIGNED, now=ENDS - 1)
    with pytest.raises(RefusedError, match=message):
        served(SIGNED, now=now)


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("use", list(Use))
@pytest.mark.parametrize("trust", [TRUST, TRUST_IN_TRIALS], ids=["no-trials", "trials"])
def test_what_an_audit_did_not_pass_is_served_as_a_trial_at_most(verdict, use, trust):
    bundle = signed(a_bundle(report=a_report(cells=VERDICTS[verdict]), use=use, begins_at=BEGINS))
    allowed = (verdict is Verdict.PASS and use is Use.GENERAL) or (
        verdict is not Verdict.FAIL and use is Use.TRIAL and trust.accepts_trials
    )
    if allowed:
        assert served(bundle, trust).threshold == 300
    else:
        with pytest.raises(RefusedError, match=r"audit of the release|marked as a trial"):
            served(bundle, trust)


WOLVES = {
    "exactly ten times the stated rate": (wolves(20, 0.01), None),
    "nobody without a face": (wolves(0, 0.001), None),
    "the best image is judged by its lower bound": (wolves(best=(1500, 0.01, 0.6)), None),
    "the best image is surely above ten times": (
        wolves(best=(1500, 0.4, 0.6)),
        r"accepted at 0.5 \(0.4 to 0.6\); general",
    ),
    "a bound above ten times the stated rate": (
        wolves(20, 0.010001),
        r"accepted at 0.00667 \(0.00333 to 0.01\); general use",
    ),
    "a rate above ten times the stated rate": (
        wolves(2400, 0.9),
        r"accepted at 0.8 \(0.4 to 0.9\); general use needs at",
    ),
    "not measured": (None, "nobody measured what a stolen wallet is worth"),
}


@pytest.mark.parametrize("case", WOLVES)
def test_for_general_use_the_mean_string_is_accepted_at_ten_times_the_stated_rate_at_most(case):
    """The release states 0.001. On both sides of the factor ten, and for two makers and two auditors."""
    rates, refusal = WOLVES[case]
    bundle = a_bundle(report=a_report(wolf=rates), begins_at=BEGINS)
    for maker, auditor in ((MAKER, AUDITOR), (OTHER_MAKER, OTHER_AUDITOR)):
        by_both = Bundle.from_bytes(bundle.signed_by(Role.MAKER, maker).signed_by(Role.AUDITOR, auditor).to_bytes())
        if refusal is None:
            assert served(by_both).fmr == 1e-3
        else:
            with pytest.raises(RefusedError, match=refusal):
                served(by_both, TRUST_IN_TRIALS)


@pytest.mark.parametrize("case", WOLVES)
def test_a_trial_is_served_unless_a_string_is_known_to_be_accepted_too_often_and_says_so_first(case):
    rates, _ = WOLVES[case]
    bundle = signed(a_bundle(report=a_report(wolf=rates), use=Use.TRIAL, begins_at=BEGINS))
    surely = {
        "a rate above ten times the stated rate": "0.4 to 0.9",
        "the best image is surely above ten times": "0.4 to 0.6",
    }
    if case in surely:
        with pytest.raises(RefusedError, match=rf"\({surely[case]}\); even a trial may have at most 10 times"):
            served(bundle, TRUST_IN_TRIALS)
    else:
        assert served(bundle, TRUST_IN_TRIALS).fmr == 1e-3
    said = bundle.manifest.warning
    assert said.startswith("TRIAL, audit PASS on 50 people at limits of FMR 0.1 % and FNMR 10 %; a stolen wallet")
    assert said.endswith(": not measured" if rates is None else f"{rates.text}")
    assert signed(a_bundle(report=a_report(wolf=rates))).manifest.warning is None


def test_groups_of_which_nothing_is_known_stand_in_the_first_line_even_where_the_audit_passed():
    large, small = GroupBound("f", 49, 0, 2352, 9e-4), GroupBound("x", 13, 0, 156, 0.1)
    held = HeldFor(ThresholdFor.WORST_GROUP, 1e-3, 62, (large, small), (), "ab" * 32)
    known = replace(held, groups=(large,))
    for one in (held, known):
        release = replace(a_release(), held_for=one, basis=Basis.LABELLED, fmr_people=62, fmr_high=9e-4)
        bundle = Bundle.from_bytes(signed(a_bundle(release, begins_at=BEGINS)).to_bytes())
        assert bundle.manifest.claims.held_for == one
        assert bundle.manifest.warning == (one.text if one is held else None)
    trial = signed(a_bundle(replace(a_release(), held_for=replace(held, rule=ThresholdFor.EVERYBODY)), use=Use.TRIAL))
    said = trial.manifest.warning
    assert said.startswith("TRIAL, ")
    assert "; INSUFFICIENT for x (13 people), fewer than 40" in said


def test_a_trial_of_too_few_people_to_tell_is_served_up_to_the_very_bound():
    """A lower bound of exactly ten times the stated rate of 0.001 is still no proof that it is above."""
    for errors, refused in ((60, False), (61, True)):
        bundle = signed(a_bundle(report=a_report(wolf=wolves(errors, 0.9)), use=Use.TRIAL, begins_at=BEGINS))
        if refused:
            with pytest.raises(RefusedError, match="even a trial"):
                served(bundle, TRUST_IN_TRIALS)
        else:
            assert served(bundle, TRUST_IN_TRIALS).fmr == 1e-3


def test_what_counts_is_the_rate_that_is_stated_and_not_the_stricter_one_that_groups_were_audited_at():
    release = replace(a_release(), fmr=2e-3)
    report = a_report(release, limits=Limits(1e-3, 0.2), wolf=wolves(40, 0.015))  # ten times 2e-3, and not 1e-3
    bundle = signed(a_bundle(release, report=report, begins_at=BEGINS, ends_at=ENDS))
    assert served(bundle).fmr == 2e-3
    standing = bundle.manifest.standing
    assert (standing.stated_fmr, standing.begins_at, standing.ends_at) == (2e-3, BEGINS, ENDS)
    assert (standing.audited.fmr_limit, standing.audited.fnmr_limit) == (1e-3, 0.2)


@pytest.mark.parametrize("left", ["makers", "auditors"])
def test_trust_needs_somebody_of_each_role(left):
    with pytest.raises(UsageError, match="at least one maker and one auditor"):
        replace(TRUST, **{left: frozenset()})
    for trust in (TRUST, TRUST_IN_TRIALS):
        assert ReleaseTrust.from_file(trust.to_bytes()) == trust


def test_a_larger_stated_rate_allows_a_larger_rate_of_the_mean_string():
    release = replace(a_release(), fmr=0.01)
    rates = wolves(200, 0.09)
    assert served(signed(a_bundle(release, report=a_report(release, wolf=rates), begins_at=BEGINS))).fmr == 0.01


# ----------------------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize(
    "claimed",
    [
        {"threshold": 301},
        {"recogniser": bytes(32)},
        {"basis": Basis.MEASURED},
        {"fmr_low": 0.0},
        {"fmr_high": 0.9},
    ],
    ids=str,
)
def test_a_manifest_claims_what_the_release_states(claimed):
    manifest = BUNDLE.manifest
    other = replace(BUNDLE.signed, manifest=replace(manifest, claims=replace(manifest.claims, **claimed)))
    with pytest.raises(UsageError, match="claims something else"):
        Bundle(other, a_release(), BUNDLE.papers)


HELD = HeldFor(ThresholdFor.WORST_GROUP, 0.03, 77, (GroupBound("f", 45, 1, 1980, 0.004),), (), "ef" * 32)


def test_claims_say_each_number_of_the_release_and_of_what_was_measured_under_its_own_name():
    """All are different, so none stands in the place of another."""
    events = (("moments", 5.0), ("threshold", 6.0))
    promise = PrivacyStatement.of_events("people of one house", "add_or_remove_one", 2.5, 3e-6, events, 41, 3)
    facts = {
        "threshold": 123,
        "fmr": 0.03,
        "fmr_low": 0.01,
        "fmr_high": 0.02,
        "fmr_people": 77,
        "basis": Basis.LABELLED,
    }
    release = replace(a_release(), **facts, model_digest="cd" * 32, code_length=2048, privacy=promise, held_for=HELD)
    attack, evaluation = an_attack(0.7, claimed=2.5, delta=3e-6), an_evaluation(release, epsilon=1.5, delta=7e-7)
    said = claims_of(release, attack, evaluation)
    mu = math.hypot(1 / 5, 1 / 6, mu_of_epsilon(1.5, 7e-7))
    assert dataclasses.asdict(said) == facts | {
        "digest": hashlib.sha256(release.to_bytes()).digest(),
        "recogniser": b"\xcd" * 32,
        "parameters": "intaglio-onebit-2048/2",
        "privacy_unit": "people of one house",
        "epsilon": 2.5,
        "delta": 3e-6,
        "epsilon_lower_bound": 0.7,
        "attacks": dataclasses.asdict(AttackRates.of_mu(mu)),
        "held_for": dataclasses.asdict(HELD),
    }
    alone = claims_of(release)
    assert (alone.epsilon_lower_bound, alone.attacks) == (None, promise.attacks)
    assert said.attacks != alone.attacks
    assert Claims.from_json(said.to_json()) == said


def test_an_auditor_signs_the_recogniser_and_what_the_rate_rests_on():
    claims = json.loads(BUNDLE.signed.to_bytes())["manifest"]["claims"]
    release = a_release()
    assert claims["recogniser"] == release.model_digest
    assert (claims["basis"], claims["fmr_low"], claims["fmr_high"]) == (
        release.basis.value,
        repr(release.fmr_low),
        repr(release.fmr_high),
    )


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.4), (0.02, 0.4), (-0.1, 0.4), (0.1, 1.1), (float("nan"), 0.4)])
def test_the_interval_of_a_claimed_rate_lies_between_0_and_1_and_begins_below_the_rate(low, high):
    with pytest.raises(UsageError, match="interval of the false match rate"):
        replace(BUNDLE.manifest.claims, fmr_low=low, fmr_high=high)


def test_a_manifest_is_about_the_release_that_it_names():
    with pytest.raises(UsageError, match="another one than the manifest names"):
        Bundle(BUNDLE.signed, a_release(301), BUNDLE.papers)


def test_a_manifest_says_what_the_report_found():
    manifest = BUNDLE.manifest
    better = replace(manifest.audit, worst_cell=replace(manifest.audit.worst_cell, fmr=0.0002))
    with pytest.raises(UsageError, match="something else about the audit"):
        Bundle(replace(BUNDLE.signed, manifest=replace(manifest, audit=better)), a_release(), BUNDLE.papers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "another release"}, "another release"),
        ({"subject": f"release {a_release(301).digest}"}, "another release"),
        ({"threshold": 301.0}, "another threshold"),
        ({"distance": False}, "another threshold"),
        ({"limits": Limits(2e-3, 0.1)}, "larger false match rate"),
    ],
)
def test_an_audit_is_of_exactly_what_is_served(changes, message):
    with pytest.raises(UsageError, match=message):
        a_bundle(report=a_report(**changes))


def test_a_manifest_says_what_the_report_found_about_strings_without_a_face():
    manifest = BUNDLE.manifest
    for claimed in (wolves(3, 0.002), None):
        other = replace(manifest, audit=replace(manifest.audit, wolf=claimed))
        with pytest.raises(UsageError, match="something else about the audit"):
            Bundle(replace(BUNDLE.signed, manifest=other), a_release(), BUNDLE.papers)


@pytest.mark.parametrize(
    "damage",
    [
        lambda audit: audit.pop("wolf"),
        lambda audit: audit.update(wolf="none"),
        lambda audit: audit.update(wolf=[]),
        lambda audit: audit["wolf"].pop("mean"),
        lambda audit: audit["wolf"].update(worst=1),
        lambda audit: audit["wolf"].update(people=3),
        lambda audit: audit["wolf"].update(people="600"),
        lambda audit: audit["wolf"]["mean"].update(high="1.5"),
        lambda audit: audit["wolf"]["mean"].update(high="0.0050"),
        lambda audit: audit["wolf"]["mean"].update(errors=2999),
        lambda audit: audit["wolf"]["mean"].update(effective="3000.0"),
        lambda audit: audit["wolf"]["best"].update(low="nan"),
    ],
)
def test_rates_of_strings_that_cannot_be_are_no_manifest(damage):
    value = json.loads(SIGNED.signed.to_bytes())
    damage(value["manifest"]["audit"])
    with pytest.raises(MalformedMessageError, match="release manifest"):
        SignedManifest.from_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def test_a_summary_says_each_number_of_the_report_under_its_own_name():
    """The worst by false matches is not the worst by false non-matches."""
    men, women = a_cell("men", 2, 0.0001, 0.0006), a_cell("women", 4, 0.0002, 0.0009)
    men = replace(men, fnmr=replace(men.fnmr, errors=4))
    report = a_report(cells=(men, women), limits=Limits(0.0009, 0.2))
    said = a_bundle(report=report).manifest.audit
    assert said.worst_cell == WorstCell("women", 0.0004, 0.0002, 0.0009)
    assert (said.people, said.fmr_limit, said.fnmr_limit) == (50, 0.0009, 0.2)
    assert (said.verdict, said.wolf, said.pad) == (report.verdict, report.wolf, None)


def test_an_audit_that_measured_no_cell_knows_nothing():
    empty = a_cell("women", 0, 0.0, 1.0, trials=0)
    audit = a_bundle(report=a_report(cells=(empty,))).manifest.audit
    assert (audit.verdict, audit.worst_cell.high) == (Verdict.INSUFFICIENT, 1.0)


def test_a_measured_epsilon_above_the_claim_disproves_it():
    assert a_bundle(epsilon_audit=an_attack(0.7)).manifest.claims.epsilon_lower_bound == 0.7
    with pytest.raises(UsageError, match="the claim is wrong"):
        a_bundle(epsilon_audit=an_attack(1.01))


def test_a_release_of_public_knowledge_alone_claims_no_epsilon_and_goes_round():
    nobody = PrivacyStatement.nobody("person", "add_or_remove_one")
    release = replace(a_release(), privacy=nobody, basis=Basis.PUBLIC)
    whole = signed(a_bundle(release))
    assert (whole.manifest.claims.epsilon, whole.manifest.claims.delta) == (0.0, 0.0)
    assert Bundle.from_bytes(whole.to_bytes()).release.privacy == nobody


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"delta": 0.0}, {"epsilon": -1.0}, {"delta": 1.0}])
def test_half_a_promise_is_none(change):
    with pytest.raises(UsageError, match="epsilon"):
        replace(claims_of(a_release()), **change)


def test_an_attack_on_another_promise_says_nothing_about_this_one():
    for change in ({"claimed": 8.0}, {"delta": 1e-6}):
        with pytest.raises(UsageError, match="another promise"):
            a_bundle(epsilon_audit=an_attack(0.7, **change))


def test_the_attack_is_a_file_of_the_bundle_and_the_manifest_says_what_it_found():
    whole = signed(a_bundle(epsilon_audit=an_attack(0.7)))
    assert Bundle.from_bytes(whole.to_bytes()).papers.epsilon_audit == an_attack(0.7)
    for other in (an_attack(0.6), None):
        with pytest.raises(UsageError, match="a file of the bundle is another one than the"):
            Bundle(whole.signed, whole.release, replace(whole.papers, epsilon_audit=other))
    with pytest.raises(UsageError, match="a file of the bundle is another one than the"):
        Bundle(signed(a_bundle()).signed, whole.release, whole.papers)


def test_private_error_rates_are_a_file_of_the_bundle_and_of_this_release():
    whole = signed(a_bundle(epsilon_audit=an_attack(0.7), evaluation=an_evaluation()))
    assert Bundle.from_bytes(whole.to_bytes()).papers.evaluation == an_evaluation()
    for change in ({"release": "ab" * 32}, {"threshold": 1}):
        with pytest.raises(UsageError, match="another release"):
            a_bundle(evaluation=an_evaluation(**change))
    with pytest.raises(UsageError, match="a file of the bundle is another one than the"):
        Bundle(whole.signed, whole.release, replace(whole.papers, evaluation=None))


def test_an_audit_lasts_a_year_at_most():
    a_bundle(begins_at=BEGINS, ends_at=BEGINS + LONGEST_VALIDITY_SECONDS)
    with pytest.raises(UsageError, match="audited again within 365 days"):
        a_bundle(begins_at=BEGINS, ends_at=BEGINS + LONGEST_VALIDITY_SECONDS + 1)


@pytest.mark.parametrize(
    "rates",
    [(0.1, 0.2, 0.3), (0.3, 0.1, 0.2), (0.1, -0.1, 0.2), (0.1, 0.0, 1.1), (float("nan"), 0.0, 1.0), (0, 0.0, 1.0)],
)
def test_the_rate_of_a_cell_lies_in_its_interval(rates):
    with pytest.raises(UsageError, match=r"a cell's rate lies inside its interval|rates of a cell are floats"):
        WorstCell("men", *rates)


def test_every_bundle_has_its_papers():
    with pytest.raises(UsageError, match="model card"):
        Papers(a_report(), "data", " \n")


def test_the_parameters_are_those_of_the_match():
    assert {each.slots: each.name for each in PARAMETER_SETS} == PARAMETERS
    for length in CODE_LENGTHS:
        release = replace(a_release(), code_length=length)
        assert claims_of(release).parameters == PARAMETERS[length]


# -------------------------------------------------------------------------------------------------------------- bytes


def test_a_bundle_comes_back_and_equal_bundles_are_equal_bytes():
    again = Bundle.from_bytes(DATA)
    assert again.to_bytes() == DATA == signed(a_bundle(begins_at=BEGINS, ends_at=ENDS)).to_bytes()
    assert again.manifest == SIGNED.manifest
    assert again.papers.model_card == BUNDLE.papers.model_card


def test_no_signature_changes_the_address():
    assert BUNDLE.manifest.digest == SIGNED.manifest.digest != a_bundle().manifest.digest


def test_the_form_of_the_archive_is_known():
    """Version 2.0, no flags, stored, the first moment of 1980; a change of this is a change of the format."""
    assert DATA[:14] == bytes.fromhex("504b0304 1400 0000 0000 0000 2100")
    assert DATA[26:43] == bytes.fromhex("0d00 0000") + b"manifest.json"
    directory = DATA[DATA.index(b"PK\x01\x02") :]
    assert directory[:16] == bytes.fromhex("504b0102 1403 1400 0000 0000 0000 2100")
    assert DATA[-22:-10] == bytes.fromhex("504b0506 0000 0000 0500 0500")


def packed(files, compression=zipfile.ZIP_STORED):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as target:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr, entry.compress_type = 3, 0o100644 << 16, compression
            target.writestr(entry, content)
    return archive.getvalue()


def files_of(data=DATA):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_any_program_for_archives_opens_a_bundle():
    files = files_of()
    assert list(files) == ["manifest.json", "audit-report.json", "data-statement.md", "model-card.md", "release.json"]
    assert files["release.json"] == a_release().to_bytes()
    assert packed(files) == DATA


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(DATA[:-1], id="cut-short"),
        pytest.param(DATA + b"\0", id="longer"),
        pytest.param(b"#!" + DATA, id="something-before-it"),
        pytest.param(packed(files_of(), zipfile.ZIP_DEFLATED), id="compressed"),
        pytest.param(packed(dict(reversed(files_of().items()))), id="another-order"),
        pytest.param(packed(files_of() | {"extra": b""}), id="one-file-more"),
        pytest.param(packed({k: v for k, v in files_of().items() if k != "model-card.md"}), id="one-file-less"),
        pytest.param(packed(files_of() | {"model-card.md": b"\xff"}), id="no-text"),
    ],
)
def test_other_bytes_are_no_bundle(data):
    with pytest.raises(MalformedMessageError, match="release bundle"):
        Bundle.from_bytes(data)


def test_no_file_is_read_of_an_archive_that_names_one_twice_compresses_one_or_says_that_it_is_larger(monkeypatch):
    """One large file that is named many thousand times would be read as often; a compressed one may be of any size."""
    twice = io.BytesIO(DATA)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("release.json", b"again")
    mixed = io.BytesIO()
    with zipfile.ZipFile(mixed, "w") as archive:
        for name, content in files_of().items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if name == "release.json" else zipfile.ZIP_STORED)
    at = DATA.rindex(b"PK\x01\x02") + 20  # the sizes of the last file, where the archive lists it
    lying = DATA[:at] + (b"\xff\xff\xff\x7f" * 2) + DATA[at + 8 :]
    with pytest.raises(MalformedMessageError, match=r"^the bytes are not a release bundle of this version$"):
        Bundle.from_bytes(lying)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("was read"))
    for data in (twice.getvalue(), mixed.getvalue()):
        with pytest.raises(MalformedMessageError, match=r"^the bytes are not a release bundle of this version$"):
            Bundle.from_bytes(data)


def listed(times, *, comment=b"", second_end=False):
    """The archive whose list has its last file many times more, by what its end says or a second one."""
    end = DATA[-22:]
    size, start = struct.unpack("<2L", end[12:20])
    entries = DATA[start : start + size] + DATA[DATA.rindex(b"PK\x01\x02") : start + size] * times
    far = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 5 + times, 5 + times, len(entries), start)
    far += struct.pack("<4sLQL", b"PK\6\7", 0, start + len(entries), 1)
    told = size if second_end else len(entries)
    near = end[:12] + struct.pack("<2LH", told, start, len(comment)) + comment
    return DATA[:start] + entries + (far if second_end else b"") + near


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(listed(3_000), id="a-long-list"),
        pytest.param(listed(3_000, comment=b"\0" * 22), id="behind-a-comment"),
        pytest.param(listed(3_000, second_end=True), id="in-a-second-end"),
    ],
)
def test_no_list_of_many_thousand_files_is_read(data, monkeypatch):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.infolist()) == 3_005, "it is what this test is about"
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("was opened"))
    with pytest.raises(MalformedMessageError, match=r"^the bytes are not a release bundle of this version$"):
        Bundle.from_bytes(data)


def test_an_archive_of_more_than_24_mebibytes_is_not_opened(monkeypatch):
    most = 24 << 20
    monkeypatch.setattr(bundles, "_unpacked", lambda _: {}["opened"])
    with pytest.raises(MalformedMessageError, match=r"^the bytes are not a release bundle of this version$"):
        Bundle.from_bytes(bytes(most))
    with pytest.raises(
        MalformedMessageError, match=f"^a release bundle has at most {most} bytes, this one {most + 1}$"
    ):
        Bundle.from_bytes(bytes(most + 1))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_manifest_or_an_error(data):
    with pytest.raises(MalformedMessageError, match="the bytes are not a release manifest of this"):
        SignedManifest.from_bytes(data)


def test_a_manifest_is_an_entry_of_the_log():
    entry = PublicEntry(PublicKind.RELEASE, BEGINS, SIGNED.signed.to_bytes())
    again = entry_from_bytes(entry.to_bytes())
    SignedManifest.from_bytes(again.content).require_servable(TRUST, now=BEGINS)


# -------------------------------------------------------------------------------------------------- trust and audits


def test_trust_is_a_file_that_people_write():
    assert ReleaseTrust.from_file(TRUST.to_bytes()) == TRUST
    assert ReleaseTrust.from_file(TRUST_IN_TRIALS.to_bytes()).accepts_trials


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"accepts_trials": 1, "auditors": ["AA"], "makers": ["BB"]}',
        '{"accepts_trials": true, "auditors": ["%s"], "makers": []}',
        '{"accepts_trials": true, "auditors": ["%s"], "makers": ["%s"]}',
        '{"accepts_trials": true, "auditors": [], "makers": ["%s"], "more": 1}',
    ],
)
def test_another_file_is_no_trust(text):
    with pytest.raises(UsageError, match="no trust in releases"):
        ReleaseTrust.from_file(text.replace("%s", public(MAKER).hex()).encode())


@pytest.mark.parametrize("data", [b"PK\x03\x04\xec\xff", b"", b"makers = []"], ids=["a bundle", "nothing", "TOML"])
def test_what_is_no_json_is_named_so_and_not_by_what_a_parser_says(data):
    """A bundle in the place of the trust was "'utf-8' codec can't decode byte"."""
    with pytest.raises(UsageError, match=r"^this is no trust in releases: it is no JSON, such as trust\.json beside a"):
        ReleaseTrust.from_file(data)


def test_an_audit_made_again_is_the_same_bytes_or_no_proof():
    bundle = a_bundle(report=a_report(input_sha256="ab" * 32))
    require_reproduced(bundle, a_report(input_sha256="ab" * 32))
    with pytest.raises(ProofError, match="another audit report"):
        require_reproduced(bundle, a_report(input_sha256="ab" * 32, cells=VERDICTS[Verdict.FAIL]))
    with pytest.raises(ProofError, match="another audit report"):  # of the same verdict
        require_reproduced(bundle, a_report(input_sha256="ab" * 32, counts=Counts(20_001)))
    for scores in ("cd" * 32, ""):
        with pytest.raises(ProofError, match="not the scores"):
            require_reproduced(bundle, a_report(input_sha256=scores))


def cells(name, errors, high):
    return (a_cell("men", 2, 0.0001, 0.0006), a_cell(name, errors, 0.0, high))


def test_a_worst_cell_beyond_its_interval_or_a_worse_verdict_is_a_step_back():
    unsure = a_bundle(report=a_report(cells=cells("women", 8, 0.002)))
    as_far_as_known = a_bundle(report=a_report(cells=cells("women", 20, 0.9)))
    for new in (BUNDLE, unsure, as_far_as_known):
        require_no_worse(unsure, new)
    with pytest.raises(RefusedError, match=r"worst cell's fmr is 0\.0021 \(women\)"):
        require_no_worse(unsure, a_bundle(report=a_report(cells=cells("women", 21, 0.9))))
    with pytest.raises(RefusedError, match="verdict was PASS and is INSUFFICIENT"):
        require_no_worse(BUNDLE, unsure)


def test_a_release_that_is_kinder_to_a_wallets_thief_is_a_step_back():
    require_no_worse(a_bundle(report=a_report(wolf=wolves(20, 0.01))), a_bundle(report=a_report(wolf=wolves(30, 0.02))))
    with pytest.raises(RefusedError, match=r"the mean string without a face is accepted at 0\.01033, above"):
        require_no_worse(
            a_bundle(report=a_report(wolf=wolves(20, 0.01))), a_bundle(report=a_report(wolf=wolves(31, 0.02)))
        )
    with pytest.raises(RefusedError, match="were tried before and are not now"):
        require_no_worse(BUNDLE, a_bundle(report=a_report(wolf=None)))


def test_whoever_drops_a_cell_from_the_audit_has_not_improved_it():
    with pytest.raises(RefusedError, match="no longer tested: women"):
        require_no_worse(BUNDLE, a_bundle(report=a_report(cells=cells("others", 1, 0.0005))))
