"""What a trial hands on: to the plan, to the threshold, to the attacker, to the summary, and in which order."""

from __future__ import annotations

from contextlib import nullcontext
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
from federation.learning.evaluation import DetCurve
from federation.learning.moments import Shift
from federation.learning.releasing import ReleaseTerms
from federation.learning.threshold import Threshold
from federation.privacy.auditing import MembershipAttack
from federation.privacy.plan import PrivacyPlan
from federation.rates import Basis
from federation.recognition.mobilefacenet import TUNABLE
from federation.recognition.model import Adapter
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


@pytest.mark.parametrize(("method", "drawn"), [(Method.PRIVATE, 1.0), (Method.FEDERATED, 0.0)])
def test_each_sum_carries_the_noise_of_its_own_release_as_all_organisations_drew_it(monkeypatch, method, drawn):
    """Every number of the noise is 1 here. Six drew, each for the three who neither collude nor leave."""
    asked, trial = [], Trial(method, 8.0, 900, 0, 0) if method is Method.PRIVATE else FEDERATED
    settings = replace(SETTINGS, train_share=0.5)
    trials_of = Frontier(PEOPLE, TERMS, settings)
    plan, here = trials_of.plan(trial), 15
    plan = replace(plan, threshold_share=0.3, noise_multiplier=1.01 * plan.noise_multiplier)
    monkeypatch.setattr(trials_of, "plan", lambda _: plan)
    people = 900 if method is Method.PRIVATE else here
    sums = {"moments_sum": [], "pair_sum": []}
    for name, found in sums.items():
        original = getattr(frontier, name)

        def watched(*arguments, original=original, found=found):
            found.append((arguments, original(*arguments)))
            return found[-1][1]

        monkeypatch.setattr(frontier, name, watched)
    shift_of, observed_of = frontier.Shift.of, frontier.observed_of

    def shifted(total, plan, **named):
        asked.append((total, named))
        return shift_of(total, plan, **named)

    def observed(total, **named):
        asked.append((total, named))
        return observed_of(total, **named)

    monkeypatch.setattr(frontier, "operating_system_noise", np.ones)
    monkeypatch.setattr(frontier.Shift, "of", shifted)
    monkeypatch.setattr(frontier, "observed_of", observed)
    trials_of.run(trial)
    assert [name for name, _ in plan.events] == ["moments", "threshold"]
    assert plan.moments_noise_multiplier < 0.8 * plan.threshold_noise_multiplier
    for (total, named), made, multiplier in zip(
        asked, sums.values(), (plan.moments_noise_multiplier, plan.threshold_noise_multiplier), strict=True
    ):
        noise = drawn * multiplier * np.sqrt(6 / 3)
        assert named == {"noise_multiplier": pytest.approx(noise), "people": people}
        exact = np.sum([value for _, value in made], axis=0) * people / here
        np.testing.assert_allclose(total, exact + noise, atol=1e-9)
        assert [len(set(arguments[0].people.tolist())) for arguments, _ in made] == [3, 3, 3, 2, 2, 2]
    assert [arguments[2] for arguments, _ in sums["pair_sum"]] == [3, 3, 3, 2, 2, 2]


def test_the_noise_of_many_trials_is_one_over_the_root_of_their_precisions():
    """Baselines and plans that ask nobody release nothing."""
    some = [Trial(Method.PRIVATE, epsilon, people, 0, 0) for epsilon, people in ((8.0, 900), (4.0, 900), (0.1, 12))]
    noises = [FRONTIER.plan(trial).noise_multiplier for trial in some]
    assert [bool(FRONTIER.plan(trial).events) for trial in some] == [True, True, False]
    assert FRONTIER.charge([*some, FEDERATED]) == pytest.approx(1 / np.hypot(1 / noises[0], 1 / noises[1]))


@pytest.mark.parametrize(
    ("method", "people", "weight", "shown"),
    [
        (Method.FEDERATED, 0, 0.5, True),
        (Method.FEDERATED, 0, 0.0, False),
        (Method.PRIVATE, 18, 0.5, True),
        (Method.PRIVATE, 18, 0.0, False),
        (Method.PRIVATE, 17, 0.5, False),
        (Method.PRIVATE, 19, 0.5, False),
        (Method.OWN, 0, 0.5, False),
    ],
)
def test_an_attacker_sees_what_was_learnt_of_people_and_shown_and_was_not_scaled(method, people, weight, shown):
    shift, test = Shift(np.full(PROFILE.directions, 0.01), weight), PEOPLE.of_people(NAMES[18:])
    organisations = [PEOPLE.of_people(NAMES[:9]), PEOPLE.of_people(NAMES[9:18])]
    tpr, auc = FRONTIER._attack(shift, Trial(method, 8.0, people, 0, 0), organisations, test)
    assert (tpr is not None, auc is not None) == (shown, shown)


@pytest.mark.parametrize(
    "lacking",
    ["", "fmr_at_threshold", "tar_at_threshold", "fmr_low", "fmr_high", "attack_tpr", "attack_auc"],
)
def test_a_measurement_comes_back_from_its_row_with_what_it_lacks(lacking):
    measured = replace(MEASURED, trial=Trial(Method.PRIVATE, 2.5, 12, 3, 4), **({lacking: None} if lacking else {}))
    row = measured.to_row()
    assert tuple(row) == Measurement.columns()
    assert [name for name, text in row.items() if not text] == ([lacking] if lacking else [])
    assert Measurement.from_row(row) == measured
    assert Measurement.from_row({**row, "attack_tpr": "0.0"}) == replace(measured, attack_tpr=0.0)


@pytest.mark.parametrize("column", Measurement.columns())
def test_a_row_without_one_of_its_columns_or_with_words_for_a_number_is_none(column):
    row = MEASURED.to_row()
    with pytest.raises(UsageError, match="a row of the frontier is not one that this version wrote"):
        Measurement.from_row({name: text for name, text in row.items() if name != column})
    if column != "deployed":
        with pytest.raises(UsageError, match="a row of the frontier is not one that this version wrote"):
            Measurement.from_row({**row, column: "much"})


def test_every_split_has_its_baselines_and_is_whole_before_the_next_one_begins():
    found = trials([1.0, 8.0], [12, 300], splits=2, draws=2)
    baselines = (Method.FROZEN, Method.PUBLIC, Method.OWN, Method.FEDERATED)
    expected = []
    for split in (0, 1):
        expected += [Trial(method, 0.0, 0, split, 0) for method in baselines]
        for epsilon, people in ((1.0, 12), (1.0, 300), (8.0, 12), (8.0, 300)):
            expected += [Trial(Method.PRIVATE, epsilon, people, split, draw) for draw in (0, 1)]
    assert found == expected
    without = trials([1.0, 8.0], [12, 300], splits=2, draws=2, baselines=False)
    assert without == [trial for trial in found if trial.method is Method.PRIVATE]


@pytest.mark.parametrize(
    "change", [{"splits": 0}, {"draws": 0}, {"epsilons": []}, {"people": []}], ids=lambda change: next(iter(change))
)
def test_a_frontier_has_at_least_one_of_everything(change):
    wanted = {"epsilons": [8.0], "people": [12], "splits": 1, "draws": 1} | change
    with pytest.raises(UsageError, match="needs an epsilon, a number of people, a split and a draw"):
        trials(**wanted)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.1])
def test_some_train_and_some_are_tested(share):
    with pytest.raises(UsageError, match="share of people who train must be between 0 and 1"):
        FrontierSettings(train_share=share)


def test_those_who_train_are_the_nearest_whole_number_to_their_share():
    assert Frontier(PEOPLE, TERMS, replace(SETTINGS, train_share=0.66)).held_in == 20  # of 19.8
    assert Frontier(PEOPLE, TERMS, replace(SETTINGS, train_share=0.64)).held_in == 19  # of 19.2


@pytest.mark.parametrize(("trained", "enough"), [(2, False), (3, True), (27, True), (28, False)])
def test_three_on_each_side_of_a_split_are_enough_and_two_are_too_few(trained, enough):
    settings = FrontierSettings(organisations=2, colluders=0, train_share=trained / 30)
    with nullcontext() if enough else pytest.raises(UsageError, match="30 people are too few for 2 organisations"):
        assert Frontier(PEOPLE, TERMS, settings).held_in == trained


def test_a_plan_without_noise_asks_all_that_many_people_would_be_asked():
    """Of so few nobody would be asked for anything; what a baseline leaves out is the noise, and not the question."""
    assert [name for name, _ in FRONTIER.plan(FEDERATED).events] == ["moments", "threshold"]
    assert FRONTIER.plan(Trial(Method.PRIVATE, 0.1, 12, 0, 0)).events == ()


OTHER_TERMS = ReleaseTerms(replace(PROFILE, code_length=2048), CONDITION, 0.02, 3, 2)
"""Each number another one."""


@pytest.mark.parametrize("method", list(Method))
def test_each_method_is_trained_on_its_own_people_and_judged_by_all_that_the_terms_say(monkeypatch, method):
    asked, shift = [], Shift(np.full(PROFILE.directions, 0.05), 0.25 if method is not Method.PUBLIC else 0.0)
    trial = Trial(method, 8.0, 18, 5, 2) if method is Method.PRIVATE else Trial(method, 0.0, 0, 5, 0)
    made = Frontier(PEOPLE, OTHER_TERMS, SETTINGS)
    order = np.random.default_rng(5).permutation(NAMES).tolist()
    owners, strangers = np.linspace(0.5, 1, 101), np.linspace(0.25, 0.75, 101)

    def names(embeddings):
        return set(embeddings.people.tolist())

    def trained(organisations, of):
        asked.append(("trained", [names(one) for one in organisations], of))
        return shift, Threshold(900, 0.002, 0.05, Basis.CHECKED, 77)

    def scored(test, adapter, *, references, frames, bits, random_bytes):
        assert random_bytes(4) == np.random.default_rng([5, 1]).bytes(4)
        asked.append(("scored", names(test), adapter, references, frames, bits))
        return SimpleNamespace(genuine=owners, impostor=strangers)

    def attacked(of, to, organisations, test):
        asked.append(("attacked", of, to, [names(one) for one in organisations], names(test)))
        return 0.125, 0.75

    monkeypatch.setattr(made, "_train", trained)
    monkeypatch.setattr(made, "_attack", attacked)
    monkeypatch.setattr(frontier, "code_scores", scored)
    measured = made.run(trial)
    sides = [set(order[first:18:6]) for first in range(1 if method is Method.OWN else 6)]
    curve, tested = DetCurve.of(owners, strangers), set(order[18:])
    assert curve.tar_at(0.02) != curve.tar_at(0.01)
    expected = Measurement(trial, "none", curve.eer, curve.tar_at(0.02))
    if method is Method.FROZEN:
        ((_, people, adapter, *numbers),) = asked
        assert adapter.to_json() == Adapter.identity(DIMENSION).to_json()
    else:
        train, (_, people, adapter, *numbers), attack = asked
        assert train == ("trained", sides, trial)
        assert attack == ("attacked", shift, trial, sides, tested)
        assert adapter.to_json() == OTHER_TERMS.adapter(shift).to_json()
        least = 1 - 900 / 2048
        expected = replace(
            expected,
            deployed="none, checked" if method is Method.PUBLIC else "centre, checked",
            fmr_at_threshold=float((strangers >= least).mean()),
            tar_at_threshold=float((owners >= least).mean()),
            fmr_low=0.002,
            fmr_high=0.05,
            attack_tpr=0.125,
            attack_auc=0.75,
        )
    assert (people, *numbers) == (tested, 3, 2, 2048)
    assert measured == expected


def test_the_public_release_asks_nobody(monkeypatch):
    def asked(*_):
        raise AssertionError("somebody was asked")

    for name in ("moments_sum", "pair_sum"):
        monkeypatch.setattr(frontier, name, asked)
    shift, threshold = FRONTIER._train([PEOPLE], Trial(Method.PUBLIC, 0.0, 0, 0, 0))
    assert (shift.vector.tolist(), shift.weight) == ([0.0] * PROFILE.directions, 0.0)
    assert threshold == TERMS.threshold(Shift.nothing(PROFILE.directions), None, members=0)


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


def test_a_gain_as_large_as_the_spread_is_none_and_an_epsilon_that_lacks_just_the_spread_is_enough():
    """Both bounds, met to the bit."""
    equal = [*rated(Method.PUBLIC, [0.25, 0.75]), *rated(Method.PRIVATE, [0.75, 0.75], epsilon=4.0, people=24)]
    assert advice(summarise(equal)).startswith("Choose the public release, epsilon 0: ")
    public = rated(Method.PUBLIC, [0.25, 0.25])
    private = [
        *rated(Method.PRIVATE, [0.7, 0.7], epsilon=1.0, people=24),
        *rated(Method.PRIVATE, [0.75, 0.75], epsilon=2.0, people=24),
        *rated(Method.PRIVATE, [0.75, 1.0], epsilon=8.0, people=24),
    ]
    assert advice(summarise([*public, *private])).startswith("Choose epsilon 2 with 24 people: it gains +50.0 points")


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


def measured_as(method, split, draw, numbers, *, epsilon=0.0, people=0, deployed="centre, checked"):
    """A trial whose rates are those numbers, in the order of the columns."""
    return Measurement(Trial(method, epsilon, people, split, draw), deployed, *numbers)


def test_a_summary_is_the_mean_and_the_deviation_over_the_means_of_splits():
    """Two draws of one split count as one; what a trial lacks is left out of its own column alone. By hand."""
    private = {"epsilon": 4.0, "people": 24}
    (summary,) = summarise(
        [
            measured_as(Method.PRIVATE, 0, 0, (0.10, 0.70, 0.01, 0.60, 0.005, 0.02, 0.2, 0.55), **private),
            measured_as(Method.PRIVATE, 0, 1, (0.14, 0.80, 0.03, 0.66, 0.005, 0.02), deployed="none", **private),
            measured_as(Method.PRIVATE, 7, 0, (0.22, 0.95, 0.08, 0.90, 0.09, 0.10, 0.6, 0.85), **private),
        ]
    )
    assert (summary.method, summary.epsilon, summary.people, summary.trials) == (Method.PRIVATE, 4.0, 24, 3)
    assert summary.deployed == "centre, checked / none"
    for found, (one, other) in (
        (summary.eer, (0.12, 0.22)),
        (summary.tar, (0.75, 0.95)),
        (summary.fmr_at_threshold, (0.02, 0.08)),
        (summary.tar_at_threshold, (0.63, 0.90)),
        (summary.interval_held, (0.5, 0.0)),
        (summary.attack_tpr, (0.2, 0.6)),
        (summary.attack_auc, (0.55, 0.85)),
    ):
        assert found == pytest.approx(((one + other) / 2, abs(one - other) / 2))


def test_what_no_trial_has_is_no_number_of_the_summary():
    (summary,) = summarise([measured_as(Method.FROZEN, 0, 0, (0.1, 0.7), deployed="none")])
    assert (summary.eer, summary.tar, summary.deployed) == ((0.1, 0.0), (0.7, 0.0), "none")
    assert (summary.fmr_at_threshold, summary.tar_at_threshold, summary.interval_held) == (None, None, None)
    assert (summary.attack_tpr, summary.attack_auc) == (None, None)


def test_summaries_go_from_what_costs_least_to_what_costs_all_and_by_people_before_epsilons():
    made = [
        Trial(Method.FEDERATED, 0.0, 0, 0, 0),
        Trial(Method.PRIVATE, 1.0, 300, 0, 0),
        Trial(Method.PRIVATE, 8.0, 12, 0, 0),
        Trial(Method.PRIVATE, 1.0, 12, 0, 0),
        Trial(Method.OWN, 0.0, 0, 0, 0),
        Trial(Method.PUBLIC, 0.0, 0, 0, 0),
        Trial(Method.FROZEN, 0.0, 0, 0, 0),
    ]
    found = summarise([replace(MEASURED, trial=trial) for trial in (*made, *made)])
    assert [(one.method, one.people, one.epsilon, one.trials) for one in found] == [
        (Method.FROZEN, 0, 0.0, 2),
        (Method.PUBLIC, 0, 0.0, 2),
        (Method.OWN, 0, 0.0, 2),
        (Method.PRIVATE, 12, 1.0, 2),
        (Method.PRIVATE, 12, 8.0, 2),
        (Method.PRIVATE, 300, 1.0, 2),
        (Method.FEDERATED, 0, 0.0, 2),
    ]


@pytest.mark.parametrize("missing", [Method.PUBLIC, Method.PRIVATE])
def test_without_a_baseline_or_without_an_epsilon_nothing_is_advised(missing):
    both = [*rated(Method.PUBLIC, [0.5, 0.5]), *rated(Method.PRIVATE, [0.9, 0.9], epsilon=4.0, people=24)]
    there = [one for one in both if one.trial.method is not missing]
    assert advice(summarise(both)).startswith("Choose epsilon 4 with 24 people")
    assert advice(summarise(there)).startswith("Choose nothing yet")


def test_where_no_number_of_people_would_do_none_is_named():
    """As many as one over delta may be planned for, here 333,333."""
    assert fewest_people_for_scales(0.01, SETTINGS, 58) is None
    assert 100_000 < fewest_people_for_scales(0.03, SETTINGS, 58) < 333_333
