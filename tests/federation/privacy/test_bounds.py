"""Numbers of somebody else are within their bounds, and far from those whose arithmetic takes longer."""

from __future__ import annotations

import numpy as np
import pytest

from federation.errors import UsageError
from federation.privacy.bounds import BOUNDS, bounded, require_within

ARRAYS = ("subspace", "start", "centre", "projection", "scales")


@pytest.mark.parametrize("name", ARRAYS)
def test_a_product_of_two_numbers_of_arrays_is_no_denormal_one(name):
    rng = np.random.default_rng(0)
    asked = rng.choice([-1.0, 1.0], 1000) * 10 ** rng.uniform(-320, np.log10(BOUNDS[name][1]), 1000)
    taken = bounded(name, asked)
    assert np.abs(taken - asked).max() <= 2**-41
    some = np.abs(taken[taken != 0])
    assert some.min() >= 2**-40
    assert some.min() ** 2 > np.finfo(np.float32).tiny
    assert not np.signbit(taken[taken == 0]).any()  # minus zero is another array, and would be another question


@pytest.mark.parametrize("name", BOUNDS)
def test_both_ends_are_within_and_what_is_beyond_or_no_number_is_not(name):
    least, most = BOUNDS[name]
    for value in (least, most):
        require_within(name, value)
        assert bounded(name, np.array([value])) == pytest.approx(value)
    for value in (np.nextafter(least, -np.inf), np.nextafter(most, np.inf), np.nan, np.inf, -np.inf):
        with pytest.raises(UsageError, match=f"{name} must be from"):
            require_within(name, float(value))
        with pytest.raises(UsageError, match=f"all numbers of the {name} must be from"):
            bounded(name, np.array([least, value]))
