"""A model release, from public knowledge alone or with what a run opened of people. All of it is post-processing.

    recogniser profile, condition -> public adapter, public threshold           basis public, nobody asked
    + noisy centre of the people  -> their adapter                              basis public
    + noisy shares of their distances -> a threshold that they checked          basis checked or measured

Whoever publishes decides on `ReleaseTerms` first. They are checked as a whole before anybody is asked: what cannot be
released must not cost privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from federation.learning.moments import PublicCentre, Shift
from federation.learning.pairs import PairQuestion, noise_of_shares, shares_of
from federation.learning.threshold import (
    Observed,
    Threshold,
    adapter_of,
    choose_threshold,
    coupling_of,
    edges,
    public_adapter,
)
from federation.privacy.plan import PRIVACY_UNIT, Adaptation, PrivacyPlan
from federation.promise import NEIGHBORING_RELATION, PrivacyStatement
from federation.recognition.conditions import CLEAN
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profile import RecogniserProfile
from federation.recognition.profiles import PROBE


@dataclass(frozen=True, eq=False)
class ReleaseTerms:
    """What a release is to be for. Public.

    Attributes:
        profile: of the recogniser.
        condition: camera condition of the profile that probes are taken under.
        fmr: false match rate that the threshold is set for.
        references: images that are averaged for a template.
        frames: images that are averaged for a probe.

    Raises:
        UsageError: a number is out of range, or the profile knows too little of the condition for a threshold.
    """

    profile: RecogniserProfile
    condition: str
    fmr: float
    references: int
    frames: int

    def __post_init__(self) -> None:
        self.threshold(Shift.nothing(self.profile.directions), None, members=0)  # whatever is missing shows now

    @property
    def public_centre(self) -> PublicCentre:
        """What people are asked to compare themselves with."""
        clean, probes = (self.profile.condition(name).centre.array for name in (CLEAN, self.condition))
        start = (clean.astype(np.float64) + probes.astype(np.float64)) / 2
        return PublicCentre(self.profile.subspace.array.astype(np.float64), start)

    def adapter(self, shift: Shift, scales: NDArray[np.float64] | None = None) -> Adapter:
        """The public adapter, moved by as much of the people's shift as is believed; with scales if there are some."""
        if shift.weight > 0:
            made = adapter_of(self.profile, self.condition, shift.vector, shift.weight)
        else:
            made = public_adapter(self.profile, self.condition)
        return made if scales is None else Adapter(made.centres, made.projection, {PROBE: scales})

    def question(self, shift: Shift, scales: NDArray[np.float64] | None = None) -> PairQuestion:
        """What people are asked for a threshold under that adapter."""
        between = edges(
            self.profile, self.condition, weight=shift.weight, references=self.references, frames=self.frames
        )
        return PairQuestion(self.adapter(shift, scales), between, self.references, self.frames)

    def threshold(self, shift: Shift, observed: Observed | None, *, members: int) -> Threshold:
        """The threshold under that adapter.

        Args:
            shift: that the adapter has.
            observed: what the people released of their distances, if anything.
            members: how many people the shift was learnt from; 0 where it was not.
        """
        return choose_threshold(
            self.profile,
            self.condition,
            weight=shift.weight,
            references=self.references,
            frames=self.frames,
            fmr=self.fmr,
            observed=observed,
            members=members,
            coupling=coupling_of(self.profile, self.condition),
        )

    def release(
        self,
        adapter: Adapter,
        threshold: Threshold,
        *,
        adaptation: Adaptation,
        reason: str,
        privacy: PrivacyStatement,
        created: datetime,
    ) -> ModelRelease:
        """The release of all that."""
        return ModelRelease(
            model_name=self.profile.name,
            model_digest=self.profile.digest,
            adapter=adapter,
            adaptation=adaptation.value,
            reason=reason,
            condition=self.condition,
            threshold=threshold.bits,
            fmr=self.fmr,
            fmr_low=threshold.fmr_low,
            fmr_high=threshold.fmr_high,
            fmr_people=threshold.people,
            basis=threshold.basis,
            privacy=privacy,
            created=created.isoformat(),
            code_length=self.profile.code_length,
            references=self.references,
            frames=self.frames,
        )


def public_release(terms: ReleaseTerms, *, created: datetime, reason: str = "") -> ModelRelease:
    """A release that asks nobody and costs nobody privacy.

    Args:
        terms: what it is for.
        created: in UTC.
        reason: why nobody was asked, where somebody could have been.
    """
    nothing = Shift.nothing(terms.profile.directions)
    return terms.release(
        terms.adapter(nothing),
        terms.threshold(nothing, None, members=0),
        adaptation=Adaptation.NONE,
        reason=reason or "It is made of public knowledge alone: nobody was asked.",
        privacy=PrivacyStatement.nobody(PRIVACY_UNIT, NEIGHBORING_RELATION),
        created=created,
    )


def observed_of(total: NDArray[np.float64], *, people: int, noise_multiplier: float) -> Observed:
    """What the total of all organisations' pairs says.

    Args:
        total: the sum of every organisation's `federation.learning.pairs.pair_sum`, with noise.
        people: of all organisations that have more than one.
        noise_multiplier: noise that the total carries.

    Raises:
        MalformedMessageError: the total is none that such a sum can be.
    """
    return Observed(shares_of(total, people), noise_of_shares(noise_multiplier, people), people)


def reason_of(plan: PrivacyPlan, adaptation: Adaptation, weight: float) -> str:
    """Why a release adapts what it does, in one sentence for people."""
    if adaptation is Adaptation.SCALES:
        return f"The recogniser's slopes and factors are tuned for probes: {plan.planned_noise}, small enough."
    if adaptation is Adaptation.CENTRE:
        return f"The centre is the people's own with a weight of {weight:.2f}: {plan.planned_noise}, small enough."
    if plan.adaptation is Adaptation.NONE:
        who = f"for {plan.people} people at epsilon {plan.epsilon:g}"
        asked = "nobody was asked for more than a check of the threshold" if plan.events else "nobody was asked"
        return f"The adapter is made of public knowledge alone: {who} {plan.planned_noise}, too much, so {asked}."
    return "The adapter is made of public knowledge alone: what was released of people is no longer than its noise."
