"""What a search would do with an error rate: the edges where its formula has no logarithm."""

import pytest

from federation.audit.searching import false_match_in_search
from federation.errors import UsageError


@pytest.mark.parametrize(
    ("fmr", "size", "found"),
    [(0.0, 9, 0.0), (1.0, 0, 0.0), (1.0, 1, 1.0), (0.5, 2, 0.75), (0.1, 1, 0.1)],
)
def test_the_chance_of_a_match_among_so_many(fmr, size, found):
    assert false_match_in_search(fmr, size) == pytest.approx(found)


@pytest.mark.parametrize(("fmr", "size"), [(-0.1, 9), (1.1, 9), (0.1, -1), (float("nan"), 9)])
def test_no_rate_and_no_size_outside_their_range(fmr, size):
    with pytest.raises(UsageError, match="fewer than no people"):
        false_match_in_search(fmr, size)
