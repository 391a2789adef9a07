"""The threshold keeps its promise where the truth is known, and the adapter is what the formula says."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from federation.errors import MalformedMessageError, UsageError
from federation.learning.threshold import (
    Observed,
    adapter_of,
    choose_threshold,
    coupling_of,
    edges,
    public_adapter,
)
from federation.rates import Basis
from federation.recognition.mobilefacenet import shipped_profile
from tests.profiles import FAR, D, K, distances, prior_of, profile_of

NOTHING = {"weight": 0.0, "references": 1, "frames": 1, "fmr": 0.01, "observed": None, "members": 0, "coupling": 0.0}


def chosen(profile, **changes):
    return choose_threshold(profile, "mask", **NOTHING | changes)


def accepted(bits, length, mean, spread, *, stretch=0.0, count=2_000_000, seed=1):
    """Share of impostors that a threshold accepts at a site, by drawing angles and then every code's distance."""
    random = np.random.default_rng(seed)
    standard = random.standard_normal(count)
    knee = NormalDist().inv_cdf(0.15)
    standard = np.where(standard < knee, knee + (standard - knee) * math.exp(stretch), standard)
    return (random.binomial(length, np.clip(mean + spread * standard, 0, 1)) <= bits).mean()


# ---------------------------------------------------------------------------------------------------------- threshold
@pytest.mark.parametrize("bits", [1024, 2048])
@pytest.mark.parametrize(("mean", "spread"), [(0.45, 0.05), (0.40, 0.045)])
@pytest.mark.parametrize("fmr", [0.05, 0.01, 0.001])
def test_at_a_site_that_is_known_the_stated_share_of_drawn_codes_is_accepted(bits, mean, spread, fmr):
    stated = chosen(profile_of(prior_of(distances(mean, spread)), bits=bits), fmr=fmr)
    found, more = (accepted(stated.bits + step, bits, mean, spread) for step in (0, 1))
    assert found <= 1.08 * fmr  # the tail of codes is a little heavier than a wider normal one's
    assert more > 0.9 * fmr
    assert stated.basis is Basis.PUBLIC


def test_half_of_the_sites_lie_above_the_stated_rate_and_nine_tenths_inside_the_interval():
    covariance = (1e-4, 3e-4, 4e-3)
    stated = chosen(profile_of(prior_of(distances(0.46, 0.05, covariance))))
    random = np.random.default_rng(2)
    first, mixed, second = covariance
    sites = random.multivariate_normal([0.46, math.log(0.05)], [[first, mixed], [mixed, second]], 20_000)
    stretches = 0.12 * random.standard_normal(len(sites))
    share = stated.bits / 1024
    knee = NormalDist().inv_cdf(0.15)
    rates = []
    for (mean, log_spread), stretch in zip(sites.tolist(), stretches.tolist(), strict=True):
        spread = math.sqrt(math.exp(2 * log_spread) + share * (1 - share) / 1024)
        standard = ((stated.bits + 0.5) / 1024 - mean) / spread
        if standard < knee:
            standard = knee + (standard - knee) * math.exp(-stretch)
        rates.append(NormalDist().cdf(standard))
    assert np.mean(np.array(rates) <= 0.01) == pytest.approx(0.5, abs=0.03)
    assert np.mean(np.array(rates) < stated.fmr_low) == pytest.approx(0.05, abs=0.015)
    assert np.mean(np.array(rates) > stated.fmr_high) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("people", [60, 1000, 100_000])
@pytest.mark.parametrize("shares", [(0.0, 0.0, 1.0), (-0.3, -0.2, 1.5), (-5.0, -5.0, 11.0)], ids=str)
def test_a_liar_moves_a_threshold_within_what_public_knowledge_leaves_open(shares, people):
    """Of sites drawn from the prior, a twentieth would have had the same threshold without any statistic."""
    covariance = (1e-4, 3e-4, 4e-3)
    profile = profile_of(prior_of(distances(0.46, 0.05, covariance)))
    lax = chosen(profile, observed=Observed(np.array(shares), 0.001, people), members=people)
    assert lax.bits > chosen(profile).bits
    assert lax.fmr_high >= 0.01
    first, mixed, second = covariance
    random = np.random.default_rng(3)
    means, spreads = random.multivariate_normal([0.46, math.log(0.05)], [[first, mixed], [mixed, second]], 20_000).T
    share = lax.bits / 1024
    knee = NormalDist().inv_cdf(0.15)
    standard = ((lax.bits + 0.5) / 1024 - means) / np.sqrt(np.exp(2 * spreads) + share * (1 - share) / 1024)
    stretched = knee + (standard - knee) * np.exp(-0.12 * random.standard_normal(len(means)))
    standard = np.where(standard < knee, stretched, standard)
    kept = np.mean(standard <= NormalDist().inv_cdf(0.01))
    assert kept == pytest.approx(0.05, abs=0.015)


def test_what_differs_together_is_less_uncertain():
    """Sites that lie farther apart and spread more have nearly the same lower quantile."""
    together, apart = (
        chosen(profile_of(prior_of(distances(0.46, 0.05, (1e-4, mixed, 4e-3))))) for mixed in (5e-4, -5e-4)
    )
    assert together.fmr_high / together.fmr_low < apart.fmr_high / max(apart.fmr_low, 1e-6)


def test_the_mean_string_is_accepted_at_most_twice_as_often_as_stated():
    string = tuple(-3.3 + i / 128 for i in range(257))
    stated = chosen(profile_of(prior_of(distances(string=string))))
    free = chosen(profile_of(prior_of(distances())))
    assert stated.bits < free.bits
    random = np.random.default_rng(3)
    places = np.interp(random.random(1_000_000), [(i / 256) ** 3 for i in range(257)], string)
    rates = [(random.binomial(1024, 0.45 + 0.05 * places) <= stated.bits + step).mean() for step in (0, 1)]
    assert rates[0] < 0.025
    assert rates[1] > 0.015


def test_whoever_brings_fewer_images_is_decided_under_the_strictest_threshold():
    farther = profile_of(prior_of(references=(20_000, 0), frames=(0, -50_000)))
    nearer = profile_of(prior_of(references=(-20_000, 0), frames=(0, 50_000)))
    single = chosen(farther)
    assert chosen(farther, references=3, frames=2).bits == single.bits
    assert chosen(farther, references=3, frames=2).fmr_high < single.fmr_high / 1.5  # whoever brings all is safer
    assert chosen(nearer, references=3, frames=2).bits < chosen(nearer, references=2).bits < single.bits
    assert chosen(nearer, references=3, frames=2).fmr_high == pytest.approx(single.fmr_high, rel=0.1)


@pytest.mark.parametrize("references", [-20_000, 20_000])
@pytest.mark.parametrize("frames", [-15_000, 15_000])
def test_a_threshold_is_the_strictest_of_all_that_fewer_images_would_have(references, frames):
    """Of sites whose distances are those of so many images from the outset: none of them averages anything."""
    own = {
        (r, f): chosen(profile_of(prior_of(distances(0.45 + ((1 - 1 / r) * references + (1 - 1 / f) * frames) / 1e6))))
        for r in (1, 2, 3)
        for f in (1, 2, 3)
    }
    averaging = profile_of(prior_of(references=(references, 0), frames=(frames, 0)))
    for most in ((3, 2), (2, 3), (1, 3), (3, 1)):
        strictest = min(own[r, f].bits for r in range(1, most[0] + 1) for f in range(1, most[1] + 1))
        found = chosen(averaging, references=most[0], frames=most[1])
        assert abs(found.bits - strictest) <= 1
    assert len({one.bits for one in own.values()}) > 6


def test_averaging_moves_the_prior_by_its_share_of_endlessly_many_images():
    profile = profile_of(prior_of(references=(-20_000, 0), frames=(0, 100_000)))
    one = edges(profile, "mask", weight=0, references=1, frames=1)
    four = edges(profile, "mask", weight=0, references=4, frames=1)
    two_frames = edges(profile, "mask", weight=0, references=1, frames=2)
    assert four == pytest.approx([each - 0.015 for each in one])
    assert [each - 0.45 for each in two_frames] == pytest.approx([(each - 0.45) * math.exp(0.05) for each in one])


def test_edges_are_the_quantiles_of_the_prior():
    low, high = edges(profile_of(prior_of()), "mask", weight=0, references=1, frames=1)
    assert low == pytest.approx(0.45 + 0.05 * NormalDist().inv_cdf(0.03), abs=1e-4)
    assert high == pytest.approx(0.45 + 0.05 * NormalDist().inv_cdf(0.20), abs=1e-4)


def test_between_two_weights_the_prior_lies_between_theirs():
    profile = profile_of(prior_of(*(distances(mean) for mean in (0.40, 0.41, 0.43, 0.46, 0.48))))
    lows = {w: edges(profile, "mask", weight=w, references=1, frames=1)[0] for w in (0, 0.125, 0.6, 1)}
    base = lows[0] - 0.40
    assert lows[0.125] == pytest.approx(0.405 + base, abs=1e-6)
    assert lows[0.6] == pytest.approx(0.43 + 0.4 * 0.03 + base, abs=1e-6)
    assert lows[1] == pytest.approx(0.48 + base, abs=1e-6)


def test_each_condition_is_judged_by_its_own_prior():
    """A profile that knows two, against two profiles that know one each; and everything that is said of one of them."""
    priors = {
        "clean": replace(prior_of(distances(0.41, 0.045), coupling=0.3, frames=(9_000, 0)), people=290),
        "mask": replace(prior_of(distances(0.46, 0.05), coupling=0.8, references=(-7_000, 0)), people=270),
    }
    both = profile_of(prior_of())
    both = replace(both, conditions=tuple(replace(one, prior=priors[one.name]) for one in both.conditions))
    asked = NOTHING | {"weight": 0.25, "references": 2, "frames": 3, "members": 40, "coupling": 0.5}
    images = {"weight": 0.25, "references": 2, "frames": 3}
    seen = []
    for name, prior in priors.items():
        alone = profile_of(prior)
        between = edges(alone, name, **images)
        statistic = Observed(np.array([0.06, 0.22, 0.72]), 0.01, 300)
        expected = [choose_threshold(alone, name, **asked | {"observed": seen}) for seen in (None, statistic)]
        found = [choose_threshold(both, name, **asked | {"observed": seen}) for seen in (None, statistic)]
        assert found == expected
        assert (edges(both, name, **images), found[0].people) == (between, prior.people)
        assert coupling_of(both, name) == pytest.approx(prior.coupling_millionths / 1e6)
        seen.append((between, *found))
    assert all(one != other for one, other in zip(*seen, strict=True))


# ----------------------------------------------------------------------------------------------------------- statistic
WIDE = (2e-4, 3e-4, 1e-2)


def shares_of(mean, spread, between, *, farther=0.0):
    """Exact shares of a normal site's pairs in the three bins."""
    below = [NormalDist(mean + farther, spread).cdf(edge) for edge in between]
    return np.array([below[0], below[1] - below[0], 1 - below[1]])


def test_without_noise_many_people_give_the_threshold_of_their_own_site():
    profile = profile_of(prior_of(distances(0.46, 0.05, WIDE)))
    between = edges(profile, "mask", weight=0, references=1, frames=1)
    for mean, spread in ((0.445, 0.052), (0.47, 0.047)):
        observed = Observed(shares_of(mean, spread, between), 1e-3, 1_000_000)
        stated = chosen(profile, observed=observed)
        known = chosen(profile_of(prior_of(distances(mean, spread))))
        assert abs(stated.bits - known.bits) <= 3
        assert abs(known.bits - chosen(profile).bits) > 8


def test_a_statistic_of_noise_alone_changes_nothing():
    profile = profile_of(prior_of(distances(0.46, 0.05, WIDE)))
    stated = chosen(profile, observed=Observed(np.array([0.9, 0.05, 0.05]), 1e4, 1_000_000))
    public = chosen(profile)
    assert abs(stated.bits - public.bits) <= 1
    assert (stated.fmr_low, stated.fmr_high) == pytest.approx((public.fmr_low, public.fmr_high), rel=0.15)
    assert (stated.basis, public.basis) == (Basis.CHECKED, Basis.PUBLIC)


def test_noise_that_moves_all_three_shares_alike_says_nothing():
    profile = profile_of(prior_of(distances(0.46, 0.05, WIDE)))
    shares = shares_of(0.45, 0.05, edges(profile, "mask", weight=0, references=1, frames=1))
    one, other = (chosen(profile, observed=Observed(shares + off, 0.01, 100)) for off in (0.0, 0.2))
    assert one.bits == other.bits
    assert (one.fmr_low, one.fmr_high) == pytest.approx((other.fmr_low, other.fmr_high))


def test_belief_follows_the_statistic_as_drawing_sites_does():
    """Importance sampling over drawn sites, with the covariance that the statistic has."""
    profile = profile_of(prior_of(distances(0.46, 0.05, WIDE)))
    between = edges(profile, "mask", weight=0, references=1, frames=1)
    shares, noise, people = np.array([0.05, 0.22, 0.73]), 0.02, 100
    stated = chosen(profile, observed=Observed(shares, noise, people))
    random = np.random.default_rng(4)
    first, mixed, second = WIDE
    sites = random.multivariate_normal([0.46, math.log(0.05)], [[first, mixed], [mixed, second]], 40_000)
    stretches = 0.12 * random.standard_normal(len(sites))
    knee = NormalDist().inv_cdf(0.15)

    def rate(distance, site, stretch, extra=0.0):
        standard = (distance - site[0]) / math.sqrt(math.exp(2 * site[1]) + extra)
        return NormalDist().cdf(knee + (standard - knee) * math.exp(-stretch) if standard < knee else standard)

    typical = np.array([0.03, 0.17, 0.80])
    covariance = (np.diag(typical) - np.outer(typical, typical)) * 0.45 / people + noise**2 * np.eye(3)
    # A share that is the rest of the others: drop it, and what the noise added to the sum.
    drop = np.array([[2, -1, -1], [-1, 2, -1]]) / 3
    precision = np.linalg.inv(drop @ covariance @ drop.T)
    share = stated.bits / 1024
    weights, rates = [], []
    for site, stretch in zip(sites, stretches, strict=True):
        below = [rate(edge, site, stretch) for edge in between]
        off = drop @ (shares - np.array([below[0], below[1] - below[0], 1 - below[1]]))
        weights.append(math.exp(-off @ precision @ off / 2))
        rates.append(rate((stated.bits + 0.5) / 1024, site, stretch, share * (1 - share) / 1024))
    weights, rates = np.array(weights) / np.sum(weights), np.array(rates)
    assert weights[rates <= 0.01].sum() == pytest.approx(0.5, abs=0.05)
    assert weights[rates < stated.fmr_low].sum() == pytest.approx(0.05, abs=0.03)
    assert weights[rates > stated.fmr_high].sum() == pytest.approx(0.05, abs=0.03)


def test_members_who_lie_farther_apart_state_what_strangers_would():
    profile = profile_of(prior_of(distances(0.46, 0.05, WIDE)))
    between = edges(profile, "mask", weight=0.8, references=1, frames=1)
    coupling, members = 0.9, 60
    farther = 2 * (0.75 + 0.25 * 0.8) * 0.8 * coupling / (math.pi * members)
    for mean in (0.45, 0.47):
        stated, naive, of_strangers = (
            chosen(
                profile,
                weight=0.8,
                observed=Observed(shares_of(mean, 0.05, between, farther=off), 1e-3, 1_000_000),
                members=members,
                coupling=kappa,
            )
            for off, kappa in ((farther, coupling), (farther, 0.0), (0.0, 0.0))
        )
        assert abs(stated.bits - of_strangers.bits) <= 2
        assert naive.bits > of_strangers.bits + 4


def test_a_rate_is_measured_where_the_interval_is_narrow_around_it():
    profile = profile_of(prior_of(distances(0.46, 0.05, WIDE)))
    shares = shares_of(0.46, 0.05, edges(profile, "mask", weight=0, references=1, frames=1))
    few = chosen(profile, fmr=0.05, observed=Observed(shares, 0.02, 100))
    many = chosen(profile, fmr=0.05, observed=Observed(shares, 1e-4, 100_000))
    assert few.basis is Basis.CHECKED
    assert not 0.05 / 1.5 <= few.fmr_low <= few.fmr_high <= 0.05 * 1.5
    assert many.basis is Basis.MEASURED
    assert 0.05 / 1.5 <= many.fmr_low <= many.fmr_high <= 0.05 * 1.5


def test_a_threshold_names_the_people_that_it_rests_on():
    """Of the public sets where nobody was asked, of the run where somebody was: of neither the other's, nor members."""
    profile = profile_of(prior_of())
    observed = Observed(shares_of(0.45, 0.05, edges(profile, "mask", weight=0.5, references=1, frames=1)), 0.01, 500)
    public, asked = (
        chosen(profile, weight=0.5, observed=statistic, members=77, coupling=0.5) for statistic in (None, observed)
    )
    assert (public.people, asked.people) == (profile.condition("mask").prior.people, 500)


# ------------------------------------------------------------------------------------------------------------ adapter
def by_hand(profile, condition, embedding, side, shift, weight):
    """The formula of the specification, with loops."""
    subspace, strength = profile.subspace.values, 0.75 + 0.25 * weight
    probes = profile.condition(condition)
    centre = (probes if side == "probe" else profile.condition("clean")).centre.values
    inside = [
        sum(subspace[D * row + column] * embedding[column] for column in range(D))
        - strength * (centre[row] + weight * shift[row])
        for row in range(K)
    ]
    vector = [
        sum(probes.whitening.values[K * row + column] * inside[column] for column in range(K)) for row in range(K)
    ]
    norm = math.hypot(*vector)
    return [number / norm for number in vector]


@pytest.mark.parametrize("condition", ["clean", "mask"])
@pytest.mark.parametrize("side", ["reference", "probe"])
@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_the_adapter_is_the_formula(condition, side, weight):
    profile = profile_of(prior_of())
    random = np.random.default_rng(5)
    shift, rows = random.standard_normal(K) / 10, random.standard_normal((2, D))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    adapter = adapter_of(profile, condition, shift, weight)
    expected = [by_hand(profile, condition, row, side, shift, weight) for row in rows]
    np.testing.assert_allclose(adapter.apply(rows, side), expected, atol=1e-9)
    assert (adapter.size, adapter.dimension) == (K, D)


def test_the_public_adapter_is_the_one_without_a_shift():
    profile = profile_of(prior_of())
    public, private = public_adapter(profile, "mask"), adapter_of(profile, "mask", np.zeros(K), 0.0)
    assert public.to_json() == private.to_json()
    assert public.to_json() != adapter_of(profile, "mask", np.full(K, 0.1), 0.5).to_json()
    assert public.to_json() != public_adapter(profile, "clean").to_json()


# ----------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fmr": 0.0009}, "below 0.001 cannot be stated: .*more different people"),
        ({"fmr": float("nan")}, "at most 0.05"),
        ({"fmr": 0.051}, "at most 0.05"),
        ({"weight": -0.1}, "weight of a private centre"),
        ({"weight": 1.1}, "weight of a private centre"),
        ({"weight": float("nan")}, "weight of a private centre"),
        ({"references": 6}, "1 to 5 references"),
        ({"frames": 0}, "1 to 3 frames"),
        ({"weight": 0.5, "observed": Observed(np.zeros(3), 1.0, 24)}, "at least one person"),
    ],
)
def test_what_is_out_of_range_is_refused(changes, reason):
    with pytest.raises(UsageError, match=reason):
        chosen(profile_of(prior_of()), **changes)


def test_without_a_prior_no_threshold_is_set():
    profile = profile_of(None)
    for ask in (chosen, lambda known: coupling_of(known, "mask")):
        with pytest.raises(UsageError, match=r"none of its sets had enough people.*5 sets of 40 people"):
            ask(profile)
    assert public_adapter(profile, "mask").size == K


def test_the_coupling_is_the_priors():
    assert coupling_of(profile_of(prior_of(coupling=0.83)), "mask") == pytest.approx(0.83)


@pytest.mark.parametrize("shift", [np.zeros(K + 1), np.zeros((1, K))])
def test_a_shift_of_another_length_is_refused(shift):
    with pytest.raises(UsageError, match=f"offset of a centre has {K} numbers"):
        adapter_of(profile_of(prior_of()), "mask", shift, 0.5)


@pytest.mark.parametrize("shares", [np.zeros(2), np.array([0.1, np.nan, 0.2]), np.array([0.1, np.inf, 0.2])])
def test_a_statistic_of_another_form_is_refused(shares):
    with pytest.raises(MalformedMessageError, match="three finite numbers"):
        Observed(shares, 0.1, 24)


@pytest.mark.parametrize(("noise", "people"), [(-1.0, 24), (math.inf, 24), (math.nan, 24), (0.1, 1), (0.1, 24.0)])
def test_a_statistic_of_impossible_noise_or_people_is_refused(noise, people):
    with pytest.raises(UsageError, match="finite noise and at least two people"):
        Observed(np.zeros(3), noise, people)


def test_a_site_where_everybody_accepts_the_string_gets_the_strictest_threshold():
    assert chosen(profile_of(prior_of(distances(string=tuple(each - 100 for each in FAR))))).bits == 0


def test_a_rate_that_no_threshold_keeps_is_not_stated():
    with pytest.raises(UsageError, match=r"no threshold keeps a false match rate of 0\.01: different people"):
        chosen(profile_of(prior_of(distances(0.001, 0.06))))


@pytest.mark.parametrize(
    ("condition", "private", "asked", "stated"),
    [
        ("mask", False, False, (337, 0.0001864, 0.02166)),
        ("clean", True, False, (364, 0.001053, 0.03000)),
        ("mask", True, True, (352, 0.003308, 0.02058)),
    ],
)
def test_the_profile_that_ships_states_what_it_stated(condition, private, asked, stated):
    """Known answers: what is judged of sites, and not derived, moves every release, so it moves none unnoticed."""
    profile = shipped_profile()
    found = choose_threshold(
        profile,
        condition,
        weight=0.6 if private else 0.0,
        references=2,
        frames=1,
        fmr=0.01,
        observed=Observed(np.array([0.05, 0.2, 0.75]), 0.02, 60) if asked else None,
        members=60 if private else 0,
        coupling=coupling_of(profile, condition),
    )
    assert (found.bits, found.fmr_low, found.fmr_high) == pytest.approx(stated, rel=1e-3)
