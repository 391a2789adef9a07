"""What a private evaluation promises, asks and can show: one plan for mechanism, charge and post-processing.

See `federation.learning.private_evaluation` for the theory. Nothing here needs more than the accountant, since every
process of a run reads its plan.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.learning.group_rates import Support
from federation.privacy.bounds import require_within
from federation.privacy.plan import SumPlan, epsilon_of_gaussians, gaussian_noise_multiplier
from federation.recognition.model import CODE_LENGTH, CODE_LENGTHS

EVALUATION: Final = "evaluation"
"""Name of the release, in sessions and ledgers, and of what a policy allows."""
EVALUATE: Final = "evaluate"
"""The recipe of a run that measures a release, beside `MOMENTS` and `SCALES` of `federation.privacy.plan`."""

Z: Final = 1.96
"""Standard deviations to each side of a 95 % interval."""
GENUINE_WEIGHT: Final = math.sqrt(1 / (1 + math.sqrt(5)))
IMPOSTOR_WEIGHT: Final = math.sqrt((1 - GENUINE_WEIGHT**2) / 5)
_SMALLEST_STEP = 0.01
"""Of distances around the threshold: a seventh of the spread of impostors' (`federation.learning.evaluation`)."""
_MOST_GROUPS, _MOST_NAME = 64, 64


@dataclass(frozen=True)
class Group:
    """Disjoint part of the people.

    Attributes:
        name: how the people in it describe themselves, for example ``woman, 40 to 59``.
        people: how many, over all organisations, when that is public; None when it is not.
        pairs: how many of them have a neighbour of their group in their organisation; known exactly when people is.
    """

    name: str
    people: int | None = None
    pairs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= _MOST_NAME:
            raise UsageError(f"a group needs a name of 1 to {_MOST_NAME} letters")
        if (self.people is None) != (self.pairs is None):
            raise UsageError(f"numbers of people and of pairs of {self.name!r} are public together or not at all")
        if self.people is not None and not (
            type(self.people) is int and type(self.pairs) is int and 0 <= self.pairs <= self.people > 0
        ):
            raise UsageError(f"{self.name!r} needs at least one person, and pairs no more than people")


@dataclass(frozen=True)
class EvaluationPlan(SumPlan):
    """Mechanism and charge of one private evaluation. Build it with `EvaluationPlan.for_epsilon`.

    Attributes:
        epsilon: the promise to each person, for everything that the evaluation shows.
        delta: probability of the promise failing.
        noise_multiplier: of the one release; checked against epsilon and delta.
        groups: whose rates are estimated.
        people: people who are evaluated, over all organisations; public.
        organisations: at least 2.
        release: digest of the release that is measured, in hex.
        threshold: that it states, in bits.
        code_length: of its codes, in bits.
        bins: of each histogram; even, 2 to 16.
        colluders: organisations that may help a curious coordinator.
        dropouts: organisations that may leave.
        largest_half_width: rates whose noise alone is wider than this are not printed.

    Raises:
        UsageError: a value is out of range, the noise is too small for the promise, or too large for any result.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    groups: tuple[Group, ...]
    people: int
    organisations: int
    release: str
    threshold: int
    code_length: int = CODE_LENGTH
    bins: int = 12
    colluders: int = 1
    dropouts: int = 0
    largest_half_width: float = 0.05

    def __post_init__(self) -> None:
        self._require_fields()
        self._require_groups()
        # The closed form first: tiny noise would keep the accountant busy.
        if (
            self.noise_multiplier < gaussian_noise_multiplier(self.epsilon, self.delta)
            or epsilon_of_gaussians((self.noise_multiplier,), self.delta) > self.epsilon
        ):
            raise UsageError("the noise is too small for the promise; build plans with EvaluationPlan.for_epsilon")
        if not any(self.supports(group) is not Support.INSUFFICIENT for group in self.groups):
            raise UsageError(
                f"nothing could be printed: at epsilon {self.epsilon:g} a group needs at least {self.people_needed} "
                "people. Ask about larger groups, with two bins, or with more budget; none was spent"
            )

    def _require_fields(self) -> None:
        counts = (self.people, self.organisations, self.threshold, self.bins, self.colluders, self.dropouts)
        if type(self.code_length) is not int or self.code_length not in CODE_LENGTHS:
            raise UsageError(f"codes have {' or '.join(map(str, CODE_LENGTHS))} bits, not {self.code_length!r}")
        numbers = (self.epsilon, self.delta, self.noise_multiplier, self.largest_half_width)
        if not all(type(c) is int and c >= 0 for c in counts) or not all(
            type(x) is float and 0 < x < math.inf for x in numbers
        ):
            raise UsageError("an evaluation plan has a field of the wrong kind")
        for name in ("epsilon", "delta", "noise_multiplier", "people", "bins", "largest_half_width"):
            require_within(name, getattr(self, name))
        if not isinstance(self.release, str) or not re.fullmatch("[0-9a-f]{64}", self.release):
            raise UsageError("an evaluation is of one release, named by its SHA-256 in hex")
        if self.bins % 2:  # the threshold between two
            raise UsageError(f"histograms have an even number of bins, got {self.bins}")
        if not 0 < self.threshold < self.code_length / 2:
            raise UsageError(f"a threshold lies between 0 and {self.code_length // 2} bits, got {self.threshold}")

    def _require_groups(self) -> None:
        if not 1 <= len({group.name for group in self.groups}) == len(self.groups) <= _MOST_GROUPS:
            raise UsageError(f"an evaluation is about 1 to {_MOST_GROUPS} groups of different names")
        self._require_people()
        known = [group.people for group in self.groups if group.people is not None]
        if sum(known) > self.people or (len(known) == len(self.groups) and sum(known) != self.people):
            raise UsageError(f"the groups have {sum(known)} people and the evaluation {self.people}")

    @classmethod
    def for_epsilon(
        cls,
        epsilon: float,
        *,
        delta: float,
        groups: tuple[Group, ...],
        people: int,
        organisations: int,
        release: str,
        threshold: int,
        code_length: int = CODE_LENGTH,
        bins: int = 12,
        colluders: int = 1,
        dropouts: int = 0,
        largest_half_width: float = 0.05,
    ) -> Self:
        """The plan with the least noise that keeps the promise.

        Raises:
            UsageError: a value is out of range, or the noise would be too large for any result.
        """
        # Only the coordinator makes a plan; the others need not wait for what this imports.
        from federation.privacy.planning import noise_multiplier_for  # noqa: PLC0415 - see the line before

        return cls(
            epsilon=float(epsilon),
            delta=float(delta),
            noise_multiplier=noise_multiplier_for(epsilon, delta),
            groups=groups,
            people=people,
            organisations=organisations,
            release=release,
            threshold=threshold,
            code_length=code_length,
            bins=bins,
            colluders=colluders,
            dropouts=dropouts,
            largest_half_width=float(largest_half_width),
        )

    @property
    def recipe(self) -> str:
        """`EVALUATE`."""
        return EVALUATE

    @property
    def events(self) -> tuple[tuple[str, float], ...]:
        """What a ledger charges."""
        return ((EVALUATION, self.noise_multiplier),)

    @property
    def size(self) -> int:
        """Numbers in the vector: two histograms for each group."""
        return 2 * self.bins * len(self.groups)

    def release_size(self, name: str) -> int:  # noqa: ARG002 - other plans have several
        """`size`: there is one release."""
        return self.size

    def to_config(self) -> dict[str, Any]:
        """The plan as flat scalars, to travel in a message; the groups as JSON."""
        return {**vars(self), "groups": json.dumps([asdict(group) for group in self.groups])}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Rebuilds and re-checks a foreign plan: the receiver does the accounting again.

        Raises:
            MalformedMessageError: fields are missing, unknown or wrong, or the plan does not add up.
        """
        try:
            return cls(**{**config, "groups": groups_from_json(str(config["groups"]))})  # type: ignore[arg-type]  # __post_init__ checks
        except (UsageError, TypeError, KeyError) as error:
            raise MalformedMessageError("the evaluation plan in the message is not a valid plan") from error

    @classmethod
    def from_kept_config(cls, config: Mapping[str, object]) -> Self:
        """A plan that this very party checked and kept (`PrivacyPlan.from_kept_config`)."""
        plan = object.__new__(cls)
        vars(plan).update({**config, "groups": groups_from_json(str(config["groups"]))})
        return plan

    @property
    def edges(self) -> NDArray[np.float64]:
        """(bins - 1,) float64, distances as shares of the code; the threshold is in the middle."""
        steps = _SMALLEST_STEP * 2.0 ** np.arange(self.bins // 2 - 1)
        middle = (self.threshold + 0.5) / self.code_length  # distances up to the threshold are accepted
        # Steps that leave (0, 1) are drawn together: beyond both ends there are no distances to count.
        below = middle * (1 - np.exp(-steps / middle))
        above = (1 - middle) * (1 - np.exp(-steps / (1 - middle)))
        return np.concatenate([middle - below[::-1], [middle], middle + above])

    def supports(self, group: Group) -> Support:
        """What can be printed about a group, from planned noise and public numbers alone."""
        if group.people is None or group.pairs is None:
            return Support.UNKNOWN
        wide = max(
            math.inf if not count else self._half_width / (weight * count)
            for count, weight in ((group.people, GENUINE_WEIGHT), (group.pairs, IMPOSTOR_WEIGHT))
        )
        return Support.SUFFICIENT if wide <= self.largest_half_width else Support.INSUFFICIENT

    @property
    def people_needed(self) -> int:
        """How many people, all with neighbours, a group needs."""
        return math.ceil(self._half_width / (IMPOSTOR_WEIGHT * self.largest_half_width))

    @property
    def _half_width(self) -> float:
        """Of an interval for the cumulative count at the threshold, from noise, when nobody fails."""
        return Z * self.noise_with(self.noise_multiplier, self.organisations) * math.sqrt(self.bins / 4)


def groups_from_json(text: str) -> tuple[Group, ...]:
    """Groups from a JSON list of objects with `name`, and `people` and `pairs` where those are public.

    Raises:
        UsageError: anything else.
    """
    try:
        return tuple(Group(**group) for group in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            'groups are JSON such as [{"name": "woman", "people": 300, "pairs": 300}, {"name": "man"}]'
        ) from error
