"""The audit of epsilon catches noise, clipping and shares that are wrong, and leaves the honest mechanism standing.

Noise is that of a run, which nobody can repeat. So what must hold is asked at a confidence of all but one in a million.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from federation.errors import UsageError
from federation.experiments import canaries
from federation.experiments.canaries import (
    Mechanism,
    attack_scores,
    audit_epsilon,
    measure_attacks,
    organisation,
    sitters,
)
from federation.experiments.canary_chips import made_up_chips, telling_scales
from federation.experiments.refusals import audit_refusals
from federation.learning.moments import moments_sum
from federation.learning.pairs import pair_sum
from federation.learning.scales import person_gradients, scales_sum
from federation.privacy.bounds import BOUNDS
from federation.privacy.epsilon_audit import AuditMethod
from federation.privacy.plan import Adaptation, PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import TUNABLE
from federation.secagg.ring import discrete_noise, noise_std
from tests.faces import shipped

SURE = 1 - 1e-6


def plan_for(epsilon=8.0, people=120, **changes):
    return PrivacyPlan.for_epsilon(
        epsilon, **{"delta": 1e-5, "people": people, "organisations": 4, "dimension": 32, "directions": 16, **changes}
    )


def audit(plan, **options):
    return audit_epsilon(plan, **{"runs": 1500, "confidence": SURE, **options})


# ------------------------------------------------------------------------------------------------------------ honest
@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_the_honest_mechanism_stays_under_its_claim_and_comes_close(epsilon):
    measured = audit(plan_for(epsilon))
    assert measured.holds
    assert measured.lower_bound > 0.4 * epsilon
    assert (measured.claimed, measured.runs, measured.method) == (epsilon, 3000, AuditMethod.GAUSSIAN)


@pytest.mark.parametrize("changes", [{"colluders": 2}, {"colluders": 0, "dropouts": 1}, {"organisations": 2}], ids=str)
def test_the_attacker_sees_exactly_the_promised_noise_whoever_may_collude_or_leave(changes):
    measured = audit(plan_for(4.0, **changes))
    assert 0.4 * measured.claimed < measured.lower_bound <= measured.claimed


def test_every_kind_of_plan_is_attacked_in_all_its_releases():
    for people, directions, events in (
        (24, 16, ["moments"]),
        (64, 1024, ["threshold"]),
        (120, 16, ["moments", "threshold"]),
    ):
        plan = plan_for(6.0, people, dimension=1024, directions=directions)
        assert [name for name, _ in plan.events] == events
        assert 0.4 * plan.epsilon < audit(plan).lower_bound <= plan.epsilon


def test_how_many_images_a_person_has_makes_no_difference():
    assert audit(plan_for(4.0), images=20).holds


# ------------------------------------------------------------------------------------------------------------ faults
def halved(_member):
    return lambda size, std: discrete_noise(size, std / 2)


def no_noise(size, _std):
    return np.zeros(size, dtype=np.int64)


def silent(*members):
    def of(member):
        return no_noise if member in members else discrete_noise

    return of


def each_image_a_person(statistic):
    """The classic fault: clipping and summing image by image, so that a person counts as often as they were seen."""

    def of(embeddings, *rest):
        names = np.array([f"{p} {i}" for p, i in zip(embeddings.people, embeddings.images, strict=True)])
        return statistic(dataclasses.replace(embeddings, people=names), *rest)

    return of


def clipped_too_late(embeddings: EmbeddingSet, public, plan):
    """Clips to five times the length that the noise is for."""
    return 5 * moments_sum(embeddings, public, plan)


def no_moments(_embeddings, _public, plan):
    return np.zeros(plan.release_size("moments"))


THREE = plan_for(organisations=3, people=150)
FAULTS = {
    "half the noise": Mechanism(noise=halved),
    "no noise": Mechanism(noise=silent(1, 2, 3, 4)),
    "one organisation's noise missing": Mechanism(noise=silent(1)),
    "shares of one organisation missing": Mechanism(missing=1),
    "images clipped instead of people": Mechanism(moments=each_image_a_person(moments_sum)),
    "records five times too long": Mechanism(moments=clipped_too_late),
    "pairs counted twice": Mechanism(threshold=lambda *a: 2 * pair_sum(*a)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_mechanism_is_caught(fault):
    assert not audit(THREE, mechanism=FAULTS[fault], confidence=0.95).holds


@pytest.mark.parametrize("fault", ["half the noise", "images clipped instead of people"])
def test_gross_faults_are_caught_where_the_claim_is_small(fault):
    assert not audit(plan_for(1.0), mechanism=FAULTS[fault], confidence=0.95).holds


def test_more_drop_outs_than_planned_are_caught():
    plan = plan_for(8.0, organisations=6, dropouts=1)
    assert audit(plan).holds
    assert not audit(plan, mechanism=Mechanism(missing=2), confidence=0.95).holds


def test_the_bound_that_assumes_nothing_catches_gross_faults_only():
    method = AuditMethod.CLOPPER_PEARSON
    plan = plan_for(2.0)
    assert audit(plan, method=method).holds
    assert not audit(plan, method=method, mechanism=FAULTS["no noise"]).holds


@pytest.mark.parametrize("method", [AuditMethod.CLOPPER_PEARSON, AuditMethod.ONE_RUN])
def test_only_the_gaussian_bound_notices_half_the_noise_where_the_claim_is_large(method):
    plan = plan_for(8.0, dimension=128, directions=128)
    assert audit(plan, method=method, confidence=0.95, mechanism=FAULTS["half the noise"]).holds


# ------------------------------------------------------------------------------------------------- the recipe `scales`
def scales_plan(epsilon=8.0, people=1000, **changes):
    values = {"organisations": 3, "dimension": 192, "directions": 58, "tuned": TUNABLE, "steps": 2} | changes
    return PrivacyPlan.for_epsilon(epsilon, delta=1e-5, people=people, **values)


SUMS = {}


def computed_once(recogniser, chips, scales, plan):
    """The sum of the code that runs, kept for the next test: it has no noise yet."""
    key = (tuple(chips.people.tolist()), plan.gradient_clip)
    if key not in SUMS:
        SUMS[key] = scales_sum(recogniser, chips, scales, plan)
    return SUMS[key]


def images_clipped(recogniser, chips, scales, plan):
    names = np.array([f"{p} {i}" for p, i in zip(chips.people, chips.images, strict=True)])
    return computed_once(recogniser, dataclasses.replace(chips, people=names), scales, plan)


def audit_steps(plan, *, scales=computed_once, **options):
    mechanism = Mechanism(scales=scales, **options.pop("faults", {}))
    return audit(plan, recogniser=shipped(), mechanism=mechanism, runs=600, **options)


STEPS_FAULTS = {
    "half the noise": {"noise": halved},
    "no noise": {"noise": silent(1, 2, 3)},
    "shares of one organisation missing": {"missing": 1},
    "images clipped instead of people": {"scales": images_clipped},
    "clipped to five clips": {"scales": lambda *a: 5 * computed_once(*a)},
}


def test_steps_of_tuning_keep_their_promise_and_the_attack_comes_close():
    for plan in (scales_plan(), scales_plan(steps=4), scales_plan(6.0, people=2000, organisations=4)):
        assert plan.adaptation is Adaptation.SCALES
        measured = audit_steps(plan)
        assert 0.3 * plan.epsilon < measured.lower_bound <= plan.epsilon


@pytest.mark.parametrize("fault", STEPS_FAULTS)
def test_a_faulty_step_of_tuning_is_caught(fault):
    faults = STEPS_FAULTS[fault]
    scales = faults.get("scales", computed_once)
    rest = {name: value for name, value in faults.items() if name != "scales"}
    assert not audit_steps(scales_plan(), scales=scales, faults=rest, confidence=0.95).holds


def test_an_organisation_that_does_not_clip_cannot_even_add_its_sum():
    def unclipped(recogniser, chips, scales, plan):
        return np.asarray(computed_once(recogniser, chips, scales, plan) * 1000)

    with pytest.raises(UsageError, match="longer than"):
        audit_steps(scales_plan(), scales=unclipped)


def test_the_canary_s_gradient_is_far_longer_than_the_clip_and_lies_in_one_number():
    chips = made_up_chips([("a", True), ("b", False)], images=1)
    one, other = person_gradients(shipped(), chips, telling_scales(shipped()))
    for gradient in (one, other):
        length = np.linalg.norm(gradient)
        assert length > 100 * scales_plan().gradient_clip
        assert np.abs(gradient).max() > 0.999 * length
    assert one @ other < -0.999 * np.linalg.norm(one) * np.linalg.norm(other)


def test_steps_cannot_be_attacked_without_the_network_nor_in_one_run():
    with pytest.raises(UsageError, match="needs the recogniser"):
        audit(scales_plan())
    with pytest.raises(UsageError, match="moments"):
        audit(scales_plan(), recogniser=shipped(), method=AuditMethod.ONE_RUN)


# ----------------------------------------------------------------------------------------------------------- one run
def test_one_run_leaves_the_honest_mechanism_standing_and_notices_missing_noise_where_the_claim_is_small():
    plan, method = plan_for(1.0, people=1000, dimension=128, directions=128), AuditMethod.ONE_RUN
    honest = audit(plan, method=method)
    assert honest.holds
    assert honest.runs == 1
    assert not audit(plan, method=method, confidence=0.99, mechanism=Mechanism(noise=silent(1, 2, 3, 4))).holds


def test_one_run_needs_a_moments_release():
    with pytest.raises(UsageError, match="moments"):
        audit(plan_for(1.0, 100, dimension=128, directions=128), method=AuditMethod.ONE_RUN)


def one_run(coins, monkeypatch, *, noise=0, signs=1, **changes):
    """One audit of 16 axes: what was guessed from it, what every member was asked, and the noise that each drew."""
    plan = plan_for(8.0, 1000, organisations=6, **{"colluders": 2, "dropouts": 1} | changes)
    asked, drawn, guessed = [], [], []

    def moments(embeddings, public, of):
        asked.append((sorted(set(embeddings.people.tolist())), len(embeddings), public.subspace.tolist(), of))
        return signs * moments_sum(embeddings, public, of)

    def source(member):
        def draw(size, std):
            drawn.append((member, size, std))
            return np.full(size, noise, dtype=np.int64)

        return draw

    monkeypatch.setattr(canaries, "audit_of_guesses", lambda *facts, **named: guessed.append((facts, named)) or "audit")
    mechanism = Mechanism(moments=moments, noise=source)
    made = canaries._audit_in_one_run(
        plan, confidence=0.9, mechanism=mechanism, random=lambda size: bytes(coins)[:size]
    )
    assert made == "audit"
    ((facts, named),) = guessed
    assert named == {"claimed": 8.0, "delta": 1e-5, "confidence": 0.9}
    return plan, facts, asked, drawn


def test_one_run_has_a_canary_along_each_axis_whose_coin_says_so_and_guesses_of_half_of_them(monkeypatch):
    """Sixteen axes, of which the first is always there: of fifteen, three are called out and three in, all rightly."""
    coins = [0b10100110, 0b01011001]
    plan, facts, asked, drawn = one_run(coins, monkeypatch)
    there = [place for place in range(16) if f"{coins[0]:08b}{coins[1]:08b}"[place] == "1"]
    names = [f"{place:06d}" for place in there]
    assert facts == (6, 6, 15)
    subspace = np.eye(16, 32).tolist()
    assert (
        asked
        == [(sorted([*names, "always"]), 2 * (1 + len(there)), subspace, plan)] + [(["always"], 2, subspace, plan)] * 2
    )  # of six organisations two collude and one leaves
    assert [member for member, *_ in drawn] == [1, 2, 3]
    shares = noise_std(plan.moments_noise_multiplier, 16) / np.sqrt(3)
    assert [(size, std) for _, size, std in drawn] == [(16, pytest.approx(shares))] * 3


def test_in_one_run_those_with_the_largest_sums_are_called_in(monkeypatch):
    """Where people take away what they should add, every guess is wrong; where nobody or everybody is in, half are."""
    assert one_run([0b10100110, 0b01011001], monkeypatch, signs=-1)[1] == (0, 6, 15)
    assert one_run([0, 0], monkeypatch)[1] == (3, 6, 15)
    assert one_run([0xFF, 0xFF], monkeypatch)[1] == (3, 6, 15)


# ------------------------------------------------------------------------------------------- what is made of the runs
class RunsThatAreTold:
    """In the place of the attack: scores that say which runs they are of."""

    separation = 1.5

    def __init__(self, *given):
        self.given, self.made = given, 0
        RunsThatAreTold.last = self

    def scores(self, runs, *, held_in):
        self.made += 1
        return np.array([1000.0 * self.made, float(runs), 1.0 if held_in else 0.0])


@pytest.fixture
def told(monkeypatch):
    """What each reckoning is given, in order; arrays as lists."""
    found = []

    def remembering(name, answer):
        def remember(*arrays, **named):
            found.append((name, [array.tolist() for array in arrays], named))
            return answer

        monkeypatch.setattr(canaries, name, remember)

    monkeypatch.setattr(canaries, "_Attack", RunsThatAreTold)
    monkeypatch.setattr(canaries, "trade_off", lambda noises: ("stated of", noises))
    remembering("threshold_of_pilot", 0.75)
    remembering("audit_of_scores", "an audit")
    remembering("measured_attack", "an attack")
    return found


def test_the_runs_that_choose_a_threshold_are_not_those_that_count(told):
    plan, mechanism = plan_for(4.0), Mechanism(missing=1)
    options = {"images": 3, "recogniser": "recogniser", "mechanism": mechanism, "confidence": 0.9}
    claim = {"delta": 1e-5, "confidence": 0.9}
    assert audit_epsilon(plan, runs=32, method=AuditMethod.CLOPPER_PEARSON, **options) == "an audit"
    assert RunsThatAreTold.last.given == (plan, mechanism, 3, "recogniser")
    counted = {"threshold": 0.75, "claimed": 4.0, "method": AuditMethod.CLOPPER_PEARSON, **claim}
    assert told == [
        ("threshold_of_pilot", [[1000.0, 10.0, 1.0], [2000.0, 10.0, 0.0]], {"runs": 22, **claim}),
        ("audit_of_scores", [[3000.0, 22.0, 1.0], [4000.0, 22.0, 0.0]], counted),
    ]


def test_the_gaussian_bound_counts_all_runs_and_cuts_in_the_middle(told):
    plan = plan_for(4.0)
    assert audit_epsilon(plan, runs=32, confidence=0.9) == "an audit"
    assert RunsThatAreTold.last.given == (plan, Mechanism(), 4, None)
    named = {"threshold": 0.0, "claimed": 4.0, "delta": 1e-5, "confidence": 0.9, "method": AuditMethod.GAUSSIAN}
    assert told == [("audit_of_scores", [[1000.0, 32.0, 1.0], [2000.0, 32.0, 0.0]], named)]


def test_one_attacker_accuses_one_innocent_in_a_hundred_and_the_other_cuts_in_the_middle(told):
    """Innocents' scores are normal around minus half of the separation: 2.3263 deviations above it lies one in 100."""
    plan, mechanism = plan_for(4.0), Mechanism(missing=1)
    options = {"confidence": 0.9, "recogniser": "recogniser", "mechanism": mechanism}
    assert measure_attacks(plan, runs=32, **options) == ("an attack", "an attack")
    assert RunsThatAreTold.last.given == (plan, mechanism, 4, "recogniser")
    sides = [[1000.0, 32.0, 1.0], [2000.0, 32.0, 0.0]]
    stated = {"stated": ("stated of", plan.noise_multipliers), "confidence": 0.9}
    assert told == [
        ("measured_attack", sides, {"threshold": pytest.approx(2.32635 - 0.75, abs=1e-5), **stated}),
        ("measured_attack", sides, {"threshold": 0.0, **stated}),
    ]


def test_scores_of_an_attack_are_of_the_side_and_of_as_many_runs_as_was_said(told):
    plan, mechanism = plan_for(4.0), Mechanism(missing=1)
    for held_in in (True, False):
        scores, separation = attack_scores(plan, 32, held_in=held_in, recogniser="recogniser", mechanism=mechanism)
        assert (scores.tolist(), separation) == ([1000.0, 32.0, float(held_in)], 1.5)
        assert RunsThatAreTold.last.given == (plan, mechanism, 4, "recogniser")
    attack_scores(plan, 32, held_in=True)
    assert RunsThatAreTold.last.given == (plan, Mechanism(), 4, None)
    assert told == []
    with pytest.raises(UsageError, match="at least 10 runs"):
        measure_attacks(plan, runs=9)


def test_without_noise_both_sides_lie_half_of_their_separation_from_the_middle():
    """In each release, and in all together: so noise of the promised size has a standard deviation of 1 in scores."""
    plan = plan_for(6.0, organisations=6, colluders=2, dropouts=1, people=300)
    attack = canaries._Attack(plan, Mechanism(noise=silent(1, 2, 3)), 4, None)
    for one in (*attack._views, attack):
        assert one.separation > 0.3
        for held_in, sign in ((True, 1), (False, -1)):
            assert one.scores(2, held_in=held_in) == pytest.approx([sign * one.separation / 2] * 2, rel=1e-4)


def test_the_noise_of_all_members_counts_along_the_change_of_the_canary_and_in_units_of_what_was_promised():
    """Each of three draws its share in each number that the canary changes: together root three of the noise there."""
    plan = plan_for(6.0, organisations=6, colluders=2, dropouts=1, people=300)

    def share(_member):
        return lambda size, std: np.full(size, round(std), dtype=np.int64)

    for view, quiet in zip(
        *(canaries._Attack(plan, Mechanism(noise=noise), 4, None)._views for noise in (share, silent(1, 2, 3))),
        strict=True,
    ):
        moved = view.scores(2, held_in=True) - quiet.scores(2, held_in=True)
        assert moved == pytest.approx([np.sqrt(3) * view._direction.sum()] * 2, rel=1e-3)


def test_releases_are_weighed_by_how_far_they_set_both_sides_apart():
    attack = object.__new__(canaries._Attack)
    views = [
        SimpleNamespace(separation=s, scores=lambda runs, *, held_in, x=x: np.full(runs, x if held_in else -x))
        for s, x in ((3.0, 2.0), (4.0, 5.0))
    ]
    attack._views, attack.separation = views, 5.0
    assert attack.scores(2, held_in=True).tolist() == [(3 * 2 + 4 * 5) / 5] * 2
    assert attack.scores(3, held_in=False).tolist() == [-(3 * 2 + 4 * 5) / 5] * 3


def test_an_attack_on_all_releases_sets_both_sides_as_far_apart_as_all_of_them_together():
    plan = plan_for()
    attack = canaries._Attack(plan, Mechanism(), 4, None)
    assert [name for name, _ in plan.events] == ["moments", "threshold"]
    separations = [view.separation for view in attack._views]
    assert separations == pytest.approx([1 / noise for _, noise in plan.events], rel=1e-3)  # the whole sensitivity
    assert attack.separation == pytest.approx(1 / plan.noise_multiplier, rel=1e-3)
    assert attack.separation == pytest.approx(np.hypot(*separations))


def test_noise_is_drawn_once_for_each_run_and_lies_where_it_was_asked_for():
    drawn = []

    def draw(size, std):
        drawn.append((size, std))
        return np.arange(1, size + 1) + 100 * len(drawn)

    few = canaries._FewNumbers(draw, np.array([1, 4]), runs=3)
    made = [few(6, 2.5).tolist() for _ in range(4)]
    assert made == [
        [0, 105, 0, 0, 106, 0],
        [0, 103, 0, 0, 104, 0],
        [0, 101, 0, 0, 102, 0],
        [0, 205, 0, 0, 206, 0],
    ]
    assert drawn == [(6, 2.5), (6, 2.5)]


def test_the_canary_is_in_one_organisation_alone_and_its_images_are_as_many_as_was_said():
    plan = plan_for()
    for made in (organisation(plan, 3, canary=True), sitters(3, canary=True)):
        counts = dict(zip(*np.unique(made.people, return_counts=True), strict=True))
        assert counts.pop(canaries.CANARY) == (6 if hasattr(made, "profiles") else 3)
        assert set(counts.values()) == ({6} if hasattr(made, "profiles") else {1})
    for canary in (False, None):
        for made in (organisation(plan, 3, canary=canary), sitters(3, canary=canary)):
            assert canaries.CANARY not in made.people
    attack = canaries._Attack(plan, Mechanism(), 1, None)
    for view in attack._views:
        assert [sorted(view._sums[held_in]) for held_in in (True, False)] == [[1, 2, 3]] * 2  # one of four colludes
        crowd = len(set(organisation(plan, 1, canary=None).people.tolist()))
        people = {held_in: [count for _, count in sums.values()] for held_in, sums in view._sums.items()}
        assert people == {True: [crowd + 1, crowd, crowd], False: [crowd] * 3}


# ------------------------------------------------------------------------------------------------------------- usage
@pytest.mark.parametrize(
    ("method", "runs"), [(AuditMethod.GAUSSIAN, 60), (AuditMethod.CLOPPER_PEARSON, 40), (AuditMethod.ONE_RUN, 1)]
)
def test_an_audit_says_its_confidence_and_the_runs_that_counted(method, runs):
    """Of the bound that chooses its threshold, a third of the runs chose it and do not count."""
    measured = audit(plan_for(), method=method, runs=30, confidence=0.9)
    assert (measured.confidence, measured.runs, measured.method) == (0.9, runs, method)
    with pytest.raises(UsageError, match="a canary at least one image"):
        audit(plan_for(), images=0)


def test_audits_that_cannot_be_made_say_why():
    with pytest.raises(UsageError, match="at least 10 runs"):
        audit(plan_for(), runs=0)
    with pytest.raises(UsageError, match="honest"):
        audit(plan_for(), mechanism=Mechanism(missing=3))
    with pytest.raises(UsageError, match="changes nothing"):
        audit(plan_for(), mechanism=Mechanism(moments=no_moments))


# ---------------------------------------------------------------------------------------------------------- refusals
def refusing_threshold(embeddings, question, members):
    people = set(embeddings.people.tolist())
    if not all(set(embeddings.profiles[embeddings.people == person]) == {"reference", "probe"} for person in people):
        raise UsageError("every person needs images of both camera profiles")
    return pair_sum(embeddings, question, members)


def refusing_what_is_not_finite(embeddings, question, members):
    """What a node of old did, with the photograph of one person in the adapter."""
    if not np.isfinite(embeddings.embeddings.astype(float) @ question.adapter.projection.T).all():
        raise UsageError("the sum is longer than so many people can make it")
    return pair_sum(embeddings, question, members)


def test_no_question_is_answered_without_the_canary_only():
    measured = audit_refusals(plan_for())
    assert measured.holds
    assert measured.lower_bound == 0
    assert measured.runs == 2 * 3 * 8 * 2
    assert measured.method is AuditMethod.REFUSALS


@pytest.mark.parametrize(
    "mechanism",
    [Mechanism(threshold=refusing_threshold), Mechanism(threshold=refusing_what_is_not_finite)],
    ids=["whoever lacks a camera", "whoever is not finite"],
)
def test_a_question_that_is_answered_without_the_canary_only_breaks_every_promise(mechanism):
    measured = audit_refusals(plan_for(), mechanism=mechanism)
    assert not measured.holds
    assert measured.lower_bound == 100


def test_each_question_is_asked_about_the_same_people_without_the_canary_and_with_it():
    """Of every size, in both directions, far beyond all bounds; and of a canary that both cameras saw, or one."""
    asked = []

    def moments(embeddings, public, plan):
        rows = embeddings.profiles[embeddings.people == canaries.CANARY].tolist()
        asked.append(("moments", np.abs(public.subspace).max(), public.start.max(), public.start.min(), rows))
        return np.zeros(plan.release_size("moments"))

    def threshold(embeddings, question, members):
        rows = embeddings.profiles[embeddings.people == canaries.CANARY].tolist()
        projection, centre = question.adapter.projection, question.adapter.centres["reference"]
        asked.append(("threshold", np.abs(projection).max(), centre.max(), centre.min(), rows))
        assert members == len(set(embeddings.people.tolist()) | {canaries.CANARY})
        return np.zeros(3)

    plan = plan_for()
    with np.errstate(all="ignore"):
        measured = audit_refusals(plan, mechanism=Mechanism(moments=moments, threshold=threshold), confidence=0.875)
    assert (measured.claimed, measured.delta, measured.confidence) == (8.0, 1e-5, 0.875)
    expected = [
        (release, size, sign, rows)
        for release in ("moments", "threshold")
        for cameras in (["reference", "probe"], ["reference"], ["probe"])
        for size in (0.0, 5e-324, 1e-300, 1.0, 4.0, 16.0, 1e150, np.finfo(float).max)
        for sign in (1, -1)
        for rows in ([], cameras)
    ]
    assert len(asked) == len(expected) == 192
    for (release, largest, most, least, rows), (wanted, size, sign, cameras) in zip(asked, expected, strict=True):
        assert (release, rows, most) == (wanted, cameras, least)
        assert most == pytest.approx(sign * size / 4, rel=1e-12, abs=1e-323)  # 16 equal numbers of norm 1
        assert largest == pytest.approx(size / 4 / 0.9999, rel=1e-12, abs=1e-323)


def test_each_step_is_asked_about_once_with_four_loud_scales_of_the_same_people_and_the_canary():
    asked = []

    def scales(recogniser, chips, changes, of):
        asked.append((recogniser, sorted(set(chips.people.tolist())), changes, of))
        return np.zeros(of.tuned)

    plan = plan_for(people=4000, dimension=192, directions=58, tuned=TUNABLE, steps=3)
    mechanism = Mechanism(scales=scales, threshold=lambda *_: np.zeros(3))
    measured = audit_refusals(plan, recogniser=shipped(), mechanism=mechanism)
    assert (measured.holds, measured.runs) == (True, 4 + 3 * 8 * 2)
    assert all((recogniser, of) == (shipped(), plan) for recogniser, _, _, of in asked)
    without, with_canary = asked[::2], asked[1::2]
    for (_, people, changes, _), (_, and_canary, same, _) in zip(without, with_canary, strict=True):
        assert and_canary == sorted([*people, canaries.CANARY])
        assert np.array_equal(changes, same)
    telling, loud, most, endless = (changes for _, _, changes, _ in without)
    assert np.array_equal(telling, telling_scales(shipped()))
    assert np.unique(np.abs(most)).tolist() == [BOUNDS["scales"][1]]
    assert np.array_equal(np.sign(most), np.sign(loud))
    assert np.std(loud) == pytest.approx(10**3.6385, rel=0.05)
    assert endless == pytest.approx(loud / 10**3.6385 * 1e30)


@pytest.mark.parametrize(
    ("refused", "holds"), [({True, False}, True), ({True}, False), ({False}, False), (set(), True)]
)
def test_what_tells_is_that_one_of_two_is_answered_whichever_it_is(refused, holds):
    """A question that nobody answers says nothing of the canary."""

    def threshold(embeddings, _question, _members):
        if (canaries.CANARY in embeddings.people) in refused:
            raise UsageError("no")
        return np.zeros(3)

    measured = audit_refusals(plan_for(), mechanism=Mechanism(moments=no_moments, threshold=threshold))
    assert (measured.holds, measured.lower_bound, measured.runs) == (holds, 0.0 if holds else 100.0, 96)


def test_no_step_of_tuning_is_answered_without_the_canary_only():
    plan = plan_for(people=4000, dimension=192, directions=58, tuned=TUNABLE, steps=1)
    measured = audit_refusals(plan, recogniser=shipped())
    assert measured.holds
    assert measured.runs == 4 + 3 * 8 * 2

    def refusing(_recogniser, chips, _scales, of):
        if len(chips) > 8:
            raise UsageError("no")
        return np.zeros(of.tuned)

    silent_about_pairs = Mechanism(scales=refusing, threshold=lambda *_: np.zeros(3))
    assert not audit_refusals(plan, recogniser=shipped(), mechanism=silent_about_pairs).holds
    with pytest.raises(UsageError, match="needs the recogniser"):
        audit_refusals(plan)
