"""Numbers and noise in the ring: exact, with room, and of the size that the plan says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from federation.errors import MalformedMessageError, UsageError
from federation.secagg.ring import (
    SCALE,
    decode,
    discrete_noise,
    encode,
    noise_std,
    noisy_input,
    require_headroom,
    require_std,
)
from tests.federation.secagg.parties import session_of


@given(arrays(np.float64, 7, elements=st.floats(-1, 1)))
def test_numbers_come_back_to_half_a_unit(values):
    assert np.abs(decode(encode(values, 7), 7, 0.0) - values).max() <= 0.5 / SCALE


@given(arrays(np.float64, 9, elements=st.floats(-1, 1)), arrays(np.float64, 9, elements=st.floats(-1, 1)))
def test_rounding_adds_at_most_the_root_of_the_length_to_what_one_person_changes(values, person):
    person = person / max(1.0, float(np.linalg.norm(person)))
    change = encode(values + person, 11) - encode(values, 11)
    assert np.linalg.norm(change.astype(np.float64)) <= noise_std(1.0, 9)


@pytest.mark.parametrize("values", [[3.1, 0.0], [math.nan, 0.0], [math.inf, 0.0], [2.5, 2.5]])
def test_a_sum_longer_than_its_people_does_not_leave_the_node(values):
    with pytest.raises(UsageError, match="3 people"):
        encode(np.array(values), 3)


def test_a_total_that_honest_members_cannot_make_is_refused():
    std = 0.5 * SCALE
    assert decode(np.array([int(7 * SCALE), 0]), 7, std).tolist() == [7.0, 0.0]
    with pytest.raises(MalformedMessageError, match="longer than 7 and its noise"):
        decode(np.array([int(13 * SCALE), 0]), 7, std)
    with pytest.raises(MalformedMessageError, match="the total is longer than 7 and its noise:"):
        decode(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 2), 7, std)


def test_a_total_may_be_as_long_as_people_rounding_and_eight_deviations_more_than_usual_noise_make_it():
    """By hand: seven people, noise of half a unit's scale, sixteen numbers."""
    std = 2.0**31
    most = 7 * 2**32 + (4 + 8) * 2**31 + 4 * 7
    towards = np.zeros(16)
    for length, is_taken in ((most - 2**10, True), (most + 2**10, False)):
        towards[5] = -length
        if is_taken:
            assert decode(towards.astype(np.int64), 7, std).tolist() == (towards / 2**32).tolist()
        else:
            with pytest.raises(MalformedMessageError, match="longer than 7 and its noise"):
                decode(towards.astype(np.int64), 7, std)


@pytest.mark.parametrize(("longer", "is_taken"), [(1 + 5e-10, True), (1 + 2e-9, False)])
def test_a_sum_of_people_is_encoded_up_to_rounding_of_its_norm(longer, is_taken):
    values = np.array([1.8, -2.4]) * longer
    if is_taken:
        assert encode(values, 3).tolist() == np.rint(values * 2**32).tolist()
    else:
        with pytest.raises(UsageError, match="3 people of norm 1"):
            encode(values, 3)


def test_an_input_is_its_sum_and_its_share_of_the_noise_that_the_survivors_carry_together():
    session, asked = session_of(6, colluders=1, dropouts=1, size=4), []

    def noise(size, std):
        asked.append((size, std))
        return np.array([5, -6, 7, 8])

    values = np.array([0.5, -1.0, 0.25, 0.0])
    assert noisy_input(session, values, 2, 3.0, noise=noise).tolist() == [2**31 + 5, -(2**32) - 6, 2**30 + 7, 8]
    ((size, std),) = asked
    assert size == 4
    assert std == pytest.approx(3.0 * (2**32 + 2) / 2)  # four honest members are left, and two deviations of each


@pytest.mark.parametrize(("members", "people"), [(4, 3), (5, 40)])
def test_a_plan_fits_up_to_the_last_person_that_its_ring_has_room_for(members, people):
    session = session_of(members)
    room = (2.0**63 - people * (2**32 + 1)) / (40 * members)
    require_headroom(session, people, room * (1 - 1e-12))
    for more in ((people, room * (1 + 1e-9)), (people + 2**10, room)):
        with pytest.raises(UsageError, match=f"{more[0]} people with this much noise do not fit into 64 bits"):
            require_headroom(session, *more)


@pytest.mark.parametrize(
    ("std", "is_taken"), [(2.0**24, True), (2.0**24 - 1, False), (2.0**62 / 40 - 2**10, True), (2.0**62 / 40, False)]
)
def test_noise_is_drawn_from_what_the_accounting_covers_up_to_what_the_ring_holds(std, is_taken):
    if is_taken:
        require_std(std)
    else:
        with pytest.raises(UsageError, match=r"of 2\^24 to 2\^56 units, got"):
            require_std(std)


def test_noise_has_the_planned_size_and_another_size_is_noticed():
    std = 0.7 * SCALE
    drawn = discrete_noise(4000, std) / std
    assert kstest(drawn, "norm").pvalue > 1e-6
    assert kstest(drawn * 1.2, "norm").pvalue < 1e-6
    assert kstest(drawn + 0.2, "norm").pvalue < 1e-6


@pytest.mark.parametrize(
    ("members", "colluders", "dropouts", "honest"),
    [(6, 1, 1, 4), (4, 1, 1, 2), (4, 2, 0, 2), (9, 2, 1, 6), (3, 0, 1, 2)],
)
def test_noise_shares_of_the_honest_survivors_add_up_to_the_plan(members, colluders, dropouts, honest):
    """So many are left when the colluders keep theirs to themselves and the others are gone: counted here, by hand."""
    session, std = session_of(members, colluders=colluders, dropouts=dropouts), 0.6 * SCALE
    assert session.noise_share(std) * math.sqrt(honest) == pytest.approx(std)
    assert session.noise_sharers == honest


def test_nobody_can_repeat_noise():
    assert (discrete_noise(8, SCALE) != discrete_noise(8, SCALE)).any()


@pytest.mark.parametrize("std", [0.0, 2.0**24 - 1, 2.0**57, math.nan, math.inf])
def test_noise_that_the_accounting_does_not_cover_is_refused(std):
    with pytest.raises(UsageError, match="noise in the ring needs a standard deviation"):
        discrete_noise(4, std)


def test_a_plan_that_could_wrap_around_is_refused():
    session = session_of(4)
    require_headroom(session, 10**6, 20 * SCALE)
    with pytest.raises(UsageError, match="64 bits"):
        require_headroom(session, 2**31, SCALE)
    with pytest.raises(UsageError, match="64 bits"):
        require_headroom(session, 10, 2.0**57)


# What ADR 0071 claims about the distance between noise in the ring and the Gaussian of the accountant, where it is
# large enough to be measured.
def discrete(std):
    x = np.arange(-60, 61)
    mass = np.exp(-(x**2) / (2 * std**2))
    return x, mass / mass.sum()


@pytest.mark.parametrize("std", [0.6, 0.8, 1.0, 1.5])
def test_the_sum_of_two_discrete_gaussians_is_nearly_one(std):
    x, one = discrete(std)
    total = np.convolve(one, one, mode="same")
    near = np.abs(x) <= 6 * std
    gap = np.abs(total[near] / discrete(math.sqrt(2) * std)[1][near] - 1).max()
    assert gap <= 5 * math.exp(-(math.pi**2) * std**2)
    assert gap > 0.01 * math.exp(-(math.pi**2) * std**2) or std > 1


@pytest.mark.parametrize("std", [2.0, 4.0, 8.0])
def test_a_discrete_gaussian_is_nearly_a_rounded_one(std):
    from scipy.stats import norm  # noqa: PLC0415 - only here

    x, mass = discrete(std)
    near = np.abs(x) <= 6 * std
    rounded = norm.cdf((x + 0.5) / std) - norm.cdf((x - 0.5) / std)
    gap = np.log(rounded[near] / mass[near])
    assert gap.min() >= -1 / (8 * std**2) - 1e-7
    assert (gap <= x[near] ** 2 / (8 * std**4) + 1e-7).all()
