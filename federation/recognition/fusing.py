"""Several images of one person as one: the mean of their unit embeddings, scaled to unit norm. Before any adapter.

What images have in common is the person; what differs between them, pose, light and expression, averages out.
Averaging happens where the images are, so the protocol sees one vector as before. A threshold holds for one number of
references and frames: averages of strangers come closer to each other, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fused(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """One embedding of all rows.

    Args:
        embeddings: (n, d), n at least 1, rows of unit norm, or zero.

    Returns:
        (d,) float64 of unit norm; zero where the rows cancel out.
    """
    mean = embeddings.astype(np.float64).mean(axis=0)
    norm = float(np.linalg.norm(mean))
    return np.asarray(mean / norm if norm > 0 else mean)


def fused_groups(embeddings: NDArray[np.floating[Any]], size: int) -> NDArray[np.float64]:
    """One embedding of every `size` rows in turn, each row in one group; of all rows where there are fewer.

    Args:
        embeddings: (n, d), n at least 1.
        size: of a group, at least 1.

    Returns:
        (max(1, n // size), d) float64: see `fused`. Rows that fill no group are left out.
    """
    groups = max(1, len(embeddings) // size)
    return np.stack([fused(embeddings[size * group :][:size]) for group in range(groups)])
