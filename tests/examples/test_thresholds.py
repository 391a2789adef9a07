"""The table of thresholds counts what it says: held-out people, codes as devices make them, and nobody's own image."""

from types import SimpleNamespace

import numpy as np
import pytest

from examples import thresholds
from examples.thresholds import MEMBERS, Site, differences, rows_of
from federation.learning.threshold import choose_threshold, public_adapter
from federation.onebit import CodeSeed, binary_code, hamming_distance
from tests.profiles import D, distances, prior_of, profile_of

PEOPLE, IMAGES = MEMBERS + 10, 4


@pytest.fixture
def site(monkeypatch):
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    faces = random.standard_normal((PEOPLE, D))[person]
    rows = {side: faces + 0.5 * random.standard_normal(faces.shape) for side in ("clean", "mask")}
    rows = {side: each / np.linalg.norm(each, axis=1, keepdims=True) for side, each in rows.items()}
    profile = profile_of(prior_of(distances(0.48, 0.06)))
    monkeypatch.setattr(thresholds, "shipped_profile", lambda without: {"made-up": profile}[without])
    return Site("made-up", person, np.tile([True, True, False, False], PEOPLE), rows)


def test_images_that_follow_each_other_in_a_round_are_averaged(site):
    rows, owners = site.fused("clean", 2, np.array([3, 5]), early=True)
    mine = site.embeddings["clean"][4 * 3 : 4 * 3 + 2].mean(axis=0)
    assert owners.tolist() == [3, 5]  # of two images there is one pair
    np.testing.assert_allclose(rows[0], mine / np.linalg.norm(mine))
    rows, owners = site.fused("mask", 1, np.array([3]), early=False)
    np.testing.assert_allclose(rows, site.embeddings["mask"][4 * 3 + 2 : 4 * 4])
    assert site.fused("mask", 3, np.array([3]), early=False)[0].shape == (0, D)


def test_distances_are_those_of_codes_under_a_seed_for_each_template():
    vectors = np.random.default_rng(1).standard_normal((6, D))
    found = differences(vectors[:2], vectors[2:])
    for bits in (1024, 2048):
        for place, template in enumerate(vectors[:2]):
            seed = CodeSeed(place.to_bytes(32, "little"))
            code = binary_code(template, seed, bits)
            expected = [hamming_distance(code, binary_code(other, seed, bits)) for other in vectors[2:]]
            assert np.abs(found[bits][place] - expected).max() <= 1  # float32 may see a bit on the plane otherwise


def test_rates_are_those_of_held_out_people_at_the_threshold_that_was_stated(site):
    rows = {(row.images, row.bits, row.stated): row for row in rows_of(site, "mask", False, splits=2)}
    assert set(rows) == {
        (images, bits, rate) for images in ("1, 1", "2, 1", "2, 2") for bits in (1024, 2048) for rate in (0.01, 0.001)
    }
    row = rows["1, 1", 1024, 0.01]
    profile = thresholds.shipped_profile("made-up")
    images = {"references": 1, "frames": 1, "observed": None, "members": 0, "coupling": 0.0}
    bits = choose_threshold(profile, "mask", weight=0.0, fmr=0.01, **images).bits
    adapter = public_adapter(profile, "mask")
    accepted = {True: [0, 0], False: [0, 0]}
    for split in range(2):
        people = np.random.default_rng(split).permutation(PEOPLE)[MEMBERS:]
        place = 0
        for owner in people:
            for reference in (0, 1):
                template = adapter.apply(site.embeddings["clean"][[IMAGES * owner + reference]], "reference")[0]
                seed = CodeSeed(place.to_bytes(32, "little"))
                place += 1
                for claimant in people:
                    for image in (2, 3):
                        probe = adapter.apply(site.embeddings["mask"][[IMAGES * claimant + image]], "probe")[0]
                        distance = hamming_distance(binary_code(template, seed, 1024), binary_code(probe, seed, 1024))
                        accepted[owner == claimant][0] += distance <= bits
                        accepted[owner == claimant][1] += 1
    (genuine, owners), (impostor, others) = accepted[True], accepted[False]
    assert (owners, others) == (2 * 10 * 4, 2 * 10 * 9 * 4)
    assert (row.genuine, row.impostors) == (f"{genuine} of {owners}", f"{impostor} of {others}")
    assert row.tar[0] == pytest.approx(100 * genuine / owners)
    assert row.fmr[1] <= row.fmr[0] <= row.fmr[2]


def test_a_private_centre_is_made_by_members_alone(site, monkeypatch):
    seen = SimpleNamespace(members=[])
    made = thresholds._private_centre

    def watched(site, condition, profile, members, random):
        seen.members.append(members)
        return made(site, condition, profile, members, random)

    monkeypatch.setattr(thresholds, "_private_centre", watched)
    held = thresholds._held_out(
        site, "mask", True, np.random.default_rng(3), thresholds.shipped_profile("made-up"), (1, 1)
    )
    (members,) = seen.members
    assert len(members) == MEMBERS
    assert not np.intersect1d(members, held.owners).size
    assert not np.intersect1d(members, held.claimants).size
    assert 0 <= held.weight < 1
