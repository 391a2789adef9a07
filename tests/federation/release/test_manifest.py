"""The manifest of a release: every field under its own name, wrong alone, and what a server asks in which order."""

import dataclasses
import hashlib
import io
import itertools
import json
import zipfile
from dataclasses import replace

import pytest

from federation.audit.cells import Limits, Rate
from federation.audit.presentation import AttackLevel, PadRates, SpeciesRates
from federation.audit.wolf import WolfRates
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.groups import GroupBound, HeldFor, ThresholdFor
from federation.promise import AttackRates
from federation.rates import Audited, Basis, StatedRate
from federation.release.bundle import Bundle, require_no_worse
from federation.release.manifest import (
    AuditSummary,
    Claims,
    Manifest,
    ReleaseTrust,
    Role,
    SignedManifest,
    Standing,
    Use,
    WorstCell,
)
from federation.verdict import Verdict
from tests.agreeing import public
from tests.bundles import (
    AUDITOR,
    CELLS,
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
    signed,
    wolves,
)

BEGINS, ENDS = 1_900_000_000, 1_900_864_000
HELD = HeldFor(ThresholdFor.EVERYBODY, 0.02, 61, (GroupBound("f", 44, 2, 1892, 0.0075),), (), "ef" * 32)
CLAIMS = Claims(
    digest=b"\x01" * 32,
    recogniser=b"\x02" * 32,
    threshold=321,
    fmr=0.02,
    fmr_low=0.015,
    fmr_high=0.035,
    fmr_people=62,
    basis=Basis.MEASURED,
    parameters="made-up/7",
    privacy_unit="household",
    epsilon=4.0,
    delta=3e-06,
    epsilon_lower_bound=1.5,
    attacks=AttackRates(0.25, 0.75),
    held_for=HELD,
)
AUDIT = AuditSummary(
    verdict=Verdict.INSUFFICIENT,
    worst_cell=WorstCell("f / old", 0.004, 0.003, 0.009),
    wolf=WolfRates(Rate(3, 90, 45.0, 0.01, 0.0625), Rate(9, 91, 44.0, 0.05, 0.18), 45),
    people=63,
    fmr_limit=0.0125,
    fnmr_limit=0.15,
    pad=PadRates(
        (SpeciesRates("mask", AttackLevel.C, 11, Rate(2, 22, 11.0, 0.03, 0.4), Rate(1, 22, 10.0, 0.02, 0.3)),),
        21,
        Rate(4, 42, 21.0, 0.04, 0.28),
    ),
)
FILES = (("a.json", b"\x03" * 32), ("b.json", b"\x04" * 32))
MANIFEST = Manifest(CLAIMS, AUDIT, Use.TRIAL, FILES, BEGINS, ENDS)
WRITTEN = {
    "audit": {
        "limits": {"fmr": "0.0125", "fnmr": "0.15"},
        "pad": {
            "bpcer": {"effective": "21.0", "errors": 4, "high": "0.28", "low": "0.04", "trials": 42},
            "people": 21,
            "species": [
                {
                    "apcer": {"effective": "11.0", "errors": 2, "high": "0.4", "low": "0.03", "trials": 22},
                    "iapmr": {"effective": "10.0", "errors": 1, "high": "0.3", "low": "0.02", "trials": 22},
                    "level": "C",
                    "name": "mask",
                    "people": 11,
                }
            ],
        },
        "people": 63,
        "verdict": "INSUFFICIENT",
        "wolf": {
            "best": {"effective": "44.0", "errors": 9, "high": "0.18", "low": "0.05", "trials": 91},
            "mean": {"effective": "45.0", "errors": 3, "high": "0.0625", "low": "0.01", "trials": 90},
            "people": 45,
        },
        "worst_cell": {"fmr": "0.004", "high": "0.009", "low": "0.003", "name": "f / old"},
    },
    "begins_at": "2030-03-17T17:46:40Z",
    "claims": {
        "attacks": {"detected": "0.25", "false_accusations": "0.001", "right": "0.75"},
        "basis": "measured",
        "delta": "3e-06",
        "digest": "01" * 32,
        "epsilon": "4.0",
        "epsilon_lower_bound": "1.5",
        "fmr": "0.02",
        "fmr_high": "0.035",
        "fmr_low": "0.015",
        "fmr_people": 62,
        "held_for": {
            "alike": [],
            "fmr": "0.02",
            "groups": [{"errors": 2, "fmr_high": "0.0075", "name": "f", "people": 44, "trials": 1892}],
            "people": 61,
            "scores": "ef" * 32,
            "threshold_for": "everybody",
        },
        "parameters": "made-up/7",
        "privacy_unit": "household",
        "recogniser": "02" * 32,
        "threshold": 321,
    },
    "ends_at": "2030-03-27T17:46:40Z",
    "files": {"a.json": "03" * 32, "b.json": "04" * 32},
    "format": "intaglio-release-bundle-5",
    "use": "trial",
}


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_every_field_is_written_under_its_own_name_and_read_from_it():
    assert json.loads(MANIFEST.to_bytes()) == WRITTEN
    unsigned = canonical({"manifest": WRITTEN, "signatures": {}})
    assert SignedManifest.from_bytes(unsigned) == SignedManifest(MANIFEST)
    both = SignedManifest(MANIFEST).signed_by(Role.MAKER, MAKER).signed_by(Role.AUDITOR, AUDITOR)
    said = json.loads(both.to_bytes())
    assert said == {
        "manifest": WRITTEN,
        "signatures": {
            "auditor": {"key": public(AUDITOR).hex(), "signature": AUDITOR.sign(tagged("auditor")).hex()},
            "maker": {"key": public(MAKER).hex(), "signature": MAKER.sign(tagged("maker")).hex()},
        },
    }
    assert SignedManifest.from_bytes(canonical(said)) == both


def tagged(role):
    return f"intaglio-release-{role}/1".encode() + b"\0" + MANIFEST.to_bytes()


def test_what_nobody_measured_asked_or_looked_for_is_written_in_words_and_read_as_nothing():
    claims = replace(CLAIMS, epsilon=0.0, delta=0.0, epsilon_lower_bound=None, attacks=None, held_for=None)
    bare = replace(MANIFEST, claims=claims, audit=replace(AUDIT, wolf=None, pad=None))
    said = json.loads(bare.to_bytes())
    assert (said["claims"]["attacks"], said["claims"]["held_for"]) == ("nobody was asked", "nobody looked")
    assert (said["audit"]["wolf"], said["audit"]["pad"]) == ("not measured", "not measured")
    assert "epsilon_lower_bound" not in said["claims"]
    assert SignedManifest.from_bytes(SignedManifest(bare).to_bytes()).manifest == bare
    assert (claims.promise_text, CLAIMS.promise_text) == ("0: nobody was asked", "4 for a household at delta 3e-06")
    assert claims.attacks_text == "Nobody was asked for anything, so nobody can be found in it."
    assert CLAIMS.attacks_text == AttackRates(0.25, 0.75).text


def test_each_view_of_a_manifest_shows_its_own_numbers():
    audited = Audited(Verdict.INSUFFICIENT, 63, 0.0125, 0.15, is_trial=True)
    assert MANIFEST.audited == audited
    assert replace(MANIFEST, use=Use.GENERAL).audited == replace(audited, is_trial=False)
    assert MANIFEST.standing == Standing(0.02, audited, BEGINS, ENDS)
    assert CLAIMS.rate == StatedRate(0.02, 0.015, 0.035, Basis.MEASURED, 62)
    assert MANIFEST.warning == f"{audited.text}; a stolen wallet without a face is accepted at: {AUDIT.wolf.text}"


# ----------------------------------------------------------------------------------------------- each field wrong alone
FULL = a_bundle(
    epsilon_audit=an_attack(0.7), evaluation=an_evaluation(), use=Use.GENERAL, begins_at=BEGINS, ends_at=ENDS
)
OTHER_CLAIMS = {
    "digest": b"\x09" * 32,
    "recogniser": b"\x09" * 32,
    "threshold": 299,
    "fmr": 1.1e-3,
    "fmr_low": 4e-4,
    "fmr_high": 3e-3,
    "fmr_people": 25,
    "basis": Basis.PUBLIC,
    "parameters": "intaglio-onebit-2048/2",
    "privacy_unit": "image",
    "epsilon": 0.9,
    "delta": 9e-6,
    "epsilon_lower_bound": 0.6,
    "attacks": AttackRates(0.3, 0.8),
    "held_for": replace(HELD, fmr=1e-3),
}
OTHER_AUDIT = {
    "verdict": Verdict.INSUFFICIENT,
    "worst_cell": WorstCell("men", 0.0002, 0.0001, 0.0006),
    "wolf": None,
    "people": 51,
    "fmr_limit": 9e-4,
    "fnmr_limit": 0.2,
    "pad": AUDIT.pad,
}


def test_no_field_is_forgotten_here():
    assert list(OTHER_CLAIMS) == [field.name for field in dataclasses.fields(Claims)]
    assert list(OTHER_AUDIT) == [field.name for field in dataclasses.fields(AuditSummary)]


@pytest.mark.parametrize("name", OTHER_CLAIMS)
def test_a_claim_that_alone_is_another_one_is_no_manifest_of_the_release(name):
    claims = FULL.manifest.claims
    assert getattr(claims, name) != OTHER_CLAIMS[name]
    other = replace(FULL.manifest, claims=replace(claims, **{name: OTHER_CLAIMS[name]}))
    with pytest.raises(UsageError, match=r"^the manifest claims something else than the release states$"):
        Bundle(SignedManifest(other), FULL.release, FULL.papers)


@pytest.mark.parametrize("name", OTHER_AUDIT)
def test_a_word_of_the_audit_that_alone_is_another_one_is_no_manifest_of_the_report(name):
    audit = FULL.manifest.audit
    assert getattr(audit, name) != OTHER_AUDIT[name]
    other = replace(FULL.manifest, audit=replace(audit, **{name: OTHER_AUDIT[name]}))
    with pytest.raises(UsageError, match=r"^the manifest says something else about the audit than its report$"):
        Bundle(SignedManifest(other), FULL.release, FULL.papers)


@pytest.mark.parametrize("place", range(6))
def test_the_digest_of_each_file_counts(place):
    files = list(FULL.manifest.files)
    assert len(files) == 6
    files[place] = files[place][0], b"\x09" * 32
    with pytest.raises(UsageError, match=r"^a file of the bundle is another one than the manifest names$"):
        Bundle(SignedManifest(replace(FULL.manifest, files=tuple(files))), FULL.release, FULL.papers)


def test_each_paper_comes_back_from_its_own_file():
    """All six differ; model card and data statement are both text, and neither stands in the other's place."""
    again = Bundle.from_bytes(signed(FULL).to_bytes())
    assert (again.papers.data_statement, again.papers.model_card) == (
        FULL.papers.data_statement,
        FULL.papers.model_card,
    )
    assert again.papers.data_statement != again.papers.model_card
    assert (again.papers.epsilon_audit, again.papers.evaluation) == (an_attack(0.7), an_evaluation())
    assert again.papers.audit_report == FULL.papers.audit_report
    assert again.release.to_bytes() == FULL.release.to_bytes()


CHANGES = {
    "digest": ({"digest": b"\x01" * 31}, "the digest of a release has 32 bytes"),
    "recogniser": ({"recogniser": b"\x02" * 33}, "the digest of a recogniser profile has 32 bytes"),
    "parameters": ({"parameters": "Made up"}, "the parameters is 1 to 64"),
    "unit": ({"privacy_unit": ""}, "the privacy unit needs"),
    "threshold below 0": ({"threshold": -1}, "a threshold is a whole number of bits"),
    "threshold of half a bit": ({"threshold": 1.0}, "a threshold is a whole number of bits"),
    "rate": ({"fmr": 1.0}, "false match rate must be a float"),
    "people": ({"fmr_people": 0}, "on how many people"),
    "whole epsilon": ({"epsilon": 4}, "epsilon and delta are floats"),
    "whole delta": ({"delta": 0}, "epsilon and delta are floats"),
    "whole bound": ({"epsilon_lower_bound": 1}, "epsilon and delta are floats"),
    "no finite epsilon": ({"epsilon": float("inf")}, "delta lies between 0 and 1, and epsilon is finite"),
    "epsilon that is no number": ({"epsilon": float("nan")}, "delta lies between 0 and 1, and epsilon is finite"),
    "delta below 0": ({"delta": -1e-9}, "delta lies between 0 and 1, and epsilon is finite"),
    "delta of 1": ({"delta": 1.0}, "delta lies between 0 and 1, and epsilon is finite"),
    "no attacks": ({"attacks": None}, "an epsilon is claimed with what it lets an attacker do"),
    "other innocents": ({"attacks": AttackRates(0.25, 0.75, 0.01)}, "about attackers who accuse 0.001"),
    "delta without epsilon": ({"epsilon": 0.0, "epsilon_lower_bound": None}, "are both 0"),
    "epsilon without delta": ({"delta": 0.0}, "are both 0"),
    "more than the claim": ({"epsilon_lower_bound": 4.01}, "an attack measured more than the claimed epsilon"),
    "bound below 0": ({"epsilon_lower_bound": -0.1}, "an attack measured more than the claimed epsilon"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_claim_out_of_range_is_not_made(case):
    change, message = CHANGES[case]
    with pytest.raises(UsageError, match=message):
        replace(CLAIMS, **change)


def test_claims_at_the_very_edge_are_made():
    for change in ({"epsilon_lower_bound": 4.0}, {"epsilon_lower_bound": 0.0}, {"threshold": 0}, {"delta": 0.999}):
        assert replace(CLAIMS, **change) != CLAIMS


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "stand in order of name, each once"),
        (FILES[::-1], "stand in order of name, each once"),
        ((FILES[0], FILES[0]), "stand in order of name, each once"),
        ((FILES[0], ("b json", b"\x04" * 32)), "a file of a bundle is 1 to 64"),
        ((("A.json", b"\x03" * 32), FILES[1]), "a file of a bundle is 1 to 64"),
        ((FILES[0], ("b.json", b"\x04" * 31)), "the digest of a file has 32 bytes"),
    ],
)
def test_a_manifest_names_each_file_once_in_order(files, message):
    with pytest.raises(UsageError, match=message):
        replace(MANIFEST, files=files)


def test_a_manifest_ends_after_it_begins():
    for ends in (BEGINS, BEGINS - 1):
        with pytest.raises(UsageError, match="a release must end after it begins"):
            replace(MANIFEST, ends_at=ends)


def test_a_manifest_of_another_format_or_use_is_refused():
    for change in ({"format": "intaglio-release-bundle-4"}, {"use": "Trial"}, {"more": 1}):
        with pytest.raises(MalformedMessageError, match="a release manifest"):
            SignedManifest.from_bytes(canonical({"manifest": WRITTEN | change, "signatures": {}}))


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"limits": Limits(1.0001e-3, 0.1)}, "larger false match rate than the release states"),
        ({"threshold": 299.0}, "another threshold"),
        ({"threshold": 300.5}, "another threshold"),
    ],
)
def test_an_audit_of_nearly_this_release_is_none_of_it(report, message):
    with pytest.raises(UsageError, match=message):
        a_bundle(report=a_report(**report))


# ------------------------------------------------------------------------------------------------------ who may sign
@pytest.mark.parametrize("maker", [MAKER, OTHER_MAKER, AUDITOR, OTHER_AUDITOR, STRANGER])
@pytest.mark.parametrize("auditor", [MAKER, OTHER_MAKER, AUDITOR, OTHER_AUDITOR, STRANGER])
def test_either_maker_with_either_auditor_and_nobody_else(maker, auditor):
    if maker is auditor:
        return
    made = SignedManifest(MANIFEST).signed_by(Role.AUDITOR, auditor).signed_by(Role.MAKER, maker)
    if maker not in {MAKER, OTHER_MAKER}:
        with pytest.raises(ProofError, match=f"^the release is signed by {public(maker).hex()[:16]}, .* maker's key$"):
            made.require_trusted(TRUST)
    elif auditor not in {AUDITOR, OTHER_AUDITOR}:
        message = f"^the release is signed by {public(auditor).hex()[:16]}, .* auditor's key$"
        with pytest.raises(ProofError, match=message):
            made.require_trusted(TRUST)
    else:
        made.require_trusted(TRUST)


def test_whoever_signs_again_takes_the_place_of_their_own_role_alone():
    both = SignedManifest(MANIFEST).signed_by(Role.MAKER, MAKER).signed_by(Role.AUDITOR, AUDITOR)
    again = both.signed_by(Role.MAKER, OTHER_MAKER)
    assert again.signatures[Role.AUDITOR] == both.signatures[Role.AUDITOR]
    assert {role: key for role, (key, _) in again.signatures.items()} == {
        Role.MAKER: public(OTHER_MAKER),
        Role.AUDITOR: public(AUDITOR),
    }
    assert {role: key for role, (key, _) in both.signatures.items()} == {
        Role.MAKER: public(MAKER),
        Role.AUDITOR: public(AUDITOR),
    }


def test_nobody_changes_a_signed_manifest_from_outside():
    key = public(MAKER), MAKER.sign(tagged("maker"))
    given = {Role.MAKER: key}
    made = SignedManifest(MANIFEST, given)
    given[Role.AUDITOR] = public(AUDITOR), bytes(64)
    assert dict(made.signatures) == {Role.MAKER: key}
    with pytest.raises(TypeError, match="does not support item assignment"):
        made.signatures[Role.AUDITOR] = key
    assert public(MAKER).hex() not in repr(made)


def test_the_address_is_the_digest_of_what_is_signed():
    assert MANIFEST.digest == hashlib.sha256(canonical(WRITTEN)).hexdigest()


@pytest.mark.parametrize("role", list(Role))
def test_either_signature_is_verified_by_itself(role):
    both = SignedManifest(MANIFEST).signed_by(Role.MAKER, MAKER).signed_by(Role.AUDITOR, AUDITOR)
    key, signature = both.signatures[role]
    wrong = replace(both, signatures={**both.signatures, role: (key, signature[:-1] + bytes([signature[-1] ^ 1]))})
    with pytest.raises(ProofError, match="signature is not that of the key"):
        wrong.require_trusted(TRUST)
    for part in ((key[:31], signature), (key, signature[:63])):
        with pytest.raises(UsageError, match=r"a signer's key has 32 bytes|a signature has 64 bytes"):
            replace(both, signatures={**both.signatures, role: part})


# ------------------------------------------------------------------------------------------- in which order it is asked
HURDLES = ("unsigned", "early or late", "audit", "wolf", "trial")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("first", range(len(HURDLES)))
def test_a_server_hears_the_first_of_everything_that_is_wrong(first, late):
    """Whatever is behind the first hurdle is wrong too: whose words these are comes before what they say."""
    wrong = set(HURDLES[first:])
    fail = "audit" in wrong
    wolf = WolfRates(Rate(40, 90, 45.0, 0.3, 0.6), Rate(9, 91, 44.0, 0.05, 0.18), 45) if "wolf" in wrong else None
    manifest = replace(MANIFEST, audit=replace(AUDIT, wolf=wolf, verdict=Verdict.FAIL if fail else Verdict.PASS))
    made = SignedManifest(manifest).signed_by(Role.MAKER, MAKER)
    if "unsigned" not in wrong:
        made = made.signed_by(Role.AUDITOR, OTHER_AUDITOR)
    now = (ENDS if late else BEGINS - 1) if "early or late" in wrong else BEGINS
    said = {
        "unsigned": (ProofError, "not signed by its auditor"),
        "early or late": (RefusedError, "ran out at" if late else "not valid before"),
        "audit": (RefusedError, "^the audit of the release says FAIL, so it is not served$"),
        "wolf": (RefusedError, "even a trial may have at most 10 times the stated false match rate of 0.02"),
        "trial": (RefusedError, "marked as a trial, and trials are not accepted here"),
    }[HURDLES[first]]
    with pytest.raises(said[0], match=said[1]):
        made.require_servable(TRUST, now=now)
    if HURDLES[first] == "trial":
        made.require_servable(TRUST_IN_TRIALS, now=now)
    else:
        with pytest.raises(said[0], match=said[1]):
            made.require_servable(TRUST_IN_TRIALS, now=now)


# -------------------------------------------------------------------------------------------------------------- trust
PAIRS = {"makers": (MAKER, OTHER_MAKER), "auditors": (AUDITOR, OTHER_AUDITOR)}


def test_trust_is_written_with_every_key_under_its_role():
    keys = {name: sorted(public(key).hex() for key in pair) for name, pair in PAIRS.items()}
    for trust, accepts in ((TRUST, False), (TRUST_IN_TRIALS, True)):
        assert json.loads(trust.to_bytes()) == {"accepts_trials": accepts, **keys}
        read = ReleaseTrust.from_file(json.dumps({"accepts_trials": accepts, **keys}).encode())
        assert read == trust
        assert (read.makers, read.auditors) == (
            frozenset(map(public, PAIRS["makers"])),
            frozenset(map(public, PAIRS["auditors"])),
        )


@pytest.mark.parametrize(("maker", "auditor"), list(itertools.product(PAIRS["makers"], PAIRS["auditors"])))
def test_no_key_of_several_is_trusted_in_both_roles(maker, auditor):
    makers, auditors = (frozenset(map(public, PAIRS[name])) for name in ("makers", "auditors"))
    for both in ((makers | {public(auditor)}, auditors), (makers, auditors | {public(maker)})):
        with pytest.raises(UsageError, match="as maker and as auditor: nobody audits themselves"):
            ReleaseTrust(*both)
    for short in ((makers | {b"\x07" * 31}, auditors), (makers, auditors | {b"\x07" * 33})):
        with pytest.raises(UsageError, match="a trusted key has 32 bytes"):
            ReleaseTrust(*short)


@pytest.mark.parametrize("accepts", [1, 0, None, "true"])
def test_whether_trials_are_accepted_is_true_or_false(accepts):
    value = json.loads(TRUST.to_bytes()) | {"accepts_trials": accepts}
    with pytest.raises(UsageError, match="no trust in releases: it needs accepts_trials"):
        ReleaseTrust.from_file(json.dumps(value).encode())


# -------------------------------------------------------------------------------------------------- no step back
def report_of(*, fmr=2, fnmr=1, mean=20, best=9, high=0.0009):
    """Two cells: the one has the larger false match rate, the other the larger false non-match rate."""
    one, other = a_cell("men", fmr, 0.0, high), a_cell("women", 0, 0.0, 0.0008)
    other = replace(other, fnmr=Rate(fnmr, 100, 100.0, 0.0, 0.05))
    one = replace(one, fnmr=Rate(0, 100, 100.0, 0.0, 0.04))
    strings = wolves(mean, 0.01 if mean <= 30 else 0.03, best=(best, 0.001, 0.02 if best <= 60 else 0.04))
    return a_bundle(report=a_report(cells=(one, other), wolf=strings))


STEPS = {
    "nothing": ({}, None),
    "false matches at the old bound": ({"fmr": 9}, None),
    "more false matches": (
        {"fmr": 10, "high": 0.001},
        r"^the worst cell's fmr is 0\.001 \(men\), above the upper bound 0",
    ),
    "false non-matches at the old bound": ({"fnmr": 5}, None),
    "more false non-matches": (
        {"fnmr": 6},
        r"^the worst cell's fnmr is 0\.06 \(women\), above the upper bound 0\.05 of",
    ),
    "the mean string at the old bound": ({"mean": 30}, None),
    "the mean string is accepted more often": (
        {"mean": 31},
        r"^the mean string without a face is accepted at 0\.01033, a",
    ),
    "the best image at the old bound": ({"best": 60}, None),
    "the best image is accepted more often": (
        {"best": 61},
        r"^the best string without a face is accepted at 0\.02033, a",
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_rate_alone_may_rise_to_its_own_old_bound_and_not_beyond(step):
    change, said = STEPS[step]
    old, new = report_of(), report_of(**change)
    if said is None:
        require_no_worse(old, new)
    else:
        with pytest.raises(RefusedError, match=said):
            require_no_worse(old, new)
        require_no_worse(new, old)


@pytest.mark.parametrize("before", list(Verdict))
@pytest.mark.parametrize("after", list(Verdict))
def test_no_verdict_follows_a_better_one(before, after):
    order = [Verdict.FAIL, Verdict.INSUFFICIENT, Verdict.PASS]
    wide = replace(VERDICTS[before][1], fmr=replace(VERDICTS[before][1].fmr, high=1.0))
    old = a_bundle(report=a_report(cells=VERDICTS[before] if before is Verdict.PASS else (VERDICTS[before][0], wide)))
    new = a_bundle(report=a_report(cells=VERDICTS[after]))
    assert (old.manifest.audit.verdict, new.manifest.audit.verdict) == (before, after)
    if order.index(after) < order.index(before):
        with pytest.raises(RefusedError, match=f"^the verdict was {before.value} and is {after.value}$"):
            require_no_worse(old, new)
    else:
        require_no_worse(old, new)


def test_every_cell_that_is_gone_is_named():
    three = (*CELLS, a_cell("x", 1, 0.0, 0.0009))
    old, new = (a_bundle(report=a_report(cells=cells)) for cells in (three, CELLS[1:2]))
    with pytest.raises(RefusedError, match=r"^no longer tested: men, x$"):
        require_no_worse(old, new)
    require_no_worse(new, old)


# ------------------------------------------------------------------------------------------- what a refusal came from
def archive(**changes):
    """A bundle's archive with other files in it."""
    with zipfile.ZipFile(io.BytesIO(signed(FULL).to_bytes())) as packed:
        files = {name: packed.read(name) for name in packed.namelist()} | changes
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return made.getvalue()


CAUSES = [
    (lambda: ReleaseTrust.from_file(b"{"), UsageError, json.JSONDecodeError),
    (lambda: ReleaseTrust.from_file(b"5"), UsageError, TypeError),
    (lambda: ReleaseTrust.from_file(b"{}"), UsageError, UsageError),
    (lambda: SignedManifest.from_bytes(b"{}"), MalformedMessageError, KeyError),
    (lambda: Bundle.from_bytes(b"no archive"), MalformedMessageError, zipfile.BadZipFile),
    (lambda: Bundle.from_bytes(archive(extra=b"")), MalformedMessageError, zipfile.BadZipFile),
    (lambda: Bundle.from_bytes(archive(**{"model-card.md": b"\xff"})), MalformedMessageError, UnicodeDecodeError),
    (lambda: Bundle.from_bytes(archive(**{"model-card.md": b"another"})), MalformedMessageError, UsageError),
]


@pytest.mark.parametrize("place", range(len(CAUSES)))
def test_a_refusal_keeps_what_it_came_from(place):
    call, error, cause = CAUSES[place]
    with pytest.raises(error, match=r".") as caught:
        call()
    assert type(caught.value.__cause__) is cause


@pytest.mark.parametrize(
    "name", ["manifest.json", "release.json", "audit-report.json", "epsilon-audit.json", "evaluation.json"]
)
def test_each_file_of_an_archive_is_read_as_what_its_name_says(name):
    """A file that is none is refused in its own words."""
    words = {
        "manifest.json": "a release manifest of this version",
        "release.json": "model release",
        "audit-report.json": "not an audit report of this version",
        "epsilon-audit.json": "not an audit of epsilon",
        "evaluation.json": "evaluation|error rates",
    }
    with pytest.raises(MalformedMessageError, match=words[name]):
        Bundle.from_bytes(archive(**{name: b"{"}))


@pytest.mark.parametrize("use", list(Use))
@pytest.mark.parametrize("verdict", list(Verdict))
def test_which_verdict_is_served_for_which_use_to_whom(verdict, use):
    tame = WolfRates(Rate(0, 90, 45.0, 0.0, 0.2), Rate(9, 91, 44.0, 0.05, 0.18), 45)
    manifest = replace(MANIFEST, use=use, audit=replace(AUDIT, verdict=verdict, wolf=tame))
    made = SignedManifest(manifest).signed_by(Role.MAKER, OTHER_MAKER).signed_by(Role.AUDITOR, AUDITOR)
    for trust in (TRUST, TRUST_IN_TRIALS):
        if use is Use.GENERAL:
            said = None if verdict is Verdict.PASS else f"^the audit of the release says {verdict.value}, so it is not"
        elif verdict is Verdict.FAIL:
            said = "^the audit of the release says FAIL, so it is not served$"
        else:
            said = None if trust.accepts_trials else "marked as a trial"
        for now in (BEGINS, ENDS - 1):
            if said is None:
                made.require_servable(trust, now=now)
            else:
                with pytest.raises(RefusedError, match=said):
                    made.require_servable(trust, now=now)
