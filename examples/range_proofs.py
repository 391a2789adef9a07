"""What it costs to find who spoiled a secure sum (ADR 143): python -m examples.range_proofs."""

from __future__ import annotations

import os
import time

import numpy as np

from federation.secagg import masking
from federation.secagg.masking import SEED_BYTES
from federation.secagg.ranges import Ranges
from federation.secagg.ring import SCALE

_SIZE = 8512
"""Centre and scatter of embeddings of 128 numbers."""
_PEOPLE, _NOISE = 75, 0.35


def cost(members: int) -> tuple[float, float, int]:
    """CPU seconds to prove and to check, and bytes, of one of so many members."""
    context, seeds = os.urandom(32), {member: os.urandom(SEED_BYTES) for member in range(1, members + 1)}
    edges = [edge for other in range(2, members + 1) for edge in ((1, other), (other, 1))]
    ranges, keys = Ranges(context, seeds, _SIZE), {edge: os.urandom(32) for edge in edges}
    values = np.rint(np.random.default_rng(0).normal(size=_SIZE) * _NOISE * SCALE).astype(np.int64)
    masked = values.astype(np.uint64) + masking.self_mask(seeds[1], context, _SIZE)
    for (adds, _), key in keys.items():
        mask = masking.mask(key, _SIZE)
        masked = masked + mask if adds == 1 else masked - mask
    bound, begun = ranges.bound(_PEOPLE, _NOISE * SCALE), time.process_time()
    shown = ranges.show(1, masked, keys, bound)
    proved = time.process_time()
    ranges.check(1, masked, {}, sorted(keys), bound, shown)
    return proved - begun, time.process_time() - proved, len(shown)


def main() -> None:
    """Prints a line for each number of members."""
    for members in (4, 30, 100):
        prove, check, size = cost(members)
        print(f"{members:3} members: {prove:.1f} s of CPU to prove, {check:.1f} s to check one, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
