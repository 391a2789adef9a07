"""Releases of public knowledge, and of what people add: what they state, and what they refuse to promise."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from federation.errors import UsageError
from federation.learning.evaluation import accepted_from, code_scores
from federation.learning.moments import Shift, moments_sum
from federation.learning.pairs import pair_sum
from federation.learning.releasing import ReleaseTerms, observed_of, public_release, reason_of
from federation.learning.threshold import Threshold, edges
from federation.privacy.plan import PRIVACY_UNIT, Adaptation, PrivacyPlan
from federation.promise import NEIGHBORING_RELATION, PrivacyStatement
from federation.rates import Basis
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from tests.people import DIMENSION, synthetic_people
from tests.public_people import CONDITION, public_centre, synthetic_profile

PROFILE = synthetic_profile()
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def terms(condition=CONDITION, fmr=0.01, references=2, frames=3):
    return ReleaseTerms(PROFILE, condition, fmr, references, frames)


def test_a_public_release_says_that_nobody_was_asked_and_survives_its_bytes():
    release = public_release(terms(), created=NOW)
    assert ModelRelease.from_bytes(release.to_bytes()).digest == release.digest
    assert (release.basis, release.privacy.events, release.privacy.epsilon) == (Basis.PUBLIC, (), 0.0)
    assert (release.condition, release.references, release.frames, release.fmr) == (CONDITION, 2, 3, 0.01)
    assert (release.model_digest, release.code_length) == (PROFILE.digest, PROFILE.code_length)
    assert (release.adaptation, release.adapted) == ("none", False)
    assert "nobody was asked" in release.reason
    assert 0 <= release.fmr_low <= release.fmr_high <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fmr": 0.0009}, "below 0.001 cannot be stated"),
        ({"fmr": 0.051}, "at most 0.05"),
        ({"references": 0}, "1 to 5 references"),
        ({"references": 6}, "1 to 5 references"),
        ({"frames": 4}, "1 to 3 frames"),
        ({"condition": "moonlight"}, "knows these camera conditions: clean, mask; not moonlight"),
    ],
    ids=str,
)
def test_terms_that_no_release_can_keep_are_refused_before_anybody_is_asked(change, said):
    with pytest.raises(UsageError, match=said):
        terms(**change)


def test_people_are_asked_about_the_public_centres_of_references_and_probes():
    asked, expected = terms().public_centre, public_centre()
    assert asked.subspace.dtype == asked.start.dtype == np.float64
    assert np.array_equal(asked.subspace, expected.subspace)
    assert np.allclose(asked.start, expected.start, atol=1e-12)
    clean = terms("clean").public_centre
    assert not np.allclose(clean.start, asked.start)


def test_a_threshold_holds_on_people_whom_nobody_asked():
    """All strangers of 60 people whom neither the profile nor the release saw."""
    release = public_release(terms(references=1, frames=1), created=NOW)
    others = synthetic_people([f"other {number}" for number in range(60)], seed=77, shift=-0.3)
    scores = code_scores(others, release.adapter, references=1, frames=1, bits=release.code_length)
    least = accepted_from(release.threshold, release.code_length)
    assert (scores.impostor >= least).mean() <= 0.01
    assert (scores.genuine >= least).mean() > 0.5


def trained(epsilon=8.0, people=80, shift=0.5):
    """The sums of two organisations whose camera shifts more than the public one, without noise."""
    plan = PrivacyPlan.for_epsilon(
        epsilon, delta=1e-5, people=people, organisations=2, dimension=DIMENSION, directions=PROFILE.directions
    )
    names = [f"person {number}" for number in range(people)]
    sides = [synthetic_people(names[index::2], seed=index, shift=shift) for index in range(2)]
    total = sum(moments_sum(side, terms().public_centre, plan) for side in sides)
    return plan, sides, Shift.of(total, plan, noise_multiplier=0.0, people=people)


def test_what_people_add_moves_the_centres_and_the_threshold():
    plan, sides, shift = trained()
    public, own = terms().adapter(Shift.nothing(PROFILE.directions)), terms().adapter(shift)
    question = terms().question(shift)
    observed = observed_of(
        sum(pair_sum(side, question, 40) for side in sides), people=80, noise_multiplier=plan.threshold_noise_multiplier
    )
    assert observed.people == 80
    assert observed.shares.sum() == pytest.approx(1)
    threshold = terms().threshold(shift, observed, members=80)
    assert threshold.basis in {Basis.CHECKED, Basis.MEASURED}
    release = terms().release(
        own, threshold, adaptation=Adaptation.CENTRE, reason="a test", privacy=plan.statement(), created=NOW
    )
    assert release.adapted
    assert np.linalg.norm(own.centres[PROBE] - public.centres[PROBE]) > 0.2
    assert np.array_equal(own.projection, public.projection)
    middles = [
        np.mean([side.embeddings[side.profiles == p].mean(axis=0) for side in sides], axis=0)
        for p in (REFERENCE, PROBE)
    ]
    off = [
        np.linalg.norm(
            sum(
                adapter.projection @ middle - adapter.centres[p]
                for p, middle in zip((REFERENCE, PROBE), middles, strict=True)
            )
        )
        for adapter in (public, own)
    ]
    assert off[1] < off[0] / 3


def test_a_shift_that_nobody_believes_leaves_the_public_adapter():
    noise = Shift(np.ones(PROFILE.directions), 0.0)
    adapter, public = terms().adapter(noise), terms().adapter(Shift.nothing(PROFILE.directions))
    for profile in (REFERENCE, PROBE):
        assert np.array_equal(adapter.centres[profile], public.centres[profile])
    assert terms().threshold(noise, None, members=0) == terms().threshold(
        Shift.nothing(PROFILE.directions), None, members=0
    )


def test_tuned_scales_go_with_the_public_adapter():
    scales = np.arange(5.0)
    adapter = terms().adapter(Shift.nothing(PROFILE.directions), scales)
    assert np.array_equal(adapter.scales[PROBE], scales)
    question = terms().question(Shift.nothing(PROFILE.directions), scales)
    assert np.array_equal(question.adapter.scales[PROBE], scales)
    public = terms().adapter(Shift.nothing(PROFILE.directions))
    for made in (adapter, question.adapter):
        assert np.array_equal(made.projection, public.projection)
        assert all(np.array_equal(made.centres[side], public.centres[side]) for side in (REFERENCE, PROBE))


def test_edges_are_those_of_the_fusion_that_the_release_is_for():
    nothing = Shift.nothing(PROFILE.directions)
    assert terms(references=1, frames=1).question(nothing).edges != terms().question(nothing).edges
    assert (terms().question(nothing).references, terms().question(nothing).frames) == (2, 3)


def test_edges_are_those_of_the_weight_that_the_shift_has():
    for weight in (0.3, 0.9):
        asked = terms().question(Shift(np.full(PROFILE.directions, 0.1), weight))
        assert asked.edges == edges(PROFILE, CONDITION, weight=weight, references=2, frames=3)
        assert asked.edges != terms().question(Shift.nothing(PROFILE.directions)).edges


def test_a_threshold_is_chosen_with_all_that_the_terms_and_the_run_say(monkeypatch):
    """Each number is another one, so that none can stand for its neighbour."""
    asked, shift, observed = [], Shift(np.full(PROFILE.directions, 0.1), 0.25), object()
    made = terms(fmr=0.02, references=4, frames=2)
    monkeypatch.setattr(
        "federation.learning.releasing.choose_threshold", lambda *facts, **named: asked.append((facts, named)) or 7
    )
    assert made.threshold(shift, observed, members=81) == 7
    ((facts, named),) = asked
    assert facts == (PROFILE, CONDITION)
    assert named == {
        "weight": 0.25,
        "references": 4,
        "frames": 2,
        "fmr": 0.02,
        "observed": observed,
        "members": 81,
        "coupling": PROFILE.condition(CONDITION).prior.coupling_millionths / 1e6,
    }
    assert named["coupling"] > 0


def test_a_release_has_each_part_in_its_own_place():
    """Every field of it, by hand."""
    profile = replace(PROFILE, name="another", code_length=2048)
    made = ReleaseTerms(profile, CONDITION, 0.02, 4, 2)
    plan = PrivacyPlan.for_epsilon(
        8.0, delta=1e-5, people=300, organisations=4, dimension=DIMENSION, directions=PROFILE.directions
    )
    adapter, statement = made.adapter(Shift.nothing(PROFILE.directions)), plan.statement()
    threshold = Threshold(301, 0.003, 0.031, Basis.CHECKED, 77)
    release = made.release(
        adapter, threshold, adaptation=Adaptation.CENTRE, reason="a reason", privacy=statement, created=NOW
    )
    assert vars(release) == {
        "model_name": "another",
        "model_digest": profile.digest,
        "adapter": adapter,
        "adaptation": "centre",
        "reason": "a reason",
        "condition": CONDITION,
        "threshold": 301,
        "fmr": 0.02,
        "fmr_low": 0.003,
        "fmr_high": 0.031,
        "fmr_people": 77,
        "basis": Basis.CHECKED,
        "privacy": statement,
        "created": "2030-01-01T00:00:00+00:00",
        "code_length": 2048,
        "references": 4,
        "frames": 2,
        "held_for": None,
    }


def test_a_release_says_what_its_threshold_says_and_what_it_was_made_for():
    threshold = Threshold(301, 0.002, 0.031, Basis.PUBLIC, 77)
    release = terms().release(
        terms().adapter(Shift.nothing(PROFILE.directions)),
        threshold,
        adaptation=Adaptation.NONE,
        reason="some reason",
        privacy=PrivacyStatement.nobody(PRIVACY_UNIT, NEIGHBORING_RELATION),
        created=NOW,
    )
    said = (release.threshold, release.fmr_low, release.fmr_high, release.basis, release.fmr_people)
    assert said == (301, 0.002, 0.031, Basis.PUBLIC, 77)
    assert (release.fmr, release.reason, release.created) == (0.01, "some reason", NOW.isoformat())
    assert public_release(terms(), created=NOW, reason="too few people").reason == "too few people"


def test_what_is_observed_carries_the_noise_of_its_shares():
    random = np.random.default_rng(4)
    drawn = [observed_of(1.7 * random.normal(size=3), people=30, noise_multiplier=1.7) for _ in range(4000)]
    assert np.std([one.shares for one in drawn]) == pytest.approx(drawn[0].noise, rel=0.03)
    assert {one.people for one in drawn} == {30}


def test_reasons_say_what_was_asked():
    def plan(epsilon, people):
        return PrivacyPlan.for_epsilon(
            epsilon, delta=1e-5, people=people, organisations=4, dimension=192, directions=58
        )

    assert "so nobody was asked." in reason_of(plan(1.0, 24), Adaptation.NONE, 0.0)
    assert "more than a check of the threshold" in reason_of(plan(1.0, 100), Adaptation.NONE, 0.0)
    assert "no longer than its noise" in reason_of(plan(8.0, 24), Adaptation.NONE, 0.0)
    assert "a weight of 0.75" in reason_of(plan(8.0, 24), Adaptation.CENTRE, 0.75)
    assert "slopes and factors" in reason_of(plan(8.0, 24), Adaptation.SCALES, 0.0)
