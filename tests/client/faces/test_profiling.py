"""Measuring a recogniser: the right way to feed it is found, and its rates are those of people of one set."""

import hashlib
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from client import cli
from client.faces import measuring
from client.faces.finding import Aligner
from client.faces.measuring import Face, Faces, decidability, measure
from client.faces.models import load_recogniser
from client.faces.profiling import _tried
from federation.errors import UsageError
from federation.learning.evaluation import DetCurve
from federation.recognition.profile import ColourOrder, Layout, RecogniserProfile
from federation.recognition.templates import ARCFACE
from tests.arcface_onnx import exported
from tests.faces import orl_image, shipped


def faces_of(persons, groups, halves=None):
    """Faces whose images nobody opens."""
    halves = halves or [True, False] * (len(persons) // 2)
    rows = zip(persons, groups, halves, strict=True)
    faces = tuple(Face(group, person, early, Path("unread"), np.zeros((4, 2))) for person, group, early in rows)
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
    patched = SimpleNamespace(alignment=ARCFACE, cuts=np.zeros((len(rows), 112, 112, 3), np.uint8))
    object.__setattr__(faces, "cuts", lambda _alignment: patched.cuts)
    return measure(faces, ARCFACE, lambda _cuts: rows)


def test_moments_are_those_of_people_and_not_of_images():
    rows = embeddings()
    means = np.stack([rows[person == PERSONS].mean(axis=0) for person in range(PEOPLE)])
    first = rows[::IMAGES].astype(np.float64) - means.mean(axis=0)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    angles = [math.acos(first[a] @ first[b]) / math.pi for a in range(PEOPLE) for b in range(a)]
    clean = measured().moments[0]
    assert (clean.condition, clean.people) == ("clean", PEOPLE)
    np.testing.assert_allclose(clean.centre, means.mean(axis=0), atol=1e-6)
    assert clean.spread == pytest.approx(np.std(angles), abs=2e-6)


def test_rates_are_exact_and_lie_in_their_intervals():
    rows = embeddings(noise=1.4)
    early = np.tile([True, True, False, False], PEOPLE)
    scores = rows[early].astype(np.float64) @ rows[~early].T
    same = PERSONS[early][:, None] == PERSONS[~early]
    curve = DetCurve.of(scores[same], scores[~same])
    clean = measured(rows=rows).rates[0]
    assert (clean.people, clean.genuine, clean.impostor) == (PEOPLE, 4 * PEOPLE, 4 * PEOPLE * (PEOPLE - 1))
    values = [clean.eer.value, *(each.value for each in clean.tar)]
    assert values == pytest.approx([curve.eer, curve.tar_at(0.01), curve.tar_at(0.001)])
    for each in (clean.eer, *clean.tar):
        assert each.low <= each.value <= each.high
    assert clean.tar[0].low < clean.tar[0].high


def test_a_draw_in_which_everybody_counts_once_gives_the_exact_rates():
    rng = np.random.default_rng(1)
    scores, genuine = rng.normal(size=(20, 20)), np.eye(20, dtype=bool)
    scores += 2 * genuine
    order, level = np.unique(scores, return_inverse=True)
    curve = DetCurve.of(scores[genuine], scores[~genuine])
    eer, *tar = measuring._weighted(level.reshape(20, 20), len(order), genuine, ~genuine, np.ones((20, 20)))
    assert tar == pytest.approx([curve.tar_at(0.01), curve.tar_at(0.001)])
    assert eer == pytest.approx(curve.eer, abs=0.05)


def test_people_of_two_sets_are_never_compared():
    groups = [int(person >= PEOPLE // 2) for person in PERSONS]
    half = PEOPLE // 2
    assert measured(groups).rates[0].impostor == 2 * 4 * half * (half - 1)
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


@pytest.mark.parametrize(("layout", "batch"), [("nchw", "n"), ("nhwc", 2)])
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
    assert [each.condition for each in profile.moments] == ["clean", "mask", "res16"]
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


def test_folders_without_a_face_are_refused(tmp_path):
    (tmp_path / "set/anna").mkdir(parents=True)
    (tmp_path / "set/anna/1.pgm").write_bytes(b"P5 92 112 255\n" + bytes(92 * 112))
    result = CliRunner().invoke(
        cli.app,
        ["models", "profile", "mobilefacenet", "--faces", str(tmp_path / "set"), "--output", str(tmp_path / "p")],
    )
    assert (result.exit_code, "no face was found" in result.output) == (2, True)
    assert not (tmp_path / "p").exists()


def test_the_profile_that_comes_along_is_of_people_who_agreed_to_it():
    profile = shipped().profile
    assert [(faces.name, faces.people) for faces in profile.sets] == [("london", 102)]
    assert "CC BY 4.0" in profile.sets[0].terms
    assert "without their consent" in profile.provenance.training
    assert [moments.condition for moments in profile.moments] == ["clean", "mask", "res16"]
