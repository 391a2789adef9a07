from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.learning import moments as training
from federation.learning.clipping import clipped_sum
from federation.learning.moments import build_adapter, moments_sum, person_records, public_start
from federation.privacy.plan import MOMENTS, Adaptation, PrivacyPlan, operating_system_noise
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import shipped_profile
from federation.recognition.profiles import PROBE, REFERENCE
from tests.faces import shipped
from tests.people import DIMENSION, start_vector, synthetic_people

NAMES = [f"person {index:02d}" for index in range(12)]


def plan_for(people, *, epsilon=8.0, organisations=4, **changes):
    return PrivacyPlan.for_epsilon(
        epsilon, delta=1e-5, people=people, organisations=organisations, dimension=DIMENSION, **changes
    )


CENTRE = plan_for(12)
BOTH = plan_for(400)


def without(embeddings, person):
    return embeddings.select(embeddings.people != person)


def test_the_plans_of_these_tests_are_for_the_centre_and_for_both():
    assert CENTRE.adaptation is Adaptation.CENTRE
    assert BOTH.adaptation is Adaptation.CENTRE_AND_SCATTER


@pytest.mark.parametrize("plan", [CENTRE, BOTH])
def test_opacus_without_noise_equals_the_closed_form(plan):
    records = person_records(synthetic_people(NAMES), start_vector(), plan)
    result = clipped_sum(records)
    assert np.abs(result - records.sum(axis=0)).max() < 1e-8


@pytest.mark.parametrize("plan", [CENTRE, BOTH])
def test_federated_sums_equal_the_central_sum_without_noise(plan):
    everybody, start = synthetic_people(NAMES), start_vector()
    central = moments_sum(everybody, start, plan)
    shares = [moments_sum(everybody.of_people(NAMES[i::4]), start, plan) for i in range(4)]
    assert np.abs(np.sum(shares, axis=0) - central).max() < 1e-10


@given(seed=st.integers(0, 2**32 - 1), person=st.sampled_from(NAMES), shift=st.floats(0, 30))
@settings(max_examples=40)
def test_one_person_changes_the_sum_by_at_most_one(seed, person, shift):
    everybody, start = synthetic_people(NAMES, seed=seed, shift=shift), start_vector()
    for plan in (CENTRE, BOTH):
        difference = clipped_sum(person_records(everybody, start, plan)) - clipped_sum(
            person_records(without(everybody, person), start, plan)
        )
        assert np.linalg.norm(difference) <= 1 + 1e-12


@pytest.mark.parametrize("plan", [CENTRE, BOTH])
def test_records_that_came_out_too_long_count_as_one_each(plan, monkeypatch):
    monkeypatch.setattr(training, "person_records", lambda *_: np.full((3, 16), 100.0))
    assert np.linalg.norm(moments_sum(synthetic_people(NAMES), start_vector(), plan)) == pytest.approx(3)


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


def test_a_good_adapter_brings_the_profiles_together():
    everybody = synthetic_people([str(i) for i in range(300)], shift=0.5)
    plan = plan_for(300, epsilon=4.0)
    exact = moments_sum(everybody, start_vector(), plan)
    noisy = exact + plan.moments_noise_multiplier * operating_system_noise(len(exact))
    trained = build_adapter(noisy, start_vector(), plan, noise_multiplier=plan.moments_noise_multiplier)
    assert trained.adaptation is not Adaptation.NONE
    centred = [
        trained.adapter.apply(everybody.embeddings[everybody.profiles == p], p).mean(axis=0) for p in (REFERENCE, PROBE)
    ]
    frozen = [everybody.embeddings[everybody.profiles == p].mean(axis=0) for p in (REFERENCE, PROBE)]
    assert np.linalg.norm(centred[0] - centred[1]) < np.linalg.norm(frozen[0] - frozen[1]) / 2


def test_whitening_without_noise_flattens_the_scatter_within_people():
    everybody = synthetic_people([str(i) for i in range(400)], shift=0.5)
    total = moments_sum(everybody, start_vector(), BOTH)
    trained = build_adapter(total, start_vector(), BOTH, noise_multiplier=0.0)
    whitening = trained.adapter.whitening
    assert whitening is not None
    assert np.allclose(whitening, whitening.T)
    # The camera moves everybody along axis 1, so that direction must count least.
    assert np.argmin(np.diag(whitening)) == 1


def test_a_total_of_noise_only_deploys_nothing():
    total = CENTRE.moments_noise_multiplier * np.ones(CENTRE.release_size(MOMENTS)) / 2
    trained = build_adapter(total, start_vector(), CENTRE, noise_multiplier=CENTRE.moments_noise_multiplier)
    assert trained.adaptation is Adaptation.NONE
    assert "noise" in trained.reason
    rows = synthetic_people(["a"]).embeddings
    assert np.allclose(trained.adapter.apply(rows, PROBE), rows, atol=1e-6)


def test_scatter_that_is_all_noise_leaves_directions_alone():
    total = moments_sum(synthetic_people(NAMES), start_vector(), BOTH)
    total *= BOTH.people / len(NAMES)
    total[2 * DIMENSION :] = 0
    total[2 * DIMENSION] = 1e-9
    trained = build_adapter(total, start_vector(), BOTH, noise_multiplier=BOTH.moments_noise_multiplier)
    assert trained.adapter.whitening is None
    assert trained.adaptation is Adaptation.CENTRE


@pytest.mark.parametrize("damage", [lambda t: t[:-1], lambda t: t * np.nan, lambda t: t[None]])
def test_a_damaged_total_is_refused(damage):
    with pytest.raises(MalformedMessageError):
        build_adapter(damage(np.ones(CENTRE.release_size(MOMENTS))), start_vector(), CENTRE, noise_multiplier=1.0)


def test_people_without_both_profiles_add_zero_and_nobody_else_changes():
    everybody = synthetic_people(NAMES[:2])
    half = everybody.select((everybody.people != NAMES[0]) | (everybody.profiles == PROBE))
    zero, other = person_records(half, start_vector(), CENTRE)
    assert not zero.any()
    assert np.array_equal(other, person_records(everybody, start_vector(), CENTRE)[1])


def test_an_organisation_with_nobody_adds_zero():
    nobody = EmbeddingSet(np.zeros((0, DIMENSION), np.float32), np.array([], str), np.array([], str), np.array([], str))
    assert np.array_equal(moments_sum(nobody, start_vector(), CENTRE), np.zeros(CENTRE.release_size(MOMENTS)))


def test_a_start_of_another_length_is_refused():
    with pytest.raises(UsageError, match="length"):
        person_records(synthetic_people(NAMES[:2]), start_vector(8), CENTRE)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
def test_a_record_that_is_not_finite_or_far_too_long_changes_nobody_else_s(value):
    records = np.full((3, 4), 0.25)
    expected = clipped_sum(records[:2])
    records[2, 1] = value
    change = clipped_sum(records) - expected
    assert np.isfinite(change).all()
    assert np.linalg.norm(change) <= 1


def test_a_plan_without_a_moments_release_gives_no_moments():
    with pytest.raises(UsageError, match="no moments"):
        moments_sum(synthetic_people(NAMES), start_vector(), plan_for(12, epsilon=0.1))


# --------------------------------------------------------------------------------------------------------- the start
def test_training_starts_at_the_public_centre_where_one_is_known():
    known = SimpleNamespace(profile=shipped_profile())
    np.testing.assert_array_equal(public_start(known), shipped_profile().moments_of("clean").centre)


def test_training_starts_at_a_chip_without_a_face_where_nothing_is_known():
    grey = np.full((1, 150, 150, 3), 128, np.uint8)
    np.testing.assert_array_equal(public_start(shipped()), shipped().embed(grey)[0].astype(np.float64))
