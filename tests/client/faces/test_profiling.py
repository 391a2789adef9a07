"""Measuring a recogniser: the right way to feed it is found, and its rates are those of people of one set."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client import cli
from client.faces import measuring
from client.faces.finding import Aligner, FaceFinder
from client.faces.measuring import Face, Faces, Measured, decidability, measure
from client.faces.models import load_recogniser
from client.faces.profiling import _tried
from client.faces.rates import _weighted, code_distances, rates
from federation.errors import UsageError
from federation.learning.evaluation import DetCurve
from federation.learning.threshold import choose_threshold, public_adapter
from federation.onebit import CodeSeed, binary_code, hamming_distance
from federation.recognition.mobilefacenet import SHIPPED_SETS, bare_profile, shipped_profile
from federation.recognition.profile import ColourOrder, Layout, RecogniserProfile
from federation.recognition.templates import ARCFACE
from tests.arcface_onnx import exported
from tests.faces import orl_image, shipped
from tests.profiles import prior_of, profile_of


def faces_of(persons, groups, halves=None):
    """Faces whose images nobody opens."""
    halves = halves or [True, False] * (len(persons) // 2)
    rows = zip(persons, groups, halves, strict=True)
    faces = tuple(
        Face(group, person, early, Path("unread"), f"{person}", np.zeros((4, 2))) for person, group, early in rows
    )
    return Faces(faces, (len(faces),), (len(set(persons)),), (len(faces),), (), 0.0)


PEOPLE, IMAGES = 12, 4
PERSONS = np.repeat(np.arange(PEOPLE), IMAGES)


def embeddings(seed=0, noise=0.6, dimension=64):
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(PEOPLE, dimension))[PERSONS] + 1.0
    vectors = own + noise * rng.normal(size=(len(PERSONS), dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def measured(groups=None, rows=None):
    faces = faces_of(PERSONS.tolist(), (groups or [0] * len(PERSONS)), [True, True, False, False] * PEOPLE)
    rows = embeddings() if rows is None else rows
    return Measured(faces, {"clean": rows, "mask": rows[::-1].copy(), "res16": rows}, 0.0)


def clean_rates(groups=None, rows=None):
    return rates(measured(groups, rows), "clean")


def test_rates_are_exact_and_lie_in_their_intervals():
    rows = embeddings(noise=1.4)
    early = np.tile([True, True, False, False], PEOPLE)
    scores = rows[early].astype(np.float64) @ rows[~early].T
    same = PERSONS[early][:, None] == PERSONS[~early]
    curve = DetCurve.of(scores[same], scores[~same])
    clean = clean_rates(rows=rows)
    assert (clean.people, clean.genuine, clean.impostor) == (PEOPLE, 4 * PEOPLE, 4 * PEOPLE * (PEOPLE - 1))
    values = [clean.eer.value, *(each.value for each in clean.tar)]
    assert values == pytest.approx([curve.eer, curve.tar_at(0.01), curve.tar_at(0.001)])
    for each in (clean.eer, *clean.tar):
        assert each.low <= each.value <= each.high
    assert clean.tar[0].low < clean.tar[0].high


def test_the_interval_of_a_rate_has_95_of_100_draws_of_people():
    """Each draw is written out: a comparison stands there as often as its two people were drawn."""
    rows = embeddings(noise=1.4)
    early = np.tile([True, True, False, False], PEOPLE)
    scores = rows[early].astype(np.float64) @ rows[~early].astype(np.float64).T
    same = PERSONS[early][:, None] == PERSONS[~early]
    random, drawn = np.random.default_rng(0), []
    for _ in range(400):
        times = np.bincount(random.integers(0, PEOPLE, PEOPLE), minlength=PEOPLE)
        counts = np.outer(times[PERSONS[early]], times[PERSONS[~early]])
        genuine, impostor = (np.repeat(scores[pairs], counts[pairs]) for pairs in (same, ~same))
        drawn.append([DetCurve.of(genuine, impostor).tar_at(rate) for rate in (0.01, 0.001)])
    for each, of_draws in zip(clean_rates(rows=rows).tar, np.sort(drawn, axis=0).T, strict=True):
        outside = [np.mean(of_draws < each.low), np.mean(of_draws > each.high)]
        assert [each.low, each.high] == pytest.approx(np.quantile(of_draws, [0.025, 0.975]))
        assert max(outside) <= 0.025


def test_rates_of_codes_are_those_of_distances_of_codes():
    profile = profile_of(prior_of())
    adapter, faces = public_adapter(profile, "clean"), measured()
    early = np.tile([True, True, False, False], PEOPLE)
    rows = faces.embeddings["clean"]
    references, probes = adapter.apply(rows[early], "reference"), adapter.apply(rows[~early], "probe")
    distances = code_distances(references, probes, 1024)
    codes = [
        [hamming_distance(binary_code(one, seed, 1024), binary_code(other, seed, 1024)) for other in probes[:3]]
        for place, one in enumerate(references[:4])
        for seed in [CodeSeed(hashlib.sha256(f"measuring {place}".encode()).digest())]
    ]
    assert distances[:4, :3].tolist() == codes
    same = PERSONS[early][:, None] == PERSONS[~early]
    curve = DetCurve.of(-distances[same].astype(float), -distances[~same].astype(float))
    found = rates(faces, "clean", adapter, 1024)
    assert [found.eer.value, *(each.value for each in found.tar)] == pytest.approx(
        [curve.eer, curve.tar_at(0.01), curve.tar_at(0.001)]
    )


def test_sets_are_told_apart_and_people_numbered_within_them():
    groups = [int(person >= PEOPLE // 2) for person in PERSONS]
    one, other = measured(groups).public_sets(["one", "other"])
    assert (one.name, one.count, other.name, other.count) == ("one", PEOPLE // 2, "other", PEOPLE // 2)
    np.testing.assert_array_equal(other.people, np.repeat(np.arange(PEOPLE // 2), IMAGES))
    np.testing.assert_array_equal(other.embeddings["clean"], embeddings()[len(PERSONS) // 2 :])
    alone = measured(groups).of_set(1)
    np.testing.assert_array_equal(alone.embeddings["clean"], embeddings()[len(PERSONS) // 2 :])
    assert (len(alone.faces.faces), alone.comparable, measured(groups).of_set(2).comparable) == (24, True, False)


def test_a_draw_in_which_everybody_counts_once_gives_the_exact_rates():
    rng = np.random.default_rng(1)
    scores, genuine = rng.normal(size=(20, 20)), np.eye(20, dtype=bool)
    scores += 2 * genuine
    order, level = np.unique(scores, return_inverse=True)
    curve = DetCurve.of(scores[genuine], scores[~genuine])
    eer, *tar = _weighted(level.reshape(20, 20), len(order), genuine, ~genuine, np.ones((20, 20)))
    assert tar == pytest.approx([curve.tar_at(0.01), curve.tar_at(0.001)])
    assert eer == pytest.approx(curve.eer, abs=0.05)


def test_people_of_two_sets_are_never_compared():
    groups = [int(person >= PEOPLE // 2) for person in PERSONS]
    half = PEOPLE // 2
    assert clean_rates(groups).impostor == 2 * 4 * half * (half - 1)
    rows = embeddings()
    rows[np.array(groups) == 1] *= -1  # far from the others, and as far from each other as before
    whole, apart = (decidability(faces_of(PERSONS.tolist(), g), rows) for g in ([0] * len(PERSONS), groups))
    assert apart > whole or apart != pytest.approx(whole)


def test_the_better_recogniser_is_the_more_decidable():
    faces = faces_of(PERSONS.tolist(), [0] * len(PERSONS))
    assert decidability(faces, embeddings(noise=0.3)) > decidability(faces, embeddings(noise=0.9)) > 0


def test_one_person_measures_nothing():
    with pytest.raises(UsageError, match="at least two people with two images each"):
        decidability(faces_of([0, 0], [0, 0]), embeddings()[:2])


@pytest.mark.parametrize("colours", ColourOrder)
@pytest.mark.parametrize(("mean", "divisor"), [(127_500, 127_500), (0, 255_000), (0, 1_000)])
@pytest.mark.parametrize("template", ["arcface", "dlib", "facenet"])
def test_the_way_that_a_model_wants_to_be_fed_is_found(template, colours, mean, divisor):
    """A model that tells people apart when it is fed rightly, and gives noise when it is not."""
    cut_as = None
    few = faces_of(PERSONS.tolist(), [0] * len(PERSONS))

    def cuts(alignment):
        nonlocal cut_as
        cut_as = alignment.name
        reds = np.full((len(PERSONS), 16, 16, 3), 10, np.uint8)
        reds[..., 0], reds[..., 1] = 250, np.arange(len(PERSONS))[:, None, None]
        return reds

    def forward(images):
        red = 0 if colours is ColourOrder.RGB else 2
        fed_rightly = (
            cut_as == template
            and np.allclose(images[..., red], (250 - mean / 1000) / (divisor / 1000), atol=1e-4)
            and np.allclose(images[..., 2 - red], (10 - mean / 1000) / (divisor / 1000), atol=1e-4)
        )
        which = np.rint(images[:, 0, 0, 1] * divisor / 1000 + mean / 1000).astype(int) % len(PERSONS)
        return embeddings(noise=0.1 if fed_rightly else 3)[which]

    object.__setattr__(few, "cuts", cuts)
    network = SimpleNamespace(side=16, raw=False, layout=Layout.NCHW, batch=0, forward=forward)
    best, tried = _tried(network, few)
    assert (best.alignment, best.colours, best.scale) == (template, colours, (mean, divisor))
    assert len(tried) == 18
    assert tried[0] is best


def test_a_few_are_two_images_of_each_of_forty_people():
    persons = np.repeat(np.arange(100), 3).tolist()
    few = faces_of(persons, [0] * 300, [True] * 300).a_few()
    assert len(few.faces) <= 2 * 40
    assert {few.faces[index].person for index in range(0, len(few.faces), 2)} == set(range(0, 100, 3))


# ------------------------------------------------------------------------------------------------------------ command
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six people of three images each, and an image without a face."""
    root = tmp_path_factory.mktemp("faces") / "six"
    for person in range(1, 7):
        (root / f"s{person}").mkdir(parents=True)
        for number in range(1, 4):
            (root / f"s{person}" / f"{number}.pgm").write_bytes(orl_image(person, number))
    (root / "s1" / "4.pgm").write_bytes(b"P5 92 112 255\n" + bytes(92 * 112))
    return root


@pytest.fixture(scope="module")
def wide():
    """A terminal in which tables are not broken."""
    return {"COLUMNS": "200"}


@pytest.mark.parametrize(("layout", "batch"), [("nchw", "n"), pytest.param("nhwc", 2, marks=pytest.mark.slow)])
def test_an_arcface_model_of_ones_own_embeds_as_the_one_that_comes_along(folder, tmp_path, wide, layout, batch):
    model = tmp_path / "Own.onnx"
    model.write_bytes(exported(layout=layout, batch=batch))
    arguments = ["models", "profile", str(model), "--faces", str(folder), "--terms", "as they are"]
    result = CliRunner().invoke(cli.app, [*arguments, "--licence", "MIT"], env=wide)
    assert result.exit_code == 0, result.output
    profile = RecogniserProfile.from_bytes((tmp_path / "Own.profile.json").read_bytes())
    assert f"profile {profile.digest}" in " ".join(result.stdout.split())
    assert (profile.name, profile.network, profile.dimension) == ("own", "onnx", 192)
    assert profile.weights_digest == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (profile.alignment, profile.preprocessing.batch) == (ARCFACE, 0 if batch == "n" else batch)
    assert profile.preprocessing.mean_thousandths == (127_500,) * 3
    assert [(each.name, each.people, each.images, each.terms) for each in profile.sets] == [
        ("six", 6, 18, "as they are")
    ]
    assert [each.prior for each in profile.conditions] == [None] * 3
    assert "a better profile needs 5 sets of at least 40 people" in result.stdout
    assert "no threshold can be set with it" in result.stdout
    assert [path.name for path in tmp_path.glob("*.json")] == ["Own.profile.json"]  # a set alone leaves nothing out
    assert [each.name for each in profile.conditions] == ["clean", "mask", "res16"]
    assert (profile.provenance.licence, profile.provenance.training) == (
        "MIT",
        "not stated by whoever made this profile",
    )
    assert "six │ 6      │ 19     │ 1" in result.stdout
    assert "s1/4.pgm: no face found" in result.stdout
    cut = Aligner(ARCFACE).chip(orl_image(9, 1))[None]
    cosine = load_recogniser(model).embed(cut)[0] @ shipped().embed(cut)[0]
    assert cosine > 0.9999


def test_the_profile_that_comes_along_is_not_overwritten(folder):
    result = CliRunner().invoke(cli.app, ["models", "profile", "mobilefacenet", "--faces", str(folder)])
    assert (result.exit_code, "name the --output" in result.output) == (2, True)


def test_a_model_that_is_none_leaves_no_profile(folder, tmp_path):
    model = tmp_path / "own.onnx"
    model.write_bytes(b"no model")
    result = CliRunner().invoke(cli.app, ["models", "profile", str(model), "--faces", str(folder)])
    assert (result.exit_code, "cannot load" in result.output) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["own.onnx"]


def test_every_set_is_judged_by_a_profile_without_it(folder, tmp_path, wide):
    other = tmp_path / "other"
    for person in range(7, 13):
        (other / f"s{person}").mkdir(parents=True)
        for number in range(1, 4):
            (other / f"s{person}" / f"{number}.pgm").write_bytes(orl_image(person, number))
    output, arguments = tmp_path / "two.profile.json", ["models", "profile", "mobilefacenet", "--output"]
    sets = ["--faces", str(folder), "--faces", str(other), "--terms", "as they are", "--terms", "as those"]
    result = CliRunner().invoke(cli.app, [*arguments, str(output), *sets], env=wide)
    assert result.exit_code == 0, result.output
    names = ("two", "two-without-six", "two-without-other")
    both, without_six, without_other = (
        RecogniserProfile.from_bytes((tmp_path / f"{name}.profile.json").read_bytes()) for name in names
    )
    assert [(each.name, each.people, each.terms) for each in both.sets] == [
        ("other", 6, "as those"),
        ("six", 6, "as they are"),
    ]
    assert [each.name for each in without_six.sets] == ["other"]
    assert [each.name for each in without_other.sets] == ["six"]
    assert all(known.digest in " ".join(result.stdout.split()) for known in (both, without_six, without_other))
    assert "to judge six" in result.stdout
    # A set's own profile does not depend on it: measured alone, the other one makes the same.
    alone = tmp_path / "alone.profile.json"
    result = CliRunner().invoke(
        cli.app, [*arguments, str(alone), "--faces", str(other), "--terms", "as those"], env=wide
    )
    assert result.exit_code == 0, result.output
    measured_alone = RecogniserProfile.from_bytes(alone.read_bytes())
    assert measured_alone.sets == without_six.sets
    norms = ([each.mean_norm for each in known.conditions] for known in (measured_alone, without_six))
    assert next(norms) == pytest.approx(next(norms), rel=1e-4)  # networks round by what else is in a batch


def test_terms_are_those_of_each_set(folder, tmp_path):
    arguments = ["models", "profile", "mobilefacenet", "--output", str(tmp_path / "p"), "--faces", str(folder)]
    result = CliRunner().invoke(cli.app, [*arguments, "--terms", "one", "--terms", "two"])
    assert (result.exit_code, "the --terms of each of the 1 sets" in " ".join(result.output.split())) == (2, True)
    result = CliRunner().invoke(cli.app, [*arguments, "--faces", str(folder)])
    assert (result.exit_code, "two folders have one name" in " ".join(result.output.split())) == (2, True)
    assert not (tmp_path / "p").exists()


def test_sets_that_share_a_picture_are_not_measured(folder, tmp_path):
    (tmp_path / "again/anna").mkdir(parents=True)
    Image.open(folder / "s2/3.pgm").save(tmp_path / "again/anna/x.png")
    arguments = ["models", "profile", "mobilefacenet", "--output", str(tmp_path / "p"), "--faces", str(folder)]
    result = CliRunner().invoke(cli.app, [*arguments, "--faces", str(tmp_path / "again")])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "x.png is the same picture as" in said
    assert "s2/3.pgm: sets of faces share nobody" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_a_picture_that_is_there_twice_counts_once(tmp_path):
    for name, number in (("anna/1", 1), ("anna/2", 2), ("anna/3", 1), ("bert/1", 2), ("bert/2", 3)):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / f"{name}.pgm").write_bytes(orl_image(5, number))
    faces = measuring.faces_of([tmp_path / "set"], FaceFinder(), lambda _done, _all: None)
    assert [face.path.relative_to(tmp_path / "set").as_posix() for face in faces.faces] == [
        "anna/1.pgm", "anna/2.pgm", "bert/2.pgm",
    ]  # fmt: skip
    assert [str(problem.path)[-10:] for problem in faces.problems] == ["anna/3.pgm", "bert/1.pgm"]
    assert [problem.problem[-10:] for problem in faces.problems] == ["anna/1.pgm", "anna/2.pgm"]
    assert (faces.images, faces.found, faces.people) == ((5,), (3,), (2,))


def test_folders_without_a_face_are_refused(tmp_path):
    (tmp_path / "set/anna").mkdir(parents=True)
    (tmp_path / "set/anna/1.pgm").write_bytes(b"P5 92 112 255\n" + bytes(92 * 112))
    result = CliRunner().invoke(
        cli.app,
        ["models", "profile", "mobilefacenet", "--faces", str(tmp_path / "set"), "--output", str(tmp_path / "p")],
    )
    assert (result.exit_code, "no face was found" in result.output) == (2, True)
    assert not (tmp_path / "p").exists()


def test_the_profiles_that_come_along_are_of_people_who_may_be_in_them():
    people = {"canada": 40, "london": 102, "orl": 40}
    assert tuple(people) == SHIPPED_SETS
    for without in ("", *SHIPPED_SETS):
        profile = shipped_profile(without)
        known = {name: count for name, count in people.items() if name != without}
        assert {faces.name: faces.people for faces in profile.sets} == known
        assert all(faces.terms for faces in profile.sets)
        assert "without their consent" in profile.provenance.training
        assert [each.name for each in profile.conditions] == ["clean", "mask", "res16"]
        assert profile.directions == 58
        assert len(profile.to_bytes()) < 200_000
        for each in profile.conditions:
            assert (each.people, each.prior.people, each.prior.sets) == (sum(known.values()),) * 2 + (len(known),)
    assert "10.6084/m9.figshare.5047666" in next(f.terms for f in shipped_profile().sets if f.name == "london")
    assert shipped().profile == shipped_profile()
    assert len({shipped_profile(without).digest for without in ("", *SHIPPED_SETS)}) == 4
    with pytest.raises(UsageError, match="leave out canada, london, orl, not yale"):
        shipped_profile("yale")


@pytest.mark.parametrize("without", ["", *SHIPPED_SETS])
@pytest.mark.parametrize("condition", ["clean", "mask", "res16"])
def test_a_threshold_can_be_set_with_every_profile_that_comes_along(without, condition):
    images = {"references": 2, "frames": 2, "observed": None, "members": 24, "coupling": 0.9}
    thresholds = [
        choose_threshold(shipped_profile(without), condition, weight=weight, fmr=fmr, **images)
        for weight in (0, 0.8)
        for fmr in (0.001, 0.01)
    ]
    assert all(200 < each.bits < 420 for each in thresholds)
    assert thresholds[0].bits < thresholds[1].bits < thresholds[3].bits
    assert all(each.fmr_low < each.fmr_high < 0.1 for each in thresholds)


# -------------------------------------------------------------------------------------------------------------- cache
def test_what_was_measured_before_is_remembered(folder, tmp_path):
    looks = 0

    class Finder:
        version = "1"

        def landmarks(self, rgb):
            nonlocal looks
            looks += 1
            height, width = rgb.shape[:2]
            return np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.6], [0.5, 0.75]]) * [width, height]

    seen = []

    def embed(cuts):
        seen.append(len(cuts))
        flat = cuts.reshape(len(cuts), -1)[:, :: cuts[0].size // 192][:, :192].astype(np.float32) + 1
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def run(bare, cache, version="1"):
        nonlocal looks
        looks = 0
        seen.clear()
        finder = Finder()
        finder.version = version
        faces = measuring.faces_of([folder], finder, lambda _done, _all: None, cache)
        return measure(faces, bare, embed, cache), looks, sum(seen)

    cache, bare = tmp_path / "cache", bare_profile()
    first, looked, embedded = run(bare, cache)
    assert (looked, embedded) == (19, 3 * 19)
    again, looked, embedded = run(bare, cache)
    assert (looked, embedded) == (0, 0)
    for name, rows in first.embeddings.items():
        np.testing.assert_array_equal(again.embeddings[name], rows)
    assert not np.array_equal(first.embeddings["clean"], first.embeddings["mask"])
    uncached, *_ = run(bare, None)
    for name, rows in uncached.embeddings.items():
        np.testing.assert_array_equal(first.embeddings[name], rows)
    other = replace(bare, weights_digest=hashlib.sha256(b"others").hexdigest())
    assert run(other, cache)[1:] == (0, 3 * 19)
    assert run(bare, cache, version="2")[1] == 19
    assert cache.stat().st_mode & 0o077 == 0
