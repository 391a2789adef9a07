"""What a trial hands on: to the plan, to the threshold, to the attacker, to the summary, and in which order."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from federation.errors import UsageError
from federation.experiments import frontier
from federation.experiments.frontier import (
    Frontier,
    FrontierSettings,
    Measurement,
    Method,
    Trial,
    advice,
    fewest_people_for_scales,
    summarise,
    trials,
)
from federation.learning.releasing import ReleaseTerms
from federation.privacy.auditing import MembershipAttack
from federation.privacy.plan import PrivacyPlan
from federation.recognition.mobilefacenet import TUNABLE
from tests.people import DIMENSION, synthetic_people
from tests.public_people import CONDITION, synthetic_profile

NAMES = [f"person {number:02d}" for number in range(30)]
PROFILE = synthetic_profile()
TERMS = ReleaseTerms(PROFILE, CONDITION, 0.01, 2, 1)
PEOPLE = synthetic_people(NAMES, shift=0.6)
SETTINGS = FrontierSettings(delta=3e-6, organisations=6, colluders=2, dropouts=1, train_share=0.6)
FRONTIER = Frontier(PEOPLE, TERMS, SETTINGS)
FEDERATED = Trial(Method.FEDERATED, 0.0, 0, 0, 0)
MEASURED = Measurement(
    Trial(Method.PRIVATE, 8.0, 12, 0, 1), "centre, public", 0.1, 0.8, 0.01, 0.7, 0.005, 0.02, 0.25, 0.625
)


@pytest.fixture
def quiet(monkeypatch):
    """No noise is drawn, so that what is scaled can be compared."""
    monkeypatch.setattr(frontier, "operating_system_noise", np.zeros)


def test_a_plan_is_for_all_that_its_trial_and_the_settings_say():
    plan = FRONTIER.plan(Trial(Method.PRIVATE, 4.0, 777, 0, 0))
    assert (plan.epsilon, plan.people) == (4.0, 777)
    assert (plan.delta, plan.organisations, plan.colluders, plan.dropouts) == (3e-6, 6, 2, 1)
    assert (plan.dimension, plan.directions) == (DIMENSION, PROFILE.directions)
    other = replace(PROFILE, clips=replace(PROFILE.clips, centre_thousandths=700))
    assert Frontier(PEOPLE, replace(TERMS, profile=other), SETTINGS).plan(FEDERATED).centre_clip == 0.7


def test_every_draw_of_every_epsilon_and_number_of_people_is_a_trial_of_its_own():
    found = [t for t in trials([1.0, 8.0], [12, 300], splits=2, draws=3) if t.method is Method.PRIVATE]
    assert len(set(found)) == len(found) == 2 * 2 * 2 * 3
    assert {(t.epsilon, t.people, t.split, t.draw) for t in found} == {
        (epsilon, people, split, draw)
        for epsilon in (1.0, 8.0)
        for people in (12, 300)
        for split in (0, 1)
        for draw in (0, 1, 2)
    }


@pytest.mark.parametrize(("share", "organisations", "said"), [(0.15, 5, "5 organisations"), (0.95, 2, "a test")])
def test_each_organisation_has_somebody_and_there_are_people_to_test(share, organisations, said):
    settings = FrontierSettings(organisations=organisations, colluders=0, train_share=share)
    with pytest.raises(UsageError, match=f"30 people are too few .*{said}"):
        Frontier(PEOPLE, TERMS, settings)


def test_the_attacker_is_shown_all_members_and_tries_those_who_are_none(monkeypatch):
    asked = []

    def attack(released, members, outsiders):
        asked.append((released, members, outsiders))
        return MembershipAttack(0.125, 0.01, 0.75)

    monkeypatch.setattr(frontier, "membership_attack", attack)
    measured = FRONTIER.run(FEDERATED)
    assert (measured.attack_tpr, measured.attack_auc) == (0.125, 0.75)
    ((released, members, outsiders),) = asked
    order = np.random.default_rng(0).permutation(NAMES).tolist()
    subspace = PROFILE.subspace.array

    def middles(names):
        rows = [
            [
                PEOPLE.embeddings[(PEOPLE.people == n) & (PEOPLE.profiles == p)].mean(axis=0)
                for p in set(PEOPLE.profiles)
            ]
            for n in names
        ]
        return sorted(np.mean(rows, axis=1) @ subspace.T, key=lambda row: row[0])

    np.testing.assert_allclose(sorted(members, key=lambda row: row[0]), middles(order[:18]), atol=1e-6)
    np.testing.assert_allclose(sorted(outsiders, key=lambda row: row[0]), middles(order[18:]), atol=1e-6)
    np.testing.assert_allclose(released, np.mean(middles(order[:18]), axis=0), atol=1e-3)


def test_a_score_at_the_threshold_is_accepted_and_each_split_has_devices_of_its_own(monkeypatch):
    drawn = []

    def scored(test, adapter, *, random_bytes, **_):
        drawn.append(random_bytes(8))
        return SimpleNamespace(genuine=np.array([0.25, 0.5, 0.75, 1.0]), impostor=np.array([0.0, 0.25, 0.25, 0.5]))

    monkeypatch.setattr(frontier, "code_scores", scored)
    monkeypatch.setattr(frontier, "accepted_from", lambda _threshold, _bits: 0.5)
    for split in (0, 3, 0):
        measured = FRONTIER.run(replace(FEDERATED, split=split))
        assert (measured.fmr_at_threshold, measured.tar_at_threshold) == (0.25, 0.75)
    assert drawn[0] == drawn[2] != drawn[1]


def test_statistics_of_a_few_are_scaled_to_as_many_as_were_planned(quiet):
    """As if so many people had the same ones: without noise the shift and the shares are those of the few."""
    seen = []

    class Watched(ReleaseTerms):
        def threshold(self, shift, observed, *, members):
            seen.append((shift, observed, members))
            return super().threshold(shift, observed, members=members)

        def question(self, shift, scales=None):
            seen.append(shift)
            return super().question(shift, scales)

    watched = Frontier(PEOPLE, Watched(PROFILE, CONDITION, 0.01, 2, 1), SETTINGS)
    seen.clear()
    for trial in (FEDERATED, Trial(Method.PRIVATE, 64.0, 20_000, 0, 0)):
        watched.run(trial)
    (asked, (shift, observed, members)), (asked_many, (of_many, observed_of_many, members_of_many)) = (
        seen[:2],
        seen[2:4],
    )
    np.testing.assert_allclose(of_many.vector, shift.vector, rtol=1e-6)
    np.testing.assert_allclose(observed_of_many.shares, observed.shares, rtol=1e-6)
    assert (members, members_of_many) == (18, 18)  # whose own images made the centre
    assert (observed.people, observed_of_many.people) == (18, 20_000)
    assert asked is shift
    assert asked_many is of_many
    assert shift.weight > 0 < of_many.weight


# ---------------------------------------------------------------------------------------------------------- summaries
@pytest.mark.parametrize(("rate", "held"), [(0.004, 0.0), (0.005, 1.0), (0.02, 1.0), (0.021, 0.0)])
def test_an_interval_holds_what_lies_between_both_ends(rate, held):
    (summary,) = summarise([replace(MEASURED, fmr_at_threshold=rate)])
    assert summary.interval_held == (held, 0.0)


def test_each_number_of_a_summary_is_the_mean_of_its_own():
    (summary,) = summarise([MEASURED])
    means = (summary.eer, summary.tar, summary.fmr_at_threshold, summary.tar_at_threshold)
    assert [mean for mean, _ in means] == [0.1, 0.8, 0.01, 0.7]
    assert (summary.attack_tpr, summary.attack_auc) == ((0.25, 0.0), (0.625, 0.0))


def rated(method, tars, *, epsilon=0.0, people=0):
    return [
        replace(MEASURED, trial=Trial(method, epsilon, people, split, 0), tar=tar) for split, tar in enumerate(tars)
    ]


def test_no_gain_is_believed_that_is_smaller_than_the_larger_spread():
    steady, moving = rated(Method.PUBLIC, [0.90, 0.90]), rated(Method.PRIVATE, [0.86, 1.0], epsilon=4.0, people=24)
    assert advice(summarise([*steady, *moving])) == (
        "Choose the public release, epsilon 0: the most that any epsilon gains over it is +3.0 points of TAR, for "
        "noise of 24 people at epsilon 4, and rates move by 7.0 with the split."
    )


def test_the_least_epsilon_is_that_of_as_many_people_as_the_best_one_is_for():
    public = rated(Method.PUBLIC, [0.80, 0.82])
    private = [
        *rated(Method.PRIVATE, [0.945, 0.955], epsilon=1.0, people=9000),
        *rated(Method.PRIVATE, [0.945, 0.955], epsilon=2.0, people=24),
        *rated(Method.PRIVATE, [0.955, 0.965], epsilon=8.0, people=24),
    ]
    assert advice(summarise([*public, *private])) == (
        "Choose epsilon 2 with 24 people: it gains +14.0 points of TAR over the public release, and no larger one "
        "gains more than rates move with the split (1.0 points)."
    )


def test_the_fewest_people_of_the_recipe_scales_are_those_of_the_settings():
    steps = 6
    people = fewest_people_for_scales(8.0, SETTINGS, 58, steps=steps)
    for count, deployed in ((people, "scales"), (people - 1, "none")):
        plan = PrivacyPlan.for_epsilon(
            8.0, delta=3e-6, people=count, organisations=6, dimension=58, directions=58, colluders=2, dropouts=1,
            tuned=TUNABLE, steps=steps,
        )  # fmt: skip
        assert plan.adaptation.value == deployed
