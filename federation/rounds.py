"""What coordinator and organisations say to each other in a Flower run: two requests, two replies, fixed refusals.

Flower sends the text of any exception that escapes from an organisation to the coordinator, in clear. So organisations
refuse with a code from `Refusal`, and nothing of what went wrong but that code leaves them.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from federation.embeddings import PROBE, REFERENCE
from federation.errors import MalformedMessageError, UsageError
from federation.evaluation import ImpostorPrior
from federation.privacy import MOMENTS, THRESHOLD, PrivacyPlan
from federation.release import Adapter

TRAIN_MOMENTS: Final = f"train.{MOMENTS}"
EVALUATE_THRESHOLD: Final = f"evaluate.{THRESHOLD}"
_WHITENING = "whitening"
_LARGEST_NUMBER = 1e12  # squares stay finite


class Refusal(Enum):
    """Why an organisation does not answer. The value travels as Flower's error code."""

    BAD_REQUEST = 1001
    NOT_AGREED = 1002
    REPEATED = 1003
    BAD_DATA = 1004
    INTERNAL = 1005

    @property
    def text(self) -> str:
        """One sentence for the coordinator's operator."""
        return {
            Refusal.BAD_REQUEST: "it did not understand the request; both sides need the same version",
            Refusal.NOT_AGREED: "the plan is outside what its operator agreed to",
            Refusal.REPEATED: "it answered this request before, and answers once in a run",
            Refusal.BAD_DATA: "its embeddings are missing or do not fit the plan; its own log says more",
            Refusal.INTERNAL: "it failed; its own log says more",
        }[self]

    @classmethod
    def describe(cls, code: int) -> str:
        """The sentence for a foreign code; unknown codes come from Flower itself."""
        return next((refusal.text for refusal in cls if refusal.value == code), f"Flower reports error code {code}")


def moments_request(plan: PrivacyPlan, start: NDArray[np.float64]) -> RecordDict:
    """Asks for `federation.training.moments_share`."""
    return RecordDict({"plan": ConfigRecord({**plan.to_config()}), "arrays": ArrayRecord({"start": Array(start)})})


def read_moments_request(content: RecordDict) -> tuple[PrivacyPlan, NDArray[np.float64]]:
    """The plan, checked again, and the public start.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    plan = _plan(content)
    return plan, _array(content, "start", (plan.dimension,))


def threshold_request(plan: PrivacyPlan, adapter: Adapter, prior: ImpostorPrior) -> RecordDict:
    """Asks for `federation.evaluation.impostor_share`."""
    arrays = {profile: Array(centre) for profile, centre in adapter.centres.items()}
    if adapter.whitening is not None:
        arrays[_WHITENING] = Array(adapter.whitening)
    return RecordDict(
        {
            "plan": ConfigRecord({**plan.to_config()}),
            "prior": ConfigRecord({"mean": prior.mean, "spread": prior.spread}),
            "arrays": ArrayRecord(arrays),
        }
    )


def read_threshold_request(content: RecordDict) -> tuple[PrivacyPlan, Adapter, ImpostorPrior]:
    """The plan, checked again, the adapter to measure and the prediction to measure against.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    plan, prior = _plan(content), content.config_records.get("prior", ConfigRecord())
    mean, spread = prior.get("mean"), prior.get("spread")
    if type(mean) is not float or type(spread) is not float:
        raise MalformedMessageError("the request lacks the prediction of impostor distances")
    d = plan.dimension
    whitened = _WHITENING in content.array_records.get("arrays", ArrayRecord())
    centres = {profile: _array(content, profile, (d,)) for profile in (REFERENCE, PROBE)}
    try:
        return (
            plan,
            Adapter(centres, _array(content, _WHITENING, (d, d)) if whitened else None),
            ImpostorPrior(mean, spread),
        )
    except UsageError as error:
        raise MalformedMessageError("the request's prediction of impostor distances is out of range") from error


def share_reply(share: NDArray[np.float64], people: int) -> RecordDict:
    """One organisation's noisy sum and how many people it is over, which is public."""
    return RecordDict({"arrays": ArrayRecord({"share": Array(share)}), "metrics": MetricRecord({"people": people})})


def read_share_reply(content: RecordDict, size: int, noise_share: float) -> tuple[NDArray[np.float64], int]:
    """The noisy sum and the number of people, checked as far as a noisy sum can be.

    Each person moves a sum by at most 1, so an organisation can be as long as its people and its noise allow, no more.

    Args:
        content: the reply.
        size: length that the sum must have.
        noise_share: standard deviation of the noise that the organisation was asked to add.

    Raises:
        MalformedMessageError: the reply is not a valid one.
    """
    people = content.metric_records.get("metrics", MetricRecord()).get("people")
    if type(people) is not int or people < 1:
        raise MalformedMessageError("the number of people is missing or wrong")
    share = _array(content, "share", (size,))
    # Gaussian noise is longer than sqrt(size) + 8 deviations with a probability below e^-32.
    if not np.abs(share).max() < _LARGEST_NUMBER or np.linalg.norm(share) > people + noise_share * (size**0.5 + 8):
        raise MalformedMessageError(f"the array 'share' is longer than {people} people and their noise can make it")
    return share, people


def _plan(content: RecordDict) -> PrivacyPlan:
    return PrivacyPlan.from_config(dict(content.config_records.get("plan", ConfigRecord())))


def _array(content: RecordDict, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    record = content.array_records.get("arrays", ArrayRecord())
    if name not in record:
        raise MalformedMessageError(f"the array {name!r} is missing")
    try:
        array = record[name].numpy()
    except Exception as error:  # Flower decodes foreign bytes with whatever NumPy raises
        raise MalformedMessageError(f"the array {name!r} cannot be decoded") from error
    if array.dtype != np.float64 or array.shape != shape:
        raise MalformedMessageError(f"the array {name!r} must be float64 of shape {shape}")
    if not np.isfinite(array).all():
        raise MalformedMessageError(f"the array {name!r} is not finite")
    return np.asarray(array, dtype=np.float64)
