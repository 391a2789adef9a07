import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.learning import moments as training
from federation.learning.clipping import clipped_sum
from federation.learning.moments import PublicCentre, Shift, moments_sum, person_records
from federation.privacy.bounds import BOUNDS
from federation.privacy.plan import Adaptation, PrivacyPlan, operating_system_noise
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, PROFILES, REFERENCE
from tests.people import DIMENSION, synthetic_people

DIRECTIONS = 16
NAMES = [f"person {index:02d}" for index in range(24)]


def plan_for(people=24, *, epsilon=8.0, organisations=4, **changes):
    values = {"dimension": DIMENSION, "directions": DIRECTIONS} | changes
    return PrivacyPlan.for_epsilon(epsilon, delta=1e-5, people=people, organisations=organisations, **values)


PLAN = plan_for()
SUBSPACE = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSION, DIRECTIONS)))[0].T
PUBLIC = PublicCentre(SUBSPACE, SUBSPACE[:, 0] * 0.9)


def without(embeddings, person):
    return embeddings.select(embeddings.people != person)


# ------------------------------------------------------------------------------------------------------------ records
def test_a_record_is_half_of_both_means_in_the_subspace_less_the_public_centre():
    everybody = synthetic_people(NAMES[:2], images=3)
    records = person_records(everybody, PUBLIC, PLAN)
    for record, name in zip(records, NAMES, strict=False):
        means = [
            np.mean(
                [
                    SUBSPACE @ row.astype(float)
                    for row, who, side in zip(everybody.embeddings, everybody.people, everybody.profiles, strict=True)
                    if (who, side) == (name, profile)
                ],
                axis=0,
            )
            for profile in (REFERENCE, PROBE)
        ]
        offset = (means[0] + means[1]) / 2 - PUBLIC.start
        assert np.linalg.norm(offset) < 0.9  # it is not clipped
        assert record == pytest.approx(offset / 0.9, abs=1e-5)


def test_both_cameras_count_alike_however_many_images_each_took():
    everybody = synthetic_people(NAMES[:2], images=3)
    fewer = everybody.select((everybody.profiles == REFERENCE) | (everybody.images == f"{NAMES[0]}-0"))
    means = [fewer.embeddings[(fewer.people == NAMES[0]) & (fewer.profiles == p)].mean(axis=0) for p in PROFILES]
    expected = (SUBSPACE @ ((means[0] + means[1]) / 2) - PUBLIC.start) / 0.9
    assert person_records(fewer, PUBLIC, PLAN)[0] == pytest.approx(expected, abs=1e-5)


def test_a_public_centre_has_a_number_for_each_direction():
    with pytest.raises(UsageError, match="one number for each direction"):
        PublicCentre(SUBSPACE, np.zeros(DIRECTIONS + 1))


def test_opacus_without_noise_equals_the_closed_form():
    records = person_records(synthetic_people(NAMES), PUBLIC, PLAN)
    result = clipped_sum(records)
    assert np.abs(result - records.sum(axis=0)).max() < 1e-8


def test_federated_sums_equal_the_central_sum_without_noise():
    everybody = synthetic_people(NAMES)
    central = moments_sum(everybody, PUBLIC, PLAN)
    shares = [moments_sum(everybody.of_people(NAMES[i::4]), PUBLIC, PLAN) for i in range(4)]
    assert np.abs(np.sum(shares, axis=0) - central).max() < 1e-10


@given(
    seed=st.integers(0, 2**32 - 1),
    person=st.sampled_from(NAMES[:5]),
    shift=st.floats(0, 30),
    size=st.sampled_from([0.0, 1e-300, 1.0, BOUNDS["start"][1], 1e300, np.finfo(np.float64).max]),
)
@settings(max_examples=40)
def test_one_person_changes_the_sum_by_at_most_one_whatever_is_asked(seed, person, shift, size):
    everybody = synthetic_people(NAMES[:5], seed=seed, shift=shift)
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        asked = PublicCentre(size * rng.normal(size=SUBSPACE.shape), size * rng.normal(size=DIRECTIONS))
    for public in (PUBLIC, asked):
        assert (np.linalg.norm(person_records(everybody, public, PLAN), axis=1) < 1).all()  # before anybody clips again
        sums = [clipped_sum(person_records(some, public, PLAN)) for some in (everybody, without(everybody, person))]
        assert np.isfinite(sums).all()
        assert np.linalg.norm(sums[0] - sums[1]) <= 1 + 1e-12


def test_records_that_came_out_too_long_count_as_one_each(monkeypatch):
    monkeypatch.setattr(training, "person_records", lambda *_: np.full((3, 16), 100.0))
    assert np.linalg.norm(moments_sum(synthetic_people(NAMES), PUBLIC, PLAN)) == pytest.approx(3)


def test_opacus_clips_records_that_are_too_long():
    records = np.full((1, 16), 100.0)
    assert np.linalg.norm(clipped_sum(records)) == pytest.approx(1, abs=1e-6)


def test_opacus_adds_nothing_of_its_own():
    """Noise from torch's generator would fall to a search of its 2^32 states; noise is added in the ring."""
    records = np.zeros((3, 8))
    assert (clipped_sum(records) == 0).all()


def test_torch_keeps_only_32_bits_of_a_seed_which_is_why_its_generator_is_not_used():
    draws = [torch.normal(0.0, 1.0, (8,), generator=torch.Generator().manual_seed(s)) for s in (5, 5 + 2**32)]
    assert torch.equal(*draws)


# -------------------------------------------------------------------------------------------------------------- shift
def test_the_shift_is_the_mean_of_the_people_less_the_public_centre():
    everybody = synthetic_people(NAMES, shift=0.4)
    shift = Shift.of(moments_sum(everybody, PUBLIC, PLAN), PLAN, noise_multiplier=0.0, people=24)
    middle = np.mean([everybody.embeddings[everybody.profiles == p].mean(axis=0) for p in (REFERENCE, PROBE)], axis=0)
    assert shift.vector == pytest.approx(SUBSPACE @ middle - PUBLIC.start, abs=1e-5)
    assert shift.weight == 1


def test_a_shift_is_believed_as_far_as_it_is_longer_than_its_noise():
    total = np.zeros(DIRECTIONS)
    total[3] = 10.0
    for noise in (0.5, 1.0, 2.0):
        shift = Shift.of(total, PLAN, noise_multiplier=noise, people=24)
        assert shift.weight == pytest.approx(1 - DIRECTIONS * noise**2 / 100)
        assert np.linalg.norm(shift.vector) == pytest.approx(0.9 * 10 / 24, rel=1e-5)


def test_a_total_of_noise_only_is_not_believed():
    drawn = [operating_system_noise(DIRECTIONS) * PLAN.moments_noise_multiplier for _ in range(200)]
    weights = [Shift.of(t, PLAN, noise_multiplier=PLAN.moments_noise_multiplier, people=24).weight for t in drawn]
    assert np.mean(weights) < 0.25
    assert Shift.of(np.zeros(DIRECTIONS), PLAN, noise_multiplier=1.0, people=24).weight == 0
    short = Shift.of(drawn[0] / np.linalg.norm(drawn[0]), PLAN, noise_multiplier=1.0, people=24)
    assert short.weight == 0


def test_fewer_people_in_the_total_than_planned_do_not_make_the_shift_shorter():
    total = moments_sum(synthetic_people(NAMES[:12]), PUBLIC, PLAN)
    twelve, planned = (Shift.of(total, PLAN, noise_multiplier=0.0, people=n).vector for n in (12, 24))
    assert twelve == pytest.approx(2 * planned)


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-1], lambda t: t * np.nan, lambda t: t * np.inf, lambda t: t * -np.inf, lambda t: t[None]]
)
def test_a_damaged_total_is_refused(damage):
    with pytest.raises(MalformedMessageError, match="16 finite numbers"):
        Shift.of(damage(np.ones(DIRECTIONS)), PLAN, noise_multiplier=1.0, people=24)


def test_people_without_both_profiles_add_zero_and_nobody_else_changes():
    everybody = synthetic_people(NAMES[:2])
    half = everybody.select((everybody.people != NAMES[0]) | (everybody.profiles == PROBE))
    zero, other = person_records(half, PUBLIC, PLAN)
    assert not zero.any()
    assert np.array_equal(other, person_records(everybody, PUBLIC, PLAN)[1])


def test_an_organisation_with_nobody_adds_zero():
    nobody = EmbeddingSet(np.zeros((0, DIMENSION), np.float32), np.array([], str), np.array([], str), np.array([], str))
    assert np.array_equal(moments_sum(nobody, PUBLIC, PLAN), np.zeros(DIRECTIONS))


@pytest.mark.parametrize("shape", [(DIRECTIONS - 1, DIMENSION), (DIRECTIONS, DIMENSION - 1)])
def test_a_subspace_of_another_size_is_refused(shape):
    with pytest.raises(UsageError, match="64 numbers and 16 directions"):
        person_records(synthetic_people(NAMES[:2]), PublicCentre(np.zeros(shape), np.zeros(shape[0])), PLAN)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
def test_a_record_that_is_not_finite_or_far_too_long_changes_nobody_else_s(value):
    records = np.full((3, 4), 0.25)
    expected = clipped_sum(records[:2])
    records[2, 1] = value
    change = clipped_sum(records) - expected
    assert np.isfinite(change).all()
    assert np.linalg.norm(change) <= 1


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_a_record_counts_whole_or_clipped_or_not_at_all(wrong):
    """Of norm 0.5 and below 1 as it is, of norm 10 as 1; one number that is not finite takes the others with it."""
    records = np.array([[0.3, -0.4, 0.0], [0.5, wrong, 0.25], [6.0, 0.0, 8.0], [0.125, 0.25, wrong], [0.0, 0.0, 0.99]])
    assert clipped_sum(records) == pytest.approx([0.3 + 0.6, -0.4, 0.8 + 0.99], abs=1e-6)
    assert clipped_sum(records[1:2]).tolist() == [0.0] * 3
    assert clipped_sum(records[:0]).tolist() == [0.0] * 3
    assert clipped_sum(records).dtype == np.float64


@pytest.mark.parametrize(
    ("plan", "adaptation"),
    [(plan_for(epsilon=0.1), Adaptation.NONE), (plan_for(10_000, tuned=5376, steps=1), Adaptation.SCALES)],
    ids=["nothing", "scales"],
)
def test_a_plan_without_a_moments_release_gives_no_moments(plan, adaptation):
    assert plan.adaptation is adaptation
    with pytest.raises(UsageError, match="no moments"):
        moments_sum(synthetic_people(NAMES), PUBLIC, plan)
