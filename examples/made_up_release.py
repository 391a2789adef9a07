"""A release that adapts nothing, for people who are made up."""

from __future__ import annotations

from federation.promise import PrivacyStatement
from federation.rates import Basis
from federation.recognition.model import Adapter, ModelRelease


def made_up_release(dimension: int, *, threshold: int, reason: str, created: str) -> ModelRelease:
    """A release at a stated false match rate of 1 %.

    Args:
        dimension: of embeddings.
        threshold: largest accepted Hamming distance, bits.
        reason: why nothing is adapted.
        created: UTC, as `datetime.isoformat` gives it.
    """
    return ModelRelease(
        model_name="made-up",
        model_digest="ab" * 32,
        adapter=Adapter.identity(dimension),
        adaptation="none",
        reason=reason,
        condition="mask",
        threshold=threshold,
        fmr=0.01,
        fmr_low=0.005,
        fmr_high=0.02,
        fmr_people=24,
        basis=Basis.CHECKED,
        privacy=PrivacyStatement.of_events("person", "add_or_remove_one", 1.0, 1e-5, (("threshold", 4.0),), 24, 3),
        created=created,
    )
