"""Two organisations have somebody of one name: they are two people, in every sum and in every file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.preparing.people import publish, withdraw
from federation.learning.moments import PublicCentre, moments_sum
from federation.learning.pairs import PairQuestion, pair_sum
from federation.learning.private_evaluation import evaluation_sum
from federation.privacy.plan import PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from tests.durable import files
from tests.federation.learning.test_private_evaluation import plan_for
from tests.people import DIMENSION, start_vector, synthetic_people

COMMON = ["Ada", "Grace", "Mary"]
PLAN = PrivacyPlan.for_epsilon(8.0, delta=1e-5, people=24, organisations=4, dimension=DIMENSION, directions=16)
SUBSPACE = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSION, 16)))[0].T
PUBLIC = PublicCentre(SUBSPACE, SUBSPACE[:, 0] * 0.9)
ADAPTER = Adapter({REFERENCE: start_vector(), PROBE: start_vector()}, None)
SUMS = {
    "moments": lambda one: moments_sum(one, PUBLIC, PLAN),
    "pairs": lambda one: pair_sum(one, PairQuestion(ADAPTER, (0.3, 0.4), 2, 1), len(set(one.people.tolist()))),
    "rates": lambda one: evaluation_sum(one, ADAPTER, dict.fromkeys(one.people.tolist(), "even"), plan_for()),
}


def called(one, names):
    """The same images of people with other names, in the same order."""
    names = dict(zip(sorted(set(one.people.tolist())), names, strict=True))
    return replace(one, people=np.array([names[name] for name in one.people.tolist()]))


def together(*sets):
    columns = ("embeddings", "people", "profiles", "images")
    return EmbeddingSet(*(np.concatenate([getattr(one, column) for one in sets]) for column in columns))


@pytest.mark.parametrize("made", SUMS.values(), ids=SUMS)
def test_a_sum_over_two_organisations_does_not_take_two_of_one_name_for_one(made):
    north, south = (synthetic_people([f"{place} {n}" for n in range(3)], seed=n) for n, place in enumerate("NS"))
    apart = made(north) + made(south)
    assert np.array_equal(made(called(north, COMMON)) + made(called(south, COMMON)), apart)
    merged = made(together(called(north, COMMON), called(south, COMMON)))
    assert np.abs(merged - apart).max() > 0.01, "or this test could not tell"


def test_who_withdraws_from_one_organisation_stays_with_the_other_under_the_same_name(tmp_path):
    folders = [tmp_path / "north", tmp_path / "south"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        publish([synthetic_people(COMMON, seed=seed)], {}, {"model": b"one"}, folder)
    before = [files(folder) for folder in folders]
    withdraw("Ada", folders[0])
    assert files(folders[1]) == before[1]
    active = EmbeddingSet.usable_from_bytes((folders[0] / "active.npz").read_bytes())
    assert sorted(set(active.people.tolist())) == ["Grace", "Mary"]
    withdraw("Ada", folders[1])
    assert files(folders[1]) != before[1]
