"""Privacy plan, accounting and noise.

Theory of operation
-------------------
The protected unit is one *person of one organisation*: everything that all images of a person add to a release. All
releases of a run are Gaussian mechanisms of sensitivity 1. Its recipe decides which: the **moments**
(`federation.learning.moments`, one release) or the **scales** (`federation.learning.scales`, one release a step); then
the **threshold** (`federation.learning.pairs`). What its noise would drown is not asked: a plan may release one of the
two, or nothing at all (`PrivacyPlan.adaptation`, `PrivacyPlan.checks_threshold`).
`PrivacyPlan` is the one object that both the noise and the charge come from, so they cannot drift apart, and it refuses
to exist when they do not add up.

* Neighbouring data sets differ by one person added or removed. The numbers of people are public.
* Events are composed, never epsilons. Gaussian mechanisms compose exactly: noise multipliers s1 and s2 together are one
  mechanism of 1/s^2 = 1/s1^2 + 1/s2^2, so the plan splits one noise multiplier by shares of its precision.
* The accountant is Google's PLD accountant. RDP is 7-15 % looser on these events; Opacus's GDP accountant
  underestimates and is never used.
* Sums are opened under secure aggregation (`federation.secagg`), where each of n organisations adds noise of variance
  s^2 / (n - colluders - dropouts): the honest ones that remain carry s even when the others tell all they know. When
  nobody fails the total carries more than s: what is deployed is decided, and the adapter shrunk, for that noise.

Noise comes from the operating system, on purpose not from torch: PyTorch's CPU generator keeps 32 bits of any seed, so
noise drawn with it falls to a search of 2^32 seeds, whatever the seed came from.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.privacy.bounds import BOUNDS, require_within
from federation.privacy.tradeoff import trade_off
from federation.promise import NEIGHBORING_RELATION, PrivacyStatement
from federation.rates import CHECKED_BY

if TYPE_CHECKING:
    import dp_accounting as dp

NoiseSource = Callable[[int], NDArray[np.float64]]
"""Gives (count,) float64 independent standard normal numbers."""

PRIVACY_UNIT: Final = "person of one organisation"
"""Who is in k of them counts k times: nobody compares their people (ADR 0142)."""

MOMENTS: Final = "moments"
SCALES: Final = "scales"
THRESHOLD: Final = CHECKED_BY

BINS: Final = 3
"""Numbers of the threshold release: shares of distances in so many bins."""
LARGEST_EPSILON: Final = BOUNDS["epsilon"][1]
_LARGEST_CENTRE_NOISE = 0.4
"""Planned L2 norm of the noise on the centre above which it teaches nothing that is not public (ADR 0186)."""
_FEWEST_TO_LEARN = 24
"""People whose centre was ever measured to be better than the public one (ADR 0186)."""
_LARGEST_SHARE_NOISE = 0.09
"""Planned standard deviation of the noise on each share of distances above which the public threshold is as good."""
_FEWEST_TO_CHECK = 60
"""People below whom their own sampling moves a threshold more than a public one is off (ADR 0187)."""
_LARGEST_SCALES_NOISE = 0.1
"""The same for the gradient averaged over all steps, in clips: 0.28 did harm, 0.06 did none (ADR 0189)."""
_LARGE_PRECISION = 0.01
"""Sum of 1/s^2 over all releases from which on the accountant takes steps of 1e-3: an epsilon near 0.3."""
_MOST_STEPS = int(BOUNDS["steps"][1])
"""A foreign plan with more would keep the accountant and the organisations busy."""


# ---------------------------------------------------------------------------------------------------------- noise
def operating_system_noise(count: int) -> NDArray[np.float64]:
    """Draws standard normal noise that nobody can repeat: there is no seed.

    Each number is half the sum of four inverse-transformed 53-bit uniforms, which hides the gaps of floating-point
    sampling (Holohan and Braghin, arXiv 2107.10138, section 5.1).

    Args:
        count: how many numbers, at least 0.

    Returns:
        (count,) float64.
    """
    from scipy.special import ndtri  # noqa: PLC0415 - slow to import, and whoever reads a ledger draws no noise

    words = np.frombuffer(os.urandom(8 * 4 * count), dtype=np.uint64).reshape(4, count)
    uniforms = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(ndtri(uniforms).sum(axis=0) / 2, dtype=np.float64)


# ------------------------------------------------------------------------------------------------------ accounting
def epsilon_of(event: dp.DpEvent, delta: float, *, interval: float = 1e-4) -> float:
    """Epsilon at `delta` of everything in `event`, for add/remove-one neighbours, by the PLD accountant.

    The value is an upper bound: discretisation in steps of `interval` rounds up, by less than 0.2 % here.
    """
    import dp_accounting as dp  # noqa: PLC0415 - takes a second, and most of a run's processes account for nothing
    from dp_accounting import pld  # noqa: PLC0415 - as above

    accountant = pld.PLDAccountant(dp.NeighboringRelation[NEIGHBORING_RELATION.upper()], interval)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def epsilon_of_gaussians(noise_multipliers: tuple[float, ...], delta: float) -> float:
    """Epsilon at `delta` of Gaussian mechanisms composed, in whatever order; 0 of none."""
    if not noise_multipliers:
        return 0.0
    if (ordered := tuple(sorted(noise_multipliers))) != noise_multipliers:
        return epsilon_of_gaussians(ordered, delta)  # one answer to remember for all orders
    import dp_accounting as dp  # noqa: PLC0415 - see epsilon_of

    equal = Counter(noise_multipliers).items()
    events = [dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise), count) for noise, count in equal]
    # Large losses need no fine steps: these are eight times as fast and add less than 1e-5 to epsilon.
    interval = 1e-3 if sum(1 / noise**2 for noise in noise_multipliers) >= _LARGE_PRECISION else 1e-4
    return epsilon_of(dp.ComposedDpEvent(events), delta, interval=interval)


def gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """The exact noise multiplier of one Gaussian mechanism (Balle and Wang, ICML 2018, theorem 8)."""
    from scipy.optimize import brentq  # noqa: PLC0415 - slow to import, and only plans that are new need it
    from scipy.special import ndtr  # noqa: PLC0415 - as above

    def excess(noise: float) -> float:
        shift, slope = 1 / (2 * noise), epsilon * noise
        return float(ndtr(shift - slope) - math.exp(epsilon) * ndtr(-shift - slope)) - delta

    return float(brentq(excess, 1e-2, 1e5, xtol=1e-12))


# ------------------------------------------------------------------------------------------------------------ plan
def _require_promise(epsilon: float, delta: float, threshold_share: float) -> None:
    """Raises UsageError for what no plan can be made from."""
    require_within("epsilon", epsilon)
    require_within("delta", delta)
    require_within("threshold_share", threshold_share)


class Adaptation(Enum):
    """What is learnt from people, decided from the plan alone, before anybody looks at data."""

    NONE = "none"
    CENTRE = "centre"
    SCALES = "scales"


class SumPlan(ABC):
    """What secure sums, ledgers and organisations need to know of any run's plan.

    Attributes:
        epsilon: the promise, for all releases of the run together.
        delta: probability of the promise failing.
        people: over all organisations; public.
        organisations: at least 2.
        colluders: organisations that may help a curious coordinator; each of them knows its own noise.
        dropouts: organisations that may leave without ending the run.
    """

    epsilon: float
    delta: float
    people: int
    organisations: int
    colluders: int
    dropouts: int

    @property
    @abstractmethod
    def recipe(self) -> str:
        """What kind of run it is."""

    @property
    @abstractmethod
    def events(self) -> tuple[tuple[str, float], ...]:
        """Name and noise multiplier of every release that the run makes, in order."""

    @abstractmethod
    def release_size(self, name: str) -> int:
        """How many numbers the release of that name sums."""

    def longest(self, name: str, people: int) -> float:  # noqa: ARG002 - a plan whose releases differ looks at it
        """L2 norm that honest organisations of so many people can give to the sum of that release, without noise."""
        return float(people)

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """The plan as flat scalars, to travel in a message."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Rebuilds and re-checks a foreign plan: the receiver does the accounting again.

        Raises:
            MalformedMessageError: fields are missing, unknown or wrong, or the plan does not add up.
        """

    @classmethod
    @abstractmethod
    def from_kept_config(cls, config: Mapping[str, Any]) -> Self:
        """A plan that this very party checked and kept, without the second that the accounting takes.

        Never for what another party sent: nothing is checked.
        """

    @property
    def noise_multipliers(self) -> tuple[float, ...]:
        """Noise multipliers of `events`."""
        return tuple(noise for _, noise in self.events)

    @property
    def digest(self) -> bytes:
        """SHA-256 of every field, to agree on."""
        return hashlib.sha256(json.dumps(self.to_config(), sort_keys=True).encode()).digest()

    def noise_with(self, noise_multiplier: float, survivors: int) -> float:
        """The noise in the sum of `survivors` organisations, when `noise_multiplier` is promised."""
        return noise_multiplier * math.sqrt(survivors / (self.organisations - self.colluders - self.dropouts))

    def _require_people(self) -> None:
        """Raises UsageError when organisations and people do not go together."""
        if self.organisations <= self.colluders + 2 * self.dropouts or self.organisations < 2:  # noqa: PLR2004 - a sum of one
            raise UsageError(
                f"{self.organisations} organisations cannot stand {self.colluders} colluders and {self.dropouts} "
                "drop-outs: they must be at least 2, and more than the colluders plus twice the drop-outs"
            )
        if self.people < self.organisations:
            raise UsageError(f"{self.people} people cannot fill {self.organisations} organisations")
        if self.delta > 1 / self.people:
            raise UsageError(f"delta {self.delta:g} is too large for {self.people} people; keep it below 1/people")


@dataclass(frozen=True)
class PrivacyPlan(SumPlan):
    """Mechanism and charge of one training run. Build it with `PrivacyPlan.for_epsilon`.

    Attributes:
        epsilon: the promise, for all releases of the run together; in [0.01, 64].
        delta: probability of the promise failing; in [1e-12, 1e-3] and at most 1/people.
        noise_multiplier: of all releases taken as one Gaussian mechanism; checked against epsilon and delta.
        people: people who train, over all organisations; public.
        organisations: number of organisations, at least 2.
        dimension: length of one embedding.
        directions: of an embedding that the recogniser uses: length of a record of the moments.
        threshold_share: share of the precision that the threshold release gets beside another one; in (0, 1).
        centre_clip: L2 bound on one person's offset from the public centre.
        colluders: organisations that may help a curious coordinator; each of them knows its own noise.
        dropouts: organisations that may leave without ending the run.
        tuned: how many numbers the recipe `SCALES` tunes; 0 is the recipe `MOMENTS`.
        steps: how many steps it takes; 0 with `MOMENTS`.
        gradient_clip: L2 bound on one person's gradient in a step.

    Raises:
        UsageError: a value is out of range, or the noise is too small for the promise.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    people: int
    organisations: int
    dimension: int
    directions: int
    threshold_share: float = 0.5
    centre_clip: float = 0.9
    colluders: int = 1
    dropouts: int = 0
    tuned: int = 0
    steps: int = 0
    gradient_clip: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), int if field.type == "int" else float
            least = 0 if field.name in {"colluders", "dropouts", "tuned", "steps"} else math.nextafter(0, 1)
            if type(value) is not kind or not math.isfinite(value) or value < least:
                raise UsageError(f"the plan's {field.name} must be a positive {kind.__name__}, got {value!r}")
            if field.name in BOUNDS:
                require_within(field.name, value)
        if self.directions > self.dimension:
            raise UsageError(f"an embedding of {self.dimension} numbers has no {self.directions} directions")
        if (self.tuned == 0) != (self.steps == 0) or self.steps > _MOST_STEPS:
            raise UsageError(f"the recipe {SCALES} takes 1 to {_MOST_STEPS} steps, and the recipe {MOMENTS} none")
        self._require_people()
        # The closed form first: it costs nothing, and a foreign plan with tiny noise would keep the accountant busy.
        if (
            self.noise_multiplier < gaussian_noise_multiplier(self.epsilon, self.delta)
            or epsilon_of_gaussians(self.noise_multipliers, self.delta) > self.epsilon
        ):
            raise UsageError(
                f"the plan does not add up: a noise multiplier of {self.noise_multiplier:g} is too small for epsilon "
                f"{self.epsilon:g} at delta {self.delta:g}; build plans with PrivacyPlan.for_epsilon"
            )

    @classmethod
    def for_epsilon(
        cls,
        epsilon: float,
        *,
        delta: float,
        people: int,
        organisations: int,
        dimension: int,
        directions: int,
        threshold_share: float = 0.5,
        centre_clip: float = 0.9,
        colluders: int = 1,
        dropouts: int = 0,
        tuned: int = 0,
        steps: int = 0,
        gradient_clip: float = 0.05,
    ) -> Self:
        """The plan with the least noise whose releases, composed by the PLD accountant, keep the promise.

        Raises:
            UsageError: a value is out of range.
        """
        _require_promise(epsilon, delta, threshold_share)
        # The accountant rounds up, so the exact noise is always a little short of its promise: grow it until it agrees.
        noise = 1.002 * gaussian_noise_multiplier(epsilon, delta)
        releases = min(max(steps, 1), _MOST_STEPS)
        shares = ((threshold_share, *[(1 - threshold_share) / releases] * releases), (1 / releases,) * releases, (1.0,))
        while any(
            epsilon_of_gaussians(tuple(noise / math.sqrt(share) for share in split), delta) > epsilon
            for split in shares
        ):
            noise *= 1.002
        return cls(
            epsilon=float(epsilon),
            delta=float(delta),
            noise_multiplier=noise,
            people=people,
            organisations=organisations,
            dimension=dimension,
            directions=directions,
            threshold_share=float(threshold_share),
            centre_clip=float(centre_clip),
            colluders=colluders,
            dropouts=dropouts,
            tuned=tuned,
            steps=steps,
            gradient_clip=float(gradient_clip),
        )

    @property
    def recipe(self) -> str:
        """`MOMENTS` or `SCALES`."""
        return SCALES if self.tuned else MOMENTS

    @property
    def adaptation(self) -> Adaptation:
        """What to learn, from planned noise and numbers of people only: what would drown in noise is not asked."""
        return self._asked[0]

    @property
    def checks_threshold(self) -> bool:
        """Whether the threshold release is made; decided in the same way."""
        return self._asked[1]

    @property
    def _asked(self) -> tuple[Adaptation, bool]:
        """Both releases where each is good for something with its share; else one with all; else none.

        A threshold that the people have checked is worth more than a centre that they have moved (ADR 0186). What is
        publicly known of distances is about the frozen network, so none is tuned where people could check a threshold
        and would not: the noise of fewer than that lets nothing be tuned at any epsilon.
        """
        learnt = Adaptation.SCALES if self.tuned else Adaptation.CENTRE
        if self._may_learn(1 - self.threshold_share) and self._may_check(self.threshold_share):
            return learnt, True
        if self._may_check(1.0):
            return Adaptation.NONE, True
        return (learnt if self._may_learn(1.0) else Adaptation.NONE), False

    def _may_learn(self, share: float) -> bool:
        if self.tuned:
            return self._scales_noise(share) <= _LARGEST_SCALES_NOISE
        return self.people >= _FEWEST_TO_LEARN and self._centre_noise(share) <= _LARGEST_CENTRE_NOISE

    def _may_check(self, share: float) -> bool:
        return self.people >= _FEWEST_TO_CHECK and self._share_noise(share) <= _LARGEST_SHARE_NOISE

    def _noise(self, share: float) -> float:
        """Of a release that gets a share of the precision, in the total of everybody."""
        return self.noise_with(self.noise_multiplier / math.sqrt(share), self.organisations)

    def _centre_noise(self, share: float) -> float:
        return math.sqrt(self.directions) * self.centre_clip * self._noise(share) / self.people

    def _scales_noise(self, share: float) -> float:
        return math.sqrt(self.tuned) * self._noise(share) / self.people

    def _share_noise(self, share: float) -> float:
        # See `federation.learning.pairs`: the weights of all pairs add up to half the number of people.
        return math.sqrt(2 / 3) * self._noise(share) / (self.people / 2)

    @property
    def _learning_share(self) -> float:
        return 1 - self.threshold_share if self.checks_threshold else 1.0

    @property
    def _threshold_share(self) -> float:
        return 1.0 if self.adaptation is Adaptation.NONE else self.threshold_share

    @property
    def centre_noise_norm(self) -> float:
        """Expected L2 norm of the noise on the centre, when nobody leaves or colludes, were it released."""
        return self._centre_noise(self._learning_share)

    @property
    def scales_noise_norm(self) -> float:
        """Expected L2 norm of the noise on one person's mean gradient, averaged over all steps, in clips."""
        return self._scales_noise(self._learning_share)

    @property
    def share_noise(self) -> float:
        """Expected standard deviation of the noise on each share of distances, were they released."""
        return self._share_noise(self._threshold_share)

    @property
    def planned_noise(self) -> str:
        """What `adaptation` is decided by, in words."""
        if self.tuned:
            return f"the planned noise on the average gradient is {self.scales_noise_norm:.2f} clips"
        return f"the planned noise on the centre is {self.centre_noise_norm:.2f}"

    @property
    def moments_noise_multiplier(self) -> float:
        """Noise of the moments release; infinite when that release is not made."""
        return dict(self.events).get(MOMENTS, math.inf)

    @property
    def threshold_noise_multiplier(self) -> float:
        """Noise of the threshold release; infinite when that release is not made."""
        return dict(self.events).get(THRESHOLD, math.inf)

    @property
    def events(self) -> tuple[tuple[str, float], ...]:
        """Name and noise multiplier of every release that the run makes, in order; none where nothing would help."""
        found: list[tuple[str, float]] = []
        if self.adaptation is not Adaptation.NONE:
            noise = self.noise_multiplier / math.sqrt(self._learning_share)
            steps = [f"{SCALES}-{step}" for step in range(1, self.steps + 1)] if self.tuned else [MOMENTS]
            found += [(name, noise * math.sqrt(len(steps))) for name in steps]
        if self.checks_threshold:
            found.append((THRESHOLD, self.noise_multiplier / math.sqrt(self._threshold_share)))
        return tuple(found)

    def release_size(self, name: str) -> int:
        """How many numbers the release of that name sums."""
        if name == THRESHOLD:
            return BINS
        return self.tuned or self.directions

    def longest(self, name: str, people: int) -> float:
        """See `SumPlan`. Every pair is counted once, for two people: half of what each of them may change."""
        return people / 2 if name == THRESHOLD else float(people)

    def statement(self) -> PrivacyStatement:
        """What a model release says about the privacy of the people it was made from."""
        if not self.events:
            return PrivacyStatement.nobody(PRIVACY_UNIT, NEIGHBORING_RELATION)
        return PrivacyStatement(
            privacy_unit=PRIVACY_UNIT,
            neighboring_relation=NEIGHBORING_RELATION,
            epsilon=self.epsilon,
            delta=self.delta,
            events=self.events,
            people_train=self.people,
            organisations=self.organisations,
            attacks=trade_off(self.noise_multipliers).rates(),
            colluders=self.colluders,
            dropouts=self.dropouts,
        )

    def to_config(self) -> dict[str, float | int]:
        """The plan as flat scalars, to travel in a message."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Rebuilds and re-checks a foreign plan: the receiver does the accounting again.

        Raises:
            MalformedMessageError: fields are missing, unknown or wrong, or the plan does not add up.
        """
        try:
            return cls(**config)  # type: ignore[arg-type]  # __post_init__ checks every type
        except (UsageError, TypeError) as error:
            raise MalformedMessageError("the privacy plan in the message is not a valid plan") from error

    @classmethod
    def from_kept_config(cls, config: Mapping[str, Any]) -> Self:
        """See `SumPlan`."""
        plan = object.__new__(cls)
        vars(plan).update(config)
        return plan
