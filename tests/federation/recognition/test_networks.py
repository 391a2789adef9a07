"""Our layers against other people's: TensorFlow Lite and TensorFlow.js gave the numbers, SciPy and torch the layers."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from client.faces.models import BLAZEFACE, MOBILEFACENET
from federation.errors import UsageError
from federation.recognition import blazeface, layers
from federation.recognition.blazeface import BlazeFace
from federation.recognition.layers import convolution, depthwise, halved_by_largest, prelu
from federation.recognition.mobilefacenet import MobileFaceNet
from tests.faces import shipped

VECTORS = Path(__file__).parents[2] / "vectors/recognition"


@cache
def mobilefacenet():
    return MobileFaceNet.of_file(MOBILEFACENET.read_bytes())


def blazeface_files():
    return [(BLAZEFACE / f"blazeface.{end}").read_bytes() for end in ("bin", "json")]


@cache
def detector():
    return BlazeFace(*blazeface_files())


def pattern(rows, columns=None):
    """An image that shows nobody: (rows, columns, 3) uint8."""
    y, x = np.mgrid[:rows, : columns or rows]
    channels = [(3 * x + y) % 256, (x * y // 7) % 256, (255 - 2 * y + x // 3) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def images():
    noise = np.random.default_rng(5).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    return (np.stack([pattern(112), noise]).astype(np.float32) - 127.5) / 128


def test_embeddings_are_those_of_tensorflow_lite():
    expected = np.array(json.loads((VECTORS / "mobilefacenet.json").read_bytes())["embeddings"])
    ours = mobilefacenet().forward(images())
    assert ours.shape == (2, 192)
    np.testing.assert_allclose(ours, expected, atol=1e-4)  # of numbers up to 8


def test_an_embedding_does_not_depend_on_its_batch():
    alone = np.concatenate([mobilefacenet().forward(image[None]) for image in images()])
    np.testing.assert_allclose(alone, mobilefacenet().forward(images()), atol=1e-4)


def test_the_detectors_numbers_are_those_of_tensorflow_js():
    expected = json.loads((VECTORS / "blazeface.json").read_bytes())
    logits, distances = detector()._forward(pattern(256)[None].astype(np.float32) / np.float32(127.5) - 1)
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-3)  # of numbers up to 190
    np.testing.assert_allclose(distances[expected["rows"]], expected["distances"], atol=2e-3)


def test_weights_of_something_else_are_refused():
    weights, manifest = blazeface_files()
    for broken in ((weights[:-1], manifest), (weights, manifest + b" "), (b"", b"{}")):
        with pytest.raises(UsageError, match="not the weights of BlazeFace"):
            BlazeFace(*broken)
    for broken in (MOBILEFACENET.read_bytes()[:-1], b""):
        with pytest.raises(UsageError, match="not the weights of MobileFaceNet"):
            MobileFaceNet.of_file(broken)


def test_no_face_is_found_where_there_is_none():
    assert detector().detect(pattern(256)) == []
    assert detector().detect(np.full((256, 256, 3), 128, np.uint8)) == []


def test_places_that_mean_one_face_are_averaged_by_how_sure_they_are():
    boxes = np.array([[0.0, 0, 100, 100], [10, 0, 110, 100], [200, 200, 240, 240]])
    landmarks = np.array([np.full((6, 2), 1.0), np.full((6, 2), 4.0), np.full((6, 2), 9.0)])
    one, other = blazeface._merged(np.array([0.8, 0.4, 0.6]), boxes, landmarks)
    np.testing.assert_allclose(one.box, [10 / 3, 0, 310 / 3, 100])
    np.testing.assert_allclose(one.landmarks, 2)
    assert (one.score, other.score) == (0.8, 0.6)
    assert "80" not in repr(one)


def test_a_face_lies_where_its_place_and_the_numbers_say_and_the_surest_comes_first(monkeypatch):
    """By hand: place 2 is in the second cell of the first row of 16, place 512 + 6 x 9 in the second row of 8."""
    logits, distances = np.full(896, -9.0, np.float32), np.zeros((896, 16), np.float32)
    seen, places = [], {2: (24.0, 8.0), 512 + 6 * 9: (48.0, 48.0), 511: (248.0, 248.0)}
    for row, logit, moved, size in (
        (2, 0.0, (1, 2), (6, 10)),
        (566, 1.0, (3, -4), (8, 4)),
        (511, -1e-4, (0, 0), (2, 2)),
    ):
        logits[row] = logit
        distances[row] = [*moved, *size, *(10 * part + axis for part in range(6) for axis in (1, 2))]
    monkeypatch.setattr(detector(), "_forward", lambda x: seen.append(x) or (logits, distances))
    square = np.zeros((256, 256, 3), np.uint8)
    square[0, 0] = 0, 51, 255
    first, second = detector().detect(square)  # a score of one half is enough, and a little less is not
    assert (first.score, second.score) == (pytest.approx(1 / (1 + np.exp(-1))), 0.5)
    assert first.box.tolist() == [47.0, 42.0, 55.0, 46.0]
    assert second.box.tolist() == [22.0, 5.0, 28.0, 15.0]
    for face, (x, y) in ((first, places[566]), (second, places[2])):
        assert face.landmarks.tolist() == [[x + 10 * part + 1, y + 10 * part + 2] for part in range(6)]
    assert [face.score for face in detector().detect(square, sure=0.51)] == [first.score]
    assert len(detector().detect(square, sure=0.49)) == 3
    (fed, *_) = seen
    assert (fed.shape, fed.dtype) == ((1, 256, 256, 3), np.float32)
    assert fed[0, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])


@pytest.mark.parametrize(
    ("box", "shared"),
    [
        ([0, 0, 10, 10], 1.0),
        ([5, 0, 15, 10], 1 / 3),
        ([0, 8, 10, 18], 1 / 9),
        ([10, 0, 20, 10], 0.0),
        ([20, 20, 30, 30], 0.0),
        ([2, 3, 6, 8], 0.2),
        ([4, 4, 4, 4], 0.0),
        ([9, 9, 1, 1], 0.0),
    ],
    ids=str,
)
def test_two_boxes_share_their_common_area_of_that_of_both(box, shared):
    one, other = np.array([0.0, 0, 10, 10]), np.array(box, float)
    assert blazeface._overlaps(one, np.stack([one, other])).tolist() == [1.0, pytest.approx(shared)]


def test_places_that_share_no_more_than_three_tenths_are_two_faces():
    """A box of 10 by 10, and one that shares 47 of 153: more. One that shares 46 of 154: less."""
    for beside, faces in ((5.3, 1), (5.4, 2)):
        boxes = np.array([[0.0, 0, 10, 10], [beside, 0, beside + 10, 10]])
        assert len(blazeface._merged(np.array([0.9, 0.8]), boxes, np.zeros((2, 6, 2)))) == faces
    nowhere = np.array([[5.0, 5, 5, 5], [5, 5, 5, 5]])  # without an area nothing is shared, not even with itself
    assert len(blazeface._merged(np.array([0.9, 0.8]), nowhere, np.zeros((2, 6, 2)))) == 2


def same_padding(x, side, stride):
    """What PyTorch needs to be told: (left, right, top, bottom)."""
    sizes = []
    for length in (x.shape[2], x.shape[1]):
        total = max((-(-length // stride) - 1) * stride + side - length, 0)
        sizes += [total // 2, total - total // 2]
    return sizes


@settings(max_examples=30, deadline=None)
@given(
    side=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    rows=st.integers(5, 9),
    columns=st.integers(5, 9),
    seed=st.integers(0, 99),
)
def test_convolutions_are_those_of_torch(side, stride, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, rows, columns, 3)).astype(np.float32)
    weights, alone = (rng.normal(size=shape).astype(np.float32) for shape in ((side, side, 3, 4), (side, side, 3)))
    bias = rng.normal(size=4).astype(np.float32)
    around = torch.nn.functional.pad(torch.from_numpy(x).permute(0, 3, 1, 2), same_padding(x, side, stride))
    for ours, kernel, last, groups in (
        (convolution(x, weights, bias, stride=stride), weights.transpose(3, 2, 0, 1), bias, 1),
        (depthwise(x, alone, bias[:3], stride=stride), alone.transpose(2, 0, 1)[:, None], bias[:3], 3),
    ):
        theirs = torch.nn.functional.conv2d(
            around, torch.from_numpy(kernel.copy()), torch.from_numpy(last.copy()), stride=stride, groups=groups
        )
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-5)
        assert ours.dtype == np.float32


def test_the_numbers_of_channels_alone_are_these_to_the_bit():
    """Elementwise and in one order, so on every processor; however many are worked on at once."""
    digest = hashlib.sha256()
    for size, channels, stride in ((128, 24, 1), (64, 24, 2), (7, 512, 1), (33, 3, 2)):
        x = pattern(size, size * channels)[..., 0].reshape(size, size, channels).astype(np.float32) / 7
        kernel = pattern(3, 3 * channels)[..., 2].reshape(3, 3, channels).astype(np.float32) / 3
        digest.update(depthwise(np.stack([x, 1 - x]), kernel, kernel[0, 0], stride=stride).tobytes())
    assert digest.hexdigest() == "71dea25b9fcf0bf23d259d7ab6b8b752d8fcae51c52b90163a8846e5410050cf"


def test_rectifier_and_pooling_do_what_they_say():
    x = np.array([[-2, 3], [4, -8]], np.float32).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(prelu(x, np.array([0.5], np.float32)).ravel(), [-1, 3, 4, -4])
    np.testing.assert_array_equal(halved_by_largest(x).ravel(), [4])


@pytest.mark.parametrize("work", ["find", "embed"])
def test_networks_run_on_one_thread_and_leave_others_theirs(monkeypatch, work):
    """Small products on several threads take many times the processor time where the machine is busy."""
    everything = ThreadpoolController()
    # Others that were loaded since (SciPy brings one of its own) do no work here.
    numpys = [library["filepath"] for library in everything.info() if "numpy" in library["filepath"]]
    libraries = everything.select(filepath=numpys) if numpys else everything
    with libraries.limit(limits=2, user_api="blas"):

        def threads():
            return {library["num_threads"] for library in libraries.info() if library["user_api"] == "blas"}

        seen = []
        layer = layers.convolution
        counting = lambda *a, **k: (seen.append(threads()), layer(*a, **k))[1]  # noqa: E731 - short
        module = "blazeface" if work == "find" else "mobilefacenet"
        monkeypatch.setattr(f"federation.recognition.{module}.convolution", counting)
        if work == "find":
            BlazeFace(*blazeface_files()).detect(np.zeros((256, 256, 3), np.uint8))
        else:
            shipped().embed(np.zeros((1, 112, 112, 3), np.uint8))
        assert seen
        assert set().union(*seen) == {1}
        assert threads() == {2}
