"""The adapter and the threshold of a release: what a recogniser profile knows, and what the people of a run add.

Theory of operation
-------------------
* **Geometry.** ``z = normalise(W (B x - lambda (g_p + w o)))``: x a unit embedding, B the profile's subspace, g_p its
  public centre for the camera profile p, W its whitening, o the privately learnt offset of these people from the public
  centres, w in [0, 1] how far that can be trusted, ``lambda = 0.75 + 0.25 w``. Without a private part a centre is
  subtracted only in part: sets of faces differ by more than a quarter of it.
* **A site is one draw.** Distances between different people of a site have a mean mu, a spread s and a shape whose
  lower tail is stretched by exp(gamma). theta = (mu, ln s, gamma) differs between sites; the profile's prior says how.
  mu and ln s are drawn together: diverse people lie farther apart and spread more, and their correlation is what keeps
  the lower quantile, which decides, better known than either.
* **Statistic.** The people of a run may say which shares of their pairs lie below two distances (`edges`), with noise.
  Then theta is weighted by how well it explains the shares. Their pairs are a little farther apart than strangers'
  where their own images made the centre: cosines fall by ``2 lambda w kappa / n``, so the edges are moved by that
  over pi.
* **Code noise.** The distance of two codes of L bits estimates angle / pi with a variance of t (1 - t) / L, taken at
  the threshold t, where it decides.
* **Rule.** The threshold is the largest under which half of what is believed of theta has a false match rate of at most
  the stated one: as likely above as below (the mean would be dominated by the few bad sites). It is also at most the
  largest under which templates accept the mean of a domain's vectors (`federation.audit.wolf`) at no more than twice
  the stated rate, and the smallest over all smaller numbers of images, for whoever brings fewer.
* **Members may lie.** Nobody sees one organisation's shares, so one that lies about them could make a threshold as lax
  as it likes. Whatever the statistic says, the threshold is at most the one that keeps the rate at the strictest
  twentieth of the prior's sites: a liar moves it within what public knowledge alone leaves open.

Everything here is post-processing of public and of noisy values, and costs no privacy.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.rates import Basis
from federation.recognition.conditions import CLEAN, QUANTILES, WEIGHTS_PERCENT, ImpostorPrior
from federation.recognition.model import MOST_FRAMES, MOST_REFERENCES, Adapter
from federation.recognition.profile import RecogniserProfile
from federation.recognition.profiles import PROBE, REFERENCE

LOWEST_FMR, HIGHEST_FMR = 0.001, 0.05
EDGES: Final = (0.03, 0.20)
"""Shares of the prior's distances below the two edges of the statistic."""
SHARES: Final = (0.0, *((i / (QUANTILES - 1)) ** 3 for i in range(1, QUANTILES)))
"""Shares that the quantiles of a prior belong to."""
STRING_FACTOR: Final = 2
"""How many times the stated false match rate the mean string may be accepted."""

_PUBLIC_STRENGTH: Final = 0.75
_POINTS: Final = 15
_GRID: Final = np.stack(
    [axis.ravel() for axis in np.meshgrid(*[np.linspace(-3, 3, _POINTS)] * 2, np.linspace(-2.4, 2.4, 7), indexing="ij")]
)
"""Points at which theta is looked at, in standard deviations."""
_CLOSER: Final = 4
_STRETCH_SPREAD: Final = 0.12
_TAIL: Final = 0.15
"""Share of distances that a stretch moves."""
_SAMPLING: Final = 0.45
"""Variance of the shares of n people's pairs, in variances of n independent draws (measured: 0.2 to 0.6)."""
_INTERVAL: Final = (0.05, 0.95)
_MEASURED: Final = 1.5

_Numbers: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Observed:
    """The noisy statistic of a run.

    Attributes:
        shares: (3,) float64, of the pairs below the first edge, between both, and from the second on.
        noise: standard deviation of the noise on each share.
        people: how many people's pairs they are of.

    Raises:
        MalformedMessageError: the shares are no three finite numbers.
        UsageError: noise or people are out of range.
    """

    shares: _Numbers
    noise: float
    people: int

    def __post_init__(self) -> None:
        if self.shares.shape != (len(EDGES) + 1,) or not np.isfinite(self.shares).all():
            raise MalformedMessageError("the statistic of a threshold must be three finite numbers")
        if not (0 <= self.noise < math.inf) or type(self.people) is not int or self.people < 2:  # noqa: PLR2004 - a pair
            raise UsageError("a statistic has finite noise and at least two people")


@dataclass(frozen=True)
class Threshold:
    """What a release states.

    Attributes:
        bits: largest Hamming distance that is accepted.
        fmr_low: 5 % of what is believed of the true false match rate lies below.
        fmr_high: 95 % lies below; at least the stated rate where people were asked.
        basis: what the three rest on.
        people: how many of them, in the public sets or in the run.
    """

    bits: int
    fmr_low: float
    fmr_high: float
    basis: Basis
    people: int


def public_adapter(profile: RecogniserProfile, condition: str) -> Adapter:
    """The adapter that rests on public knowledge alone.

    Args:
        profile: of the recogniser.
        condition: camera condition of the probes.

    Raises:
        UsageError: the profile does not know the condition.
    """
    return adapter_of(profile, condition, shift=np.zeros(profile.directions), weight=0.0)


def adapter_of(profile: RecogniserProfile, condition: str, shift: _Numbers, weight: float) -> Adapter:
    """The adapter with a private part.

    Args:
        profile: of the recogniser.
        condition: camera condition of the probes.
        shift: (k,) noisy mean offset of the people from the public centres, in the subspace, not whitened.
        weight: how far to trust it, in [0, 1].

    Raises:
        UsageError: the profile does not know the condition, or an argument is out of range.
    """
    probes, references = profile.condition(condition), profile.condition(CLEAN)
    _require_weight(weight)
    if shift.shape != (profile.directions,):
        raise UsageError(f"the offset of a centre has {profile.directions} numbers")
    whitening, strength = probes.whitening.array, public_strength(weight)
    return Adapter(
        {
            side: whitening @ (strength * (known.centre.array + weight * shift))
            for side, known in ((REFERENCE, references), (PROBE, probes))
        },
        whitening @ profile.subspace.array,
    )


def coupling_of(profile: RecogniserProfile, condition: str) -> float:
    """kappa: see `choose_threshold`.

    Raises:
        UsageError: the profile has no prior for the condition.
    """
    return _prior(profile, condition).coupling_millionths / 1e6


def edges(
    profile: RecogniserProfile, condition: str, *, weight: float, references: int, frames: int
) -> tuple[float, float]:
    """The two distances, angle / pi, between which the statistic counts pairs.

    Args:
        profile: of the recogniser.
        condition: camera condition of the probes.
        weight: of the private part of the centre.
        references: images that a reference is averaged from.
        frames: images that a probe is averaged from.

    Returns:
        The prior's 3 and 20 % quantiles, without code noise.

    Raises:
        UsageError: the profile has no prior for the condition, or a number is out of range.
    """
    sites = _Sites(_prior(profile, condition), weight, references, frames)
    low, high = (float(sites.mean[0] + math.exp(sites.mean[1]) * np.interp(q, SHARES, sites.shape)) for q in EDGES)
    return low, high


def choose_threshold(
    profile: RecogniserProfile,
    condition: str,
    *,
    weight: float,
    references: int,
    frames: int,
    fmr: float,
    observed: Observed | None,
    members: int,
    coupling: float,
) -> Threshold:
    """The threshold for a stated false match rate.

    Args:
        profile: of the recogniser; its code length is that of the release.
        condition: camera condition of the probes.
        weight: of the private part of the centre, as in `adapter_of`.
        references: images that a reference is averaged from, at most.
        frames: images that a probe is averaged from, at most.
        fmr: wanted false match rate, from 0.001 to 0.05.
        observed: the statistic of these `references` and `frames`, or None.
        members: people whose images made the private part; 0 where there is none.
        coupling: kappa, how much a member's own image is of the centre that it made: `coupling_of`.

    Raises:
        UsageError: the profile has no prior for the condition, no threshold keeps the rate, or a number is out of
            range.
    """
    prior = _prior(profile, condition)
    _require_rate(fmr)
    sites = _Sites(prior, weight, references, frames)
    fewer = [(r, f) for r in range(1, references + 1) for f in range(1, frames + 1)]

    def largest(believed: float) -> int:
        return min(_largest(sites.moved(prior, r, f), fmr, profile.code_length, believed) for r, f in fewer)

    most = largest(_INTERVAL[0])
    if observed is not None:
        if weight > 0 and members < 1:
            raise UsageError("a private centre was made by at least one person")
        moved = 2 * public_strength(weight) * weight * coupling / (math.pi * members) if weight > 0 else 0.0
        sites.weigh(observed, edges(profile, condition, weight=weight, references=references, frames=frames), moved)
    bits = min(most, largest(0.5))
    rates = sites.rates(bits, profile.code_length, sites.shape)
    low, high = (float(sites.quantile(rates, q)) for q in _INTERVAL)
    if observed is not None:
        high = max(high, fmr)  # where `most` decides, people may have lied, or lie farther apart than was ever seen
    if low > fmr:
        raise UsageError(f"no threshold keeps a false match rate of {fmr:g}: different people lie too close together")
    if observed is None:
        return Threshold(bits, low, high, Basis.PUBLIC, prior.people)
    close = fmr / _MEASURED <= low and high <= fmr * _MEASURED
    return Threshold(bits, low, high, Basis.MEASURED if close else Basis.CHECKED, observed.people)


class _Sites:
    """What is believed of sites: many theta, and the logarithm of how likely each is.

    Attributes:
        mean: (2,) expected mean of the distances, and logarithm of their spread.
        shape: (`QUANTILES`,) of standardised distances.
        string: (`QUANTILES`,) of the standardised distances to the mean string.
        theta: (3, n) mu, ln s and gamma.
        likely: (n,) logarithm of the weight.
    """

    def __init__(self, prior: ImpostorPrior, weight: float, references: int, frames: int) -> None:
        _require_weight(weight)
        if not (1 <= references <= MOST_REFERENCES and 1 <= frames <= MOST_FRAMES):
            raise UsageError(f"releases average 1 to {MOST_REFERENCES} references and 1 to {MOST_FRAMES} frames")
        self.mean, covariance, self.shape, self.string = _at(prior, weight)
        self._images = references, frames
        self.mean = self.mean + _shift(prior, references, frames)
        self._root = np.zeros((3, 3))
        self._root[:2, :2] = np.linalg.cholesky(covariance)
        self._root[2, 2] = _STRETCH_SPREAD
        self._stand(np.zeros(3), np.eye(3))
        self.likely: _Numbers = -(self._places**2).sum(axis=0) / 2

    def _stand(self, middle: _Numbers, root: _Numbers) -> None:
        """Puts a grid of theta around a place; places are in standard deviations of the prior."""
        self._places = middle[:, None] + root @ _GRID
        self.theta: _Numbers = np.append(self.mean, 0.0)[:, None] + self._root @ self._places

    def moved(self, prior: ImpostorPrior, references: int, frames: int) -> _Sites:
        """The same beliefs for other numbers of images."""
        other = copy.copy(self)
        change = _shift(prior, references, frames) - _shift(prior, *self._images)
        other.mean, other.theta = self.mean + change, self.theta + np.append(change, 0.0)[:, None]
        other._images = references, frames  # noqa: SLF001 - one of us
        return other

    def shares_below(self, distance: float, noise: float, quantiles: _Numbers) -> _Numbers:
        """(n,) share of distances below one, under each theta; `noise` is the variance that a code adds."""
        mean, log_spread, stretch = self.theta
        standard = (distance - mean) / np.sqrt(np.exp(2 * log_spread) + noise)
        knee = float(np.interp(_TAIL, SHARES, quantiles))
        tail = knee + (standard - knee) * np.exp(-stretch)
        standard = np.where(standard < knee, tail, standard)
        return np.asarray(np.interp(standard, quantiles, SHARES, left=0.0, right=1.0))

    def rates(self, bits: int, length: int, quantiles: _Numbers) -> _Numbers:
        """(n,) share of code distances of at most `bits`, under each theta."""
        share = bits / length
        return self.shares_below((bits + 0.5) / length, share * (1 - share) / length, quantiles)

    def weigh(self, observed: Observed, between: tuple[float, float], moved: float) -> None:
        """Takes the statistic into account.

        Args:
            observed: the noisy shares.
            between: the edges that pairs were counted between.
            moved: how much farther apart the pairs of members are than those of strangers.
        """
        bins = len(observed.shares)
        plane = np.linalg.svd(np.ones((1, bins)))[2][1:]  # shares add up to 1: what the noise adds to that says nothing
        expected = self._binned(between, moved)
        typical = np.clip(expected @ self.belief, 0.002, 1)
        typical /= typical.sum()
        sampling = (np.diag(typical) - np.outer(typical, typical)) * _SAMPLING / observed.people
        precision = np.linalg.inv(plane @ (sampling + observed.noise**2 * np.eye(bins)) @ plane.T)
        for again in range(_CLOSER + 1):
            off = plane @ (observed.shares[:, None] - self._binned(between, moved))
            misfit = np.einsum("ig,ij,jg->g", off, precision, off)
            self.likely = -((self._places**2).sum(axis=0) + misfit) / 2
            if again < _CLOSER:  # what is left may lie between the points of the grid: look closer
                middle = self._places @ self.belief
                apart = self._places - middle[:, None]
                step = self._places.max(axis=1) - self._places.min(axis=1)
                floor = np.diag((step / _POINTS) ** 2)
                self._stand(middle, np.asarray(np.linalg.cholesky((apart * self.belief) @ apart.T + floor / 4)))

    def _binned(self, between: tuple[float, float], moved: float) -> _Numbers:
        """(bins, n) shares of members' pairs, under each theta."""
        below = [self.shares_below(edge - moved, 0.0, self.shape) for edge in between]
        return np.diff(np.vstack([np.zeros_like(below[0]), *below, np.ones_like(below[0])]), axis=0)

    @property
    def belief(self) -> _Numbers:
        """(n,) weights that add up to 1."""
        weights = np.exp(self.likely - self.likely.max())
        return np.asarray(weights / weights.sum())

    def quantile(self, rates: _Numbers, share: float) -> float:
        """The value below which `share` of what is believed lies."""
        order = np.argsort(rates)
        weights = self.belief[order]
        return float(np.interp(share, np.cumsum(weights) - weights / 2, rates[order]))


def _largest(sites: _Sites, fmr: float, length: int, believed: float) -> int:
    """Largest number of bits that keeps both rules for a share `believed` of what is believed; 0 where none does."""

    def keeps(bits: int) -> bool:
        return (
            sites.quantile(sites.rates(bits, length, sites.shape), believed) <= fmr
            and sites.quantile(sites.rates(bits, length, sites.string), believed) <= STRING_FACTOR * fmr
        )

    low, high = 0, length // 2
    while low < high:  # both rates rise with the bits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if keeps(middle) else (low, middle - 1)
    return low


def _at(prior: ImpostorPrior, weight: float) -> tuple[_Numbers, _Numbers, _Numbers, _Numbers]:
    """Mean, covariance, shape and string quantiles, between the two nearest weights that the prior is tabulated for."""
    rows = []
    for each in prior.at_weights:
        first, mixed, second = each.covariance_billionths
        rows.append(
            np.concatenate(
                [
                    np.array([each.mean_millionths, each.log_spread_millionths]) / 1e6,
                    np.array([first, mixed, mixed, second]) / 1e9,
                    each.shape.array,
                    each.string.array,
                ]
            )
        )
    place = np.interp(100 * weight, WEIGHTS_PERCENT, range(len(WEIGHTS_PERCENT)))
    lower = min(int(place), len(rows) - 2)
    row = rows[lower] + (place - lower) * (rows[lower + 1] - rows[lower])
    return row[:2], row[2:6].reshape(2, 2), row[6 : 6 + QUANTILES], row[6 + QUANTILES :]


def _shift(prior: ImpostorPrior, references: int, frames: int) -> _Numbers:
    """What averaging so many images adds to the mean and to the logarithm of the spread."""
    sides = np.array([[side.mean_millionths, side.log_spread_millionths] for side in (prior.references, prior.frames)])
    return np.asarray(np.array([1 - 1 / references, 1 - 1 / frames]) @ sides / 1e6)


def public_strength(weight: float) -> float:
    """lambda: how much of a centre is subtracted."""
    return _PUBLIC_STRENGTH + (1 - _PUBLIC_STRENGTH) * weight


def _prior(profile: RecogniserProfile, condition: str) -> ImpostorPrior:
    prior = profile.condition(condition).prior
    if prior is None:
        raise UsageError(
            f"the profile of {profile.name} does not know how far different people lie apart under {condition}: none "
            "of its sets had enough people. Make a better one: intaglio models profile, with 5 sets of 40 people"
        )
    return prior


def _require_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise UsageError("the weight of a private centre must be from 0 to 1")


def _require_rate(fmr: float) -> None:
    if not fmr <= HIGHEST_FMR:
        raise UsageError(f"a false match rate of at most {HIGHEST_FMR:g} can be stated, not {fmr:g}")
    if not fmr >= LOWEST_FMR:
        raise UsageError(
            f"a false match rate below {LOWEST_FMR:g} cannot be stated: to see one match in {1 / LOWEST_FMR:g} takes "
            "more different people than public sets of faces, or a run, have"
        )
