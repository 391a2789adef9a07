"""The scheme's distributions: each test accepts the right one, and is shown to reject its neighbours."""

import itertools
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from federation.onebit.sampling import centred_binomial, ternary, uniform_below

SIGNIFICANCE = 1e-6
COUNT = 100_000


def fits(drawn, values, probabilities):
    """Chi-square at 1e-6 of draws against a distribution over `values`; a draw outside them never fits."""
    counts = np.array([np.count_nonzero(drawn == value) for value in values])
    if counts.sum() != len(drawn):
        return False
    expected = np.asarray(probabilities) * len(drawn)
    kept = expected >= 5
    pooled = [np.append(each[kept], each[~kept].sum()) for each in (counts, expected)]
    if pooled[1][-1] == 0:
        pooled = [each[:-1] for each in pooled]
    return stats.chisquare(*pooled).pvalue > SIGNIFICANCE


def binomial(bits):
    """Values and probabilities of the difference of two sums of so many fair bits."""
    values = range(-bits, bits + 1)
    return values, [math.comb(2 * bits, bits + value) / 4**bits for value in values]


@pytest.mark.parametrize("bound", [2, 3, 5, 1 << 4, 17])
def test_integers_below_a_bound_are_uniform(bound):
    drawn = uniform_below(bound, COUNT, os.urandom)
    assert fits(drawn, range(bound), [1 / bound] * bound)
    assert not fits(drawn, range(bound + 1), [1 / (bound + 1)] * (bound + 1))
    weights = np.ones(bound)
    weights[0] += 0.2 * bound / 2
    assert not fits(drawn, range(bound), weights / weights.sum())


@pytest.mark.parametrize("bound", [(1 << 32) - 5, (1 << 32) + 15, (1 << 59) + 1, 1 << 64])
def test_integers_below_a_large_bound_fill_all_of_its_room(bound):
    shares = uniform_below(bound, COUNT, os.urandom).astype(float) / bound
    assert shares.max() <= 1
    assert stats.kstest(shares, "uniform").pvalue > SIGNIFICANCE
    assert stats.kstest(shares, "uniform", (0, 0.98)).pvalue < SIGNIFICANCE


def test_rejection_takes_the_next_bytes_and_never_folds():
    """Bound 5 takes three bits: words 7, 5 and 6 are thrown away, not taken modulo 5."""
    words = itertools.chain([4, 7, 5, 0, 6, 3], itertools.repeat(1))

    def source(count):
        return b"".join(next(words).to_bytes(4, "little") for _ in range(count // 4))

    assert uniform_below(5, 3, source).tolist() == [4, 0, 3]


@given(st.integers(1, 1 << 64), st.integers(0, 50))
def test_every_draw_is_below_its_bound(bound, count):
    drawn = uniform_below(bound, count, os.urandom)
    assert drawn.shape == (count,)
    assert all(int(each) < bound for each in drawn)


def test_keys_and_u_are_uniform_ternary():
    drawn = ternary(COUNT, os.urandom)
    assert fits(drawn, (-1, 0, 1), [1 / 3] * 3)
    assert not fits(drawn, (-1, 0, 1), [1 / 4, 1 / 2, 1 / 4])
    assert not fits(drawn, (0, 1), [1 / 2] * 2)


def test_errors_are_the_centred_binomial_of_21_bits():
    drawn = centred_binomial(COUNT, os.urandom)
    assert fits(drawn, *binomial(21))
    assert not fits(drawn, *binomial(20))
    assert not fits(drawn, *binomial(22))
    assert drawn.std() == pytest.approx(math.sqrt(21 / 2), rel=0.02)


def test_neighbouring_draws_are_not_correlated():
    for drawn in (ternary(COUNT, os.urandom), centred_binomial(COUNT, os.urandom)):
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / math.sqrt(COUNT)
