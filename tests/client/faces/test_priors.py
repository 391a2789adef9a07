"""What public sets of faces say: each part against another way to count it, on people who are made up."""

import math

import numpy as np
import pytest

from client.faces.priors import Geometry, PublicSet, condition_of, subspace_of
from federation.errors import UsageError
from federation.learning.threshold import SHARES

K, D = 18, 40


def people_of(name, count, images, *, seed, offset=0.0, spread=None, probes=0.3, size=K):
    """A set whose embeddings lie in `size` numbers, and whose people differ by `spread` in each of them."""
    random = np.random.default_rng(seed)
    spread = np.full(size, 1.0) if spread is None else spread
    where = np.random.default_rng(99).standard_normal(size) * offset
    faces = random.standard_normal((count, size)) * spread
    person = np.repeat(np.arange(count), images)
    rows = {}
    for n, side in enumerate(("clean", "mask")):
        pictures = faces[person] + 0.4 * random.standard_normal((len(person), size)) + where + probes * n
        rows[side] = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    return PublicSet(name, person, rows)


def sets(**changes):
    return [
        people_of("one", 60, 4, seed=1, **changes),
        people_of("two", 50, 2, seed=2, offset=0.1, **changes),
        people_of("three", 45, 1, seed=3, offset=0.2, **changes),
    ]


# ----------------------------------------------------------------------------------------------------------- geometry
def test_the_subspace_is_the_one_that_embeddings_lie_in():
    hidden = np.linalg.qr(np.random.default_rng(0).standard_normal((D, K)))[0]
    inside = sets()
    wide = [PublicSet(s.name, s.people, {n: e @ hidden.T for n, e in s.embeddings.items()}) for s in inside]
    subspace = subspace_of(wide)
    assert subspace.shape == (K, D)
    np.testing.assert_allclose(subspace @ subspace.T, np.eye(K), atol=1e-9)
    np.testing.assert_allclose(hidden @ hidden.T @ subspace.T, subspace.T, atol=1e-9)


def test_a_subspace_has_at_least_sixteen_directions_and_no_more_than_images():
    random = np.random.default_rng(0)
    flat = np.zeros((40, D))
    flat[:, :3] = random.standard_normal((40, 3))
    assert subspace_of([PublicSet("flat", np.arange(40), {"clean": flat})]).shape == (16, D)
    wide = random.standard_normal((20, 200))
    assert subspace_of([PublicSet("few", np.arange(20), {"clean": wide, "mask": wide + 1})]).shape == (20, 200)
    many = random.standard_normal((300, 200))
    assert subspace_of([PublicSet("many", np.arange(300), {"clean": many})]).shape == (128, 200)
    with pytest.raises(UsageError, match="at least 16 images"):
        subspace_of([PublicSet("few", np.arange(15), {"clean": wide[:15]})])


def test_centres_are_means_of_people_and_sets_count_as_their_people_up_to_sixty():
    several = [people_of("big", 90, 1, seed=4), people_of("small", 30, 3, seed=5, offset=0.3)]
    geometry = Geometry.of(several, "mask")
    for side, centre in (("clean", geometry.reference), ("mask", geometry.probe)):
        expected = 0.0
        for each, weight in zip(several, (60 / 90, 30 / 90), strict=True):
            own = [each.embeddings[side][each.people == one].mean(axis=0) for one in range(each.count)]
            expected = expected + weight * np.mean(own, axis=0)
        np.testing.assert_allclose(centre, expected, atol=1e-12)


def within_by_hand(several, sides):
    """Covariance within people, with loops."""
    total, count = np.zeros((K, K)), 0.0
    for each in several:
        share = min(each.count, 60) / each.count
        rows = {}
        for side in sides:
            people = [each.embeddings[side][each.people == one] for one in range(each.count)]
            middle = np.mean([own.mean(axis=0) for own in people], axis=0)
            for one, own in enumerate(people):
                rows.setdefault(one, []).extend(own - middle)
        for own in rows.values():
            if len(own) > 1:
                total += share * np.cov(np.array(own).T)
                count += share
    return total / count


@pytest.mark.parametrize(("condition", "sides"), [("clean", ["clean"]), ("mask", ["clean", "mask"])])
def test_the_whitening_is_the_inverse_root_of_what_pictures_of_a_person_differ_by(condition, sides):
    several = sets()
    mixed = within_by_hand(several, sides)
    mixed = 0.6 * mixed + 0.4 * np.trace(mixed) / K * np.eye(K)
    whitening = Geometry.of(several, condition).whitening
    product = whitening @ mixed @ whitening
    np.testing.assert_allclose(product, np.eye(K) * product[0, 0], atol=1e-9 * product[0, 0])
    assert np.trace(whitening) == pytest.approx(K)


def test_of_people_with_one_picture_each_no_direction_is_preferred():
    single = [people_of("one", 45, 1, seed=6)]
    np.testing.assert_allclose(Geometry.of(single, "clean").whitening, np.eye(K), atol=1e-12)
    assert np.abs(Geometry.of(single, "mask").whitening - np.eye(K)).max() > 1e-3  # clean and masked ones differ


# -------------------------------------------------------------------------------------------------------------- prior
def played_by_hand(site, others, whitening, *, strength=0.75):
    """Distances between different people of a site, with centres of the other sets."""
    weights = [min(each.count, 60) for each in others]
    centres = {
        side: np.average(
            [
                np.mean([each.embeddings[side][each.people == one].mean(axis=0) for one in range(each.count)], axis=0)
                for each in others
            ],
            axis=0,
            weights=weights,
        )
        for side in ("clean", "mask")
    }
    vectors = {}
    for side, centre in centres.items():
        rows = (site.embeddings[side] - strength * centre) @ whitening
        vectors[side] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return centres, [
        math.acos(min(1.0, float(a @ b))) / math.pi
        for a, one in zip(vectors["clean"], site.people, strict=True)
        for b, other in zip(vectors["mask"], site.people, strict=True)
        if one != other
    ]


def test_the_prior_is_what_every_set_shows_under_the_centres_of_the_others():
    several = sets()
    known = condition_of(several, "mask")
    whitening = Geometry.of(several, "mask").whitening
    points, shapes = [], []
    for site in several:
        _, found = played_by_hand(site, [each for each in several if each is not site], whitening)
        points.append([np.mean(found), math.log(np.std(found))])
        shapes.append(np.quantile((np.array(found) - np.mean(found)) / np.std(found), SHARES))
    weights = [60, 50, 45]
    public = known.prior.at_weights[0]
    expected = np.average(points, axis=0, weights=weights)
    assert [public.mean_millionths, public.log_spread_millionths] == pytest.approx(1e6 * expected, abs=1)
    np.testing.assert_allclose(public.shape.array, np.average(shapes, axis=0, weights=weights), atol=1e-5)
    assert (known.prior.sets, known.prior.people, known.people) == (3, 155, 155)


def test_sites_are_taken_to_differ_by_more_than_a_few_sets_do():
    several = sets()
    alike = condition_of(several, "mask").prior.at_weights[0].covariance_billionths
    spread = math.exp(condition_of(several, "mask").prior.at_weights[0].log_spread_millionths / 1e6)
    # Of sets that are all alike, three in five parts are what sets differed by elsewhere.
    floor = 1.3 * 3 / 5
    assert alike[0] / 1e9 > 0.99 * floor * (0.3 * spread) ** 2
    assert alike[2] / 1e9 > 0.99 * floor * 0.12**2
    apart = [*several[:2], people_of("three", 45, 1, seed=3, spread=np.r_[np.full(4, 2.0), np.full(K - 4, 0.2)])]
    different = condition_of(apart, "mask").prior.at_weights[0].covariance_billionths
    assert different[2] > 2 * alike[2]


def test_a_set_of_fewer_than_forty_people_says_nothing_about_distances():
    small = people_of("small", 39, 2, seed=7, offset=2.0)
    with_it, without = condition_of([*sets(), small], "mask"), condition_of(sets(), "mask")
    assert (with_it.prior.sets, with_it.prior.people, with_it.people) == (3, 155, 194)
    assert with_it.centre != without.centre
    assert condition_of([small], "mask").prior is None
    assert condition_of([people_of("enough", 40, 2, seed=7)], "mask").prior.sets == 1


def test_a_private_centre_leaves_less_of_what_a_site_has_in_common():
    far = [*sets()[:2], people_of("three", 60, 2, seed=3, offset=1.0)]
    table = condition_of(far, "mask").prior.at_weights
    means = [each.mean_millionths for each in table]
    assert means == sorted(means)
    assert means[4] > means[0] + 20_000
    strings = [
        np.interp(0.02, SHARES, each.string.array) * math.exp(each.log_spread_millionths / 1e6) for each in table
    ]
    assert strings[4] + means[4] / 1e6 > strings[0] + means[0] / 1e6 + 0.05


def test_the_mean_string_is_the_one_of_four_that_most_templates_accept():
    several = [people_of("one", 60, 2, seed=1, probes=0.0), people_of("two", 60, 2, seed=2, offset=0.5, probes=0.0)]
    whitening = Geometry.of(several, "mask").whitening
    quantiles = []
    for site, other in (several, several[::-1]):
        centres, found = played_by_hand(site, [other], whitening)
        tried = []
        for side in ("clean", "mask"):
            for through in ("clean", "mask"):
                rows = (site.embeddings[side] - 0.75 * centres[through]) @ whitening
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                own = (site.embeddings["clean"] - 0.75 * centres["clean"]) @ whitening
                own /= np.linalg.norm(own, axis=1, keepdims=True)
                distances = []
                for half in (0, 1):
                    people = [rows[site.people == one].mean(axis=0) for one in range(half, 60, 2)]
                    string = np.mean(people, axis=0) / np.linalg.norm(np.mean(people, axis=0))
                    distances += (np.arccos(own[site.people % 2 != half] @ string) / math.pi).tolist()
                tried.append(np.array(distances))
        worst = min(tried, key=lambda each: np.quantile(each, 0.05))
        quantiles.append(np.quantile((worst - np.mean(found)) / np.std(found), SHARES))
    string = condition_of(several, "mask").prior.at_weights[0].string.array
    np.testing.assert_allclose(string, np.mean(quantiles, axis=0), atol=1e-5)


def test_the_coupling_is_how_much_farther_apart_members_lie():
    """Of n people who make the centre, cosines fall by 2 kappa / n against those of strangers (lambda and w are 1)."""
    site = people_of("one", 120, 2, seed=8)
    prior = condition_of([site, people_of("two", 60, 2, seed=9)], "clean").prior
    whitening = Geometry.of([site, people_of("two", 60, 2, seed=9)], "clean").whitening
    random, falls, n = np.random.default_rng(10), [], 24
    means = np.stack([site.embeddings["clean"][site.people == one].mean(axis=0) for one in range(120)])
    for _ in range(300):
        members = random.permutation(120)[:n]
        cosines = []
        rows = (site.embeddings["clean"] - means[members].mean(axis=0)) @ whitening
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for people in (members, np.setdiff1d(np.arange(120), members)):
            mine = np.isin(site.people, people)
            different = site.people[mine][:, None] != site.people[mine]
            cosines.append((rows[mine] @ rows[mine].T)[different].mean())
        falls.append(cosines[1] - cosines[0])
    assert np.mean(falls) * n / 2 == pytest.approx(prior.coupling_millionths / 1e6, rel=0.25)


def test_averaging_is_measured_from_pairs_of_pictures():
    several = [people_of("one", 60, 4, seed=1, offset=0.5), people_of("two", 50, 2, seed=2, offset=0.4)]
    prior = condition_of(several, "mask").prior
    # Means of pictures have less of what is a picture's own, so what all people share weighs more.
    assert prior.references.mean_millionths < -500
    assert prior.frames.mean_millionths < -500
    single = condition_of([people_of("one", 60, 1, seed=1)], "mask").prior
    assert (single.references.mean_millionths, single.frames.log_spread_millionths) == (0, 0)


def test_two_makings_of_one_prior_are_equal():
    assert condition_of(sets(), "mask") == condition_of(sets(), "mask")


def test_a_set_shows_no_embedding():
    assert repr(sets()[0]) == "PublicSet(one, 60 people, 240 images)"


def test_the_known_prior_of_four_small_sets_comes_out_again():
    """Sets of more and fewer people than count, with one picture and more: each formula moves one of these numbers."""
    made = condition_of(
        [
            people_of("one", 70, 2, seed=1),
            people_of("two", 40, 3, seed=2, offset=0.1),
            people_of("three", 45, 1, seed=3, offset=0.2),
            people_of("few", 39, 2, seed=4, offset=0.3),
        ],
        "mask",
    )
    prior = made.prior
    assert (made.people, prior.sets, prior.people) == (194, 3, 155)
    found = [prior.coupling_millionths]
    for shift in (prior.references, prior.frames):
        found += [shift.mean_millionths, shift.log_spread_millionths]
    for at in (prior.at_weights[0], prior.at_weights[2], prior.at_weights[-1]):
        ends = (*at.shape.array[[0, -1]], *at.string.array[[0, -1]])
        found += [at.mean_millionths, at.log_spread_millionths, *at.covariance_billionths, *(1e6 * end for end in ends)]
    known = [
        902682,
        511,
        4086,
        195,
        -1366,
        497175,
        -2553501,
        428800,
        1091462,
        11234106,
        -3553216,
        3330809,
        -2657127,
        2060907,
        494737,
        -2551892,
        438481,
        1049911,
        11394651,
        -3206338,
        3222533,
        -2314445,
        1892946,
        490221,
        -2556260,
        438498,
        1096124,
        11393242,
        -3176068,
        3195828,
        -2542801,
        1880934,
    ]
    assert len(found) == len(known)
    for number, value in zip(found, known, strict=True):
        assert number == pytest.approx(value, rel=2e-4, abs=3)
