"""Everything that is said of a recogniser's error rates, against a second reading that writes out every comparison."""

import hashlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from client.faces.measuring import Face, Faces, Measured
from client.faces.rates import rates
from federation.errors import UsageError
from federation.learning.threshold import public_adapter
from federation.onebit.code import CodeSeed, distances_from
from tests.profiles import prior_of, profile_of

ROWS = (
    # set, person, early: two sets; 4 has references only, 5 a probe only
    (0, 0, True), (0, 0, True), (0, 0, False),
    (0, 1, True), (0, 1, False), (0, 1, False),
    (0, 2, True), (0, 2, False),
    (1, 3, True), (1, 3, False), (1, 3, False),
    (1, 4, True), (1, 4, True),
    (1, 5, False),
)  # fmt: skip


def measured(rows=ROWS, seed=3):
    random = np.random.default_rng(seed)
    faces = tuple(Face(group, person, early, Path("unread"), "", np.zeros((4, 2))) for group, person, early in rows)
    own = random.normal(size=(9, 64)) + 1.5
    made = {}
    for name, noise in (("clean", 1.0), ("mask", 2.0), ("res16", 3.0)):
        vectors = own[[person for _, person, _ in rows]] + noise * random.normal(size=(len(rows), 64))
        made[name] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Measured(Faces(faces, (), (), (), (), 0.0), made, 0.0)


def read(rows, score):
    """(people with both, genuine and impostor comparisons, rates, and their bounds) of `score(reference, probe)`.

    Rates of draws are those at the first of all scores, or above them, that does.
    """
    references = [number for number, (_, _, early) in enumerate(rows) if early]
    probes = [number for number, (_, _, early) in enumerate(rows) if not early]
    people = sorted({person for _, person, _ in rows})
    compared = [
        (rows[one][1], rows[other][1], score(one, other))
        for one in references
        for other in probes
        if rows[one][0] == rows[other][0]
    ]
    levels = sorted({score(one, other) for one in references for other in probes})
    random, drawn = np.random.default_rng(0), []
    for _ in range(400):
        chosen = random.integers(0, len(people), len(people)).tolist()
        times = {person: chosen.count(place) for place, person in enumerate(people)}
        weighed = [(one == other, times[one] * times[other], value) for one, other, value in compared]
        sums = [sum(weight for same, weight, _ in weighed if same is kind) for kind in (True, False)]
        if 0 in sums:
            continue
        points = []
        for level in [*levels, np.inf]:
            accepted = [
                sum(w for same, w, value in weighed if same is kind and value >= level) for kind in (True, False)
            ]
            points.append((1 - accepted[0] / sums[0], accepted[1] / sums[1]))
        gaps = [abs(fnmr - fmr) for fnmr, fmr in points]
        least = next(place for place, gap in enumerate(gaps) if gap <= min(gaps) + 1e-12)
        tar = [next(1 - fnmr for fnmr, fmr in points if fmr <= rate) for rate in (0.01, 0.001)]
        drawn.append([sum(points[least]) / 2, *tar])
    both = {person for _, person, early in rows if early} & {person for _, person, early in rows if not early}
    genuine = sum(one == other for one, other, _ in compared)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    exact = [
        next(
            np.mean([value >= level for one, other, value in compared if one == other])
            for level in [*levels, np.inf]
            if np.mean([value >= level for one, other, value in compared if one != other]) <= rate
        )
        for rate in (0.01, 0.001)
    ]
    return (len(both), genuine, len(compared) - genuine), exact, list(zip(low, high, strict=True)), len(drawn)


def test_rates_are_of_clean_references_against_probes_of_the_condition_and_people_of_one_set():
    faces = measured()
    for condition in ("clean", "mask", "res16"):
        clean, probes = (faces.embeddings[name].astype(np.float64) for name in ("clean", condition))
        scores = clean @ probes.T
        counts, exact, bounds, draws = read(ROWS, lambda one, other, scores=scores: scores[one, other])
        found = rates(faces, condition)
        assert (found.condition, (found.people, found.genuine, found.impostor)) == (condition, counts)
        assert [each.value for each in found.tar] == pytest.approx(exact)
        for each, (low, high) in zip((found.eer, *found.tar), bounds, strict=True):
            assert (each.low, each.high) == pytest.approx((low, high))
        assert counts == (4, 7, 18)
        assert draws < 400, "draws of one person alone say nothing of impostors"


def test_rates_of_codes_are_of_adapted_references_against_adapted_probes_each_with_a_seed_of_its_own():
    faces, bits = measured(), 512
    adapter = public_adapter(profile_of(prior_of()), "mask")
    early = [number for number, (_, _, early) in enumerate(ROWS) if early]
    probes = adapter.apply(faces.embeddings["mask"], "probe")
    scores = {}
    for place, row in enumerate(early):
        seed = CodeSeed(hashlib.sha256(f"measuring {place}".encode()).digest())
        vector = adapter.apply(faces.embeddings["clean"][[row]], "reference")[0]
        scores[row] = -distances_from(vector, probes, seed, bits).astype(float)
    counts, exact, bounds, _ = read(ROWS, lambda one, other: scores[one][other])
    found = rates(faces, "mask", adapter, bits)
    assert (found.people, found.genuine, found.impostor) == counts
    assert [each.value for each in found.tar] == pytest.approx(exact)
    for each, (low, high) in zip((found.eer, *found.tar), bounds, strict=True):
        assert (each.low, each.high) == pytest.approx((low, high))
    assert astuple(found.eer) != astuple(rates(faces, "mask").eer)


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 0, True), (0, 0, False)],
        [(0, 0, True), (0, 1, False)],
        [(0, 0, True), (0, 0, False), (1, 1, True), (1, 1, False)],
    ],
    ids=["nobody else", "nobody twice", "nobody else in the set"],
)
def test_without_genuine_or_impostor_comparisons_there_are_no_rates(rows):
    with pytest.raises(UsageError, match="sets of at least two people with two images each"):
        rates(measured(rows), "clean")
