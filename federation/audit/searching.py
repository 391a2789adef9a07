"""What a search would do with an error rate that is fine for verification. This project cannot search."""

from __future__ import annotations

import math

from federation.errors import UsageError


def false_match_in_search(fmr: float, size: int) -> float:
    """The probability that somebody who is not among `size` people matches at least one of them: 1 - (1 - FMR)^N.

    The comparisons of one probe are taken as independent, as in NIST's extrapolations (Grother and Phillips, "Models of
    large population recognition performance", CVPR 2004).

    Args:
        fmr: false match rate of one comparison.
        size: people who are searched.

    Raises:
        UsageError: a number is out of range.

    >>> round(535 * false_match_in_search(2.15e-6, 25_000))
    28
    """
    if not 0 <= fmr <= 1 or size < 0:
        raise UsageError("a rate lies in [0, 1], and nobody can search fewer than no people")
    return 1.0 if fmr == 1 and size else -math.expm1(size * math.log1p(-fmr)) if size else 0.0
