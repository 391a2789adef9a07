"""The bench of preparing: its pictures, its stand-ins, and what it says of a program that it killed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.faces.degradation import Condition
from client.faces.finding import aligner_for
from client.faces.images import UnusableImageError, read_image
from client.faces.models import load_recogniser
from client.node.preparing import prepare
from client.preparing.parts import Recipe, Workshop
from examples.preparing_bench import Way, digest_of, many_images, measured, organisation
from examples.preparing_stand_ins import SaidAligner, write_recogniser
from examples.usage import Meter
from federation.recognition import foreign
from tests.faces import aligner, orl_image


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Pictures of two people with two originals each, for twelve a person, and what stands in for a recogniser."""
    root = tmp_path_factory.mktemp("bench")
    for person in (2, 5):
        (root / "originals" / f"s{person}").mkdir(parents=True)
        for number in (1, 2):
            (root / "originals" / f"s{person}" / f"{number}.pgm").write_bytes(orl_image(person, number))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("examples.preparing_bench._EACH", 12)
        many_images(root / "originals", root / "images", 72, with_landmarks=True)
    write_recogniser(root / "stand-in.onnx")
    return root


@pytest.fixture(scope="module")
def recogniser(few):
    return load_recogniser(few / "stand-in.onnx")


@pytest.fixture
def threads(monkeypatch):
    """Of each model of one's own that is loaded; 0 for as many as there are cores."""
    session, found = foreign._session, []

    def counting(*arguments, **options):
        made = session(*arguments, **options)
        found.append(made.get_session_options().intra_op_num_threads)
        return made

    monkeypatch.setattr(foreign, "_session", counting)
    return found


def pictures(root):
    return sorted((root / "images").glob("*/*.jpg"))


def test_no_two_pictures_are_alike_and_each_says_where_its_face_is(few, recogniser):
    found = pictures(few)
    assert len({path.read_bytes() for path in found}) == 72
    assert len({path.parent for path in found}) == 2 * 3  # twelve of each of two people, and then of the next two
    sizes = {read_image(path.read_bytes()).shape: path for path in found}
    assert len(sizes) == 3
    for path in sizes.values():
        said, seen = (each.chip(path.read_bytes()).astype(int) for each in (SaidAligner(recogniser), aligner()))
        assert np.abs(said - seen).mean() < 6  # the detector saw another picture of the same face


def test_a_stand_in_refuses_pictures_of_others(few, recogniser):
    silent = io.BytesIO()
    Image.open(pictures(few)[0]).save(silent, format="JPEG", comment=b"")
    with pytest.raises(UnusableImageError, match="no comment: use pictures that the bench made"):
        SaidAligner(recogniser).chip(silent.getvalue())


def test_a_worker_takes_one_thread_for_a_model_of_ones_own_and_others_take_all(few, recogniser, threads):
    model = few / "stand-in.onnx"
    Workshop(Recipe(recogniser.digest, aligner_for(recogniser).version, None, 0, model))
    load_recogniser(model)
    assert threads == [1, 0]


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads Linux's /proc")
def test_two_processes_that_are_killed_are_measured_to_their_end_and_make_what_one_makes(
    few, recogniser, threads, tmp_path
):
    model, whole = few / "stand-in.onnx", organisation(tmp_path / "whole")
    finder = SaidAligner(recogniser)
    done = prepare(few / "images", whole, condition=Condition.MASK, model=model, aligner=finder)
    assert (done.images, threads) == (72, [1])
    killed = organisation(tmp_path / "killed")
    with Meter() as meter:
        found = measured(meter, few / "images", killed, Way("killed", processes=2, kills=1, model=str(model)))
    assert 36 <= found.resumed < 72
    assert (found.used, found.digest) == (72, digest_of(whole))
    assert found.size == (whole / "embeddings.npz").stat().st_size
    assert len(found.mebibytes) == 5
    assert max(found.mebibytes) > 50  # a quarter of so few images may be over before anybody looks
    assert found.seconds > 0.1
    assert found.cpu_seconds > 0
