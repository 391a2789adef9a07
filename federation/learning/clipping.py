"""Sums of records that Opacus clips: one step of it, without noise.

It is a module of its own because importing torch and Opacus takes seconds, and most of what a run's processes do needs
neither. Of Opacus only what clips is loaded: its accountants with SciPy's statistics, and its optimizers for several
machines, are not (ADR 0208).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["GradSampleModule", "clipped_sum", "register_grad_sampler"]


@contextmanager
def _as_folders(top: str, *inner: str) -> Iterator[None]:
    """Within it, a package and some of its packages are folders of modules: what they run when imported is not run.

    Afterwards they are as if nobody had imported them, so whoever does gets all that they have. What was imported
    before stays.
    """
    specification = importlib.util.find_spec(top)
    if specification is None or specification.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{top} is not installed")
    (root,) = specification.submodule_search_locations
    missing = [name for name in (top, *(f"{top}.{one}" for one in inner)) if name not in sys.modules]
    for name in missing:
        folder = ModuleType(name)
        folder.__path__ = [str(Path(root, *name.split(".")[1:]))]
        sys.modules[name] = folder
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


with _as_folders("opacus", "optimizers"):
    from opacus.grad_sample.grad_sample_module import GradSampleModule
    from opacus.grad_sample.utils import register_grad_sampler
    from opacus.optimizers.optimizer import DPOptimizer


def clipped_sum(records: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums records, each clipped to L2 norm 1: one step of Opacus. Its noise is 0: noise is added as integers later.

    It is total: a record that is not finite counts as zero, and the sum of nobody is zero. So nothing that somebody
    else chose can make it fail for one person and not for another.

    Args:
        records: (people, size) float64.

    Returns:
        (size,) float64. Sensitive.
    """
    records = np.where(np.isfinite(records).all(axis=1, keepdims=True), records, 0.0)
    model = GradSampleModule(_Sum(records.shape[1]), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    # Opacus's hooks want an input with a gradient.
    model(torch.from_numpy(records).requires_grad_()).sum().backward()
    optimizer.step()
    result: NDArray[np.float64] = next(model.parameters()).detach().numpy().copy()
    return result


class _Sum(torch.nn.Module):
    """Loss of every record against one parameter that starts at zero."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self.theta - records) ** 2).sum(dim=1)
