"""What is publicly known of a recogniser's embeddings under a camera condition. Pure: no NumPy. No number of anyone.

Two kinds of knowledge, of people who agreed to it or whose pictures are freely licensed:

* **Geometry**: where embeddings lie (centre), and in which directions pictures of one person differ (whitening).
* **Prior**: how far apart different people lie, which decides a threshold. A set of faces is one draw of what a site
  may be like, so the prior says how sets differ from each other, and not only what they are like on average
  (`federation.learning.threshold` makes thresholds of it).

Distances are angle / pi, which the distance of two codes estimates. A set's distances are described by their mean, the
logarithm of their standard deviation, and their shape: quantiles after the mean is subtracted and the standard
deviation divided out.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from dataclasses import dataclass
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.recognition.numbers import SingleNumbers
from federation.statements import JsonValue, require_name

CLEAN: Final = "clean"
"""The condition of references."""
WEIGHTS_PERCENT: Final = (0, 25, 50, 75, 100)
"""Weights of a privately learnt centre that a prior is tabulated for: 0 where nothing is learnt, 100 where noise adds
nothing."""
QUANTILES: Final = 257
"""Points of a shape: quantile i is that of the share (i / 256)^3. So the lower tail has most of them."""
FEWEST_DIRECTIONS, MOST_DIRECTIONS = 16, 128
"""Length of what codes are made of."""
MOST_PEOPLE: Final = 10_000_000

_MILLION, _BILLION = 1_000_000, 1_000_000_000
_LARGEST_FACTOR = 1e4
_LARGEST_QUANTILE = 100.0
_NOT_MEASURED = "not measured"


def whole(what: str, value: int, least: int, most: int) -> None:
    """Raises UsageError unless `value` is a whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{what} must be a whole number from {least} to {most}")


@dataclass(frozen=True)
class DistancesAtWeight:
    """Distances between different people under a centre of which a part was learnt privately.

    Attributes:
        mean_millionths: expected mean.
        log_spread_millionths: expected natural logarithm of the standard deviation.
        covariance_billionths: how sites differ: variance of the mean, its covariance with the logarithm, variance of
            the logarithm.
        shape: (`QUANTILES`,) of standardised distances, in order.
        string: (`QUANTILES`,) of the distance from templates to the mean of a domain's vectors, in order: minus the
            mean of the distances between its people, and divided by their standard deviation.
    """

    mean_millionths: int
    log_spread_millionths: int
    covariance_billionths: tuple[int, int, int]
    shape: SingleNumbers
    string: SingleNumbers

    def __post_init__(self) -> None:
        whole("the mean of impostor distances, in millionths,", self.mean_millionths, 1, _MILLION - 1)
        whole("the logarithm of their spread, in millionths,", self.log_spread_millionths, -10 * _MILLION, 0)
        if len(self.covariance_billionths) != 3:  # noqa: PLR2004 - see Attributes
            raise UsageError("a covariance of two numbers is three")
        first, mixed, second = self.covariance_billionths
        whole("a variance, in billionths,", first, 1, _BILLION)
        whole("a covariance, in billionths,", mixed, -_BILLION, _BILLION)
        whole("a variance, in billionths,", second, 1, _BILLION)
        if mixed * mixed >= first * second:
            raise UsageError("the covariance of impostor distances is not positive definite")
        for quantiles in (self.shape, self.string):
            values = quantiles.values
            if len(values) != QUANTILES or any(a > b for a, b in itertools.pairwise(values)):
                raise UsageError(f"a shape is {QUANTILES} quantiles in order")
            if not (-_LARGEST_QUANTILE <= values[0] < values[-1] <= _LARGEST_QUANTILE):
                raise UsageError(f"quantiles of a shape differ, and are at most {_LARGEST_QUANTILE:g} spreads")

    def to_json(self) -> JsonValue:
        """The JSON object."""
        return {
            "mean_millionths": self.mean_millionths,
            "log_spread_millionths": self.log_spread_millionths,
            "covariance_billionths": list(self.covariance_billionths),
            "shape": text_of(self.shape),
            "string": text_of(self.string),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            value["mean_millionths"],
            value["log_spread_millionths"],
            tuple(value["covariance_billionths"]),
            numbers_of(value["shape"], (QUANTILES,)),
            numbers_of(value["string"], (QUANTILES,)),
        )


@dataclass(frozen=True)
class FusionShift:
    """How distances move when one side averages endlessly many images; of n images, 1 - 1/n of it.

    Attributes:
        mean_millionths: added to the mean.
        log_spread_millionths: added to the logarithm of the standard deviation.
    """

    mean_millionths: int
    log_spread_millionths: int

    def __post_init__(self) -> None:
        for value in (self.mean_millionths, self.log_spread_millionths):
            whole("what averaging adds, in millionths,", value, -_MILLION, _MILLION)

    def to_json(self) -> JsonValue:
        """The JSON list."""
        return [self.mean_millionths, self.log_spread_millionths]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        mean, spread = value
        return cls(mean, spread)


@dataclass(frozen=True)
class ImpostorPrior:
    """How far apart different people lie: clean references against probes of one condition.

    Attributes:
        sets: how many sets of faces it rests on.
        people: how many people they have.
        coupling_millionths: how much farther apart than strangers people lie whose own images made the centre: their
            cosine falls by 2 lambda w times this, divided by their number.
        references: what averaging references does.
        frames: what averaging probes does.
        at_weights: for each of `WEIGHTS_PERCENT`.
    """

    sets: int
    people: int
    coupling_millionths: int
    references: FusionShift
    frames: FusionShift
    at_weights: tuple[DistancesAtWeight, ...]

    def __post_init__(self) -> None:
        whole("the sets of a prior", self.sets, 1, 1000)
        whole("the people of a prior", self.people, 2, MOST_PEOPLE)
        whole("the coupling of members, in millionths,", self.coupling_millionths, 0, 10 * _MILLION)
        if len(self.at_weights) != len(WEIGHTS_PERCENT):
            raise UsageError(f"a prior is tabulated for {len(WEIGHTS_PERCENT)} weights of a private centre")

    def to_json(self) -> JsonValue:
        """The JSON object."""
        return {
            "sets": self.sets,
            "people": self.people,
            "coupling_millionths": self.coupling_millionths,
            "references": self.references.to_json(),
            "frames": self.frames.to_json(),
            "at_weights": [each.to_json() for each in self.at_weights],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            value["sets"],
            value["people"],
            value["coupling_millionths"],
            FusionShift.from_json(value["references"]),
            FusionShift.from_json(value["frames"]),
            tuple(DistancesAtWeight.from_json(each) for each in value["at_weights"]),
        )


@dataclass(frozen=True)
class CameraCondition:
    """See the top.

    Attributes:
        name: such as "clean" or "mask".
        centre: (k,) mean over people of their mean embeddings, in the subspace of the profile. Its norm is at most 1.
        whitening: (k, k), symmetric: makes pictures of one person, clean or under this condition, differ alike in all
            directions.
        people: how many the two were measured on.
        prior: of distances; None where no set was large enough to know. Then no threshold can be set.
    """

    name: str
    centre: SingleNumbers
    whitening: SingleNumbers
    people: int
    prior: ImpostorPrior | None

    def __post_init__(self) -> None:
        require_name("the name of a condition", self.name)
        if len(self.centre.shape) != 1 or self.whitening.shape != self.centre.shape * 2:
            raise UsageError("a whitening maps what a centre has numbers for")
        if self.mean_norm > 1 + 1e-5:
            raise UsageError("the norm of a public centre is at most 1")
        size, factors = self.centre.shape[0], self.whitening.values
        if any(factors[i * size : (i + 1) * size] != factors[i::size] for i in range(size)):
            raise UsageError("a whitening is symmetric")
        if max(map(abs, factors), default=0) > _LARGEST_FACTOR or any(
            factors[i * (size + 1)] <= 0 for i in range(size)
        ):
            raise UsageError(f"a whitening is positive, and its numbers are at most {_LARGEST_FACTOR:g}")
        whole("the people of a condition", self.people, 2, MOST_PEOPLE)
        if self.prior is not None and self.prior.people > self.people:
            raise UsageError("a prior rests on more people than the centre")

    @property
    def mean_norm(self) -> float:
        """Norm of the centre: near 1 where all faces lie in a narrow cone, near 0 where they lie all around."""
        return math.hypot(*self.centre.values)

    def to_json(self) -> JsonValue:
        """The JSON object."""
        return {
            "name": self.name,
            "centre": text_of(self.centre),
            "whitening": text_of(self.whitening),
            "people": self.people,
            "prior": _NOT_MEASURED if self.prior is None else self.prior.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], size: int) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        prior = value["prior"]
        return cls(
            value["name"],
            numbers_of(value["centre"], (size,)),
            numbers_of(value["whitening"], (size, size)),
            value["people"],
            None if prior == _NOT_MEASURED else ImpostorPrior.from_json(prior),
        )


def unmeasured(dimension: int) -> SingleNumbers:
    """The subspace of a recogniser that was not measured: no directions of so many numbers."""
    return SingleNumbers(b"", (0, dimension))


def text_of(numbers: SingleNumbers) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(numbers.raw).decode("ascii")


def numbers_of(text: str, shape: tuple[int, ...]) -> SingleNumbers:
    """Reads what `text_of` wrote.

    Raises:
        UsageError: it is no base64, or of another shape.
    """
    try:
        return SingleNumbers(base64.b64decode(text, validate=True), shape)
    except binascii.Error as error:
        raise UsageError("an array is not base64") from error
