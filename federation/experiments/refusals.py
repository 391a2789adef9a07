"""Attacks refusals: is there a question that the code answers without the canary, and not with it?

Noise cannot hide that. So the attacker of `federation.experiments.canaries`, who chooses every number of a question,
asks with the most extreme ones, in their bounds and far beyond, about the canary in different shapes. A question that
is answered on one side only tells exactly who is there, whatever epsilon was promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.experiments.canaries import CANARY, Mechanism, organisation, session_of, sitters
from federation.experiments.canary_chips import telling_scales
from federation.learning.moments import PublicCentre
from federation.learning.pairs import PairQuestion
from federation.learning.scales import ChipSet
from federation.privacy.auditing import CONFIDENCE, LARGEST_EPSILON
from federation.privacy.bounds import BOUNDS
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.plan import SCALES, THRESHOLD, PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import MobileFaceNetRecogniser
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg.ring import noisy_input

_LARGEST: Final = float(np.finfo(np.float64).max)
_SIZES: Final = (0.0, 5e-324, 1e-300, 1.0, 4.0, 16.0, 1e150, _LARGEST)
_NEARLY: Final = 0.9999
_Sum = Callable[[], tuple[NDArray[np.float64], int]]


def audit_refusals(
    plan: PrivacyPlan,
    *,
    confidence: float = CONFIDENCE,
    recogniser: MobileFaceNetRecogniser | None = None,
    mechanism: Mechanism | None = None,
) -> EpsilonAudit:
    """Asks every release of a plan with extreme numbers, with the canary and without.

    Args:
        plan: of the run.
        confidence: to state; what is found here is certain.
        recogniser: what a plan of the recipe `SCALES` tunes; it needs one.
        mechanism: what to attack instead of the code that runs.

    Returns:
        A lower bound of 0, or of the largest epsilon there is when a question tells.

    Raises:
        UsageError: steps are to be attacked without a recogniser.
    """
    audited, asked, telling = mechanism or Mechanism(), 0, 0
    for release in dict.fromkeys(SCALES if name.startswith(SCALES) else name for name, _ in plan.events):
        for without, with_canary in _questions(plan, release, audited, recogniser):
            asked += 1
            telling += _answers(plan, release, without) != _answers(plan, release, with_canary)
    bound = LARGEST_EPSILON if telling else 0.0
    return EpsilonAudit(plan.epsilon, plan.delta, bound, float(confidence), asked, AuditMethod.REFUSALS)


def _answers(plan: PrivacyPlan, release: str, total: _Sum) -> bool:
    """Whether an organisation has an answer."""
    name = f"{SCALES}-1" if release == SCALES else release
    try:
        with np.errstate(all="ignore"):
            noisy_input(session_of(plan, name), *total(), dict(plan.events)[name], noise=_none)
    except Exception:  # noqa: BLE001 - whatever it is, a coordinator would see that there is none
        return False
    return True


def _none(size: int, _std: float) -> NDArray[np.int64]:
    """Noise has no part in whether there is an answer."""
    return np.zeros(size, dtype=np.int64)


def _questions(
    plan: PrivacyPlan, release: str, audited: Mechanism, recogniser: MobileFaceNetRecogniser | None
) -> Iterator[tuple[_Sum, _Sum]]:
    """Pairs of the same question, about the people without the canary and with it."""
    if release == SCALES:
        if recogniser is None:
            raise UsageError(f"an audit of the recipe {SCALES} needs the recogniser that it tunes")
        return _steps(plan, audited, recogniser)
    return _sums(plan, release, audited)


def _steps(plan: PrivacyPlan, audited: Mechanism, recogniser: MobileFaceNetRecogniser) -> Iterator[tuple[_Sum, _Sum]]:
    loud = np.random.default_rng(0).normal(size=plan.tuned)
    most = BOUNDS["scales"][1]
    for scales in (telling_scales(recogniser), loud * 10**3.6385, np.sign(loud) * most, loud * 1e30):

        def of(chips: ChipSet, scales: NDArray[np.float64] = scales) -> _Sum:
            return lambda: (audited.scales(recogniser, chips, scales, plan), len(chips))

        yield of(sitters(1, canary=False)), of(sitters(1, canary=True))


def _sums(plan: PrivacyPlan, release: str, audited: Mechanism) -> Iterator[tuple[_Sum, _Sum]]:
    towards, made = _towards_canary(plan), np.full(plan.directions, plan.directions**-0.5)
    for without, with_canary in _shapes(plan):
        advertised = len(set(with_canary.people.tolist()))
        for size in _SIZES:
            # With the largest size, only what lies nearly along the direction becomes infinite.
            projection = np.multiply.outer(made, towards / np.abs(towards).max() / _NEARLY) * size
            for centre in (size * made, -size * made):
                public = PublicCentre(projection, centre)
                question = PairQuestion(Adapter({REFERENCE: centre, PROBE: 0 * centre}, projection), (0.25, 0.5), 1, 1)

                def of(
                    embeddings: EmbeddingSet,
                    public: PublicCentre = public,
                    question: PairQuestion = question,
                    advertised: int = advertised,
                ) -> _Sum:
                    people = len(set(embeddings.people.tolist()))
                    if release != THRESHOLD:
                        return lambda: (audited.moments(embeddings, public, plan), people)
                    return lambda: (audited.threshold(embeddings, question, advertised), people)

                yield of(without), of(with_canary)


def _towards_canary(plan: PrivacyPlan) -> NDArray[np.float64]:
    """A direction that nobody of the crowd has, nor near."""
    return np.full(plan.dimension, plan.dimension**-0.5)


def _shapes(plan: PrivacyPlan) -> Iterator[tuple[EmbeddingSet, EmbeddingSet]]:
    """People without and with the canary: with images of both cameras, and without those of either."""
    crowd, image = organisation(plan, 1, canary=False), _towards_canary(plan).astype(np.float32)
    for profiles in ((REFERENCE, PROBE), (REFERENCE,), (PROBE,)):
        count = len(profiles)
        with_canary = EmbeddingSet(
            np.concatenate([crowd.embeddings, np.stack([image] * count)]),
            np.concatenate([crowd.people, [CANARY] * count]),
            np.concatenate([crowd.profiles, profiles]),
            np.concatenate([crowd.images, [CANARY] * count]),
        )
        yield crowd, with_canary
