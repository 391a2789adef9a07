"""What the table of a federation's worth is computed by: rates where they are known, and the noise of experiments."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from client.faces.priors import PublicSet
from examples.federation_worth import Compared, Crowd, row_of
from examples.worth_experiments import Recipe, _Known
from federation.recognition.profiles import PROBE, REFERENCE

K = 20


def compared(genuine, impostors, bits):
    """One reference of each of two people against as many probes as there are numbers."""
    own, others = len(genuine) // 2, len(impostors) // 2
    distances = np.array([[*genuine[:own], *impostors[:others]], [*impostors[others:], *genuine[own:]]])
    return Compared(distances, np.array([0, 1]), np.array([0] * own + [1] * own), bits)


def test_rates_are_those_of_exactly_the_stated_share_of_impostors_and_of_the_released_threshold():
    genuine, impostors = [100.0] * 99 + [400.0] + [100.0] * 100, [300.0] * 2 + [500.0] * 198
    split = compared(genuine, impostors, 350)
    assert split.at_rate(0.01) == 499  # 2 of 200 are accepted, and a third would be too many
    assert split.at_rate(0.001) == 299
    row = row_of("made up", 7, [split, split])
    assert (row.name, row.people) == ("made up", 7)
    assert [(rate.errors, rate.trials) for rate in row.tar] == [(400, 400), (398, 400)]
    assert (row.fmr.errors, row.fmr.trials) == (4, 400)
    assert (row.owners.errors, row.owners.trials) == (398, 400)
    assert row_of("frozen", 0, [compared(genuine, impostors, None)]).fmr is None


def test_an_organisation_has_both_cameras_of_its_people_and_of_nobody_else():
    rows = np.eye(6)
    crowd = Crowd(np.array([0, 0, 1, 1, 2, 2]), np.array([True, False] * 3), rows, rows[::-1])
    mine = crowd.embeddings(np.array([0, 2]))
    assert sorted(set(mine.people.tolist())) == ["00000", "00002"]
    assert [(mine.profiles == side).sum() for side in (REFERENCE, PROBE)] == [4, 4]
    assert np.array_equal(mine.embeddings[mine.profiles == PROBE], rows[::-1][[0, 1, 4, 5]])


def a_set(seed, count, shift=0.0):
    random = np.random.default_rng(seed)
    people = np.repeat(np.arange(count), 2)
    own = random.standard_normal((count, K))[people] * np.where(np.arange(K) < 3, 1.0, 0.3)
    sides = {side: own + shift + 0.1 * random.standard_normal((2 * count, K)) for side in ("clean", "mask")}
    return PublicSet(f"set {seed}", people, sides)


@pytest.fixture
def known():
    setting = SimpleNamespace(public=(a_set(1, 50), a_set(2, 50)), condition="mask")
    return _Known.of(setting, Recipe())


def test_fewer_numbers_are_the_directions_in_which_public_people_differ_most(known):
    basis = known.basis(3)
    assert np.allclose(basis @ basis.T, np.eye(3))
    assert np.linalg.norm(basis[:, :3], axis=1).min() > 0.7  # the first directions were made the widest
    assert known.basis(None).shape == (K, K)


def test_without_noise_a_low_rank_centre_is_the_clipped_mean_along_its_directions(known):
    mine, recipe = a_set(3, 30, shift=0.2), Recipe(directions=3, share=1.0)
    (one, other), weight = recipe._offsets(known, mine, 0.0, np.random.default_rng(0))
    assert weight == 1.0
    assert np.array_equal(one, other)
    basis = known.basis(3)
    middle = (mine.means("clean") + mine.means("mask")) / 2 - (known.reference + known.probe) / 2
    assert float(np.linalg.norm(one - one @ basis.T @ basis)) < 1e-12
    # A clip shortens the mean and turns it a little.
    along = one @ basis.T
    plain = middle.mean(axis=0) @ basis.T
    assert along @ plain / (np.linalg.norm(along) * np.linalg.norm(plain)) > 0.95
    assert np.linalg.norm(along) <= known.clip(basis, apart=False)


def test_the_noise_of_a_centre_is_its_clip_times_what_the_plan_says(known):
    mine, recipe, random = a_set(3, 30), Recipe(directions=4, apart=True), np.random.default_rng(1)
    basis, noise = known.basis(4), 0.05
    drawn = [recipe._offsets(known, mine, noise, random)[0] for _ in range(400)]
    spread = np.std([np.concatenate([one @ basis.T, other @ basis.T]) for one, other in drawn], axis=0)
    assert spread == pytest.approx(known.clip(basis, apart=True) * noise, rel=0.15)


def test_people_whose_pictures_differ_more_are_whitened_more_along_those_directions(known):
    mine = a_set(4, 60)
    axes, expected = known.loudest(2)
    more = np.tile([[1.0], [-1.0]], (60, 1)) * math.sqrt(expected[0]) * (axes[0] @ np.linalg.inv(known.whitening))
    louder = PublicSet("louder", mine.people, {side: rows + more for side, rows in mine.embeddings.items()})
    plain, changed = (Recipe(scatter=2)._rescaled(known, one, 0.0, np.random.default_rng(0)) for one in (mine, louder))
    assert np.linalg.norm(axes[0] @ changed) < 0.9 * np.linalg.norm(axes[0] @ plain)
    assert np.linalg.norm(axes[1] @ changed) == pytest.approx(np.linalg.norm(axes[1] @ plain), rel=0.3)
