"""Private error rates by group: bounded contributions, one secure sum, honest intervals, nothing without support."""

import dataclasses
import hashlib
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from federation.errors import MalformedMessageError, UsageError
from federation.identity import verify_identity
from federation.learning import private_evaluation
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan, Group
from federation.learning.group_rates import EvaluationReport, GroupRates, Rate, Support
from federation.learning.private_evaluation import estimate_rates, evaluation_sum, report_of
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg import Session
from federation.secagg.protocol import run_secagg
from federation.secagg.ring import decode, noise_std, noisy_input
from tests.federation.secagg.parties import identity, session_of, signers
from tests.people import DIMENSION, start_vector, synthetic_people

CODE_LENGTH, THRESHOLD = 2048, 700
NO_NOISE = 1e-9
ADAPTER = Adapter({REFERENCE: start_vector(), PROBE: start_vector() + 0.02}, None)
NAMES = [f"person {i:02d}" for i in range(12)]
GROUPS = {name: ("odd" if i % 2 else "even") for i, name in enumerate(NAMES)}


TWO_GROUPS = (Group("even", 3000, 3000), Group("odd", 3000, 3000))


def plan_for(epsilon=8.0, groups=TWO_GROUPS, **changes):
    known = [group.people for group in groups]
    values = {
        "delta": 1e-6,
        "groups": groups,
        "organisations": 4,
        "threshold": THRESHOLD,
        "code_length": CODE_LENGTH,
        "release": "ab" * 32,
    }
    values["people"] = sum(known) if all(known) else 6000
    return EvaluationPlan.for_epsilon(epsilon, **values | changes)


# ------------------------------------------------------------------------------------------------- contributions
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 6),
    left=st.integers(0, 5),
    images=st.integers(2, 4),
    groups=st.lists(st.sampled_from(["even", "odd"]), min_size=6, max_size=6),
    threshold=st.integers(100, 1000),
)
@settings(max_examples=60)
def test_one_person_changes_the_histograms_by_at_most_one(seed, count, left, images, groups, threshold):
    names = NAMES[:count]
    everybody = synthetic_people(names, seed=seed, images=images, shift=0.5)
    others = everybody.of_people([n for n in names if n != names[left % count]])
    plan, of = plan_for(threshold=threshold), dict(zip(NAMES, groups, strict=False))
    change = evaluation_sum(everybody, ADAPTER, of, plan) - (
        evaluation_sum(others, ADAPTER, of, plan) if len(others) else 0
    )
    assert np.linalg.norm(change) <= 1 + 1e-12


def test_the_worst_person_changes_the_histograms_by_exactly_one():
    """A person who looks like both neighbours, who are opposites of each other."""
    axis = np.zeros(DIMENSION, dtype=np.float32)
    axis[0] = 1
    template = synthetic_people(["a", "b", "c"], images=2)
    rows = {"a": (-axis, axis), "b": (axis, -axis), "c": (axis, axis)}
    vectors = [rows[p][int(f == PROBE)] for p, f in zip(template.people, template.profiles, strict=True)]
    everybody = dataclasses.replace(template, embeddings=np.array(vectors))
    plan, of = plan_for(), dict.fromkeys("abc", "even")
    identity = Adapter.identity(DIMENSION)
    change = evaluation_sum(everybody, identity, of, plan) - evaluation_sum(
        everybody.of_people(["a", "c"]), identity, of, plan
    )
    assert np.linalg.norm(change) == pytest.approx(1)


def cosines_of(person):
    """Of the first half of a person's images as references with the second half as probes."""
    images = list(dict.fromkeys(person.images.tolist()))
    halves = [np.isin(person.images, half) for half in (images[: len(images) // 2], images[len(images) // 2 :])]
    references, probes = (
        ADAPTER.apply(person.embeddings[half & (person.profiles == side)], side)
        for half, side in zip(halves, (REFERENCE, PROBE), strict=True)
    )
    return references @ probes.T


def test_templates_and_probes_are_averaged_as_the_release_says():
    everybody, plan = synthetic_people(NAMES, images=8), plan_for(bins=2)
    single, fused = (
        evaluation_sum(everybody, ADAPTER, GROUPS, plan, references=n, frames=n).reshape(2, 2, 2) for n in (1, 2)
    )
    assert fused[:, 0].sum() == pytest.approx(single[:, 0].sum())
    assert fused[:, 0, 0].sum() > single[:, 0, 0].sum()  # more owners are accepted


@pytest.mark.parametrize(("references", "frames"), [(2, 1), (1, 2), (3, 2)])
def test_references_are_averaged_by_their_own_number_and_frames_by_theirs(references, frames):
    """By hand, with loops, of two people in one group: each with themselves, and with the other one in the ring."""
    everybody, plan = synthetic_people(NAMES[:2], images=8), plan_for()
    seen = evaluation_sum(everybody, ADAPTER, dict.fromkeys(NAMES, "odd"), plan, references=references, frames=frames)
    sides = {}
    for name in NAMES[:2]:
        for profile, halves, size in ((REFERENCE, range(4), references), (PROBE, range(4, 8), frames)):
            wanted = [f"{name}-{number}" for number in halves]
            mine = (everybody.people == name) & (everybody.profiles == profile) & np.isin(everybody.images, wanted)
            rows = everybody.embeddings[mine].astype(float)
            means = [rows[start : start + size].mean(axis=0) for start in range(0, len(rows) - size + 1, size)]
            sides[name, profile] = ADAPTER.apply(np.array([m / np.linalg.norm(m) for m in means]), profile)
    expected = np.zeros((2, 2, plan.bins))
    for one, other in (NAMES[:2], NAMES[1::-1]):
        for kind, (weight, shown) in enumerate(zip(evaluation_weights(), (one, other), strict=True)):
            cosines = [float(t @ p) for t in sides[one, REFERENCE] for p in sides[shown, PROBE]]
            assert len(cosines) == (4 // references) * (4 // frames)
            for cosine in cosines:
                place = sum(math.acos(cosine) / math.pi > edge for edge in plan.edges)
                expected[1, kind, place] += weight / len(cosines)
    assert seen.reshape(expected.shape) == pytest.approx(expected)


def test_impostors_are_of_the_same_group_and_images_of_different_pictures():
    everybody = synthetic_people(NAMES, images=4)
    total = evaluation_sum(everybody, ADAPTER, GROUPS, plan_for(bins=2))
    seen = total.reshape(2, 2, 2)
    for number, name in enumerate(("even", "odd")):
        ring = [person for person in NAMES if GROUPS[person] == name]
        scores = {p: cosines_of(everybody.of_people([p])) for p in ring}
        accepted = [
            (np.arccos(np.clip(s, -1, 1)) / np.pi * CODE_LENGTH <= THRESHOLD + 0.5).mean() for s in scores.values()
        ]
        assert seen[number, 0, 0] / seen[number, 0].sum() == pytest.approx(np.mean(accepted))
        assert seen[number, 1].sum() / seen[number, 0].sum() == pytest.approx(1 / math.sqrt(math.sqrt(5)))


def test_a_person_alone_in_a_group_of_an_organisation_has_no_impostors():
    of = {**dict.fromkeys(NAMES, "even"), NAMES[0]: "odd"}
    total = evaluation_sum(synthetic_people(NAMES), ADAPTER, of, plan_for()).reshape(2, 2, -1)
    assert total[1, 0].any()
    assert not total[1, 1].any()


@pytest.mark.parametrize("groups", [{}, dict.fromkeys(NAMES, "elsewhere")], ids=["none", "unknown"])
def test_people_without_a_group_of_the_plan_count_nowhere(groups):
    assert not evaluation_sum(synthetic_people(NAMES), ADAPTER, groups, plan_for()).any()
    with_two = {**groups, NAMES[0]: "odd", NAMES[2]: "odd"}
    two = synthetic_people(NAMES).of_people([NAMES[0], NAMES[2]])
    assert np.array_equal(
        evaluation_sum(synthetic_people(NAMES), ADAPTER, with_two, plan_for()),
        evaluation_sum(two, ADAPTER, with_two, plan_for()),
    )


def test_of_an_odd_number_of_images_the_larger_half_is_references():
    """Two references of one image each, and one probe: a third of an image in the middle would be nobody's."""
    everybody = synthetic_people(NAMES[:1], images=3)
    seen = evaluation_sum(everybody, ADAPTER, {NAMES[0]: "odd"}, plan_for(bins=2)).reshape(2, 2, 2)[1, 0]
    rows = everybody.embeddings
    references = ADAPTER.apply(
        rows[(everybody.profiles == REFERENCE) & (everybody.images != f"{NAMES[0]}-2")], REFERENCE
    )
    probes = ADAPTER.apply(rows[(everybody.profiles == PROBE) & (everybody.images == f"{NAMES[0]}-2")], PROBE)
    accepted = np.arccos(references @ probes.T) / np.pi * CODE_LENGTH <= THRESHOLD + 0.5
    assert accepted.shape == (2, 1)
    assert seen[0] / seen.sum() == pytest.approx(accepted.mean())


def test_people_with_one_image_count_nowhere():
    assert not evaluation_sum(synthetic_people(NAMES, images=1), ADAPTER, GROUPS, plan_for()).any()


# --------------------------------------------------------------------------------------------- the whole way, exact
def test_organisations_get_through_secure_aggregation_what_one_would_compute():
    everybody = synthetic_people(NAMES)
    size = len(NAMES) // 2
    plan = plan_for(
        20.0, (Group("even", size, size), Group("odd", size, size)), bins=2, largest_half_width=1.0, organisations=2
    )
    roster = tuple(identity(member).public for member in (1, 2))
    session = Session("run", EVALUATION, plan.digest, roster, plan.size, plan.colluders, plan.dropouts)
    halves = [NAMES[:6], NAMES[6:]]
    sums = [evaluation_sum(everybody.of_people(half), ADAPTER, GROUPS, plan) for half in halves]
    inputs = {
        member: noisy_input(session, exact, len(half), plan.noise_multiplier)
        for member, exact, half in zip(session.members, sums, halves, strict=True)
    }
    noise = plan.noise_multiplier * math.sqrt(2 / 1)  # both drew, each for one that does not collude
    opened = decode(
        run_secagg(session, inputs, sign=signers(session), verify=verify_identity), 12, noise_std(noise, plan.size)
    )
    assert np.abs(opened - sum(sums)).max() < 6 * noise
    assert not np.array_equal(opened, sum(sums))
    rates = estimate_rates(opened, plan, noise_multiplier=noise)
    assert [r.support for r in rates] == [Support.SUFFICIENT] * 2
    exact_rates = estimate_rates(sum(sums), plan, noise_multiplier=NO_NOISE)
    for private, exact in zip(rates, exact_rates, strict=True):
        assert private.fnmr.low <= exact.fnmr.value <= private.fnmr.high
        assert private.fmr.low <= exact.fmr.value <= private.fmr.high


def test_the_session_of_an_evaluation_has_room_for_its_noise():
    plan = plan_for()
    assert session_of(size=plan.size).size == plan.size == 48
    assert plan.events == ((EVALUATION, plan.noise_multiplier),)
    assert plan.digest != dataclasses.replace(plan, threshold=THRESHOLD + 1).digest


# -------------------------------------------------------------------------------------------------------- estimates
GENUINE, IMPOSTOR = stats.norm(0.27, 0.04), stats.norm(0.45, 0.05)
TRUE_EER = float(GENUINE.sf((0.27 * 0.05 + 0.45 * 0.04) / 0.09))


def total_of_model(plan, people, rng, *, comparisons=25):
    """Exact sum over people whose distances are normal; comparisons of one person share a mean."""
    edges = plan.edges

    def histogram(law, rows):
        own = rng.normal(0, 0.7 * law.std(), (rows, 1))
        distances = law.mean() + own + rng.normal(0, math.sqrt(1 - 0.49) * law.std(), (rows, comparisons))
        return np.bincount(np.searchsorted(edges, distances.ravel()), minlength=plan.bins) / comparisons

    weights = evaluation_weights()
    return np.concatenate(
        [w * histogram(law, people) for _ in plan.groups for law, w in zip((GENUINE, IMPOSTOR), weights, strict=True)]
    )


def evaluation_weights():
    genuine = 1 / math.sqrt(1 + math.sqrt(5))
    return genuine, math.sqrt((1 - genuine**2) / 5)


def noisy(total, plan, rng):
    noise = plan.noise_multiplier * math.sqrt(4 / 3)  # four drew for the three that do not collude
    return estimate_rates(total + noise * rng.normal(size=len(total)), plan, noise_multiplier=noise)


@pytest.mark.parametrize(("people", "epsilon", "points"), [(1000, 2.0, 2.0), (1000, 8.0, 1.0), (10_000, 1.0, 0.6)])
def test_rates_come_close_to_the_exact_ones(people, epsilon, points):
    plan, rng = plan_for(epsilon, (Group("all", people, people),)), np.random.default_rng(5)
    errors = []
    for _ in range(60):
        (rates,) = noisy(total_of_model(plan, people, rng), plan, rng)
        errors.append(100 * abs(rates.eer.value - TRUE_EER))
    assert np.mean(errors) < points


def test_without_noise_twelve_bins_give_nearly_the_true_equal_error_rate():
    plan = plan_for(groups=(Group("all", 3000, 3000),))
    rng = np.random.default_rng(1)
    (rates,) = estimate_rates(total_of_model(plan, 3000, rng), plan, noise_multiplier=NO_NOISE)
    assert rates.eer.value == pytest.approx(TRUE_EER, abs=0.004)


@pytest.mark.parametrize("public", [True, False], ids=["public sizes", "sizes with noise"])
@pytest.mark.parametrize("bins", [2, 12])
def test_intervals_hold_the_true_rates_about_as_often_as_they_say(public, bins):
    people = 1500
    group = Group("all", people, people) if public else Group("all")
    plan, rng = plan_for(4.0, (group,), bins=bins), np.random.default_rng(7)
    edge = plan.edges[bins // 2 - 1]
    truth = {"fmr": float(IMPOSTOR.cdf(edge)), "fnmr": float(GENUINE.sf(edge)), "eer": TRUE_EER}
    if bins == 2:
        truth.pop("eer")
    hits = dict.fromkeys(truth, 0)
    for _ in range(200):
        (rates,) = noisy(total_of_model(plan, people, rng), plan, rng)
        assert rates.people == pytest.approx(people, abs=0 if public else 60)
        for name, value in truth.items():
            rate = getattr(rates, name)
            hits[name] += rate.low <= value <= rate.high
    assert min(hits.values()) >= 184  # 95 % of 200 is 190


def worst_total(plan, people, rng):
    """Exact sum where a person's comparisons all err or none does, and every pair's two people meet the same one."""
    counted = []
    for law, weight, times in zip((GENUINE, IMPOSTOR), evaluation_weights(), (1, 2), strict=True):
        distances = law.rvs(people // times, random_state=rng)
        counted.append(weight * times * np.bincount(np.searchsorted(plan.edges, distances), minlength=plan.bins))
    return np.concatenate(counted)


@pytest.mark.parametrize(("width", "fewest", "most"), [(1.0, 925, 975), (0.8, 0, 924), (1.25, 976, 1000)])
@pytest.mark.parametrize("public", [True, False], ids=["public sizes", "sizes with noise"])
@pytest.mark.parametrize("epsilon", [40.0, 0.6], ids=["little noise", "much noise"])
def test_an_interval_that_is_a_fifth_narrower_or_wider_is_noticed(monkeypatch, epsilon, public, width, fewest, most):
    """Where comparisons depend on each other as much as the intervals assume, so that nothing else widens them."""
    monkeypatch.setattr(private_evaluation, "Z", width * private_evaluation.Z)
    group = Group("all", 1500, 1500) if public else Group("all")
    plan = plan_for(epsilon, (group,), bins=2, largest_half_width=1.0, threshold=790)
    rng, truth = np.random.default_rng(7), float(IMPOSTOR.cdf(plan.edges[0]))
    hits = 0
    for _ in range(1000):
        (rates,) = noisy(worst_total(plan, 1500, rng), plan, rng)
        hits += rates.fmr.low <= truth <= rates.fmr.high
    assert fewest <= hits <= most  # 95 % of 1000, give or take 3.6 standard deviations


def test_when_organisations_left_the_numbers_are_those_of_the_others():
    plan = plan_for(groups=(Group("all", 4000, 4000),))
    total = total_of_model(plan, 3000, np.random.default_rng(3))  # a quarter left
    truth = float(GENUINE.sf(plan.edges[5]))
    stayed = (Group("all", 3000, 3000),)
    (right,) = estimate_rates(total, plan, noise_multiplier=NO_NOISE, groups=stayed)
    (wrong,) = estimate_rates(total, plan, noise_multiplier=NO_NOISE)
    assert right.fnmr.low <= truth <= right.fnmr.high
    assert not wrong.fnmr.low <= truth <= wrong.fnmr.high
    with pytest.raises(UsageError, match="in its order"):
        estimate_rates(total, plan, noise_multiplier=NO_NOISE, groups=(Group("others", 3000, 3000),))


def test_an_interval_that_leaves_the_noise_out_would_be_too_narrow():
    plan, rng = plan_for(1.0, (Group("all", 1500, 1500),)), np.random.default_rng(7)
    truth = float(IMPOSTOR.cdf(plan.edges[5]))
    hits = 0
    for _ in range(100):
        total = total_of_model(plan, 1500, rng) + plan.noise_with(plan.noise_multiplier, 4) * rng.normal(size=plan.size)
        (rates,) = estimate_rates(total, plan, noise_multiplier=NO_NOISE)
        hits += rates.fmr.low <= truth <= rates.fmr.high
    assert hits < 80


@given(total=st.lists(st.floats(-1e9, 1e9), min_size=48, max_size=48))
@settings(max_examples=50)
def test_any_noise_gives_rates_in_range_and_in_order(total):
    for groups in (TWO_GROUPS, (Group("even"), Group("odd"))):
        for rates in estimate_rates(np.array(total), plan_for(groups=groups), noise_multiplier=1.0):
            for rate in filter(None, (rates.fmr, rates.fnmr, rates.eer)):
                assert 0 <= rate.low <= rate.value <= rate.high <= 1


# -------------------------------------------------------------------------------------------------------- no support
def test_a_group_that_the_noise_drowns_is_insufficient_and_shows_nothing():
    plan = plan_for(1.0, (Group("many", 5000, 5000), Group("few", 50, 50), Group("scattered", 5000, 10)))
    assert [plan.supports(g) for g in plan.groups] == [Support.SUFFICIENT, Support.INSUFFICIENT, Support.INSUFFICIENT]
    rng = np.random.default_rng(2)
    many, few, scattered = noisy(total_of_model(plan, 5000, rng), plan, rng)
    assert many.fmr.value < 0.1
    assert (few.support, few.fmr, few.fnmr, few.eer) == (Support.INSUFFICIENT, None, None, None)
    assert scattered.eer is None


@pytest.mark.parametrize("support", Support)
def test_rates_are_shown_to_people_where_they_are_supported_and_nowhere_else(support):
    rate = Rate(0.0125, 0.01, 0.03)
    said = GroupRates("men", 300.0, support, rate, None, dataclasses.replace(rate, value=0.02)).text
    is_shown = support is Support.SUFFICIENT
    assert said.startswith("men: about 300 people, FMR 1.25 % (1.00 to 3.00), EER 2.00 %") is is_shown
    assert ("INSUFFICIENT" in said, "%" not in said) == (not is_shown, not is_shown)
    assert "FNMR" not in said


def test_a_plan_that_could_print_nothing_cannot_be_built():
    with pytest.raises(UsageError, match=r"at least \d+ people.*none was spent"):
        plan_for(1.0, (Group("few", 50, 50),))
    needed = plan_for().people_needed
    assert plan_for(groups=(Group("just enough", needed, needed),)).people_needed == needed
    with pytest.raises(UsageError, match="nothing could be printed"):
        plan_for(groups=(Group("one short", needed - 1, needed - 1),))


@pytest.mark.parametrize("bins", [2, 12])
def test_what_is_printed_of_a_group_is_what_its_plan_said_could_be(bins):
    """At the number of people where that changes, where the noise alone is as wide as may be."""
    needed = plan_for(1.0, (Group("many", 100_000, 100_000),), bins=bins).people_needed
    sizes = (100_000, needed, needed - 1, round(needed / 1.5))
    plan = plan_for(1.0, tuple(Group(str(size), size, size) for size in sizes), bins=bins)
    noise = plan.noise_with(plan.noise_multiplier, plan.organisations)
    printed = [rates.support for rates in estimate_rates(np.zeros(plan.size), plan, noise_multiplier=noise)]
    assert printed == [plan.supports(group) for group in plan.groups]
    assert printed == [Support.SUFFICIENT] * 2 + [Support.INSUFFICIENT] * 2


@pytest.mark.parametrize(("times", "support"), [(1.0, Support.INSUFFICIENT), (2.0, Support.SUFFICIENT)])
def test_where_sizes_are_not_public_their_own_noise_needs_more_people(times, support):
    """Nearly all strangers are beyond the threshold, so the noise of the sum counts too: sqrt(2) times as many."""
    needed = plan_for(1.0, (Group("all", 100_000, 100_000),)).people_needed
    plan, people = plan_for(1.0, (Group("unknown"),), people=100_000), round(times * needed)
    total = total_of_model(plan, people, np.random.default_rng(2))
    noise = plan.noise_with(plan.noise_multiplier, plan.organisations)
    assert estimate_rates(total, plan, noise_multiplier=noise)[0].support is support


def test_two_bins_need_fewer_people_than_twelve():
    assert plan_for(bins=2).people_needed < 0.5 * plan_for(bins=12).people_needed


def test_where_sizes_are_not_public_too_few_people_are_noticed_afterwards():
    plan, rng = plan_for(1.0, (Group("unknown"),)), np.random.default_rng(2)
    assert plan.supports(plan.groups[0]) is Support.UNKNOWN
    assert noisy(total_of_model(plan, 30, rng), plan, rng)[0].support is Support.INSUFFICIENT
    assert noisy(total_of_model(plan, 9000, rng), plan, rng)[0].support is Support.SUFFICIENT


# -------------------------------------------------------------------------------------------------------------- plan
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bins": 3}, "histograms have an even number of bins, got"),
        ({"bins": 0}, "bins must be from 2 to 16, got 0"),
        ({"bins": 18}, "bins must be from 2 to 16, got 18"),
        ({"threshold": 0}, "a threshold lies between 0 and 1024 bits,"),
        ({"threshold": 1024}, "a threshold lies between 0 and 1024 bits,"),
        ({"groups": ()}, "an evaluation is about 1 to 64 groups of"),
        ({"groups": (Group("a", 9999, 9999), Group("a", 9999, 9999))}, "an evaluation is about 1 to 64 groups of"),
        ({"organisations": 1}, "1 organisations cannot stand 1 colluders"),
        ({"colluders": 4}, "4 organisations cannot stand 4 colluders"),
        ({"dropouts": 2}, "4 organisations cannot stand 1 colluders"),
        ({"dropouts": -1}, "an evaluation plan has a field of the wrong"),
        ({"noise_multiplier": 0.1}, "the noise is too small for the promise;"),
        ({"noise_multiplier": 1}, "an evaluation plan has a field of the wrong"),
        ({"largest_half_width": 0.0}, "an evaluation plan has a field of the wrong"),
        ({"epsilon": 1.0}, "the noise is too small for the promise;"),
    ],
    ids=str,
)
def test_an_evaluation_plan_out_of_range_cannot_be_built(change, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        dataclasses.replace(plan_for(), **change)


@pytest.mark.parametrize(
    "fields", [("", 5, 5), ("x" * 65,), ("a", 5), ("a", 0, 0), ("a", 5, 6), ("a", 5.0, 5)], ids=str
)
def test_a_group_out_of_range_cannot_be_built(fields):
    with pytest.raises(
        UsageError,
        match=r"at least one person, and pairs no more|a name of 1 to 64 letters|public together or not at all",
    ):
        Group(*fields)


@pytest.mark.parametrize("threshold", [1, 300, 1023])
@pytest.mark.parametrize("bins", [2, 6, 12, 16])
def test_bins_rise_around_the_threshold_and_stay_inside(threshold, bins):
    edges = plan_for(bins=bins, threshold=threshold, largest_half_width=1.0).edges
    assert len(edges) == bins - 1
    assert edges[bins // 2 - 1] == pytest.approx((threshold + 0.5) / CODE_LENGTH)
    assert (np.diff(np.concatenate([[0.0], edges, [1.0]])) >= 0).all()


def test_what_nobody_of_some_people_did_may_still_be_done_by_one_of_so_many():
    """No error among 1500: at a rate of 1 / 1500 that happens to more than one run in three."""
    group = Group("all", 1500, 1500)
    plan = plan_for(groups=(group,), bins=2)
    genuine, impostor = evaluation_weights()
    total = 1500 * np.array([genuine, 0, 0, impostor])  # every owner is accepted, and no stranger
    for groups in ((group,), (Group("all"),)):
        (rates,) = estimate_rates(total, plan, noise_multiplier=NO_NOISE, groups=groups)
        for rate in (rates.fmr, rates.fnmr):
            assert (rate.value, rate.low) == (pytest.approx(0, abs=1e-9), 0)
            assert rate.high > 1 / 1500


@pytest.mark.parametrize("public", [True, False], ids=["public sizes", "sizes with noise"])
def test_both_rates_and_their_intervals_are_those_of_paper_and_pencil(public):
    """Of two bins; people and pairs differ, and so do both rates. A person is in two of the pairs, and in one owner."""
    group, noise, weights = Group("all", 3000, 2000), 40.0, evaluation_weights()
    plan = plan_for(1.0, (group,), bins=2, largest_half_width=0.5)
    shares, counts = (0.9, 0.05), (3000, 2000)  # accepted owners, matched strangers
    total = np.array([w * n * part for w, n, s in zip(weights, counts, shares, strict=True) for part in (s, 1 - s)])
    counted = (group,) if public else (Group("all"),)
    (rates,) = estimate_rates(total, plan, noise_multiplier=noise, groups=counted)
    assert (rates.group, rates.people, rates.support) == ("all", pytest.approx(3000), Support.SUFFICIENT)
    for rate, share, weight, count, times in (
        (rates.fnmr, 0.1, weights[0], 3000, 1),
        (rates.fmr, 0.05, weights[1], 2000, 2),
    ):
        accepted = 0.9 if rate is rates.fnmr else share
        # Of a known sum the first bin keeps half of its noise; of an unknown one the sum's own noise counts too.
        variance = 0.5 if public else (1 - accepted) ** 2 + accepted**2
        half = 1.96 * math.sqrt(variance * (noise / (weight * count)) ** 2 + times * share * (1 - share) / count)
        assert (rate.value, rate.low, rate.high) == pytest.approx((share, max(0, share - half), share + half))


def test_counts_that_fall_are_made_one_by_how_precise_each_is():
    """Of four bins: what is known to add up leaves the edges 3/4, 1 and 3/4 of the noise of one bin."""
    plan, (genuine, impostor) = plan_for(groups=(Group("all", 3000, 2000),), bins=4), evaluation_weights()
    owners, strangers = [0.5, 0.3, 0.1, 0.1], [0.6, -0.3, 0.6, 0.1]  # of strangers 0.6, 0.3 and 0.9 lie below the edges
    total = np.concatenate([genuine * 3000 * np.array(owners), impostor * 2000 * np.array(strangers)])
    (rates,) = estimate_rates(total, plan, noise_multiplier=0.5)
    assert rates.fmr.value == pytest.approx((0.6 / 0.75 + 0.3 / 1) / (1 / 0.75 + 1))
    assert rates.fnmr.value == pytest.approx(0.2)


@pytest.mark.parametrize(("beyond", "support"), [(0.99, Support.INSUFFICIENT), (1.01, Support.SUFFICIENT)])
@pytest.mark.parametrize("side", [0, 1], ids=["owners", "strangers"])
def test_where_sizes_are_not_public_a_sum_within_its_own_noise_is_nobody(side, beyond, support):
    """However wide an interval may be: two bins of noise 10 add up to less than 1.96 x sqrt(2) x 10 of nothing."""
    plan = plan_for(groups=(Group("unknown"),), bins=2, largest_half_width=1.0)
    sums = np.array([[800.0, 200.0], [30.0, 970.0]])
    sums[side] *= beyond * 1.96 * math.sqrt(2) * 10 / 1000
    (rates,) = estimate_rates(sums.ravel(), plan, noise_multiplier=10.0)
    assert rates.support is support
    assert rates.people == pytest.approx(sums[0].sum() / evaluation_weights()[0])
    narrower = dataclasses.replace(plan, largest_half_width=0.5)  # either side alone is too wide for this one
    assert estimate_rates(sums.ravel(), narrower, noise_multiplier=10.0)[0].support is Support.INSUFFICIENT


SPLIT = (0.9, 0.1), (0.1, 0.9)
"""Of owners, and of strangers: below the threshold, and beyond it."""


def test_a_group_whose_people_have_no_neighbours_shows_nothing_and_others_do():
    """A plan is worth its noise as soon as one group is; what is planned of each is also what comes of it."""
    groups = (Group("alone", 2000, 0), Group("few", 40, 40), Group("many", 3960, 3000))
    plan = plan_for(groups=groups, bins=2)
    planned = [Support.INSUFFICIENT, Support.INSUFFICIENT, Support.SUFFICIENT]
    assert [plan.supports(group) for group in groups] == planned
    genuine, impostor = evaluation_weights()
    counts = [(genuine * group.people, impostor * group.pairs) for group in groups]
    total = [share * count for both in counts for count, shares in zip(both, SPLIT, strict=True) for share in shares]
    noise = plan.noise_with(plan.noise_multiplier, plan.organisations)
    rates = estimate_rates(np.array(total), plan, noise_multiplier=noise)
    assert [(one.group, one.people, one.support) for one in rates] == [
        (group.name, float(group.people), support) for group, support in zip(groups, planned, strict=True)
    ]
    assert [(one.fmr is None, one.fnmr is None) for one in rates] == [(True, True), (True, True), (False, False)]
    for nothing in (groups[:1], groups[1:2]):
        with pytest.raises(UsageError, match="nothing could be printed"):
            plan_for(groups=nothing, bins=2)


@pytest.mark.parametrize("unknown", [True, False])
def test_groups_have_no_more_people_than_the_evaluation_even_where_some_are_not_public(unknown):
    groups = (Group("even", 6001, 3000), *((Group("odd"),) if unknown else ()))
    with pytest.raises(UsageError, match="the groups have 6001 people and the evaluation 6000"):
        plan_for(groups=groups, people=6000)


def test_an_equal_error_rate_is_where_the_lines_between_the_edges_cross():
    """Six bins without noise: 5 % of strangers and 15 % of owners beyond one edge, 25 % and 5 % beyond the next."""
    plan, (genuine, impostor) = plan_for(groups=(Group("all", 1000, 1000),), bins=6), evaluation_weights()
    owners, strangers = [100, 250, 500, 100, 50, 0], [0, 10, 40, 200, 250, 500]
    total = np.concatenate([genuine * np.array(owners), impostor * np.array(strangers)])
    (rates,) = estimate_rates(total, plan, noise_multiplier=NO_NOISE)
    assert (rates.fmr.value, rates.fnmr.value) == pytest.approx((0.05, 0.15))
    assert rates.eer.value == pytest.approx(0.05 + 0.2 / 3)  # gap from -0.10 to 0.20: a third of the way


def test_equal_error_rates_begin_with_six_bins():
    for bins, shown in ((2, False), (4, False), (6, True), (8, True)):
        plan = plan_for(groups=(Group("all", 3000, 3000),), bins=bins)
        (rates,) = estimate_rates(total_of_model(plan, 3000, np.random.default_rng(1)), plan, noise_multiplier=NO_NOISE)
        assert (rates.eer is not None) is shown


def test_nobody_is_no_negative_number_of_people():
    plan = plan_for(groups=(Group("unknown"),), bins=2)
    (rates,) = estimate_rates(np.array([-5.0, -3.0, 0.0, 0.0]), plan, noise_multiplier=1.0)
    assert (rates.support, rates.people) == (Support.INSUFFICIENT, 0.0)


@pytest.mark.parametrize("bins", [2, 12])
def test_as_many_people_as_are_needed_have_the_widest_noise_that_is_printed(bins):
    """By drawing it: the count of strangers below the threshold, when all bins are known to add up."""
    plan = plan_for(1.0, (Group("all", 100_000, 100_000),), bins=bins, largest_half_width=0.03)
    noise = plan.noise_multiplier * math.sqrt(4 / 3) * np.random.default_rng(8).normal(size=(40_000, bins))
    middle = (noise - noise.mean(axis=1, keepdims=True))[:, : bins // 2].sum(axis=1)
    width = 1.96 * middle.std() / (evaluation_weights()[1] * plan.people_needed)
    assert width == pytest.approx(0.03, rel=0.02)


def test_a_report_says_whom_and_what_it_is_of_and_estimates_who_is_left():
    groups = (Group("even", 3000, 3000), Group("odd", 3000, 2000))
    plan = plan_for(groups=groups, bins=2)
    genuine, impostor = evaluation_weights()
    total = np.array([2400 * genuine, 600 * genuine, 30 * impostor, 2970 * impostor] * 2)
    report = report_of(total, plan, noise_multiplier=0.25, people=6000, organisations=3)
    assert (report.release, report.threshold, report.noise_multiplier) == (plan.release, THRESHOLD, 0.25)
    assert (report.epsilon, report.delta, report.people, report.organisations) == (plan.epsilon, plan.delta, 6000, 3)
    assert [(rates.group, rates.people) for rates in report.rates] == [("even", 3000.0), ("odd", 3000.0)]
    for people in (3000, 5999):
        fewer = report_of(total * people / 6000, plan, noise_multiplier=0.25, people=people, organisations=2)
        assert [rates.people for rates in fewer.rates] == pytest.approx([people / 2, people / 2])
        assert (fewer.people, fewer.organisations, fewer.noise_multiplier) == (people, 2, 0.25)


def a_report(**changes):
    few = GroupRates("men", 9.0, Support.INSUFFICIENT)
    rates = GroupRates(
        "women", 300.0, Support.SUFFICIENT, Rate(0.02, 0.01, 0.03), Rate(0.05, 0.04, 0.06), Rate(0.08, 0.07, 0.09)
    )
    fields = {
        "release": "ab" * 32,
        "threshold": THRESHOLD,
        "epsilon": 2.0,
        "delta": 1e-6,
        "noise_multiplier": 2.5,
        "people": 309,
        "organisations": 3,
        "rates": (rates, few),
    }
    return EvaluationReport(**fields | changes)


def changed_reports():
    """A report in which one field alone is another."""
    women, men = a_report().rates
    for name, value in {
        "release": "ac" * 32,
        "threshold": THRESHOLD - 1,
        "epsilon": 2.5,
        "delta": 2e-6,
        "noise_multiplier": 2.6,
        "people": 310,
        "organisations": 4,
    }.items():
        yield name, a_report(**{name: value})
    for name, value in {"group": "girls", "people": 301.0, "support": Support.UNKNOWN}.items():
        yield f"women {name}", a_report(rates=(dataclasses.replace(women, **{name: value}), men))
        yield f"men {name}", a_report(rates=(women, dataclasses.replace(men, **{name: value})))
    for kind in ("fmr", "fnmr", "eer"):
        for name in ("value", "low", "high"):
            rate = dataclasses.replace(getattr(women, kind), **{name: 0.055})
            yield f"{kind} {name}", a_report(rates=(dataclasses.replace(women, **{kind: rate}), men))
        yield f"no {kind}", a_report(rates=(dataclasses.replace(women, **{kind: None}), men))
    yield "order", a_report(rates=(men, women))
    yield "one group", a_report(rates=(women,))


def test_each_field_of_a_report_is_in_its_digest_and_comes_back():
    reports = dict(changed_reports())
    assert len({report.digest for report in reports.values()} | {a_report().digest}) == 1 + len(reports) == 28
    for report in (a_report(), *reports.values()):
        assert EvaluationReport.from_bytes(report.to_bytes()) == report
        assert report.digest == hashlib.sha256(report.to_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["threshold", "people", "organisations"])
@pytest.mark.parametrize("wrong", [0, -1, 3.0, True])
def test_each_count_of_a_report_is_a_whole_number_of_at_least_one(name, wrong):
    assert getattr(a_report(**{name: 1}), name) == 1
    with pytest.raises(UsageError, match="of at least one person"):
        a_report(**{name: wrong})


@pytest.mark.parametrize("name", ["epsilon", "delta", "noise_multiplier"])
@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, 2])
def test_each_number_of_the_promise_of_a_report_is_finite_and_not_below_zero(name, wrong):
    assert getattr(a_report(**{name: 0.0}), name) == 0
    with pytest.raises(UsageError, match="0 or more"):
        a_report(**{name: wrong})


@pytest.mark.parametrize("release", ["ab" * 31, "AB" * 32, "ab" * 33, "ab" * 32 + "\n"])
def test_a_report_is_of_one_release(release):
    with pytest.raises(UsageError, match="of one release"):
        a_report(release=release)


LACKING = (
    "epsilon", "delta", "noise_multiplier", "groups", "people", "organisations", "release", "threshold",
)  # fmt: skip


def test_a_plan_is_made_with_each_option_that_is_given_and_travels_with_all_of_them():
    options = {
        "delta": 2e-6,
        "groups": (Group("even", 9000, 8000), Group("odd")),
        "people": 20_000,
        "organisations": 9,
        "release": "cd" * 32,
        "threshold": 301,
        "code_length": 2048,
        "bins": 6,
        "colluders": 2,
        "dropouts": 3,
        "largest_half_width": 0.125,
    }
    plan = EvaluationPlan.for_epsilon(3, **options)
    noise = plan.noise_multiplier
    assert vars(plan) == {"epsilon": 3.0, "noise_multiplier": noise, **options}
    assert EvaluationPlan.for_epsilon(3, **options | {"delta": 1e-9}).noise_multiplier > noise
    config = plan.to_config()
    assert EvaluationPlan.from_config(config) == EvaluationPlan.from_kept_config(config) == plan
    for wrong in ({**config, "surprise": 1}, *({k: v for k, v in config.items() if k != name} for name in LACKING)):
        with pytest.raises(MalformedMessageError, match="not a valid plan"):
            EvaluationPlan.from_config(wrong)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, math.nan, 1])
@pytest.mark.parametrize("name", ["value", "low", "high"])
def test_each_number_of_a_rate_is_a_share(name, wrong):
    with pytest.raises(UsageError, match="rates are numbers from 0 to 1"):
        dataclasses.replace(Rate(0.5, 0.25, 0.75), **{name: wrong})


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, 9])
def test_the_people_of_every_group_of_a_report_are_a_number(place, wrong):
    rates = [GroupRates(name, 9.0, Support.INSUFFICIENT) for name in ("men", "women")]
    rates[place] = dataclasses.replace(rates[place], people=wrong)
    with pytest.raises(UsageError, match="0 or more"):
        EvaluationReport("ab" * 32, THRESHOLD, 2.0, 1e-6, 2.0, 18, 3, tuple(rates))


def test_the_line_of_a_group_has_each_rate_under_its_own_name():
    rates = [Rate(value, value / 2, 2 * value) for value in (0.01, 0.02, 0.04)]
    assert GroupRates("men", 300.4, Support.SUFFICIENT, *rates).text == (
        "men: about 300 people, FMR 1.00 % (0.50 to 2.00), FNMR 2.00 % (1.00 to 4.00), EER 4.00 % (2.00 to 8.00)"
    )


@pytest.mark.parametrize(
    "groups",
    [(Group("even", 3000, 3000), Group("odd", 2999, 2999)), (Group("even", 3000, 3000), Group("odd", 3001, 3000))],
    ids=["fewer", "more"],
)
def test_groups_that_are_all_public_have_as_many_people_as_the_evaluation(groups):
    with pytest.raises(
        UsageError, match=f"the groups have {sum(g.people for g in groups)} people and the evaluation 6000"
    ):
        plan_for(groups=groups, people=6000)
    assert plan_for(groups=(*groups[:1], Group("odd")), people=6000).people == 6000


def test_damaged_totals_are_refused():
    plan = plan_for()
    for total in (np.zeros(3), *(np.full(plan.size, wrong) for wrong in (np.nan, np.inf, -np.inf))):
        with pytest.raises(MalformedMessageError, match="the total of an evaluation must be 48 finite"):
            estimate_rates(total, plan, noise_multiplier=1.0)
