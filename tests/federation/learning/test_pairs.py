"""The statistic of all pairs: one person changes it by at most 1, whoever they are, whatever is asked."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.learning import pairs
from federation.learning.pairs import MOST_OF_A_PERSON, PairQuestion, noise_of_shares, pair_sum, shares_of
from federation.privacy.bounds import BOUNDS
from federation.privacy.plan import BINS
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from tests.people import DIMENSION, synthetic_people

IDENTITY = Adapter.identity(DIMENSION)
ONE = PairQuestion(IDENTITY, (0.105, 0.115), 1, 1)
ROOM = 1e-9


def unchecked(embeddings, people, profiles):
    """A set whose rows may be anything, as no file could hold them."""
    made = object.__new__(EmbeddingSet)
    columns = {"embeddings": embeddings, "people": people, "profiles": profiles, "images": people}
    vars(made).update({name: np.array(column) for name, column in columns.items()})
    return made


def without(embeddings, person):
    return embeddings.select(embeddings.people != person)


# --------------------------------------------------------------------------------------------------------- what it is
def fused_by_hand(rows, size):
    groups = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)] or [rows]
    means = [np.mean(group, axis=0) for group in groups]
    return [mean / math.sqrt(sum(mean * mean)) for mean in means]


def by_hand(embeddings, edges, references, frames, members):
    """The statistic as its definition says it, in degrees of freedom of paper and pencil."""
    names, total = sorted(set(embeddings.people.tolist())), np.zeros(3)
    sides = {}
    for name in names:
        for profile, size in ((REFERENCE, references), (PROBE, frames)):
            rows = embeddings.embeddings[(embeddings.people == name) & (embeddings.profiles == profile)].astype(float)
            sides[name, profile] = fused_by_hand(rows, size)
    for place, one in enumerate(names):
        for other in names[:place]:
            counts = [0, 0, 0]
            for mine, theirs in ((one, other), (other, one)):
                for template in sides[mine, REFERENCE]:
                    for probe in sides[theirs, PROBE]:
                        distance = math.acos(max(-1.0, min(1.0, float(template @ probe)))) / math.pi
                        counts[sum(distance >= edge for edge in edges)] += 1
            shares = np.array(counts) / sum(counts)
            total += math.sqrt(3 / 2) * (shares - 1 / 3) / (members - 1)
    return total


@pytest.mark.parametrize(("references", "frames"), [(1, 1), (2, 1), (2, 3), (5, 3)])
def test_it_is_what_its_definition_says(references, frames):
    everybody = synthetic_people([f"person {number}" for number in range(9)], seed=1)
    thinned = everybody.select((everybody.people != "person 3") | (everybody.images == "person 3-0"))
    for embeddings in (everybody, thinned):
        question = PairQuestion(IDENTITY, (0.105, 0.115), references, frames)
        expected = by_hand(embeddings, question.edges, references, frames, members=11)
        assert pair_sum(embeddings, question, 11) == pytest.approx(expected, abs=1e-9)
        assert np.abs(expected).max() < 4


def test_people_in_many_blocks_add_up_to_the_same(monkeypatch):
    everybody = synthetic_people([f"person {number:02d}" for number in range(31)], seed=2)
    whole = pair_sum(everybody, ONE, 31)
    monkeypatch.setattr(pairs, "_BLOCK", 3 * MOST_OF_A_PERSON)
    assert pair_sum(everybody, ONE, 31) == pytest.approx(whole, abs=1e-9)


def test_blocks_are_bounded_however_many_people_there_are(monkeypatch):
    sizes = []
    original = np.add.reduceat

    class Remembering:
        @staticmethod
        def reduceat(array, begins, axis):
            sizes.append(array.size)
            return original(array, begins, axis=axis)

    monkeypatch.setattr(pairs.np, "add", Remembering)
    monkeypatch.setattr(pairs, "_BLOCK", 64)
    pair_sum(synthetic_people([str(number) for number in range(60)], images=5), ONE, 60)
    assert max(sizes) <= 64 * 64
    assert len(sizes) > 10


def test_no_more_images_of_a_person_than_some_are_compared():
    many = synthetic_people(["a", "b"], images=MOST_OF_A_PERSON + 3)
    first = many.first_of_each(MOST_OF_A_PERSON)
    assert np.array_equal(pair_sum(many, ONE, 2), pair_sum(first, ONE, 2))
    assert not np.array_equal(pair_sum(many, ONE, 2), pair_sum(many.first_of_each(1), ONE, 2))


def test_what_is_counted_of_a_person_is_templates_and_not_the_images_that_they_average():
    many, averaged = (
        synthetic_people(list("abcd"), images=2 * MOST_OF_A_PERSON + 2),
        PairQuestion(IDENTITY, (0.09, 0.1), 2, 2),
    )
    taken = pair_sum(many, averaged, 4)
    assert np.array_equal(taken, pair_sum(many.first_of_each(2 * MOST_OF_A_PERSON), averaged, 4))
    assert not np.array_equal(taken, pair_sum(many.first_of_each(MOST_OF_A_PERSON), averaged, 4))


def test_shares_come_back_from_the_total_of_all_organisations():
    sides = [synthetic_people([f"{k} {i}" for i in range(8)], seed=k) for k in range(3)]
    total = sum(pair_sum(side, ONE, 8) for side in sides)
    shares = shares_of(total, 24)
    assert shares.sum() == pytest.approx(1)
    by_organisation = [shares_of(pair_sum(side, ONE, 8), 8) for side in sides]
    assert shares == pytest.approx(np.mean(by_organisation, axis=0))
    assert (shares > 0).all()


def test_noise_of_shares_is_that_of_the_total():
    rng = np.random.default_rng(0)
    noisy = np.array([shares_of(2.5 * rng.normal(size=BINS), 40) for _ in range(20_000)])
    assert noisy.std() == pytest.approx(noise_of_shares(2.5, 40), rel=0.02)
    assert noisy.mean() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("total", "people"),
    [
        (np.zeros(2), 9),
        (np.array([0.0, np.nan, 0.0]), 9),
        (np.array([0.0, 0.0, np.inf]), 9),
        (np.array([-np.inf, 0.0, 0.0]), 9),
        (np.zeros(3), 1),
        (np.zeros(3), 0),
    ],
)
def test_damaged_totals_and_totals_of_no_pair_are_refused(total, people):
    with pytest.raises(MalformedMessageError, match="two people or more"):
        shares_of(total, people)


# -------------------------------------------------------------------------------------------------------- sensitivity
def test_a_corner_has_norm_one_and_nothing_in_between_has_more():
    corners = math.sqrt(3 / 2) * (np.eye(3) - 1 / 3)
    assert np.linalg.norm(corners, axis=1) == pytest.approx(np.ones(3))
    inside = np.random.default_rng(0).dirichlet(np.ones(3), 10_000) @ corners
    assert np.linalg.norm(inside, axis=1).max() <= 1


def test_the_worst_person_changes_it_by_exactly_one():
    axis = np.eye(DIMENSION)[0]
    rows = [(f"person {number}", axis) for number in range(7)] + [("somebody", -axis)]
    everybody = EmbeddingSet(
        np.array([row for _, row in rows for _ in range(2)], np.float32),
        np.array([name for name, _ in rows for _ in range(2)]),
        np.array([REFERENCE, PROBE] * len(rows)),
        np.array([name for name, _ in rows for _ in range(2)]),
    )
    change = pair_sum(everybody, ONE, 8) - pair_sum(without(everybody, "somebody"), ONE, 8)
    assert np.linalg.norm(change) == pytest.approx(1, abs=1e-12)


VALUES = st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e-8, 3e38, -3e38, math.inf, -math.inf, math.nan])


@st.composite
def anything(draw):
    """People whose embeddings are random, extreme, equal to each other, opposite, or no numbers at all."""
    people = draw(st.integers(1, 7))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rows, names, profiles = [], [], []
    for person in range(people):
        kind = draw(st.sampled_from(["random", "axis", "opposite", "strange"]))
        for profile in (REFERENCE, PROBE):
            for _ in range(draw(st.integers(0, 3))):
                match kind:
                    case "random":
                        row = rng.normal(size=4)
                        row /= np.linalg.norm(row)
                    case "axis":
                        row = np.eye(4)[0]
                    case "opposite":
                        row = -np.eye(4)[0]
                    case _:
                        row = np.array(draw(st.lists(VALUES, min_size=4, max_size=4)))
                rows.append(row)
                names.append(f"person {person}")
                profiles.append(profile)
    embeddings = np.array(rows, np.float32).reshape(-1, 4)
    return unchecked(embeddings, np.array(names, dtype=np.str_), np.array(profiles, dtype=np.str_))


@st.composite
def questions(draw):
    """Of a coordinator that lies, within the bounds of a message and far beyond."""
    size = draw(st.sampled_from([1, 3, 4]))
    most = draw(st.sampled_from([0.0, 1e-12, 1.0, BOUNDS["projection"][1], 1e300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = {
        profile: draw(st.sampled_from([0.0, 1.0, most])) * rng.normal(size=size) for profile in (REFERENCE, PROBE)
    }
    low = draw(st.sampled_from([0.001, 0.25, 0.5, 0.9]))
    return PairQuestion(
        Adapter(centres, most * rng.normal(size=(size, 4))),
        (low, draw(st.sampled_from([low + 1e-9, 0.95, 0.999]))),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
    )


@given(embeddings=anything(), question=questions(), more=st.integers(0, 3))
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_taking_any_person_out_or_adding_them_changes_it_by_at_most_one(embeddings, question, more):
    names = np.unique(embeddings.people).tolist()
    members = len(names) + more
    everybody = pair_sum(embeddings, question, members)
    assert np.isfinite(everybody).all()
    assert np.linalg.norm(everybody) <= len(names) / 2 + ROOM
    for name in names:
        others = pair_sum(without_unchecked(embeddings, name), question, members)
        assert np.linalg.norm(everybody - others) <= 1 + ROOM


def without_unchecked(embeddings, person):
    kept = embeddings.people != person
    return unchecked(embeddings.embeddings[kept], embeddings.people[kept], embeddings.profiles[kept])


def test_distances_that_lie_on_an_edge_do_not_move_with_who_else_is_there():
    """Public centres put everybody at one distance, the edge itself: rounding that depends on rows would move many."""
    names = [f"person {number:03d}" for number in range(151)]
    everybody, shown = synthetic_people(names, seed=3, images=1), 0
    for seed in range(8):
        one, other = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSION, 2)))[0].T
        other = math.cos(0.1 * math.pi) * one + math.sin(0.1 * math.pi) * other
        products = [value for n in (150, 151) for value in np.unique(np.tile(one, (n, 1)) @ np.tile(other, (n, 1)).T)]
        low, high = min(products), max(products)
        edge = next(e for e in np.linspace(0.1 - 1e-15, 0.1 + 1e-15, 1000) if low <= math.cos(math.pi * e) <= high)
        adapter = Adapter({REFERENCE: -one, PROBE: -other}, np.zeros((DIMENSION, DIMENSION)))
        question = PairQuestion(adapter, (float(edge), 0.4), 1, 1)
        whole = pair_sum(everybody, question, 151)
        for name in names[::30]:
            assert np.linalg.norm(whole - pair_sum(without(everybody, name), question, 151)) <= 1 + ROOM
        shown += low < high
    assert shown, "this machine adds up every row alike, and shows nothing here"


@pytest.mark.parametrize("size", [1, 7, DIMENSION])
def test_cosines_are_exact_so_that_no_order_of_adding_changes_one(size):
    """On any machine, whatever its matrix products do: in whole numbers of the smallest product's last bit."""
    rng = np.random.default_rng(size)
    adapter = Adapter({side: rng.normal(size=size) for side in (REFERENCE, PROBE)}, rng.normal(size=(size, DIMENSION)))
    everybody = synthetic_people([str(number) for number in range(9)])
    sides = list(pairs._sides(everybody, PairQuestion(adapter, ONE.edges, 1, 1)))
    templates, probes = (np.concatenate([side[at] for side in sides]) for at in (0, 1))
    grid = [
        np.array([[int(number * 2**24) for number in row] for row in rows], dtype=object)
        for rows in (templates, probes)
    ]
    assert all((whole / 2**24 == rows).all() for whole, rows in zip(grid, (templates, probes), strict=True))
    cosines = templates @ probes.T
    assert [[int(number * 2**48) for number in row] for row in cosines] == (grid[0] @ grid[1].T).tolist()
    assert np.abs(np.linalg.norm(templates, axis=1) - 1).max() < 1e-6


def test_a_distance_on_an_edge_is_not_below_it():
    """A cosine of whole 64ths, and an edge whose cosine is exactly that."""
    edges = {cosine / 64: math.acos(cosine / 64) / math.pi for cosine in range(1, 64)}
    cosine, edge = next(
        (cosine, float(near))
        for cosine, edge in edges.items()
        for near in (np.nextafter(edge, 0), edge, np.nextafter(edge, 1))
        if math.cos(math.pi * near) == cosine
    )
    rows = np.zeros((4, DIMENSION), np.float32)
    rows[:2, 0] = 1.0
    rows[2:, 0], rows[2:, 1] = cosine, math.sqrt(1 - cosine**2)
    both = EmbeddingSet(rows, np.array(["a", "a", "b", "b"]), np.array([REFERENCE, PROBE] * 2), np.array(list("wxyz")))
    shares = shares_of(pair_sum(both, PairQuestion(IDENTITY, (edge, 0.9), 1, 1), 2), 2)
    assert shares == pytest.approx([0, 1, 0])
    less = math.nextafter(math.nextafter(edge, 1), 1)
    assert shares_of(pair_sum(both, PairQuestion(IDENTITY, (less, 0.9), 1, 1), 2), 2) == pytest.approx([1, 0, 0])


class _RoundsByRows(Adapter):
    """Gives the direction that is left of rounding, which depends on how many rows there are."""

    def apply(self, embeddings, profile):
        made = np.zeros((len(embeddings), self.dimension))
        made[:, 0] = 1 - 2 * (len(embeddings) % 2) if profile == REFERENCE else 1
        return made


def test_everybody_is_adapted_on_their_own_so_that_rounding_depends_on_nobody_else():
    people = [f"person {number}" for number in range(7)]
    embeddings = synthetic_people(people, images=1)
    question = PairQuestion(_RoundsByRows.identity(DIMENSION), (0.3, 0.6), 1, 1)
    everybody, others = (pair_sum(embeddings.of_people(some), question, 7) for some in (people, people[1:]))
    assert np.linalg.norm(everybody - others) <= 1 + ROOM


# ------------------------------------------------------------------------------------------------------- who is there
@pytest.mark.parametrize("names", [[], ["a"]])
def test_without_two_people_there_is_no_pair(names):
    assert np.array_equal(pair_sum(synthetic_people([*names, "z"]).of_people(names), ONE, 5), np.zeros(BINS))


def test_whoever_lacks_a_camera_is_in_no_pair_and_changes_nothing():
    everybody = synthetic_people(["a", "b", "c"])
    for profile in (REFERENCE, PROBE):
        half = everybody.select((everybody.people != "b") | (everybody.profiles != profile))
        assert np.array_equal(pair_sum(half, ONE, 3), pair_sum(everybody.of_people(["a", "c"]), ONE, 3))


def test_the_weight_of_a_pair_is_that_of_the_advertised_number_whoever_left():
    two = synthetic_people(["a", "b"])
    assert pair_sum(two, ONE, 5) == pytest.approx(pair_sum(two, ONE, 2) / 4)


def test_more_people_than_were_advertised_are_refused():
    with pytest.raises(UsageError, match="2 people were advertised, and there are 3"):
        pair_sum(synthetic_people(["a", "b", "c"]), ONE, 2)
